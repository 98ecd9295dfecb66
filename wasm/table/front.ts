// Fronts (abi/service.ts): what clients of Services address, found by address, protocol and port.
// Chains in buckets; the control side enters, replaces and takes out one front at a time, by one
// atomic store, and workers walk on whatever chain they find. A front that is out of it still leads
// on, and its memory is used again only after a grace period (engine/tables/services.ts).

import { DIRECTORY_FRONT_BUCKETS, DIRECTORY_FRONT_BUCKET_COUNT } from "../abi/layout";
import {
  BACKEND_ADDRESS, BACKEND_PORT, BACKEND_SIZE, FRONT_ADDRESS, FRONT_BACKENDS, FRONT_LANES,
  FRONT_NEXT, FRONT_PORT, FRONT_SEEDS,
} from "../abi/service";
import { directory } from "../packet";

const SPREAD: u64 = 0x9e3779b97f4a7c15; // 2^64 divided by the golden ratio
const SPREAD_UPPER: u64 = 0xc2b2ae3d27d4eb4f; // an odd number
const PROTOCOL_SHIFT: i32 = 16;
/** Port and protocol in the word that begins with the port. */
const NAME_MASK: u32 = 0xffffff;

/** Address of the front with an address of 16 bytes, and a port as it lies in a header; 0 if there
 * is none. */
export function frontFind(address: usize, port: u16, protocol: i32): usize {
  const rest = <u32>port | (<u32>protocol << PROTOCOL_SHIFT);
  let front = <usize>atomic.load<u32>(bucketOf(address, rest));
  while (front != 0 && !isFront(front, address, rest)) {
    front = <usize>atomic.load<u32>(front, FRONT_NEXT);
  }
  return front;
}

function isFront(front: usize, address: usize, rest: u32): bool {
  return (load<u32>(front, FRONT_PORT) & NAME_MASK) == rest
    && !v128.any_true(v128.xor(v128.load(front, FRONT_ADDRESS), v128.load(address)));
}

/** Address of the bucket of an address, and port and protocol as a front has them. */
function bucketOf(address: usize, rest: u32): usize {
  const mixed = (load<u64>(address) * SPREAD_UPPER) ^ load<u64>(address, 8) ^ (<u64>rest << 8);
  const hash = (mixed ^ (mixed >>> 32)) * SPREAD;
  const bucket = <i32>(hash >>> 40) & (directory(DIRECTORY_FRONT_BUCKET_COUNT) - 1);
  return <usize>(directory(DIRECTORY_FRONT_BUCKETS) + (bucket << 2));
}

/** The bucket that a front belongs to. */
function ownBucket(front: usize): usize {
  return bucketOf(front + FRONT_ADDRESS, load<u32>(front, FRONT_PORT) & NAME_MASK);
}

/** The word that leads to a front. */
function linkTo(front: usize): usize {
  let link = ownBucket(front);
  while (<usize>load<u32>(link) != front) link = <usize>load<u32>(link) + FRONT_NEXT;
  return link;
}

/** Lets packets find a front. Precondition: it is complete, and there is no other of its name. For
 * the control side, as the next two. */
export function frontEnter(front: usize): void {
  const bucket = ownBucket(front);
  store<u32>(front, load<u32>(bucket), FRONT_NEXT);
  atomic.store<u32>(bucket, <u32>front);
}

/** Puts a front in the place of one of the same name. */
export function frontReplace(before: usize, front: usize): void {
  store<u32>(front, load<u32>(before, FRONT_NEXT), FRONT_NEXT);
  atomic.store<u32>(linkTo(before), <u32>front);
}

/** Takes a front out. */
export function frontRemove(front: usize): void {
  atomic.store<u32>(linkTo(front), load<u32>(front, FRONT_NEXT));
}

/** Backends of a front, ready and draining ones. */
export function backendCount(front: usize): i32 {
  return load<u16>(front, FRONT_BACKENDS);
}

/** Address of a front's backend. */
export function backendAt(front: usize, index: i32): usize {
  const seeds = (backendCount(front) + FRONT_LANES - 1) & -FRONT_LANES;
  return front + FRONT_SEEDS + <usize>((seeds << 2) + (index * BACKEND_SIZE));
}

/** True where a front has a backend of this address and port. */
export function hasBackend(front: usize, address: usize, port: u16): bool {
  let backend = backendAt(front, 0);
  for (let left = backendCount(front); left > 0; left -= 1) {
    const same = v128.xor(v128.load(backend, BACKEND_ADDRESS), v128.load(address));
    if (load<u16>(backend, BACKEND_PORT) == port && !v128.any_true(same)) return true;
    backend += BACKEND_SIZE;
  }
  return false;
}
