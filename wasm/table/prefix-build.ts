// Building Poptrie nodes from the trie: whole ones, and copies of old ones with a part changed.
//
// What is built is not published yet, and nothing that workers may see is written to. A function
// that answers false ran out of memory; the caller rolls the pool and the counts back.
// A node covers the region of keys that share their first `bits`. `place` (prefix-trie.ts) is the
// region's top node in the trie and the value it inherits. Recursion is bounded by the key: 19.
import {
  NODE_BITS, NODE_CHILDREN, NODE_GRANULES, NODE_LEAVES, NODE_RUNS, NODE_SIZE, NODE_SLOTS,
  NODE_VECTOR, POOL_GRANULE_SHIFT, POOL_GRANULE_SIZE, PREFIX_LEAF_SIZE, PREFIX_LEAF_WIDE,
  PREFIX_LEAVES, PREFIX_NODES, PREFIX_POOL, SCRATCH_STRIDE, SCRATCH_TRIES, SCRATCH_VALUES,
  TRIE_HIGH, TRIE_LOW,
} from "../abi/prefix-table";
import { poolRetire, poolTake } from "./pool";
import {
  placeNode, placeValue, trieChild, trieDescend, trieLength, triePlace, trieValue,
} from "./prefix-trie";

const VALUE_SIZE: i32 = 4;              // of a value in the scratch

/** True if some prefix at this place is longer than `bits`, the length of its region. */
export function leadsDeeper(place: u64, bits: i32): bool {
  const node = placeNode(place);
  if (node == 0) return false;
  return trieLength(node) > bits || (trieChild(node, 0) | trieChild(node, 1)) != 0;
}

/** Value that holds for the whole region of `bits`, where nothing longer says otherwise. */
export function valueAt(place: u64, bits: i32): i32 {
  const node = placeNode(place);
  const own = node != 0 && trieLength(node) == bits ? trieValue(node) : 0;
  return own != 0 ? own : placeValue(place);
}

/** Takes a block of nodes and counts them; 0 if there is none. */
export function takeNodes(table: usize, count: i32): usize {
  store<i32>(table, load<i32>(table, PREFIX_NODES) + count, PREFIX_NODES);
  return poolTake(table + PREFIX_POOL, count * NODE_GRANULES);
}

/** Retires a block of nodes. */
export function dropNodes(table: usize, block: usize, count: i32): void {
  store<i32>(table, load<i32>(table, PREFIX_NODES) - count, PREFIX_NODES);
  poolRetire(table + PREFIX_POOL, block, count * NODE_GRANULES);
}

/** Retires what a node leads to, all the way down, but not the node. */
export function dropBelow(table: usize, node: usize): void {
  dropLeaves(table, node);
  const count = childCount(node);
  if (count == 0) return;
  const block = childBlock(node);
  for (let index = 0; index < count; index++) {
    dropBelow(table, block + (<usize>index * NODE_SIZE));
  }
  dropNodes(table, block, count);
}

/** Builds a node at `target` from the trie alone. */
export function encodeNode(
  table: usize, target: usize, scratch: usize, place: u64, bits: i32,
): bool {
  fillValues(scratch, 0, NODE_SLOTS, valueAt(place, bits));
  const vector = planSlots(scratch, placeNode(place), bits);
  return encodeChildren(table, target, scratch, vector, vector, 0, bits)
    && encodeLeaves(table, target, scratch, vector);
}

/**
 * Builds at `target` a copy of `old` that knows about a change of the prefix (high, low, length),
 * and retires the parts of `old` it does not share. Precondition: length > bits.
 */
export function patchNode(
  table: usize, target: usize, old: usize, scratch: usize, place: u64,
  high: u64, low: u64, length: i32, bits: i32,
): bool {
  const end = bits + NODE_BITS;
  const changed = trieDescend(place, high, low, min(length, end));
  const slot = keySlot(high, low, bits);
  const vector = load<u64>(old, NODE_VECTOR);
  if (length < end || ((vector >>> slot) & 1) == 0 || !leadsDeeper(changed, end)) {
    return patchSlots(table, target, old, scratch, changed, <i32>slot, length, bits);
  }
  const count = childCount(old);
  const block = takeNodes(table, count);
  if (block == 0) return false;
  const oldBlock = childBlock(old);
  memory.copy(block, oldBlock, <usize>count * NODE_SIZE);
  dropNodes(table, oldBlock, count);
  memory.copy(target, old, NODE_SIZE);
  store<u32>(target, <u32>(block - NODE_SIZE), NODE_CHILDREN);
  const child = childAt(target, slot);
  const oldChild = childAt(old, slot);
  const below = scratch + SCRATCH_STRIDE;
  if (length > end) {
    return patchNode(table, child, oldChild, below, changed, high, low, length, end);
  }
  dropBelow(table, oldChild);
  return encodeNode(table, child, below, changed, end);
}

