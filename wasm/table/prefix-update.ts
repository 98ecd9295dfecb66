// Longest-prefix match: the control side. One thread at a time changes a table; any number of
// workers look things up in it meanwhile (prefix.ts).
//
// A change: the trie learns it; the nodes between the direct table and the prefix are built anew
// beside the old ones, with everything untouched shared; one atomic store per direct entry makes
// them public; the old ones are retired (pool.ts). If memory does not suffice, the trie unlearns it
// and nothing has happened. Keys are addresses of PREFIX_KEY_SIZE bytes.
import {
  NODE_GRANULES, POOL_GRANULES, POOL_GRANULE_SHIFT, POOL_GRANULE_SIZE, POOL_PIECES, POOL_USED,
  PREFIX_BAD_KEY, PREFIX_COUNT, PREFIX_DIRECT, PREFIX_DIRECT_BITS, PREFIX_DIRECT_SHIFT,
  PREFIX_DIRECT_SIZE, PREFIX_GRANULES_MAX, PREFIX_HEADER_SIZE, PREFIX_KEY_SIZE, PREFIX_LEAF_NARROW,
  PREFIX_LEAF_SIZE, PREFIX_LEAF_WIDE, PREFIX_LEAVES, PREFIX_LEAVES_BEFORE, PREFIX_LENGTH_MAX,
  PREFIX_LIMIT, PREFIX_LIMIT_MAX, PREFIX_NARROW_MAX, PREFIX_NODES, PREFIX_NODES_BEFORE,
  PREFIX_NOT_FOUND, PREFIX_OK, PREFIX_PENDING, PREFIX_POOL, PREFIX_SCRATCH, PREFIX_TABLE_BUSY,
  PREFIX_TABLE_FULL, PREFIX_TRIE_NEXT, PREFIX_TRIE_ROOT, PREFIX_TRIE_USED,
  PREFIX_USAGE_CONTROL_BYTES, PREFIX_USAGE_FREE_BYTES, PREFIX_USAGE_FREE_PIECES,
  PREFIX_USAGE_LEAVES, PREFIX_USAGE_LOOKUP_BYTES, PREFIX_USAGE_NODES, PREFIX_USAGE_PREFIXES,
  PREFIX_USAGE_RETIRED, PREFIX_VALUE_MAX, TRIE_SIZE,
} from "../abi/prefix-table";
import {
  poolCommit, poolInit, poolReclaim, poolRetired, poolRingLimit, poolRollback,
} from "./pool";
import { prefixFind4, prefixFindAt6 } from "./prefix";
import {
  dropBelow, dropNodes, encodeNode, leadsDeeper, patchNode, takeNodes, valueAt,
} from "./prefix-build";
import { isPrefix, placeValue, trieDescend, trieGet, triePlace, trieSet } from "./prefix-trie";

/** Granules for an arena of so many nodes, each with leaves. */
function arenaGranules(nodeLimit: i32, leafLimit: i32, leafSize: i32): i64 {
  const leaves = ((<i64>leafLimit * leafSize) + POOL_GRANULE_SIZE - 1) / POOL_GRANULE_SIZE;
  return ((<i64>nodeLimit * (NODE_GRANULES + 1)) + leaves + 7) & -8;
}

/** Bytes of the ring, whole u64 words. */
function ringSize(granules: i32): i64 {
  return ((<i64>poolRingLimit(granules) * 4) + 7) & -8;
}

/** Bytes a table needs, 0 if the limits or the size of a leaf are out of range. */
export function prefixTableSize(
  prefixLimit: i32, nodeLimit: i32, leafLimit: i32, leafSize: i32,
): i32 {
  if (prefixLimit < 1 || nodeLimit < 1 || leafLimit < 1) return 0;
  if (leafSize != PREFIX_LEAF_NARROW && leafSize != PREFIX_LEAF_WIDE) return 0;
  const granules = arenaGranules(nodeLimit, leafLimit, leafSize);
  if (prefixLimit > PREFIX_LIMIT_MAX || granules > PREFIX_GRANULES_MAX) return 0;
  const ring = ringSize(<i32>granules);
  const trie = <i64>prefixLimit * 2 * TRIE_SIZE;
  const size = PREFIX_HEADER_SIZE + (granules * (POOL_GRANULE_SIZE + 1)) + ring + trie;
  return <i32>((size + 63) & -64);
}

