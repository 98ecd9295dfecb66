// Packets of peers joined to super-packets: each rule with two packets that differ in just that,
// what ends a run, and what is counted.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as layout from '../../wasm/abi/layout.ts';
import { PolicyTables } from '../../engine/tables/policy.ts';
import { takeApart, unfinished } from '../reference/offload.ts';
import { EDGE, EDGE6, fromEdge, inboundCounts, makeJoining, readSends, receive, type Arrival,
  type Delivery } from '../support/arrivals.ts';
import { TEST_LIMITS } from '../support/core.ts';
import { PROTOCOL, concat, fragmentHeader, internetChecksum, ipv4, ipv6, optionsHeader, parseIpv4,
  read16, tcp, toHex, transportChecksum, udp, word16, type Ipv4Fields, type Ipv6Fields,
  type TcpFields } from '../support/packets.ts';
import { change, DENY_ALL, program, ruleSet } from '../support/policy-core.ts';
import { GSO, PLAIN, VNET_FLAG } from '../support/vnet.ts';

const { COALESCE_TCP: TCP, COALESCE_UDP: UDP } = layout;
const FLAG = { fin: 1, syn: 2, rst: 4, psh: 8, ack: 0x10, urg: 0x20, ece: 0x40, cwr: 0x80 };
const SIZE = 100;
const ENDS = { source: '10.244.1.7', destination: '10.244.0.5' };
const ENDS6 = { source: 'fd00:10:244:1::7', destination: 'fd00:10:244::5' };
const PORTS = { sourcePort: 40000, destinationPort: 5201 };
const TIMESTAMPS = Uint8Array.of(1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2);

/** What may be different about a packet of the stream below. */
interface Changes {
  ip?: Partial<Ipv4Fields>;
  ip6?: Partial<Ipv6Fields>;
  tcp?: Partial<TcpFields>;
  /** Bytes of payload. */
  size?: number;
  /** Replaces bytes when all else is done, checksums included. */
  damage?: (packet: Uint8Array) => Uint8Array;
  /** Replaces the whole datagram. */
  frame?: (packet: Uint8Array) => Uint8Array;
  slot?: Partial<Arrival>;
}

function payload(index: number, size = SIZE): Uint8Array {
  return Uint8Array.from({ length: size }, (_, at) => (index * 31) + at);
}

/** The packet of a TCP stream that follows `index` others of SIZE bytes. */
function tcpPacket(index: number, changes: Changes = {}): Uint8Array {
  const ends = { ...ENDS, ...changes.ip };
  const upper = tcp({ ...ends, ...PORTS, sequence: 1000 + (index * SIZE), ...changes.tcp },
    payload(index, changes.size));
  const packet = ipv4({ ...ends, protocol: PROTOCOL.tcp, identification: 7 + index,
    dontFragment: true, ...changes.ip }, upper);
  return changes.damage?.(packet) ?? packet;
}

function tcpPacket6(index: number, changes: Changes = {}): Uint8Array {
  const ends = { ...ENDS6, ...changes.ip6 };
  const upper = tcp({ ...ends, ...PORTS, sequence: 1000 + (index * SIZE), ...changes.tcp },
    payload(index, changes.size));
  const packet = ipv6({ ...ends, nextHeader: PROTOCOL.tcp, ...changes.ip6 }, upper);
  return changes.damage?.(packet) ?? packet;
}

function udpPacket(index: number, changes: Changes & { ports?: Partial<typeof PORTS> } = {}) {
  const ends = { ...ENDS, ...changes.ip };
  const upper = udp({ ...ends, ...PORTS, ...changes.ports }, payload(index, changes.size));
  const packet = ipv4({ ...ends, protocol: PROTOCOL.udp, identification: 7 + index,
    ...changes.ip }, upper);
  return changes.damage?.(packet) ?? packet;
}

