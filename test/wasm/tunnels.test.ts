// What all kinds of tunnel have in common, kind by kind: headers built and taken apart,
// super-packets cut behind them, trains of datagrams taken apart and joined again, and the change
// from one kind to another.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as layout from '../../wasm/abi/layout.ts';
import { addressBytes } from '../../engine/address.ts';
import { readDrops, REASON_NAMES } from '../../engine/counters.ts';
import type { ClusterNode, Tunnel } from '../../engine/model.ts';
import { segment, unfinished } from '../reference/offload.ts';
import { enclosed, type TwinPeer } from '../reference/tunnels.ts';
import { placePacket, processOne, type Remote } from '../support/core.ts';
import { deviceIndex, HOME, makeHome } from '../support/home.ts';
import { runBatches, runOne, setPointers, withHopSpent } from '../support/offload.ts';
import { concat, ipv4, ipv6, PROTOCOL, tcp, toHex, udp } from '../support/packets.ts';
import type { Scene } from '../support/scene.ts';
import { GSO, vnet } from '../support/vnet.ts';

interface Way {
  name: string;
  /** Its device, as HOME's has it, and where its datagrams come from. */
  device: string;
  source: string;
  /** Addresses of a pod there, and of one here. */
  there: string;
  here: string;
  /** Datagrams that travel together: false for raw sockets. */
  hasTrains: boolean;
}

const [A4, A6] = ['10.244.0.5', 'fd00:10:244::5'];
const WAYS: Way[] = [
  ['VXLAN', 'underlay-ipv4', '192.0.2.11', '10.244.1.7', A4],
  ['Geneve with frames', 'geneve-ipv4', '192.0.2.13', '10.244.3.7', A4],
  ['Geneve without', 'geneve-ipv6', '2001:db8::13', 'fd00:10:244:3::7', A6],
  ['IPv4 in IPv4', 'ipip-ipv4', '192.0.2.14', '10.244.4.7', A4],
  ['IPv4 in IPv6', 'ipip-ipv6', '2001:db8::15', '10.244.5.7', A4],
  ['IPv6 in IPv4', 'ip6ip-ipv4', '192.0.2.15', 'fd00:10:244:5::7', A6],
  ['IPv6 in IPv6', 'ip6ip-ipv6', '2001:db8::14', 'fd00:10:244:4::7', A6],
  ['flannel\'s udp', 'udp-ipv4', '192.0.2.16', '10.244.6.7', A4],
].map(([name = '', device = '', source = '', there = '', here = '']) =>
  ({ name, device, source, there, here, hasTrains: !device.startsWith('ip') }));
const OFFLOADS = {
  vnetSize: 10, segmentLimit: 64, coalesce: layout.COALESCE_TCP | layout.COALESCE_UDP,
};
const NOTHING = new Uint8Array(0);
const SIZE = 1000;
const CUT = { segmentSize: SIZE, gsoType: 0 };
const COUNT = 5;

function makeBed(): Scene {
  const home = makeHome({ offloads: OFFLOADS, services: [] });
  setPointers(home.core, OFFLOADS.segmentLimit);
  return home;
}

/** TCP over the version that both have. */
function tcpPacket(source: string, destination: string, payload: Uint8Array): Uint8Array {
  const ends = { source, destination };
  const segment = tcp({ ...ends, sourcePort: 40000, destinationPort: 80, flags: 0x10 }, payload);
  return source.includes(':')
    ? ipv6({ ...ends, nextHeader: PROTOCOL.tcp }, segment)
    : ipv4({ ...ends, protocol: PROTOCOL.tcp, identification: 7, dontFragment: true }, segment);
}

function pattern(length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, index) => (index * 7) & 0xff);
}

/** A TCP super-packet of five packets and what it stands for. */
function superPacket(source: string, destination: string) {
  const payload = pattern((SIZE * (COUNT - 1)) + 300);
  const packet = unfinished(tcpPacket(source, destination, payload));
  const isIpv6 = source.includes(':');
  const start = isIpv6 ? 40 : 20;
  const header = vnet({
    flags: 1, gsoType: isIpv6 ? GSO.tcpv6 : GSO.tcpv4, headerLength: start + 20, gsoSize: SIZE,
    checksumStart: start, checksumOffset: 16,
  });
  return { packet, header, packets: segment(packet, CUT) };
}

