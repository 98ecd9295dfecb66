// What a Culvert node takes by each kind of tunnel, and from whom: packets that anybody on the link
// can write, whose outer source, kind or inner source is not what the node was told of its peers.
//
//     pod 1                                                        forger
//   [ TUN ]--culvert [ eth0 192.0.2.1 ]----[ switch ]----[ eth0 192.0.2.9 ]
//   10.244.1.10                                  writes whole IPv4 packets, from any source
//
// Peers 2 to 5, which are told to the node but are not there, have one kind each.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { StatusReport } from '../../engine/model.ts';
import type { Host } from '../../cli/demo/bed.ts';
import { testNeeding } from '../support/needs.ts';
import { ETHER_TYPE, ethernet, geneve, ipv4, macOf as macBytes, PROTOCOL, read16, udp, vxlan }
  from '../support/packets.ts';
import { Capture, sendPackets } from './support/capture.ts';
import { macOf, podAddressesOf, remotesOf, TunnelLab, type Way, type Ways }
  from './support/tunnel-lab.ts';

const CULVERT = 1;
const FORGER = 9;
const IPIP = 4;
const VNI = 5;
const [VXLAN_PORT, GENEVE_PORT, FLANNEL_UDP_PORT] = [8472, 6081, 8285];
/** Of every inner packet, by which the pod's are told apart. */
const FIRST_PORT = 30_000;
const UDP_PORTS_AT = 20;

/** A kind, the peer that has it, and how a packet of that kind is written. */
interface Kind {
  name: string;
  peer: number;
  way: Way;
  protocol: number;
  wrap: (inner: Uint8Array, source: string) => Uint8Array;
}

const target = remotesOf(CULVERT).IPv4;

function datagram(source: string, destinationPort: number, payload: Uint8Array): Uint8Array {
  return udp({ source, destination: target, sourcePort: 50_000, destinationPort }, payload);
}

function frame(peer: number, inner: Uint8Array): Uint8Array {
  return ethernet({
    destination: macBytes(macOf(CULVERT, 'IPv4')), source: macBytes(macOf(peer, 'IPv4')),
    type: ETHER_TYPE.ipv4,
  }, inner);
}

const KINDS: readonly Kind[] = [
  {
    name: 'vxlan', peer: 2, way: { kind: 'vxlan', vni: VNI, port: VXLAN_PORT },
    protocol: PROTOCOL.udp,
    wrap: (inner, source) => datagram(source, VXLAN_PORT, vxlan({ vni: VNI }, frame(2, inner))),
  },
  {
    name: 'geneve', peer: 3, way: { kind: 'geneve', vni: VNI, hasEthernet: false },
    protocol: PROTOCOL.udp,
    wrap: (inner, source) => datagram(source, GENEVE_PORT,
      geneve({ vni: VNI, protocol: ETHER_TYPE.ipv4 }, inner)),
  },
  { name: 'ipip', peer: 4, way: { kind: 'ipip' }, protocol: IPIP, wrap: (inner) => inner },
  {
    name: 'udp', peer: 5, way: { kind: 'udp' }, protocol: PROTOCOL.udp,
    wrap: (inner, source) => datagram(source, FLANNEL_UDP_PORT, inner),
  },
];

const test = suite('netns/forged-tunnels');
let made: { lab: TunnelLab; forger: Host } | null = null;

async function bed(): Promise<{ lab: TunnelLab; forger: Host }> {
  if (made !== null) return made;
  const hosts: Host[] = [];
  const lab = await TunnelLab.create(async (created) => {
    await created.addCulvert(CULVERT);
    hosts.push((await created.addNode(FORGER)).host);
    const ways = KINDS.map(({ peer, way }): [number, Ways] => [peer, { IPv4: { way } }]);
    const own: Ways = { IPv4: { way: { kind: 'vxlan', vni: VNI, port: VXLAN_PORT } } };
    await created.tell(CULVERT, own, Object.fromEntries(ways));
  });
  const [forger] = hosts;
  if (forger === undefined) throw new Error('no forger');
  made = { lab, forger };
  return made;
}

test.after(() => made?.lab.close());

let nextPort = FIRST_PORT;

/** A packet for the pod, from the pod of a node, at a port of its own. */
function innerFrom(source: string): Uint8Array {
  nextPort += 1;
  const destination = podAddressesOf(CULVERT).IPv4;
  return ipv4({ source, destination, protocol: PROTOCOL.udp },
    udp({ source, destination, sourcePort: 9, destinationPort: nextPort }, new Uint8Array(32)));
}

/** Sends a packet of a kind as if a node had. */
async function forge(kind: Kind, source: string, inner: Uint8Array): Promise<void> {
  const { forger } = await bed();
  const { protocol } = kind;
  const packet = ipv4({ source, destination: target, protocol }, kind.wrap(inner, source));
  sendPackets(forger, target, [packet]);
}

const countOf = ({ drops }: StatusReport, reason: string): number => drops.inbound[reason] ?? 0;

/** One packet more is dropped for a reason, and the pod gets what is sent right behind it only. */
async function expectRefusal(
  kind: Kind, reason: string, source: string, innerSource: string,
): Promise<void> {
  const { lab } = await bed();
  const before = countOf(await lab.status(CULVERT), reason);
  const [wrong, right] = [innerFrom(innerSource), innerFrom(podAddressesOf(kind.peer).IPv4)];
  const portOf = (packet: Uint8Array): number => read16(packet, UDP_PORTS_AT + 2);
  const arrivals = new Capture(lab.place(CULVERT).pod, 'eth0');
  try {
    await forge(kind, source, wrong);
    await forge(kind, remotesOf(kind.peer).IPv4, right);
    const [arrived = new Uint8Array(0)] = await arrivals.take(1, (packet) =>
      [portOf(wrong), portOf(right)].includes(portOf(packet)));
    assert.is(portOf(arrived), portOf(right), `${kind.name}: the forged packet came through`);
  } finally {
    arrivals.close();
  }
  const after = await lab.culvert(CULVERT).waitFor((status) => countOf(status, reason) > before);
  assert.is(countOf(after, reason), before + 1, kind.name);
}

for (const kind of KINDS) {
  const { name, peer } = kind;
  const [own, pod] = [remotesOf(peer).IPv4, podAddressesOf(peer).IPv4];
  const other = KINDS.find((candidate) => candidate.peer !== peer)?.peer ?? 0;

  testNeeding('bridge', test, `${name}: from nobody's address`, () =>
    expectRefusal(kind, 'unknownPeer', remotesOf(FORGER).IPv4, pod));

  testNeeding('bridge', test, `${name}: from a peer that has another kind`, () =>
    expectRefusal(kind, 'wrongTunnel', remotesOf(other).IPv4, podAddressesOf(other).IPv4));

  testNeeding('bridge', test, `${name}: for a pod of another peer`, () =>
    expectRefusal(kind, 'foreignSource', own, podAddressesOf(other).IPv4));

  testNeeding('bridge', test, `${name}: for a pod of our own`, () =>
    expectRefusal(kind, 'foreignSource', own, '10.244.1.77'));
}

test.run();
