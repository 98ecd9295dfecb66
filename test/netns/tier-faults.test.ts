// Whatever the underlay does to packets, at every tier the same bytes arrive, without a stall, and
// what was lost or damaged is accounted for. 10 GB for each tier: tier-faults.slow.test.ts.
//
//     pod                                                             pod
//   [ TUN ]--culvert, faults [ eth0 ]---[ hub ]---[ eth0 ] culvert, faults--[ TUN ]
//   10.244.1.10            192.0.2.1             192.0.2.2            10.244.2.10
//   fd00:10:244:1::a     2001:db8::1             2001:db8::2      fd00:10:244:2::a

import { suite } from 'uvu';
import { TierLab, TIERS, tierTest } from './support/tier-lab.ts';
import { assertAccounted, faultyLab, streamThroughFaults, trainsThroughFaults } from
  './support/tier-faults.ts';

const BYTES = 100 * 1024 * 1024;
const SEED = 1323;

for (const tier of TIERS) {
  const name = `netns/tier-faults, ${tier}`;
  const test = suite(name);
  let made: TierLab | null = null;
  const lab = async (): Promise<TierLab> => {
    made ??= await faultyLab(tier, SEED);
    return made;
  };
  test.after(() => made?.close());

  tierTest(tier, test, `${tier}: 100 MB arrive through faults as they were`, async () =>
    streamThroughFaults(await lab(), BYTES, name));
  tierTest(tier, test, `${tier}: no damaged datagram is delivered`, async () =>
    trainsThroughFaults(await lab()));
  tierTest(tier, test, `${tier}: every loss is explained`, async () =>
    assertAccounted(await lab(), tier));

  test.run();
}
