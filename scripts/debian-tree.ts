// A tree of Debian with systemd, as an archive: what a node's disk has on it before anything of
// ours. It is made once, of Debian's packages, and kept in .tools/debian/.

import { execFileSync } from 'node:child_process';
import { existsSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { findTool, toolReason } from './tools.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const TREE = join(ROOT, '.tools', 'debian', 'debian-tree.tar');
const PACKAGES = ['systemd', 'systemd-sysv', 'dbus', 'iproute2', 'libatomic1'];
const RELEASE = 'bookworm';
const LIMIT_MS = 300_000;

/** The archive, made where it is missing. Throws with the reason where it cannot be. */
export function debianTree(): string {
  if (existsSync(TREE)) return TREE;
  const mmdebstrap = findTool('mmdebstrap');
  if (mmdebstrap === null) throw new Error(toolReason('mmdebstrap'));
  const part = `${TREE}.${process.pid}.tar`;
  try {
    execFileSync(mmdebstrap, [
      '--mode=root', '--variant=minbase', '--quiet', '--aptopt=APT::Sandbox::User "root"',
      `--include=${PACKAGES.join(',')}`, RELEASE, part,
    ], { stdio: ['ignore', 'ignore', 'pipe'], timeout: LIMIT_MS });
    renameSync(part, TREE);
  } finally {
    rmSync(part, { force: true });
  }
  return TREE;
}
