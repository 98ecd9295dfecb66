// time limit: 3600 s
// What may differ on another processor, by the tests of those parts: structures and numbers of the
// kernel, memory that threads and processes share, and WebAssembly, whose packets must come out
// byte by byte as they do here.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { join } from 'node:path';
import { Command } from '../support/command.ts';
import { testNeeding } from '../support/needs.ts';
import { ROOT } from '../support/source.ts';
import { bringMachine } from './support/machine.ts';

const test = suite('arm/parts');
const LIMIT_MS = 600_000;
/** Those of ffi/netlink are not among them: qemu-user has no SIOCETHTOOL. */
const PARTS = [
  'ffi/address', 'ffi/epoll', 'ffi/file', 'ffi/message-vector', 'ffi/netns', 'ffi/poll',
  'ffi/raw-socket', 'ffi/rights', 'ffi/socket', 'ffi/tun', 'golden/golden', 'golden/super-packets',
  'platform/memfd', 'platform/shared-memory', 'platform/threads', 'platform/tun',
];

for (const name of ['arm64', 'armv7'] as const) {
  const machine = await bringMachine(name);
  const reason = typeof machine === 'string' ? machine : null;
  const node = typeof machine === 'string' ? '' : machine.node;
  for (const part of PARTS) {
    testNeeding('tun', test, `${name}: ${part}`, async () => {
      const file = join(ROOT, 'dist', 'test', `${part}.test.js`);
      const { code, stdout, stderr } = await new Command([node, file], {}, LIMIT_MS).ended;
      assert.is(code, 0, `${stdout}${stderr}`);
      assert.not.match(stdout, /^SKIP/m);
    }, reason);
  }
}

test.run();
