// The one codec for messages on a socket or a disk. A frame is a header and one MessagePack value:
//
//     0        4        8        12       14       16
//     | magic  | length | CRC-32 | schema |  zero  | length bytes of MessagePack ...
//     | "CLVT" |  u32   |  u32   |  u16   |  u16   |
//
// Numbers are big-endian. The CRC-32 (IEEE 802.3) covers everything behind it, schema included.
// Frames carry plain data only: null, booleans, numbers, strings, arrays, objects with text keys,
// byte strings. msgpackr builds other things from MessagePack extensions even when told not to, so
// the bytes are walked first: whoever passes the walk holds no extension, claims no more elements
// than bytes, and nests no deeper than DEPTH_LIMIT.

import { Packr, Unpackr } from 'msgpackr/pack';
import { fieldPath } from './shape.ts';

export const FRAME_MAGIC = 0x434c5654;
export const FRAME_HEADER_SIZE = 16;
/** Largest frame, header included. Nothing is buffered beyond it. */
export const FRAME_LIMIT = 1024 * 1024;
/** How deep arrays and objects may nest. */
export const DEPTH_LIMIT = 32;
/** Changes when the same bytes would mean something else. */
export const SCHEMA_VERSION = 1;

const FRAME_LENGTH = 4;
const FRAME_CHECKSUM = 8;
const FRAME_SCHEMA = 12;
const FRAME_ZERO = 14;
const KEPT_BUFFER_SIZE = 64 * 1024;

const packer = new Packr({ useRecords: false });
const unpacker = new Unpackr({
  useRecords: false, mapsAsObjects: true, int64AsType: 'number', copyBuffers: true,
});

export type FrameFault =
  'magic' | 'length' | 'checksum' | 'version' | 'msgpack' | 'type' | 'depth';

/** A frame that was refused. `before` holds the messages that came complete ahead of it. */
export class FrameError extends Error {
  readonly fault: FrameFault;
  before: unknown[] = [];

  constructor(fault: FrameFault, detail: string) {
    super(`bad frame (${fault}): ${detail}`);
    this.name = 'FrameError';
    this.fault = fault;
  }
}

/** Encodes plain data as one frame. Throws FrameError for other values and above FRAME_LIMIT. */
export function encodeFrame(value: unknown): Uint8Array {
  checkPlain(value, []);
  const body: Uint8Array = packer.pack(value);
  const size = FRAME_HEADER_SIZE + body.length;
  if (size > FRAME_LIMIT) {
    throw new FrameError('length', `${size} bytes, the limit is ${FRAME_LIMIT}`);
  }
  const frame = new Uint8Array(size);
  const view = new DataView(frame.buffer);
  view.setUint32(0, FRAME_MAGIC);
  view.setUint32(FRAME_LENGTH, body.length);
  view.setUint16(FRAME_SCHEMA, SCHEMA_VERSION);
  frame.set(body, FRAME_HEADER_SIZE);
  view.setUint32(FRAME_CHECKSUM, crc32(frame.subarray(FRAME_SCHEMA)));
  return frame;
}

/** Takes bytes as they come and gives the messages they complete. After a bad frame the reader is
 * finished: the stream has no next frame to find. */
export class FrameReader {
  #buffer = new Uint8Array(FRAME_HEADER_SIZE);
  #filled = 0;
  #needed = FRAME_HEADER_SIZE;
  #broken: FrameError | null = null;

  /** Bytes of a frame that is not complete yet. */
  get pending(): number {
    return this.#filled;
  }

