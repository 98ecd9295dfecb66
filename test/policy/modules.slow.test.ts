// time limit: 1200 s
// The random flows past modules of modules.test.ts, a million of them.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { compareSeeds } from '../support/policy-pool.ts';

const SEED = 20261123;
const CLUSTERS = 250;
const FLOWS = 4_000;

test('core and twin agree on a million random flows past modules', async () => {
  const { seeds, flows, denied, differences } =
    await compareSeeds('modules', SEED, CLUSTERS, { flows: FLOWS, steps: 0 });
  console.log(`seeds ${SEED} to ${SEED + CLUSTERS - 1}: ${flows} flows, ${denied} denied, `
    + `${differences.length} differences`);
  assert.equal(differences, []);
  assert.is(seeds, CLUSTERS);
  assert.is(flows, CLUSTERS * FLOWS);
  assert.ok(denied > flows / 4 && denied < flows * 0.9, 'flows of both kinds');
});

test.run();
