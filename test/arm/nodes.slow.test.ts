// time limit: 3600 s
// Two nodes of the demo on arm64 and on armv7, on this machine's kernel and a real TUN: they
// exchange TCP, UDP and ICMP, both families.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { CLI, Command } from '../support/command.ts';
import { testNeeding } from '../support/needs.ts';
import { checkDemo } from './support/demo.ts';
import { bringMachine, KINDS } from './support/machine.ts';

const test = suite('arm/nodes');
const LIMIT_MS = 180_000;

for (const name of ['arm64', 'armv7'] as const) {
  const machine = await bringMachine(name);
  const reason = typeof machine === 'string' ? machine : null;
  const node = typeof machine === 'string' ? '' : machine.node;

  testNeeding('tun', test, `${name}: doctor finds nothing missing`, async () => {
    const run = (...words: string[]): Command => new Command([node, ...words], {}, LIMIT_MS);
    assert.is((await run('-p', 'process.arch').ended).stdout, `${KINDS[name].processor}\n`);
    const { code, stdout, stderr } = await run(CLI, 'doctor', '-o', 'json').ended;
    assert.is(code, 0, `${stdout}${stderr}`);
  }, reason);

  testNeeding('tun', test, `${name}: two nodes exchange TCP, UDP and ICMP`, () =>
    checkDemo(name, [node, CLI], KINDS[name].emulator), reason);
}

test.run();
