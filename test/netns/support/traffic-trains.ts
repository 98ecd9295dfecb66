// Trains of datagrams, sent and received by the message. The last datagram of a burst asks for an
// acknowledgment, so that no queue on the way overflows and whatever is lost was lost by somebody.
//
//   datagram   u32 stream, u32 number, u32 1 where an acknowledgment is asked for, noise

import {
  AF_INET, AF_INET6, SOCKADDR_SIZE_MAX, readSocketAddress, writeSocketAddress, type IpFamily,
} from '../../../ffi/address.ts';
import { addressOf } from '../../../ffi/memory.ts';
import { MessageVector } from '../../../ffi/message-vector.ts';
import { receiveFrom, sendTo } from '../../../ffi/raw-socket.ts';
import { IPPROTO_IP, IPPROTO_IPV6, openUdpSocket, setOption } from '../../../ffi/socket.ts';
import { Random } from '../../support/random.ts';
import type { Train, TrainAnswer } from './traffic.ts';

/** Bytes before the noise, and the shortest datagram of a train. */
const HEADER_BYTES = 12;
const ROOM_BYTES = 65_536;
const BATCH = 32;
const BUFFER_BYTES = 8 << 20;
const IP_RECVTOS = 13;
const IPV6_RECVTCLASS = 66;
/** Datagrams and bytes of one burst: what the kernel cuts at a time (linux/udp.h). */
const BURST_DATAGRAMS = 60;
const BURST_BYTES = 64_000;
const ACKNOWLEDGE_MS = 500;
const NOISE_BYTES = 1 << 17;
const NOISE = new Random(9).bytes(NOISE_BYTES);

/** The noise of a datagram: another piece for each number. */
function noiseOf(stream: number, number: number, size: number): Uint8Array {
  const start = ((stream * 7919) + (number * 31)) % (NOISE_BYTES - size);
  return NOISE.subarray(start, start + size);
}

/** Fills a datagram of a train. */
export function writeDatagram(
  target: Buffer, stream: number, number: number, asks: boolean,
): void {
  target.writeUInt32BE(stream, 0);
  target.writeUInt32BE(number, 4);
  target.writeUInt32BE(asks ? 1 : 0, 8);
  target.set(noiseOf(stream, number, target.length - HEADER_BYTES), HEADER_BYTES);
}

function openSocket(family: IpFamily, port: number): number {
  return openUdpSocket({
    family, address: family === 'IPv6' ? '::' : '0.0.0.0', port, receiveBufferBytes: BUFFER_BYTES,
    sendBufferBytes: BUFFER_BYTES,
  });
}

/** Sends a train. Returns how many bursts were not acknowledged in time; they are not repeated. */
export function sendTrain(train: Train, port: number): number {
  const { address, size, count, segmented, tos } = train;
  const family = address.includes(':') ? 'IPv6' : 'IPv4';
  const fd = openSocket(family, 0);
  const name = new Uint8Array(SOCKADDR_SIZE_MAX);
  const nameSize = writeSocketAddress(name, address, port);
  const burst = Math.max(1, Math.min(BURST_DATAGRAMS, Math.floor(BURST_BYTES / size)));
  const bytes = Buffer.alloc(burst * size);
  const messages = new MessageVector(burst);
  const familyNumber = family === 'IPv6' ? AF_INET6 : AF_INET;
  let unanswered = 0;
  for (let sent = 0; sent < count;) {
    const now = Math.min(burst, count - sent);
    for (let at = 0; at < now; at += 1) {
      const datagram = bytes.subarray(at * size, (at + 1) * size);
      writeDatagram(datagram, train.stream, train.first + sent + at, at === now - 1);
    }
    const parts = segmented ? 1 : now;
    for (let part = 0; part < parts; part += 1) {
      const [start, length] = segmented ? [0, now * size] : [part * size, size];
      messages.set(part, addressOf(bytes.subarray(start, start + length)), length,
        addressOf(name), nameSize);
      messages.setControl(part, familyNumber, segmented && now > 1 ? size : 0, tos);
    }
    sendAll(messages, fd, parts);
    sent += now;
    const last = train.first + sent - 1;
    if (!isAcknowledged(fd, last)) unanswered += 1;
  }
  return unanswered;
}

