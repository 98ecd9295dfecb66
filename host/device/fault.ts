// Damages what another device sends, from a seed, so that a failure can be had again: drops,
// flipped bits, packets twice, packets out of order. `crashAfter` ends the worker.

import { DIRECTION_OUTBOUND, REASON_FAULT } from '../../wasm/abi/verdict.ts';
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
    this.#packets += 1;
    if (this.#packets === this.#options.crashAfter) {
      throw new Error(`fault device on ${this.name}: crash at packet ${this.#packets}`);
    }
    if (this.#roll(this.#options.drop)) {
      const { sends } = this.#slots;
      const [bytes, packets] = [sends.length(send), sends.packets(send)];
      this.#slots.countDrop(DIRECTION_OUTBOUND, REASON_FAULT, bytes, packets);
      return;
    }
    if (this.#roll(this.#options.corrupt)) this.#flipBit(send);
    if (this.#held < 0 && this.#roll(this.#options.reorder)) {
      this.#held = send;
      return;
    }
    this.#inner.write(send);
    if (this.#roll(this.#options.duplicate)) this.#inner.write(send);
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

  #flipBit(send: number): void {
    const { core: { bytes }, sends } = this.#slots;
    const piece = this.#next() % sends.pieceCount(send);
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
