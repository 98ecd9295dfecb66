// Random policy in the core and in its slow twin, by the number of seeds: a part of them in
// `npm test`, many more in the slow tests.

import * as assert from 'uvu/assert';
import { compareSeeds } from '../../support/policy-pool.ts';

const SEED_OF_HISTORIES = 20261122;
const STEPS = 30;
const FLOWS_A_STEP = 60;
const SEED_OF_MODULES = 20261123;
export const FLOWS_PAST_MODULES = 4_000;

/** Fails unless so many histories add up to what a fresh load gives. */
export async function assertHistories(histories: number): Promise<void> {
  const first = SEED_OF_HISTORIES;
  const { seeds, flows, denied, differences } =
    await compareSeeds('histories', first, histories, { flows: FLOWS_A_STEP, steps: STEPS });
  console.log(`seeds ${first} to ${first + histories - 1}: ${histories} histories of ${STEPS} `
    + `steps, ${flows} flows, ${denied} denied, ${differences.length} differences`);
  assert.equal(differences, []);
  assert.is(seeds, histories);
  assert.ok(denied > flows / 10 && denied < flows / 2, 'flows of both kinds');
}

/** Fails unless core and twin agree on FLOWS_PAST_MODULES flows of each of so many clusters. */
export async function assertModules(clusters: number): Promise<void> {
  const first = SEED_OF_MODULES;
  const { seeds, flows, denied, differences } =
    await compareSeeds('modules', first, clusters, { flows: FLOWS_PAST_MODULES, steps: 0 });
  console.log(`seeds ${first} to ${first + clusters - 1}: ${flows} flows, ${denied} denied, `
    + `${differences.length} differences`);
  assert.equal(differences, []);
  assert.is(seeds, clusters);
  assert.is(flows, clusters * FLOWS_PAST_MODULES);
  assert.ok(denied > flows / 4 && denied < flows * 0.9, 'flows of both kinds');
}
