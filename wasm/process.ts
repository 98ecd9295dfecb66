// One turn over a batch: each packet goes the way of the device it came from.

import { DEVICE_KIND_NONE, DEVICE_KIND_UNDERLAY, NEXT_HOP_KIND_PEER } from "./abi/layout";
import { DIRECTION_OUTBOUND, REASON_DEVICE_UNKNOWN } from "./abi/verdict";
import { drop, enterTurn, leaveTurn } from "./count";
import { sweepFlows } from "./flow";
import { forwardInbound, forwardOutbound } from "./forward";
import {
  handDestination, handSource, packetInHand, slotInHand, standAt, trainInHand,
} from "./hand";
import { inbound, resumeTrain } from "./inbound";
import { finishRun, isRun, resetRun, runHasLast } from "./offload/coalesce";
import { outbound } from "./outbound";
import { openOutbox, outboxHasRoom } from "./outbox";
import { descriptorAt, inputDevice, resetVerdict, workerOfSlot } from "./packet";
import { deviceAt, deviceKind, deviceNextHop, nextHopAt, nextHopKind } from "./table/record";

/** Decides the packets of `count` slots from `first` on, all of one worker's, and fills its outbox.
 * The host has filled in start, length, input device and, from the underlay, outer source, TOS and
 * segment size. `nowMs` is a monotonic clock that may wrap. Returns how many slots are done: fewer
 * than `count` where the outbox is full; the host writes what is in it and asks for the rest. */
export function processBatch(first: i32, count: i32, nowMs: i32): i32 {
  const worker = workerOfSlot(first);
  enterTurn(worker);
  openOutbox(worker);
  resetRun(worker);
  return processFrom(first, first, count, worker, nowMs);
}

/** Goes on with a batch that a module's fault led out of, in this instance of the core or another.
 * Precondition: the module's verdict stands where it would have gone, and the worker does not hold
 * the lock of flows (engine/modules.ts). What is in the outbox stays there. */
export function resumeBatch(first: i32, count: i32, nowMs: i32): i32 {
  const worker = workerOfSlot(first);
  return processFrom(finishHand(worker, nowMs), first, count, worker, nowMs);
}

/** Decides the slots from `next` on. */
function processFrom(next: i32, first: i32, count: i32, worker: i32, nowMs: i32): i32 {
  let slot = next;
  while (slot < first + count && outboxHasRoom(worker)) {
    standAt(worker, slot);
    processPacket(descriptorAt(slot), worker, nowMs);
    slot += 1;
  }
  standAt(worker, slot);
  finishRun(worker, nowMs);
  sweepFlows(worker, nowMs);
  leaveTurn(worker);
  return slot - first;
}

/** Takes the packet that was judged when a module failed the rest of its way, and with it the slot
 * that the worker was at. Returns the slot to go on with: the same where that had not begun, for a
 * run before it was on its way. */
function finishHand(worker: i32, nowMs: i32): i32 {
  const packet = packetInHand(worker);
  const isOfRun = isRun(packet, worker);
  const isDone = !isOfRun || runHasLast(worker);
  const source = handSource(worker);
  const destination = handDestination(worker);
  const device = deviceAt(inputDevice(packet));
  if (device == 0 || nextHopKind(nextHopAt(source)) == NEXT_HOP_KIND_PEER) {
    forwardInbound(packet, worker, nowMs, source, destination);
  } else {
    const origin = deviceNextHop(device);
    forwardOutbound(packet, worker, nowMs, origin, source, destination);
  }
  if (isOfRun) resetRun(worker);
  const slot = slotInHand(worker);
  if (trainInHand(worker) == 0) return isDone ? slot + 1 : slot;
  resumeTrain(descriptorAt(slot), worker, nowMs, isDone);
  return slot + 1;
}

/** A packet of a local device ends the run of packets that are being joined: it may take pieces. */
function processPacket(descriptor: usize, worker: i32, nowMs: i32): void {
  resetVerdict(descriptor);
  const device = deviceAt(inputDevice(descriptor));
  const kind = device != 0 ? deviceKind(device) : DEVICE_KIND_NONE;
  if (kind == DEVICE_KIND_UNDERLAY) return inbound(descriptor, worker, nowMs, device);
  finishRun(worker, nowMs);
  if (kind != DEVICE_KIND_NONE) outbound(descriptor, worker, nowMs, device);
  else drop(descriptor, worker, DIRECTION_OUTBOUND, REASON_DEVICE_UNKNOWN);
}
