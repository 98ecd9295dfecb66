// The prefix table against its slow twin, a linear list: every lookup after every change, failures
// that change nothing, memory that is not reused while a worker may read it, and no leaks.

import { fileURLToPath } from 'node:url';
import { Worker, isMainThread, workerData } from 'node:worker_threads';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as layout from '../../wasm/abi/layout.ts';
import * as abi from '../../wasm/abi/prefix-table.ts';
import { PrefixList } from '../reference/prefixes.ts';
import { BATCH, TestTable, instantiateCore, randomSource } from '../support/prefixes.ts';

const SMALL = { prefixes: 1024, nodes: 8192, leaves: 32768 };
const KEY_MAX = (1n << 128n) - 1n;
const FAMILIES = { IPv4: 32, IPv6: 128 } as const;
type Family = keyof typeof FAMILIES;
const LEAF_SIZES = [abi.PREFIX_LEAF_NARROW, abi.PREFIX_LEAF_WIDE] as const;
/** Every family with either size of leaf; values of wide ones do not fit 16 bits. */
const CASES = (['IPv4', 'IPv6'] as const).flatMap((family) => LEAF_SIZES.map((leaf) => ({
  family, leaf, name: `${family}, leaves of ${leaf} bytes`,
  scale: leaf === abi.PREFIX_LEAF_WIDE ? 4099 : 1,
})));

/** Keeps the first `length` bits of a key. */
function cut(key: bigint, length: number): bigint {
  const rest = BigInt(128 - length);
  return (key >> rest) << rest;
}

function randomKey(random: () => number, family: Family): bigint {
  const high = BigInt(random());
  if (family === 'IPv4') return high << 96n;
  const rest = [random(), random(), random()].map(BigInt);
  return rest.reduce((key, word) => (key << 32n) | word, high);
}

/** First and last key of a prefix and the neighbours of both. */
function edges(key: bigint, length: number, family: Family): bigint[] {
  const step = family === 'IPv4' ? 1n << 96n : 1n;
  const last = (key | ((1n << BigInt(128 - length)) - 1n)) & (KEY_MAX - (step - 1n));
  return [key, last, (key - step) & KEY_MAX, (last + step) & KEY_MAX];
}

/** Random prefixes that often lie within each other. */
function randomPrefix(random: () => number, family: Family, roots: bigint[]): [bigint, number] {
  const length = random() % (FAMILIES[family] + 1);
  const root = roots[random() % roots.length] ?? 0n;
  const shared = random() % (FAMILIES[family] + 1);
  const own = randomKey(random, family) & ((1n << BigInt(128 - shared)) - 1n);
  return [cut(cut(root, shared) | own, length), length];
}

function checkKey(table: TestTable, twin: PrefixList, key: bigint, family: Family): void {
  const expected = twin.find(key);
  const found = table.find(key);
  if (found !== expected) assert.unreachable(`${key.toString(16)}: ${found}, not ${expected}`);
  if (family === 'IPv4') assert.is(table.find4(key), expected);
}

function usage(table: TestTable): number[] {
  const all = [
    abi.PREFIX_USAGE_PREFIXES, abi.PREFIX_USAGE_NODES, abi.PREFIX_USAGE_LEAVES,
    abi.PREFIX_USAGE_RETIRED, abi.PREFIX_USAGE_CONTROL_BYTES, abi.PREFIX_USAGE_FREE_BYTES,
    abi.PREFIX_USAGE_FREE_PIECES, abi.PREFIX_USAGE_LOOKUP_BYTES,
  ];
  return all.map((what) => table.usage(what));
}

test('an empty table has no routes', () => {
  const table = new TestTable(SMALL);
  for (const key of [0n, 1n, KEY_MAX, 10n << 120n]) assert.is(table.find(key), 0);
  assert.is(table.find4(0n), 0);
  assert.is(table.core.prefixCount(table.table), 0);
  assert.is(table.usage(99), -1);
});

