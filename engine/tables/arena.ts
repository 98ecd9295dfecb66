// Blocks of any size in a stretch of linear memory that workers read. What is kept about them is
// here, not there.
//
// Theory of operation. The stretch is cut into blocks in use and free pieces; two free pieces never
// touch. Pieces lie in bins by size, eight to each power of two, so that the first piece of a
// larger bin fits (two-level segregated fit, Masmano et al. 2004). A block that workers may read is
// retired: it is free once each of them has left the turn it was in.

import type { Core } from '../core.ts';
import { hasPassed, workerTurns } from './grace.ts';

const GRANULE = 8;
const EXACT_BINS = 16;
const BIN_COUNT = 16 + (28 * 8);
/** Pieces looked at in the bin whose pieces may be too small. */
const TRIES = 8;

interface Retired {
  blocks: number[];
  turns: number[];
}

export class Arena {
  readonly limit: number;
  #core: Core;
  #used = 0;
  #sizes = new Map<number, number>();
  #pieces = new Map<number, number>();
  #pieceEnds = new Map<number, number>();
  #bins = Array.from({ length: BIN_COUNT }, () => new Set<number>());
  #retired: Retired[] = [];

  /** Precondition: `start` is a multiple of 8. */
  constructor(core: Core, start: number, bytes: number) {
    this.#core = core;
    this.limit = Math.floor(bytes / GRANULE) * GRANULE;
    if (this.limit > 0) this.#addPiece(start, this.limit);
  }

  /** Bytes of blocks in use, those in their grace period included. */
  get used(): number {
    return this.#used;
  }

  /** Blocks in use, those in their grace period included. */
  get count(): number {
    return this.#sizes.size;
  }

  /** Address of a block, a multiple of 8, or 0 where none is large enough. */
  take(bytes: number): number {
    const size = Math.max(Math.ceil(bytes / GRANULE), 1) * GRANULE;
    const start = this.#find(size) || (this.reclaim() ? this.#find(size) : 0);
    if (start === 0) return 0;
    const found = this.#pieces.get(start) ?? 0;
    this.#removePiece(start, found);
    if (found > size) this.#addPiece(start + size, found - size);
    this.#sizes.set(start, size);
    this.#used += size;
    return start;
  }

  /** Frees a block at once. Precondition: nothing ever led to it. */
  free(block: number): void {
    const size = this.#sizes.get(block);
    if (size === undefined) throw new Error(`free block ${block}: it is not in use`);
    this.#sizes.delete(block);
    this.#used -= size;
    let [start, end] = [block, block + size];
    const before = this.#pieceEnds.get(start);
    if (before !== undefined) {
      this.#removePiece(before, start - before);
      start = before;
    }
    const after = this.#pieces.get(end);
    if (after !== undefined) {
      this.#removePiece(end, after);
      end += after;
    }
    this.#addPiece(start, end - start);
  }

  /** Gives blocks back that nothing leads to any more; they are free when no worker reads them. */
  retire(blocks: number[]): void {
    if (blocks.length > 0) this.#retired.push({ blocks, turns: workerTurns(this.#core) });
    this.reclaim();
  }

  /** Frees what has waited long enough. True if that was anything. */
  reclaim(): boolean {
    const now = workerTurns(this.#core);
    const ready = this.#retired.filter(({ turns }) => hasPassed(turns, now));
    if (ready.length === 0) return false;
    this.#retired = this.#retired.filter(({ turns }) => !hasPassed(turns, now));
    for (const { blocks } of ready) {
      for (const block of blocks) this.free(block);
    }
    return true;
  }

  /** Start of a piece that is large enough, or 0. */
  #find(size: number): number {
    const first = binOf(size);
    let tries = TRIES;
    for (const start of this.#bins[first] ?? []) {
      if ((this.#pieces.get(start) ?? 0) >= size) return start;
      tries -= 1;
      if (tries === 0) break;
    }
    for (let bin = first + 1; bin < BIN_COUNT; bin += 1) {
      for (const start of this.#bins[bin] ?? []) return start;
    }
    return 0;
  }

  #addPiece(start: number, size: number): void {
    this.#pieces.set(start, size);
    this.#pieceEnds.set(start + size, start);
    this.#bins[binOf(size)]?.add(start);
  }

  #removePiece(start: number, size: number): void {
    this.#pieces.delete(start);
    this.#pieceEnds.delete(start + size);
    this.#bins[binOf(size)]?.delete(start);
  }
}

/** Bins are exact below 16 granules, then eight to a power of two. */
function binOf(size: number): number {
  const granules = size / GRANULE;
  if (granules < EXACT_BINS) return granules;
  const exponent = 31 - Math.clz32(granules);
  return EXACT_BINS + ((exponent - 4) * 8) + ((granules >>> (exponent - 3)) & 7);
}
