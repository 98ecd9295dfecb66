// Prefix tables of the size of the Internet's, checked against a hash table per prefix length.
// Prints build and update times, lookup rates and sizes; they are not judged here.
// `--prefixes FILE.gz` takes a real table, one prefix a line, in place of the generated ones.

import { parseArgs } from 'node:util';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as abi from '../../wasm/abi/prefix-table.ts';
import { PrefixHash } from '../reference/prefixes.ts';
import {
  BATCH, TestTable, generateIpv4, generateIpv6, randomSource, readPrefixFile,
  type PrefixSet,
} from '../support/prefixes.ts';

const SEED = 20251;
const IPV4_COUNT = 955_000;          // 900,000 different ones
const IPV6_COUNT = 170_000;          // 160,000
const UPDATES = 2000;
const CHECKED_BATCHES = 64;           // of BATCH keys, for each kind of keys
const TIMED_BATCHES = 32;
const TIMED_ROUNDS = 2;
const WORDS = abi.PREFIX_KEY_SIZE / 4;
const MIB = 1024 * 1024;

type Family = 'IPv4' | 'IPv6';
type Keys = (out: DataView) => void;

interface Loaded {
  readonly family: Family;
  readonly set: PrefixSet;
  readonly table: TestTable;
  readonly oracle: PrefixHash;
}

function load(family: Family, set: PrefixSet): Loaded {
  const table = new TestTable(family === 'IPv4'
    ? { prefixes: 1_100_000, nodes: 220_000, leaves: 2_000_000 }
    : { prefixes: 220_000, nodes: 600_000, leaves: 1_200_000 });
  const oracle = new PrefixHash(set.count + UPDATES);
  const begin = performance.now();
  for (let index = 0; index < set.count; index++) {
    const key = table.putBytes(set.keys, index);
    const [length = 0, value = 0] = [set.lengths[index], set.values[index]];
    assert.is(table.core.prefixStage(table.table, key, length, value), abi.PREFIX_OK);
  }
  const staged = performance.now();
  assert.is(table.publish(), abi.PREFIX_OK);
  const published = performance.now();
  for (let index = 0; index < set.count; index++) {
    oracle.set(set.words, index * WORDS, set.lengths[index] ?? 0, set.values[index] ?? 0);
  }
  const [stageMs, publishMs] = [staged - begin, published - staged];
  const count = table.core.prefixCount(table.table);
  report(family, `${count} prefixes: trie ${stageMs.toFixed(0)} ms, ` +
    `lookup structure ${publishMs.toFixed(0)} ms, ` +
    `${mib(table, abi.PREFIX_USAGE_LOOKUP_BYTES)} MiB, ` +
    `trie ${mib(table, abi.PREFIX_USAGE_CONTROL_BYTES)} MiB`);
  return { family, set, table, oracle };
}

function report(family: Family, line: string): void {
  console.log(`${family}: ${line}`);
}

function mib(table: TestTable, what: number): string {
  return (table.usage(what) / MIB).toFixed(1);
}

/** Any address; for IPv6, one of the part that is given out, 2000::/3. */
function anyKeys({ family }: Loaded, random: () => number): Keys {
  return (out) => {
    const first = family === 'IPv4' ? random() : 0x2000_0000 + (random() >>> 3);
    out.setUint32(0, first);
    for (let at = 4; at < abi.PREFIX_KEY_SIZE; at += 4) {
      out.setUint32(at, family === 'IPv4' ? 0 : random());
    }
  };
}

/**
 * Addresses in prefixes of the table. The rest of the key is random, or, if `edge`, all zeros or
 * all ones, and every second time the prefix's last bit is turned, which leads just outside of it.
 */
function prefixKeys({ family, set }: Loaded, random: () => number, edge: boolean): Keys {
  const bits = family === 'IPv4' ? 32 : 128;
  return (out) => {
    const index = random() % set.count;
    const length = set.lengths[index] ?? 0;
    const kind = random();
    const fill = (kind & 1) === 0 ? 0 : 0xff;
    for (let byte = 0; byte < abi.PREFIX_KEY_SIZE; byte++) {
      const keep = Math.max(Math.min(length - byte * 8, 8), 0);
      const rest = edge ? fill : random() & 0xff;
      const mask = byte * 8 < bits ? 0xff >> keep : 0;
      out.setUint8(byte, (set.keys[index * abi.PREFIX_KEY_SIZE + byte] ?? 0) | (rest & mask));
    }
    if (!edge || (kind & 2) === 0 || length === 0) return;
    const last = (length - 1) >> 3;
    out.setUint8(last, out.getUint8(last) ^ (0x80 >> ((length - 1) & 7)));
  };
}

/** One batch of keys, as the core takes them and as the oracle does. */
function makeBatch({ family }: Loaded, keys: Keys): { forCore: Uint32Array; words: Uint32Array } {
  const bytes = new Uint8Array(BATCH * abi.PREFIX_KEY_SIZE);
  const view = new DataView(bytes.buffer);
  const forCore = new Uint32Array(BATCH);
  for (let index = 0; index < BATCH; index++) {
    const at = index * abi.PREFIX_KEY_SIZE;
    keys(new DataView(bytes.buffer, at, abi.PREFIX_KEY_SIZE));
    forCore[index] = view.getUint32(at);
  }
  const words = new Uint32Array(bytes.buffer);
  return { forCore: family === 'IPv4' ? forCore : words, words };
}

