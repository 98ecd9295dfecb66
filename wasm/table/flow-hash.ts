// The hash of the flow and fragment tables. Whoever sends packets chooses keys, and must not be
// able to choose ones that meet in the same groups: so the hash is keyed, and what it promises
// holds for any two keys, however alike they are. The slow twin is test/reference/flow-hash.ts.
//
// NH, as in UMAC (RFC 4418 section 5.2.2): each word of one address plus a key word, times the same
// of the other address, 32 bits by 32 bits, summed up in 64; two pairs of addresses meet with a
// probability of 2^-32. Ports and protocol, a number of 40 bits, are added times an odd key. Where
// only the last bytes of addresses differ, as between neighbours, only the upper bits of sums do:
// so these are folded onto the lower ones before a last odd key spreads all of them upwards
// (Dietzfelbinger et al. 1997).

import {
  FLOW_ADDRESS_A, FLOW_ADDRESS_B, FLOW_KEYS, FLOW_KEYS_ADDRESS_A, FLOW_KEYS_ADDRESS_B,
  FLOW_KEYS_REST, FLOW_KEYS_SPREAD, FLOW_GROUP_SIZE, FLOW_PORT_A, FLOW_TAG_USED,
} from "../abi/policy";

/** Ports and protocol in the word that begins with the ports. */
const REST_MASK: u64 = 0xffffffffff;

/** Hash of a flow's key. */
// @ts-ignore: decorator
@inline
export function flowKeyHash(key: usize): u64 {
  return endsHash(key, load<u64>(key, FLOW_PORT_A) & REST_MASK);
}

/** Hash of both ends' addresses and a number of at most 40 bits. */
// @ts-ignore: decorator
@inline
export function endsHash(key: usize, rest: u64): u64 {
  return hashWith(
    key,
    rest,
    v128.load(FLOW_KEYS, FLOW_KEYS_ADDRESS_A),
    v128.load(FLOW_KEYS, FLOW_KEYS_ADDRESS_B),
    load<u64>(FLOW_KEYS, FLOW_KEYS_REST),
    load<u64>(FLOW_KEYS, FLOW_KEYS_SPREAD),
  );
}

/** flowKeyHash() for a caller that keeps the hash's keys in registers, from one key to the next. */
// @ts-ignore: decorator
@inline
export function flowKeyHashWith(
  key: usize, addressA: v128, addressB: v128, factor: u64, spread: u64,
): u64 {
  return hashWith(
    key, load<u64>(key, FLOW_PORT_A) & REST_MASK, addressA, addressB, factor, spread);
}

// @ts-ignore: decorator
@inline
function hashWith(
  key: usize, rest: u64, addressA: v128, addressB: v128, factor: u64, spread: u64,
): u64 {
  const a = i32x4.add(v128.load(key, FLOW_ADDRESS_A), addressA);
  const b = i32x4.add(v128.load(key, FLOW_ADDRESS_B), addressB);
  const products = i64x2.add(i64x2.extmul_low_i32x4_u(a, b), i64x2.extmul_high_i32x4_u(a, b));
  const both = i64x2.add(products, i64x2.shuffle(products, products, 1, 0));
  // As a floating-point lane, because V8 takes that out in one instruction, an integer in two.
  const sum = reinterpret<u64>(f64x2.extract_lane(both, 0)) + (rest * factor);
  return (sum ^ (sum >>> 32)) * spread;
}

/** Index of the first entry of a key's home group, in a table of `count` entries. */
// @ts-ignore: decorator
@inline
export function homeGroup(hash: u64, count: i32): i32 {
  return <i32>(hash >>> 40) & (count - FLOW_GROUP_SIZE);
}

/** Likewise of its second group. */
export function secondGroup(hash: u64, count: i32): i32 {
  return <i32>((hash ^ (hash >>> 32)) >>> 4) & (count - FLOW_GROUP_SIZE);
}

// @ts-ignore: decorator
@inline
export function tagOf(hash: u64): u8 {
  return <u8>(<i32>(hash >>> 36) | FLOW_TAG_USED);
}
