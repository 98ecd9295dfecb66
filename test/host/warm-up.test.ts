// The warm-up: what it sends is what a core takes, so that every way through it is walked.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { COALESCE_TCP, COALESCE_UDP } from '../../wasm/abi/layout.ts';
import { readDrops, readEvents } from '../../engine/counters.ts';
import type { Offloads } from '../../engine/tables/device.ts';
import { exchangeSamples, warmUp } from '../../host/warm-up.ts';
import { coreModule } from '../support/core.ts';
import { PATIENCE_MS } from '../support/until.ts';

const test = suite('host/warm-up');
const TIERS: Record<string, Offloads> = {
  T0: { vnetSize: 0, segmentLimit: 1, coalesce: 0 },
  T2: { vnetSize: 10, segmentLimit: 63, coalesce: COALESCE_TCP | COALESCE_UDP },
};

function isZero(counts: Record<string, number>): boolean {
  return Object.values(counts).every((count) => count === 0);
}

for (const [name, offloads] of Object.entries(TIERS)) {
  test(`no sample is dropped at ${name}`, () => {
    const [near, far] = exchangeSamples({ module: coreModule(), offloads }, PATIENCE_MS);
    if (near === undefined || far === undefined) throw new Error('there are two nodes');
    for (const { slots } of [near, far]) {
      assert.ok(isZero(readDrops(slots.core, 'outbound')));
      assert.ok(isZero(readDrops(slots.core, 'inbound')));
      assert.ok(slots.sends.count > 0);
    }
    const hasSuper = offloads.vnetSize > 0;
    assert.is(readEvents(near.slots.core)['segmented'] !== 0, hasSuper);
    assert.is(readEvents(far.slots.core)['coalesced'] !== 0, hasSuper);
  });
}

test('it ends, whatever happens', async () => {
  await warmUp(coreModule(), { vnetSize: 10, segmentLimit: 63, coalesce: 3 });
});

test.run();