/** Bytes stored over others. */
function over(at: number, ...bytes: number[]): (packet: Uint8Array) => Uint8Array {
  return (packet) => {
    const damaged = packet.slice();
    damaged.set(bytes, at);
    return damaged;
  };
}

/** As over(), with the transport checksum of an IPv4 packet right again. */
function resummed(at: number, ...bytes: number[]): (packet: Uint8Array) => Uint8Array {
  return (packet) => {
    const damaged = over(at, ...bytes)(packet);
    const { ip } = takeApart(packet);
    const upper = damaged.subarray(ip.length);
    const isTcp = parseIpv4(damaged).protocol === PROTOCOL.tcp;
    const field = isTcp ? 16 : 6;
    upper.set([0, 0], field);
    const { source, destination, protocol } = parseIpv4(damaged);
    upper.set(word16(transportChecksum(source, destination, protocol, upper)), field);
    return damaged;
  };
}

/** One train, of equal datagrams but the last. */
function train(...packets: Uint8Array[]): Arrival {
  return { datagrams: packets.map((packet) => fromEdge(packet)) };
}

/** A slot for each packet, so that sizes need not be equal. */
function singly(packets: Uint8Array[], source = EDGE): Arrival[] {
  return packets.map((packet) => ({ datagrams: [fromEdge(packet)], source }));
}

/** The packet as a pod gets it: one hop on. */
function oneHopOn(packet: Uint8Array): Uint8Array {
  if ((packet[0] ?? 0) >> 4 === 6) return over(7, (packet[7] ?? 0) - 1)(packet);
  const { headerSize, ttl } = parseIpv4(packet);
  const aged = over(8, ttl - 1)(packet);
  const sum = read16(packet, 10) + 0x100;
  aged.set(word16((sum & 0xffff) + (sum >>> 16)), 10);
  assert.ok(headerSize >= 20);
  return aged;
}

/** The one packet that packets of a stream, cut from it, are joined to. */
function whole(packets: Uint8Array[]): Uint8Array {
  const [first = new Uint8Array(0)] = packets;
  const { ip, transport } = takeApart(first);
  const last = takeApart(packets.at(-1) ?? first).transport;
  const isTcp = transport.length >= 20;
  const header = transport.slice();
  if (isTcp) header[13] = last[13] ?? 0;
  const all = concat(ip, header, ...packets.map((packet) => takeApart(packet).payload));
  if (!isTcp) all.set(word16(all.length - ip.length), ip.length + 4);
  if (ip.length === 40) {
    all.set(word16(all.length - 40), 4);
    return unfinished(all);
  }
  const { tos, identification, dontFragment, ttl, protocol, ...rest } = parseIpv4(first);
  const { source, destination } = rest;
  return unfinished(ipv4({ source, destination, tos, identification, dontFragment, ttl, protocol },
    all.subarray(20)));
}

function hex(deliveries: readonly Delivery[]): string[] {
  return deliveries.map(({ packet }) => toHex(packet));
}

/** Expects these packets, one hop on, with a plain vnet header each. */
function expectAlone(deliveries: Delivery[], packets: Uint8Array[]): void {
  assert.equal(hex(deliveries), packets.map((packet) => toHex(oneHopOn(packet))));
  for (const { header, packets: count } of deliveries) {
    assert.equal(header, PLAIN);
    assert.is(count, 1);
  }
}

/** Expects one super-packet in the place of these. */
function expectJoined(deliveries: Delivery[], packets: Uint8Array[]): void {
  assert.equal(hex(deliveries), [toHex(oneHopOn(whole(packets)))]);
  const [first = new Uint8Array(0)] = packets;
  const { ip, transport, payload: { length } } = takeApart(first);
  const isUdp = transport.length === 8;
  assert.equal(deliveries[0]?.header, {
    flags: VNET_FLAG.needsChecksum,
    gsoType: isUdp ? GSO.udp : ip.length === 20 ? GSO.tcpv4 : GSO.tcpv6,
    headerLength: ip.length + transport.length, gsoSize: length, checksumStart: ip.length,
    checksumOffset: isUdp ? 6 : 16,
  });
  assert.is(deliveries[0]?.packets, packets.length);
}

