// Damages what another device sends, from a seed, so that a failure can be had again: drops,
// flipped bits, packets twice, packets out of order. In a train of datagrams each is a packet by
// itself; the train then holds what is left. `crashAfter` ends the worker.

import { DIRECTION_OUTBOUND, REASON_FAULT } from '../../wasm/abi/verdict.ts';
import type { Datagram } from '../sends.ts';
import type { Slots } from '../slots.ts';
import type { Device } from './device.ts';

/** Probabilities are 0 to 1 per packet. */
export interface FaultOptions {
  seed: number;
  drop: number;
  corrupt: number;
  duplicate: number;
  reorder: number;
  /** Throws at this packet; 0 never. */
  crashAfter: number;
}

export class FaultDevice implements Device {
  readonly name: string;
  readonly descriptors: readonly number[];
  readonly #inner: Device;
  readonly #slots: Slots;
  readonly #options: FaultOptions;
  #state: number;
  #packets = 0;
  #held = -1;

  constructor(inner: Device, slots: Slots, options: FaultOptions) {
    this.#inner = inner;
    this.#slots = slots;
    this.#options = options;
    this.name = inner.name;
    this.descriptors = inner.descriptors;
    this.#state = (options.seed | 0) || 1;
  }

  get isPending(): boolean {
    return this.#inner.isPending;
  }

  read(first: number, count: number): number {
    return this.#inner.read(first, count);
  }

  write(send: number): void {
    const { sends } = this.#slots;
    const isTrain = sends.segmentSize(send) !== 0;
    const left = sends.datagrams(send).flatMap((datagram) => this.#damage(send, datagram));
    if (left.length === 0) return;
    if (isTrain) {
      sends.rearrange(send, this.#reordered(left));
      this.#inner.write(send);
      return;
    }
    if (this.#held < 0 && this.#roll(this.#options.reorder)) {
      this.#held = send;
      return;
    }
    for (let time = 0; time < left.length; time += 1) this.#inner.write(send);
    this.#release();
  }

  flush(): number {
    this.#release();
    return this.#inner.flush();
  }

  close(): void {
    this.#inner.close();
  }

  #release(): void {
    if (this.#held < 0) return;
    this.#inner.write(this.#held);
    this.#held = -1;
  }

  /** What becomes of a datagram: none, one or two of it. */
  #damage(send: number, datagram: Datagram): Datagram[] {
    const { drop, corrupt, duplicate, crashAfter } = this.#options;
    const { sends } = this.#slots;
    this.#packets += 1;
    if (this.#packets === crashAfter) {
      throw new Error(`fault device on ${this.name}: crash at packet ${this.#packets}`);
    }
    if (this.#roll(drop)) {
      const packets = sends.segmentSize(send) === 0 ? sends.packets(send) : 1;
      this.#slots.countDrop(DIRECTION_OUTBOUND, REASON_FAULT, datagram.length, packets);
      return [];
    }
    if (this.#roll(corrupt)) this.#flipBit(send, datagram);
    // A train has room for a shorter datagram at its end alone.
    const isShort = datagram.length < sends.segmentSize(send);
    return this.#roll(duplicate) && !isShort ? [datagram, datagram] : [datagram];
  }

  /** A train with some of its datagrams behind the next ones; the last keeps its place. */
  #reordered(train: Datagram[]): Datagram[] {
    const last = train.pop();
    for (let at = 1; at < train.length; at += 1) {
      if (!this.#roll(this.#options.reorder)) continue;
      train.splice(at - 1, 2, ...train.slice(at - 1, at + 1).reverse());
      at += 1;
    }
    return last === undefined ? train : [...train, last];
  }

  #flipBit(send: number, { piece: first, end }: Datagram): void {
    const { core: { bytes }, sends } = this.#slots;
    const piece = first + (this.#next() % (end - first));
    const at = sends.pieceStart(send, piece) + (this.#next() % sends.pieceLength(send, piece));
    bytes[at] = (bytes[at] ?? 0) ^ (1 << (this.#next() % 8));
  }

  #roll(probability: number): boolean {
    return probability > 0 && this.#next() < probability * 0x1_0000_0000;
  }

  /** xorshift32 (Marsaglia 2003): small, and the same everywhere. */
  #next(): number {
    let state = this.#state;
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    this.#state = state;
    return state >>> 0;
  }
}
