// Blocks of capture files, read back by the draft's own rules.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  FLAG_OUTBOUND, interfaceBlock, LINK_TYPE_RAW, packetBlock, sectionBlock, statisticsBlock,
} from '../../engine/pcapng.ts';

interface Option { code: number; value: Uint8Array }

/** Checks what all blocks have, and returns the rest as a view. */
function bodyOf(block: Uint8Array, type: number): DataView {
  const view = new DataView(block.buffer);
  assert.is(block.length % 4, 0);
  assert.is(view.getUint32(0, true), type);
  assert.is(view.getUint32(4, true), block.length);
  assert.is(view.getUint32(block.length - 4, true), block.length);
  return new DataView(block.buffer, 8, block.length - 12);
}

function optionsOf(body: DataView, from: number): Option[] {
  const found: Option[] = [];
  for (let at = from; ;) {
    const code = body.getUint16(at, true);
    const length = body.getUint16(at + 2, true);
    if (code === 0) {
      assert.is(at + 4, body.byteLength);
      return found;
    }
    found.push({ code, value: new Uint8Array(body.buffer, body.byteOffset + at + 4, length) });
    at += 4 + (Math.ceil(length / 4) * 4);
  }
}

function textOf({ value }: Option): string {
  return Buffer.from(value).toString();
}

test('a section says its byte order, its version and who wrote it', () => {
  const body = bodyOf(sectionBlock('culvert 1'), 0x0a0d0d0a);
  assert.is(body.getUint32(0, true), 0x1a2b3c4d);
  assert.equal([body.getUint16(4, true), body.getUint16(6, true)], [1, 0]);
  assert.equal(optionsOf(body, 16).map((one) => [one.code, textOf(one)]), [[4, 'culvert 1']]);
});

test('an interface has a link type and a name', () => {
  const given = { name: 'culvert0', description: 'node', linkType: LINK_TYPE_RAW, snapLength: 99 };
  const body = bodyOf(interfaceBlock(given), 1);
  assert.equal([body.getUint16(0, true), body.getUint32(4, true)], [LINK_TYPE_RAW, 99]);
  assert.equal(optionsOf(body, 8).map(textOf), ['culvert0', 'node']);
});

test('a packet has its time in microseconds, its bytes, comment and direction', () => {
  const timeMs = 1_700_000_000_123;
  const bytes = Uint8Array.of(0x45, 1, 2, 3, 4);
  const packet = { interface: 3, timeMs, bytes, length: 90, flags: FLAG_OUTBOUND, comment: 'why' };
  const body = bodyOf(packetBlock(packet), 6);
  assert.is(body.getUint32(0, true), 3);
  const time = (BigInt(body.getUint32(4, true)) << 32n) | BigInt(body.getUint32(8, true));
  assert.is(time, BigInt(timeMs) * 1000n);
  assert.equal([body.getUint32(12, true), body.getUint32(16, true)], [5, 90]);
  assert.equal(new Uint8Array(body.buffer, body.byteOffset + 20, 5), bytes);
  const [comment, flags] = optionsOf(body, 28);
  assert.is(comment === undefined ? '' : textOf(comment), 'why');
  assert.equal([...flags?.value ?? []], [2, 0, 0, 0]);
});

test('a packet with neither ends with its bytes', () => {
  const bytes = Uint8Array.of(1, 2, 3, 4);
  const packet = { interface: 0, timeMs: 0, bytes, length: 4, flags: 0, comment: '' };
  assert.is(bodyOf(packetBlock(packet), 6).byteLength, 24);
});

test('statistics say what came and what is missing', () => {
  const body = bodyOf(statisticsBlock(1, 5, 7, 2), 5);
  assert.is(body.getUint32(0, true), 1);
  const counts = optionsOf(body, 12).map(({ code, value }) => [code, value[0]]);
  assert.equal(counts, [[4, 7], [5, 2]]);
});

test.run();