test('TCP segments of a train become one super-packet', () => {
  const scene = makeJoining(TCP);
  const packets = [0, 1, 2, 3].map((index) => tcpPacket(index));
  const deliveries = receive(scene, [train(...packets)]);
  expectJoined(deliveries, packets);
  assert.is(deliveries[0]?.device, 'pod-a');
  assert.equal(inboundCounts(scene), { rxPackets: 4, coalesced: 1, drops: {} });
});

test('so do those of IPv6', () => {
  const scene = makeJoining(TCP);
  const packets = [0, 1, 2].map((index) => tcpPacket6(index, { tcp: { options: TIMESTAMPS } }));
  const datagrams = packets.map((packet) => fromEdge(packet));
  expectJoined(receive(scene, [{ datagrams, source: EDGE6 }]), packets);
  assert.equal(inboundCounts(scene, 'IPv6'), { rxPackets: 3, coalesced: 1, drops: {} });
});

test('and UDP datagrams, where that is asked for', () => {
  const packets = [0, 1, 2].map((index) => udpPacket(index));
  expectJoined(receive(makeJoining(TCP | UDP), [train(...packets)]), packets);
  expectJoined(receive(makeJoining(UDP), [train(...packets)]), packets);
  expectAlone(receive(makeJoining(TCP), [train(...packets)]), packets);
  const segments = [0, 1, 2].map((index) => tcpPacket(index));
  expectAlone(receive(makeJoining(UDP), [train(...segments)]), segments);
});

test('where nothing is joined, trains are gone through all the same', () => {
  const scene = makeJoining(0);
  const packets = [0, 1, 2, 3].map((index) => tcpPacket(index, index === 3 ? { size: 7 } : {}));
  expectAlone(receive(scene, [train(...packets)]), packets);
  assert.equal(inboundCounts(scene), { rxPackets: 4, coalesced: 0, drops: {} });
});

test('an Ethernet header is put in front where a TAP wants one', () => {
  const scene = makeJoining(TCP | UDP);
  const ip = { destination: '10.244.0.6' };
  const joined = [0, 1, 2].map((index) => tcpPacket(index, { ip }));
  // Behind each other, with nothing of one written over another's end.
  const alone = [0, 2, 4, 6].map((index) => tcpPacket(index, { ip }));
  const deliveries = receive(scene, [train(...alone), train(...joined), train(...alone)]);
  assert.is(deliveries.length, 9);
  assert.ok(deliveries.every(({ device }) => device === 'pod-b'));
  expectAlone(deliveries.slice(0, 4), alone);
  expectAlone(deliveries.slice(5), alone);
  const [super0] = deliveries.slice(4, 5);
  assert.is(toHex(super0?.packet ?? new Uint8Array(0)), toHex(oneHopOn(whole(joined))));
  assert.is(super0?.header.checksumStart, 34);
  assert.is(super0?.header.headerLength, 54);
});

