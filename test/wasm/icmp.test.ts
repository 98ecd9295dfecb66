// ICMP, RFC 792, and ICMPv6, RFC 4443: the same bytes taken apart and built, and what must not be
// answered with an error.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { WireMemory } from '../support/assembly.ts';
import { PROTOCOL, concat, fragmentHeader, fromHex, icmp, icmpv6, ipv4, ipv6, optionsHeader,
  toHex, udp } from '../support/packets.ts';

const AT = 1024;
const TOO_BIG = fromHex(`
  03 04         # destination unreachable, fragmentation needed
  cd 8a         # checksum
  00 00 05 aa   # next hop's MTU 1450
  61 62 63 64 65   # quote, of odd length
`);
const TOO_BIG_6 = fromHex(`
  60 00 00 00 00 0d 3a 40                           # IPv6 header, payload of 13 bytes
  fd 00 00 10 02 44 00 00 00 00 00 00 00 00 00 05
  fd 00 00 10 02 44 00 01 00 00 00 00 00 00 00 07
  02 00         # packet too big
  cf a4         # checksum
  00 00 05 96   # MTU 1430
  61 62 63 64 65   # quote, of odd length
`);
const [SOURCE4, DESTINATION4] = ['10.244.0.5', '10.244.1.7'];
const [SOURCE6, DESTINATION6] = ['fd00:10:244::5', 'fd00:10:244:1::7'];
const memory = await WireMemory.create();
const { wire } = memory;

test('the bytes below are what the RFCs say', () => {
  assert.is(toHex(TOO_BIG), toHex(icmp(3, 4, 1450, fromHex('61 62 63 64 65'))));
  const message = icmpv6({ source: SOURCE6, destination: DESTINATION6, type: 2, rest: 1430 },
    fromHex('61 62 63 64 65'));
  const packet = ipv6({ source: SOURCE6, destination: DESTINATION6, nextHeader: 58 }, message);
  assert.is(toHex(TOO_BIG_6), toHex(packet));
});

test('takes an ICMP message apart', () => {
  memory.put(AT, TOO_BIG);
  assert.is(wire.checksum(AT, TOO_BIG.length), 0);
});

test('builds an ICMP error in front of its quote', () => {
  const header = memory.blank(AT, TOO_BIG.length);
  memory.bytes.set(TOO_BIG.subarray(8), AT + 8);
  wire.emitIcmp(header, TOO_BIG.length, 3, 4, 1450);
  assert.is(toHex(memory.read(header, TOO_BIG.length)), toHex(TOO_BIG));
  assert.ok(memory.isIntactAround(header, TOO_BIG.length));
});

test('takes an ICMPv6 message apart', () => {
  memory.put(AT, TOO_BIG_6);
  assert.is(wire.icmpv6Checksum(AT + 40, 13), 0);
  for (const byte of [8, 23, 24, 39, 40, 41, 47, 52]) {
    memory.bytes[AT + byte] = (memory.bytes[AT + byte] ?? 0) ^ 4;
    assert.is.not(wire.icmpv6Checksum(AT + 40, 13), 0, `byte ${byte} counts`);
    memory.bytes[AT + byte] = (memory.bytes[AT + byte] ?? 0) ^ 4;
  }
});

test('builds an ICMPv6 error in front of its quote', () => {
  memory.blank(AT, TOO_BIG_6.length);
  memory.bytes.set(TOO_BIG_6.subarray(0, 40), AT);
  memory.bytes.set(TOO_BIG_6.subarray(48), AT + 48);
  wire.emitIcmpv6(AT + 40, 13, 2, 0, 1430);
  assert.is(toHex(memory.read(AT, TOO_BIG_6.length)), toHex(TOO_BIG_6));
  assert.ok(memory.isIntactAround(AT, TOO_BIG_6.length));
});

function isAnswered(packet: Uint8Array): boolean {
  return wire.mayAnswerWithError(memory.put(AT, packet), packet.length) !== 0;
}

test('ICMP errors are not answered, other messages are', () => {
  for (let type = 0; type < 256; type += 1) {
    const packet = ipv4({ source: SOURCE4, destination: DESTINATION4, protocol: 1 },
      icmp(type, 0, 0, new Uint8Array(8)));
    assert.is(isAnswered(packet), ![3, 4, 5, 11, 12].includes(type), `type ${type}`);
  }
});

test('ICMPv6 errors and redirects are not answered, other messages are', () => {
  for (let type = 0; type < 256; type += 1) {
    const fields = { source: SOURCE6, destination: DESTINATION6 };
    const message = icmpv6({ ...fields, type }, new Uint8Array(8));
    const expected = type >= 128 && type !== 137;
    assert.is(isAnswered(ipv6({ ...fields, nextHeader: 58 }, message)), expected, `type ${type}`);
    const behind = concat(optionsHeader(58), message);
    assert.is(isAnswered(ipv6({ ...fields, nextHeader: 60 }, behind)), expected, `type ${type}`);
  }
});

test('a message cut off before its second word is not answered', () => {
  const fields = { source: SOURCE4, destination: DESTINATION4, protocol: PROTOCOL.icmp };
  assert.not.ok(isAnswered(ipv4(fields, fromHex('08 00 00 00 00 00 00'))));
  assert.ok(isAnswered(ipv4(fields, fromHex('08 00 00 00 00 00 00 00'))));
});

test('the other family\'s ICMP is nothing special', () => {
  const fields4 = { source: SOURCE4, destination: DESTINATION4, protocol: PROTOCOL.icmpv6 };
  assert.ok(isAnswered(ipv4(fields4, fromHex('03'))));
  const fields6 = { source: SOURCE6, destination: DESTINATION6, nextHeader: PROTOCOL.icmp };
  assert.ok(isAnswered(ipv6(fields6, fromHex('03'))));
});

test('first fragments are answered, later ones are not', () => {
  const datagram = udp({ source: SOURCE4, destination: DESTINATION4, sourcePort: 1,
    destinationPort: 2 }, new Uint8Array(8));
  const fields = { source: SOURCE4, destination: DESTINATION4, protocol: 17 };
  assert.ok(isAnswered(ipv4({ ...fields, moreFragments: true }, datagram)));
  assert.not.ok(isAnswered(ipv4({ ...fields, offset: 2 }, datagram)));
  const fields6 = { source: SOURCE6, destination: DESTINATION6, nextHeader: 44 };
  assert.ok(isAnswered(ipv6(fields6, concat(fragmentHeader(17, 0, true), datagram))));
  assert.not.ok(isAnswered(ipv6(fields6, concat(fragmentHeader(17, 2, true), datagram))));
});

test.run();