/**
 * Makes an empty table. Precondition: `table` is a multiple of 8 with prefixTableSize() bytes
 * behind it, and no worker knows it yet.
 */
export function prefixTableInit(
  table: usize, prefixLimit: i32, nodeLimit: i32, leafLimit: i32, leafSize: i32,
): i32 {
  if (prefixTableSize(prefixLimit, nodeLimit, leafLimit, leafSize) == 0) return PREFIX_BAD_KEY;
  const granules = <i32>arenaGranules(nodeLimit, leafLimit, leafSize);
  const arena = table + PREFIX_HEADER_SIZE;
  const ring = arena + (<usize>granules * POOL_GRANULE_SIZE);
  const tags = ring + <usize>ringSize(granules);
  clear(table, table + PREFIX_HEADER_SIZE);
  clear(tags, tags + <usize>granules);
  poolInit(table + PREFIX_POOL, arena, granules, ring, tags);
  store<i32>(table, prefixLimit, PREFIX_LIMIT);
  store<i32>(table, leafSize, PREFIX_LEAF_SIZE);
  store<u32>(table, <u32>(tags + <usize>granules), PREFIX_TRIE_NEXT);
  return PREFIX_OK;
}

/** Adds a prefix or replaces its value, and publishes. Values are 1 to PREFIX_NARROW_MAX or
 * PREFIX_VALUE_MAX, by the size of the table's leaves. */
export function prefixInsert(table: usize, key: usize, length: i32, value: i32): i32 {
  if (value < 1 || value > valueMax(table)) return PREFIX_BAD_KEY;
  return change(table, key, length, value);
}

/** Removes a prefix, and publishes. */
export function prefixRemove(table: usize, key: usize, length: i32): i32 {
  return change(table, key, length, 0);
}

/**
 * Sets a prefix, or removes it if `value` is 0, in the trie only; lookups follow at the next
 * prefixPublish(). An insert or remove that shares direct entries may publish it earlier.
 */
export function prefixStage(table: usize, key: usize, length: i32, value: i32): i32 {
  if (value < 0 || value > valueMax(table) || !isKey(key, length)) return PREFIX_BAD_KEY;
  const previous = trieSet(table, keyHigh(key), keyLow(key), length, value);
  if (previous < 0) return PREFIX_TABLE_FULL;
  return value == 0 && previous == 0 ? PREFIX_NOT_FOUND : PREFIX_OK;
}

/** Builds the whole lookup structure anew from the trie, and publishes it. */
export function prefixPublish(table: usize): i32 {
  poolReclaim(table + PREFIX_POOL);
  return rebuild(table, 0, 0, 0);
}

/** Value of exactly this prefix, -1 if it is not in the table. */
export function prefixGet(table: usize, key: usize, length: i32): i32 {
  if (!isKey(key, length)) return -1;
  const value = trieGet(table, keyHigh(key), keyLow(key), length);
  return value == 0 ? -1 : value;
}

/** Value of the longest prefix shorter than `length` that holds this one, 0 if none does: what its
 * addresses would find without it. Staged prefixes count. */
export function prefixAbove(table: usize, key: usize, length: i32): i32 {
  const top = triePlace(<usize>load<u32>(table, PREFIX_TRIE_ROOT), 0);
  return placeValue(trieDescend(top, keyHigh(key), keyLow(key), length));
}

/** Value of the longest prefix that matches a key, 0 if none does: what workers would find. */
export function prefixFind(table: usize, key: usize): i32 {
  return isWide(table) ? prefixFindAt6<u32>(table, key) : prefixFindAt6<u16>(table, key);
}

/**
 * Looks up `count` IPv4 addresses, u32 in host order, and writes a value of the size of a leaf for
 * each: what the packet path does, without a call for each. For tests and benches.
 */
export function prefixFindMany4(table: usize, addresses: usize, count: i32, values: usize): void {
  if (isWide(table)) findMany4<u32>(table, addresses, count, values);
  else findMany4<u16>(table, addresses, count, values);
}

function findMany4<Leaf>(table: usize, addresses: usize, count: i32, values: usize): void {
  for (let index: usize = 0; index < <usize>count; index++) {
    const value = prefixFind4<Leaf>(table, load<u32>(addresses + (index << 2)));
    store<Leaf>(values + (index * sizeof<Leaf>()), <Leaf>value);
  }
}