/** A pair of packets of which the second goes on with the first, but for what is changed. */
const DIFFERENT: Record<string, Changes> = {
  'TOS': { ip: { tos: 4 } },
  'TTL': { ip: { ttl: 63 } },
  'DF': { ip: { dontFragment: false } },
  'a first fragment': { ip: { dontFragment: true, moreFragments: true } },
  'IPv4 options': { ip: { options: Uint8Array.of(1, 1, 1, 0) } },
  'source address': { ip: { source: '10.244.1.8' } },
  'destination address': { ip: { destination: '10.244.0.6' } },
  'source port': { tcp: { sourcePort: 40001 } },
  'destination port': { tcp: { destinationPort: 5202 } },
  'a gap': { tcp: { sequence: 1001 + SIZE } },
  'a repeated byte': { tcp: { sequence: 999 + SIZE } },
  'acknowledgment': { tcp: { acknowledgment: 3 } },
  'window': { tcp: { window: 65534 } },
  'urgent pointer': { tcp: { urgent: 1 } },
  'options': { tcp: { options: TIMESTAMPS } },
  'a reserved bit': { damage: resummed(32, 0x51) },
  'SYN': { tcp: { flags: FLAG.ack | FLAG.syn } },
  'RST': { tcp: { flags: FLAG.ack | FLAG.rst } },
  'URG': { tcp: { flags: FLAG.ack | FLAG.urg } },
  'ECE': { tcp: { flags: FLAG.ack | FLAG.ece } },
  'CWR': { tcp: { flags: FLAG.ack | FLAG.cwr } },
  'no ACK': { tcp: { flags: 0 } },
  'more payload': { size: SIZE + 1 },
  'no payload': { size: 0 },
  'a damaged payload': { damage: over(60, 0xff) },
  'a damaged TCP checksum': { damage: over(36, 0, 0) },
  'outer source address and port': { slot: { source: { ...EDGE, port: 40001 } } },
  'outer TOS': { slot: { tos: 0x20 } },
  'inner Ethernet destination': {
    frame: (packet) => fromEdge(packet, { destination: 'ff:ff:ff:ff:ff:ff' }),
  },
  'inner Ethernet source': { frame: (packet) => fromEdge(packet, { source: '0e:00:00:00:04:12' }) },
};

for (const [what, changes] of Object.entries(DIFFERENT)) {
  test(`not joined: ${what} differs`, () => {
    const packets = [tcpPacket(0), tcpPacket(1, changes)];
    const [first = tcpPacket(0), second = tcpPacket(1)] = packets;
    const deliveries = receive(makeJoining(TCP | UDP), [
      { datagrams: [fromEdge(first)] },
      { datagrams: [(changes.frame ?? fromEdge)(second)], ...changes.slot },
    ]);
    expectAlone(deliveries, packets);
  });
}

test('the pair of these tests is joined where nothing differs', () => {
  const packets = [tcpPacket(0), tcpPacket(1)];
  expectJoined(receive(makeJoining(TCP | UDP), singly(packets)), packets);
});

const DIFFERENT6: Record<string, Changes> = {
  'traffic class': { ip6: { trafficClass: 4 } },
  'flow label': { ip6: { flowLabel: 1 } },
  'hop limit': { ip6: { hopLimit: 63 } },
  'source address': { ip6: { source: 'fd00:10:244:1::8' } },
  'destination address': { ip6: { destination: 'fd00:10:244::5:0' } },
  'window': { tcp: { window: 1 } },
  'a damaged payload': { damage: over(80, 0xff) },
};

for (const [what, changes] of Object.entries(DIFFERENT6)) {
  test(`not joined in IPv6: ${what} differs`, () => {
    const packets = [tcpPacket6(0), tcpPacket6(1, changes)];
    const deliveries = receive(makeJoining(TCP), singly(packets, EDGE6));
    // No pod has the other destination: that one is answered, and only the first is delivered.
    expectAlone(deliveries, what === 'destination address' ? packets.slice(0, 1) : packets);
  });
}

test('not joined in IPv6: behind extension headers', () => {
  const upper = (index: number): Uint8Array => tcpPacket6(index).subarray(40);
  const extended = (header: Uint8Array, nextHeader: number) => [0, 1].map((index) =>
    ipv6({ ...ENDS6, nextHeader }, concat(header, upper(index))));
  for (const packets of [
    extended(optionsHeader(PROTOCOL.tcp), PROTOCOL.destinationOptions),
    extended(optionsHeader(PROTOCOL.tcp), PROTOCOL.hopByHop),
    extended(fragmentHeader(PROTOCOL.tcp, 0, true), PROTOCOL.fragment),
    extended(fragmentHeader(PROTOCOL.tcp, 0, false), PROTOCOL.fragment),
  ]) {
    expectAlone(receive(makeJoining(TCP), singly(packets, EDGE6)), packets);
    const mixed = [tcpPacket6(0), packets[1] ?? tcpPacket6(1)];
    expectAlone(receive(makeJoining(TCP), singly(mixed, EDGE6)), mixed);
  }
});

