// time limit: 1200 s
// The random histories of history.test.ts, many more of them.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { compareSeeds } from '../support/policy-pool.ts';

const SEED = 20261122;
const HISTORIES = 400;
const STEPS = 30;
const FLOWS = 60;

test('changes add up to what a fresh load gives', async () => {
  const { seeds, flows, denied, differences } =
    await compareSeeds('histories', SEED, HISTORIES, { flows: FLOWS, steps: STEPS });
  console.log(`seeds ${SEED} to ${SEED + HISTORIES - 1}: ${HISTORIES} histories of ${STEPS} steps, `
    + `${flows} flows, ${denied} denied, ${differences.length} differences`);
  assert.equal(differences, []);
  assert.is(seeds, HISTORIES);
  assert.ok(denied > flows / 10 && denied < flows / 2, 'flows of both kinds');
});

test.run();
