// TUN and TAP: one packet or frame for each system call, or one super-packet behind a vnet header
// (linux/virtio_net.h) where the device has offloads. The kernel keeps a queue in front of it and
// tells by EBADFD that the interface was deleted.

import { PACKET_CAPACITY } from '../../wasm/abi/layout.ts';
import {
  DIRECTION_INBOUND,
  REASON_DEVICE_ERROR,
  REASON_DEVICE_FULL,
} from '../../wasm/abi/verdict.ts';
import { ERRNO } from '../../ffi/errno.ts';
import { readAt, writeAt, writevAt } from '../../ffi/file.ts';
import { TURN_BYTES } from '../limits.ts';
import type { Slots } from '../slots.ts';
import type { Device } from './device.ts';

/** A TUN or TAP whose descriptor belongs to someone else. */
export class TunDevice implements Device {
  readonly name: string;
  readonly descriptors: readonly number[];
  readonly isPending = false;
  readonly #slots: Slots;
  readonly #index: number;
  readonly #fd: number;
  readonly #vnetSize: number;
  #failure = 0;

  /** `vnetSize` is the size of the vnet header before each packet, 0 for none. */
  constructor(slots: Slots, index: number, name: string, fd: number, vnetSize = 0) {
    this.#slots = slots;
    this.#index = index;
    this.name = name;
    this.#fd = fd;
    this.#vnetSize = vnetSize;
    this.descriptors = [fd];
  }

  read(first: number, count: number, bytes = TURN_BYTES): number {
    const size = this.#vnetSize;
    let total = 0;
    let done = 0;
    for (; done < count && total < bytes; done += 1) {
      // The packet itself begins where packets always do.
      const room = this.#slots.room(first + done) - size;
      this.#slots.offer(first + done, this.#index, 1);
      const length = readAt(this.#fd, room, PACKET_CAPACITY + size);
      if (length < 0) return done > 0 || isPassing(length) ? done : length;
      this.#slots.fill(first + done, this.#index, Math.max(length - size, 0));
      total += length;
    }
    return done;
  }

  write(send: number): void {
    const { sends } = this.#slots;
    const pieces = sends.pieceCount(send);
    const written = pieces === 1
      ? writeAt(this.#fd, sends.pieceAddress(send, 0), sends.pieceLength(send, 0))
      : writevAt(this.#fd, sends.iovecs(send), pieces);
    if (written >= 0) return;
    const isFull = written === -ERRNO.EAGAIN || written === -ERRNO.ENOBUFS;
    const reason = isFull ? REASON_DEVICE_FULL : REASON_DEVICE_ERROR;
    const bytes = sends.length(send) - this.#vnetSize;
    this.#slots.countDrop(DIRECTION_INBOUND, reason, bytes, sends.packets(send));
    if (written === -ERRNO.EBADFD) this.#failure = written;
  }

  flush(): number {
    return this.#failure;
  }

  close(): void {}
}

/** Nothing to read, a signal, or an interface that is down: not the end of the device. */
function isPassing(result: number): boolean {
  return result === -ERRNO.EAGAIN || result === -ERRNO.EINTR || result === -ERRNO.EIO;
}
