// The outbox of one worker, as devices see it: numbers at fixed places (wasm/abi/layout.ts), no
// objects. A send is named by its index in the turn.

import {
  DIRECTORY_SENDS,
  FAMILY_IPV4,
  REMOTE_IPV4_SIZE,
  REMOTE_IPV6_SIZE,
  SEND_DEVICE,
  SEND_FLAGS,
  SEND_FLOW_HASH,
  SEND_LENGTH,
  SEND_LIMIT,
  SEND_PACKETS,
  SEND_PIECES,
  SEND_PIECE_COUNT,
  SEND_REMOTE,
  SEND_SEGMENT_SIZE,
  SEND_STRIDE,
  SEND_TOS,
  WORKERS_START,
  WORKER_SENDS,
  WORKER_STRIDE,
} from '../wasm/abi/layout.ts';
import type { Core } from '../engine/core.ts';
import { POINTER_SIZE } from '../ffi/memory.ts';

/** Bytes from one piece to the next: those of struct iovec. */
export const IOVEC_SIZE = 2 * POINTER_SIZE;

export class Sends {
  readonly #words: Uint32Array;
  readonly #halves: Uint16Array;
  readonly #bytes: Uint8Array;
  readonly #base: number;
  readonly #first: number;
  readonly #count: number;

  constructor(core: Core, worker: number, base: number) {
    this.#words = new Uint32Array(core.memory.buffer);
    this.#halves = new Uint16Array(core.memory.buffer);
    this.#bytes = core.bytes;
    this.#base = base;
    this.#first = core.directory(DIRECTORY_SENDS) + (worker * SEND_LIMIT * SEND_STRIDE);
    this.#count = WORKERS_START + (worker * WORKER_STRIDE) + WORKER_SENDS;
  }

  /** Sends of this turn. */
  get count(): number {
    return this.#words[this.#count >>> 2] ?? 0;
  }

  /** Index of the device that gets it. */
  device(send: number): number {
    return this.#halves[(this.#at(send) + SEND_DEVICE) >>> 1] ?? 0;
  }

  /** Bytes of all pieces. */
  length(send: number): number {
    return this.#words[(this.#at(send) + SEND_LENGTH) >>> 2] ?? 0;
  }

  /** Packets in it, for counters. */
  packets(send: number): number {
    return this.#halves[(this.#at(send) + SEND_PACKETS) >>> 1] ?? 0;
  }

  /** Bytes of each datagram but the last; 0 where it is one. */
  segmentSize(send: number): number {
    return this.#halves[(this.#at(send) + SEND_SEGMENT_SIZE) >>> 1] ?? 0;
  }

  /** TOS or traffic class of the outer header. */
  tos(send: number): number {
    return this.#bytes[this.#at(send) + SEND_TOS] ?? 0;
  }

  flags(send: number): number {
    return this.#bytes[this.#at(send) + SEND_FLAGS] ?? 0;
  }

  flowHash(send: number): number {
    return this.#words[(this.#at(send) + SEND_FLOW_HASH) >>> 2] ?? 0;
  }

  /** Absolute address of the outer destination, a socket address. */
  remote(send: number): number {
    return this.#base + this.#at(send) + SEND_REMOTE;
  }

  /** Bytes of that socket address. */
  remoteSize(send: number): number {
    return this.remoteFamily(send) === FAMILY_IPV4 ? REMOTE_IPV4_SIZE : REMOTE_IPV6_SIZE;
  }

  /** Address family of that socket address. */
  remoteFamily(send: number): number {
    return this.#halves[(this.#at(send) + SEND_REMOTE) >>> 1] ?? 0;
  }

  /** Absolute address of its pieces from `piece` on, an array of struct iovec. */
  iovecs(send: number, piece = 0): number {
    return this.#base + this.#firstPiece(send) + (piece * IOVEC_SIZE);
  }

  pieceCount(send: number): number {
    return this.#words[(this.#at(send) + SEND_PIECE_COUNT) >>> 2] ?? 0;
  }

  /** Absolute address of a piece's first byte. */
  pieceAddress(send: number, piece: number): number {
    return this.#base + this.pieceStart(send, piece);
  }

  /** Offset of a piece's first byte in linear memory. */
  pieceStart(send: number, piece: number): number {
    // The low words suffice: linear memory is smaller than 4 GiB.
    const low = this.#words[(this.#firstPiece(send) + (piece * IOVEC_SIZE)) >>> 2] ?? 0;
    return (low - this.#base) >>> 0;
  }

  pieceLength(send: number, piece: number): number {
    const at = this.#firstPiece(send) + (piece * IOVEC_SIZE) + POINTER_SIZE;
    return this.#words[at >>> 2] ?? 0;
  }

  /** The piece after the last of the datagram that begins with `piece`. A datagram has one piece or
   * several, and shares none. */
  datagramEnd(send: number, piece: number): number {
    const size = this.segmentSize(send);
    const count = this.pieceCount(send);
    if (size === 0) return count;
    let end = piece;
    for (let length = 0; end < count && length < size; end += 1) {
      length += this.pieceLength(send, end);
    }
    return end;
  }

  /** Bytes of the pieces from `piece` up to `end`. */
  lengthOf(send: number, piece: number, end: number): number {
    let length = 0;
    for (let at = piece; at < end; at += 1) length += this.pieceLength(send, at);
    return length;
  }

  /** Copies all its bytes together. For devices that look, not for the packet path. */
  copy(send: number): Uint8Array {
    const copy = new Uint8Array(this.length(send));
    let at = 0;
    for (let piece = 0; piece < this.pieceCount(send); piece += 1) {
      const start = this.pieceStart(send, piece);
      copy.set(this.#bytes.subarray(start, start + this.pieceLength(send, piece)), at);
      at += this.pieceLength(send, piece);
    }
    return copy;
  }

  #firstPiece(send: number): number {
    return this.#words[(this.#at(send) + SEND_PIECES) >>> 2] ?? 0;
  }

  #at(send: number): number {
    return this.#first + (send * SEND_STRIDE);
  }
}
