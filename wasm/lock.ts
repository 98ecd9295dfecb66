// The lock of what workers share and write: flows and fragments. Where there is only one worker
// there is nothing to take.
//
// Theory of operation. One word of the directory is 0 while the lock is free, else its holder: the
// worker's number + 1. Who finds it taken tries again for about as long as a packet holds it, then
// sleeps, with its bit set among the waiters (the second of Drepper's mutexes, "Futexes Are
// Tricky", with the waiters in a word of their own, so that the holder can be told). All these
// accesses are sequentially consistent: either the holder that leaves sees the waiter's bit, or the
// waiter sees that the lock is free. A sleep ends by itself after WAIT_LONGEST, for a holder that
// dies wakes nobody until the host has freed the lock in its place (engine/tables/grace.ts).
// The main thread never takes it: it must not sleep.

import {
  DIRECTORY_FLOW_LOCK, DIRECTORY_FLOW_WAITERS, DIRECTORY_START, DIRECTORY_WORKER_COUNT,
} from "./abi/layout";
import { directory } from "./packet";

/** Tries before a worker sleeps: some microseconds. */
const SPINS: i32 = 1000;
/** Nanoseconds. */
const WAIT_LONGEST: i64 = 1_000_000;

/** Waits until this worker alone may look at flows and fragments, or change them. */
// @ts-ignore: decorator
@inline
export function lockFlows(worker: i32): void {
  if (directory(DIRECTORY_WORKER_COUNT) > 1) acquire(worker);
}

/** Lets the next worker in. Precondition: this worker has called lockFlows(). */
// @ts-ignore: decorator
@inline
export function unlockFlows(): void {
  if (directory(DIRECTORY_WORKER_COUNT) > 1) release();
}

function acquire(worker: i32): void {
  const holder = worker + 1;
  for (let spin = 0; spin < SPINS; spin += 1) {
    if (atomic.load<i32>(DIRECTORY_START, DIRECTORY_FLOW_LOCK) == 0 && tryLock(holder) == 0) return;
  }
  atomic.or<u32>(DIRECTORY_START, 1 << worker, DIRECTORY_FLOW_WAITERS);
  for (let seen = tryLock(holder); seen != 0; seen = tryLock(holder)) {
    atomic.wait<i32>(DIRECTORY_START + DIRECTORY_FLOW_LOCK, seen, WAIT_LONGEST);
  }
  atomic.and<u32>(DIRECTORY_START, ~(1 << worker), DIRECTORY_FLOW_WAITERS);
}

/** Takes the lock if it is free, and returns 0; else its holder. */
// @ts-ignore: decorator
@inline
function tryLock(holder: i32): i32 {
  return atomic.cmpxchg<i32>(DIRECTORY_START, 0, holder, DIRECTORY_FLOW_LOCK);
}

function release(): void {
  atomic.store<i32>(DIRECTORY_START, 0, DIRECTORY_FLOW_LOCK);
  if (atomic.load<u32>(DIRECTORY_START, DIRECTORY_FLOW_WAITERS) == 0) return;
  atomic.notify(DIRECTORY_START + DIRECTORY_FLOW_LOCK, 1);
}
