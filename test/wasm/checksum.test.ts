// The Internet checksum, RFC 1071, and its update, RFC 1624, against the definition.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { slowChecksum } from '../reference/checksum.ts';
import { WireMemory } from '../support/assembly.ts';
import { fromHex, internetChecksum, read16 } from '../support/packets.ts';
import { Random } from '../support/random.ts';

const AT = 1024;
const memory = await WireMemory.create();
const { wire } = memory;

/** The core keeps checksums as they lie in memory: little-endian numbers of big-endian words. */
function swap(value: number): number {
  return ((value & 0xff) << 8) | (value >> 8);
}

test('the example of RFC 1071 section 3', () => {
  const bytes = fromHex('00 01 f2 03 f4 f5 f6 f7');
  assert.is(internetChecksum(bytes), 0xffff - 0xddf2);
  memory.put(AT, bytes);
  assert.is(swap(wire.checksum(AT, bytes.length)), 0xffff - 0xddf2);
});

test('any bytes, at any address, of any length', () => {
  const random = new Random(1071);
  for (let round = 0; round < 2000; round += 1) {
    const bytes = random.bytes(random.below(100));
    const at = AT + random.below(8);
    memory.put(at, bytes);
    assert.is(swap(wire.checksum(at, bytes.length)), internetChecksum(bytes), `round ${round}`);
  }
});

/** Random bytes, bytes whose every sum carries, and bytes whose upper or lower halves do. */
const PATTERNS: Record<string, (at: number) => number> = {
  random: () => random.below(256),
  'all ones': () => 0xff,
  'ones in every second word': (at) => ((at & 4) === 0 ? 0xff : 0),
  'ones in every other second word': (at) => ((at & 4) === 0 ? 0 : 0xff),
};
const random = new Random(1141);

for (const [name, byteAt] of Object.entries(PATTERNS)) {
  const bytes = Uint8Array.from({ length: 65_535 }, (_, at) => byteAt(at));

  test(`every length up to 2,000, at every alignment, ${name}`, () => {
    for (let shift = 0; shift < 16; shift += 1) {
      const at = AT + shift;
      memory.put(at, bytes.subarray(0, 2002));
      for (let length = 0; length <= 2000; length += 1) {
        const expected = slowChecksum(bytes.subarray(0, length));
        assert.is(swap(wire.checksum(at, length)), expected, `${length} bytes at ${at}`);
      }
    }
  });

  test(`the most that a packet can hold, ${name}`, () => {
    for (const length of [60_000, 64_000, 64_511, 65_519, 65_535]) {
      const all = bytes.subarray(0, length);
      memory.bytes.set(all, 1);
      assert.is(swap(wire.checksum(1, length)), slowChecksum(all), `${length} bytes`);
    }
  });
}

test('headers of every length', () => {
  for (let round = 0; round < 500; round += 1) {
    const header = random.bytes(20 + (random.below(11) * 4));
    memory.put(AT, header);
    assert.is(swap(wire.headerChecksum(AT, header.length)), slowChecksum(header));
  }
});

test('many at a time', () => {
  const bytes = random.bytes(100 * 64);
  memory.put(AT, bytes);
  const sums = AT + bytes.length;
  wire.checksumMany(AT, 61, 64, 100, sums);
  for (let index = 0; index < 100; index += 1) {
    const expected = slowChecksum(bytes.subarray(index * 64, (index * 64) + 61));
    assert.is(read16(memory.bytes, sums + (index * 2)), expected);
  }
});

test('is 0 over bytes that hold their own checksum', () => {
  const random = new Random(792);
  for (let round = 0; round < 200; round += 1) {
    const bytes = random.bytes(40);
    bytes.set([0, 0], 10);
    memory.put(AT, bytes);
    const sum = wire.checksum(AT, bytes.length);
    memory.bytes.set([sum & 0xff, sum >> 8], AT + 10);
    assert.is(wire.checksum(AT, bytes.length), 0);
  }
});

test('the update gives what a new sum would, RFC 1624 section 3', () => {
  const random = new Random(1624);
  for (let round = 0; round < 20_000; round += 1) {
    const bytes = random.bytes(20);
    if (random.oneIn(4)) bytes.fill(0, 0, 18);
    bytes.set([0, 0], 10);
    const before = internetChecksum(bytes);
    const old = read16(bytes, 8);
    const fresh = random.pick([old, 0, 0xffff, random.below(65536)]);
    bytes.set([fresh >> 8, fresh & 0xff], 8);
    const updated = swap(wire.checksumUpdate(swap(before), swap(old), swap(fresh)));
    assert.is(updated, internetChecksum(bytes), `${before} ${old} ${fresh}`);
  }
});

test('the example of RFC 1624 section 4', () => {
  assert.is(swap(wire.checksumUpdate(swap(0xdd2f), swap(0x5555), swap(0x3285))), 0x0000);
});

test.run();
