// Longest-prefix match: the lookup. A Poptrie (Asai and Ohara, SIGCOMM 2015): the first 18 bits
// index a direct table, then every node decides 6 bits with two 64-bit vectors and popcnt.
//
// A slot v of a node is asked for by shifting a vector left by 63 - v: the sign bit is the slot's
// own bit, and the population count is the number of bits set up to and including it. Shifts take
// their count modulo 64, so the inverted key is the shift count, unmasked.
//
// Theory of operation. Nodes and leaves are never changed once the direct table leads to them. The
// control side builds new ones aside and publishes them with one atomic store into the direct table
// (prefix-update.ts); blocks replaced stay intact until every worker has finished its turn
// (pool.ts). So a lookup needs no lock: from the one atomic load on, it sees one version.
// The slow twin is test/reference/prefixes.ts.
//
// Both lookups are inlined where they are called, and the strides of an IPv6 address's first half
// are written one by one: a loop's turns cost V8 a look at the stack limit, and shifts by a number
// that is not known. In C they are a loop (bench/native/prefix.h), which the compiler unrolls.
import {
  NODE_BITS, NODE_CHILDREN, NODE_LEAVES, NODE_RUNS, NODE_SIZE, NODE_VECTOR, PREFIX_DIRECT,
  PREFIX_DIRECT_SHIFT, PREFIX_VALUE_MAX,
} from "../abi/prefix-table";

/** Value of the leaf for the slot whose inverted number is in the low 6 bits of `inverted`. */
// @ts-ignore: decorator
@inline
function leafValue<Leaf>(node: usize, inverted: u64): i32 {
  const rank = <usize>popcnt(load<u64>(node, NODE_RUNS) << inverted);
  return load<Leaf>(<usize>load<u32>(node, NODE_LEAVES) + (rank * sizeof<Leaf>()));
}

if (NODE_SIZE != 24) ERROR("childNode() multiplies by 24");

/** Child behind the slot for which `shifted` is the shifted vector. A sum and a shift are quicker
 * than V8's multiplication, for which the next load would have to wait. */
// @ts-ignore: decorator
@inline
function childNode(node: usize, shifted: u64): usize {
  const rank = <usize>popcnt(shifted);
  return <usize>load<u32>(node, NODE_CHILDREN) + ((rank + (rank << 1)) << 3);
}

/** Value of an IPv4 address in host order; 0 if no prefix matches. `Leaf` is u16 or u32, as the
 * table was made. */
// @ts-ignore: decorator
@inline
export function prefixFind4<Leaf>(table: usize, address: u32): i32 {
  const entry = atomic.load<u32>(table + ((address >>> 14) << 2), PREFIX_DIRECT);
  if (entry <= <u32>PREFIX_VALUE_MAX) return entry;
  const key = ~<u64>address;
  let node = <usize>entry;
  let shifted = load<u64>(node, NODE_VECTOR) << (key >>> 8);
  if (<i64>shifted >= 0) return leafValue<Leaf>(node, key >>> 8);
  node = childNode(node, shifted);
  shifted = load<u64>(node, NODE_VECTOR) << (key >>> 2);
  if (<i64>shifted >= 0) return leafValue<Leaf>(node, key >>> 2);
  return leafValue<Leaf>(childNode(node, shifted), key << 4);
}

/** Value of a 128-bit key in two halves, host order; 0 if no prefix matches. */
// @ts-ignore: decorator
@inline
export function prefixFind6<Leaf>(table: usize, high: u64, low: u64): i32 {
  const slot = <usize>(high >>> PREFIX_DIRECT_SHIFT);
  const entry = atomic.load<u32>(table + (slot << 2), PREFIX_DIRECT);
  if (entry <= <u32>PREFIX_VALUE_MAX) return entry;
  let node = <usize>entry;
  let key = ~high;
  let shifted = load<u64>(node, NODE_VECTOR) << (key >>> 40);
  if (<i64>shifted >= 0) return leafValue<Leaf>(node, key >>> 40);
  node = childNode(node, shifted);
  shifted = load<u64>(node, NODE_VECTOR) << (key >>> 34);
  if (<i64>shifted >= 0) return leafValue<Leaf>(node, key >>> 34);
  node = childNode(node, shifted);
  shifted = load<u64>(node, NODE_VECTOR) << (key >>> 28);
  if (<i64>shifted >= 0) return leafValue<Leaf>(node, key >>> 28);
  node = childNode(node, shifted);
  shifted = load<u64>(node, NODE_VECTOR) << (key >>> 22);
  if (<i64>shifted >= 0) return leafValue<Leaf>(node, key >>> 22);
  node = childNode(node, shifted);
  shifted = load<u64>(node, NODE_VECTOR) << (key >>> 16);
  if (<i64>shifted >= 0) return leafValue<Leaf>(node, key >>> 16);
  node = childNode(node, shifted);
  shifted = load<u64>(node, NODE_VECTOR) << (key >>> 10);
  if (<i64>shifted >= 0) return leafValue<Leaf>(node, key >>> 10);
  node = childNode(node, shifted);
  shifted = load<u64>(node, NODE_VECTOR) << (key >>> 4);
  if (<i64>shifted >= 0) return leafValue<Leaf>(node, key >>> 4);
  node = childNode(node, shifted);
  // One stride has 4 bits of the high half and 2 of the low one. The last has 2 bits of the key
  // and 4 that do not matter: every leaf there covers 16 slots.
  key = ~((high << 2) | (low >>> 62));
  low = rotl(~low, 2);
  while (true) {
    shifted = load<u64>(node, NODE_VECTOR) << key;
    if (<i64>shifted >= 0) return leafValue<Leaf>(node, key);
    node = childNode(node, shifted);
    low = rotl(low, NODE_BITS);
    key = low;
  }
}

/** Value of the IPv6 address at `address`, 16 bytes in network order; 0 if no prefix matches. One
 * shuffle swaps both halves, which one by one would take 13 instructions each. */
// @ts-ignore: decorator
@inline
export function prefixFindAt6<Leaf>(table: usize, address: usize): i32 {
  const bytes = v128.load(address);
  const halves = i8x16.shuffle(bytes, bytes, 7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8);
  return prefixFind6<Leaf>(table, i64x2.extract_lane(halves, 0), i64x2.extract_lane(halves, 1));
}
