// The control side's copy of a prefix table: a binary trie of prefixes in which chains of nodes
// with one child are left out (Morrison's PATRICIA, with the whole prefix in each node). A node has
// a value, or two children, or both, so n prefixes never need more than 2n - 1 nodes.
// Nothing here is read by workers.
import {
  PREFIX_COUNT, PREFIX_LIMIT, PREFIX_TRIE_FREE, PREFIX_TRIE_NEXT, PREFIX_TRIE_ROOT,
  PREFIX_TRIE_USED, TRIE_CHILDREN, TRIE_HIGH, TRIE_LENGTH, TRIE_LOW, TRIE_SIZE, TRIE_VALUE,
} from "../abi/prefix-table";

/** Length of the node's prefix in bits. */
// @ts-ignore: decorator
@inline
export function trieLength(node: usize): i32 {
  return load<u8>(node, TRIE_LENGTH);
}

const VALUE_MASK: i32 = 0xffffff;

/** Value of the node's prefix, 0 if it is not in the table. */
// @ts-ignore: decorator
@inline
export function trieValue(node: usize): i32 {
  return load<i32>(node, TRIE_VALUE) & VALUE_MASK;
}

/** Value and length share a word. */
function setTrieValue(node: usize, value: i32): void {
  store<i32>(node, (trieLength(node) << 24) | value, TRIE_VALUE);
}

/** Node below, on the side of a 0 or 1 bit; 0 if there is none. */
// @ts-ignore: decorator
@inline
export function trieChild(node: usize, bit: usize): usize {
  return load<u32>(node + (bit << 2), TRIE_CHILDREN);
}

/** Bit of a key, counted from its first. */
function keyBit(high: u64, low: u64, position: i32): usize {
  return <usize>(((position < 64 ? high : low) >>> (63 - (<u64>position & 63))) & 1);
}

/** Leading bits that a key and a node's key have in common. */
function commonBits(node: usize, high: u64, low: u64): i32 {
  const difference = high ^ load<u64>(node, TRIE_HIGH);
  if (difference != 0) return <i32>clz(difference);
  return 64 + <i32>clz(low ^ load<u64>(node, TRIE_LOW));
}

/** A place in the trie: a node, and the value that holds where the node says nothing. */
// @ts-ignore: decorator
@inline
export function triePlace(node: usize, value: i32): u64 {
  return (<u64>value << 32) | <u64>node;
}

// @ts-ignore: decorator
@inline
export function placeNode(place: u64): usize {
  return <usize>(<u32>place);
}

// @ts-ignore: decorator
@inline
export function placeValue(place: u64): i32 {
  return <i32>(place >>> 32);
}

/**
 * From `place`, goes down to the region of all keys that begin with the first `bits` of a key: the
 * top node inside of it (0: none), and the longest match above it. A prefix that is the region
 * itself counts as inside.
 */
export function trieDescend(place: u64, high: u64, low: u64, bits: i32): u64 {
  let node = placeNode(place);
  let value = placeValue(place);
  while (node != 0) {
    const length = trieLength(node);
    const common = commonBits(node, high, low);
    if (length >= bits) return triePlace(common >= bits ? node : 0, value);
    if (common < length) return triePlace(0, value);
    const own = trieValue(node);
    if (own != 0) value = own;
    node = trieChild(node, keyBit(high, low, length));
  }
  return triePlace(0, value);
}

/** Value of exactly this prefix, 0 if it is not there. */
export function trieGet(table: usize, high: u64, low: u64, length: i32): i32 {
  const top = triePlace(load<u32>(table, PREFIX_TRIE_ROOT), 0);
  const node = placeNode(trieDescend(top, high, low, length));
  return node != 0 && trieLength(node) == length ? trieValue(node) : 0;
}

/** Sets the value of a prefix, 0 removes it. Returns the value before, or -1: table is full. */
export function trieSet(table: usize, high: u64, low: u64, length: i32, value: i32): i32 {
  return value == 0
    ? trieRemove(table, high, low, length)
    : trieInsert(table, high, low, length, value);
}

