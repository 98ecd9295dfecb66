// A module made ready to run: what the daemon keeps in memory, sends to its workers and stores
// under the hash of the component. On disk and in a pipe it is one run of bytes: magic, the length
// of a header in JSON, that header, the parts it lists, and the SHA-256 of all before it.

import { createHash, randomUUID } from 'node:crypto';
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as v from 'valibot';
import { parseShape } from '../engine/shape.ts';
import { ModuleError } from './error.ts';

/** What an operator may let a module import beside `culvert:policy/host`. */
export const GRANTS = [
  'clock', 'wasi-cli', 'wasi-clocks', 'wasi-filesystem', 'wasi-io', 'wasi-random',
] as const;
export type WasiName = (typeof GRANTS)[number];

const HeaderSchema = v.strictObject({
  sha256: v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/)),
  name: v.string(),
  version: v.string(),
  stateful: v.boolean(),
  wit: v.string(),
  policy: v.string(),
  imports: v.array(v.string()),
  path: v.picklist(['direct', 'component']),
  plain: v.nullable(v.string()),
  hasPayload: v.boolean(),
  allow: v.array(v.picklist(GRANTS)),
  memoryCapBytes: v.number(),
  script: v.number(),
  cores: v.array(v.strictObject({
    name: v.string(), memories: v.number(), tables: v.number(), length: v.number(),
  })),
});

/** A core module of a component, with limits on its memories and tables. */
export interface ImageCore {
  name: string;
  bytes: Uint8Array;
  /** Memories and tables that each instance has of its own. */
  memories: number;
  tables: number;
  /** The bytes compiled, by one who can wait for that; not stored. */
  module?: WebAssembly.Module;
}

/** A module, compiled and checked, as instantiateModule() takes it. */
export interface ModuleImage {
  /** Of the component. */
  sha256: string;
  name: string;
  version: string;
  stateful: boolean;
  /** The interface as the component itself tells it. */
  wit: string;
  /** Full name of the interface that it exports, with its version. */
  policy: string;
  /** Interfaces that it imports, as `culvert:policy/host@0.1.0`. */
  imports: string[];
  /** How `evaluate` is called: straight, or through the bindings, which takes microseconds. */
  path: 'direct' | 'component';
  /** The core module that runs without bindings, on the path `direct`; null where none does. */
  plain: string | null;
  hasPayload: boolean;
  allow: WasiName[];
  memoryCapBytes: number;
  /** The bindings: a script whose value is jco's instantiate(). */
  script: string;
  cores: ImageCore[];
}

/** The last four bytes are the version of this form. */
const MAGIC = new TextEncoder().encode('CULVERTM\x02\0\0\0');
const LENGTH_SIZE = 4;
const SUM_SIZE = 32;

function sumOf(bytes: Uint8Array): Uint8Array {
  return createHash('sha256').update(bytes).digest();
}

/** The image as bytes. */
export function encodeImage(image: ModuleImage): Uint8Array {
  const script = new TextEncoder().encode(image.script);
  const cores = image.cores.map(({ name, memories, tables, bytes }) =>
    ({ name, memories, tables, length: bytes.length }));
  const header = new TextEncoder().encode(
    JSON.stringify({ ...image, script: script.length, cores }));
  const length = new Uint8Array(LENGTH_SIZE);
  new DataView(length.buffer).setUint32(0, header.length, true);
  const body = Buffer.concat(
    [MAGIC, length, header, script, ...image.cores.map(({ bytes }) => bytes)]);
  return Buffer.concat([body, sumOf(body)]);
}

/** The image that encodeImage() wrote. Throws ModuleError where the bytes are not whole. */
export function decodeImage(bytes: Uint8Array): ModuleImage {
  const end = bytes.length - SUM_SIZE;
  const isWhole = end > MAGIC.length + LENGTH_SIZE
    && MAGIC.every((byte, at) => bytes[at] === byte)
    && Buffer.compare(sumOf(bytes.subarray(0, end)), bytes.subarray(end)) === 0;
  if (!isWhole) throw damaged('its checksum is wrong');
  let at = MAGIC.length + LENGTH_SIZE;
  const take = (length: number): Uint8Array => {
    at += length;
    return bytes.slice(at - length, at);
  };
  const headerLength = new DataView(bytes.buffer, bytes.byteOffset).getUint32(MAGIC.length, true);
  const text = new TextDecoder();
  try {
    const header = parseShape(HeaderSchema, JSON.parse(text.decode(take(headerLength))), 'header');
    const script = text.decode(take(header.script));
    const cores = header.cores.map(({ length, ...core }) => ({ ...core, bytes: take(length) }));
    return { ...header, script, cores };
  } catch (error) {
    throw damaged((error as Error).message);
  }
}

function damaged(reason: string): ModuleError {
  return new ModuleError('image', `The compiled form of the module cannot be used: ${reason}.`);
}

/** Where the image of a component with this hash is, below `folder`. */
export function imagePath(folder: string, sha256: string): string {
  return join(folder, `${sha256}.image`);
}

/** Stores an image under the hash of its component, in one step. */
export function saveImage(folder: string, image: ModuleImage): void {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const path = imagePath(folder, image.sha256);
  const own = `${path}.${randomUUID()}`;
  try {
    writeFileSync(own, encodeImage(image), { mode: 0o600, flush: true });
    renameSync(own, path);
  } finally {
    rmSync(own, { force: true });
  }
}

/** The stored image of a component; null where there is none. Throws ModuleError where it is
 * damaged or another's: the component has to be compiled anew. */
export function loadImage(folder: string, sha256: string): ModuleImage | null {
  let bytes: Uint8Array;
  try {
    bytes = readFileSync(imagePath(folder, sha256));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
  const image = decodeImage(bytes);
  if (image.sha256 !== sha256) throw damaged('it belongs to another component');
  return image;
}
