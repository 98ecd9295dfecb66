// time limit: 120 s
// Pods change for minutes while watches are cut at random: at the end the host has what a fresh
// reading gives, the cuts cost watches and no lists, and memory does not grow.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { runChurn } from '../../support/api-server/churn-run.ts';

const test = suite('churn');
const CHANGES = 12_000;
const PER_SECOND = 1500;
const CUT_EVERY = 500;
const GROWTH_LIMIT_BYTES = 16 * 1024 * 1024;

test(`${CHANGES} changes of pods with watches that are cut`, async () => {
  const { cuts, relists, changes, settledMs, heapBytes: [early, late] } =
    await runChurn(CHANGES, PER_SECOND, CUT_EVERY);
  console.log(`\n${cuts} cuts, ${relists} lists anew, ${changes} changes told, `
    + `right after ${settledMs.toFixed(0)} ms, heap ${((late - early) / 2 ** 20).toFixed(1)} MiB `
    + 'more');
  assert.ok(cuts > 0);
  assert.is(relists, 0, 'a cut watch goes on where it was');
  assert.ok(late - early < GROWTH_LIMIT_BYTES);
});

test.run();
