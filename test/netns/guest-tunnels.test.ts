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
import type { Family } from '../../engine/address.ts';
import { testNeeding } from '../support/needs.ts';
import { guestReason } from '../support/qemu-image.ts';
import { addGuest, useTunnel, type GuestPlace, type GuestTunnel } from './support/guest-node.ts';
import { expectDatagrams, expectNoDrops, expectPathMtu, expectPings, expectStreams }
  from './support/tunnel-checks.ts';
import { FAMILIES, macOf, remotesOf, TunnelLab, VNI, type Way, type Ways }
  from './support/tunnel-lab.ts';

const CULVERT = 1;
const GUEST = 2;
const LINK_MTU = 1500;

/** A kind of tunnel, as Culvert is told of it and as the guest has it; `carrier` is the family of
 * the outer packets, `overhead` what is in front of the inner ones. */
interface Kind {
  name: string;
  families: readonly Family[];
  carrier: Family;
  way: Way;
  overhead: number;
  tunnel: GuestTunnel;
}

const local = remotesOf(GUEST);
const remote = remotesOf(CULVERT);
const ends = (family: Family): string => `local ${local[family]} remote ${remote[family]}`;
const macs = (carrier: Family): { own: string; peer: string } =>
  ({ own: macOf(GUEST, carrier), peer: macOf(CULVERT, carrier) });

/** An Ethernet header is 14 bytes, a UDP header, one of VXLAN and one of Geneve 8 each. */
function kind(
  name: string, families: readonly Family[], carrier: Family, way: Way, headers: number,
  tunnel: Omit<GuestTunnel, 'mtu'>,
): Kind {
  const overhead = headers + (carrier === 'IPv4' ? 20 : 40);
  return { name, families, carrier, way, overhead, tunnel: {
    ...tunnel, mtu: LINK_MTU - overhead,
  } };
}

const geneve = (carrier: Family, vni: number): string =>
  `type geneve id ${vni} remote ${remote[carrier]} dstport 6081`;

const KINDS: Kind[] = [
  kind('ipip', ['IPv4'], 'IPv4', { kind: 'ipip' }, 0, {
    // As flannel and Calico have it: one device for all peers, which routes tell apart.
    name: 'tunl', link: `type ipip local ${local.IPv4}`, nextHop: remote.IPv4,
  }),
  kind('6in4', ['IPv6'], 'IPv4', { kind: 'ipip' }, 0, {
    name: 'sit1', link: `type sit mode ip6ip ${ends('IPv4')}`,
  }),
  kind('any in IPv6', FAMILIES, 'IPv6', { kind: 'ipip' }, 0, {
    name: 'six', link: `type ip6tnl mode any encaplimit none ${ends('IPv6')}`,
  }),
  kind('geneve with Ethernet', FAMILIES, 'IPv4',
    { kind: 'geneve', vni: VNI, hasEthernet: true }, 30, {
      name: 'gnv4', link: geneve('IPv4', VNI), macs: macs('IPv4'),
    }),
  kind('geneve with Ethernet over IPv6', FAMILIES, 'IPv6',
    { kind: 'geneve', vni: VNI, hasEthernet: true }, 30, {
      name: 'gnv6', link: geneve('IPv6', VNI), macs: macs('IPv6'),
    }),
  kind('geneve with IP', FAMILIES, 'IPv4',
    { kind: 'geneve', vni: 2, hasEthernet: false }, 16, {
      name: 'gni4', link: `${geneve('IPv4', 2)} innerprotoinherit`,
    }),
  kind('vxlan', FAMILIES, 'IPv4', { kind: 'vxlan', port: 4789, vni: 4096 }, 30, {
    name: 'vx4', link: `type vxlan id 4096 ${ends('IPv4')} dstport 4789 nolearning`,
    macs: macs('IPv4'),
  }),
];

const test = suite('netns/guest-tunnels');
let made: { lab: TunnelLab; guest: GuestPlace } | null = null;

async function bed(): Promise<{ lab: TunnelLab; guest: GuestPlace }> {
  if (made !== null) return made;
  let guest: GuestPlace | null = null;
  const lab = await TunnelLab.create(async (created) => {
    await Promise.all([
      created.addCulvert(CULVERT),
      addGuest(created, GUEST).then((added) => { guest = added; }),
    ]);
  });
  made = { lab, guest: guest as unknown as GuestPlace };
  return made;
}

test.after(() => made?.lab.close());

/** Both nodes take to a kind. */
async function use({ families, carrier, way, tunnel }: Kind): Promise<void> {
  const { lab, guest } = await bed();
  const ways: Ways = Object.fromEntries(families.map((family) => [family, { way, carrier }]));
  await lab.tell(CULVERT, ways, { [GUEST]: ways });
  await useTunnel(guest, tunnel, CULVERT, families);
}

for (const entry of KINDS) {
  const { name, families, overhead } = entry;
  const reason = guestReason();
  testNeeding('bridge', test, `${name}: pings, also in fragments`, async () => {
    await use(entry);
    const { lab, guest } = await bed();
    for (const family of families) await expectPings([lab.place(CULVERT), guest], family);
  }, reason);
  for (const family of families) {
    const title = (what: string): string => `${name}: ${family}: ${what}`;
    testNeeding('bridge', test, title('each pod hears of the MTU'), async () => {
      const { lab, guest } = await bed();
      await expectPathMtu([lab.place(CULVERT), guest], family, LINK_MTU - overhead);
      await expectPathMtu([guest, lab.place(CULVERT)], family, LINK_MTU - overhead);
    }, reason);
    testNeeding('bridge', test, title('UDP of every size, and in fragments'), async () => {
      const { lab, guest } = await bed();
      await expectDatagrams([lab.place(CULVERT), guest], family);
    }, reason);
    testNeeding('bridge', test, title('50 MB of TCP arrive unchanged'), async () => {
      const { lab, guest } = await bed();
      await expectStreams([lab.place(CULVERT), guest], family, name);
    }, reason);
  }
}

// A tunnel that has Ethernet carries what the guest says to groups of its neighbours, too.
testNeeding('bridge', test, 'no packet was dropped but what was too big, or to a group', async () =>
  expectNoDrops((await bed()).lab, CULVERT, /\.(tooBig|wrongMac)=/), guestReason());

test.run();
