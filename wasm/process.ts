// One turn over a batch: each packet goes the way of the device it came from.

import { DEVICE_KIND_NONE, DEVICE_KIND_UNDERLAY } from "./abi/layout";
import { DIRECTION_OUTBOUND, REASON_DEVICE_UNKNOWN } from "./abi/verdict";
import { drop, enterTurn, leaveTurn } from "./count";
import { inbound } from "./inbound";
import { outbound } from "./outbound";
import { descriptorAt, inputDevice, resetVerdict, workerOfSlot } from "./packet";
import { flowSweep } from "./table/flow";
import { deviceAt, deviceKind } from "./table/record";

/** Decides the packets of `count` slots from `first` on, all of one worker's. The host has filled
 * in start, length, input device and, from the underlay, the outer source. `nowMs` is a monotonic
 * clock that may wrap. */
export function processBatch(first: i32, count: i32, nowMs: i32): void {
  const worker = workerOfSlot(first);
  enterTurn(worker);
  for (let slot = first; slot < first + count; slot += 1) {
    processPacket(descriptorAt(slot), worker, nowMs);
  }
  flowSweep(worker, nowMs);
  leaveTurn(worker);
}

function processPacket(descriptor: usize, worker: i32, nowMs: i32): void {
  resetVerdict(descriptor);
  const device = deviceAt(inputDevice(descriptor));
  const kind = device != 0 ? deviceKind(device) : DEVICE_KIND_NONE;
  if (kind == DEVICE_KIND_UNDERLAY) inbound(descriptor, worker, nowMs);
  else if (kind != DEVICE_KIND_NONE) outbound(descriptor, worker, nowMs, device);
  else drop(descriptor, worker, DIRECTION_OUTBOUND, REASON_DEVICE_UNKNOWN);
}
