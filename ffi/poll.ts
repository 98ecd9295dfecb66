// Waiting for descriptors: one poll() over a fixed table of struct pollfd.

import { ERRNO } from './errno.ts';
import * as libc from './libc.ts';
import { NativeBlock } from './memory.ts';

export const POLLIN = 0x001;
export const POLLOUT = 0x004;
export const POLLERR = 0x008;
export const POLLHUP = 0x010;
export const POLLNVAL = 0x020;

const POLLFD_SIZE = 8;
const POLLFD_EVENTS = 4;
const POLLFD_REVENTS = 6;
const NO_FD = -1;

/** A fixed number of places, each empty or watching one descriptor. */
export class PollSet {
  readonly capacity: number;
  readonly #block: NativeBlock;
  readonly #view: DataView;
  #used = 0;

  constructor(capacity: number) {
    this.capacity = capacity;
    this.#block = new NativeBlock(capacity * POLLFD_SIZE);
    this.#view = this.#block.view;
    for (let i = 0; i < capacity; i++) this.#block.setInt(i * POLLFD_SIZE, NO_FD);
  }

  /** Watches `fd` at a place; POLLERR, POLLHUP and POLLNVAL are always reported. */
  set(index: number, fd: number, events: number): void {
    if (index < 0 || index >= this.capacity) throw new RangeError(`no place ${index} in PollSet`);
    const entry = index * POLLFD_SIZE;
    this.#view.setInt32(entry, fd, true);
    this.#view.setUint16(entry + POLLFD_EVENTS, events, true);
    this.#view.setUint16(entry + POLLFD_REVENTS, 0, true);
    if (index >= this.#used) this.#used = index + 1;
  }

  /** Empties a place. The kernel skips it. */
  remove(index: number): void {
    this.set(index, NO_FD, 0);
  }

  /**
   * Waits until something happens. Returns the number of places with events, 0 after the timeout
   * or a signal, or a negative errno. -1 waits for ever, which a worker thread must not do.
   */
  wait(timeoutMs: number): number {
    const count = libc.poll(this.#block.address, this.#used, timeoutMs);
    if (count >= 0) return count;
    const errno = libc.negativeErrno();
    if (errno !== -ERRNO.EINTR) return errno;
    for (let i = 0; i < this.#used; i++) {
      this.#view.setUint16(i * POLLFD_SIZE + POLLFD_REVENTS, 0, true);
    }
    return 0;
  }

  /** Events that the last wait() found at a place. */
  revents(index: number): number {
    return this.#view.getUint16(index * POLLFD_SIZE + POLLFD_REVENTS, true);
  }
}

const single = new PollSet(1);

/** Waits for one descriptor. Returns its events, 0 after the timeout, or a negative errno. */
export function waitFor(fd: number, events: number, timeoutMs: number): number {
  single.set(0, fd, events);
  const count = single.wait(timeoutMs);
  return count > 0 ? single.revents(0) : count;
}