/** Looks a batch up; returns the milliseconds it took. The values are in memory then. */
function findBatch({ family, table }: Loaded, forCore: Uint32Array): number {
  new Uint32Array(table.memory.buffer, table.keys, forCore.length).set(forCore);
  const begin = performance.now();
  if (family === 'IPv4') {
    table.core.prefixFindMany4(table.table, table.keys, BATCH, table.values);
  } else {
    table.core.prefixFindMany6(table.table, table.keys, BATCH, table.values);
  }
  return performance.now() - begin;
}

/** Compares with the oracle; returns how many keys had a route. */
function checkKeys(loaded: Loaded, keys: Keys, batches: number): number {
  const found = new Uint16Array(loaded.table.memory.buffer, loaded.table.values, BATCH);
  let routed = 0;
  for (let batch = 0; batch < batches; batch++) {
    const { forCore, words } = makeBatch(loaded, keys);
    findBatch(loaded, forCore);
    for (let index = 0; index < BATCH; index++) {
      const expected = loaded.oracle.find(words, index * WORDS);
      if (found[index] !== expected) {
        const key = Buffer.from(words.buffer, index * abi.PREFIX_KEY_SIZE, abi.PREFIX_KEY_SIZE);
        assert.unreachable(`${key.toString('hex')}: ${found[index]}, not ${expected}`);
      }
      routed += Number(expected !== 0);
    }
  }
  return routed;
}

/** Prints the best rate of a few rounds of lookups, over keys that do not fit the nearest cache. */
function timeKeys(loaded: Loaded, name: string, keys: Keys): void {
  const batches = Array.from({ length: TIMED_BATCHES }, () => makeBatch(loaded, keys).forCore);
  const rounds = Array.from({ length: TIMED_ROUNDS }, () =>
    batches.reduce((sum, batch) => sum + findBatch(loaded, batch), 0));
  const best = Math.min(...rounds);
  report(loaded.family, `${name}: ${((TIMED_BATCHES * BATCH) / best / 1000).toFixed(0)} Mlps`);
}

/** Removes, replaces and inserts single prefixes, and checks the addresses next to each. */
function update(loaded: Loaded, random: () => number): void {
  const { family, set, table, oracle } = loaded;
  const times: number[] = [];
  const near = new Uint32Array(WORDS);
  for (let step = 0; step < UPDATES; step++) {
    const index = random() % set.count;
    const length = set.lengths[index] ?? 0;
    const value = step % 3 === 0 ? 0 : 1 + (random() % 64);
    const had = oracle.get(set.words, index * WORDS, length);
    const key = table.putBytes(set.keys, index);
    assert.is(table.core.prefixGet(table.table, key, length), had === 0 ? -1 : had);
    const begin = performance.now();
    const answer = value === 0
      ? table.core.prefixRemove(table.table, key, length)
      : table.core.prefixInsert(table.table, key, length, value);
    times.push(performance.now() - begin);
    const expected = value === 0 && had === 0 ? abi.PREFIX_NOT_FOUND : abi.PREFIX_OK;
    assert.is(answer, expected);
    oracle.set(set.words, index * WORDS, length, value);
    near.set(set.words.subarray(index * WORDS, (index + 1) * WORDS));
    assert.is(table.core.prefixFind(table.table, key), oracle.find(near, 0));
  }
  times.sort((a, b) => a - b);
  const [median, most] = [0.5, 0.99].map((share) =>
    ((times[Math.floor(UPDATES * share)] ?? 0) * 1e6).toFixed(0));
  report(family, `${UPDATES} updates: median ${median} ns, 99 of 100 within ${most} ns`);
}

function runAll(family: Family, set: PrefixSet): void {
  const random = randomSource(SEED);
  const loaded = load(family, set);
  const check = (batches: number): void => {
    checkKeys(loaded, anyKeys(loaded, random), batches);
    checkKeys(loaded, prefixKeys(loaded, random, true), batches);
    const routed = checkKeys(loaded, prefixKeys(loaded, random, false), batches);
    assert.ok(routed > batches * BATCH * 0.9, `${routed} keys have a route`);
  };
  check(CHECKED_BATCHES);
  timeKeys(loaded, 'any address', anyKeys(loaded, random));
  timeKeys(loaded, 'addresses in prefixes', prefixKeys(loaded, random, false));
  update(loaded, random);
  check(CHECKED_BATCHES / 8);
  assert.is(loaded.table.publish(), abi.PREFIX_OK);
  assert.is(loaded.table.core.prefixReclaim(loaded.table.table), 0);
  check(CHECKED_BATCHES / 8);
}

const options = parseArgs({ options: { prefixes: { type: 'string' } }, strict: false });
const file = options.values.prefixes;
const real = typeof file === 'string' ? readPrefixFile(file, SEED) : undefined;

test('a full IPv4 table', () => runAll('IPv4', real?.ipv4 ?? generateIpv4(IPV4_COUNT, SEED)));
test('a full IPv6 table', () => runAll('IPv6', real?.ipv6 ?? generateIpv6(IPV6_COUNT, SEED)));

test.run();
