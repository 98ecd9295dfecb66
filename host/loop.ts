// The loop of one data worker: read a batch from the devices, run the core once over it, write the
// results (STYLE of the whole program: inhale, exhale, tick). Configuration waits for the gap
// between two turns. A turn costs what its packets and their devices cost: nothing in it grows with
// the devices that are quiet.

import { DEVICE_LIMIT } from '../engine/memory-map.ts';
import { TURN_BYTES } from './limits.ts';
import type { CaptureTap } from './capture-tap.ts';
import type { Device } from './device/device.ts';
import { EventSet } from '../ffi/epoll.ts';
import { continueBatch, recoverFault, runBatch, type OnFault } from '../engine/modules.ts';
import type { Slots } from './slots.ts';
import { DIRECTION_OUTBOUND, REASON_DEVICE_UNKNOWN } from '../wasm/abi/verdict.ts';

/** Longest wait; the worker looks after itself in between. */
export const WAIT_MS = 200;

/** What the events of the wake descriptor are known by; those of devices by their index. */
const WAKE = DEVICE_LIMIT;

interface Attached {
  index: number;
  device: Device;
  vnetSize: number;
  isReady: boolean;
  isWritten: boolean;
}

export class Loop {
  readonly #slots: Slots;
  readonly #events: EventSet;
  /** By index. */
  readonly #devices: (Attached | undefined)[] = new Array<undefined>(DEVICE_LIMIT);
  /** Devices that no descriptor speaks for. */
  readonly #unwatched: Attached[] = [];
  readonly #onLost: (index: number, errno: number) => void;
  readonly #onFault: OnFault;
  readonly #tap: CaptureTap | null;
  /** True in a turn of which somebody wants to see packets. */
  #isTapped = false;
  /** Devices with something to read, in this turn. */
  readonly #ready: Attached[] = [];
  /** Devices that were written to, in this turn. */
  readonly #written: Attached[] = [];
  #rotation = 0;

  /** `wakeFd` becomes readable when there is a command; `onLost` is told of devices that end,
   * `onFault` of modules that fail, `tap` shown packets while somebody looks at them. */
  constructor(
    slots: Slots,
    wakeFd: number,
    onLost: (index: number, errno: number) => void,
    onFault: OnFault = () => undefined,
    tap: CaptureTap | null = null,
  ) {
    this.#tap = tap;
    this.#slots = slots;
    this.#onLost = onLost;
    this.#onFault = onFault;
    this.#events = new EventSet(slots.count);
    this.#events.add(wakeFd, WAKE);
  }

  /** What a thread that is ended leaves open. */
  get descriptor(): number {
    return this.#events.descriptor;
  }

  /** Adds a device under the index that the core knows it by. It wants `vnetSize` bytes before each
   * packet. */
  attach(index: number, device: Device, vnetSize = 0): void {
    this.detach(index);
    const attached = { index, device, vnetSize, isReady: false, isWritten: false };
    for (const fd of device.descriptors) this.#events.add(fd, index);
    if (device.descriptors.length === 0) this.#unwatched.push(attached);
    this.#devices[index] = attached;
  }

  /** Takes a device out; its descriptors may be closed afterwards. */
  detach(index: number): void {
    const attached = this.#devices[index];
    if (attached === undefined) return;
    this.#devices[index] = undefined;
    for (const fd of attached.device.descriptors) this.#events.remove(fd);
    const place = this.#unwatched.indexOf(attached);
    if (place >= 0) this.#unwatched.splice(place, 1);
    attached.device.close();
  }

