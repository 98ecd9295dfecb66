// time limit: 1800 s
// The single executable for arm64, made on this machine: it starts, and two nodes of it forward.

import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { Command } from '../support/command.ts';
import { testNeeding } from '../support/needs.ts';
import { ROOT } from '../support/source.ts';
import { checkDemo } from './support/demo.ts';
import { bringMachine, KINDS } from './support/machine.ts';

const test = suite('arm/single');
const LIMIT_MS = 300_000;
const machine = await bringMachine('arm64');
const reason = typeof machine === 'string' ? machine : null;
const folder = mkdtempSync(join(tmpdir(), 'culvert-arm-'));
const program = join(folder, 'culvert');
const env = { XDG_CACHE_HOME: join(folder, 'cache') };

test.before(() => {
  if (typeof machine === 'string') return;
  const made = execFileSync(process.execPath, [
    join(ROOT, 'dist', 'scripts', 'single-executable.js'), '--arch', 'arm64', '--out', folder,
  ], { encoding: 'utf8' }).trim();
  machine.writeStarter(program, made);
});
test.after(() => rmSync(folder, { recursive: true, force: true }));

testNeeding('tun', test, 'it says its version, and that nothing is missing', async () => {
  const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as {
    version: string;
  };
  const run = (...words: string[]): Command => new Command([program, ...words], { env }, LIMIT_MS);
  assert.is((await run('--version').ended).stdout, `${version}\n`);
  const { code, stdout, stderr } = await run('doctor', '-o', 'json').ended;
  assert.is(code, 0, `${stdout}${stderr}`);
}, reason);

testNeeding('tun', test, 'two nodes of it exchange TCP, UDP and ICMP', () =>
  checkDemo('arm64, single', [program], KINDS.arm64.emulator, env), reason);

test.run();
