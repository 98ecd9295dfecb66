// The tree that packages hold, everything but Node.js: bin/culvert, lib/culvert with the npm
// package and the packages it needs, native parts for one architecture, units of systemd.

import { execFileSync } from 'node:child_process';
import { chmodSync, copyFileSync, cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from
  'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const ROOT = fileURLToPath(new URL('../..', import.meta.url));
export const RECIPE = join(ROOT, 'deploy', 'package');
const UNITS = join(ROOT, 'deploy', 'systemd');
/** npm's words for Debian's architectures. */
export const PROCESSORS: Readonly<Record<string, string>> = {
  amd64: 'x64', arm64: 'arm64', armhf: 'arm',
};
/** Packages that others name and that nothing loads: half of the size. */
const UNUSED = ['binaryen'];
export const MANIFEST = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as {
  version: string; description: string; license: string;
};

/** Files of the recipe, and where they belong below usr/. */
const PLACES: readonly [string, string][] = [
  ['culvert', 'bin/culvert'],
  ['sysusers.conf', 'lib/sysusers.d/culvert.conf'],
  ['modules-load.conf', 'lib/modules-load.d/culvert.conf'],
  ['config.yaml', 'share/doc/culvert/config.yaml'],
];

/** Lays out everything below usr/ for one processor. `work` is a folder for what is left over. */
export function layOut(
  usr: string, work: string, processor: string, version = MANIFEST.version,
): void {
  const library = join(usr, 'lib', 'culvert');
  mkdirSync(library, { recursive: true });
  run('npm', ['pack', '--silent', '--ignore-scripts', '--pack-destination', work], ROOT);
  const packed = join(work, `culvert-net-${MANIFEST.version}.tgz`);
  run('tar', ['-C', library, '--strip-components=1', '-xzf', packed]);
  copyFileSync(join(ROOT, 'package-lock.json'), join(library, 'package-lock.json'));
  run('npm', ['ci', '--silent', '--omit=dev', '--ignore-scripts', '--no-bin-links',
    '--os=linux', `--cpu=${processor}`, '--libc=glibc'], library);
  rmSync(join(library, 'package-lock.json'));
  for (const name of UNUSED) {
    rmSync(join(library, 'node_modules', name), { recursive: true, force: true });
  }
  setVersion(join(library, 'package.json'), version);
  for (const [name, place] of PLACES) put(join(RECIPE, name), join(usr, place));
  chmodSync(join(usr, 'bin', 'culvert'), 0o755);
  for (const name of ['culvert.service', 'culvert-sync.service']) {
    put(join(UNITS, name), join(usr, 'lib', 'systemd', 'system', name));
  }
  cpSync(join(ROOT, 'LICENSE'), join(usr, 'share', 'doc', 'culvert', 'copyright'));
}

function setVersion(path: string, version: string): void {
  const text = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
  writeFileSync(path, `${JSON.stringify({ ...text, version }, null, 2)}\n`);
}

function put(from: string, to: string): void {
  mkdirSync(dirname(to), { recursive: true });
  copyFileSync(from, to);
  chmodSync(to, 0o644);
}

/** Runs a program and gives what it printed. Throws with what it said where it fails. */
export function run(program: string, args: string[], cwd?: string): string {
  return execFileSync(program, args, {
    ...cwd === undefined ? {} : { cwd }, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'],
  });
}
