// Fronts (abi/service.ts): what clients of Services address, found by address, protocol and port.
// Chains in buckets; the control side enters and takes out one front at a time, by one atomic
// store, and workers walk on whatever chain they find. A front that is taken out still leads on,
// and is used again only after a grace period (engine/tables/services.ts).

import { DIRECTORY_FRONT_BUCKETS, DIRECTORY_FRONT_BUCKET_COUNT } from "../abi/layout";
import {
  BACKENDS_COUNT, BACKENDS_LANES, BACKENDS_SEEDS, BACKEND_ADDRESS, BACKEND_PORT, BACKEND_SIZE,
  FRONT_ADDRESS, FRONT_BACKENDS, FRONT_NEXT, FRONT_PORT,
} from "../abi/service";
import { directory } from "../packet";

const SPREAD: u64 = 0x9e3779b97f4a7c15; // 2^64 divided by the golden ratio
const SPREAD_UPPER: u64 = 0xc2b2ae3d27d4eb4f; // an odd number
const PROTOCOL_SHIFT: i32 = 16;

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
  return load<u32>(front, FRONT_PORT) == rest
    && !v128.any_true(v128.xor(v128.load(front, FRONT_ADDRESS), v128.load(address)));
}

/** Address of the bucket of an address, and port and protocol as a front has them. */
function bucketOf(address: usize, rest: u32): usize {
  const mixed = (load<u64>(address) * SPREAD_UPPER) ^ load<u64>(address, 8) ^ (<u64>rest << 8);
  const hash = (mixed ^ (mixed >>> 32)) * SPREAD;
  const bucket = <i32>(hash >>> 40) & (directory(DIRECTORY_FRONT_BUCKET_COUNT) - 1);
  return <usize>(directory(DIRECTORY_FRONT_BUCKETS) + (bucket << 2));
}

/** Lets packets find a front. Precondition: it is complete, and there is no other of its key. For
 * the control side. */
export function frontEnter(front: usize): void {
  const bucket = bucketOf(front + FRONT_ADDRESS, load<u32>(front, FRONT_PORT));
  store<u32>(front, atomic.load<u32>(bucket), FRONT_NEXT);
  atomic.store<u32>(bucket, <u32>front);
}

/** Takes a front out. Precondition: it was entered. For the control side. */
export function frontRemove(front: usize): void {
  let place = bucketOf(front + FRONT_ADDRESS, load<u32>(front, FRONT_PORT));
  while (<usize>load<u32>(place) != front) place = <usize>load<u32>(place) + FRONT_NEXT;
  atomic.store<u32>(place, load<u32>(front, FRONT_NEXT));
}

/** The block of backends that is in force for a front. */
export function frontBackends(front: usize): usize {
  return <usize>atomic.load<u32>(front, FRONT_BACKENDS);
}

/** Address of a block's backend. */
export function backendAt(block: usize, index: i32): usize {
  const count = load<i32>(block, BACKENDS_COUNT);
  const seeds = (count + BACKENDS_LANES - 1) & -BACKENDS_LANES;
  return block + BACKENDS_SEEDS + <usize>((seeds << 2) + (index * BACKEND_SIZE));
}

/** True where a block has a backend of this address and port. */
export function hasBackend(block: usize, address: usize, port: u16): bool {
  const count = load<i32>(block, BACKENDS_COUNT);
  let backend = backendAt(block, 0);
  for (let index = 0; index < count; index += 1) {
    const same = v128.xor(v128.load(backend, BACKEND_ADDRESS), v128.load(address));
    if (load<u16>(backend, BACKEND_PORT) == port && !v128.any_true(same)) return true;
    backend += BACKEND_SIZE;
  }
  return false;
}
