// One turn over a batch: each packet goes the way of the device it came from.

import { DEVICE_KIND_NONE, DEVICE_KIND_UNDERLAY } from "./abi/layout";
import { DIRECTION_OUTBOUND, REASON_DEVICE_UNKNOWN } from "./abi/verdict";
import { drop, enterTurn, leaveTurn } from "./count";
import { sweepFlows } from "./flow";
import { inbound } from "./inbound";
import { outbound } from "./outbound";
import { finishRun, resetRun } from "./offload/coalesce";
import { openOutbox, outboxHasRoom } from "./outbox";
import { descriptorAt, inputDevice, resetVerdict, workerOfSlot } from "./packet";
import { deviceAt, deviceKind } from "./table/record";

/** Decides the packets of `count` slots from `first` on, all of one worker's, and fills its outbox.
 * The host has filled in start, length, input device and, from the underlay, outer source, TOS and
 * segment size. `nowMs` is a monotonic clock that may wrap. Returns how many slots are done: fewer
 * than `count` where the outbox is full; the host writes what is in it and asks for the rest. */
export function processBatch(first: i32, count: i32, nowMs: i32): i32 {
  const worker = workerOfSlot(first);
  enterTurn(worker);
  openOutbox(worker);
  resetRun(worker);
  let slot = first;
  while (slot < first + count && outboxHasRoom(worker)) {
    processPacket(descriptorAt(slot), worker, nowMs);
    slot += 1;
  }
  finishRun(worker, nowMs);
  sweepFlows(worker, nowMs);
  leaveTurn(worker);
  return slot - first;
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
