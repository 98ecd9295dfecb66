// The outbox of one worker, as devices see it: numbers at fixed places (wasm/abi/layout.ts), no
// objects. A send is named by its index in the turn.

import {
  DIRECTORY_PIECES,
  DIRECTORY_SENDS,
  FAMILY_IPV4,
  PIECE_LIMIT,
  PIECE_SIZE,
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
  WORKER_PIECES,
  WORKER_SENDS,
  WORKER_STRIDE,
} from '../wasm/abi/layout.ts';
import type { Core } from '../engine/core.ts';
import { POINTER_SIZE } from '../ffi/memory.ts';

/** Bytes from one piece to the next: those of struct iovec. */
export const IOVEC_SIZE = 2 * POINTER_SIZE;

/** One datagram of a send: its first piece, the one after its last, and its bytes. */
export interface Datagram {
  piece: number;
  end: number;
  length: number;
}

export class Sends {
  readonly #words: Uint32Array;
  readonly #halves: Uint16Array;
  readonly #bytes: Uint8Array;
  readonly #base: number;
  readonly #first: number;
  readonly #count: number;
  readonly #pieces: number;
  readonly #piecesUsed: number;

  constructor(core: Core, worker: number, base: number) {
    this.#words = new Uint32Array(core.memory.buffer);
    this.#halves = new Uint16Array(core.memory.buffer);
    this.#bytes = core.bytes;
    this.#base = base;
    this.#first = core.directory(DIRECTORY_SENDS) + (worker * SEND_LIMIT * SEND_STRIDE);
    this.#count = WORKERS_START + (worker * WORKER_STRIDE) + WORKER_SENDS;
    this.#pieces = core.directory(DIRECTORY_PIECES) + (worker * PIECE_LIMIT * PIECE_SIZE);
    this.#piecesUsed = WORKERS_START + (worker * WORKER_STRIDE) + WORKER_PIECES;
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

  /** The datagrams of a send. For devices that look, not for the packet path. */
  datagrams(send: number): Datagram[] {
    const found: Datagram[] = [];
    let end = 0;
    for (let piece = 0; piece < this.pieceCount(send); piece = end) {
      end = this.datagramEnd(send, piece);
      found.push({ piece, end, length: this.lengthOf(send, piece, end) });
    }
    return found;
  }

  /** Lets a send be of these of its datagrams, in this order, some of them more than once; none but
   * the last may be shorter than the first. Leaves it as it was where there is no room. */
  rearrange(send: number, datagrams: readonly Datagram[]): void {
    const pieces = datagrams.reduce((sum, { piece, end }) => sum + end - piece, 0);
    const used = this.#words[this.#piecesUsed >>> 2] ?? 0;
    if (used + pieces > PIECE_LIMIT) return;
    this.#words[this.#piecesUsed >>> 2] = used + pieces;
    const from = this.#firstPiece(send);
    const to = this.#pieces + (used * IOVEC_SIZE);
    let next = to;
    for (const { piece, end } of datagrams) {
      this.#bytes.copyWithin(next, from + (piece * IOVEC_SIZE), from + (end * IOVEC_SIZE));
      next += (end - piece) * IOVEC_SIZE;
    }
    const at = this.#at(send);
    this.#words[(at + SEND_PIECES) >>> 2] = to;
    this.#words[(at + SEND_PIECE_COUNT) >>> 2] = pieces;
    this.#words[(at + SEND_LENGTH) >>> 2] = this.lengthOf(send, 0, pieces);
    this.#halves[(at + SEND_PACKETS) >>> 1] = datagrams.length;
    if (datagrams.length === 1) this.#halves[(at + SEND_SEGMENT_SIZE) >>> 1] = 0;
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
