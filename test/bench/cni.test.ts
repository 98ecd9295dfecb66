// `bench cni`, run with tiny inputs: that everybody attaches pods and that the report is what it
// should be; never how fast anything is.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { runCni } from '../../bench/cni.ts';
import { cniText } from '../../bench/cni/text.ts';
import { needs, printSkip, testNeeding } from '../support/needs.ts';
import { findTool, toolReason } from '../support/tools.ts';

const test = suite('bench/cni');
const ROUNDS = 2;
const ALONE = [
  'add/culvert', 'add/tapped', 'part/start', 'part/greeting', 'part/daemonAdd', 'part/interface',
  'part/daemonReady', 'part/end', 'floor/node', 'floor/move',
];

testNeeding('tun', test, 'two rounds', async () => {
  const hasBridge = findTool('cni-bridge') !== null && needs.bridge;
  if (!hasBridge) printSkip('two rounds: bridge', toolReason('cni-bridge'));
  const report = await runCni({
    rounds: ROUNDS, say: () => {}, stop: new AbortController().signal,
  });
  assert.equal(Object.keys(report.skipped), hasBridge ? [] : ['bridge']);
  assert.equal(report.results.map(({ name }) => name).sort(),
    [...ALONE, ...(hasBridge ? ['add/bridge'] : [])].sort());
  const by = new Map(report.results.map((result) => [result.name, result]));
  for (const { name, ops, nsPerOp } of report.results) {
    assert.is(ops, ROUNDS, name);
    assert.ok(nsPerOp > 0, name);
  }
  assert.is(by.get('add/culvert')?.hash, by.get('add/tapped')?.hash);
  assert.equal(Object.keys(report.ratios),
    hasBridge ? ['add/bridge', 'node/bridge', 'move/bridge'] : []);
  for (const { median, rounds } of Object.values(report.ratios)) {
    assert.is(rounds, ROUNDS);
    assert.ok(median > 0);
  }
  assert.match(cniText(report), /part\/interface +[0-9.]+ ms/);
});

test.run();
