// Damaged components: each is refused with a kind and a sentence, or is still a module; whoever
// adds them goes on.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { inspectComponent, instantiateModule, ModuleError } from '../../modules/runtime.ts';
import { compileDamaged, damage, fullGuest } from '../support/damage.ts';

const COUNT = 2_000;
const THROUGH_PROCESS = 12;
const OPTIONS = { allow: [], memoryCapBytes: 1024 * 1024 } as const;

test('damaged components are told apart without a fault of ours', async () => {
  const { outcomes, bugs } = await compileDamaged(COUNT);
  console.log(`${COUNT} damaged components:`, Object.fromEntries(outcomes));
  assert.equal(bugs, []);
  assert.is([...outcomes.values()].reduce((sum, count) => sum + count, 0), COUNT);
});

test('damaged components come back from the process that compiles them', async () => {
  const whole = await fullGuest();
  for (let seed = 1; seed <= THROUGH_PROCESS; seed += 1) {
    try {
      instantiateModule(await inspectComponent(damage(whole, seed), OPTIONS), { log: () => {} });
    } catch (error) {
      assert.instance(error, ModuleError, String(error));
    }
  }
});

test.run();
