// What a worker has in hand, kept in its block while a batch is decided: the slot it is at, the
// datagram in a train of them, and the packet that is judged. A module's fault leads out of the
// batch at any judgement; from this another call goes on there (process.ts), by this worker or, if
// its thread is gone, by the one in its place.

import {
  WORKERS_START, WORKER_AT, WORKER_AT_DATAGRAM, WORKER_AT_LENGTH, WORKER_AT_TRAIN, WORKER_HAND,
  WORKER_HAND_DESTINATION, WORKER_HAND_SOURCE, WORKER_STRIDE,
} from "./abi/layout";

// @ts-ignore: decorator
@inline
function block(worker: i32): usize {
  return <usize>(WORKERS_START + (worker * WORKER_STRIDE));
}

/** Says which slot is next, or in hand; it holds one packet, or beginTrain() says more. */
// @ts-ignore: decorator
@inline
export function standAt(worker: i32, slot: i32): void {
  store<u64>(block(worker), <u64>slot, WORKER_AT); // and WORKER_AT_TRAIN behind it
}

/** Says that the slot in hand holds datagrams of `length` bytes together. */
export function beginTrain(worker: i32, start: usize, length: i32): void {
  store<u32>(block(worker), <u32>start, WORKER_AT_TRAIN);
  store<i32>(block(worker), length, WORKER_AT_LENGTH);
}

/** Says which of the datagrams is in hand, by its offset. */
export function standAtDatagram(worker: i32, offset: i32): void {
  store<i32>(block(worker), offset, WORKER_AT_DATAGRAM);
}

/** Says which packet is judged, and between which next hops it travels: both ids in one word. */
// @ts-ignore: decorator
@inline
export function takeInHand(worker: i32, descriptor: usize, source: i32, destination: i32): void {
  const hops = <u32>source | (<u32>destination << 16);
  store<u64>(block(worker), <u64>descriptor | (<u64>hops << 32), WORKER_HAND);
}

/** Slot that the worker is at. */
export function slotInHand(worker: i32): i32 {
  return load<i32>(block(worker), WORKER_AT);
}

/** Address of the first datagram of a train, 0 where the slot holds one packet. */
export function trainInHand(worker: i32): usize {
  return load<u32>(block(worker), WORKER_AT_TRAIN);
}

/** Bytes of the train. */
export function trainLength(worker: i32): i32 {
  return load<i32>(block(worker), WORKER_AT_LENGTH);
}

/** Offset of the train's datagram in hand. */
export function datagramInHand(worker: i32): i32 {
  return load<i32>(block(worker), WORKER_AT_DATAGRAM);
}

/** Descriptor of the packet that is judged. */
export function packetInHand(worker: i32): usize {
  return load<u32>(block(worker), WORKER_HAND);
}

export function handSource(worker: i32): i32 {
  return load<u16>(block(worker), WORKER_HAND_SOURCE);
}

export function handDestination(worker: i32): i32 {
  return load<u16>(block(worker), WORKER_HAND_DESTINATION);
}
