// Ethernet II: the same bytes taken apart and built.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { WireMemory } from '../support/assembly.ts';
import { fromHex, macOf, toHex } from '../support/packets.ts';

const AT = 1024;
const MACS = 2048;
const HEADER = fromHex(`
  0a 00 00 00 00 06   # destination
  02 63 75 6c 76 74   # source
  86 dd               # EtherType
`);
const memory = await WireMemory.create();
const { wire } = memory;

test('takes a header apart', () => {
  const frame = memory.put(AT, HEADER);
  const [to, from] = [memory.put(MACS, macOf('0a:00:00:00:00:06')), AT + 6];
  assert.is(wire.etherType(frame), 0x86dd);
  assert.ok(wire.macEquals(frame, to));
  assert.not.ok(wire.macEquals(from, to));
});

test('builds a header', () => {
  memory.bytes.set([...macOf('0a:00:00:00:00:06'), ...macOf('02:63:75:6c:76:74')], MACS);
  const frame = memory.blank(AT, HEADER.length);
  wire.emitEthernet(frame, MACS, MACS + 6, 0x86dd);
  assert.is(toHex(memory.read(frame, HEADER.length)), toHex(HEADER));
  assert.ok(memory.isIntactAround(frame, HEADER.length));
});

test('sets the EtherType and nothing else', () => {
  const frame = memory.put(AT, HEADER);
  wire.setEtherType(frame, 0x0800);
  assert.is(toHex(memory.read(frame, 14)), toHex(HEADER).replace('86 dd', '08 00'));
});

test('copies a MAC and nothing else', () => {
  memory.put(MACS, macOf('0a:01:02:03:04:05'));
  const target = memory.blank(AT, 6);
  wire.copyMac(target, MACS);
  assert.is(toHex(memory.read(target, 6)), '0a 01 02 03 04 05');
  assert.ok(memory.isIntactAround(target, 6));
});

test('every byte of a MAC counts', () => {
  for (let byte = 0; byte < 6; byte += 1) {
    memory.put(AT, macOf('0a:01:02:03:04:05'));
    const changed = macOf('0a:01:02:03:04:05');
    changed[byte] = (changed[byte] ?? 0) ^ 0x80;
    memory.put(MACS, changed);
    assert.not.ok(wire.macEquals(AT, MACS), `byte ${byte}`);
  }
});

test('tells broadcast and group addresses', () => {
  const judge = (mac: string): [boolean, boolean] => {
    const at = memory.put(AT, macOf(mac));
    return [wire.macIsBroadcast(at) !== 0, wire.macIsGroup(at) !== 0];
  };
  assert.equal(judge('ff:ff:ff:ff:ff:ff'), [true, true]);
  assert.equal(judge('ff:ff:ff:ff:ff:fe'), [false, true]);
  assert.equal(judge('33:33:00:00:00:01'), [false, true]);
  assert.equal(judge('01:00:5e:00:00:fb'), [false, true]);
  assert.equal(judge('fe:ff:ff:ff:ff:ff'), [false, false]);
  assert.equal(judge('02:00:00:00:00:01'), [false, false]);
});

test.run();