test('not joined in UDP: ports, a missing checksum, a length of its own', () => {
  const noChecksum = over(26, 0, 0);
  const short = (packet: Uint8Array): Uint8Array => resummed(24, ...word16(SIZE + 7))(packet);
  for (const second of [
    udpPacket(1, { ports: { sourcePort: 1 } }), udpPacket(1, { ports: { destinationPort: 1 } }),
    udpPacket(1, { damage: noChecksum }), udpPacket(1, { damage: short }),
    udpPacket(1, { size: SIZE + 1 }), udpPacket(1, { size: 0 }),
    udpPacket(1, { damage: over(60, 0xff) }), udpPacket(1, { ip: { identification: 9 } }),
  ]) {
    const packets = [udpPacket(0), second];
    expectAlone(receive(makeJoining(UDP), singly(packets)), packets);
  }
  // A payload that its own sum brings to 0, so that no checksum and a right one are the same.
  const tuned = udpPacket(0, { damage: resummed(28, 0, 0) });
  const zero = over(28, ...tuned.subarray(26, 28))(tuned);
  const nothing = over(26, 0, 0)(zero);
  assert.equal(resummed(0, 0x45)(zero).subarray(26, 28), Uint8Array.of(0, 0));
  expectAlone(receive(makeJoining(UDP), singly([nothing, udpPacket(1)])), [nothing, udpPacket(1)]);
  for (const damage of [noChecksum, short]) {
    const packets = [0, 1].map((index) => udpPacket(index, { damage }));
    expectAlone(receive(makeJoining(UDP), singly(packets)), packets);
  }
});

test('a head that says anything beside ACK is not followed', () => {
  for (const flags of [FLAG.psh, FLAG.fin, FLAG.syn, FLAG.rst, FLAG.urg, FLAG.ece, FLAG.cwr]) {
    const packets = [tcpPacket(0, { tcp: { flags: FLAG.ack | flags } }), tcpPacket(1)];
    expectAlone(receive(makeJoining(TCP), singly(packets)), packets);
  }
});

test('neither fragments nor packets with options are joined with their like', () => {
  const options = Uint8Array.of(1, 1, 1, 0);
  for (const ip of [{ moreFragments: true }, { offset: 4 }, { options }]) {
    const packets = [0, 1].map((index) => tcpPacket(index, { ip }));
    expectAlone(receive(makeJoining(TCP), singly(packets)), packets);
  }
});

test('a head whose checksum is wrong stays alone, and the next is one itself', () => {
  const packets = [tcpPacket(0, { damage: over(50, 0xff) }), tcpPacket(1), tcpPacket(2)];
  const deliveries = receive(makeJoining(TCP), [train(...packets)]);
  expectAlone(deliveries.slice(0, 1), packets.slice(0, 1));
  expectJoined(deliveries.slice(1), packets.slice(1));
});

test('what a checksum of the pseudo-header alone is in, travels as it came', () => {
  const packets = [0, 1, 2].map((index) => unfinished(tcpPacket(index)));
  expectAlone(receive(makeJoining(TCP), [train(...packets)]), packets);
});

test('a wrong IPv4 header checksum is a drop, not an end of the stream', () => {
  const scene = makeJoining(TCP);
  const packets = [tcpPacket(0), tcpPacket(1), tcpPacket(2, { damage: over(10, 1, 1) }),
    tcpPacket(3), tcpPacket(4)];
  const deliveries = receive(scene, [train(...packets)]);
  expectJoined(deliveries.slice(0, 1), packets.slice(0, 2));
  expectJoined(deliveries.slice(1), packets.slice(3));
  assert.equal(inboundCounts(scene),
    { rxPackets: 4, coalesced: 2, drops: { headerChecksum: 1 } });
});

