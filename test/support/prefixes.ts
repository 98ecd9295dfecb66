// For the tests of prefix tables: a table in a memory of its own, and generated or real prefixes.

import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import * as abi from '../../wasm/abi/prefix-table.ts';
import {
  CONTROL_SCRATCH_START, DIRECTORY_START, DIRECTORY_WORKER_COUNT, TABLES_START, WORKERS_START,
  WORKER_STRIDE, WORKER_TURN,
} from '../../wasm/abi/layout.ts';

/** The exports of the core that prefix tables have. */
export interface PrefixExports {
  prefixTableSize(
    prefixLimit: number, nodeLimit: number, leafLimit: number, leafSize: number): number;
  prefixTableInit(
    table: number, prefixes: number, nodes: number, leaves: number, leafSize: number): number;
  prefixAbove(table: number, key: number, length: number): number;
  prefixInsert(table: number, key: number, length: number, value: number): number;
  prefixRemove(table: number, key: number, length: number): number;
  prefixStage(table: number, key: number, length: number, value: number): number;
  prefixPublish(table: number): number;
  prefixGet(table: number, key: number, length: number): number;
  prefixFind(table: number, key: number): number;
  prefixFindMany4(table: number, addresses: number, count: number, values: number): void;
  prefixFindMany6(table: number, keys: number, count: number, values: number): void;
  prefixCount(table: number): number;
  prefixReclaim(table: number): number;
  prefixUsage(table: number, what: number): number;
}

export interface PrefixLimits {
  readonly prefixes: number;
  readonly nodes: number;
  readonly leaves: number;
}

const PAGE = 65536;
const MEMORY_PAGES_MAX = 32768;
const CORE = new URL('../../wasm/core.wasm', import.meta.url);

/** Number of keys TestTable.findMany takes at a time. */
export const BATCH = 4096;

/** Instantiates the core over a memory. */
export function instantiateCore(memory: WebAssembly.Memory): PrefixExports {
  const module = new WebAssembly.Module(readFileSync(CORE));
  const instance = new WebAssembly.Instance(module, { env: { memory } });
  return instance.exports as unknown as PrefixExports;
}

/** One prefix table alone in a memory, with a space for keys behind it. */
export class TestTable {
  readonly memory: WebAssembly.Memory;
  readonly core: PrefixExports;
  readonly table = TABLES_START;
  readonly keys: number;
  readonly leafSize: number;
  readonly #view: DataView;
  readonly #bytes: Uint8Array;

  constructor(limits: PrefixLimits, leafSize: number = abi.PREFIX_LEAF_NARROW) {
    this.leafSize = leafSize;
    const pages = (bytes: number): number => Math.ceil(bytes / PAGE);
    const room = BATCH * (abi.PREFIX_KEY_SIZE + leafSize);
    const probe = instantiateCore(newMemory(1));
    const size = probe.prefixTableSize(
      limits.prefixes, limits.nodes, limits.leaves, leafSize);
    if (size === 0) throw new Error('prefixTableSize refuses these limits');
    this.memory = newMemory(pages(TABLES_START + size + room));
    this.core = instantiateCore(this.memory);
    this.keys = TABLES_START + size;
    this.#view = new DataView(this.memory.buffer);
    this.#bytes = new Uint8Array(this.memory.buffer);
    this.core.prefixTableInit(
      this.table, limits.prefixes, limits.nodes, limits.leaves, leafSize);
  }

  get values(): number {
    return this.keys + BATCH * abi.PREFIX_KEY_SIZE;
  }

  get bytes(): Uint8Array {
    return this.#bytes;
  }

  usage(what: number): number {
    return this.core.prefixUsage(this.table, what);
  }

