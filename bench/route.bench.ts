// Longest prefix match alone, in C as well: a full BGP table of each family, and a cluster's 10,000
// routes. Keys are addresses in the table's prefixes, every prefix as likely as the next. Lookups
// go through prefixFindMany, in the order drawn. After that, what a change of one route costs.

import { CONTROL_SCRATCH_START, DIRECTORY_ROUTES_IPV4, DIRECTORY_ROUTES_IPV6 } from
  '../wasm/abi/layout.ts';
import { PREFIX_KEY_SIZE, PREFIX_OK, PREFIX_USAGE_LOOKUP_BYTES } from
  '../wasm/abi/prefix-table.ts';
import { Core } from '../engine/core.ts';
import { PROFILES, type PrefixLimits } from '../engine/memory-map.ts';
import { addressOf } from '../ffi/memory.ts';
import type { NativeLibrary } from '../ffi/library.ts';
import { loadNative } from './native.ts';
import { generateCluster4, generateCluster6, generateIpv4, generateIpv6, readPrefixFile,
  type PrefixSet } from './prefixes.ts';
import { Hash, Random } from './random.ts';
import { round } from './report.ts';
import { measure, type Effort, type Measured, type RatioSpec, type Subject } from './rounds.ts';
import { coreModule } from './scene.ts';

/** Different prefixes in a table. More are drawn, because some of those drawn are equal. */
const FULL_IPV4 = 1_000_000;
const FULL_IPV6 = 200_000;
const CLUSTER = 10_000;
const DRAWN_MORE = 1.1;
const SMALL_DIVISOR = 100;
const KEYS = 1 << 18;
const KEYS_PER_RUN = 1024;
const CHANGES_PER_RUN = 16;
const HASHED_CHANGES = 4096;
const ANSWER_SIZE = 2;
/** Packet slots are not used here: their memory takes keys and answers. */
const SLOTS = 128;
/** Nodes of the lookup structure: a prefix needs some when they are few, less than one in a full
 * table. Leaves: as many as prefixes, and the same again for changes. */
const NODES_PER_PREFIX = 16;
const NODES_MAX = 1_000_000;
const LEAVES_PER_PREFIX = 16;
const LEAVES_MAX = 4_000_000;
const SEED = 20_251;
/** The most that a full table of IPv4 may take for lookups: it is to stay near the processor. */
const LOOKUP_BYTES_MAX = 6 * 1024 * 1024;

interface Family {
  name: 'lpm4' | 'lpm6';
  field: number;
  keySize: number;
  addressBits: number;
}

const IPV4: Family = { name: 'lpm4', field: DIRECTORY_ROUTES_IPV4, keySize: 4, addressBits: 32 };
const IPV6: Family =
  { name: 'lpm6', field: DIRECTORY_ROUTES_IPV6, keySize: PREFIX_KEY_SIZE, addressBits: 128 };

/** A table with routes in it, and where its keys and answers are. */
interface Loaded {
  name: string;
  family: Family;
  core: Core;
  table: number;
  /** The routes, the first `count` of the set's. */
  set: PrefixSet;
  count: number;
  keys: number;
  answers: number;
}

/** `file` is a real table, gzipped, one prefix a line, in place of the generated full ones. */
export function routeBench(effort: Effort, small: boolean, file?: string): Measured {
  const part = small ? SMALL_DIVISOR : 1;
  const real = file === undefined ? undefined : readPrefixFile(file, SEED);
  const draw = (count: number): number => Math.ceil((count / part) * DRAWN_MORE);
  const full = [
    real?.ipv4 ?? generateIpv4(draw(FULL_IPV4), SEED),
    real?.ipv6 ?? generateIpv6(draw(FULL_IPV6), SEED),
  ] as const;
  const cluster =
    [generateCluster4(draw(CLUSTER), SEED), generateCluster6(draw(CLUSTER), SEED)] as const;
  const loaded = [
    ...load('', full, real === undefined ? [FULL_IPV4 / part, FULL_IPV6 / part] : undefined),
    ...load('Cluster', cluster, [CLUSTER / part, CLUSTER / part]),
  ];
  const library = loadNative(['lpm.c'], effort.say);
  const lookups = measure('route', loaded.flatMap((one) => lookupSubjects(one, library)),
    library === null ? [] : loaded.map(({ name }) => twinRatio(name)), effort);
  const changes = measure('route changes', loaded.map(changeSubject), [], effort);
  return {
    results: [...lookups.results, ...changes.results],
    ratios: { ...lookups.ratios, ...bytesPerPrefix(loaded[0], effort.rounds) },
  };
}

function twinRatio(name: string): RatioSpec {
  return { name: `${name}/native`, cost: `${name}/native`, to: name };
}

/** Loads a table of each family into one core, as many routes as `counts` says, or all. */
function load(
  suffix: string, sets: readonly [PrefixSet, PrefixSet], counts?: [number, number],
): Loaded[] {
  const [routesIpv4, routesIpv6] = sets.map(({ count }): PrefixLimits => ({
    prefixes: count,
    nodes: Math.min(count * NODES_PER_PREFIX, NODES_MAX),
    leaves: Math.min(count * LEAVES_PER_PREFIX, LEAVES_MAX),
  }));
  if (routesIpv4 === undefined || routesIpv6 === undefined) throw new Error('no limits');
  const core = Core.create(
    coreModule(), { ...PROFILES.small, slots: SLOTS, routesIpv4, routesIpv6 }, SEED);
  let place = core.packetAddress(0);
  return [IPV4, IPV6].map((family, index) => {
    const set = sets[index as 0 | 1];
    const keys = place;
    const answers = keys + (KEYS * family.keySize);
    place = answers + (KEYS_PER_RUN * ANSWER_SIZE);
    const table = core.directory(family.field);
    const name = family.name + suffix;
    const loaded = { name, family, core, table, set, count: set.count, keys, answers };
    loaded.count = enterRoutes(loaded, counts?.[index] ?? set.count);
    writeKeys(loaded);
    return loaded;
  });
}

