// The loop of one data worker: read a batch from the devices, run the core once over it, write the
// results (STYLE of the whole program: inhale, exhale, tick). Configuration waits for the gap
// between two turns.

import { DEVICE_LIMIT_PER_WORKER } from './limits.ts';
import type { Device } from './device/device.ts';
import { PollSet, POLLERR, POLLHUP, POLLIN, POLLNVAL } from '../ffi/poll.ts';
import type { Slots } from './slots.ts';
import { DIRECTION_OUTBOUND, REASON_DEVICE_UNKNOWN } from '../wasm/abi/verdict.ts';

/** Longest wait; the worker looks after itself in between. */
export const WAIT_MS = 200;

interface Attached {
  index: number;
  device: Device;
  /** Places in the poll set. */
  places: number[];
}

export class Loop {
  readonly #slots: Slots;
  readonly #poll = new PollSet(DEVICE_LIMIT_PER_WORKER + 1);
  readonly #devices = new Map<number, Attached>();
  readonly #freePlaces: number[] = [];
  readonly #onLost: (index: number, errno: number) => void;
  /** Devices with something to read, in this turn. */
  readonly #ready: Attached[] = [];
  #nextPlace = 1;
  #rotation = 0;

  /** `wakeFd` becomes readable when there is a command; `onLost` is told of devices that end. */
  constructor(slots: Slots, wakeFd: number, onLost: (index: number, errno: number) => void) {
    this.#slots = slots;
    this.#onLost = onLost;
    this.#poll.set(0, wakeFd, POLLIN);
  }

  /** Adds a device under the index that the core knows it by. */
  attach(index: number, device: Device): void {
    this.detach(index);
    const places = device.descriptors.map((fd) => {
      const place = this.#freePlaces.pop() ?? this.#nextPlace++;
      this.#poll.set(place, fd, POLLIN);
      return place;
    });
    this.#devices.set(index, { index, device, places });
  }

  /** Takes a device out; its descriptors may be closed afterwards. */
  detach(index: number): void {
    const attached = this.#devices.get(index);
    if (attached === undefined) return;
    this.#devices.delete(index);
    for (const place of attached.places) {
      this.#poll.remove(place);
      this.#freePlaces.push(place);
    }
    attached.device.close();
  }

  /** Waits for packets or a command. Returns true when there is a command. */
  wait(timeoutMs: number): boolean {
    const isPending = [...this.#devices.values()].some(({ device }) => device.isPending);
    this.#poll.wait(isPending ? 0 : timeoutMs);
    this.#ready.length = 0;
    for (const attached of this.#devices.values()) {
      if (attached.device.isPending || this.#isReadable(attached)) this.#ready.push(attached);
    }
    return this.#poll.revents(0) !== 0;
  }

  /** One turn: a batch in, once through the core, the results out. Returns the packets read. */
  turn(nowMs: number): number {
    const read = this.#readBatch();
    let done = 0;
    // Also a turn without packets: the core sweeps flows that have expired.
    do {
      const first = this.#slots.first + done;
      done += this.#slots.core.exports.processBatch(first, read - done, nowMs);
      this.#writeBatch();
    } while (done < read);
    return read;
  }

  #isReadable({ places }: Attached): boolean {
    for (const place of places) {
      if ((this.#poll.revents(place) & (POLLIN | POLLERR | POLLHUP | POLLNVAL)) !== 0) return true;
    }
    return false;
  }

  /** Fills slots from the ready devices, each with a fair share of what is left, a different one
   * first in every turn. */
  #readBatch(): number {
    const ready = this.#ready;
    let read = 0;
    this.#rotation += 1;
    for (let place = 0; place < ready.length && read < this.#slots.count; place += 1) {
      const attached = ready[(place + this.#rotation) % ready.length];
      // A command since wait() may have taken the device back.
      if (attached === undefined || this.#devices.get(attached.index) !== attached) continue;
      const share = Math.ceil((this.#slots.count - read) / (ready.length - place));
      const count = attached.device.read(this.#slots.first + read, share);
      if (count < 0) this.#lose(attached, count);
      else read += count;
    }
    return read;
  }

  #writeBatch(): void {
    const { sends } = this.#slots;
    if (sends.count === 0) return;
    for (let send = 0; send < sends.count; send += 1) {
      const attached = this.#devices.get(sends.device(send));
      if (attached === undefined) {
        const [length, packets] = [sends.length(send), sends.packets(send)];
        this.#slots.countDrop(DIRECTION_OUTBOUND, REASON_DEVICE_UNKNOWN, length, packets);
      } else {
        attached.device.write(send);
      }
    }
    for (const attached of this.#devices.values()) {
      const failure = attached.device.flush();
      if (failure < 0) this.#lose(attached, failure);
    }
  }

  #lose(attached: Attached, errno: number): void {
    this.detach(attached.index);
    this.#onLost(attached.index, -errno);
  }
}
