// The underlay: one UDP socket that receives and several that send, so that outer source ports
// spread over the flows (RFC 7348 section 5) and each flow keeps to one.

import { PACKET_CAPACITY, REMOTE_IPV6_SIZE } from '../../wasm/abi/layout.ts';
import {
  DIRECTION_OUTBOUND,
  REASON_DEVICE_ERROR,
  REASON_DEVICE_FULL,
} from '../../wasm/abi/verdict.ts';
import { ERRNO } from '../../ffi/errno.ts';
import { MessageVector } from '../../ffi/message-vector.ts';
import type { Slots } from '../slots.ts';
import type { Device } from './device.ts';

interface Sender {
  fd: number;
  messages: MessageVector;
  queued: number;
}

/** An underlay device over sockets whose descriptors belong to someone else. */
export class UdpDevice implements Device {
  readonly name: string;
  readonly descriptors: readonly number[];
  readonly isPending = false;
  readonly #slots: Slots;
  readonly #index: number;
  readonly #receiver: number;
  readonly #received: MessageVector;
  readonly #senders: Sender[];

  constructor(slots: Slots, index: number, name: string, receiver: number, senders: number[]) {
    this.#slots = slots;
    this.#index = index;
    this.name = name;
    this.#receiver = receiver;
    this.descriptors = [receiver];
    this.#received = new MessageVector(slots.count);
    for (let slot = 0; slot < slots.count; slot += 1) {
      const room = slots.room(slots.first + slot);
      const source = slots.source(slots.first + slot);
      this.#received.set(slot, room, PACKET_CAPACITY, source, REMOTE_IPV6_SIZE);
    }
    this.#senders = senders.map((fd) =>
      ({ fd, messages: new MessageVector(slots.count), queued: 0 }));
  }

  read(first: number, count: number): number {
    const place = first - this.#slots.first;
    const received = this.#received.receive(this.#receiver, place, count);
    if (received <= 0) return 0;
    for (let done = 0; done < received; done += 1) {
      this.#slots.fill(first + done, this.#index, this.#received.length(place + done));
    }
    return received;
  }

  write(send: number): void {
    const { sends } = this.#slots;
    const sender = this.#senders[sends.flowHash(send) % this.#senders.length];
    if (sender === undefined) return;
    // A device around this one may send a packet twice: more than one batch holds.
    if (sender.queued === sender.messages.capacity) this.#send(sender);
    const address = sends.pieceAddress(send, 0);
    const [remote, size] = [sends.remote(send), sends.remoteSize(send)];
    sender.messages.set(sender.queued, address, sends.pieceLength(send, 0), remote, size);
    sender.queued += 1;
  }

  flush(): number {
    for (const sender of this.#senders) {
      if (sender.queued > 0) this.#send(sender);
    }
    return 0;
  }

  close(): void {}

  /** Sends all that is queued. A datagram that the kernel refuses is counted and stepped over. */
  #send(sender: Sender): void {
    let done = 0;
    while (done < sender.queued) {
      const sent = sender.messages.send(sender.fd, done, sender.queued - done);
      if (sent > 0) {
        done += sent;
      } else {
        const isFull = sent === -ERRNO.EAGAIN || sent === -ERRNO.ENOBUFS;
        const reason = isFull ? REASON_DEVICE_FULL : REASON_DEVICE_ERROR;
        this.#slots.countDrop(DIRECTION_OUTBOUND, reason, sender.messages.room(done));
        done += 1;
      }
    }
    sender.queued = 0;
  }
}
