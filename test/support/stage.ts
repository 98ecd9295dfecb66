// Sends made by hand, for tests of devices without a core's decision.

import * as layout from '../../wasm/abi/layout.ts';
import { IOVEC_SIZE } from '../../host/sends.ts';
import type { Slots } from '../../host/slots.ts';
import { POINTER_SIZE } from '../../ffi/memory.ts';

const COUNT = layout.WORKERS_START + layout.WORKER_SENDS;

/** Puts the packets of `slots` into the outbox, one send each, in the place of what was in it.
 * */
export function stage(slots: Slots, packets: readonly number[]): void {
  const { core: { view }, base } = slots;
  view.setUint32(COUNT, 0, true);
  for (const slot of packets) {
    const index = view.getUint32(COUNT, true);
    view.setUint32(COUNT, index + 1, true);
    const send = slots.core.directory(layout.DIRECTORY_SENDS) + (index * layout.SEND_STRIDE);
    const piece = slots.core.directory(layout.DIRECTORY_PIECES) + (index * IOVEC_SIZE);
    view.setUint32(send + layout.SEND_PIECES, piece, true);
    view.setUint32(send + layout.SEND_PIECE_COUNT, 1, true);
    view.setUint32(send + layout.SEND_LENGTH, slots.length(slot), true);
    view.setUint16(send + layout.SEND_PACKETS, 1, true);
    setWord(view, piece, base + slots.start(slot));
    setWord(view, piece + POINTER_SIZE, slots.length(slot));
  }
}

function setWord(view: DataView, at: number, value: number): void {
  view.setUint32(at, value >>> 0, true);
  if (POINTER_SIZE === 8) view.setUint32(at + 4, Math.floor(value / 0x1_0000_0000), true);
}