/** The peer behind a way, as the twin knows it. */
function peerOf(home: Scene, { there }: Way): TwinPeer {
  const target = home.twin.tables.routes.find(addressBytes(there));
  if (target?.kind !== 'peer') throw new Error(`no peer has ${there}`);
  return target.peer;
}

/** What a socket gives of a datagram of the peer's. */
function received(home: Scene, way: Way, packet: Uint8Array): Uint8Array {
  const peer = peerOf(home, way);
  if (peer.mac !== null) return enclosed(packet, { ...peer, mac: peer.ownMac, ownMac: peer.mac });
  const bytes = enclosed(packet, peer);
  if (peer.kind !== 'ipip' || way.source.includes(':')) return bytes;
  const protocol = way.there.includes(':') ? 41 : 4;
  return ipv4({ source: way.source, destination: '192.0.2.10', protocol }, bytes);
}

for (const way of WAYS) {
  test(`${way.name}: the same packet put in and taken out`, () => {
    const home = makeHome();
    const { core } = home;
    const there = tcpPacket(way.here, way.there, pattern(100));
    const out = processOne(core, there, deviceIndex(home, 'pod-a'));
    assert.is(toHex(out.bytes), toHex(enclosed(withHopSpent(there), peerOf(home, way))));
    assert.is(out.output, deviceIndex(home, way.device));
    const back = tcpPacket(way.there, way.here, pattern(100));
    const source = { address: way.source, port: 4000 };
    const input = deviceIndex(home, way.device);
    const taken = processOne(core, received(home, way, back), input, source);
    assert.is(toHex(taken.bytes), toHex(withHopSpent(back)));
    assert.is(taken.output, deviceIndex(home, 'pod-a'));
  });

  test(`${way.name}: a super-packet is cut behind the headers`, () => {
    const home = makeBed();
    const { packet, header, packets } = superPacket(way.here, way.there);
    const sends = runOne(home.core, header, packet, deviceIndex(home, 'pod-a'));
    assert.is(sends.length, way.hasTrains ? 1 : COUNT);
    const datagrams = sends.flatMap((send) => send.datagrams);
    assert.equal(datagrams.map(toHex), packets.map((one) =>
      toHex(enclosed(withHopSpent(one), peerOf(home, way)))));
    for (const send of sends) assert.is(send.device, deviceIndex(home, way.device));
  });

  test(`${way.name}: what follows one another is joined`, () => {
    const home = makeBed();
    const { packets } = superPacket(way.there, way.here);
    const datagrams = packets.map((one) => received(home, way, one));
    const source = { address: way.source, port: 4000 };
    const before = datagrams.length;
    const [sends = []] = way.hasTrains
      ? runTrain(home, datagrams, deviceIndex(home, way.device), source)
      : runSlots(home, datagrams, deviceIndex(home, way.device), source);
    assert.equal(sends.map((send) => [send.device, send.packets]),
      [[deviceIndex(home, 'pod-a'), before]]);
    const whole = sends[0]?.bytes.subarray(10) ?? NOTHING;
    assert.equal(segment(whole, CUT).map(toHex), packets.map((one) => toHex(withHopSpent(one))));
  });

  test(`${way.name}: nothing is written over the datagram before`, () => {
    const home = makeBed();
    const datagrams = [1, 2, 3].map((size) => received(home, way,
      udpPacket(way.there, way.here, pattern(200), size)));
    const source = { address: way.source, port: 4000 };
    const input = deviceIndex(home, way.device);
    const calls = way.hasTrains
      ? runTrain(home, datagrams, input, source)
      : runSlots(home, datagrams, input, source);
    assert.equal(calls.flat().map((send) => toHex(send.bytes.subarray(10))), [1, 2, 3].map((size) =>
      toHex(withHopSpent(udpPacket(way.there, way.here, pattern(200), size)))));
  });
}

/** UDP of a flow of its own. */
function udpPacket(
  source: string, destination: string, payload: Uint8Array, flow: number,
): Uint8Array {
  const ends = { source, destination };
  const datagram = udp({ ...ends, sourcePort: 40000 + flow, destinationPort: 53 }, payload);
  return source.includes(':')
    ? ipv6({ ...ends, nextHeader: PROTOCOL.udp }, datagram)
    : ipv4({ ...ends, protocol: PROTOCOL.udp }, datagram);
}

