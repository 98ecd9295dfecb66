// Many datagrams in one system call: recvmmsg() and sendmmsg().
//
// struct mmsghdr[capacity] lives in memory of this object, or in a place that the caller gives,
// with one struct iovec and a control buffer for each; data, socket addresses and longer lists of
// iovecs stay where the caller has them (WebAssembly memory), so that nothing is copied in between.
// Offsets in bytes, 64-bit and 32-bit targets:
//
//   mmsghdr   msg_name 0/0   msg_namelen 8/4   msg_iov 16/8   msg_iovlen 24/12
//             msg_control 32/16   msg_controllen 40/20   msg_flags 48/24   msg_len 56/28
//             size 64/32
//   iovec     iov_base 0/0   iov_len 8/4   size 16/8
//   cmsghdr   cmsg_len 0/0   cmsg_level 8/4   cmsg_type 12/8   data 16/12, padded to 8/4
//
// Control data says what belongs to the datagram beside its bytes: into which sizes the kernel is
// to cut it (UDP_SEGMENT, linux/udp.h) or has joined it from (UDP_GRO), and the outer TOS or
// traffic class (ip(7), ipv6(7)).

import * as libc from './libc.ts';
import { NativeBlock, POINTER_SIZE } from './memory.ts';

const IS_64 = POINTER_SIZE === 8;
const MSG_NAME = 0;
const MSG_NAMELEN = IS_64 ? 8 : 4;
const MSG_IOV = IS_64 ? 16 : 8;
const MSG_IOVLEN = IS_64 ? 24 : 12;
const MSG_CONTROL = IS_64 ? 32 : 16;
const MSG_CONTROLLEN = IS_64 ? 40 : 20;
const MSG_FLAGS = IS_64 ? 48 : 24;
const MSG_LEN = IS_64 ? 56 : 28;
const MMSGHDR_SIZE = IS_64 ? 64 : 32;
const IOV_LEN = IS_64 ? 8 : 4;
const IOVEC_SIZE = IS_64 ? 16 : 8;
const CMSG_LEVEL = IS_64 ? 8 : 4;
const CMSG_TYPE = IS_64 ? 12 : 8;
const CMSG_DATA = IS_64 ? 16 : 12;
/** Two control messages of an int each fit, in both directions. */
const CONTROL_SIZE = 64;
const MESSAGE_SIZE = MMSGHDR_SIZE + IOVEC_SIZE + CONTROL_SIZE;

const MSG_TRUNC = 0x20;
const MSG_DONTWAIT = 0x40;
const SOL_IP = 0;
const SOL_UDP = 17;
const SOL_IPV6 = 41;
const IP_TOS = 1;
const IPV6_TCLASS = 67;
const UDP_SEGMENT = 103;
const UDP_GRO = 104;
const IP_RECVERR = 11;
const IPV6_RECVERR = 25;
/** Offsets into struct sock_extended_err, linux/errqueue.h. */
const EE_ERRNO = 0;
const EE_ORIGIN = 4;
const EE_TYPE = 5;
const EE_CODE = 6;
const EE_INFO = 8;
const AF_INET6 = 10;

/** An error about a datagram that was sent, ip(7): its errno, who says so, and an ICMP message's
 * type and code; `info` is the MTU where it is about that. */
export interface ExtendedError {
  errno: number;
  origin: number;
  type: number;
  code: number;
  info: number;
}

/** A fixed number of messages that are received or sent in one call. */
export class MessageVector {
  readonly capacity: number;
  readonly #headers: NativeBlock;
  readonly #iovecs: NativeBlock;
  readonly #control: NativeBlock;
  /** Headers and control buffers as 32-bit words. */
  readonly #words: Uint32Array;
  readonly #controlWords: Uint32Array;
  /** Room for the sender's address; the kernel overwrites msg_namelen with what it used. */
  readonly #nameRooms: Uint32Array;

  /** `place` is memory that may outlive the process, 8-aligned: what a receive() of an earlier one
   * wrote there is left until set(). Throws where it is too small. */
  constructor(capacity: number, place?: Uint8Array) {
    this.capacity = capacity;
    const bytes = place ?? new Uint8Array(capacity * MESSAGE_SIZE);
    if (bytes.length < capacity * MESSAGE_SIZE) throw new Error('no place for the messages');
    let end = 0;
    const take = (size: number): NativeBlock => {
      end += capacity * size;
      return new NativeBlock(bytes.subarray(end - (capacity * size), end));
    };
    this.#headers = take(MMSGHDR_SIZE);
    this.#iovecs = take(IOVEC_SIZE);
    this.#control = take(CONTROL_SIZE);
    this.#words = wordsOf(this.#headers);
    this.#controlWords = wordsOf(this.#control);
    this.#nameRooms = new Uint32Array(capacity);
    for (let i = 0; i < capacity; i++) {
      const control = this.#control.address + (i * CONTROL_SIZE);
      this.#headers.setWord((i * MMSGHDR_SIZE) + MSG_CONTROL, control);
    }
  }