/** Like prefixFindMany4(), for keys of PREFIX_KEY_SIZE bytes. */
export function prefixFindMany6(table: usize, keys: usize, count: i32, values: usize): void {
  if (isWide(table)) findMany6<u32>(table, keys, count, values);
  else findMany6<u16>(table, keys, count, values);
}

function findMany6<Leaf>(table: usize, keys: usize, count: i32, values: usize): void {
  for (let index: usize = 0; index < <usize>count; index++) {
    const value = prefixFindAt6<Leaf>(table, keys + (index * PREFIX_KEY_SIZE));
    store<Leaf>(values + (index * sizeof<Leaf>()), <Leaf>value);
  }
}

/** Prefixes in the table, staged ones too. */
export function prefixCount(table: usize): i32 {
  return load<i32>(table, PREFIX_COUNT);
}

/** Frees the retired blocks no worker can be in any more. Returns how many still wait. */
export function prefixReclaim(table: usize): i32 {
  poolReclaim(table + PREFIX_POOL);
  return poolRetired(table + PREFIX_POOL);
}

/** One of the PREFIX_USAGE figures; -1 for an unknown one. */
export function prefixUsage(table: usize, what: i32): i32 {
  const pool = table + PREFIX_POOL;
  const used = load<i32>(pool, POOL_USED);
  const free = load<i32>(pool, POOL_GRANULES) - used;
  if (what == PREFIX_USAGE_PREFIXES) return load<i32>(table, PREFIX_COUNT);
  if (what == PREFIX_USAGE_NODES) return load<i32>(table, PREFIX_NODES);
  if (what == PREFIX_USAGE_LEAVES) return load<i32>(table, PREFIX_LEAVES);
  if (what == PREFIX_USAGE_RETIRED) return poolRetired(pool);
  if (what == PREFIX_USAGE_LOOKUP_BYTES) return PREFIX_DIRECT_SIZE + (used << POOL_GRANULE_SHIFT);
  if (what == PREFIX_USAGE_CONTROL_BYTES) return load<i32>(table, PREFIX_TRIE_USED) * TRIE_SIZE;
  if (what == PREFIX_USAGE_FREE_BYTES) return free << POOL_GRANULE_SHIFT;
  return what == PREFIX_USAGE_FREE_PIECES ? load<i32>(pool, POOL_PIECES) : -1;
}

/** Zeroes whole u64 words. Does not write to those that are zero, so fresh pages stay unused. */
function clear(start: usize, end: usize): void {
  for (; start < end; start += 8) {
    if (load<u64>(start) != 0) store<u64>(start, 0);
  }
}

function isWide(table: usize): bool {
  return load<i32>(table, PREFIX_LEAF_SIZE) == PREFIX_LEAF_WIDE;
}

function valueMax(table: usize): i32 {
  return isWide(table) ? PREFIX_VALUE_MAX : PREFIX_NARROW_MAX;
}

function keyHigh(key: usize): u64 {
  return bswap(load<u64>(key));
}

function keyLow(key: usize): u64 {
  return bswap(load<u64>(key, 8));
}

function isKey(key: usize, length: i32): bool {
  if (length < 0 || length > PREFIX_LENGTH_MAX) return false;
  return isPrefix(keyHigh(key), keyLow(key), length);
}

/** Insert, replace and remove: value 0 removes. */
function change(table: usize, key: usize, length: i32, value: i32): i32 {
  if (!isKey(key, length)) return PREFIX_BAD_KEY;
  const high = keyHigh(key);
  const low = keyLow(key);
  poolReclaim(table + PREFIX_POOL);
  const previous = trieSet(table, high, low, length, value);
  if (previous < 0) return PREFIX_TABLE_FULL;
  if (previous == value) return value == 0 ? PREFIX_NOT_FOUND : PREFIX_OK;
  const answer = rebuild(table, high, low, length);
  if (answer != PREFIX_OK) trieSet(table, high, low, length, previous);
  return answer;
}