test('a shorter payload, PSH and FIN end a run, and are its last', () => {
  const ends: Changes[] = [{ size: 99 }, { size: 1 }, { tcp: { flags: FLAG.ack | FLAG.psh } },
    { tcp: { flags: FLAG.ack | FLAG.psh | FLAG.fin } }, { tcp: { flags: FLAG.ack | FLAG.fin } }];
  for (const end of ends) {
    const packets = [tcpPacket(0), tcpPacket(1), tcpPacket(2, end),
      tcpPacket(3, { tcp: { sequence: 1000 + (2 * SIZE) + (end.size ?? SIZE) } })];
    const deliveries = receive(makeJoining(TCP), singly(packets));
    expectJoined(deliveries.slice(0, 1), packets.slice(0, 3));
    expectAlone(deliveries.slice(1), packets.slice(3));
  }
  const datagrams = [udpPacket(0), udpPacket(1, { size: 99 }), udpPacket(2, { size: 99 })];
  const deliveries = receive(makeJoining(UDP), singly(datagrams));
  expectJoined(deliveries.slice(0, 1), datagrams.slice(0, 2));
  expectAlone(deliveries.slice(1), datagrams.slice(2));
});

test('timestamps are joined while they are the same', () => {
  const later = TIMESTAMPS.slice();
  later[7] = 2;
  const packets = [TIMESTAMPS, TIMESTAMPS, later, later].map((options, index) =>
    tcpPacket(index, { tcp: { options } }));
  const deliveries = receive(makeJoining(TCP), [train(...packets)]);
  expectJoined(deliveries.slice(0, 1), packets.slice(0, 2));
  expectJoined(deliveries.slice(1), packets.slice(2));
});

test('sequence numbers go on beyond their end', () => {
  const packets = [0xffff_ff9c, 0, 100].map((sequence, index) =>
    tcpPacket(index, { tcp: { sequence } }));
  expectJoined(receive(makeJoining(TCP), [train(...packets)]), packets);
});

test('identifications count up where DF is clear, and mean nothing where it is set', () => {
  const numbered = (dontFragment: boolean, ...numbers: number[]): Uint8Array[] =>
    numbers.map((identification, index) =>
      tcpPacket(index, { ip: { dontFragment, identification } }));
  const run = (packets: Uint8Array[]) => receive(makeJoining(TCP), [train(...packets)]);
  for (const numbers of [[7, 8, 9], [65534, 65535, 0]]) {
    const packets = numbered(false, ...numbers);
    expectJoined(run(packets), packets);
  }
  for (const numbers of [[7, 7], [7, 9], [7, 6]]) {
    const packets = numbered(false, ...numbers);
    expectAlone(run(packets), packets);
  }
  for (const numbers of [[0, 0, 0], [7, 8, 9], [7, 1, 65535]]) {
    const packets = numbered(true, ...numbers);
    expectJoined(run(packets), packets);
  }
});

test('padding behind a packet is not joined with it, nor what it hides', () => {
  const pad = (packet: Uint8Array): Uint8Array => concat(packet, new Uint8Array(10).fill(0xee));
  const packets = [tcpPacket(0), tcpPacket(1), tcpPacket(2, { size: 3 })];
  expectJoined(receive(makeJoining(TCP), singly(packets.map(pad))), packets);
  // An acknowledgment sent once more says something by coming alone.
  const bare = [tcpPacket(0), tcpPacket(1, { size: 0 })];
  expectAlone(receive(makeJoining(TCP), singly(bare.map(pad))), bare);
});

