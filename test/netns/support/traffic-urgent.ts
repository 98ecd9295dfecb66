// A TCP stream with urgent data, RFC 9293 section 3.8.5. Node.js has no MSG_OOB, so the C library's
// own calls are made; they block, and so does the thread.

import { AF_INET, AF_INET6, SOCKADDR_SIZE_MAX, writeSocketAddress } from
  '../../../ffi/address.ts';
import { NativeLibrary, type NativeArgument, type NativeFunction } from
  '../../../ffi/library.ts';
import { NativeBlock } from '../../../ffi/memory.ts';

/** The urgent byte. It is nowhere else in the stream, so that the other side can leave it out: in
 * or out of line, as its kernel has it. */
export const URGENT_BYTE = 0x21;

const ROUNDS = 8;
const ROUND_BYTES = 6000;
const PAUSE_MS = 20;
const SOCK_STREAM = 1;
const MSG_OOB = 1;
const SHUT_WR = 1;
const ANSWER_BYTES = 64;

type Calls = Record<'socket' | 'connect' | 'send' | 'recv' | 'shutdown' | 'close', NativeFunction>;

function load(): Calls {
  const library = new NativeLibrary('libc.so.6');
  const define = (name: string, ...types: NativeArgument[]): NativeFunction =>
    library.define(name, types);
  return {
    socket: define('socket', 'int', 'int', 'int'),
    connect: define('connect', 'int', 'address', 'int'),
    send: define('send', 'int', 'address', 'int', 'int'),
    recv: define('recv', 'int', 'address', 'int', 'int'),
    shutdown: define('shutdown', 'int', 'int'),
    close: define('close', 'int'),
  };
}

/** Sends rounds of data with an urgent byte behind each. Returns the other side's answer, the
 * digest of all but urgent bytes, and the data of which that must be the digest. */
export function sendUrgent(address: string, port: number, head: string): [string, Buffer] {
  const calls = load();
  const name = new NativeBlock(SOCKADDR_SIZE_MAX);
  const size = writeSocketAddress(name.bytes, address, port);
  const fd = calls.socket(address.includes(':') ? AF_INET6 : AF_INET, SOCK_STREAM, 0);
  const must = (result: number, what: string): number => {
    if (result < 0) throw new Error(`${what} to ${address} failed`);
    return result;
  };
  const data: Buffer[] = [];
  try {
    must(calls.connect(fd, name.address, size), 'connect');
    sendAll(calls, fd, Buffer.from(head), 0, must);
    for (let round = 0; round < ROUNDS; round += 1) {
      const bytes = Buffer.alloc(ROUND_BYTES, String.fromCharCode(97 + round));
      data.push(bytes);
      sendAll(calls, fd, bytes, 0, must);
      sendAll(calls, fd, Buffer.of(URGENT_BYTE), MSG_OOB, must);
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, PAUSE_MS);
    }
    must(calls.shutdown(fd, SHUT_WR), 'shutdown');
    const answer = new NativeBlock(ANSWER_BYTES);
    let received = 0;
    while (received < ANSWER_BYTES) {
      const room = ANSWER_BYTES - received;
      const count = must(calls.recv(fd, answer.address + received, room, 0), 'recv');
      if (count === 0) break;
      received += count;
    }
    return [answer.getText(0, received), Buffer.concat(data)];
  } finally {
    calls.close(fd);
  }
}

function sendAll(
  calls: Calls, fd: number, bytes: Uint8Array, flags: number,
  must: (result: number, what: string) => number,
): void {
  const block = new NativeBlock(bytes.length);
  block.bytes.set(bytes);
  for (let sent = 0; sent < bytes.length;) {
    sent += must(calls.send(fd, block.address + sent, bytes.length - sent, flags), 'send');
  }
}
