// Culvert and flannel's udp backend, restated in C: what its proxy does to a packet, to its time to
// live, and to what it has no route for.
//
//     pod 1                     captured                               pod 2
//   [ TUN  ]--culvert [ eth0 ]----[ switch ]----[ eth0 ] flannel0 ----[ veth ]
//   10.244.1.10      192.0.2.1                192.0.2.2           10.244.2.10
//
// A datagram's payload is the packet of the pod, nothing else; IPv4 only. Each proxy takes one off
// the time to live, and so does the kernel of the node behind flannel0. TX checksum offload is off
// on the veths that nodes send from.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { findCompiler } from '../../bench/native.ts';
import { addressText } from '../../engine/address.ts';
import { printSkip, testNeeding } from '../support/needs.ts';
import { icmp, internetChecksum, ipv4, parseEthernet, parseIpv4, PROTOCOL, read16, toHex, udp }
  from '../support/packets.ts';
import { Capture, sendPackets } from './support/capture.ts';
import { TIERS, tierTest } from './support/tier-lab.ts';
import { expectDatagrams, expectNoDrops, expectPathMtu, expectPings, expectStreams }
  from './support/tunnel-checks.ts';
import { addFlannelUdp, FLANNEL_UDP_MTU, FLANNEL_UDP_PORT } from './support/tunnel-nodes.ts';
import { basesOf, ETHERNET_SIZE, remotesOf, TunnelLab, type Place } from './support/tunnel-lab.ts';

const CULVERT = 1;
const FLANNEL = 2;
const HEADER_SIZE = 20;
const UDP_SIZE = 8;
const TIME_TO_LIVE = 64;
const FLANNEL_ICMP_TTL = 8;
const TIER_BYTES = 20 * 1024 * 1024;
/** Of a packet of node 2 whose address nobody has: it is flannel's, but no lease names it. */
const NOBODY = '10.244.77.10';

const test = suite('netns/flannel-udp');
const reason = findCompiler() === null ? 'no C compiler' : null;
let made: TunnelLab | null = null;

function makeLab(flags: string[] = []): Promise<TunnelLab> {
  return TunnelLab.create(async (created) => {
    await created.addCulvert(CULVERT, flags);
    await addFlannelUdp(created, FLANNEL, [CULVERT]);
    const ways = { IPv4: { way: { kind: 'udp' } } } as const;
    await created.tell(CULVERT, ways, { [FLANNEL]: ways });
  });
}

async function lab(): Promise<TunnelLab> {
  made ??= await makeLab();
  return made;
}

test.after(() => made?.close());

async function pair(): Promise<[Place, Place]> {
  const bed = await lab();
  return [bed.place(CULVERT), bed.place(FLANNEL)];
}

let nextPort = 20_000;

/** A UDP packet to where nobody listens, from a port of its own. */
function packetOf(from: Place, destination: string, ttl = TIME_TO_LIVE): Uint8Array {
  const source = from.address.IPv4;
  nextPort += 1;
  const ports = { sourcePort: nextPort, destinationPort: 9 };
  return ipv4({ source, destination, protocol: PROTOCOL.udp, ttl, identification: 7 },
    udp({ source, destination, ...ports }, new TextEncoder().encode('through a culvert')));
}

/** The same packet, some hops on. */
function hopsOn(packet: Uint8Array, hops: number): Uint8Array {
  const routed = packet.slice();
  routed[8] = (routed[8] ?? 0) - hops;
  routed.set([0, 0], 10);
  const sum = internetChecksum(routed.subarray(0, HEADER_SIZE));
  routed.set([sum >>> 8, sum & 0xff], 10);
  return routed;
}

/** A test that the same UDP packet is in a frame that begins with a header of `offset` bytes. */
function carries(packet: Uint8Array, offset: number): (frame: Uint8Array) => boolean {
  const ports = toHex(packet.subarray(HEADER_SIZE, HEADER_SIZE + 4));
  return (frame) => toHex(frame.subarray(offset + HEADER_SIZE, offset + HEADER_SIZE + 4)) === ports;
}