test('a packet that is longer than its datagram takes nothing of the next', () => {
  const next = fromEdge(tcpPacket(2));
  const reaching = tcp({ ...ENDS, ...PORTS, sequence: 1000 + SIZE },
    concat(payload(1, SIZE - 10), next.subarray(0, 10)));
  const whole1 = fromEdge(ipv4({ ...ENDS, protocol: PROTOCOL.tcp, dontFragment: true }, reaching));
  const scene = makeJoining(TCP);
  const datagrams = [whole1.subarray(0, whole1.length - 10), next.subarray(0, whole1.length - 10)];
  const deliveries = receive(scene, [train(tcpPacket(0)), { datagrams }]);
  expectAlone(deliveries, [tcpPacket(0)]);
  assert.is(inboundCounts(scene).drops.tooShort, 2);
});

test('a checksum does not stand in for the addresses it is made of', () => {
  for (const [at, last] of [[15, 9], [19, 6]] as const) {
    const readdressed = over(at, last)(tcpPacket(1));
    readdressed.set([0, 0], 10);
    readdressed.set(word16(internetChecksum(readdressed.subarray(0, 20))), 10);
    const packets = [tcpPacket(0), readdressed];
    expectAlone(receive(makeJoining(TCP), singly(packets)), packets);
  }
  const packets = [tcpPacket6(0), over(23, 9)(tcpPacket6(1))];
  expectAlone(receive(makeJoining(TCP), singly(packets, EDGE6)), packets);
});

test('a run that a worker left behind when it died is not gone on with', () => {
  const scene = makeJoining(TCP);
  const run = layout.WORKERS_START + layout.WORKER_RUN;
  scene.core.view.setUint16(run + layout.DESCRIPTOR_SEGMENTS, 2, true);
  const packets = [tcpPacket(0), tcpPacket(1)];
  expectJoined(receive(scene, [train(...packets)]), packets);
  assert.equal(inboundCounts(scene), { rxPackets: 2, coalesced: 1, drops: {} });
});

test('a run goes on in the next slot, and ends with the batch', () => {
  const scene = makeJoining(TCP);
  const packets = Array.from({ length: 8 }, (_, index) => tcpPacket(index));
  const [before, after] = [packets.slice(0, 6), packets.slice(6)];
  const slots = [train(...before.slice(0, 2)), train(...before.slice(2))];
  expectJoined(receive(scene, slots), before);
  expectJoined(receive(scene, [train(...after)]), after);
  assert.equal(inboundCounts(scene), { rxPackets: 8, coalesced: 2, drops: {} });
});

test('other packets in between end it: of a stranger, of a pod, of another flow', () => {
  const packets = [0, 1, 2, 3].map((index) => tcpPacket(index));
  const others: Arrival[] = [
    { datagrams: [fromEdge(tcpPacket(0))], source: { address: '203.0.113.9', port: 1 } },
    { datagrams: [udpPacket(0, { ip: { source: '10.244.0.5', destination: '10.244.0.6' } })],
      device: 'pod-a' },
    train(tcpPacket(0, { ip: { source: '10.244.1.9' } })),
    { datagrams: [Uint8Array.of(1, 2, 3)] },
  ];
  for (const other of others) {
    const deliveries = receive(makeJoining(TCP),
      [train(...packets.slice(0, 2)), other, train(...packets.slice(2))]);
    expectJoined(deliveries.slice(0, 1), packets.slice(0, 2));
    expectJoined(deliveries.slice(-1), packets.slice(2));
  }
});

test('each datagram is counted: of strangers, too short, foreign, beyond the limit', () => {
  const scene = makeJoining(TCP);
  const packets = [0, 1, 2].map((index) => tcpPacket(index));
  receive(scene, [{ ...train(...packets), source: { address: '203.0.113.9', port: 1 } }]);
  const foreign = [0, 1].map((index) => tcpPacket(index, { ip: { source: '10.244.2.7' } }));
  receive(scene, [train(...foreign)]);
  const cut = fromEdge(tcpPacket(3)).subarray(0, 30);
  receive(scene, [{ datagrams: [...packets.map((packet) => fromEdge(packet)), cut] }]);
  const specks = Array.from({ length: layout.SEGMENTS_MAX + 50 }, () => Uint8Array.of(1));
  receive(scene, [{ datagrams: specks }]);
  assert.equal(inboundCounts(scene), { rxPackets: 3, coalesced: 1, drops: {
    unknownPeer: 3, foreignSource: 2, tooShort: 1 + layout.SEGMENTS_MAX, offload: 50,
  } });
});