/** Datagrams of one slot, all as long as the first but the last. */
function runTrain({ core }: Scene, datagrams: Uint8Array[], input: number, source: Remote) {
  placePacket(core, 0, concat(...datagrams), input, source);
  core.view.setUint16(core.descriptorAddress(0) + layout.DESCRIPTOR_SEGMENT_SIZE,
    datagrams[0]?.length ?? 0, true);
  return runBatches(core, 1);
}

function runSlots({ core }: Scene, datagrams: Uint8Array[], input: number, source: Remote) {
  for (const [slot, datagram] of datagrams.entries()) {
    placePacket(core, slot, datagram, input, source);
  }
  return runBatches(core, datagrams.length);
}

test('tiny datagrams of a train: errors are not written over what is before them', () => {
  const home = makeBed();
  const empty = ipv4({ source: '10.244.6.7', destination: A4, protocol: 99 }, new Uint8Array(0));
  const lost = ipv4({ source: '10.244.6.7', destination: '10.244.0.99', protocol: 99 },
    new Uint8Array(0));
  const source = { address: '192.0.2.16', port: 4000 };
  const [sends = []] = runTrain(home, [empty, lost], layout.DEVICE_UDP_IPV4, source);
  assert.is(toHex(sends[0]?.bytes.subarray(10) ?? empty), toHex(withHopSpent(empty)));
  assert.is(sends[1]?.device, layout.DEVICE_UDP_IPV4);
  assert.is(toHex(sends[1]?.bytes.subarray(28) ?? empty), toHex(lost));
});

test('flannel\'s udp: what is too large leaves in fragments of its own', () => {
  const home = makeBed();
  // Record route, which only the first fragment has; a router alert, which each has.
  const options = Uint8Array.of(7, 7, 4, 0, 0, 0, 0, 1, 148, 4, 0, 0);
  const fields = {
    source: A4, destination: '10.244.6.7', protocol: 99, identification: 77, options, ttl: 9,
  };
  const payload = pattern(4001);
  const packet = ipv4(fields, payload);
  const sends = runOne(home.core, vnet({}), packet, deviceIndex(home, 'pod-a'));
  const fragments = sends.flatMap((send) => send.datagrams);
  const later = { ...fields, options: Uint8Array.of(1, 1, 1, 1, 1, 1, 1, 1, 148, 4, 0, 0) };
  assert.equal(fragments.map(toHex), [0, 1440, 2880].map((at) => toHex(ipv4({
    ...(at === 0 ? fields : later), ttl: 8, moreFragments: at < 2880, offset: at / 8,
  }, payload.subarray(at, at + 1440)))));
  for (const send of sends) assert.is(send.device, layout.DEVICE_UDP_IPV4);
});

test('flannel\'s udp: a fragment that is too large is cut once more', () => {
  const home = makeBed();
  const fields = {
    source: A4, destination: '10.244.6.7', protocol: 17, identification: 77, ttl: 9,
  };
  const payload = pattern(1480);
  for (const moreFragments of [true, false]) {
    const packet = ipv4({ ...fields, moreFragments, offset: 185 }, payload);
    const sends = runOne(home.core, vnet({}), packet, deviceIndex(home, 'pod-a'));
    const fragments = sends.flatMap((send) => send.datagrams);
    assert.equal(fragments.map(toHex), [
      ipv4({ ...fields, ttl: 8, moreFragments: true, offset: 185 }, payload.subarray(0, 1448)),
      ipv4({ ...fields, ttl: 8, moreFragments, offset: 185 + 181 }, payload.subarray(1448)),
    ].map(toHex));
  }
});

/** Node edge, reached by another tunnel for IPv4. */
function edgeBy(tunnel: Tunnel): ClusterNode {
  const edge = HOME.remotes.find(({ name }) => name === 'edge');
  if (edge === undefined) throw new Error('there is no edge');
  const [, ipv6 = tunnel] = edge.tunnels;
  return { ...edge, tunnels: [tunnel, ipv6] };
}

function change(home: Scene, revision: number, tunnel: Tunnel): void {
  home.forwarding.applyDelta({
    from: revision, to: revision + 1, nodes: [edgeBy(tunnel)], removedNodes: [], pods: [],
    removedPods: [],
  });
}

/** A peer's packet, plain and by VXLAN, and what becomes of one that comes by a device. */
function switching() {
  const home = makeHome();
  const remote = '192.0.2.11';
  const [vxlan] = WAYS;
  if (vxlan === undefined) throw new Error('there is no VXLAN');
  const packet = udpPacket('10.244.1.7', A4, pattern(9), 1);
  const byVxlan = received(home, vxlan, packet);
  const arrive = (bytes: Uint8Array, device: string): string | undefined => {
    const source = { address: remote, port: 4000 };
    const { sent, reason } = processOne(home.core, bytes, deviceIndex(home, device), source);
    return sent ? 'sent' : REASON_NAMES[reason];
  };
  return { home, remote, packet, byVxlan, arrive };
}