test('limits out of range are refused', () => {
  const { core } = new TestTable(SMALL);
  for (const limits of [[0, 1, 1], [1, 0, 1], [1, 1, -1], [2 ** 25, 1, 1], [1, 2 ** 24, 1]]) {
    const [prefixes = 0, nodes = 0, leaves = 0] = limits;
    for (const leaf of LEAF_SIZES) {
      assert.is(core.prefixTableSize(prefixes, nodes, leaves, leaf), 0);
      assert.is(core.prefixTableInit(layout.TABLES_START, prefixes, nodes, leaves, leaf),
        abi.PREFIX_BAD_KEY);
    }
  }
  for (const leaf of [0, 1, 3, 8, -2]) assert.is(core.prefixTableSize(1, 1, 1, leaf), 0);
});

test('keys, lengths and values out of range are refused', () => {
  const table = new TestTable(SMALL);
  const before = usage(table);
  for (const length of [-1, 129, 2 ** 31 - 1]) {
    assert.is(table.insert(0n, length, 1), abi.PREFIX_BAD_KEY);
    assert.is(table.remove(0n, length), abi.PREFIX_BAD_KEY);
    assert.is(table.stage(0n, length, 1), abi.PREFIX_BAD_KEY);
    assert.is(table.get(0n, length), -1);
  }
  for (let length = 0; length < 128; length++) {
    assert.is(table.insert(1n << BigInt(127 - length), length, 1), abi.PREFIX_BAD_KEY);
    assert.is(table.insert(1n, length, 1), abi.PREFIX_BAD_KEY);
  }
  for (const value of [0, -1, 65536]) assert.is(table.insert(0n, 8, value), abi.PREFIX_BAD_KEY);
  const wide = new TestTable(SMALL, abi.PREFIX_LEAF_WIDE);
  for (const value of [0, -1, 1048576]) assert.is(wide.insert(0n, 8, value), abi.PREFIX_BAD_KEY);
  assert.is(wide.insert(0n, 8, 1048575), abi.PREFIX_OK);
  assert.is(wide.find(1n), 1048575);
  assert.is(table.remove(0n, 8), abi.PREFIX_NOT_FOUND);
  assert.is(table.stage(0n, 8, 0), abi.PREFIX_NOT_FOUND);
  assert.equal(usage(table), before);
});

