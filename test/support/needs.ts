// What this machine offers to tests, and how a test that needs more is skipped by name.
//
// A skipped test prints exactly `SKIP <test name>: <reason>`; the test runner counts those lines.

import { constants } from 'node:fs';
import type { Test } from 'uvu';
import { closeFd, openFile } from '../../ffi/file.ts';
import { Links } from '../../ffi/netlink.ts';
import { createNamespace, type Namespace } from '../../ffi/netns.ts';

const REASONS = {
  root: 'root is needed, with CAP_NET_ADMIN and network namespaces',
  tun: 'root and /dev/net/tun are needed',
  vxlan: 'a kernel with vxlan is needed',
  bridge: 'a kernel with bridges is needed',
} as const;

/** Something a test may need of the machine. */
export type Need = keyof typeof REASONS;

/** Which needs this machine meets. `root` includes that network namespaces can be made. */
export const needs: Readonly<Record<Need, boolean>> = await probe();

/** Adds a test to a suite, or skips it with a printed line when the machine lacks the need, or what
 * `missing` says, null for nothing. */
export function testNeeding<T>(
  need: Need, suite: Test<T>, name: string, fn: TestBody<T>, missing: string | null = null,
): void {
  const reason = missing ?? (needs[need] ? null : REASONS[need]);
  if (reason === null) {
    suite(name, fn);
    return;
  }
  suite.skip(name, fn);
  printSkip(name, reason);
}

/** Prints the line that counts as one skipped test. */
export function printSkip(name: string, reason: string): void {
  console.log(`SKIP ${name}: ${reason}`);
}

type TestBody<T> = Parameters<Test<T>>[1];

async function probe(): Promise<Record<Need, boolean>> {
  const found = { root: false, tun: false, vxlan: false, bridge: false };
  const namespace = tryNamespace();
  if (namespace === null) return found;
  const links = namespace.run(() => new Links());
  found.root = true;
  found.tun = canOpen('/dev/net/tun');
  found.bridge = await succeeds(links.addBridge('needs'));
  found.vxlan = await succeeds(links.addVxlan({
    name: 'needs.1', vni: 1, port: 8472, local: '127.0.0.1', mtu: 1450, mac: '02:00:00:00:00:01',
  }));
  links.close();
  namespace.close();
  return found;
}

function tryNamespace(): Namespace | null {
  try {
    return createNamespace();
  } catch {
    return null;
  }
}

function canOpen(path: string): boolean {
  try {
    closeFd(openFile(path, constants.O_RDWR));
    return true;
  } catch {
    return false;
  }
}

function succeeds(promise: Promise<void>): Promise<boolean> {
  return promise.then(() => true, () => false);
}
