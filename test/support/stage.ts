// Sends made by hand, for tests of devices without a core's decision.

import * as layout from '../../wasm/abi/layout.ts';
import { IOVEC_SIZE } from '../../host/sends.ts';
import type { Slots } from '../../host/slots.ts';
import { writeSocketAddress } from '../../ffi/address.ts';
import { POINTER_SIZE } from '../../ffi/memory.ts';

const SENDS = layout.WORKERS_START + layout.WORKER_SENDS;
const PIECES = layout.WORKERS_START + layout.WORKER_PIECES;

/** What a send says beside its bytes. */
export interface SendFields {
  device?: number;
  /** Socket address of the other end. */
  remote?: { address: string; port: number };
  tos?: number;
  flags?: number;
  flowHash?: number;
}

/** Empties the outbox. */
export function clearStage({ core: { view } }: Slots): void {
  view.setUint32(SENDS, 0, true);
  view.setUint32(PIECES, 0, true);
}

/** Puts the packets of `slots` into the outbox, one send each, in the place of what was in it. */
export function stage(slots: Slots, packets: readonly number[]): void {
  clearStage(slots);
  for (const slot of packets) stageTrain(slots, [[slot]]);
}

/** Adds a send of datagrams, each made of the bytes of some slots. Returns its index. */
export function stageTrain(
  slots: Slots, datagrams: readonly (readonly number[])[], fields: SendFields = {},
): number {
  const { core, base } = slots;
  const { view } = core;
  const index = view.getUint32(SENDS, true);
  view.setUint32(SENDS, index + 1, true);
  const send = core.directory(layout.DIRECTORY_SENDS) + (index * layout.SEND_STRIDE);
  core.bytes.fill(0, send, send + layout.SEND_STRIDE);
  const used = view.getUint32(PIECES, true);
  const first = core.directory(layout.DIRECTORY_PIECES) + (used * IOVEC_SIZE);
  const pieces = datagrams.flat();
  view.setUint32(PIECES, used + pieces.length, true);
  pieces.forEach((slot, at) => {
    setWord(view, first + (at * IOVEC_SIZE), base + slots.start(slot));
    setWord(view, first + (at * IOVEC_SIZE) + POINTER_SIZE, slots.length(slot));
  });
  const sizes = datagrams.map((parts) => sum(parts.map((slot) => slots.length(slot))));
  view.setUint32(send + layout.SEND_PIECES, first, true);
  view.setUint32(send + layout.SEND_PIECE_COUNT, pieces.length, true);
  view.setUint32(send + layout.SEND_LENGTH, sum(sizes), true);
  view.setUint16(send + layout.SEND_DEVICE, fields.device ?? 0, true);
  view.setUint16(send + layout.SEND_SEGMENT_SIZE, sizes.length > 1 ? sizes[0] ?? 0 : 0, true);
  view.setUint16(send + layout.SEND_PACKETS, datagrams.length, true);
  view.setUint8(send + layout.SEND_TOS, fields.tos ?? 0);
  view.setUint8(send + layout.SEND_FLAGS, fields.flags ?? 0);
  view.setUint32(send + layout.SEND_FLOW_HASH, fields.flowHash ?? 0, true);
  if (fields.remote !== undefined) {
    const at = send + layout.SEND_REMOTE;
    const room = new Uint8Array(layout.REMOTE_IPV6_SIZE);
    writeSocketAddress(room, fields.remote.address, fields.remote.port);
    core.bytes.set(room, at);
  }
  return index;
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0);
}

function setWord(view: DataView, at: number, value: number): void {
  view.setUint32(at, value >>> 0, true);
  if (POINTER_SIZE === 8) view.setUint32(at + 4, Math.floor(value / 0x1_0000_0000), true);
}
