// time limit: 400 s
//
// Culvert and the tunnels of Debian's kernel, talking: each kind between the same two nodes, one
// kind after the other. The kernel is a guest's, because this machine's may lack them.
//
//     pod 1                                                  pod 2
//   [ TUN  ]--culvert [ eth0 ]----[ switch ]----[ eth0   guest   eth1 ]----[ TAP ]
//   10.244.1.10      192.0.2.1                192.0.2.2  ipip, geneve  10.244.2.10
//   fd00:10:244:1::a 2001:db8::1            2001:db8::2  ...       fd00:10:244:2::a
//
// All links have an MTU of 1500, so that each tunnel tells the pods of its own. TX checksum offload
// is off on the veth that Culvert's node sends from.

import { suite } from 'uvu';
import { testNeeding } from '../support/needs.ts';
import { guestReason } from '../support/qemu-image.ts';
import { CULVERT, EXPECTED_DROPS, GuestLab, KINDS, LINK_MTU } from './support/guest-kinds.ts';
import { expectDatagrams, expectNoDrops, expectPathMtu, expectPings, expectStreams }
  from './support/tunnel-checks.ts';

const test = suite('netns/guest-tunnels');
const reason = guestReason();
let made: GuestLab | null = null;

async function bed(): Promise<GuestLab> {
  made ??= await GuestLab.create();
  return made;
}

test.after(() => made?.lab.close());

for (const kind of KINDS) {
  const { name, families, overhead } = kind;
  testNeeding('bridge', test, `${name}: pings, also in fragments`, async () => {
    const { culvert, guest } = await bed();
    await made?.use(kind);
    for (const family of families) await expectPings([culvert, guest], family);
  }, reason);
  for (const family of families) {
    const title = (what: string): string => `${name}: ${family}: ${what}`;
    testNeeding('bridge', test, title('each pod hears of the MTU'), async () => {
      const { culvert, guest } = await bed();
      await expectPathMtu([culvert, guest], family, LINK_MTU - overhead);
      await expectPathMtu([guest, culvert], family, LINK_MTU - overhead);
    }, reason);
    testNeeding('bridge', test, title('UDP of every size, and in fragments'), async () => {
      const { culvert, guest } = await bed();
      await expectDatagrams([culvert, guest], family);
    }, reason);
    testNeeding('bridge', test, title('streams of TCP arrive unchanged'), async () => {
      const { culvert, guest } = await bed();
      await expectStreams([culvert, guest], family, name, kind.bytes);
    }, reason);
  }
}

testNeeding('bridge', test, 'no packet was dropped but those that had to be', async () =>
  expectNoDrops((await bed()).lab, CULVERT, EXPECTED_DROPS), reason);

test.run();