const IN_TUNNEL = ETHERNET_SIZE + HEADER_SIZE + UDP_SIZE;

testNeeding('bridge', test, 'the pod hears of the MTU', async () => {
  const [ours, theirs] = await pair();
  await expectPathMtu([ours, theirs], 'IPv4', FLANNEL_UDP_MTU);
  await expectPathMtu([theirs, ours], 'IPv4', FLANNEL_UDP_MTU);
}, reason);

// The pods' links take more than the proxy, which cuts off the rest: large packets have to come to
// it in fragments of their own.
testNeeding('bridge', test, 'pings, also in fragments', async () => {
  await expectPings(await pair(), 'IPv4');
}, reason);

testNeeding('bridge', test, 'UDP of every size, and in fragments', async () =>
  expectDatagrams(await pair(), 'IPv4'), reason);

testNeeding('bridge', test, '50 MB of TCP arrive unchanged', async () =>
  expectStreams(await pair(), 'IPv4', 'flannel udp'), reason);

testNeeding('bridge', test, 'each proxy takes a hop, and the datagram is the packet', async () => {
  const bed = await lab();
  const [ours, theirs] = await pair();
  for (const [from, to, before] of [[ours, theirs, 1], [theirs, ours, 2]] as const) {
    const packet = packetOf(from, to.address.IPv4);
    const underlay = new Capture(bed.bed.hub, `port${FLANNEL}`);
    const behind = to.linkHeader;
    const arrival = new Capture(to.pod, 'eth0');
    try {
      sendPackets(from.pod, to.address.IPv4, [packet]);
      const [frame = new Uint8Array(0)] = await underlay.take(1, carries(packet, IN_TUNNEL));
      const outer = parseIpv4(parseEthernet(frame).payload);
      assert.is(addressText(outer.source), remotesOf(from.number).IPv4);
      assert.is(addressText(outer.destination), remotesOf(to.number).IPv4);
      const ports = frame.subarray(ETHERNET_SIZE + HEADER_SIZE);
      assert.is(read16(ports, 2), FLANNEL_UDP_PORT);
      const expected = hopsOn(packet, before);
      assert.is(toHex(frame.subarray(IN_TUNNEL, IN_TUNNEL + packet.length)), toHex(expected));
      assert.is(read16(ports, 4), UDP_SIZE + packet.length);
      const [arrived = new Uint8Array(0)] = await arrival.take(1, carries(packet, behind));
      assert.is(toHex(arrived.subarray(behind)), toHex(hopsOn(packet, 3)));
    } finally {
      underlay.close();
      arrival.close();
    }
  }
}, reason);

testNeeding('bridge', test, 'what has no hop left goes no further', async () => {
  const [ours, theirs] = await pair();
  // One for our proxy, one for flannel's: nothing is left for the node's kernel.
  const spent = packetOf(ours, theirs.address.IPv4, 2);
  const last = packetOf(ours, theirs.address.IPv4, 4);
  const arrival = new Capture(theirs.pod, 'eth0');
  try {
    sendPackets(ours.pod, theirs.address.IPv4, [spent, last]);
    const frames = await arrival.take(1, (frame) =>
      carries(spent, ETHERNET_SIZE)(frame) || carries(last, ETHERNET_SIZE)(frame));
    assert.is(toHex((frames[0] ?? new Uint8Array(0)).subarray(ETHERNET_SIZE)),
      toHex(hopsOn(last, 3)));
  } finally {
    arrival.close();
  }
}, reason);