test('what policy denies counts as many packets as were joined', () => {
  const scene = makeJoining(TCP);
  const policy = new PolicyTables(scene.core, TEST_LIMITS.policy);
  const denied = program([{ protocol: 6, first: 80, last: 80 }]);
  policy.apply(change({
    ruleSets: [ruleSet(1, DENY_ALL, [[1, denied]])], identities: [['10.0.0.0/8', 1]],
    endpoints: [...scene.endpoints].map(([name, { owner }]) =>
      ({ namespace: 'test', name, uid: owner, ingress: 1, egress: 1 })),
  }), (_namespace, name) => scene.endpoints.get(name)?.device ?? null);
  const packets = [0, 1, 2, 3].map((index) => tcpPacket(index));
  assert.equal(receive(scene, [train(...packets)]), []);
  const allowed = packets.map((_, index) => tcpPacket(index, { tcp: { destinationPort: 80 } }));
  expectJoined(receive(scene, [train(...allowed)]), allowed);
  assert.equal(inboundCounts(scene), { rxPackets: 8, coalesced: 2, drops: { policyIngress: 4 } });
});

test('an ICMP error about a run quotes its first packet, and spares what lies in front', () => {
  const scene = makeJoining(TCP);
  const kept = [0, 1].map((index) => tcpPacket(index));
  // No pod has this address. The answer's headers are longer than what is free before the quote.
  const lost = [0, 1, 2].map((index) => tcpPacket(index, { ip: { destination: '10.244.0.77' } }));
  const deliveries = receive(scene, [train(...kept, ...lost)]);
  expectJoined(deliveries, kept);
  const [, answer] = readSends(scene);
  assert.is(answer?.device, layout.DEVICE_UNDERLAY_IPV4);
  const [first = new Uint8Array(0)] = lost;
  const error = answer?.bytes.subarray(22) ?? new Uint8Array(0);
  assert.is(error.length, 20 + 8 + first.length);
  assert.is(error[20], 3, 'destination unreachable');
  // All but the TCP checksum, which was left to the kernel.
  assert.is(toHex(error.subarray(28, 64)), toHex(first.subarray(0, 36)));
  assert.is(toHex(error.subarray(66)), toHex(first.subarray(38)));
  assert.is(answer?.packets, 1);
  assert.is(inboundCounts(scene).drops.noRoute, 3);
});

test('a run is at most as long as a packet can be, and as a list of pieces may', () => {
  const many = Array.from({ length: 300 }, (_, index) => tcpPacket(index));
  const counts = receive(makeJoining(TCP), [train(...many)]).map(({ packets }) => packets);
  assert.equal(counts, [127, 127, 46]);
  const size = 1460;
  const stream = (index: number, length = size): Uint8Array =>
    tcpPacket(index, { size: length, tcp: { sequence: index * size } });
  const full = Array.from({ length: 44 }, (_, index) => stream(index));
  // 40 bytes of headers and 44 payloads of 1,460 are 64,280 bytes: 1,255 more fit.
  const exact = [...full, stream(44, 1255)];
  const slots = [train(...exact.slice(0, 40)), train(...exact.slice(40))];
  expectJoined(receive(makeJoining(TCP), slots), exact);
  const beyond = [...full, stream(44, 1256)];
  const deliveries = receive(makeJoining(TCP), [train(...beyond.slice(0, 40)),
    train(...beyond.slice(40))]);
  expectJoined(deliveries.slice(0, 1), full);
  expectAlone(deliveries.slice(1), beyond.slice(44));
});

test.run();
