// Random flows over random clusters: the core's verdicts, and the policies they name, are the slow
// twin's. Differences name the seed of their cluster; scripts/policy-fuzz.ts repeats it, or goes
// on.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { compareSeeds } from '../support/policy-pool.ts';

const SEED = 20261121;
const CLUSTERS = 250;
const FLOWS = 4_000;

test('core and twin agree on a million random flows', async () => {
  const { seeds, flows, denied, differences } =
    await compareSeeds('clusters', SEED, CLUSTERS, { flows: FLOWS, steps: 0 });
  console.log(`seeds ${SEED} to ${SEED + CLUSTERS - 1}: ${flows} flows, ${denied} denied, `
    + `${differences.length} differences`);
  assert.equal(differences, []);
  assert.is(seeds, CLUSTERS);
  assert.is(flows, CLUSTERS * FLOWS);
  assert.ok(denied > flows / 10 && denied < flows / 2, 'flows of both kinds');
});

test.run();