/** Builds and publishes what a change of one prefix touches. */
function rebuild(table: usize, high: u64, low: u64, length: i32): i32 {
  const pool = table + PREFIX_POOL;
  const bits = min(length, PREFIX_DIRECT_BITS);
  const first = <i32>(high >>> PREFIX_DIRECT_SHIFT);
  const top = triePlace(<usize>load<u32>(table, PREFIX_TRIE_ROOT), 0);
  const place = trieDescend(top, high, low, bits);
  store<i32>(table, load<i32>(table, PREFIX_NODES), PREFIX_NODES_BEFORE);
  store<i32>(table, load<i32>(table, PREFIX_LEAVES), PREFIX_LEAVES_BEFORE);
  const built = length > PREFIX_DIRECT_BITS
    ? patchEntry(table, place, first, high, low, length)
    : buildEntries(table, place, first, bits);
  if (!built) {
    poolRollback(pool);
    store<i32>(table, load<i32>(table, PREFIX_NODES_BEFORE), PREFIX_NODES);
    store<i32>(table, load<i32>(table, PREFIX_LEAVES_BEFORE), PREFIX_LEAVES);
    return poolRetired(pool) > 0 ? PREFIX_TABLE_BUSY : PREFIX_TABLE_FULL;
  }
  publishEntries(table, first, first + entryCount(bits));
  poolCommit(pool);
  return PREFIX_OK;
}

/** Builds all direct entries of the region of `bits` anew, into the pending ones. */
function buildEntries(table: usize, place: u64, slot: i32, bits: i32): bool {
  if (!leadsDeeper(place, bits)) {
    setEntries(table, slot, entryCount(bits), valueAt(place, bits));
    return true;
  }
  if (bits == PREFIX_DIRECT_BITS) {
    dropEntry(table, slot);
    const node = takeNodes(table, 1);
    if (node == 0) return false;
    store<u32>(table + (<usize>slot << 2), <u32>node, PREFIX_PENDING);
    return encodeNode(table, node, table + PREFIX_SCRATCH, place, bits);
  }
  const next = bits + 1;
  const half = slot + entryCount(next);
  const left = trieDescend(place, <u64>slot << PREFIX_DIRECT_SHIFT, 0, next);
  const right = trieDescend(place, <u64>half << PREFIX_DIRECT_SHIFT, 0, next);
  return buildEntries(table, left, slot, next) && buildEntries(table, right, half, next);
}

/** Builds one direct entry anew, for a change of a longer prefix: shares what is not touched. */
function patchEntry(
  table: usize, place: u64, slot: i32, high: u64, low: u64, length: i32,
): bool {
  const bits = PREFIX_DIRECT_BITS;
  const old = load<u32>(table + (<usize>slot << 2), PREFIX_DIRECT);
  if (old <= <u32>PREFIX_VALUE_MAX || !leadsDeeper(place, bits)) {
    return buildEntries(table, place, slot, bits);
  }
  const node = takeNodes(table, 1);
  if (node == 0) return false;
  store<u32>(table + (<usize>slot << 2), <u32>node, PREFIX_PENDING);
  dropNodes(table, old, 1);
  const scratch = table + PREFIX_SCRATCH;
  return patchNode(table, node, old, scratch, place, high, low, length, bits);
}

/** Makes pending entries one value. */
function setEntries(table: usize, first: i32, count: i32, value: i32): void {
  for (let slot = first; slot < first + count; slot++) {
    dropEntry(table, slot);
    store<u32>(table + (<usize>slot << 2), value, PREFIX_PENDING);
  }
}

/** Retires everything a direct entry leads to. */
function dropEntry(table: usize, slot: i32): void {
  const old = load<u32>(table + (<usize>slot << 2), PREFIX_DIRECT);
  if (old <= <u32>PREFIX_VALUE_MAX) return;
  dropBelow(table, old);
  dropNodes(table, old, 1);
}

/** Direct entries in a region of at most PREFIX_DIRECT_BITS. */
function entryCount(bits: i32): i32 {
  return 1 << (PREFIX_DIRECT_BITS - bits);
}

/** Stores the pending entries where workers see them. */
function publishEntries(table: usize, first: i32, end: i32): void {
  for (let slot = first; slot < end; slot++) {
    const entry = table + (<usize>slot << 2);
    const next = load<u32>(entry, PREFIX_PENDING);
    if (load<u32>(entry, PREFIX_DIRECT) != next) atomic.store<u32>(entry, next, PREFIX_DIRECT);
  }
}
