// 200 times a namespace with a TUN in it is made and destroyed: no descriptor, no interface and
// no namespace is left.
//
//   [ namespace i: lo, cv<pid> ]

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { closeFd } from '../../ffi/file.ts';
import { Links } from '../../ffi/netlink.ts';
import { createNamespace } from '../../ffi/netns.ts';
import { openTun } from '../../ffi/tun.ts';
import { testNeeding } from '../support/needs.ts';

const test = suite('platform/leaks');
const ROUNDS = 200;
const DEVICE = `cv${process.pid}`;

const openDescriptors = (): number => readdirSync('/proc/self/fd').length;

/** Network namespaces the kernel has, or 0 where it does not say. Counted in whole slabs. */
function namespaceCount(): number {
  if (!existsSync('/proc/slabinfo')) return 0;
  const line = /^net_namespace +(\d+)/m.exec(readFileSync('/proc/slabinfo', 'utf8'));
  return Number(line?.[1] ?? 0);
}

async function interfaceNames(): Promise<string[]> {
  const links = new Links();
  const names = (await links.list()).map(({ name }) => name);
  links.close();
  return names;
}

testNeeding('tun', test, `${ROUNDS} namespaces and TUN devices leave nothing behind`, async () => {
  const interfaces = await interfaceNames();
  const namespaces = namespaceCount();
  const descriptors = openDescriptors();
  for (let i = 0; i < ROUNDS; i++) {
    const namespace = createNamespace();
    closeFd(namespace.run(() => openTun({ name: DEVICE, kind: 'tun' })).fd);
    namespace.close();
  }
  assert.is(openDescriptors(), descriptors);
  assert.equal((await interfaceNames()).filter((name) => !interfaces.includes(name)
    && name.startsWith(DEVICE)), []);
  // The kernel destroys namespaces in the background; the machine may be making others.
  assert.ok(namespaceCount() < namespaces + ROUNDS / 2);
});

test.run();
