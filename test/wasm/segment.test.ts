// Super-packets cut by header only: every byte against the slow twin, and the outbox they go into.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { readDrops, readEvents, readTraffic } from '../../engine/counters.ts';
import * as layout from '../../wasm/abi/layout.ts';
import { finishChecksum, gsoTypeOf, segment, unfinished } from '../reference/offload.ts';
import { fromEdge, placeArrival } from '../support/arrivals.ts';
import { TEST_LIMITS } from '../support/core.ts';
import { deviceIndex, makeHome } from '../support/home.ts';
import { innerOf, placeBehind, runBatches, runOne, setPointers, setVnetSize, withHopSpent,
  type Send } from '../support/offload.ts';
import { PROTOCOL, concat, ipv4, ipv6, optionsHeader, parseEthernet, parseIpv4, parseVxlan,
  read16, tcp, toHex, udp } from '../support/packets.ts';
import { Random } from '../support/random.ts';
import type { Scene } from '../support/scene.ts';
import { Trains, type Ends } from '../support/trains.ts';
import { GSO, VNET_FLAG, vnet } from '../support/vnet.ts';

const SEED = 3168;
const ROUNDS = 600;
const LIMIT = 64;
const HEADERS = layout.PEER_HEADER_SIZE;
const FIELDS4 = { source: '10.244.0.5', destination: '10.244.1.7' };
const FIELDS6 = { source: 'fd00:10:244::5', destination: 'fd00:10:244:1::7' };
const ENDS: Ends[] = [
  { family: 'IPv4', ...FIELDS4 }, { family: 'IPv6', ...FIELDS6 },
];
const PORTS = { sourcePort: 40000, destinationPort: 5201 };
const FLAG = { fin: 0x01, psh: 0x08, ack: 0x10, cwr: 0x80 };

/** A home whose pod-a is read with vnet headers. */
function makeOffloadHome(segmentLimit = LIMIT, changes = {}): { scene: Scene; pod: number } {
  const scene = makeHome(changes);
  const pod = deviceIndex(scene, 'pod-a');
  setVnetSize(scene.core, pod);
  setPointers(scene.core, segmentLimit);
  return { scene, pod };
}

function header(packet: Uint8Array, gsoSize: number, start: number): Uint8Array {
  const gsoType = gsoTypeOf(packet);
  return vnet({ flags: VNET_FLAG.needsChecksum, gsoType, gsoSize, checksumStart: start,
    checksumOffset: gsoType === GSO.udp ? 6 : 16 });
}

/** A super-packet of TCP over IPv4. */
function tcp4(size: number, more: { flags?: number; tos?: number; dontFragment?: boolean } = {}):
Uint8Array {
  const upper = tcp({ ...FIELDS4, ...PORTS, flags: more.flags ?? FLAG.ack }, pattern(size));
  return unfinished(ipv4({ ...FIELDS4, dontFragment: true, ...more, protocol: PROTOCOL.tcp },
    upper));
}

function pattern(size: number): Uint8Array {
  return Uint8Array.from({ length: size }, (_, index) => index * 7);
}

function expectCut(sends: Send[], packet: Uint8Array, segmentSize: number): void {
  const expected = segment(withHopSpent(packet), { gsoType: gsoTypeOf(packet), segmentSize });
  const found = sends.flatMap(({ datagrams }) => datagrams);
  assert.is(found.length, expected.length);
  for (const [index, datagram] of found.entries()) {
    const wanted = expected[index] ?? new Uint8Array(0);
    if (Buffer.compare(innerOf(datagram), wanted) === 0) continue;
    assert.is(toHex(innerOf(datagram)), toHex(wanted), `packet ${index} of ${expected.length}`);
  }
}

