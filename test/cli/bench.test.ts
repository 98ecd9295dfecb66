// `culvert bench` as a user types it. What the benches measure is test/bench's.

import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { Report } from '../../bench/report.ts';
import { culvert } from '../support/command.ts';

const folder = mkdtempSync(join(tmpdir(), `culvert-bench-${process.pid}-`));
const SHORT = ['bench', 'micro', '--filter', 'lpm', '--duration', '0.01'];

test('-o json prints the report and nothing else', async () => {
  const { code, stdout, stderr } = await culvert([...SHORT, '-o', 'json']);
  assert.is(code, 0);
  const report = JSON.parse(stdout) as Report;
  assert.equal(Object.keys(report), ['machine', 'results', 'ratios']);
  const names = report.results.map(({ name }) => name);
  assert.ok(names.includes('lpm4') && names.includes('lpm6'), names.join());
  assert.ok(names.every((name) => name.startsWith('lpm')), names.join());
  assert.is(stdout.trim().split('\n').length, 1);
  assert.match(stderr, /round 9 of 9/);
});

test('a table for people', async () => {
  const { code, stdout } = await culvert(SHORT);
  assert.is(code, 0);
  assert.match(stdout, /^BENCHMARK +NS\/OP +OPS +HASH$/m);
  assert.match(stdout, /^lpm4 +\d+\.\d\d +\d+ +[0-9a-f]{8}$/m);
});

test('help has examples; what is wrong is said', async () => {
  const help = await culvert(['bench', 'micro', '--help']);
  assert.is(help.code, 0);
  assert.match(help.stdout, /culvert bench micro -o json --filter policy/);
  const unknown = await culvert(['bench', 'micro', '--filter', 'nothing']);
  assert.is(unknown.code, 2);
  assert.match(unknown.stderr, /--filter nothing names no bench; there are route, flow, /);
  assert.is((await culvert(['bench', 'micro', '--duration', 'long'])).code, 2);
});

test('a plot without its bench is an error, and no file', async () => {
  const file = join(folder, 'plot.svg');
  const { code, stderr } = await culvert([...SHORT, '--plot', file]);
  assert.is(code, 1);
  assert.match(stderr, /no bench of policies was run/);
  assert.not.ok(existsSync(file));
});

test.after(() => rmSync(folder, { recursive: true, force: true }));

test.run();