/** The error that a pod gets for a packet, whole as it arrives. */
async function errorFor(
  from: Place, packet: Uint8Array, behind: number, to: Place = from,
): Promise<Uint8Array> {
  const quotes = carries(packet, behind + HEADER_SIZE + 8);
  const capture = new Capture(to.pod, 'eth0');
  try {
    sendPackets(from.pod, addressText(parseIpv4(packet).destination), [packet]);
    const [frame = new Uint8Array(0)] = await capture.take(1, quotes);
    return frame.subarray(behind);
  } finally {
    capture.close();
  }
}

testNeeding('bridge', test, 'net unreachable, as flannel says it and as Culvert does', async () => {
  const [ours, theirs] = await pair();
  const packet = packetOf(theirs, NOBODY);
  const answer = await errorFor(theirs, packet, ETHERNET_SIZE);
  // The node's kernel has taken a hop of the packet, and takes one of the answer.
  const quoted = hopsOn(packet, 1).subarray(0, HEADER_SIZE + 8);
  const said = (by: string, to: string): Uint8Array => ipv4({
    source: by, destination: to, protocol: PROTOCOL.icmp, ttl: FLANNEL_ICMP_TTL,
  }, icmp(3, 0, 0, quoted));
  assert.is(toHex(answer),
    toHex(hopsOn(said(basesOf(FLANNEL).IPv4, theirs.address.IPv4), 1)));

  const own = packetOf(ours, NOBODY);
  const error = await errorFor(ours, own, 0);
  const header = parseIpv4(error);
  assert.is(addressText(header.source), basesOf(CULVERT).IPv4);
  assert.is(addressText(header.destination), ours.address.IPv4);
  const message = error.subarray(header.headerSize);
  assert.equal([message[0], message[1]], [3, 0]);
  assert.is(internetChecksum(message), 0);
  // It quotes what flannel would, and more of the same (RFC 1812 section 4.3.2.3).
  assert.is(toHex(message.subarray(8, 8 + own.length)), toHex(own));
}, reason);

testNeeding('bridge', test, 'an error of flannel\'s reaches the pod as it was sent', async () => {
  const [ours] = await pair();
  // Nobody on node 2 has it, so that it comes back to flannel's proxy, which has no lease for it.
  const packet = packetOf(ours, '10.244.2.99');
  const answer = await errorFor(ours, packet, 0);
  // Two proxies and the kernel of node 2 have taken hops of the packet; of the answer, the kernel
  // and both proxies.
  const quoted = hopsOn(packet, 3).subarray(0, HEADER_SIZE + 8);
  const sent = ipv4({
    source: basesOf(FLANNEL).IPv4, destination: ours.address.IPv4, protocol: PROTOCOL.icmp,
    ttl: FLANNEL_ICMP_TTL,
  }, icmp(3, 0, 0, quoted));
  assert.is(toHex(answer), toHex(hopsOn(sent, 3)));
}, reason);

testNeeding('bridge', test, 'no packet was dropped but those that had to be', async () => {
  await expectNoDrops(await lab(), CULVERT, /\.(tooBig|unreachable|noRoute)=/);
}, reason);

test.run();

// Super-packets are cut for a proxy that takes one packet at a time, here or by the kernel.
for (const tier of TIERS) {
  const tierSuite = suite(`netns/flannel-udp, ${tier}`);
  let own: TunnelLab | null = null;
  tierSuite.after(() => own?.close());
  if (reason !== null) printSkip(`${tier}: pings, datagrams, streams`, reason);
  else {
    tierTest(tier, tierSuite, `${tier}: pings, datagrams, streams`, async () => {
      own ??= await makeLab(['--data-plane-tier', tier]);
      const ends = [own.place(CULVERT), own.place(FLANNEL)] as const;
      await expectPings(ends, 'IPv4');
      await expectDatagrams(ends, 'IPv4');
      await expectStreams(ends, 'IPv4', `flannel udp, ${tier}`, TIER_BYTES);
      await expectNoDrops(own, CULVERT, /\.tooBig=/);
    });
  }
  tierSuite.run();
}
