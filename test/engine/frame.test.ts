// The codec: what goes in comes out, and whatever else comes in is refused with a FrameError.

import fc from 'fast-check';
import { Packr } from 'msgpackr';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  DEPTH_LIMIT, FRAME_HEADER_SIZE, FRAME_LIMIT, FRAME_MAGIC, FrameError, FrameReader,
  SCHEMA_VERSION, crc32, encodeFrame,
} from '../../engine/frame.ts';

const SEED = 20240917;
const MUTATIONS = 20_000;

/** A frame around any body, as a careless or hostile sender would make it. */
function frameAround(body: Uint8Array, change: { schema?: number } = {}): Uint8Array {
  const frame = new Uint8Array(FRAME_HEADER_SIZE + body.length);
  const view = new DataView(frame.buffer);
  view.setUint32(0, FRAME_MAGIC);
  view.setUint32(4, body.length);
  view.setUint16(12, change.schema ?? SCHEMA_VERSION);
  frame.set(body, FRAME_HEADER_SIZE);
  view.setUint32(8, crc32(frame.subarray(12)));
  return frame;
}

function read(bytes: Uint8Array): unknown[] {
  return new FrameReader().push(bytes);
}

function faultOf(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    if (error instanceof FrameError) return error.fault;
    throw error;
  }
  return 'none';
}

