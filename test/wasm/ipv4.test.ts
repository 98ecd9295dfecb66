// IPv4, RFC 791: the same bytes taken apart and built, and what checkIpv4() refuses.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as reason from '../../wasm/abi/verdict.ts';
import { REASON_NAMES } from '../../engine/counters.ts';
import { WireMemory } from '../support/assembly.ts';
import { addressOf, concat, fromHex, internetChecksum, ipv4, toHex, type Ipv4Fields } from
  '../support/packets.ts';

const AT = 1024;
const ADDRESSES = 4096;
const HEADER = fromHex(`
  45            # version 4, 5 words
  c0            # TOS
  00 1e         # 30 bytes in all
  00 00         # identification
  40 00         # DF, offset 0
  40            # TTL 64
  01            # ICMP
  24 33         # checksum
  0a f4 00 00   # source 10.244.0.0
  0a f4 00 05   # destination 10.244.0.5
`);
const FIELDS: Ipv4Fields = { source: '10.244.0.0', destination: '10.244.0.5', protocol: 17 };
const memory = await WireMemory.create();
const { wire } = memory;

test('takes a header apart', () => {
  const header = memory.put(AT, concat(HEADER, new Uint8Array(10)));
  assert.is(wire.checkIpv4(header, 30), reason.REASON_NONE);
  assert.is(wire.ipv4HeaderLength(header), 20);
  assert.is(wire.ipv4TotalLength(header), 30);
  assert.is(wire.ipv4DontFragment(header), 1);
  assert.is(wire.ipv4IsFragment(header), 0);
  assert.is(wire.ipv4FragmentOffset(header), 0);
  assert.is(wire.ipv4Ttl(header), 64);
  assert.is(wire.ipv4Protocol(header), 1);
  assert.is(wire.ipv4Source(header) >>> 0, 0x0af40000);
  assert.is(wire.ipv4Destination(header) >>> 0, 0x0af40005);
});

test('builds a header', () => {
  memory.bytes.set(concat(addressOf('10.244.0.0'), addressOf('10.244.0.5')), ADDRESSES);
  const header = memory.blank(AT, 20);
  wire.emitIpv4(header, 30, 0xc0, 64, 1, ADDRESSES, ADDRESSES + 4);
  assert.is(toHex(memory.read(header, 20)), toHex(HEADER));
  assert.ok(memory.isIntactAround(header, 20));
});

test('reads fragments', () => {
  const read = (fields: Partial<Ipv4Fields>): number[] => {
    const header = memory.put(AT, ipv4({ ...FIELDS, ...fields }, new Uint8Array(8)));
    return [wire.ipv4IsFragment(header), wire.ipv4FragmentOffset(header),
      wire.ipv4DontFragment(header)];
  };
  assert.equal(read({ moreFragments: true }), [1, 0, 0]);
  assert.equal(read({ moreFragments: true, offset: 185 }), [1, 185, 0]);
  assert.equal(read({ offset: 8191 }), [1, 8191, 0]);
  assert.equal(read({ dontFragment: true }), [0, 0, 1]);
});

test('every TTL goes down by one with its checksum', () => {
  for (let ttl = 1; ttl < 256; ttl += 1) {
    for (const identification of [0, 0x1234, 0xffff, 0x3fe5]) {
      const header = memory.put(AT, ipv4({ ...FIELDS, ttl, identification }, new Uint8Array(0)));
      wire.ipv4DecrementTtl(header);
      const expected = ipv4({ ...FIELDS, ttl: ttl - 1, identification }, new Uint8Array(0));
      assert.is(toHex(memory.read(header, 20)), toHex(expected), `TTL ${ttl}`);
    }
  }
});

/** The reason's name that checkIpv4() gives. `length` is the room, unless the packet fills it. */
function check(packet: Uint8Array, length = packet.length): string | undefined {
  return REASON_NAMES[wire.checkIpv4(memory.put(AT, packet), length)];
}

