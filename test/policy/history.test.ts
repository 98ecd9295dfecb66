// Random histories: events come as they happened, twice, in another order, or one of them is lost
// before everything is listed anew. After every step the core, which is told of changes only,
// answers as the slow twin does, and what it has been told means the same as a fresh load.
// history.slow.test.ts has many more.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { compareSeeds } from '../support/policy-pool.ts';

const SEED = 20261122;
const HISTORIES = 80;
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
