// Many datagrams in one system call: recvmmsg() and sendmmsg().
//
// struct mmsghdr[capacity], each with one struct iovec, lives in memory of this object; data and
// socket addresses stay where the caller has them (packet slots in WebAssembly memory), so that
// nothing is copied in between. Offsets in bytes, 64-bit and 32-bit targets:
//
//   mmsghdr   msg_name 0/0   msg_namelen 8/4   msg_iov 16/8   msg_iovlen 24/12
//             msg_control 32/16   msg_controllen 40/20   msg_flags 48/24   msg_len 56/28
//             size 64/32
//   iovec     iov_base 0/0   iov_len 8/4   size 16/8

import * as libc from './libc.ts';
import { NativeBlock, POINTER_SIZE } from './memory.ts';

const IS_64 = POINTER_SIZE === 8;
const MSG_NAME = 0;
const MSG_NAMELEN = IS_64 ? 8 : 4;
const MSG_IOV = IS_64 ? 16 : 8;
const MSG_IOVLEN = IS_64 ? 24 : 12;
const MSG_FLAGS = IS_64 ? 48 : 24;
const MSG_LEN = IS_64 ? 56 : 28;
const MMSGHDR_SIZE = IS_64 ? 64 : 32;
const IOV_LEN = IS_64 ? 8 : 4;
const IOVEC_SIZE = IS_64 ? 16 : 8;

const MSG_TRUNC = 0x20;
const MSG_DONTWAIT = 0x40;

/** A fixed number of messages that are received or sent in one call. */
export class MessageVector {
  readonly capacity: number;
  readonly #headers: NativeBlock;
  readonly #iovecs: NativeBlock;
  /** The headers as 32-bit words. */
  readonly #words: Uint32Array;
  /** Room for the sender's address; the kernel overwrites msg_namelen with what it used. */
  readonly #nameRooms: Uint32Array;

  constructor(capacity: number) {
    this.capacity = capacity;
    this.#headers = new NativeBlock(capacity * MMSGHDR_SIZE);
    this.#iovecs = new NativeBlock(capacity * IOVEC_SIZE);
    this.#words = new Uint32Array(this.#headers.bytes.buffer);
    this.#nameRooms = new Uint32Array(capacity);
    for (let i = 0; i < capacity; i++) {
      this.#headers.setWord(i * MMSGHDR_SIZE + MSG_IOV, this.#iovecs.address + i * IOVEC_SIZE);
      this.#headers.setWord(i * MMSGHDR_SIZE + MSG_IOVLEN, 1);
    }
  }

  /**
   * Points a message at its data and at its socket address, both absolute. Before receive(),
   * `length` and `nameLength` are the room there is; before send(), what is to be sent.
   */
  set(
    index: number, dataAddress: number, length: number, nameAddress: number, nameLength: number,
  ): void {
    const header = index * MMSGHDR_SIZE;
    const iovec = index * IOVEC_SIZE;
    this.#iovecs.setWord(iovec, dataAddress);
    this.#iovecs.setWord(iovec + IOV_LEN, length);
    this.#headers.setWord(header + MSG_NAME, nameAddress);
    this.#words[(header + MSG_NAMELEN) >>> 2] = nameLength;
    this.#nameRooms[index] = nameLength;
  }

  /**
   * Receives into messages `first` and following, without waiting. Returns how many arrived, or
   * a negative errno (-EAGAIN when there was none).
   */
  receive(fd: number, first: number, count: number): number {
    for (let i = first; i < first + count; i++) {
      this.#words[(i * MMSGHDR_SIZE + MSG_NAMELEN) >>> 2] = this.#nameRooms[i] as number;
    }
    const address = this.#headers.address + first * MMSGHDR_SIZE;
    const received = libc.recvmmsg(fd, address, count, MSG_DONTWAIT, 0);
    return received < 0 ? libc.negativeErrno() : received;
  }

  /**
   * Sends messages `first` and following, without waiting. Returns how many were taken, or a
   * negative errno when the first was not; the error of a later one shows when it is first.
   */
  send(fd: number, first: number, count: number): number {
    const address = this.#headers.address + first * MMSGHDR_SIZE;
    const sent = libc.sendmmsg(fd, address, count, MSG_DONTWAIT);
    return sent < 0 ? libc.negativeErrno() : sent;
  }

  /** Bytes that receive() wrote, or send() took. */
  length(index: number): number {
    return this.#words[(index * MMSGHDR_SIZE + MSG_LEN) >>> 2] as number;
  }

  /** Bytes of data that set() named. */
  room(index: number): number {
    return this.#iovecs.view.getUint32((index * IOVEC_SIZE) + IOV_LEN, true);
  }

  /** Size of the sender's socket address. */
  nameLength(index: number): number {
    return this.#words[(index * MMSGHDR_SIZE + MSG_NAMELEN) >>> 2] as number;
  }

  /** Tells whether the datagram was larger than its room. */
  truncated(index: number): boolean {
    const flags = this.#words[(index * MMSGHDR_SIZE + MSG_FLAGS) >>> 2] as number;
    return (flags & MSG_TRUNC) !== 0;
  }
}
