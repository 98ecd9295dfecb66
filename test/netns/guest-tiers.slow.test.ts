// time limit: 600 s
//
// Every kind of tunnel at every tier of the data path, between Culvert and Debian's kernel: what is
// cut and joined here arrives there unchanged, and the other way round.
//
//     pod 1                                                  pod 2
//   [ TUN  ]--culvert [ eth0 ]----[ switch ]----[ eth0   guest   eth1 ]----[ TAP ]
//   10.244.1.10      192.0.2.1                192.0.2.2  ipip, geneve  10.244.2.10
//
// TX checksum offload is off on the veth that Culvert's node sends from.

import { suite } from 'uvu';
import { guestReason } from '../support/qemu-image.ts';
import { CULVERT, EXPECTED_DROPS, GuestLab, KINDS } from './support/guest-kinds.ts';
import { TIERS, tierTest } from './support/tier-lab.ts';
import { expectDatagrams, expectNoDrops, expectPings, expectStreams }
  from './support/tunnel-checks.ts';
import { printSkip } from '../support/needs.ts';

const reason = guestReason();

for (const tier of TIERS) {
  const test = suite(`netns/guest-tiers, ${tier}`);
  let made: GuestLab | null = null;
  test.after(() => made?.lab.close());

  if (reason !== null) printSkip(`${tier}: every kind`, reason);
  else {
    for (const kind of KINDS) {
      tierTest(tier, test, `${tier}: ${kind.name}`, async () => {
        made ??= await GuestLab.create(['--data-plane-tier', tier]);
        const { culvert, guest } = made;
        await made.use(kind);
        for (const family of kind.families) {
          await expectPings([culvert, guest], family);
          await expectDatagrams([culvert, guest], family);
          await expectStreams([culvert, guest], family, `${tier}, ${kind.name}`, kind.bytes);
        }
      });
    }
    tierTest(tier, test, `${tier}: no packet was dropped but those that had to be`, async () => {
      if (made !== null) await expectNoDrops(made.lab, CULVERT, EXPECTED_DROPS);
    });
  }

  test.run();
}
