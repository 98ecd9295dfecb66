// A device without a kernel: what is written is kept, what was offered is read. Tests and
// benchmarks run the whole loop on it.

import { PACKET_CAPACITY } from '../../wasm/abi/layout.ts';
import type { Slots } from '../slots.ts';
import type { Device } from './device.ts';

export class LoopbackDevice implements Device {
  readonly name: string;
  readonly descriptors: readonly number[] = [];
  /** What was written, oldest first. */
  readonly written: Uint8Array[] = [];
  readonly #slots: Slots;
  readonly #index: number;
  readonly #offered: { packet: Uint8Array; source: Uint8Array; segmentSize: number }[] = [];

  constructor(slots: Slots, index: number, name: string) {
    this.#slots = slots;
    this.#index = index;
    this.name = name;
  }

  get isPending(): boolean {
    return this.#offered.length > 0;
  }

  /** Puts a packet where the next read() finds it; `source` is a remote, for underlay devices, and
   * `segmentSize` that of datagrams that the kernel would have joined. */
  offer(packet: Uint8Array, source: Uint8Array = new Uint8Array(0), segmentSize = 0): void {
    if (packet.length > PACKET_CAPACITY) throw new RangeError('packet larger than a slot');
    this.#offered.push({ packet, source, segmentSize });
  }

  read(first: number, count: number): number {
    const taken = this.#offered.splice(0, count);
    const { core, base } = this.#slots;
    taken.forEach(({ packet, source, segmentSize }, done) => {
      core.bytes.set(packet, this.#slots.room(first + done) - base);
      core.bytes.set(source, this.#slots.source(first + done) - base);
      this.#slots.fill(first + done, this.#index, packet.length, segmentSize);
    });
    return taken.length;
  }

  write(send: number): void {
    this.written.push(this.#slots.sends.copy(send));
  }

  flush(): number {
    return 0;
  }

  close(): void {}
}
