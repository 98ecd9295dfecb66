// Counters and the turn clock: one block per worker, written by that worker alone.

import {
  CAPTURE_DROPPED, DESCRIPTOR_HEAD, DESCRIPTOR_PIECES, DIRECTORY_CAPTURE, DIRECTORY_DROPPED,
  DIRECTORY_FRONT_COUNTS, DIRECTORY_FRONT_LIMIT, DIRECTORY_NEXT_HOP_LIMIT, DIRECTORY_STATISTICS,
  DROPPED_BYTES, DROPPED_BYTES_MAX, DROPPED_CAPTURED, DROPPED_DEVICE, DROPPED_DIRECTION,
  DROPPED_HEAD, DROPPED_LENGTH, DROPPED_LIMIT, DROPPED_PACKETS, DROPPED_REASON, DROPPED_RECORDS,
  DROPPED_SIZE,
  STATISTICS_RX_BYTES, STATISTICS_RX_PACKETS, STATISTICS_STRIDE, STATISTICS_TX_BYTES,
  STATISTICS_TX_PACKETS, WORKERS_START, WORKER_DROPS, WORKER_DROP_REASONS, WORKER_DROP_STRIDE,
  WORKER_EVENTS, WORKER_STRIDE, WORKER_TURN,
} from "./abi/layout";
import { FRONT_COUNTS, FRONT_COUNTS_SIZE } from "./abi/service";
import {
  directory, inputDevice, packetLength, packetSegments, packetStart, setDropped,
} from "./packet";

function workerBlock(worker: i32): usize {
  return <usize>(WORKERS_START + (worker * WORKER_STRIDE));
}

/** Starts a turn: tables read from here on stay as they are until leaveTurn(). */
export function enterTurn(worker: i32): void {
  atomic.add<u32>(workerBlock(worker), 1, WORKER_TURN);
}

export function leaveTurn(worker: i32): void {
  atomic.add<u32>(workerBlock(worker), 1, WORKER_TURN);
}

/** Drops the packet and counts it under its direction and reason. */
export function drop(descriptor: usize, worker: i32, direction: i32, reason: i32): void {
  const counter = workerBlock(worker) + WORKER_DROPS
    + (((direction * WORKER_DROP_REASONS) + reason) * WORKER_DROP_STRIDE);
  store<u64>(counter, load<u64>(counter) + <u64>packetSegments(descriptor));
  store<u64>(counter, load<u64>(counter, 8) + <u64>packetLength(descriptor), 8);
  if ((directory(DIRECTORY_CAPTURE) & CAPTURE_DROPPED) != 0) {
    recordDropped(descriptor, worker, direction, reason);
  }
  setDropped(descriptor, reason);
}

/** Writes the first bytes of a packet that is dropped to the worker's ring, for whoever looks. Of a
 * joined packet only what lies together from its start on can be there. */
function recordDropped(descriptor: usize, worker: i32, direction: i32, reason: i32): void {
  const size = DROPPED_RECORDS + (DROPPED_LIMIT * DROPPED_SIZE);
  const ring = <usize>(directory(DIRECTORY_DROPPED) + (worker * size));
  const head = load<i32>(ring, DROPPED_HEAD);
  const record = ring + DROPPED_RECORDS + <usize>((head & (DROPPED_LIMIT - 1)) * DROPPED_SIZE);
  const length = packetLength(descriptor);
  const isJoined = load<u32>(descriptor, DESCRIPTOR_PIECES) != 0;
  const together = isJoined ? load<i32>(descriptor, DESCRIPTOR_HEAD) : length;
  const captured = max(0, min(min(length, together), DROPPED_BYTES_MAX));
  store<i32>(record, length, DROPPED_LENGTH);
  store<u16>(record, <u16>captured, DROPPED_CAPTURED);
  store<u16>(record, <u16>inputDevice(descriptor), DROPPED_DEVICE);
  store<u16>(record, <u16>packetSegments(descriptor), DROPPED_PACKETS);
  store<u8>(record, <u8>reason, DROPPED_REASON);
  store<u8>(record, <u8>direction, DROPPED_DIRECTION);
  memory.copy(record + DROPPED_BYTES, packetStart(descriptor), captured);
  store<i32>(ring, head + 1, DROPPED_HEAD);
}

export function countEvent(worker: i32, event: i32): void {
  countEvents(worker, event, 1);
}

export function countEvents(worker: i32, event: i32, count: i32): void {
  const counter = workerBlock(worker) + WORKER_EVENTS + (event * 8);
  store<u64>(counter, load<u64>(counter) + <u64>count);
}

/** Counts one more of what a front has seen, FRONT_COUNTS_*. */
export function countFront(worker: i32, front: usize, field: i32): void {
  const record = (worker * directory(DIRECTORY_FRONT_LIMIT)) + load<i32>(front, FRONT_COUNTS);
  const counter = <usize>(directory(DIRECTORY_FRONT_COUNTS) + (record * FRONT_COUNTS_SIZE) + field);
  store<u64>(counter, load<u64>(counter) + 1);
}

/** Address of the statistics of one next hop on one worker. */
export function statisticsOf(worker: i32, nextHop: i32): usize {
  const record = (worker * directory(DIRECTORY_NEXT_HOP_LIMIT)) + nextHop;
  return <usize>(directory(DIRECTORY_STATISTICS) + (record * STATISTICS_STRIDE));
}

/** Counts a packet that came from a next hop, as an IP packet. */
export function countReceived(worker: i32, nextHop: i32, descriptor: usize): void {
  const record = statisticsOf(worker, nextHop);
  const packets = <u64>packetSegments(descriptor);
  const length = <u64>packetLength(descriptor);
  store<u64>(record, load<u64>(record, STATISTICS_RX_PACKETS) + packets, STATISTICS_RX_PACKETS);
  store<u64>(record, load<u64>(record, STATISTICS_RX_BYTES) + length, STATISTICS_RX_BYTES);
}

/** Counts a packet given to a next hop, as an IP packet. */
export function countSent(worker: i32, nextHop: i32, descriptor: usize): void {
  const record = statisticsOf(worker, nextHop);
  const packets = <u64>packetSegments(descriptor);
  const length = <u64>packetLength(descriptor);
  store<u64>(record, load<u64>(record, STATISTICS_TX_PACKETS) + packets, STATISTICS_TX_PACKETS);
  store<u64>(record, load<u64>(record, STATISTICS_TX_BYTES) + length, STATISTICS_TX_BYTES);
}
