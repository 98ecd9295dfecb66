// Descriptors: open, read, write, close, event counters, locks.
//
// readAt(), writeAt() and writevAt() are the packet path of a TUN: they never throw and allocate
// nothing.

import { close, constants } from 'node:fs';
import { promisify } from 'node:util';
import { check, ERRNO } from './errno.ts';
import * as libc from './libc.ts';
import { NativeBlock } from './memory.ts';

const O_CLOEXEC = 0o2000000;
const O_NONBLOCK = constants.O_NONBLOCK;
const EFD_CLOEXEC = O_CLOEXEC;
const EFD_NONBLOCK = O_NONBLOCK;
const F_SETFD = 2;
const FD_CLOEXEC = 1;
const F_GETFL = 3;
const F_SETFL = 4;
const LOCK_EX = 2;
const LOCK_NB = 4;
const EVENT_SIZE = 8;

const one = new NativeBlock(EVENT_SIZE);
one.setInt(0, 1);
const drained = new NativeBlock(EVENT_SIZE);

/** Reads up to `length` bytes to an absolute address. Returns the count or a negative errno. */
export function readAt(fd: number, address: number, length: number): number {
  const count = libc.read(fd, address, length);
  return count < 0 ? libc.negativeErrno() : count;
}

/** Writes `length` bytes from an absolute address. Returns the count or a negative errno. */
export function writeAt(fd: number, address: number, length: number): number {
  const count = libc.write(fd, address, length);
  return count < 0 ? libc.negativeErrno() : count;
}

/**
 * Writes `count` pieces in one call, described by an array of struct iovec at an absolute address.
 * Returns the bytes written or a negative errno.
 */
export function writevAt(fd: number, iovecs: number, count: number): number {
  const written = libc.writev(fd, iovecs, count);
  return written < 0 ? libc.negativeErrno() : written;
}

/** Opens a file, close-on-exec; `flags` are those of `fs.constants` (O_RDWR, O_CREAT, ...). */
export function openFile(path: string, flags: number): number {
  return check(libc.result(libc.open(path, flags | O_CLOEXEC, 0o600)), 'open', path);
}

/** Closes a descriptor. One that is no longer open is an error of the program and throws. */
export function closeFd(fd: number): void {
  const result = libc.result(libc.close(fd));
  if (result !== -ERRNO.EINTR) check(result, 'close', `descriptor ${fd}`);
}

/**
 * Closes a descriptor on a thread of libuv's pool. For the last descriptor of a TUN, whose close
 * deletes the interface and takes the kernel some 25 ms, which no packet should wait for.
 */
export const closeFdAsync: (fd: number) => Promise<void> = promisify(close);

/** Makes reads and writes return -EAGAIN instead of waiting. */
export function setNonBlocking(fd: number): void {
  const object = `descriptor ${fd}`;
  const flags = check(libc.result(libc.fcntl(fd, F_GETFL, 0)), 'fcntl(F_GETFL)', object);
  check(libc.result(libc.fcntl(fd, F_SETFL, flags | O_NONBLOCK)), 'fcntl(F_SETFL)', object);
}

/** Keeps child processes from inheriting a descriptor that we have inherited ourselves. */
export function setCloseOnExec(fd: number): void {
  const result = libc.result(libc.fcntl(fd, F_SETFD, FD_CLOEXEC));
  check(result, 'fcntl(F_SETFD)', `descriptor ${fd}`);
}

/** Creates an event counter that wakes a poll(); any thread of the process may signal it. */
export function openEventFd(): number {
  return check(libc.result(libc.eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)), 'eventfd', 'process');
}

/** Makes an event descriptor readable. A counter that is already full counts as signalled. */
export function signalEventFd(fd: number): void {
  const count = writeAt(fd, one.address, EVENT_SIZE);
  if (count !== -ERRNO.EAGAIN) check(count, 'write', `event descriptor ${fd}`);
}

/** Makes an event descriptor quiet again. Returns true if it had been signalled. */
export function drainEventFd(fd: number): boolean {
  return readAt(fd, drained.address, EVENT_SIZE) === EVENT_SIZE;
}

/**
 * Locks a file for this process, creating it if needed. Returns the descriptor that holds the
 * lock until it is closed (or the process ends), or null when somebody else holds it.
 */
export function lockFile(path: string): number | null {
  const fd = openFile(path, constants.O_RDWR | constants.O_CREAT);
  const locked = libc.result(libc.flock(fd, LOCK_EX | LOCK_NB));
  if (locked === 0) return fd;
  closeFd(fd);
  if (locked === -ERRNO.EAGAIN) return null;
  check(locked, 'flock', path);
  return null;
}