  insert(key: bigint, length: number, value: number): number {
    return this.core.prefixInsert(this.table, this.#put(key), length, value);
  }

  remove(key: bigint, length: number): number {
    return this.core.prefixRemove(this.table, this.#put(key), length);
  }

  stage(key: bigint, length: number, value: number): number {
    return this.core.prefixStage(this.table, this.#put(key), length, value);
  }

  publish(): number {
    return this.core.prefixPublish(this.table);
  }

  get(key: bigint, length: number): number {
    return this.core.prefixGet(this.table, this.#put(key), length);
  }

  /** What the prefix's addresses would find without it. */
  above(key: bigint, length: number): number {
    return this.core.prefixAbove(this.table, this.#put(key), length);
  }

  find(key: bigint): number {
    return this.core.prefixFind(this.table, this.#put(key));
  }

  /** The lookup of the packet path for IPv4. */
  find4(key: bigint): number {
    this.#view.setUint32(this.keys, Number(key >> 96n), true);
    this.core.prefixFindMany4(this.table, this.keys, 1, this.values);
    return this.leafSize === abi.PREFIX_LEAF_WIDE
      ? this.#view.getUint32(this.values, true)
      : this.#view.getUint16(this.values, true);
  }

  /** Copies a key of 16 bytes to where the core takes it from; returns its address. */
  putBytes(keys: Uint8Array, index: number): number {
    const from = index * abi.PREFIX_KEY_SIZE;
    for (let at = 0; at < abi.PREFIX_KEY_SIZE; at++) {
      this.#bytes[CONTROL_SCRATCH_START + at] = keys[from + at] ?? 0;
    }
    return CONTROL_SCRATCH_START;
  }

  setWorkers(count: number): void {
    this.#view.setUint32(DIRECTORY_START + DIRECTORY_WORKER_COUNT, count, true);
  }

  setTurn(worker: number, turn: number): void {
    this.#view.setUint32(WORKERS_START + worker * WORKER_STRIDE + WORKER_TURN, turn, true);
  }

  #put(key: bigint): number {
    this.#view.setBigUint64(CONTROL_SCRATCH_START, key >> 64n);
    this.#view.setBigUint64(CONTROL_SCRATCH_START + 8, key & 0xffff_ffff_ffff_ffffn);
    return CONTROL_SCRATCH_START;
  }
}

function newMemory(pages: number): WebAssembly.Memory {
  return new WebAssembly.Memory({ initial: pages, maximum: MEMORY_PAGES_MAX, shared: true });
}

/** A source of equally distributed 32-bit numbers (mulberry32). */
export function randomSource(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (mixed ^ (mixed >>> 14)) >>> 0;
  };
}

/** Many prefixes, in flat arrays. The keys are 16 bytes each, in network order. */
export interface PrefixSet {
  readonly count: number;
  readonly keys: Uint8Array;
  readonly words: Uint32Array;        // the same bytes
  readonly lengths: Uint8Array;
  readonly values: Uint16Array;
}

function newSet(count: number): PrefixSet {
  const keys = new Uint8Array(count * abi.PREFIX_KEY_SIZE);
  return {
    count, keys, words: new Uint32Array(keys.buffer),
    lengths: new Uint8Array(count), values: new Uint16Array(count),
  };
}

// Share of each length in a BGP table, in tenths of a percent.
const IPV4_SHARES: readonly (readonly [number, number])[] = [
  [24, 607], [22, 115], [23, 100], [21, 46], [20, 45], [19, 26], [18, 14], [16, 14], [17, 9],
  [15, 4], [14, 3], [13, 2], [12, 2], [11, 2], [10, 1], [8, 1], [25, 2], [26, 2], [27, 1], [28, 1],
  [29, 1], [30, 1], [32, 1],
];
const IPV6_SHARES: readonly (readonly [number, number])[] = [
  [48, 470], [32, 125], [44, 90], [40, 85], [36, 50], [29, 40], [46, 40], [47, 30], [42, 20],
  [33, 20], [35, 10], [28, 5], [30, 5], [64, 4], [56, 3], [127, 1], [128, 2],
];
const IPV4_BLOCKS = 28_000;           // of 16 bits; the prefixes are clustered in them
const IPV6_BLOCKS = 20_000;           // of 32 bits
const NEXT_HOPS = 64;

/** IPv4 prefixes with the lengths and the clustering of a BGP table. Some may be equal. */
export function generateIpv4(count: number, seed: number): PrefixSet {
  const random = randomSource(seed);
  const blocks = Array.from({ length: IPV4_BLOCKS }, () => random() >>> 16);
  return generate(count, random, IPV4_SHARES, (key) => {
    const host = random();
    const block = blocks[host % IPV4_BLOCKS] ?? 0;
    key.setUint32(0, block * 65536 + (host >>> 16));
    return block;
  });
}

/** IPv6 prefixes, likewise. */
export function generateIpv6(count: number, seed: number): PrefixSet {
  const random = randomSource(seed);
  const blocks = Array.from({ length: IPV6_BLOCKS }, () => 0x2000_0000 + (random() >>> 3));
  return generate(count, random, IPV6_SHARES, (key) => {
    const block = blocks[random() % IPV6_BLOCKS] ?? 0;
    key.setUint32(0, block);
    for (let at = 4; at < abi.PREFIX_KEY_SIZE; at += 4) key.setUint32(at, random());
    return block;
  });
}

/** `fill` writes a key and returns the number of its block. Most of a block has one next hop. */
function generate(
  count: number, random: () => number, shares: readonly (readonly [number, number])[],
  fill: (key: DataView) => number,
): PrefixSet {
  const set = newSet(count);
  const table = shares.flatMap(([length, share]) => new Array<number>(share).fill(length));
  for (let index = 0; index < count; index++) {
    const key = new DataView(set.keys.buffer, index * abi.PREFIX_KEY_SIZE, abi.PREFIX_KEY_SIZE);
    const block = fill(key);
    const length = table[random() % table.length] ?? 24;
    clearBits(key, length);
    set.lengths[index] = length;
    const own = random() % 10 < 7 ? Math.imul(block, 0x9e3779b1) >>> 8 : random();
    set.values[index] = 1 + (own % NEXT_HOPS);
  }
  return set;
}

function clearBits(key: DataView, length: number): void {
  for (let byte = length >> 3; byte < abi.PREFIX_KEY_SIZE; byte++) {
    const keep = byte === length >> 3 ? 0xff00 >> (length & 7) : 0;
    key.setUint8(byte, key.getUint8(byte) & keep);
  }
}

/** Reads a gzipped list of prefixes, one a line, and gives them values. */
export function readPrefixFile(file: string, seed: number): { ipv4: PrefixSet; ipv6: PrefixSet } {
  const lines = gunzipSync(readFileSync(file)).toString('latin1').split('\n').filter(Boolean);
  const families = [lines.filter((line) => !line.includes(':')), lines.filter((line) =>
    line.includes(':'))].map((family) => parsePrefixes(family, seed));
  const [ipv4, ipv6] = families;
  if (ipv4 === undefined || ipv6 === undefined) throw new Error(`${file}: no prefixes`);
  return { ipv4, ipv6 };
}

function parsePrefixes(lines: readonly string[], seed: number): PrefixSet {
  const random = randomSource(seed);
  const set = newSet(lines.length);
  for (const [index, line] of lines.entries()) {
    const [address = '', length = '0'] = line.split('/');
    set.keys.set(parseAddress(address), index * abi.PREFIX_KEY_SIZE);
    set.lengths[index] = Number(length);
    set.values[index] = 1 + (random() % NEXT_HOPS);
  }
  return set;
}

/** The bytes of an address in text, 4 or 16. */
export function parseAddress(text: string): number[] {
  if (!text.includes(':')) return text.split('.').map(Number);
  const [left = '', right] = text.split('::');
  const head = left === '' ? [] : left.split(':');
  const tail = right === undefined || right === '' ? [] : right.split(':');
  const zeros = new Array<string>(8 - head.length - tail.length).fill('0');
  const groups = [...head, ...zeros, ...tail].map((group) => parseInt(group, 16));
  return groups.flatMap((group) => [group >> 8, group & 0xff]);
}
