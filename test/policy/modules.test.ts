// Random flows over random clusters with random policy modules between the admin tier and
// NetworkPolicy: the core's verdicts, and who they say decided, are the slow twin's, of which each
// module is a function. In the core, modules fail now and then instead of refusing.
// modules.slow.test.ts has a million of them.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { compareSeeds } from '../support/policy-pool.ts';

const SEED = 20261123;
const CLUSTERS = 60;
const FLOWS = 4_000;

test(`core and twin agree on ${CLUSTERS * FLOWS} random flows past modules`, async () => {
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
