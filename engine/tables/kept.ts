// The kept pages of linear memory, which the next process may take over: the flow table, so that
// connections that are under way go on, and the packets that a worker had in its hands. What else
// is in memory is built anew from what is known.

import {
  DESCRIPTOR_INPUT,
  DESCRIPTOR_LENGTH,
  DESCRIPTOR_SEGMENT_SIZE,
  DESCRIPTOR_START,
  DIRECTORY_FLOW_COUNT,
  DIRECTORY_FLOW_SEED,
  DIRECTORY_KEPT,
  DIRECTORY_SLOT_COUNT,
  DIRECTORY_WORKER_COUNT,
  KEPT_FLOWS,
  KEPT_FLOW_SEED,
  KEPT_HEADER_SIZE,
  KEPT_MAGIC,
  KEPT_MAGIC_FIELD,
  KEPT_SLOTS,
  KEPT_VERSION,
  KEPT_WORKERS,
  TURN_BEGUN,
  TURN_DONE,
  TURN_READ,
  TURN_SLOTS,
  TURN_SLOT_HEAD,
  TURN_SLOT_HEAD_BEFORE,
  TURN_SLOT_HEAD_SIZE,
  TURN_SLOT_LENGTH,
  TURN_SLOT_SEGMENT_SIZE,
  TURN_SLOT_STRIDE,
} from '../../wasm/abi/layout.ts';
import { ABI_VERSION } from '../../wasm/abi/version.ts';
import type { Core } from '../core.ts';
import { writeFlowKeys } from '../flow-keys.ts';
import { turnRecordSize } from '../memory-map.ts';

/** The bytes of the kept pages: a multiple of KEPT_GRANULE at a multiple of it. */
export function keptPages(core: Core): Uint8Array {
  return core.bytes.subarray(core.directory(DIRECTORY_KEPT));
}

/** Marks pages that hold nothing yet as this core's. The magic comes last. */
export function beginKept(core: Core): void {
  const header = headerOf(core);
  for (const [field, value] of expected(core)) header.setUint32(field, value, true);
  header.setUint32(KEPT_FLOW_SEED, core.directory(DIRECTORY_FLOW_SEED), true);
  header.setUint32(KEPT_MAGIC_FIELD, KEPT_MAGIC, true);
}

/** Takes pages over that another process left: their flows are judged anew at their next packets,
 * as the connections they are. Returns how many there are; null where the pages are of another
 * layout, and then nothing of them may be used. The lock of flows is not among the pages: whoever
 * held it when the process was killed, it is free. Precondition: no worker turns. */
export function adoptKept(core: Core, nowMs: number): number | null {
  const header = headerOf(core);
  const isOurs = [[KEPT_MAGIC_FIELD, KEPT_MAGIC] as const, ...expected(core)]
    .every(([field, value]) => header.getUint32(field, true) === value);
  if (!isOurs) return null;
  const seed = header.getUint32(KEPT_FLOW_SEED, true);
  core.setDirectory(DIRECTORY_FLOW_SEED, seed);
  writeFlowKeys(core.view, seed);
  return core.exports.flowAdopt(nowMs);
}

/** Address of a worker's turn record. */
export function turnRecord(core: Core, worker: number): number {
  const size = turnRecordSize(core.directory(DIRECTORY_SLOT_COUNT));
  // Records begin at multiples of their size: the map leaves no gaps within a kind.
  return core.directory(DIRECTORY_KEPT) + KEPT_HEADER_SIZE + (worker * size);
}

/** Makes the packets that a killed process had read and not written what their devices gave, to go
 * through the core once more. `deviceOf` says what a device's index has become, -1 where it has
 * gone. Returns how many there are. Precondition: the worker turns nothing over. */
export function recoverTurn(
  core: Core, worker: number, deviceOf: (index: number) => number,
): number {
  const { bytes, view } = core;
  const record = turnRecord(core, worker);
  const slots = core.directory(DIRECTORY_SLOT_COUNT);
  const read = view.getUint32(record + TURN_READ, true);
  const done = view.getUint32(record + TURN_DONE, true);
  const isBegun = view.getUint32(record + TURN_BEGUN, true) !== 0;
  if (read > slots || done >= read) {
    view.setUint32(record + TURN_READ, 0, true);
    return 0;
  }
  for (let place = done; place < read; place += 1) {
    const slot = (worker * slots) + place;
    const at = core.descriptorAddress(slot);
    const saved = record + TURN_SLOTS + (place * TURN_SLOT_STRIDE);
    const device = deviceOf(view.getUint16(at + DESCRIPTOR_INPUT, true));
    const segmentSize = view.getUint32(saved + TURN_SLOT_SEGMENT_SIZE, true);
    // Of datagrams that the kernel joined, only the first one's headers are saved.
    const isSpoilt = isBegun && segmentSize > 0;
    // A packet without length is dropped, and counted, by the core.
    const isUsed = device >= 0 && !isSpoilt;
    const length = isUsed ? view.getUint32(saved + TURN_SLOT_LENGTH, true) : 0;
    const head = saved + TURN_SLOT_HEAD;
    const target = core.packetAddress(slot) - TURN_SLOT_HEAD_BEFORE;
    bytes.copyWithin(target, head, head + TURN_SLOT_HEAD_SIZE);
    view.setUint16(at + DESCRIPTOR_INPUT, Math.max(device, 0), true);
    view.setUint32(at + DESCRIPTOR_START, core.packetAddress(slot), true);
    view.setUint32(at + DESCRIPTOR_LENGTH, length, true);
    view.setUint16(at + DESCRIPTOR_SEGMENT_SIZE, segmentSize, true);
  }
  return read - done;
}

function headerOf(core: Core): DataView {
  return new DataView(core.memory.buffer, core.directory(DIRECTORY_KEPT), KEPT_HEADER_SIZE);
}

/** What the header of pages of this layout holds, beside the magic and the seed. */
function expected(core: Core): [field: number, value: number][] {
  return [
    [KEPT_VERSION, ABI_VERSION],
    [KEPT_WORKERS, core.directory(DIRECTORY_WORKER_COUNT)],
    [KEPT_FLOWS, core.directory(DIRECTORY_FLOW_COUNT)],
    [KEPT_SLOTS, core.directory(DIRECTORY_SLOT_COUNT)],
  ];
}