for (const { family, leaf, name, scale } of CASES) {
  test(`${name}: one prefix of every length, each within the one before`, () => {
    const random = randomSource(7);
    const table = new TestTable(SMALL, leaf);
    const twin = new PrefixList();
    const key = randomKey(random, family);
    const lengths = Array.from({ length: FAMILIES[family] + 1 }, (_, length) => length);
    const check = (): void => {
      for (const length of lengths) {
        for (const edge of edges(cut(key, length), length, family)) {
          checkKey(table, twin, edge, family);
        }
      }
    };
    for (const length of lengths.toSorted((a, b) => ((a * 37) % 131) - ((b * 37) % 131))) {
      assert.is(table.insert(cut(key, length), length, (length + 1) * scale),
        abi.PREFIX_OK);
      twin.set(cut(key, length), length, (length + 1) * scale);
      assert.is(table.get(cut(key, length), length), (length + 1) * scale);
      check();
    }
    for (const length of lengths.toSorted((a, b) => ((a * 53) % 137) - ((b * 53) % 137))) {
      assert.is(table.remove(cut(key, length), length), abi.PREFIX_OK);
      twin.set(cut(key, length), length, 0);
      assert.is(table.get(cut(key, length), length), -1);
      check();
    }
    assert.is(table.usage(abi.PREFIX_USAGE_NODES), 0);
  });

  test(`${name}: random changes agree with the twin after each one`, () => {
    const random = randomSource(family === 'IPv4' ? 4 : 6);
    const table = new TestTable(SMALL, leaf);
    const twin = new PrefixList();
    const roots = Array.from({ length: 5 }, () => randomKey(random, family));
    for (let step = 0; step < 1500; step++) {
      const entry = twin.entries[random() % Math.max(twin.entries.length, 1)];
      const removes = entry !== undefined && random() % 100 < (step < 700 ? 30 : 55);
      const replaces = entry !== undefined && random() % 5 === 0;
      const [key, length] = removes || replaces
        ? [entry.key, entry.length] : randomPrefix(random, family, roots);
      const value = removes ? 0 : scale * (1 + (random() % 6));
      const answer = removes ? table.remove(key, length) : table.insert(key, length, value);
      assert.is(answer, abi.PREFIX_OK);
      twin.set(key, length, value);
      for (const edge of edges(key, length, family)) checkKey(table, twin, edge, family);
      for (let other = 0; other < 4; other++) {
        const some = twin.entries[random() % Math.max(twin.entries.length, 1)];
        if (some === undefined) continue;
        for (const edge of edges(some.key, some.length, family)) {
          checkKey(table, twin, edge, family);
        }
      }
      checkKey(table, twin, randomKey(random, family), family);
    }
    assert.is(table.core.prefixCount(table.table), twin.entries.length);
    for (const entry of twin.entries) assert.is(table.get(entry.key, entry.length), entry.value);
  });

  test(`${name}: staged prefixes show at once when published, and not before`, () => {
    const random = randomSource(11);
    const table = new TestTable(SMALL, leaf);
    const twin = new PrefixList();
    const roots = Array.from({ length: 5 }, () => randomKey(random, family));
    for (let round = 0; round < 20; round++) {
      const keys = Array.from({ length: 60 }, () => randomPrefix(random, family, roots));
      const watched = keys.flatMap(([key, length]) => edges(key, length, family));
      const before = watched.map((key) => table.find(key));
      for (const [key, length] of keys) {
        const value = scale * (random() % 4);
        const had = twin.get(key, length) !== 0;
        const expected = value === 0 && !had ? abi.PREFIX_NOT_FOUND : abi.PREFIX_OK;
        assert.is(table.stage(key, length, value), expected);
        twin.set(key, length, value);
      }
      assert.equal(watched.map((key) => table.find(key)), before);
      assert.is(table.publish(), abi.PREFIX_OK);
      for (const key of watched) checkKey(table, twin, key, family);
    }
  });

  test(`${name}: a change that does not fit changes nothing`, () => {
    const random = randomSource(13);
    const table = new TestTable({ prefixes: 1024, nodes: 150, leaves: 300 }, leaf);
    const twin = new PrefixList();
    const roots = Array.from({ length: 5 }, () => randomKey(random, family));
    let refused = 0;
    for (let step = 0; step < 1200; step++) {
      const [key, length] = randomPrefix(random, family, roots);
      const value = scale * (1 + (random() % 200));
      table.core.prefixReclaim(table.table);
      const before = usage(table);
      const answer = table.insert(key, length, value);
      if (answer === abi.PREFIX_OK) {
        twin.set(key, length, value);
      } else {
        refused++;
        assert.is(answer, abi.PREFIX_TABLE_FULL);
        // The count of free pieces may differ: a rollback frees in another order than it took.
        assert.equal(usage(table).slice(0, 6), before.slice(0, 6));
        assert.is(table.get(key, length), twin.get(key, length) || -1);
      }
      for (const edge of edges(key, length, family)) checkKey(table, twin, edge, family);
      if (step % 10 === 0) removeSome(table, twin, random);
    }
    assert.ok(refused > 50, `${refused} refused`);
    for (const { key, length } of twin.entries) {
      for (const edge of edges(key, length, family)) checkKey(table, twin, edge, family);
    }
  });
}

