// The twin of cutting and joining, on its own: what RFCs say of the packets it makes, and that each
// way undoes the other.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { PROTOCOL, concat, ethernet, fromHex, internetChecksum, ipv4, parseIpv4, read16, read32,
  tcp, toHex, transportChecksum, udp } from '../support/packets.ts';
import { Random } from '../support/random.ts';
import { Trains, type Ends } from '../support/trains.ts';
import { GSO, parseVnet, vnet } from '../support/vnet.ts';
import { coalesce, comparable, finishChecksum, gsoTypeOf, segment, takeApart, unfinished, vnetOf,
  type Joined } from './offload.ts';

const BOTH = { tcp: true, udp: true };
const ROUNDS = 400;
const ENDS: Ends[] = [
  { family: 'IPv4', source: '10.244.0.5', destination: '10.244.1.7' },
  { family: 'IPv6', source: 'fd00:10:244::5', destination: 'fd00:10:244:1::7' },
];

function joinAll(packets: readonly Uint8Array[], kinds = BOTH): Joined[] {
  return coalesce(packets.map((packet) => ({ packet, from: 'one peer' })), kinds);
}

function cut({ packet, gsoSize }: Joined): Uint8Array[] {
  return segment(packet, { gsoType: gsoTypeOf(packet), segmentSize: gsoSize });
}

function hex(packets: readonly Uint8Array[]): string[] {
  return packets.map(toHex);
}

function flagsOf(packet: Uint8Array): number {
  return takeApart(packet).transport[13] ?? 0;
}

/** Every checksum of a packet holds when it sums to nothing with what it covers. */
function assertSums(packet: Uint8Array): void {
  const { ip, transport } = takeApart(packet);
  const isIpv4 = (packet[0] ?? 0) >> 4 === 4;
  if (isIpv4) assert.is(internetChecksum(ip), 0, 'IPv4 header checksum');
  const [source, destination] = isIpv4
    ? [packet.slice(12, 16), packet.slice(16, 20)]
    : [packet.slice(8, 24), packet.slice(24, 40)];
  const protocol = packet[isIpv4 ? 9 : 6] ?? 0;
  const upper = packet.subarray(ip.length);
  assert.is(transportChecksum(source, destination, protocol, upper), 0, 'transport checksum');
  assert.ok(protocol !== PROTOCOL.udp || read16(transport, 6) !== 0, 'UDP has a checksum');
}

test('sums are those of RFC 1071 section 3', () => {
  const sum = internetChecksum(fromHex('00 01 f2 03 f4 f5 f6 f7'));
  assert.is(sum, 0xffff - 0xddf2);
});

test('a super-packet of TCP becomes packets in sequence, each complete', () => {
  const fields = { source: '10.0.0.1', destination: '10.0.0.2', sourcePort: 1, destinationPort: 2 };
  const upper = tcp({ ...fields, sequence: 0xffff_fffe, flags: 0x99 }, fromHex('61 62 63 64 65'));
  const whole = unfinished(
    ipv4({ ...fields, protocol: PROTOCOL.tcp, identification: 0xffff }, upper));
  const packets = segment(whole, { gsoType: GSO.tcpv4, segmentSize: 2 });
  assert.equal(packets.map((packet) => takeApart(packet).payload.length), [2, 2, 1]);
  // RFC 9293 section 3.4: numbers go on modulo 2^32.
  assert.equal(packets.map((packet) => read32(packet, 24)), [0xffff_fffe, 0, 2]);
  assert.equal(packets.map((packet) => parseIpv4(packet).identification), [0xffff, 0, 1]);
  assert.equal(packets.map((packet) => parseIpv4(packet).totalLength), [42, 42, 41]);
  // RFC 3168 section 6.1.2: CWR in the first; PSH and FIN go with the last byte.
  assert.equal(packets.map(flagsOf), [0x90, 0x10, 0x19]);
  packets.forEach(assertSums);
});

test('a sum of 0 is all ones in UDP (RFC 768)', () => {
  const fields = { source: '10.0.0.1', destination: '10.0.0.2', sourcePort: 1, destinationPort: 2 };
  const zero = udp(fields, Uint8Array.of(0, 0));
  // The payload makes up for what the rest sums to.
  const tuned = udp(fields, zero.slice(6, 8));
  assert.is(read16(tuned, 6), 0xffff);
  const whole = unfinished(ipv4({ ...fields, protocol: PROTOCOL.udp },
    udp(fields, concat(zero.slice(6, 8), zero.slice(6, 8)))));
  const packets = segment(whole, { gsoType: GSO.udp, segmentSize: 2 });
  assert.equal(packets.map((packet) => read16(packet, 26)), [0xffff, 0xffff]);
});