test('every packet is what the slow twin makes', () => {
  const random = new Random(SEED);
  const trains = new Trains(random);
  const { scene: { core }, pod } = makeOffloadHome(LIMIT, { underlayMtu: 9000 });
  for (let round = 0; round < ROUNDS; round += 1) {
    const stream = trains.stream(random.pick(ENDS));
    const segmentSize = random.pick([1200, 1388, 1, 7, random.between(1, 1400), 536]);
    const most = Math.min(segmentSize * layout.SEGMENTS_MAX, 65_000);
    const size = random.pick([segmentSize + 1, (2 * segmentSize), (3 * segmentSize) - 1, most,
      random.between(segmentSize, most)]);
    const flags = random.below(256) | FLAG.ack;
    const { header: vnetHeader, packet } = trains.whole(stream, size, segmentSize, {
      flags: random.pick([flags, FLAG.ack]), urgent: random.below(3),
      ipOptions: stream.family === 'IPv4' && random.oneIn(4) ? random.pick([
        Uint8Array.of(1, 1, 1), Uint8Array.of(7, 7, 4, 0, 0, 0, 0), new Uint8Array(40).fill(1),
      ]) : new Uint8Array(0),
    });
    const sends = runOne(core, vnetHeader, packet, pod);
    expectCut(sends, packet, segmentSize);
    const isCut = size > segmentSize;
    for (const send of sends) {
      assert.is(send.device, layout.DEVICE_UNDERLAY_IPV4 + ENDS.findIndex(({ family }) =>
        family === stream.family));
      assert.is(send.tos, stream.tos & 3, 'only ECN goes outside');
      assert.is(send.packets, send.datagrams.length);
      assert.ok(send.packets <= LIMIT && send.bytes.length <= layout.DATAGRAMS_BYTES_MAX);
      assert.is(send.pieces, isCut ? send.packets * 2 : 1);
    }
  }
});

test('in front of each packet are the peer\'s headers', () => {
  const { scene: { core }, pod } = makeOffloadHome();
  const packet = tcp4(3000);
  const [send] = runOne(core, header(packet, 1000, 20), packet, pod);
  assert.is(send?.datagrams.length, 3);
  for (const datagram of send?.datagrams ?? []) {
    const { vni, flags, frame } = parseVxlan(datagram);
    assert.equal([vni, flags], [1, 8]);
    const { destination, source, type } = parseEthernet(frame);
    assert.is(toHex(destination), '0e 00 00 00 04 11');
    assert.is(toHex(source), '0e 00 00 00 04 10');
    assert.is(type, 0x0800);
  }
});

test('flags are with the packets that they belong to', () => {
  const { scene: { core }, pod } = makeOffloadHome();
  const packet = tcp4(2500, { flags: 0xff });
  const [send] = runOne(core, header(packet, 1000, 20), packet, pod);
  const flags = send?.datagrams.map((datagram) => innerOf(datagram)[33]);
  assert.equal(flags, [0xff & ~(FLAG.fin | FLAG.psh),
    0xff & ~(FLAG.fin | FLAG.psh | FLAG.cwr), 0xff & ~FLAG.cwr]);
});

test('the last packet may have one byte', () => {
  const { scene: { core }, pod } = makeOffloadHome();
  for (const [size, segmentSize] of [[1401, 700], [3, 1], [1389, 1388]] as const) {
    const packet = tcp4(size);
    const sends = runOne(core, header(packet, segmentSize, 20), packet, pod);
    expectCut(sends, packet, segmentSize);
    assert.is(sends.at(-1)?.datagrams.at(-1)?.length, HEADERS + 41);
  }
});

test('extension headers of IPv6 go in front of each packet', () => {
  const { scene: { core }, pod } = makeOffloadHome();
  const behind = [
    { protocol: PROTOCOL.tcp, upper: tcp({ ...FIELDS6, ...PORTS }, pattern(4000)) },
    { protocol: PROTOCOL.udp, upper: udp({ ...FIELDS6, ...PORTS }, pattern(4000)) },
  ];
  for (const { protocol, upper } of behind) {
    for (const units of [1, 8]) {
      const packet = unfinished(ipv6({ ...FIELDS6, nextHeader: PROTOCOL.destinationOptions },
        concat(optionsHeader(protocol, units), upper)));
      const sends = runOne(core, header(packet, 1111, 40 + (8 * units)), packet, pod);
      expectCut(sends, packet, 1111);
    }
  }
});