/** Like patchNode, for a change to which slots have children, or to several slots. */
function patchSlots(
  table: usize, target: usize, old: usize, scratch: usize, changed: u64,
  slot: i32, length: i32, bits: i32,
): bool {
  const end = bits + NODE_BITS;
  const count = length < end ? 1 << (end - length) : 1;
  const first = slot & -count;
  const range = ((<u64>1 << <u64>count) - 1) << <u64>first;
  expandLeaves(table, scratch, old);
  fillValues(scratch, first, count, placeValue(changed));
  const fresh = planSlots(scratch, placeNode(changed), bits);
  const oldVector = load<u64>(old, NODE_VECTOR);
  const vector = (oldVector & ~range) | fresh;
  for (let gone = oldVector & range; gone != 0; gone &= gone - 1) {
    dropBelow(table, childAt(old, ctz(gone)));
  }
  if (oldVector != 0) dropNodes(table, childBlock(old), childCount(old));
  dropLeaves(table, old);
  return encodeChildren(table, target, scratch, vector, fresh, old, bits)
    && encodeLeaves(table, target, scratch, vector);
}

/** Builds the children of `target`: `fresh` ones from the trie, the others are those of `old`. */
function encodeChildren(
  table: usize, target: usize, scratch: usize, vector: u64, fresh: u64, old: usize, bits: i32,
): bool {
  store<u64>(target, vector, NODE_VECTOR);
  store<u32>(target, 0, NODE_CHILDREN);
  if (vector == 0) return true;
  let child = takeNodes(table, <i32>popcnt(vector));
  if (child == 0) return false;
  store<u32>(target, <u32>(child - NODE_SIZE), NODE_CHILDREN);
  for (let left = vector; left != 0; left &= left - 1) {
    const slot = ctz(left);
    if (((fresh >>> slot) & 1) == 0) {
      memory.copy(child, childAt(old, slot), NODE_SIZE);
    } else {
      const trie = <usize>load<u32>(scratch + (<usize>slot << 2), SCRATCH_TRIES);
      const place = triePlace(trie, load<i32>(scratch + (<usize>slot << 2), SCRATCH_VALUES));
      const below = scratch + SCRATCH_STRIDE;
      if (!encodeNode(table, child, below, place, bits + NODE_BITS)) return false;
    }
    child += NODE_SIZE;
  }
  return true;
}

/** Packs the values of slots without children into runs of equal ones. Overwrites the scratch. */
function encodeLeaves(table: usize, target: usize, scratch: usize, vector: u64): bool {
  let runs: u64 = 0;
  let end = scratch + SCRATCH_VALUES;
  let previous = -1;
  for (let left = ~vector; left != 0; left &= left - 1) {
    const slot = ctz(left);
    const value = load<i32>(scratch + (<usize>slot << 2), SCRATCH_VALUES);
    if (value == previous) continue;
    previous = value;
    runs |= <u64>1 << slot;
    store<i32>(end, value);
    end += VALUE_SIZE;
  }
  store<u64>(target, runs, NODE_RUNS);
  store<u32>(target, 0, NODE_LEAVES);
  if (runs == 0) return true;
  const count = <i32>popcnt(runs);
  store<i32>(table, load<i32>(table, PREFIX_LEAVES) + count, PREFIX_LEAVES);
  const block = poolTake(table + PREFIX_POOL, leafGranules(table, count));
  if (block == 0) return false;
  const size = leafSize(table);
  packLeaves(block, scratch + SCRATCH_VALUES, count, size);
  store<u32>(target, <u32>(block - size), NODE_LEAVES);
  return true;
}