  /** Returns the messages completed by these bytes. Throws FrameError on the first bad frame. */
  push(chunk: Uint8Array): unknown[] {
    if (this.#broken !== null) throw this.#broken;
    const messages: unknown[] = [];
    try {
      for (let at = 0; at < chunk.length;) at += this.#take(chunk.subarray(at), messages);
    } catch (error) {
      if (!(error instanceof FrameError)) throw error;
      this.#broken = new FrameError(error.fault, 'an earlier frame was bad');
      this.#buffer = new Uint8Array(0);
      error.before = messages;
      throw error;
    }
    return messages;
  }

  /** Buffers what the frame at hand still needs of the bytes; returns how many that were. */
  #take(bytes: Uint8Array, messages: unknown[]): number {
    const count = Math.min(bytes.length, this.#needed - this.#filled);
    this.#reserve(this.#filled + count);
    this.#buffer.set(bytes.subarray(0, count), this.#filled);
    this.#filled += count;
    if (this.#filled < this.#needed) return count;
    if (this.#needed === FRAME_HEADER_SIZE) {
      this.#needed += checkHeader(this.#buffer);
    } else {
      messages.push(decodeBody(this.#buffer.subarray(0, this.#needed)));
      this.#reset();
    }
    return count;
  }

  /** Grows by doubling, so that a claimed length alone reserves nothing. */
  #reserve(size: number): void {
    if (size <= this.#buffer.length) return;
    const grown = new Uint8Array(Math.min(Math.max(size, this.#buffer.length * 2), this.#needed));
    grown.set(this.#buffer.subarray(0, this.#filled));
    this.#buffer = grown;
  }

  #reset(): void {
    if (this.#buffer.length > KEPT_BUFFER_SIZE) this.#buffer = new Uint8Array(FRAME_HEADER_SIZE);
    this.#filled = 0;
    this.#needed = FRAME_HEADER_SIZE;
  }
}

/** Returns the body's length. Promises that it is not zero and that the frame is within limits. */
function checkHeader(header: Uint8Array): number {
  const view = new DataView(header.buffer, header.byteOffset, FRAME_HEADER_SIZE);
  const magic = view.getUint32(0);
  if (magic !== FRAME_MAGIC) {
    throw new FrameError('magic', `starts with 0x${magic.toString(16).padStart(8, '0')}`);
  }
  const length = view.getUint32(FRAME_LENGTH);
  if (length === 0 || length > FRAME_LIMIT - FRAME_HEADER_SIZE) {
    throw new FrameError('length', `a body of ${length} bytes, the frame limit is ${FRAME_LIMIT}`);
  }
  return length;
}

function decodeBody(frame: Uint8Array): unknown {
  const view = new DataView(frame.buffer, frame.byteOffset, frame.length);
  if (view.getUint32(FRAME_CHECKSUM) !== crc32(frame.subarray(FRAME_SCHEMA))) {
    throw new FrameError('checksum', 'the bytes are not those that were sent');
  }
  const schema = view.getUint16(FRAME_SCHEMA);
  if (schema !== SCHEMA_VERSION || view.getUint16(FRAME_ZERO) !== 0) {
    throw new FrameError('version', `schema version ${schema}, expected ${SCHEMA_VERSION}`);
  }
  const body = frame.subarray(FRAME_HEADER_SIZE);
  new BodyCheck(body).run();
  try {
    return unpacker.unpack(body);
  } catch (error) {
    throw new FrameError('msgpack', error instanceof Error ? error.message : String(error));
  }
}

/** Walks MessagePack bytes without building anything. */
class BodyCheck {
  readonly #view: DataView;
  #at = 0;

  constructor(body: Uint8Array) {
    this.#view = new DataView(body.buffer, body.byteOffset, body.length);
  }

  run(): void {
    this.#value(0);
    const left = this.#view.byteLength - this.#at;
    if (left !== 0) throw new FrameError('msgpack', `${left} bytes after the value`);
  }

  #value(depth: number): void {
    const token = this.#number(1);
    if (token < 0x80 || token >= 0xe0) return;
    if (token < 0x90) return this.#map(token & 0x0f, depth);
    if (token < 0xa0) return this.#array(token & 0x0f, depth);
    if (token < 0xc0) return this.#skip(token & 0x1f);
    switch (token) {
      case 0xc0: case 0xc2: case 0xc3: return;
      case 0xc4: case 0xd9: return this.#skip(this.#number(1));
      case 0xc5: case 0xda: return this.#skip(this.#number(2));
      case 0xc6: case 0xdb: return this.#skip(this.#number(4));
      case 0xcc: case 0xd0: return this.#skip(1);
      case 0xcd: case 0xd1: return this.#skip(2);
      case 0xca: case 0xce: case 0xd2: return this.#skip(4);
      case 0xcb: case 0xcf: case 0xd3: return this.#skip(8);
      case 0xdc: return this.#array(this.#number(2), depth);
      case 0xdd: return this.#array(this.#number(4), depth);
      case 0xde: return this.#map(this.#number(2), depth);
      case 0xdf: return this.#map(this.#number(4), depth);
      default: throw new FrameError('type', `extension 0x${token.toString(16)} at ${this.#at - 1}`);
    }
  }

  #array(count: number, depth: number): void {
    this.#enter(count, depth);
    for (let index = 0; index < count; index += 1) this.#value(depth + 1);
  }

  #map(count: number, depth: number): void {
    this.#enter(count * 2, depth);
    for (let index = 0; index < count; index += 1) {
      this.#checkKey();
      this.#value(depth + 1);
      this.#value(depth + 1);
    }
  }

  #checkKey(): void {
    const at = this.#at;
    const token = this.#number(1);
    const text = (token >= 0xa0 && token < 0xc0) || (token >= 0xd9 && token <= 0xdb);
    if (!text) throw new FrameError('type', `a key that is not text at ${at}`);
    this.#at = at;
  }

  #enter(count: number, depth: number): void {
    if (depth >= DEPTH_LIMIT) throw new FrameError('depth', `more than ${DEPTH_LIMIT} levels`);
    if (count > this.#view.byteLength - this.#at) {
      throw new FrameError('msgpack', `claims ${count} values in fewer bytes`);
    }
  }

  #number(size: 1 | 2 | 4): number {
    const at = this.#at;
    this.#skip(size);
    if (size === 1) return this.#view.getUint8(at);
    return size === 2 ? this.#view.getUint16(at) : this.#view.getUint32(at);
  }

  #skip(size: number): void {
    if (size > this.#view.byteLength - this.#at) {
      throw new FrameError('msgpack', 'ends inside a value');
    }
    this.#at += size;
  }
}

/** Refuses, before encoding, what a reader would refuse. */
function checkPlain(value: unknown, path: (string | number)[]): void {
  if (value === null || typeof value === 'string' || typeof value === 'boolean') return;
  if (typeof value === 'number' || value instanceof Uint8Array) return;
  if (path.length >= DEPTH_LIMIT) {
    throw new FrameError('depth', `more than ${DEPTH_LIMIT} levels`);
  }
  if (Array.isArray(value)) {
    for (let index = 0; index < value.length; index += 1) {
      checkPlain(value[index], [...path, index]);
    }
  } else if (isPlainObject(value)) {
    for (const [key, inner] of Object.entries(value)) checkPlain(inner, [...path, key]);
  } else {
    throw new FrameError('type', `${fieldPath(path) || 'the value'} is not plain data`);
  }
}

function isPlainObject(value: unknown): value is object {
  if (typeof value !== 'object' || value === null) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, index) => {
  let crc = index;
  for (let bit = 0; bit < 8; bit += 1) crc = (crc & 1) === 0 ? crc >>> 1 : (crc >>> 1) ^ 0xedb88320;
  return crc;
});

/** CRC-32 as in IEEE 802.3, as an unsigned number. */
export function crc32(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (let index = 0; index < bytes.length; index += 1) {
    crc = (CRC_TABLE[(crc ^ (bytes[index] ?? 0)) & 0xff] ?? 0) ^ (crc >>> 8);
  }
  return (crc ^ 0xffffffff) >>> 0;
}