test('headers that fill a block are cut, larger ones refused', () => {
  const { scene: { core }, pod } = makeOffloadHome();
  const room = layout.HEADER_STRIDE - HEADERS;
  for (const units of [13, 14]) {
    const upper = tcp({ ...FIELDS6, ...PORTS, options: new Uint8Array(4).fill(1) }, pattern(2000));
    const packet = unfinished(ipv6({ ...FIELDS6, nextHeader: PROTOCOL.destinationOptions },
      concat(optionsHeader(PROTOCOL.tcp, units), upper)));
    const headers = 40 + (8 * units) + 24;
    const sends = runOne(core, header(packet, 900, headers - 24), packet, pod);
    if (headers <= room) expectCut(sends, packet, 900);
    else assert.is(sends.length, 0);
  }
  assert.is(readDrops(core, 'outbound').offload, 1);
});

test('a UDP checksum of 0 is sent as all ones', () => {
  const { scene: { core }, pod } = makeOffloadHome();
  const size = 1000;
  // The second packet's last two bytes make up for what the rest of it sums to.
  const tuned = udp({ ...FIELDS4, ...PORTS }, new Uint8Array(size)).slice(6, 8);
  const payload = new Uint8Array(2 * size);
  payload.set(tuned, (2 * size) - 2);
  const packet = unfinished(ipv4({ ...FIELDS4, protocol: PROTOCOL.udp, dontFragment: true },
    udp({ ...FIELDS4, ...PORTS }, payload)));
  const sends = runOne(core, header(packet, size, 20), packet, pod);
  expectCut(sends, packet, size);
  const last = innerOf(sends[0]?.datagrams[1] ?? new Uint8Array(0));
  assert.is(toHex(last.subarray(26, 28)), 'ff ff');
});

test('datagrams of one size are one send, as many as the kernel cuts', () => {
  for (const [limit, counts] of [
    [64, [44, 2]], [8, [8, 8, 8, 8, 8, 6]], [1, new Array<number>(46).fill(1)],
  ] as const) {
    const { scene: { core }, pod } = makeOffloadHome(limit);
    const packet = tcp4((45 * 1400) + 1);
    const sends = runOne(core, header(packet, 1400, 20), packet, pod);
    assert.equal(sends.map(({ packets }) => packets), counts);
    for (const { packets, segmentSize } of sends) {
      assert.is(segmentSize, packets > 1 ? HEADERS + 1440 : 0);
    }
    expectCut(sends, packet, 1400);
  }
});

test('a send is joined by the flow\'s next packets, until one is shorter', () => {
  const { scene: { core }, pod } = makeOffloadHome();
  const [even, short] = [tcp4(2000), tcp4(1500)];
  const other = unfinished(ipv4({ ...FIELDS4, protocol: PROTOCOL.tcp },
    tcp({ ...FIELDS4, ...PORTS, sourcePort: 40001 }, pattern(2000))));
  const slots = [even, even, short, even, other, other];
  for (const [slot, packet] of slots.entries()) {
    placeBehind(core, slot, header(packet, 1000, 20), packet, pod);
  }
  const sends = runBatches(core, slots.length).flat();
  assert.equal(sends.map(({ packets }) => packets), [6, 2, 4]);
});

test('a packet larger than the path is refused once, and told once', () => {
  for (const [packet, start] of [[tcp4(5000), 20], [unfinished(ipv6(
    { ...FIELDS6, nextHeader: PROTOCOL.tcp }, tcp({ ...FIELDS6, ...PORTS }, pattern(5000)))), 40],
  ] as const) {
    const { scene: { core }, pod } = makeOffloadHome();
    // The path takes 1,450 bytes of IPv4 and 1,430 of IPv6.
    const fits = (start === 20 ? 1450 : 1430) - start - 20;
    const sends = runOne(core, header(packet, fits + 1, start), packet, pod);
    assert.equal(sends.map(({ device }) => device), [pod]);
    assert.is(toHex(sends[0]?.bytes.subarray(0, 10) ?? []), toHex(vnet({})));
    const error = sends[0]?.bytes.subarray(10) ?? new Uint8Array(0);
    const quote = error.subarray(start + 8);
    if (start === 20) {
      assert.equal([...error.subarray(20, 22)], [3, 4]);
      assert.is(parseIpv4(quote).totalLength, start + 20 + fits + 1);
      assert.is(toHex(quote.subarray(20, 28)), toHex(packet.subarray(20, 28)));
    } else {
      assert.equal([...error.subarray(40, 42)], [2, 0]);
      assert.is((quote[4] ?? 0) * 256 + (quote[5] ?? 0), 20 + fits + 1);
    }
    assert.is(readDrops(core, 'outbound').tooBig, Math.ceil(5000 / (fits + 1)));
    assert.is(readEvents(core).icmpSent, 1);
    assert.is(readEvents(core).segmented, 0);
    expectCut(runOne(core, header(packet, fits, start), packet, pod), packet, fits);
  }
});

