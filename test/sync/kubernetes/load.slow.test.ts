// time limit: 600 s
// As many changes as pods make in two hours at 50 a second, as fast as they can be made, on a
// server in a process of its own, with watches that are cut at random: at the end the host has what
// a fresh reading gives, the cuts have cost watches and no lists, and memory has not grown.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { runLoad } from '../../support/api-server/load-run.ts';

const test = suite('two hours of load');
const CHANGES = 2 * 3600 * 50;
const PER_SECOND = 3000;
const CUT_EVERY = 3000;
const GROWTH_LIMIT_BYTES = 24 * 1024 * 1024;

test(`${CHANGES} changes of pods with watches that are cut`, async () => {
  const { cuts, relists, errors, changes, settledMs, heapBytes: [early, late] } =
    await runLoad(CHANGES, PER_SECOND, CUT_EVERY);
  console.log(`\n${cuts} cuts, ${relists} lists anew, ${changes} changes told, `
    + `right after ${settledMs.toFixed(0)} ms, heap ${((late - early) / 2 ** 20).toFixed(1)} MiB `
    + `more; ${JSON.stringify(errors)}`);
  assert.is(relists, 0, 'a cut watch goes on where it was');
  assert.ok(late - early < GROWTH_LIMIT_BYTES);
});

test.run();