/** Removes one prefix, which a full table may refuse too: the copy needs room. */
function removeSome(table: TestTable, twin: PrefixList, random: () => number): void {
  const entry = twin.entries[random() % Math.max(twin.entries.length, 1)];
  if (entry === undefined) return;
  const answer = table.remove(entry.key, entry.length);
  if (answer === abi.PREFIX_OK) twin.set(entry.key, entry.length, 0);
  else assert.is(answer, abi.PREFIX_TABLE_FULL);
}

test('what is above a prefix is the longest shorter one', () => {
  const table = new TestTable(SMALL);
  const [ten, inner] = [10n << 120n, (10n << 120n) | (3n << 104n)];
  assert.is(table.above(inner, 24), 0);
  table.insert(ten, 8, 8);
  table.insert(inner, 32, 32);
  assert.is(table.above(inner, 24), 8);
  table.insert(inner, 24, 24);
  assert.equal([0, 8, 9, 24, 25, 32].map((length) => table.above(inner, length)),
    [0, 0, 8, 8, 24, 24]);
});

test('the limit of prefixes holds', () => {
  const table = new TestTable({ prefixes: 8, nodes: 256, leaves: 512 });
  const key = (index: number): bigint => BigInt(index) << 104n;
  for (let index = 0; index < 8; index++) assert.is(table.insert(key(index), 24, 1), abi.PREFIX_OK);
  assert.is(table.insert(key(8), 24, 1), abi.PREFIX_TABLE_FULL);
  assert.is(table.stage(key(8), 24, 1), abi.PREFIX_TABLE_FULL);
  assert.is(table.insert(key(3), 24, 2), abi.PREFIX_OK);
  assert.is(table.remove(key(0), 24), abi.PREFIX_OK);
  assert.is(table.insert(key(8), 24, 3), abi.PREFIX_OK);
  assert.equal([0, 3, 8].map((index) => table.find(key(index))), [0, 2, 3]);
});

test('a refused publish leaves lookups as they were', () => {
  const table = new TestTable({ prefixes: 1024, nodes: 60, leaves: 60 });
  assert.is(table.insert(10n << 120n, 8, 9), abi.PREFIX_OK);
  for (let index = 0; index < 200; index++) {
    assert.is(table.stage(BigInt(index) << 108n, 32, 1 + index), abi.PREFIX_OK);
  }
  assert.is(table.publish(), abi.PREFIX_TABLE_FULL);
  assert.is(table.find(10n << 120n), 9);
  assert.is(table.find(5n << 108n), 0);
  for (let index = 0; index < 200; index++) table.stage(BigInt(index) << 108n, 32, 0);
  assert.is(table.publish(), abi.PREFIX_OK);
  assert.is(table.find(10n << 120n), 9);
});

/** The arena: where lookups read, apart from the direct table. */
function arena(table: TestTable): Uint8Array {
  const start = new DataView(table.memory.buffer)
    .getUint32(table.table + abi.PREFIX_POOL + abi.POOL_ARENA, true);
  const free = table.usage(abi.PREFIX_USAGE_FREE_BYTES);
  const used = table.usage(abi.PREFIX_USAGE_LOOKUP_BYTES) - abi.PREFIX_DIRECT_SIZE;
  return table.bytes.subarray(start, start + free + used);
}

test('a block a worker may be in is neither changed nor reused', () => {
  const table = new TestTable({ prefixes: 64, nodes: 40, leaves: 80 });
  const prefix = (index: number): bigint => (10n << 120n) | (BigInt(index) << 96n);
  // A first publish fills the arena from its start, without gaps.
  for (let index = 0; index < 16; index++) table.stage(prefix(index), 32, 100 + index);
  table.publish();
  table.setWorkers(2);
  table.setTurn(1, 7);
  const used = abi.PREFIX_USAGE_LOOKUP_BYTES;
  const start = table.usage(used);
  const before = arena(table).slice();
  let answer: number = abi.PREFIX_OK;
  let changes = 0;
  while (answer === abi.PREFIX_OK && changes < 1000) {
    changes++;
    answer = table.insert(prefix(changes % 16), 32, 1000 + changes);
  }
  // What was in use at the start is retired now, and still as a reader that began then left it.
  assert.is(answer, abi.PREFIX_TABLE_BUSY);
  assert.ok(changes > 3);
  assert.is(table.find(prefix(changes % 16)), changes > 16 ? 984 + changes : 100 + (changes % 16));
  const after = arena(table);
  const same = before.subarray(0, start - abi.PREFIX_DIRECT_SIZE)
    .every((byte, at) => byte === after[at]);
  assert.ok(same, 'retired bytes were written to');
  assert.ok(table.core.prefixReclaim(table.table) > 0);
  table.setTurn(1, 8);
  assert.is(table.core.prefixReclaim(table.table), 0);
  assert.is(table.insert(prefix(0), 32, 5), abi.PREFIX_OK);
  assert.is(table.find(prefix(0)), 5);
});