/** Small, fast and the same everywhere: xorshift32. */
function random(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

const SAMPLE = {
  type: 'request',
  id: 7,
  method: 'snapshot.part',
  params: {
    nodes: [{ name: 'edge-1', podCidrs: ['10.244.1.0/24', 'fd00::/64'], flags: [true, null] }],
    bytes: Uint8Array.of(1, 2, 3),
    figures: [0, -1, 255, 65536, 4294967296, 1.5],
  },
};

test('gives back what it was given', () => {
  const frame = encodeFrame(SAMPLE);
  const [value] = read(frame);
  assert.equal(JSON.stringify(value), JSON.stringify(read(frame)[0]));
  assert.equal(JSON.parse(JSON.stringify(value)).params.nodes, SAMPLE.params.nodes);
  const params = (value as typeof SAMPLE).params;
  assert.ok(params.bytes instanceof Uint8Array);
  assert.equal([...params.bytes], [1, 2, 3]);
  assert.equal(params.figures, SAMPLE.params.figures);
});

test('gives back any plain data', () => {
  const key = fc.string({ maxLength: 8 }).filter((text) => !text.startsWith('__proto'));
  const { value } = fc.letrec((tie) => ({
    value: fc.oneof(
      { maxDepth: 5 },
      fc.constant(null), fc.boolean(), fc.integer(), fc.maxSafeInteger(),
      fc.string({ unit: 'grapheme' }),
      fc.array(tie('value'), { maxLength: 6 }),
      fc.dictionary(key, tie('value'), { maxKeys: 6, noNullPrototype: true }),
    ),
  }));
  fc.assert(fc.property(value, (plain) => {
    assert.equal(read(encodeFrame(plain)), [plain]);
  }), { seed: SEED, numRuns: 500 });
});

test('reads byte by byte, and many frames at once', () => {
  const frames = [1, 'two', [3], { four: 4 }];
  const bytes = Uint8Array.from(frames.flatMap((value) => [...encodeFrame(value)]));
  assert.equal(read(bytes), frames);
  const reader = new FrameReader();
  const seen: unknown[] = [];
  for (const byte of bytes) seen.push(...reader.push(Uint8Array.of(byte)));
  assert.equal(seen, frames);
  assert.is(reader.pending, 0);
});

test('waits for the rest of every truncation', () => {
  const frame = encodeFrame(SAMPLE);
  for (let size = 0; size < frame.length; size += 1) {
    const reader = new FrameReader();
    assert.equal(reader.push(frame.subarray(0, size)), []);
    assert.is(reader.pending, size);
    assert.is(reader.push(frame.subarray(size)).length, 1);
  }
});

test('refuses every truncated body', () => {
  const body = encodeFrame(SAMPLE).subarray(FRAME_HEADER_SIZE);
  for (let size = 1; size < body.length; size += 1) {
    assert.is(faultOf(() => read(frameAround(body.subarray(0, size)))), 'msgpack', `at ${size}`);
  }
  assert.is(faultOf(() => read(frameAround(new Uint8Array(0)))), 'length');
  assert.is(faultOf(() => read(frameAround(Uint8Array.of(...body, 0)))), 'msgpack');
});

test('meets 20,000 mutated frames with nothing but FrameError', () => {
  const next = random(SEED);
  const frame = encodeFrame(SAMPLE);
  const refused = new Map<string, number>();
  for (let round = 0; round < MUTATIONS; round += 1) {
    const damaged = Uint8Array.from(frame);
    for (let hits = 1 + next(4); hits > 0; hits -= 1) damaged[next(damaged.length)] = next(256);
    // Every second one gets a correct checksum again, so that the body's checks are reached.
    const bytes = round % 2 === 0 ? damaged : frameAround(damaged.subarray(FRAME_HEADER_SIZE));
    const fault = faultOf(() => read(bytes));
    refused.set(fault, (refused.get(fault) ?? 0) + 1);
  }
  for (const fault of ['magic', 'length', 'checksum', 'msgpack', 'type']) {
    assert.ok((refused.get(fault) ?? 0) > 20, `${fault}: ${JSON.stringify([...refused])}`);
  }
});

test('notices every single changed bit', () => {
  const frame = encodeFrame(['a', 1]);
  for (let bit = 0; bit < frame.length * 8; bit += 1) {
    const damaged = Uint8Array.from(frame);
    damaged[bit >> 3] = (damaged[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    // A length that grew waits for bytes; all else is refused at once.
    const reader = new FrameReader();
    const fault = faultOf(() => reader.push(damaged));
    assert.ok(fault !== 'none' || reader.pending === frame.length, `bit ${bit}`);
  }
});

test('refuses what nests too deep, both ways', () => {
  const nested = (depth: number): unknown => {
    let value: unknown = 1;
    for (let level = 0; level < depth; level += 1) value = [value];
    return value;
  };
  assert.equal(read(encodeFrame(nested(DEPTH_LIMIT - 1))).length, 1);
  assert.is(faultOf(() => encodeFrame(nested(DEPTH_LIMIT + 1))), 'depth');
  const bomb = new Uint8Array(500_000).fill(0x91);
  assert.is(faultOf(() => read(frameAround(bomb))), 'depth');
  const maps = new Uint8Array(24_000).map((_, index) => [0x81, 0xa1, 0x61][index % 3] ?? 0);
  assert.is(faultOf(() => read(frameAround(maps))), 'depth');
});

test('refuses claims of more than is there', () => {
  for (const start of [[0xdd], [0xdf], [0xdb], [0xc6]]) {
    const bomb = Uint8Array.from([...start, 0xff, 0xff, 0xff, 0xff, 0xc0]);
    assert.is(faultOf(() => read(frameAround(bomb))), 'msgpack', `0x${start[0]?.toString(16)}`);
  }
});

test('refuses a length above the limit before any of it is buffered', () => {
  const header = encodeFrame(1).subarray(0, FRAME_HEADER_SIZE);
  for (const length of [FRAME_LIMIT - FRAME_HEADER_SIZE + 1, 0xffffffff, 0]) {
    const hostile = Uint8Array.from(header);
    new DataView(hostile.buffer).setUint32(4, length);
    assert.is(faultOf(() => read(hostile)), 'length');
  }
  assert.is(faultOf(() => encodeFrame('x'.repeat(FRAME_LIMIT))), 'length');
  const largest = 'x'.repeat(FRAME_LIMIT - FRAME_HEADER_SIZE - 5);
  assert.is(encodeFrame(largest).length, FRAME_LIMIT);
  assert.equal(read(encodeFrame(largest)), [largest]);
});

test('refuses every extension', () => {
  const extended = new Packr({ structuredClone: true, moreTypes: true, useRecords: true });
  const record = { a: 1 };
  const extensions = [
    new Date(0), new Set([1]), new Error('x'), /x/, new Float64Array(2), record, [record, record],
    undefined, cyclic(),
  ];
  for (const value of extensions) {
    const body = Uint8Array.from(extended.pack(value));
    assert.is(faultOf(() => read(frameAround(body))), 'type');
  }
  for (let type = 0; type < 256; type += 1) {
    assert.is(faultOf(() => read(frameAround(Uint8Array.of(0xd4, type, 0)))), 'type');
    assert.is(faultOf(() => read(frameAround(Uint8Array.of(0xc7, 1, type, 0)))), 'type');
  }
  assert.is(faultOf(() => read(frameAround(Uint8Array.of(0xc1)))), 'type');
});

test('does not encode what is not plain data', () => {
  const others = [
    new Date(0), new Set([1]), new Map(), new Error('x'), undefined, [undefined], 1n, Symbol('x'),
    () => 1, { a: undefined }, new Float64Array(2),
  ];
  for (const value of others) assert.is(faultOf(() => encodeFrame(value)), 'type');
  assert.is(faultOf(() => encodeFrame(cyclic())), 'depth');
});

function cyclic(): object {
  const value: Record<string, unknown> = {};
  value['self'] = value;
  return value;
}

test('names the field that is not plain data', () => {
  const pods = [{ when: new Date(0) }];
  assert.throws(() => encodeFrame({ pods }), /pods\[0\]\.when is not plain/);
});

test('refuses keys that are not text', () => {
  assert.is(faultOf(() => read(frameAround(Uint8Array.of(0x81, 0x01, 0x02)))), 'type');
});

test('refuses another schema version by name', () => {
  const frame = frameAround(Uint8Array.of(0xc0), { schema: SCHEMA_VERSION + 1 });
  assert.throws(() => read(frame), /schema version 2, expected 1/);
});

test('hands over what came before a bad frame, and nothing after it', () => {
  const reader = new FrameReader();
  const bytes = Uint8Array.from([...encodeFrame('first'), ...new Uint8Array(FRAME_HEADER_SIZE)]);
  try {
    reader.push(bytes);
    assert.unreachable();
  } catch (error) {
    assert.instance(error, FrameError);
    assert.equal((error as FrameError).before, ['first']);
  }
  assert.is(faultOf(() => reader.push(encodeFrame('later'))), 'magic');
});

test('has the CRC-32 of IEEE 802.3', () => {
  // The check value of the CRC catalogue, for "123456789".
  assert.is(crc32(Uint8Array.from('123456789', (digit) => digit.charCodeAt(0))), 0xcbf43926);
});

test.run();