test('without DF the outer datagrams are fragmented, each by itself', () => {
  const { scene: { core }, pod } = makeOffloadHome();
  for (const [size, over] of [[4500, 3], [5200, 3], [5950, 4], [3001, 2]] as const) {
    const before = readEvents(core).outerFragmented ?? 0;
    const packet = tcp4(size, { dontFragment: false });
    const sends = runOne(core, header(packet, 1500, 20), packet, pod);
    expectCut(sends, packet, 1500);
    assert.ok(sends.every(({ packets, flags }) =>
      packets === 1 && flags === layout.SEND_FLAG_CLOSED));
    assert.is((readEvents(core).outerFragmented ?? 0) - before, over);
  }
});

test('counters count packets', () => {
  const { scene: { core, forwarding, endpoints }, pod } = makeOffloadHome();
  const packet = tcp4(10_000);
  runOne(core, header(packet, 1000, 20), packet, pod);
  const from = readTraffic(core, endpoints.get('pod-a')?.nextHop ?? 0);
  const to = readTraffic(core, forwarding.peers.get('edge/IPv4')?.nextHop ?? 0);
  assert.equal([from.rxPackets, from.rxBytes], [10, packet.length]);
  assert.equal([to.txPackets, to.txBytes], [10, packet.length]);
  assert.is(readEvents(core).segmented, 1);
});

test('the TTL is spent once; without one the first packet is told of', () => {
  const { scene: { core }, pod } = makeOffloadHome();
  const upper = tcp({ ...FIELDS4, ...PORTS }, pattern(3000));
  const packet = unfinished(ipv4({ ...FIELDS4, protocol: PROTOCOL.tcp, ttl: 1 }, upper));
  const sends = runOne(core, header(packet, 1000, 20), packet, pod);
  assert.equal(sends.map(({ device }) => device), [pod]);
  assert.is(sends[0]?.bytes[10 + 20], 11);
  assert.is(readDrops(core, 'outbound').hopLimit, 3);
});

test('a batch too large for the outbox is done in several calls, and nothing is lost', () => {
  const { scene: { core }, pod } = makeOffloadHome(1);
  const slots = TEST_LIMITS.slots;
  const packets = Array.from({ length: slots }, (_, slot) =>
    slot % 3 === 0 ? tcp4(layout.SEGMENTS_MAX) : tcp4(900 + slot));
  for (const [slot, packet] of packets.entries()) {
    placeBehind(core, slot, header(packet, 1, 20), packet, pod);
  }
  const calls = runBatches(core, slots);
  assert.ok(calls.length > slots / 2, `${calls.length} calls`);
  const found = calls.flat();
  assert.is(found.length, packets.reduce((sum, packet) => sum + packet.length - 40, 0));
  let at = 0;
  for (const packet of packets) {
    expectCut(found.slice(at, at + packet.length - 40), packet, 1);
    at += packet.length - 40;
  }
  assert.is(readEvents(core).segmented, slots);
});

test('more packets than SEGMENTS_MAX are refused', () => {
  const { scene: { core }, pod } = makeOffloadHome();
  const most = tcp4(layout.SEGMENTS_MAX * 2);
  assert.ok(runOne(core, header(most, 2, 20), most, pod).length > 0);
  const more = tcp4((layout.SEGMENTS_MAX * 2) + 1);
  assert.is(runOne(core, header(more, 2, 20), more, pod).length, 0);
  assert.is(readDrops(core, 'outbound').offload, 1);
});