test('every worker must have passed, and one that began later does not hold blocks', () => {
  const table = new TestTable(SMALL);
  table.insert(10n << 120n, 24, 1);
  table.setWorkers(3);
  table.setTurn(0, 1);
  table.setTurn(2, 0xffffffff);
  table.insert(10n << 120n, 24, 2);
  assert.ok(table.core.prefixReclaim(table.table) > 0);
  table.setTurn(0, 3);                // it has ended the turn it was in, and began another
  table.setTurn(1, 1);
  assert.ok(table.core.prefixReclaim(table.table) > 0);
  table.setTurn(2, 0);
  assert.is(table.core.prefixReclaim(table.table), 0);
});

test('long churn loses no memory and no track', () => {
  const random = randomSource(17);
  const table = new TestTable({ prefixes: 1024, nodes: 4096, leaves: 4096 });
  const twin = new Map<string, [bigint, number]>();
  const roots = Array.from({ length: 9 }, () => randomKey(random, 'IPv6'));
  const start = usage(table);
  for (let step = 0; step < 100_000; step++) {
    const [key, length] = randomPrefix(random, 'IPv6', roots);
    const name = `${key}/${length}`;
    if (twin.size < 100 + (random() % 200)) {
      const answer = table.insert(key, length, 1 + (random() % 50));
      assert.is(answer, abi.PREFIX_OK);
      twin.set(name, [key, length]);
    } else {
      const [gone] = twin.entries();
      if (gone === undefined) continue;
      assert.is(table.remove(gone[1][0], gone[1][1]), abi.PREFIX_OK);
      twin.delete(gone[0]);
    }
  }
  for (const [key, length] of twin.values()) {
    assert.is(table.remove(key, length), abi.PREFIX_OK);
  }
  assert.is(table.core.prefixReclaim(table.table), 0);
  assert.equal(usage(table), start);
});

const WATCHED = 512;
/** The race goes on until there were so many changes, and turns of the other thread. */
const CHANGES = 100_000;
const TURNS = 1000;

interface RaceData {
  readonly memory: WebAssembly.Memory;
  readonly table: number;
  readonly keys: number;
  readonly values: number;
  readonly allowed: readonly (readonly number[])[];
  readonly report: Int32Array;        // [stop, turns, wrong values]
}

/** The worker's side: looks all watched keys up, a turn at a time. */
function lookUpUntilStopped(race: RaceData): void {
  const core = instantiateCore(race.memory);
  const turn = new Int32Array(race.memory.buffer, layout.WORKERS_START + layout.WORKER_TURN, 1);
  const values = new Uint16Array(race.memory.buffer, race.values, WATCHED);
  const allowed = race.allowed.map((list) => new Set(list));
  while (Atomics.load(race.report, 0) === 0) {
    Atomics.add(turn, 0, 1);
    core.prefixFindMany6(race.table, race.keys, WATCHED, race.values);
    Atomics.add(turn, 0, 1);
    for (const [index, set] of allowed.entries()) {
      if (!set.has(values[index] ?? -1)) Atomics.add(race.report, 2, 1);
    }
    Atomics.add(race.report, 1, 1);
  }
}

