// What the core wants written, for tests: the sends of a turn with their pieces gathered, and the
// datagrams that a send stands for.

import * as layout from '../../wasm/abi/layout.ts';
import type { Core } from '../../engine/core.ts';
import { readRemote, sendAt, type Remote } from './core.ts';

export interface Piece {
  start: number;
  length: number;
}

export interface Send {
  device: number;
  packets: number;
  /** Bytes of each datagram but the last; 0 where it is one. */
  segmentSize: number;
  tos: number;
  flags: number;
  flowHash: number;
  /** Null for a local device. */
  remote: Remote | null;
  pieces: Piece[];
  bytes: Uint8Array;
}

/** Sends of worker 0's last turn, in order. */
export function readSends(core: Core): Send[] {
  const count = core.view.getUint32(layout.WORKERS_START + layout.WORKER_SENDS, true);
  return Array.from({ length: count }, (_, index) => readSend(core, index));
}

export function readSend(core: Core, index: number): Send {
  const { view } = core;
  const at = sendAt(core, index);
  const first = view.getUint32(at + layout.SEND_PIECES, true);
  const pieces = Array.from({ length: view.getUint32(at + layout.SEND_PIECE_COUNT, true) },
    (_, piece) => readPiece(core, first + (piece * layout.PIECE_SIZE)));
  return {
    device: view.getUint16(at + layout.SEND_DEVICE, true),
    packets: view.getUint16(at + layout.SEND_PACKETS, true),
    segmentSize: view.getUint16(at + layout.SEND_SEGMENT_SIZE, true),
    tos: view.getUint8(at + layout.SEND_TOS),
    flags: view.getUint8(at + layout.SEND_FLAGS),
    flowHash: view.getUint32(at + layout.SEND_FLOW_HASH, true),
    remote: view.getUint32(at + layout.SEND_PEER, true) === 0
      ? null
      : readRemote(core, at + layout.SEND_REMOTE),
    pieces,
    bytes: gather(core, pieces, view.getUint32(at + layout.SEND_LENGTH, true)),
  };
}

/** Tests run with linear memory at address 0. */
function readPiece({ view }: Core, at: number): Piece {
  return {
    start: Number(view.getBigUint64(at, true)), length: Number(view.getBigUint64(at + 8, true)),
  };
}

function gather({ bytes }: Core, pieces: Piece[], length: number): Uint8Array {
  const gathered = new Uint8Array(length);
  let at = 0;
  for (const piece of pieces) {
    gathered.set(bytes.subarray(piece.start, piece.start + piece.length), at);
    at += piece.length;
  }
  if (at !== length) throw new Error(`a send of ${length} bytes has pieces of ${at}`);
  return gathered;
}

/** The datagrams that the kernel cuts a send into. */
export function datagramsOf({ bytes, segmentSize }: Send): Uint8Array[] {
  if (segmentSize === 0) return [bytes];
  return Array.from({ length: Math.ceil(bytes.length / segmentSize) }, (_, index) =>
    bytes.subarray(index * segmentSize, (index + 1) * segmentSize));
}
