// TUN and TAP: one packet or frame for each system call. The kernel keeps a queue in front of it
// and tells by EBADFD that the interface was deleted.

import { PACKET_CAPACITY } from '../../wasm/abi/layout.ts';
import {
  DIRECTION_INBOUND,
  REASON_DEVICE_ERROR,
  REASON_DEVICE_FULL,
} from '../../wasm/abi/verdict.ts';
import { ERRNO } from '../../ffi/errno.ts';
import { readAt, writeAt } from '../../ffi/file.ts';
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
  #failure = 0;

  constructor(slots: Slots, index: number, name: string, fd: number) {
    this.#slots = slots;
    this.#index = index;
    this.name = name;
    this.#fd = fd;
    this.descriptors = [fd];
  }

  read(first: number, count: number): number {
    for (let done = 0; done < count; done += 1) {
      const length = readAt(this.#fd, this.#slots.room(first + done), PACKET_CAPACITY);
      if (length < 0) return done > 0 || isPassing(length) ? done : length;
      this.#slots.fill(first + done, this.#index, length);
    }
    return count;
  }

  write(send: number): void {
    const { sends } = this.#slots;
    const length = sends.pieceLength(send, 0);
    const written = writeAt(this.#fd, sends.pieceAddress(send, 0), length);
    if (written >= 0) return;
    const isFull = written === -ERRNO.EAGAIN || written === -ERRNO.ENOBUFS;
    const reason = isFull ? REASON_DEVICE_FULL : REASON_DEVICE_ERROR;
    this.#slots.countDrop(DIRECTION_INBOUND, reason, length);
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