test('lengths must fit', () => {
  const packet = ipv4(FIELDS, new Uint8Array(10));
  assert.is(check(packet), 'none');
  assert.is(check(packet, 31), 'none', 'padding behind the packet');
  for (let length = 0; length < 30; length += 1) assert.is(check(packet, length), 'tooShort');
  assert.is(check(ipv4({ ...FIELDS, totalLength: 20 }, new Uint8Array(0))), 'none');
  assert.is(check(ipv4({ ...FIELDS, totalLength: 19 }, new Uint8Array(0))), 'headerLength');
  assert.is(check(ipv4({ ...FIELDS, totalLength: 0 }, new Uint8Array(0))), 'headerLength');
  for (const headerWords of [0, 1, 4]) {
    assert.is(check(ipv4({ ...FIELDS, headerWords }, new Uint8Array(40))), 'headerLength');
  }
  assert.is(check(ipv4({ ...FIELDS, headerWords: 15 }, new Uint8Array(39))), 'headerLength');
});

test('the version must be 4', () => {
  for (const version of [0, 3, 5, 6, 15]) {
    assert.is(check(ipv4({ ...FIELDS, version }, new Uint8Array(20))), 'ipVersion');
  }
});

test('every bit of the header counts in the checksum', () => {
  const packet = ipv4({ ...FIELDS, options: fromHex('94 04 00 00') }, new Uint8Array(10));
  for (let bit = 0; bit < 24 * 8; bit += 1) {
    const damaged = packet.slice();
    damaged[bit >> 3] = (damaged[bit >> 3] ?? 0) ^ (0x80 >> (bit & 7));
    assert.is.not(check(damaged), 'none', `bit ${bit}`);
  }
  const damaged = packet.slice();
  damaged[24] = 1;
  assert.is(check(damaged), 'none', 'the payload does not count');
});

test('both forms of zero are right checksums', () => {
  const packet = ipv4({ ...FIELDS, identification: 0 }, new Uint8Array(0));
  const sum = 0xffff - internetChecksum(packet.slice().fill(0, 10, 12));
  const zero = ipv4({ ...FIELDS, identification: 0xffff - sum }, new Uint8Array(0));
  assert.is(toHex(zero.subarray(10, 12)), '00 00');
  assert.is(check(zero), 'none');
});

test('source routes are refused wherever they stand', () => {
  const options = (hex: string): string | undefined =>
    check(ipv4({ ...FIELDS, options: fromHex(hex) }, new Uint8Array(4)));
  assert.is(options('83 03 04 00'), 'sourceRoute');
  assert.is(options('89 03 04 00'), 'sourceRoute');
  assert.is(options('01 01 01 83'), 'sourceRoute', 'a type at the very end');
  assert.is(options('07 07 04 00 00 00 00 89 03 04 00 00'), 'sourceRoute', 'behind another');
  assert.is(options('94 04 00 00'), 'none', 'router alert');
  assert.is(options('07 07 04 83 89 83 89 00'), 'none', 'inside another option');
  assert.is(options('00 83 03 04'), 'none', 'behind the end of options');
  assert.is(options('07 01 83 03'), 'none', 'behind an option without a length');
  assert.is(options('07 00 83 03'), 'none', 'an option that would never end');
  assert.is(options('01 01 01 07'), 'none', 'an option cut off before its length');
  assert.is(options('07 ff 83 03'), 'none', 'an option longer than the header');
});

test('addresses that are not forwarded between', () => {
  const addresses = (source: string, destination: string): string | undefined =>
    REASON_NAMES[wire.checkIpv4Addresses(
      memory.put(AT, ipv4({ ...FIELDS, source, destination }, new Uint8Array(0))))];
  assert.is(addresses('10.0.0.1', '10.0.0.2'), 'none');
  for (const group of ['224.0.0.0', '239.255.255.255', '255.255.255.255']) {
    assert.is(addresses('10.0.0.1', group), 'multicast');
    assert.is(addresses(group, '10.0.0.1'), 'martianSource');
  }
  for (const martian of ['0.0.0.0', '0.255.255.255', '127.0.0.1', '127.255.255.255']) {
    assert.is(addresses(martian, '10.0.0.1'), 'martianSource');
    assert.is(addresses('10.0.0.1', martian), 'martianDestination');
  }
  for (const plain of ['1.0.0.0', '126.255.255.255', '128.0.0.0', '223.255.255.255', '240.0.0.1']) {
    assert.is(addresses(plain, '10.0.0.1'), 'none');
    assert.is(addresses('10.0.0.1', plain), 'none');
  }
});

test.run();