function sendAll(messages: MessageVector, fd: number, count: number): void {
  let sent = 0;
  while (sent < count) {
    const now = messages.send(fd, sent, count - sent);
    if (now < 0) throw new Error(`sendmmsg: errno ${-now}`);
    sent += now;
  }
}

/** Waits for the acknowledgment of a number, past older ones. */
function isAcknowledged(fd: number, number: number): boolean {
  const buffer = Buffer.alloc(HEADER_BYTES);
  const deadline = performance.now() + ACKNOWLEDGE_MS;
  while (performance.now() < deadline) {
    const received = receiveFrom(fd, buffer, Math.ceil(deadline - performance.now()));
    if (received !== null && buffer.readUInt32BE(4) === number) return true;
  }
  return false;
}

interface Account extends TrainAnswer {
  last: number;
}

/** Receives trains on a port, of both families, and keeps account of each. */
export class TrainReceiver {
  readonly #accounts = new Map<number, Account>();
  readonly #rooms = Buffer.alloc(BATCH * ROOM_BYTES);
  readonly #names = Buffer.alloc(BATCH * SOCKADDR_SIZE_MAX);
  readonly #messages = new MessageVector(BATCH);
  readonly #sockets: number[];

  constructor(port: number) {
    const [ipv4, ipv6] = [openSocket('IPv4', port), openSocket('IPv6', port)];
    setOption(ipv4, IPPROTO_IP, IP_RECVTOS, 1, 'IP_RECVTOS');
    setOption(ipv6, IPPROTO_IPV6, IPV6_RECVTCLASS, 1, 'IPV6_RECVTCLASS');
    this.#sockets = [ipv4, ipv6];
    for (let at = 0; at < BATCH; at += 1) {
      this.#messages.set(at, addressOf(this.#room(at)), ROOM_BYTES, addressOf(this.#name(at)),
        SOCKADDR_SIZE_MAX);
    }
    this.#poll();
  }

  answers(): TrainAnswer[] {
    return [...this.#accounts.values()].map(({ last: _, ...answer }) => answer);
  }

  #room(at: number): Buffer {
    return this.#rooms.subarray(at * ROOM_BYTES, (at + 1) * ROOM_BYTES);
  }

  #name(at: number): Buffer {
    return this.#names.subarray(at * SOCKADDR_SIZE_MAX, (at + 1) * SOCKADDR_SIZE_MAX);
  }

  #poll(): void {
    let received = 0;
    for (const fd of this.#sockets) {
      const count = this.#messages.receive(fd, 0, BATCH);
      for (let at = 0; at < count; at += 1) this.#take(fd, at);
      received += Math.max(count, 0);
    }
    // Timers take 1 ms or more; while datagrams come there is no waiting.
    if (received > 0) setImmediate(() => this.#poll());
    else setTimeout(() => this.#poll(), 1);
  }

  #take(fd: number, at: number): void {
    const length = this.#messages.length(at);
    const datagram = this.#room(at).subarray(0, length);
    if (length < HEADER_BYTES) return;
    const [stream, number] = [datagram.readUInt32BE(0), datagram.readUInt32BE(4)];
    const account = this.#accounts.get(stream)
      ?? { stream, received: 0, late: 0, damaged: 0, sizes: [], marks: {}, last: -1 };
    this.#accounts.set(stream, account);
    account.received += 1;
    if (number <= account.last) account.late += 1;
    account.last = Math.max(account.last, number);
    const noise = noiseOf(stream, number, length - HEADER_BYTES);
    if (Buffer.compare(datagram.subarray(HEADER_BYTES), noise) !== 0) account.damaged += 1;
    if (!account.sizes.includes(length)) account.sizes.push(length);
    const tos = this.#messages.tos(at);
    account.marks[tos] = (account.marks[tos] ?? 0) + 1;
    if (datagram.readUInt32BE(8) !== 1) return;
    const { address, port } = readSocketAddress(this.#name(at));
    sendTo(fd, datagram.subarray(0, HEADER_BYTES), address, port);
  }
}
