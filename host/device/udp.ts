// The underlay: one UDP socket that receives and several that send, so that outer source ports
// spread over the flows (RFC 7348 section 5) and each flow keeps to one. A send is one message:
// one datagram, or a train of equal ones that the kernel cuts (UDP_SEGMENT); a slot is filled with
// one datagram, or with those that the kernel joined (UDP_GRO). A raw socket for IP in IP is used
// alike: it has no trains.

import {
  DIRECTORY_SEGMENT_LIMIT,
  PACKET_CAPACITY,
  REMOTE_IPV6_SIZE,
} from '../../wasm/abi/layout.ts';
import {
  DIRECTION_OUTBOUND,
  REASON_DEVICE_ERROR,
  REASON_DEVICE_FULL,
} from '../../wasm/abi/verdict.ts';
import { ERRNO } from '../../ffi/errno.ts';
import { MessageVector } from '../../ffi/message-vector.ts';
import { RECEIVE_AT_ONCE, TURN_BYTES } from '../limits.ts';
import type { Slots } from '../slots.ts';
import type { Device } from './device.ts';

interface Sender {
  fd: number;
  messages: MessageVector;
  /** The send that each message was made of. */
  sends: Uint32Array;
  queued: number;
}

export interface UdpOptions {
  index: number;
  name: string;
  /** -1: it only sends. */
  receiver: number;
  senders: readonly number[];
  /** Told once that the kernel will cut no more trains: the way out lacks checksum offload. */
  onUncut?: () => void;
}

/** An underlay device over sockets whose descriptors belong to someone else. */
export class UdpDevice implements Device {
  readonly name: string;
  readonly descriptors: readonly number[];
  readonly isPending = false;
  readonly #slots: Slots;
  readonly #options: UdpOptions;
  /** Null until something is read: the place of its messages is the worker's, and until then
   * another thread of the worker may be using it. */
  #received: MessageVector | null = null;
  readonly #senders: Sender[];
  readonly #single = new MessageVector(1);

  constructor(slots: Slots, options: UdpOptions) {
    this.#slots = slots;
    this.#options = options;
    this.name = options.name;
    this.descriptors = options.receiver < 0 ? [] : [options.receiver];
    this.#senders = options.senders.map((fd) => ({
      fd, messages: new MessageVector(slots.count), sends: new Uint32Array(slots.count), queued: 0,
    }));
  }

  read(first: number, count: number, bytes = TURN_BYTES): number {
    const received = this.#received ??= messagesOf(this.#slots);
    let total = 0;
    let done = 0;
    while (done < count && total < bytes) {
      const place = first + done - this.#slots.first;
      const asked = Math.min(count - done, RECEIVE_AT_ONCE);
      this.#slots.offer(first + done, this.#options.index, asked);
      const came = received.receive(this.#options.receiver, place, asked);
      for (let next = place; next < place + came; next += 1) {
        const length = received.length(next);
        this.#slots.fill(this.#slots.first + next, this.#options.index, length,
          received.segmentSize(next), received.tos(next));
        received.clear(next);
        total += length;
      }
      if (came > 0) done += came;
      if (came < asked) break;
    }
    return done;
  }

  write(send: number): void {
    const { sends } = this.#slots;
    const sender = this.#senderOf(send);
    if (sender === undefined) return;
    // A turn may have more sends than slots, and a device around this one more than the turn.
    if (sender.queued === sender.messages.capacity) this.#send(sender);
    const { messages, queued } = sender;
    messages.setPieces(queued, sends.iovecs(send), sends.pieceCount(send), sends.remote(send),
      sends.remoteSize(send));
    messages.setControl(queued, sends.remoteFamily(send), sends.segmentSize(send),
      sends.tos(send));
    sender.sends[queued] = send;
    sender.queued += 1;
  }

  flush(): number {
    for (const sender of this.#senders) {
      if (sender.queued > 0) this.#send(sender);
    }
    return 0;
  }

  /** Sends what is queued of the flow that a send belongs to. */
  flushFlow(send: number): void {
    const sender = this.#senderOf(send);
    if (sender !== undefined && sender.queued > 0) this.#send(sender);
  }

  close(): void {}

  #senderOf(send: number): Sender | undefined {
    return this.#senders[this.#slots.sends.flowHash(send) % this.#senders.length];
  }

  /** Sends all that is queued. What the kernel refuses is stepped over. */
  #send(sender: Sender): void {
    let done = 0;
    while (done < sender.queued) {
      const sent = sender.messages.send(sender.fd, done, sender.queued - done);
      if (sent > 0) {
        done += sent;
      } else {
        this.#refused(sender.fd, sender.sends[done] ?? 0, sent);
        done += 1;
      }
    }
    sender.queued = 0;
  }

  /** A train that the kernel cannot cut goes datagram by datagram: EIO is for a way out without
   * checksum offload, the others for a path that is narrower than its link. */
  #refused(fd: number, send: number, error: number): void {
    const { sends } = this.#slots;
    const isUncut = error === -ERRNO.EIO || error === -ERRNO.EINVAL || error === -ERRNO.EMSGSIZE;
    if (sends.segmentSize(send) !== 0 && isUncut) {
      if (error === -ERRNO.EIO) this.#stopCutting();
      this.#sendSingly(fd, send);
    } else {
      this.#countDrop(error, sends.length(send), sends.packets(send));
    }
  }

  #stopCutting(): void {
    const { core } = this.#slots;
    if (core.directory(DIRECTORY_SEGMENT_LIMIT) === 1) return;
    core.setDirectory(DIRECTORY_SEGMENT_LIMIT, 1);
    this.#options.onUncut?.();
  }

  #sendSingly(fd: number, send: number): void {
    const { sends } = this.#slots;
    const message = this.#single;
    let end = 0;
    for (let piece = 0; piece < sends.pieceCount(send); piece = end) {
      end = sends.datagramEnd(send, piece);
      message.setPieces(0, sends.iovecs(send, piece), end - piece, sends.remote(send),
        sends.remoteSize(send));
      message.setControl(0, sends.remoteFamily(send), 0, sends.tos(send));
      const sent = message.send(fd, 0, 1);
      if (sent < 0) this.#countDrop(sent, sends.lengthOf(send, piece, end), 1);
    }
  }

  #countDrop(error: number, bytes: number, packets: number): void {
    const isFull = error === -ERRNO.EAGAIN || error === -ERRNO.ENOBUFS;
    const reason = isFull ? REASON_DEVICE_FULL : REASON_DEVICE_ERROR;
    this.#slots.countDrop(DIRECTION_OUTBOUND, reason, bytes, packets);
  }
}

/** Messages that receive into a worker's slots. */
function messagesOf(slots: Slots): MessageVector {
  const messages = new MessageVector(slots.count, slots.arrivalPlace());
  for (let slot = 0; slot < slots.count; slot += 1) {
    const room = slots.room(slots.first + slot);
    const source = slots.source(slots.first + slot);
    messages.set(slot, room, PACKET_CAPACITY, source, REMOTE_IPV6_SIZE);
  }
  return messages;
}