  /**
   * Points a message at its data and at its socket address, both absolute. Before receive(),
   * `length` and `nameLength` are the room there is; before send(), what is to be sent.
   */
  set(
    index: number, dataAddress: number, length: number, nameAddress: number, nameLength: number,
  ): void {
    const iovec = index * IOVEC_SIZE;
    this.#iovecs.setWord(iovec, dataAddress);
    this.#iovecs.setWord(iovec + IOV_LEN, length);
    this.setPieces(index, this.#iovecs.address + iovec, 1, nameAddress, nameLength);
  }

  /** Points a message at data in `count` pieces, described by an array of struct iovec. */
  setPieces(
    index: number, iovecs: number, count: number, nameAddress: number, nameLength: number,
  ): void {
    const header = index * MMSGHDR_SIZE;
    this.#headers.setWord(header + MSG_IOV, iovecs);
    this.#words[(header + MSG_IOVLEN) >>> 2] = count;
    this.#headers.setWord(header + MSG_NAME, nameAddress);
    this.#words[(header + MSG_NAMELEN) >>> 2] = nameLength;
    this.#nameRooms[index] = nameLength;
    this.#words[(header + MSG_CONTROLLEN) >>> 2] = 0;
    this.#words[(header + MSG_LEN) >>> 2] = 0;
  }

  /**
   * Says how a message that set() or setPieces() made is to be sent: cut into datagrams of
   * `segmentSize` bytes, the last one shorter or not, unless that is 0; and under this TOS or
   * traffic class. `family` is that of its socket address.
   */
  setControl(index: number, family: number, segmentSize: number, tos: number): void {
    let length = 0;
    if (segmentSize !== 0) length = this.#put(index, length, SOL_UDP, UDP_SEGMENT, segmentSize, 2);
    if (tos !== 0) {
      length = family === AF_INET6
        ? this.#put(index, length, SOL_IPV6, IPV6_TCLASS, tos, 4)
        : this.#put(index, length, SOL_IP, IP_TOS, tos, 4);
    }
    this.#words[((index * MMSGHDR_SIZE) + MSG_CONTROLLEN) >>> 2] = length;
  }

  /**
   * Receives into messages `first` and following, without waiting. Returns how many arrived, or
   * a negative errno (-EAGAIN when there was none). `flags` are recvmmsg()'s.
   */
  receive(fd: number, first: number, count: number, flags = 0): number {
    for (let i = first; i < first + count; i++) {
      const header = i * MMSGHDR_SIZE;
      this.#words[(header + MSG_NAMELEN) >>> 2] = this.#nameRooms[i] as number;
      this.#words[(header + MSG_CONTROLLEN) >>> 2] = CONTROL_SIZE;
    }
    const address = this.#headers.address + first * MMSGHDR_SIZE;
    const received = libc.recvmmsg(fd, address, count, MSG_DONTWAIT | flags, 0);
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

  /** Bytes that receive() wrote, or send() took; 0 for a message that neither came to. */
  length(index: number): number {
    return this.#words[(index * MMSGHDR_SIZE + MSG_LEN) >>> 2] as number;
  }

  /** Makes a received message one that has not come. */
  clear(index: number): void {
    this.#words[(index * MMSGHDR_SIZE + MSG_LEN) >>> 2] = 0;
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

  /** Size of each datagram but the last that the kernel joined to this one; 0 where it did not. */
  segmentSize(index: number): number {
    const found = this.#find(index, SOL_UDP, UDP_GRO);
    return found < 0 ? 0 : this.#controlWords[(found + CMSG_DATA) >>> 2] as number;
  }

  /** TOS or traffic class that the datagram came with; 0 where the socket was not asked for it. */
  tos(index: number): number {
    let found = this.#find(index, SOL_IP, IP_TOS);
    if (found < 0) found = this.#find(index, SOL_IPV6, IPV6_TCLASS);
    // The kernel gives a byte in the one case and an int in the other.
    return found < 0 ? 0 : this.#control.bytes[found + CMSG_DATA] as number;
  }

  /** The error that was received; null where a datagram was. */
  extendedError(index: number): ExtendedError | null {
    let found = this.#find(index, SOL_IP, IP_RECVERR);
    if (found < 0) found = this.#find(index, SOL_IPV6, IPV6_RECVERR);
    if (found < 0) return null;
    const { bytes } = this.#control;
    const at = found + CMSG_DATA;
    const word = (offset: number): number => this.#controlWords[(at + offset) >>> 2] as number;
    return {
      errno: word(EE_ERRNO), origin: bytes[at + EE_ORIGIN] as number,
      type: bytes[at + EE_TYPE] as number, code: bytes[at + EE_CODE] as number,
      info: word(EE_INFO),
    };
  }

  /** Writes a control message. Returns where the next one begins. */
  #put(
    index: number, at: number, level: number, type: number, value: number, size: number,
  ): number {
    const words = this.#controlWords;
    const start = (index * CONTROL_SIZE) + at;
    words[start >>> 2] = CMSG_DATA + size;
    words[(start + CMSG_LEVEL) >>> 2] = level;
    words[(start + CMSG_TYPE) >>> 2] = type;
    words[(start + CMSG_DATA) >>> 2] = value;
    if (IS_64) words[(start + 4) >>> 2] = 0;
    return at + CMSG_DATA + POINTER_SIZE;
  }

  /** Where a received control message lies, or -1. */
  #find(index: number, level: number, type: number): number {
    const words = this.#controlWords;
    const start = index * CONTROL_SIZE;
    const length = this.#words[((index * MMSGHDR_SIZE) + MSG_CONTROLLEN) >>> 2] as number;
    const end = start + Math.min(length, CONTROL_SIZE);
    let at = start;
    while (at + CMSG_DATA <= end) {
      const size = words[at >>> 2] as number;
      if (size < CMSG_DATA) return -1;
      if (words[(at + CMSG_LEVEL) >>> 2] === level && words[(at + CMSG_TYPE) >>> 2] === type) {
        return at;
      }
      at += Math.ceil(size / POINTER_SIZE) * POINTER_SIZE;
    }
    return -1;
  }
}

function wordsOf({ bytes }: NativeBlock): Uint32Array {
  return new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength >>> 2);
}