test('a peer that changes its kind may use the old one until that ends', () => {
  const { home, remote, packet, byVxlan, arrive } = switching();
  const { used } = home.forwarding.peerTable;
  assert.is(arrive(packet, 'udp-ipv4'), 'wrongTunnel');
  change(home, 1, { family: 'IPv4', kind: 'udp', remote });
  assert.ok(home.forwarding.isSwitching);
  assert.is(arrive(packet, 'udp-ipv4'), 'sent');
  assert.is(arrive(byVxlan, 'underlay-ipv4'), 'sent');
  assert.is(arrive(packet, 'node'), 'wrongTunnel');
  change(home, 2, { family: 'IPv4', kind: 'direct', remote });
  assert.is(arrive(packet, 'node'), 'sent');
  assert.is(arrive(packet, 'udp-ipv4'), 'sent');
  assert.is(arrive(byVxlan, 'underlay-ipv4'), 'wrongTunnel');
  home.forwarding.endSwitches();
  assert.not.ok(home.forwarding.isSwitching);
  assert.is(arrive(packet, 'node'), 'sent');
  assert.is(arrive(packet, 'udp-ipv4'), 'wrongTunnel');
  assert.is(readDrops(home.core, 'inbound')['wrongTunnel'], 4);
  home.core.exports.processBatch(0, 0, 1);
  assert.is(home.forwarding.peerTable.used, used, 'no record is lost');
});

test('what the other end may choose is taken for as long as it may', () => {
  const { home, remote, packet, byVxlan, arrive } = switching();
  const taken = (): (string | undefined)[] => [
    arrive(byVxlan, 'underlay-ipv4'), arrive(packet, 'node'), arrive(packet, 'udp-ipv4'),
  ];
  const { used } = home.forwarding.peerTable;
  const settled = (): number => {
    home.core.exports.processBatch(0, 0, 1);
    return home.forwarding.peerTable.used - used;
  };
  const base = { family: 'IPv4', remote } as const;
  const encapsulated = { kind: 'vxlan', vni: 1, mac: '02:00:00:00:00:99', port: 8472 } as const;
  const direct = { kind: 'direct' } as const;
  change(home, 1, { ...base, ...encapsulated, alternative: direct });
  assert.not.ok(home.forwarding.isSwitching);
  assert.equal(taken(), ['sent', 'sent', 'wrongTunnel']);
  assert.is(settled(), 1);
  change(home, 2, { ...base, ...direct, alternative: encapsulated });
  assert.equal(taken(), ['sent', 'sent', 'wrongTunnel']);
  home.forwarding.endSwitches();
  assert.not.ok(home.forwarding.isSwitching);
  assert.equal(taken(), ['sent', 'sent', 'wrongTunnel']);
  assert.is(settled(), 1);
  // The old kind comes first, for as long as a change takes; then the other one again.
  change(home, 3, { ...base, kind: 'udp', alternative: direct });
  assert.equal(taken(), ['wrongTunnel', 'sent', 'sent']);
  home.forwarding.endSwitches();
  assert.equal(taken(), ['wrongTunnel', 'sent', 'sent']);
  change(home, 4, { ...base, kind: 'udp' });
  assert.equal(taken(), ['wrongTunnel', 'wrongTunnel', 'sent']);
  assert.is(settled(), 0, 'no record is lost');
});

test('a peer that goes while it changes leaves nothing', () => {
  const home = makeHome();
  const { used } = home.forwarding.peerTable;
  change(home, 1, { family: 'IPv4', kind: 'ipip', remote: '192.0.2.11' });
  home.forwarding.applyDelta({
    from: 2, to: 3, nodes: [], removedNodes: ['edge'], pods: [], removedPods: [],
  });
  assert.not.ok(home.forwarding.isSwitching);
  home.forwarding.applyDelta({
    from: 3, to: 4, nodes: [edgeBy({ family: 'IPv4', kind: 'udp', remote: '192.0.2.11' })],
    removedNodes: [], pods: [], removedPods: [],
  });
  assert.is(home.forwarding.peerTable.used, used);
});

test.run();
