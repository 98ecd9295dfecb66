// time limit: 3600 s
//
// 10 GB through faults at every tier: tier-faults.test.ts at full length.
//
//     pod                                                             pod
//   [ TUN ]--culvert, faults [ eth0 ]---[ hub ]---[ eth0 ] culvert, faults--[ TUN ]
//   10.244.1.10            192.0.2.1             192.0.2.2            10.244.2.10
//   fd00:10:244:1::a     2001:db8::1             2001:db8::2      fd00:10:244:2::a

import { suite } from 'uvu';
import { TierLab, TIERS, tierTest } from './support/tier-lab.ts';
import { assertAccounted, faultyLab, streamThroughFaults, trainsThroughFaults } from
  './support/tier-faults.ts';

const BYTES = 10 * 1024 ** 3;
const SEED = 1323;

for (const tier of TIERS) {
  const name = `netns/tier-faults.slow, ${tier}`;
  const test = suite(name);
  let made: TierLab | null = null;
  const lab = async (): Promise<TierLab> => {
    made ??= await faultyLab(tier, SEED);
    return made;
  };
  test.after(() => made?.close());

  tierTest(tier, test, `${tier}: 10 GB arrive through faults as they were`, async () =>
    streamThroughFaults(await lab(), BYTES, name));
  tierTest(tier, test, `${tier}: no damaged datagram is delivered`, async () =>
    trainsThroughFaults(await lab()));
  tierTest(tier, test, `${tier}: every loss is explained`, async () =>
    assertAccounted(await lab(), tier));

  test.run();
}