test('a checksum that was left to us may lie anywhere', () => {
  const fields = { source: '10.0.0.1', destination: '10.0.0.2', sourcePort: 1, destinationPort: 2 };
  const inner = ipv4({ ...fields, protocol: PROTOCOL.udp }, udp(fields, fromHex('61 62 63')));
  const frame = ethernet(
    { destination: '02:00:00:00:00:01', source: '02:00:00:00:00:02', type: 0x0800 }, inner);
  const outer = (payload: Uint8Array): Uint8Array =>
    ipv4({ ...fields, protocol: PROTOCOL.udp }, udp(fields, payload));
  const whole = outer(frame);
  const start = 28 + 14 + 20;
  const left = whole.slice();
  left.set(unfinished(inner).subarray(26, 28), start + 6);
  assert.is.not(toHex(left), toHex(whole));
  assert.is(toHex(finishChecksum(left, start, 6)), toHex(whole));
});

test('what is cut and joined again is what it was', () => {
  const random = new Random(1071);
  const trains = new Trains(random);
  for (let round = 0; round < ROUNDS; round += 1) {
    const stream = trains.stream(random.pick(ENDS));
    const segmentSize = random.pick([1, 7, 536, 1379, 1400, 1448]);
    const size = random.between(segmentSize + 1, Math.min(segmentSize * 45, 64_000));
    const flags = random.pick([0x10, 0x18, 0x19]);
    const { packet } = trains.whole(stream, size, segmentSize, { flags });
    const packets = segment(packet, { gsoType: gsoTypeOf(packet), segmentSize });
    assert.is(packets.length, Math.ceil(size / segmentSize));
    packets.forEach(assertSums);
    const [joined, ...more] = joinAll(packets);
    assert.is(more.length, 0);
    assert.is(joined?.segments, packets.length);
    assert.is(joined?.gsoSize, segmentSize);
    assert.is(toHex(joined?.packet ?? packet.subarray(0, 0)), toHex(packet));
  }
});

test('what is joined and cut again is what it was', () => {
  const random = new Random(768);
  const trains = new Trains(random);
  for (let round = 0; round < ROUNDS; round += 1) {
    const streams = ENDS.map((ends) => trains.stream(ends));
    const size = random.between(1, 200);
    const packets = streams.flatMap((stream) => trains.train(stream, 6, size));
    if (random.oneIn(2)) packets.splice(random.below(12), 1);
    if (random.oneIn(2)) {
      const at = random.below(packets.length - 1);
      const [packet = packets.pop()] = packets.splice(at, 1);
      if (packet !== undefined) packets.push(packet);
    }
    const joined = joinAll(packets);
    assert.ok(joined.length < packets.length, 'something was joined');
    assert.is(joined.reduce((sum, { segments }) => sum + segments, 0), packets.length);
    const again = joined.flatMap((one) => one.gsoSize === 0 ? [one.packet] : cut(one));
    assert.equal(hex(again.map(comparable)), hex(packets.map(comparable)));
  }
});

test('the vnet header says what to cut and where to sum', () => {
  const random = new Random(3168);
  const trains = new Trains(random);
  for (const ends of ENDS) {
    for (const protocol of [PROTOCOL.tcp, PROTOCOL.udp]) {
      const stream = trains.stream(ends, protocol);
      const [joined] = joinAll(trains.train(stream, 3, 100));
      if (joined === undefined) throw new Error('nothing was joined');
      const header = parseVnet(vnetOf(joined));
      const { ip, transport } = takeApart(joined.packet);
      assert.equal(header, {
        flags: 1, gsoType: gsoTypeOf(joined.packet), headerLength: ip.length + transport.length,
        gsoSize: 100, checksumStart: ip.length, checksumOffset: protocol === PROTOCOL.tcp ? 16 : 6,
      });
      // A kernel that sums the whole from there on gets the right checksum.
      assertSums(finishChecksum(joined.packet, header.checksumStart, header.checksumOffset));
    }
  }
  const [alone] = joinAll(trains.train(trains.stream({ ...ENDS[0] } as Ends), 1, 100));
  assert.is(toHex(vnetOf(alone ?? { packet: vnet({}), segments: 1, gsoSize: 0 })), toHex(vnet({})));
});