interface Flipping { key: bigint; length: number; values: readonly number[] }

/** Every value a key may have: those of the longest prefix that is always there, and of longer. */
function allowedValues(prefixes: readonly Flipping[], key: bigint): number[] {
  const matching = prefixes.filter((prefix) => cut(key, prefix.length) === prefix.key)
    .toSorted((a, b) => b.length - a.length);
  const sure = matching.findIndex((prefix) => !prefix.values.includes(0));
  const used = sure < 0 ? matching : matching.slice(0, sure + 1);
  const values = used.flatMap((prefix) => prefix.values).filter((value) => value !== 0);
  return sure < 0 ? [0, ...values] : values;
}

/** Changes one prefix after another until there were enough changes, and turns of the other thread.
 * Returns how many changes passed. */
async function flip(
  table: TestTable, prefixes: readonly Flipping[], random: () => number, report: Int32Array,
): Promise<number> {
  let changes = 0;
  while (changes < CHANGES || Atomics.load(report, 1) < TURNS) {
    for (let step = 0; step < 500; step++) {
      const prefix = prefixes[random() % prefixes.length];
      const value = prefix?.values[random() % prefix.values.length];
      if (prefix === undefined || value === undefined) continue;
      const answer = value === 0
        ? table.remove(prefix.key, prefix.length) : table.insert(prefix.key, prefix.length, value);
      if (answer === abi.PREFIX_OK) changes++;
      if (random() % 1000 === 0) table.publish();
    }
    await new Promise((resolve) => setImmediate(resolve));
  }
  return changes;
}

test('a lookup during changes sees the old or the new value, never another', async () => {
  const random = randomSource(19);
  const table = new TestTable({ prefixes: 1024, nodes: 9000, leaves: 8192 });
  table.setWorkers(1);
  const roots = Array.from({ length: 6 }, () => randomKey(random, 'IPv6'));
  const prefixes: Flipping[] = [];
  const names = new Set<string>();
  while (prefixes.length < 300) {
    const [key, length] = randomPrefix(random, 'IPv6', roots);
    if (length < 9 || names.has(`${key}/${length}`)) continue;
    names.add(`${key}/${length}`);
    const own = prefixes.length * 3 + 1;
    prefixes.push({ key, length, values: random() % 2 === 0 ? [own, own + 1] : [0, own] });
  }
  for (const { key, length, values } of prefixes) table.insert(key, length, Math.max(...values));
  const keys = Array.from({ length: WATCHED }, (_, index) => {
    const prefix = prefixes[index % prefixes.length];
    return edges(prefix?.key ?? 0n, prefix?.length ?? 0, 'IPv6')[index % 2] ?? 0n;
  });
  const view = new DataView(table.memory.buffer);
  for (const [index, key] of keys.entries()) {
    view.setBigUint64(table.keys + index * 16, key >> 64n);
    view.setBigUint64(table.keys + index * 16 + 8, key & 0xffff_ffff_ffff_ffffn);
  }
  const report = new Int32Array(new SharedArrayBuffer(12));
  const data: RaceData = {
    memory: table.memory, table: table.table, keys: table.keys, values: table.values, report,
    allowed: keys.map((key) => allowedValues(prefixes, key)),
  };
  const worker = new Worker(fileURLToPath(import.meta.url), { workerData: data });
  while (Atomics.load(report, 1) < 10) await new Promise((resolve) => setTimeout(resolve, 5));
  const changes = await flip(table, prefixes, random, report);
  Atomics.store(report, 0, 1);
  await new Promise((resolve) => worker.once('exit', resolve));
  const [, turns, wrong] = report;
  console.log(`${changes} changes beside ${turns} turns of ${WATCHED} lookups`);
  assert.is(wrong, 0);
});

assert.ok(WATCHED <= BATCH);
if (isMainThread) test.run();
else lookUpUntilStopped(workerData as RaceData);