test('a device without vnet headers gets the packets one by one', () => {
  for (const name of ['pod-b', 'node'] as const) {
    const { scene, pod } = makeOffloadHome();
    const { core } = scene;
    const device = deviceIndex(scene, name);
    const to = name === 'pod-b' ? '10.244.0.6' : '192.0.2.10';
    const fields = { source: FIELDS4.source, destination: to };
    const packet = unfinished(ipv4({ ...fields, protocol: PROTOCOL.tcp },
      tcp({ ...fields, ...PORTS }, pattern(2500))));
    const sends = runOne(core, header(packet, 1000, 20), packet, pod);
    const spent = name === 'pod-b' ? withHopSpent(packet) : packet;
    const expected = segment(spent, { gsoType: GSO.tcpv4, segmentSize: 1000 });
    assert.is(sends.length, 3);
    for (const [index, send] of sends.entries()) {
      assert.is(send.device, device);
      const link = name === 'pod-b' ? 14 : 0;
      if (link > 0) assert.is(toHex(send.bytes.subarray(0, 6)), '0a 00 00 00 00 06');
      assert.is(toHex(send.bytes.subarray(link)), toHex(expected[index] ?? []));
    }
    assert.is(readEvents(core).segmented, 1);
  }
});

test('what was joined is cut again for a device without vnet headers', () => {
  const trains = new Trains(new Random(SEED));
  for (const [name, destination, link] of [
    ['pod-a', '10.244.0.5', 0], ['pod-b', '10.244.0.6', 14],
  ] as const) {
    const scene = makeHome();
    setPointers(scene.core, LIMIT);
    scene.core.setDirectory(layout.DIRECTORY_COALESCE, layout.COALESCE_TCP);
    const stream = trains.stream({ family: 'IPv4', source: '10.244.1.7', destination },
      PROTOCOL.tcp);
    const packets = trains.train({ ...stream, tos: 0, dontFragment: false }, 5, 1000, 1);
    placeArrival(scene, 0, { datagrams: packets.map((packet) => fromEdge(packet)) });
    const sends = runBatches(scene.core, 1).flat();
    assert.ok(sends.every(({ device }) => device === deviceIndex(scene, name)));
    assert.equal(sends.map(({ bytes }) => toHex(bytes.subarray(link))),
      packets.map((packet) => toHex(withHopSpent(packet))));
    assert.equal([readEvents(scene.core).coalesced, readEvents(scene.core).segmented], [1, 1]);
  }
});

test('pieces of a run that came to nothing are no part of another send', () => {
  const trains = new Trains(new Random(SEED));
  const scene = makeHome();
  setPointers(scene.core, LIMIT);
  scene.core.setDirectory(layout.DIRECTORY_COALESCE, layout.COALESCE_TCP);
  // Each run is answered with an error, which is like the one before: of one flow and length.
  for (const [slot, sourcePort] of [4000, 4001, 4002].entries()) {
    const stream = trains.stream(
      { family: 'IPv4', source: '10.244.1.7', destination: '10.244.0.5' }, PROTOCOL.tcp);
    const packets = trains.train({ ...stream, sourcePort, ttl: 1, tos: 0 }, 4, 1000);
    placeArrival(scene, slot, { datagrams: packets.map((packet) => fromEdge(packet)) });
  }
  const sends = runBatches(scene.core, 3).flat();
  const errors = sends.flatMap(({ datagrams }) => datagrams.map(innerOf));
  assert.is(errors.length, 3);
  for (const [index, error] of errors.entries()) {
    assert.equal([error[20], parseIpv4(error).totalLength], [11, error.length]);
    assert.is(read16(error, 20 + 8 + 20), 4000 + index);
  }
});

test('a checksum that is left to do is finished before a packet leaves the node', () => {
  const { scene: { core }, pod } = makeOffloadHome();
  const packet = unfinished(ipv4({ ...FIELDS4, protocol: PROTOCOL.udp },
    udp({ ...FIELDS4, ...PORTS }, pattern(777))));
  const asked = vnet({ flags: VNET_FLAG.needsChecksum, checksumStart: 20, checksumOffset: 6 });
  const [send] = runOne(core, asked, packet, pod);
  const expected = finishChecksum(withHopSpent(packet), 20, 6);
  assert.is(toHex(innerOf(send?.bytes ?? new Uint8Array(0))), toHex(expected));
});

test.run();