const REFUSALS: [string, (packet: Uint8Array) => void][] = [
  ['a byte of payload', (packet) => { packet[60] = (packet[60] ?? 0) ^ 1; }],
  ['TOS', (packet) => { packet[1] = (packet[1] ?? 0) ^ 4; }],
  ['TTL', (packet) => { packet[8] = (packet[8] ?? 0) ^ 1; }],
  ['DF', (packet) => { packet[6] = (packet[6] ?? 0) ^ 0x40; }],
  ['MF', (packet) => { packet[6] = (packet[6] ?? 0) ^ 0x20; }],
  ['a port', (packet) => { packet[21] = (packet[21] ?? 0) ^ 1; }],
  ['the sequence number', (packet) => { packet[27] = (packet[27] ?? 0) ^ 1; }],
  ['the acknowledgment number', (packet) => { packet[31] = (packet[31] ?? 0) ^ 1; }],
  ['SYN', (packet) => { packet[33] = 0x12; }],
  ['RST', (packet) => { packet[33] = 0x14; }],
  ['URG', (packet) => { packet[33] = 0x30; }],
  ['ECE', (packet) => { packet[33] = 0x50; }],
  ['CWR', (packet) => { packet[33] = 0x90; }],
  ['the window', (packet) => { packet[35] = (packet[35] ?? 0) ^ 1; }],
  ['the IPv4 header checksum', (packet) => { packet[10] = (packet[10] ?? 0) ^ 1; }],
  ['the TCP checksum', (packet) => { packet[36] = (packet[36] ?? 0) ^ 1; }],
];

for (const [what, change] of REFUSALS) {
  test(`a packet that differs in ${what} is not joined`, () => {
    const repaired = !what.startsWith('a byte') && !what.endsWith('checksum');
    const [ends] = ENDS;
    if (ends === undefined) return;
    const trains = new Trains(new Random(9293));
    const packets = trains.train({ ...trains.stream(ends, PROTOCOL.tcp), options: new Uint8Array(0),
      dontFragment: true }, 3, 100);
    assert.is(joinAll(packets).length, 1);
    const middle = packets[1] ?? new Uint8Array(0);
    change(middle);
    if (repaired) packets[1] = withSums(middle);
    assert.is(joinAll(packets).length, 3);
  });
}

/** The packet with its checksums made right again. */
function withSums(packet: Uint8Array): Uint8Array {
  const repaired = packet.slice();
  repaired.set([0, 0], 10);
  const header = internetChecksum(repaired.subarray(0, 20));
  repaired.set([header >> 8, header & 0xff], 10);
  const left = unfinished(repaired);
  return finishChecksum(left, 20, 16);
}

test('packets of different senders, short ones and pushed ones end a run', () => {
  const [ends] = ENDS;
  if (ends === undefined) return;
  const trains = new Trains(new Random(1624));
  const stream = { ...trains.stream(ends, PROTOCOL.tcp), options: new Uint8Array(0) };
  const bytes = (size: number, flags = 0x10): Uint8Array =>
    trains.next(stream, trains.payload(size), { flags });
  const from = (packet: Uint8Array, peer: string) => ({ packet, from: peer });
  assert.is(coalesce([from(bytes(50), 'a'), from(bytes(50), 'b')], BOTH).length, 2);
  const sizes = (packets: Uint8Array[]): number[] =>
    joinAll(packets).map(({ segments }) => segments);
  assert.equal(sizes([bytes(50), bytes(50), bytes(20), bytes(50)]), [3, 1]);
  assert.equal(sizes([bytes(50), bytes(60), bytes(60)]), [1, 2]);
  assert.equal(sizes([bytes(50), bytes(50, 0x18), bytes(50)]), [2, 1]);
  assert.equal(sizes([bytes(50), bytes(0), bytes(50)]), [1, 1, 1]);
  assert.is(joinAll([bytes(50), bytes(50)], { tcp: false, udp: true }).length, 2);
  const datagrams = trains.stream(ends, PROTOCOL.udp);
  assert.is(joinAll(trains.train(datagrams, 4, 50), { tcp: true, udp: false }).length, 4);
});

test('no joined packet is longer than its length field can say', () => {
  const trains = new Trains(new Random(791));
  for (const ends of ENDS) {
    const joined = joinAll(trains.train(trains.stream(ends, PROTOCOL.tcp), 60, 1400));
    assert.ok(joined.length >= 2);
    for (const { packet } of joined) assert.ok(packet.length <= 65535);
  }
});

test.run();
