// Prefixes as routers have them: generated with the lengths and the clustering of a BGP table or of
// a cluster, or read from a real table. For tests and benches of prefix tables.

import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { PREFIX_KEY_SIZE } from '../wasm/abi/prefix-table.ts';

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
  const keys = new Uint8Array(count * PREFIX_KEY_SIZE);
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
// A cluster's pod networks and, one in eight, single addresses.
const CLUSTER_IPV4_SHARES = [20, 21, 22, 23, 24, 25, 26, 27, 28, 32].map((length) =>
  [length, length === 32 ? 9 : 7] as const);
const CLUSTER_IPV6_SHARES = [44, 48, 52, 56, 60, 64, 128].map((length) =>
  [length, length === 128 ? 6 : 7] as const);
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
    for (let at = 4; at < PREFIX_KEY_SIZE; at += 4) key.setUint32(at, random());
    return block;
  });
}

/** IPv4 prefixes of a cluster's size and place, 10.192.0.0/10. Some may be equal. */
export function generateCluster4(count: number, seed: number): PrefixSet {
  const random = randomSource(seed);
  return generate(count, random, CLUSTER_IPV4_SHARES, (key) => {
    key.setUint32(0, 0x0ac0_0000 + (random() >>> 10));
    return random();
  });
}

/** IPv6 prefixes, likewise, in fd00:200::/24. */
export function generateCluster6(count: number, seed: number): PrefixSet {
  const random = randomSource(seed);
  return generate(count, random, CLUSTER_IPV6_SHARES, (key) => {
    key.setUint32(0, 0xfd00_0200 + (random() >>> 24));
    for (let at = 4; at < PREFIX_KEY_SIZE; at += 4) key.setUint32(at, random());
    return random();
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
    const key = new DataView(set.keys.buffer, index * PREFIX_KEY_SIZE, PREFIX_KEY_SIZE);
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
  for (let byte = length >> 3; byte < PREFIX_KEY_SIZE; byte++) {
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
    set.keys.set(parseAddress(address), index * PREFIX_KEY_SIZE);
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