function trieInsert(table: usize, high: u64, low: u64, length: i32, value: i32): i32 {
  let link = table + PREFIX_TRIE_ROOT;
  let node = <usize>load<u32>(link);
  let common = 0;
  while (node != 0) {
    const nodeLength = trieLength(node);
    common = min(min(commonBits(node, high, low), length), nodeLength);
    if (common < nodeLength || nodeLength == length) break;
    link = node + TRIE_CHILDREN + (keyBit(high, low, nodeLength) << 2);
    node = <usize>load<u32>(link);
  }
  const exact = node != 0 && trieLength(node) == length && common == length;
  const previous = exact ? trieValue(node) : 0;
  if (previous == 0) {
    const count = load<i32>(table, PREFIX_COUNT);
    if (count >= load<i32>(table, PREFIX_LIMIT)) return -1;
    store<i32>(table, count + 1, PREFIX_COUNT);
  }
  if (!exact) node = insertAbove(table, link, node, common, high, low, length);
  setTrieValue(node, value);
  return previous;
}

/** Puts a new node where `link` leads to `below` now, which shares `common` bits with it. */
function insertAbove(
  table: usize, link: usize, below: usize, common: i32, high: u64, low: u64, length: i32,
): usize {
  const node = newNode(table, high, low, length);
  let top = node;
  if (below != 0) {
    if (common < length) {
      top = newNode(table, high & leadingOnes(common), low & leadingOnes(common - 64), common);
      adopt(top, node);
    }
    adopt(top, below);
  }
  store<u32>(link, <u32>top);
  return node;
}

function trieRemove(table: usize, high: u64, low: u64, length: i32): i32 {
  let above: usize = 0;               // link to the parent of node
  let link = table + PREFIX_TRIE_ROOT;
  let node = <usize>load<u32>(link);
  while (node != 0 && trieLength(node) < length) {
    above = link;
    link = node + TRIE_CHILDREN + (keyBit(high, low, trieLength(node)) << 2);
    node = <usize>load<u32>(link);
  }
  if (node == 0 || trieLength(node) != length || commonBits(node, high, low) < length) return 0;
  const previous = trieValue(node);
  if (previous == 0) return 0;
  setTrieValue(node, 0);
  store<i32>(table, load<i32>(table, PREFIX_COUNT) - 1, PREFIX_COUNT);
  cutOut(table, link);
  if (above != 0) cutOut(table, above);
  return previous;
}

/** Removes the node behind a link if it has neither a value nor two children. */
function cutOut(table: usize, link: usize): void {
  const node = <usize>load<u32>(link);
  if (node == 0 || trieValue(node) != 0) return;
  const left = trieChild(node, 0);
  const right = trieChild(node, 1);
  if (left != 0 && right != 0) return;
  store<u32>(link, <u32>(left | right));
  store<u32>(node, load<u32>(table, PREFIX_TRIE_FREE), TRIE_CHILDREN);
  store<u32>(table, <u32>node, PREFIX_TRIE_FREE);
  store<i32>(table, load<i32>(table, PREFIX_TRIE_USED) - 1, PREFIX_TRIE_USED);
}

/** A node without value or children. There is one: see the count at the top. */
function newNode(table: usize, high: u64, low: u64, length: i32): usize {
  let node = <usize>load<u32>(table, PREFIX_TRIE_FREE);
  if (node != 0) {
    store<u32>(table, load<u32>(node, TRIE_CHILDREN), PREFIX_TRIE_FREE);
  } else {
    node = <usize>load<u32>(table, PREFIX_TRIE_NEXT);
    store<u32>(table, <u32>(node + TRIE_SIZE), PREFIX_TRIE_NEXT);
  }
  store<u64>(node, high, TRIE_HIGH);
  store<u64>(node, low, TRIE_LOW);
  store<u64>(node, 0, TRIE_CHILDREN);
  store<i32>(node, length << 24, TRIE_VALUE);
  store<i32>(table, load<i32>(table, PREFIX_TRIE_USED) + 1, PREFIX_TRIE_USED);
  return node;
}

function adopt(parent: usize, child: usize): void {
  const bit = keyBit(load<u64>(child, TRIE_HIGH), load<u64>(child, TRIE_LOW), trieLength(parent));
  store<u32>(parent + (bit << 2), <u32>child, TRIE_CHILDREN);
}

/** A word whose first `count` bits are ones; count may lie outside of 0 to 64. */
function leadingOnes(count: i32): u64 {
  if (count <= 0) return 0;
  return count >= 64 ? ~0 : ~(~(<u64>0) >>> <u64>count);
}

/** True if the first `length` bits are all that may be set. */
export function isPrefix(high: u64, low: u64, length: i32): bool {
  return (high & ~leadingOnes(length)) == 0 && (low & ~leadingOnes(length - 64)) == 0;
}
