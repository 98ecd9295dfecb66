// How the test runner reads what a test file printed.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type FileRun, addUp, describe, judge, timeLimitMs } from '../../scripts/test-report.ts';

function run(output: string, change: Partial<FileRun> = {}): FileRun {
  return {
    file: 'test/a.test.ts', output, code: 0, signal: null, seconds: 0.25, timedOut: false,
    limitMs: 300_000, ...change,
  };
}

function summary(total: number, passed: number, skipped: number): string {
  return `• •   (${passed} / ${total})\n\n  Total:     ${total}\n  Passed:    ${passed}\n`
    + `  Skipped:   ${skipped}\n  Duration:  1.00ms\n\n`;
}

test('a passing file is one line', () => {
  const outcome = judge(run(summary(3, 3, 1)));
  assert.equal([outcome.passed, outcome.failed, outcome.skipped], [3, 0, 1]);
  assert.is(describe(outcome), 'ok   test/a.test.ts  3 passed, 1 skipped  0.3 s\n');
});

test('a failing file is shown in full', () => {
  const outcome = judge(run(`why\n${summary(3, 1, 0)}`, { code: 1 }));
  assert.equal([outcome.passed, outcome.failed, outcome.skipped], [1, 2, 0]);
  assert.match(describe(outcome), /^FAIL test\/a\.test\.ts {2}2 failed, 1 passed {2}0\.3 s\n.*why/);
});

test('what the process did wrong counts as a failed test', () => {
  for (const [bad, problem] of [
    [run('', { code: 1 }), /status 1 and no summary/],
    [run('', { code: 0 }), /no summary/],
    [run(summary(0, 0, 0)), /ran no test/],
    [run(summary(2, 2, 0), { code: 3 }), /exit status 3/],
    [run(summary(2, 2, 0), { code: null, signal: 'SIGSEGV' }), /SIGSEGV/],
    [run('', { code: null, signal: 'SIGTERM', timedOut: true }), /silent for 300 s/],
  ] as const) {
    const outcome = judge(bad);
    assert.is(outcome.failed, 1);
    assert.match(outcome.problem ?? '', problem);
  }
});

test('tests that a throwing hook kept from running count as failed', () => {
  const outcome = judge(run(summary(2, 0, 0)));
  assert.is(outcome.failed, 2);
  assert.match(outcome.problem ?? '', /hook/);
});

test('a file that only skips is no failure', () => {
  const outcome = judge(run(`SKIP vxlan: no module\n${summary(0, 0, 1)}`));
  assert.equal([outcome.failed, outcome.skipped, outcome.problem], [0, 1, null]);
  assert.equal(outcome.skips, ['vxlan: no module']);
});

test('sums name every skip, also one without a reason', () => {
  const sum = addUp([
    judge(run(`SKIP vxlan: no module\n${summary(2, 2, 2)}`)),
    judge(run('', { file: 'test/b.test.ts', code: 1 })),
  ]);
  assert.equal([sum.passed, sum.failed, sum.skipped], [2, 1, 2]);
  assert.equal(sum.skips, [
    'test/a.test.ts: 1 without a reason', 'test/a.test.ts: vxlan: no module',
  ]);
  assert.equal(sum.failedFiles, ['test/b.test.ts']);
});

test('a file asks for time in its first line', () => {
  assert.is(timeLimitMs('// time limit: 600 s\nimport'), 600_000);
  assert.is(timeLimitMs('import a;\n// time limit: 600 s\n'), 300_000);
});

test.run();