/** Enters routes until there are `wanted`. Returns how many of the set that took. */
function enterRoutes({ core, table, set, name }: Loaded, wanted: number): number {
  const { exports } = core;
  let taken = 0;
  for (; taken < set.count && exports.prefixCount(table) < wanted; taken += 1) {
    putKey(core, set, taken);
    const length = set.lengths[taken] ?? 0;
    const value = set.values[taken] ?? 0;
    expectOk(name, exports.prefixStage(table, CONTROL_SCRATCH_START, length, value));
  }
  expectOk(name, exports.prefixPublish(table));
  return taken;
}

function expectOk(name: string, answer: number): void {
  if (answer !== PREFIX_OK) throw new Error(`${name}: the table answers ${answer}`);
}

function putKey(core: Core, set: PrefixSet, index: number): void {
  const key = set.keys.subarray(index * PREFIX_KEY_SIZE, (index + 1) * PREFIX_KEY_SIZE);
  core.bytes.set(key, CONTROL_SCRATCH_START);
}

/** Addresses in prefixes of the table. IPv4 keys are u32, IPv6 keys bytes. */
function writeKeys({ core, family, set, count, keys }: Loaded): void {
  const random = new Random(SEED);
  const key = new Uint8Array(family.addressBits / 8);
  for (let index = 0; index < KEYS; index += 1) {
    const drawn = random.below(count);
    const length = set.lengths[drawn] ?? 0;
    for (let at = 0; at < key.length; at += 1) {
      const kept = Math.max(Math.min(length - (at * 8), 8), 0);
      const rest = random.below(256) & (0xff >> kept);
      key[at] = (set.keys[(drawn * PREFIX_KEY_SIZE) + at] ?? 0) | rest;
    }
    core.bytes.set(family === IPV4 ? key.reverse() : key, keys + (index * family.keySize));
  }
}

/** Lookups by the core, and by its twin where there is one. */
function lookupSubjects(loaded: Loaded, library: NativeLibrary | null): Subject[] {
  const { name, family, core: { exports, bytes } } = loaded;
  const ours = lookupSubject(loaded, name,
    family === IPV4 ? exports.prefixFindMany4 : exports.prefixFindMany6);
  if (library === null) return [ours];
  const memory = addressOf(bytes);
  const find = library.define(`${family.name}_many`, ['address', 'int', 'int', 'int', 'int']);
  const twin = lookupSubject(loaded, `${name}/native`,
    (table, keys, count, answers) => find(memory, table, keys, count, answers));
  return [ours, { ...twin, sameAs: name }];
}

function lookupSubject(
  { family, core, table, keys, answers }: Loaded, name: string,
  find: (table: number, keys: number, count: number, answers: number) => void,
): Subject {
  let next = 0;
  const run = (): void => {
    find(table, keys + (next * family.keySize), KEYS_PER_RUN, answers);
    next = (next + KEYS_PER_RUN) % KEYS;
  };
  return {
    name,
    opsPerRun: KEYS_PER_RUN,
    run,
    hash: () => hashLookups(core, answers, run),
  };
}

function hashLookups(core: Core, answers: number, run: () => void): string {
  const hash = new Hash();
  for (let done = 0; done < KEYS; done += KEYS_PER_RUN) {
    run();
    hash.addBytes(core.bytes.subarray(answers, answers + (KEYS_PER_RUN * ANSWER_SIZE)));
  }
  return hash.text();
}

/** Single routes taken out of the table and entered again, drawn at random. */
function changeSubject(loaded: Loaded): Subject {
  const { name, core, table, set, count } = loaded;
  const { exports } = core;
  const random = new Random(SEED + 1);
  const change = (): void => {
    const index = random.below(count);
    const length = set.lengths[index] ?? 0;
    putKey(core, set, index);
    const value = exports.prefixGet(table, CONTROL_SCRATCH_START, length);
    expectOk(name, exports.prefixRemove(table, CONTROL_SCRATCH_START, length));
    expectOk(name, exports.prefixInsert(table, CONTROL_SCRATCH_START, length, value));
  };
  return {
    name: `${name}/change`,
    opsPerRun: CHANGES_PER_RUN,
    run: () => {
      for (let done = 0; done < CHANGES_PER_RUN; done += 2) change();
    },
    hash: () => {
      for (let done = 0; done < HASHED_CHANGES; done += 1) change();
      const find = loaded.family === IPV4 ? exports.prefixFindMany4 : exports.prefixFindMany6;
      return lookupSubject(loaded, name, find).hash();
    },
  };
}

/** What lookups in the full IPv4 table need of memory. */
function bytesPerPrefix(loaded: Loaded | undefined, rounds: number): Measured['ratios'] {
  if (loaded === undefined) return {};
  const { name, core, table } = loaded;
  const bytes = core.exports.prefixUsage(table, PREFIX_USAGE_LOOKUP_BYTES);
  if (bytes > LOOKUP_BYTES_MAX) throw new Error(`${name}: lookups need ${bytes} bytes`);
  const ratio = round(bytes / core.exports.prefixCount(table), 3);
  return { [`${name}/lookupBytes:prefixes`]: { median: ratio, min: ratio, max: ratio, rounds } };
}
