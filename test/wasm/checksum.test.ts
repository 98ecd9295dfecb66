// The Internet checksum, RFC 1071, and its update, RFC 1624, against the definition.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
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

test('every length up to two packets, with any bytes and with every carry there can be', () => {
  const random = new Random(1141);
  const any = random.bytes(3000);
  const most = new Uint8Array(3000).fill(0xff);
  for (const bytes of [any, most]) {
    for (let length = 0; length <= bytes.length; length += 1) {
      const at = AT + (length % 17);
      memory.put(at, bytes);
      const sum = swap(wire.checksum(at, length));
      assert.is(sum, internetChecksum(bytes.subarray(0, length)), `${length} bytes`);
    }
  }
});

test('the most that a packet can hold', () => {
  for (const length of [60_000, 64_000, 64_511]) {
    const bytes = new Uint8Array(length).fill(0xff);
    memory.put(AT, bytes);
    assert.is(swap(wire.checksum(AT, length)), internetChecksum(bytes));
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
