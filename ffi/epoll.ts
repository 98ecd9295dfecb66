// Waiting for many descriptors, at a price that does not grow with them: epoll(7), level-triggered.
//
// struct epoll_event is events (u32) and data (u64). It is packed on amd64 alone, so that the data
// begin at 4 there and at 8 elsewhere.

import { check } from './errno.ts';
import * as libc from './libc.ts';
import { NativeBlock } from './memory.ts';

const DATA = process.arch === 'x64' ? 4 : 8;
const EVENT_SIZE = DATA + 8;
const EPOLLIN = 0x001;
const EPOLL_CLOEXEC = 0o2000000;
const EPOLL_CTL_ADD = 1;
const EPOLL_CTL_DEL = 2;

/** Descriptors, each with a number by which the one who waits knows it. */
export class EventSet {
  /** Its own descriptor: for who has to close it where its thread was ended. */
  readonly descriptor: number;
  readonly #capacity: number;
  readonly #events: NativeBlock;
  readonly #change = new NativeBlock(EVENT_SIZE);

  /** `capacity` is how many events one wait() tells of; the others come first in the next. */
  constructor(capacity: number) {
    this.#capacity = capacity;
    this.#events = new NativeBlock(capacity * EVENT_SIZE);
    const created = libc.result(libc.epollCreate(EPOLL_CLOEXEC));
    this.descriptor = check(created, 'epoll_create1', 'process');
  }

  /** Watches a descriptor: for something to read, and for errors. */
  add(fd: number, token: number): void {
    this.#change.setInt(0, EPOLLIN);
    this.#change.setInt(DATA, token);
    this.#control(EPOLL_CTL_ADD, fd, 'epoll_ctl(EPOLL_CTL_ADD)');
  }

  /** Stops watching a descriptor. To be called before it is closed. */
  remove(fd: number): void {
    this.#control(EPOLL_CTL_DEL, fd, 'epoll_ctl(EPOLL_CTL_DEL)');
  }

  /** Waits until something happens. Returns the number of events, 0 after the timeout or a signal.
   * -1 waits for ever, which a worker thread must not do. */
  wait(timeoutMs: number): number {
    const count = libc.epollWait(this.descriptor, this.#events.address, this.#capacity, timeoutMs);
    return Math.max(count, 0);
  }

  /** The number of the descriptor of an event that the last wait() told of. */
  token(event: number): number {
    return this.#events.getInt((event * EVENT_SIZE) + DATA);
  }

  close(): void {
    libc.close(this.descriptor);
  }

  #control(operation: number, fd: number, name: string): void {
    const result = libc.epollControl(this.descriptor, operation, fd, this.#change.address);
    check(libc.result(result), name, `descriptor ${fd}`);
  }
}
