// Which backend a flow gets: rendezvous hashing (Thaler and Ravishankar, "A Name-Based Mapping
// Scheme for Rendezvous", 1996). Each backend has a weight for the flow, the greatest wins. So when
// a backend comes or goes, only the flows move that it gets or had; there is no table to build.
//
// A backend's seed follows from its address and port (engine/tables/services.ts), the flow's hash
// from keys that nobody who sends packets can guess. Four weights are computed at a time. The slow
// twin is test/reference/services.ts.

import { FRONT_LANES, FRONT_SEEDS } from "../abi/service";

/** Above every weight. */
export const WEIGHT_LIMIT: i32 = 1 << 30;
const WEIGHT_SHIFT: i32 = 2;
const FACTOR_FIRST: i32 = 0x85ebca6b;
const FACTOR_SECOND: i32 = 0xc2b2ae35;

/** Index of the backend with the greatest weight below `bound` of the first `count`; -1 if there is
 * none. */
export function bestBackend(front: usize, count: i32, hash: u32, bound: i32): i32 {
  const flow = i32x4.splat(hash);
  const above = i32x4.splat(bound);
  const end = i32x4.splat(count);
  let index = i32x4(0, 1, 2, 3);
  let best = i32x4.splat(-1);
  let places = i32x4.splat(-1);
  for (let first = 0; first < count; first += FRONT_LANES) {
    const seeds = v128.load(front + <usize>(first << 2), FRONT_SEEDS);
    const weight = mixLanes(v128.xor(seeds, flow));
    const isOurs = v128.and(i32x4.lt_s(index, end), i32x4.lt_s(weight, above));
    const isBetter = v128.and(isOurs, i32x4.gt_s(weight, best));
    best = v128.bitselect(weight, best, isBetter);
    places = v128.bitselect(index, places, isBetter);
    index = i32x4.add(index, i32x4.splat(FRONT_LANES));
  }
  // The best of four lanes: of two halves, then of two quarters.
  let other = i32x4.shuffle(best, best, 2, 3, 0, 1);
  let isBetter = i32x4.gt_s(other, best);
  best = v128.bitselect(other, best, isBetter);
  places = v128.bitselect(i32x4.shuffle(places, places, 2, 3, 0, 1), places, isBetter);
  other = i32x4.shuffle(best, best, 1, 0, 3, 2);
  isBetter = i32x4.gt_s(other, best);
  places = v128.bitselect(i32x4.shuffle(places, places, 1, 0, 3, 2), places, isBetter);
  return i32x4.extract_lane(places, 0);
}

/** The weight of a backend for a flow. */
export function backendWeight(front: usize, index: i32, hash: u32): i32 {
  return i32x4.extract_lane(mixLanes(i32x4.splat(backendSeed(front, index) ^ hash)), 0);
}

/** A backend's seed. */
export function backendSeed(front: usize, index: i32): u32 {
  return load<u32>(front + <usize>(index << 2), FRONT_SEEDS);
}

/** Index of the backend with a seed, of the first `count`; -1 if there is none. */
export function backendOfSeed(front: usize, count: i32, seed: u32): i32 {
  for (let index = 0; index < count; index += 1) {
    if (backendSeed(front, index) == seed) return index;
  }
  return -1;
}

/** The finalizer of MurmurHash3, without its last bits: weights are not negative. */
// @ts-ignore: decorator
@inline
function mixLanes(lanes: v128): v128 {
  let mixed = v128.xor(lanes, i32x4.shr_u(lanes, 16));
  mixed = i32x4.mul(mixed, i32x4.splat(FACTOR_FIRST));
  mixed = v128.xor(mixed, i32x4.shr_u(mixed, 13));
  mixed = i32x4.mul(mixed, i32x4.splat(FACTOR_SECOND));
  mixed = v128.xor(mixed, i32x4.shr_u(mixed, 16));
  return i32x4.shr_u(mixed, WEIGHT_SHIFT);
}