  /** Waits for packets or a command. Returns true when there is a command. */
  wait(timeoutMs: number): boolean {
    for (const attached of this.#ready) attached.isReady = false;
    this.#ready.length = 0;
    for (const attached of this.#unwatched) {
      if (attached.device.isPending) this.#setReady(attached);
    }
    const count = this.#events.wait(this.#ready.length > 0 ? 0 : timeoutMs);
    let isWoken = false;
    for (let event = 0; event < count; event += 1) {
      const index = this.#events.token(event);
      const attached = this.#devices[index];
      if (index === WAKE) isWoken = true;
      else if (attached !== undefined && !attached.isReady) this.#setReady(attached);
    }
    return isWoken;
  }

  /** One turn: a batch in, once through the core, the results out. Returns the packets read. */
  turn(nowMs: number): number {
    this.#isTapped = this.#tap !== null && this.#tap.begin();
    const read = this.#readBatch();
    this.#finishTurn(0, read, nowMs, runBatch);
    if (this.#isTapped) this.#tap?.end();
    return read;
  }

  /** Ends the turn in which an earlier process was killed, or, in this one, an earlier thread that
   * did not come back from a module: what it had read is not lost. The thread's turn goes on where
   * it was, the process's from the packets as they came. */
  resume(nowMs: number): void {
    const { core, worker } = this.#slots;
    const place = recoverFault(core, worker, 'timeout');
    if (place >= 0) {
      this.#onFault({ place, kind: 'timeout', message: 'it did not come back' });
      const [first, end] = this.#slots.turnInHand();
      this.#finishTurn(first, end, nowMs, continueBatch);
      return;
    }
    const [first, end] = this.#slots.takeTurn();
    if (first < end) this.#finishTurn(first, end, nowMs, runBatch);
  }

  /** Runs the core over the packets from `done` to before `read`, and writes the results. `start`
   * is how it runs over the first of them. */
  #finishTurn(done: number, read: number, nowMs: number, start: typeof runBatch): void {
    const slots = this.#slots;
    if (read > 0) slots.beginTurn();
    // Also a turn without packets: the core sweeps flows that have expired.
    let next = done;
    let run = start;
    do {
      next += run(slots.core, slots.first + next, read - next, nowMs, this.#onFault);
      run = runBatch;
      if (this.#isTapped) this.#tap?.dropped();
      this.#writeBatch();
      if (read > 0) slots.noteDone(next);
    } while (next < read);
    if (read > 0) slots.endTurn();
  }

  /** Lets go of what the loop itself holds; its devices are not touched. */
  close(): void {
    this.#events.close();
  }

  #setReady(attached: Attached): void {
    attached.isReady = true;
    this.#ready.push(attached);
  }

  /** Fills slots from the ready devices, each with a fair share of what is left of slots and of
   * bytes, a different one first in every turn. */
  #readBatch(): number {
    const ready = this.#ready;
    const bytes = Math.ceil(TURN_BYTES / Math.max(ready.length, 1));
    let read = 0;
    this.#rotation += 1;
    for (let place = 0; place < ready.length; place += 1) {
      const attached = ready[(place + this.#rotation) % ready.length];
      // A command since wait() may have taken the device back.
      if (attached === undefined || this.#devices[attached.index] !== attached) continue;
      const share = Math.ceil((this.#slots.count - read) / (ready.length - place));
      if (share === 0) continue;
      const count = attached.device.read(this.#slots.first + read, share, bytes);
      if (count < 0) {
        this.#lose(attached, count);
        continue;
      }
      if (this.#isTapped) this.#tap?.read(attached.index, this.#slots.first + read, count);
      read += count;
    }
    return read;
  }

  #writeBatch(): void {
    const { sends } = this.#slots;
    const count = sends.count;
    for (let send = 0; send < count; send += 1) {
      const attached = this.#devices[sends.device(send)];
      if (attached === undefined) {
        const [length, packets] = [sends.length(send), sends.packets(send)];
        this.#slots.countDrop(DIRECTION_OUTBOUND, REASON_DEVICE_UNKNOWN, length, packets);
      } else {
        if (this.#isTapped) this.#tap?.written(attached.index, send, attached.vnetSize);
        attached.device.write(send);
        if (!attached.isWritten) this.#written.push(attached);
        attached.isWritten = true;
      }
    }
    for (const attached of this.#written) {
      attached.isWritten = false;
      const failure = attached.device.flush();
      if (failure < 0) this.#lose(attached, failure);
    }
    this.#written.length = 0;
  }

  #lose(attached: Attached, errno: number): void {
    this.detach(attached.index);
    this.#onLost(attached.index, -errno);
  }
}
