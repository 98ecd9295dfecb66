// Descriptors over unix sockets: SCM_RIGHTS, unix(7) and cmsg(3). The receiver gets descriptors of
// its own for the same open file, whatever it is: a TUN device, a socket, a memfd.
//
// Offsets in bytes, 64-bit and 32-bit targets:
//
//   msghdr    msg_name 0/0   msg_namelen 8/4   msg_iov 16/8   msg_iovlen 24/12
//             msg_control 32/16   msg_controllen 40/20   msg_flags 48/24   size 56/28
//   iovec     iov_base 0/0   iov_len 8/4
//   cmsghdr   cmsg_len 0/0   cmsg_level 8/4   cmsg_type 12/8   the descriptors 16/12

import * as libc from './libc.ts';
import { addressOf, NativeBlock, POINTER_SIZE } from './memory.ts';

const IS_64 = POINTER_SIZE === 8;
const MSG_IOV = IS_64 ? 16 : 8;
const MSG_IOVLEN = IS_64 ? 24 : 12;
const MSG_CONTROL = IS_64 ? 32 : 16;
const MSG_CONTROLLEN = IS_64 ? 40 : 20;
const MSGHDR_SIZE = IS_64 ? 56 : 28;
const IOV_LEN = POINTER_SIZE;
const IOVEC_SIZE = 2 * POINTER_SIZE;
const CMSG_LEVEL = POINTER_SIZE;
const CMSG_TYPE = POINTER_SIZE + 4;
const CMSG_DATA = POINTER_SIZE + 8;
/** One descriptor, and the room that it takes with padding. */
const CMSG_LENGTH = CMSG_DATA + 4;
const CMSG_SPACE = IS_64 ? 24 : 16;

const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const MSG_CMSG_CLOEXEC = 0x4000_0000;

/** What receiveWithFd() got: bytes, or a negative errno, or 0 at the end; -1 for no descriptor. */
export interface Received {
  count: number;
  fd: number;
}

/** One message and its control data, as the kernel reads and writes them. */
class Message {
  readonly header = new NativeBlock(MSGHDR_SIZE);
  readonly control = new NativeBlock(CMSG_SPACE);
  readonly #iovec = new NativeBlock(IOVEC_SIZE);

  constructor(bytes: Uint8Array, controlSize: number) {
    this.#iovec.setWord(0, addressOf(bytes));
    this.#iovec.setWord(IOV_LEN, bytes.length);
    this.header.setWord(MSG_IOV, this.#iovec.address);
    this.header.setWord(MSG_IOVLEN, 1);
    if (controlSize === 0) return;
    this.header.setWord(MSG_CONTROL, this.control.address);
    this.header.setWord(MSG_CONTROLLEN, controlSize);
  }
}

/** Sends bytes and, unless it is -1, a descriptor with them, without waiting. Returns the bytes
 * taken or a negative errno; the descriptor went with the first of them. */
export function sendWithFd(socket: number, bytes: Uint8Array, fd: number): number {
  const message = new Message(bytes, fd < 0 ? 0 : CMSG_SPACE);
  message.control.setWord(0, CMSG_LENGTH);
  message.control.setInt(CMSG_LEVEL, SOL_SOCKET);
  message.control.setInt(CMSG_TYPE, SCM_RIGHTS);
  message.control.setInt(CMSG_DATA, fd);
  const sent = libc.sendmsg(socket, message.header.address, MSG_DONTWAIT | MSG_NOSIGNAL);
  return sent < 0 ? libc.negativeErrno() : sent;
}

/** Receives bytes and the descriptor that came with them, close-on-exec, without waiting. Of
 * several descriptors in one message the kernel closes all but the first. */
export function receiveWithFd(socket: number, into: Uint8Array): Received {
  const message = new Message(into, CMSG_SPACE);
  const flags = MSG_DONTWAIT | MSG_CMSG_CLOEXEC;
  const count = libc.recvmsg(socket, message.header.address, flags);
  if (count < 0) return { count: libc.negativeErrno(), fd: -1 };
  const { control, header } = message;
  const hasFd = header.getInt(MSG_CONTROLLEN) >= CMSG_LENGTH
    && control.getInt(0) >= CMSG_LENGTH
    && control.getInt(CMSG_LEVEL) === SOL_SOCKET
    && control.getInt(CMSG_TYPE) === SCM_RIGHTS;
  return { count, fd: hasFd ? control.getInt(CMSG_DATA) : -1 };
}