function packLeaves(block: usize, values: usize, count: i32, size: usize): void {
  if (size == PREFIX_LEAF_WIDE) {
    memory.copy(block, values, <usize>count * VALUE_SIZE);
    return;
  }
  for (let index: usize = 0; index < <usize>count; index++) {
    store<u16>(block + (index << 1), load<u16>(values + (index << 2)));
  }
}

/** Undoes encodeLeaves. Slots with children get values without meaning. */
function expandLeaves(table: usize, scratch: usize, node: usize): void {
  const size = leafSize(table);
  const runs = load<u64>(node, NODE_RUNS);
  let leaf = <usize>load<u32>(node, NODE_LEAVES);
  for (let slot: u64 = 0; slot < <u64>NODE_SLOTS; slot++) {
    leaf += <usize>((runs >>> slot) & 1) * size;
    const value = size == PREFIX_LEAF_WIDE ? load<i32>(leaf) : <i32>load<u16>(leaf);
    store<i32>(scratch + (<usize>slot << 2), value, SCRATCH_VALUES);
  }
}

function dropLeaves(table: usize, node: usize): void {
  const count = <i32>popcnt(load<u64>(node, NODE_RUNS));
  if (count == 0) return;
  store<i32>(table, load<i32>(table, PREFIX_LEAVES) - count, PREFIX_LEAVES);
  const block = <usize>load<u32>(node, NODE_LEAVES) + leafSize(table);
  poolRetire(table + PREFIX_POOL, block, leafGranules(table, count));
}

/**
 * Writes the values of the prefixes that end in this node into the scratch, shorter ones first,
 * and the trie node of each slot that longer ones are in. Returns the set of those slots.
 */
function planSlots(scratch: usize, trie: usize, bits: i32): u64 {
  if (trie == 0) return 0;
  const end = bits + NODE_BITS;
  const length = trieLength(trie);
  if (length > bits) {
    const slot = keySlot(load<u64>(trie, TRIE_HIGH), load<u64>(trie, TRIE_LOW), bits);
    const own = trieValue(trie);
    if (length <= end && own != 0) {
      const count = 1 << (end - length);
      fillValues(scratch, <i32>slot & -count, count, own);
    }
    if (length >= end) {
      if (!leadsDeeper(triePlace(trie, 0), end)) return 0;
      store<u32>(scratch + (<usize>slot << 2), <u32>trie, SCRATCH_TRIES);
      return <u64>1 << slot;
    }
  }
  const left = planSlots(scratch, trieChild(trie, 0), bits);
  return left | planSlots(scratch, trieChild(trie, 1), bits);
}

function fillValues(scratch: usize, first: i32, count: i32, value: i32): void {
  let at = scratch + (<usize>first << 2);
  const end = at + (<usize>count << 2);
  for (; at < end; at += VALUE_SIZE) store<i32>(at, value, SCRATCH_VALUES);
}

/** The 6 bits of a key after the first `bits`. In the last stride, the low 4 do not matter. */
function keySlot(high: u64, low: u64, bits: i32): u64 {
  const end = bits + NODE_BITS;
  if (end <= 64) return (high >>> <u64>(64 - end)) & (NODE_SLOTS - 1);
  if (bits >= 64) return rotl(low, <u64>end) & (NODE_SLOTS - 1);
  return ((high << <u64>(end - 64)) | (low >>> <u64>(128 - end))) & (NODE_SLOTS - 1);
}

function childCount(node: usize): i32 {
  return <i32>popcnt(load<u64>(node, NODE_VECTOR));
}

function childBlock(node: usize): usize {
  return <usize>load<u32>(node, NODE_CHILDREN) + NODE_SIZE;
}

/** Child of a slot that has one. */
function childAt(node: usize, slot: u64): usize {
  const rank = <usize>popcnt(load<u64>(node, NODE_VECTOR) << (63 - slot));
  return <usize>load<u32>(node, NODE_CHILDREN) + (rank * NODE_SIZE);
}

function leafSize(table: usize): usize {
  return load<u32>(table, PREFIX_LEAF_SIZE);
}

function leafGranules(table: usize, count: i32): i32 {
  return ((count * <i32>leafSize(table)) + POOL_GRANULE_SIZE - 1) >>> POOL_GRANULE_SHIFT;
}
