// The C library's functions, declared once. Nothing outside ffi/ imports this file.
//
// Pointers are numbers (absolute addresses, below 2^53) and results are `int`, so that a call
// costs no BigInt and no allocation of ours. The functions come from the C library that Node.js
// itself is linked to, whichever it is. `open`, `fcntl` and `ioctl` are variadic in C; on all our
// targets an integer argument travels the same way in both kinds of call.

import koffi from 'koffi';

const program = koffi.load(null);

/** Bytes in a pointer, and in a size_t: 8, or 4 on armhf. */
export const POINTER_SIZE: number = koffi.sizeof('void *');

type Ints = (...args: number[]) => number;

const INT = 'int';
const UINT = 'uint';
const POINTER = 'uintptr_t';
const SIZE = 'size_t';
const TEXT = 'str';

function define<F>(name: string, types: string[]): F {
  return program.func(name, INT, types) as F;
}

export const open = define<(path: string, flags: number, mode: number) => number>(
  'open', [TEXT, INT, UINT]);
export const close = define<Ints>('close', [INT]);
export const read = define<(fd: number, address: number, length: number) => number>(
  'read', [INT, POINTER, SIZE]);
export const write = define<(fd: number, address: number, length: number) => number>(
  'write', [INT, POINTER, SIZE]);
export const writev = define<Ints>('writev', [INT, POINTER, INT]);
export const fcntl = define<Ints>('fcntl', [INT, INT, INT]);
export const flock = define<Ints>('flock', [INT, INT]);
export const eventfd = define<Ints>('eventfd', [UINT, INT]);
export const poll = define<(fds: number, count: number, timeoutMs: number) => number>(
  'poll', [POINTER, 'ulong', INT]);
export const epollCreate = define<Ints>('epoll_create1', [INT]);
export const epollControl = define<Ints>('epoll_ctl', [INT, INT, INT, POINTER]);
export const epollWait = define<Ints>('epoll_wait', [INT, POINTER, INT, INT]);
/** ioctl with a pointer argument, or an integer one: both are one register wide. */
export const ioctl = define<(fd: number, request: number, argument: number) => number>(
  'ioctl', [INT, 'ulong', POINTER]);
export const socket = define<Ints>('socket', [INT, INT, INT]);
export const bind = define<Ints>('bind', [INT, POINTER, UINT]);
export const getsockname = define<Ints>('getsockname', [INT, POINTER, POINTER]);
export const setsockopt = define<Ints>('setsockopt', [INT, INT, INT, POINTER, UINT]);
export const getsockopt = define<Ints>('getsockopt', [INT, INT, INT, POINTER, POINTER]);
export const sendto = define<Ints>('sendto', [INT, POINTER, SIZE, INT, POINTER, UINT]);
export const recvfrom = define<Ints>('recvfrom', [INT, POINTER, SIZE, INT, POINTER, POINTER]);
export const recvmmsg = define<Ints>('recvmmsg', [INT, POINTER, UINT, INT, POINTER]);
export const sendmmsg = define<Ints>('sendmmsg', [INT, POINTER, UINT, INT]);
/** One message with its descriptors: struct msghdr. */
export const sendmsg = define<Ints>('sendmsg', [INT, POINTER, INT]);
export const recvmsg = define<Ints>('recvmsg', [INT, POINTER, INT]);
export const connect = define<Ints>('connect', [INT, POINTER, UINT]);
export const listen = define<Ints>('listen', [INT, INT]);
export const accept4 = define<Ints>('accept4', [INT, POINTER, POINTER, INT]);
export const memfdCreate = define<(name: string, flags: number) => number>(
  'memfd_create', [TEXT, UINT]);
export const ftruncate = define<(fd: number, length: number) => number>(
  'ftruncate', [INT, 'long']);
/** Returns the address, or one that nothing can have. */
export const mmap = program.func(
  'mmap', POINTER, [POINTER, SIZE, INT, INT, INT, 'long']) as Ints;
export const unshare = define<Ints>('unshare', [INT]);
export const setns = define<Ints>('setns', [INT, INT]);
export const inetPton = define<(family: number, text: string, address: number) => number>(
  'inet_pton', [INT, TEXT, POINTER]);
export const ifNameToIndex = define<(name: string) => number>('if_nametoindex', [TEXT]);

/** Error number of this thread's last failed call, as a negative number. */
export function negativeErrno(): number {
  return -koffi.errno();
}

/** Turns the C convention (-1 and errno) into ours (negative error number). */
export function result(returned: number): number {
  return returned < 0 ? -koffi.errno() : returned;
}
