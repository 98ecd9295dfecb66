// IPv6, RFC 8200: the same bytes taken apart and built, and what is refused.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { REASON_NAMES } from '../../engine/counters.ts';
import { WireMemory } from '../support/assembly.ts';
import { addressOf, concat, fromHex, ipv6, toHex, type Ipv6Fields } from
  '../support/packets.ts';

const AT = 1024;
const ADDRESSES = 4096;
const HEADER = fromHex(`
  60 00 00 00                                       # version 6, class 0, flow label 0
  00 0a                                             # payload of 10 bytes
  3a                                                # ICMPv6
  40                                                # hop limit 64
  fd 00 00 10 02 44 00 00 00 00 00 00 00 00 00 05   # source
  fd 00 00 10 02 44 00 01 80 00 00 00 00 00 00 07   # destination
`);
const SOURCE = 'fd00:10:244::5';
const DESTINATION = 'fd00:10:244:1:8000::7';
const FIELDS: Ipv6Fields = { source: SOURCE, destination: DESTINATION, nextHeader: 17 };
const memory = await WireMemory.create();
const { wire } = memory;

function unsigned(value: bigint): string {
  return BigInt.asUintN(64, value).toString(16);
}

test('takes a header apart', () => {
  const header = memory.put(AT, concat(HEADER, new Uint8Array(10)));
  assert.is(wire.checkIpv6(header, 50), 0);
  assert.is(wire.ipv6TotalLength(header), 50);
  assert.is(wire.ipv6NextHeader(header), 58);
  assert.is(wire.ipv6HopLimit(header), 64);
  assert.is(unsigned(wire.ipv6SourceHi(header)), 'fd00001002440000');
  assert.is(unsigned(wire.ipv6SourceLo(header)), '5');
  assert.is(unsigned(wire.ipv6DestinationHi(header)), 'fd00001002440001');
  assert.is(unsigned(wire.ipv6DestinationLo(header)), '8000000000000007');
});

test('builds a header', () => {
  memory.bytes.set(concat(addressOf(SOURCE), addressOf(DESTINATION)), ADDRESSES);
  const header = memory.blank(AT, 40);
  wire.emitIpv6(header, 10, 58, 64, ADDRESSES, ADDRESSES + 16);
  assert.is(toHex(memory.read(header, 40)), toHex(HEADER));
  assert.ok(memory.isIntactAround(header, 40));
});

test('takes one off the hop limit and nothing else', () => {
  const header = memory.put(AT, HEADER);
  wire.ipv6DecrementHopLimit(header);
  const expected = HEADER.slice();
  expected[7] = 63;
  assert.is(toHex(memory.read(header, 40)), toHex(expected));
});

test('copies and compares addresses', () => {
  memory.put(AT, addressOf(SOURCE));
  const copy = memory.blank(AT + 512, 16);
  wire.copyIpv6(copy, AT);
  assert.ok(wire.ipv6Equals(copy, AT));
  assert.ok(memory.isIntactAround(copy, 16));
  for (let byte = 0; byte < 16; byte += 1) {
    const changed = addressOf(SOURCE).slice();
    changed[byte] = (changed[byte] ?? 0) ^ 1;
    memory.put(AT + 512, changed);
    assert.not.ok(wire.ipv6Equals(AT, AT + 512), `byte ${byte}`);
  }
});

function check(packet: Uint8Array, length = packet.length): string | undefined {
  return REASON_NAMES[wire.checkIpv6(memory.put(AT, packet), length)];
}

test('lengths must fit', () => {
  const packet = ipv6(FIELDS, new Uint8Array(10));
  assert.is(check(packet), 'none');
  assert.is(check(packet, 51), 'none', 'padding behind the packet');
  for (let length = 0; length < 50; length += 1) assert.is(check(packet, length), 'tooShort');
  assert.is(check(ipv6({ ...FIELDS, payloadLength: 0 }, new Uint8Array(0))), 'none');
  assert.is(check(ipv6({ ...FIELDS, payloadLength: 65535 }, new Uint8Array(100))), 'tooShort');
});

test('the version must be 6', () => {
  for (const version of [0, 4, 5, 7, 15]) {
    assert.is(check(ipv6({ ...FIELDS, version }, new Uint8Array(0))), 'ipVersion');
  }
});

test('traffic class and flow label do not matter', () => {
  const fields = { ...FIELDS, trafficClass: 0xff, flowLabel: 0xfffff };
  assert.is(check(ipv6(fields, new Uint8Array(0))), 'none');
});

test('addresses that are not forwarded between', () => {
  const addresses = (source: string, destination: string): string | undefined =>
    REASON_NAMES[wire.checkIpv6Addresses(
      memory.put(AT, ipv6({ ...FIELDS, source, destination }, new Uint8Array(0))))];
  assert.is(addresses(SOURCE, DESTINATION), 'none');
  for (const group of ['ff00::', 'ff02::1', 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff']) {
    assert.is(addresses(SOURCE, group), 'multicast');
    assert.is(addresses(group, SOURCE), 'martianSource');
  }
  for (const martian of ['::', '::1', '::ffff:0.0.0.0', '::ffff:10.0.0.1']) {
    assert.is(addresses(martian, SOURCE), 'martianSource');
    assert.is(addresses(SOURCE, martian), 'martianDestination');
  }
  for (const local of ['fe80::', 'fe80::1', 'febf:ffff::1']) {
    assert.is(addresses(local, SOURCE), 'linkLocal');
    assert.is(addresses(SOURCE, local), 'linkLocal');
  }
  for (const plain of ['::2', '::1:0:0', '::fffe:0:1', '1::', 'fe7f::1', 'fec0::1', 'feff::1',
    '64:ff9b::10.0.0.1', '0:0:0:1:0:ffff:a00:1']) {
    assert.is(addresses(plain, SOURCE), 'none', plain);
    assert.is(addresses(SOURCE, plain), 'none', plain);
  }
});

test.run();
