// A data worker's side of a capture: copies packets as they come and go, and those that are
// dropped, while somebody looks. Whether anybody does is one word of shared memory, read once a
// turn: a new thread, or a standby that takes over, sees it too, and nothing else is paid for a
// capture that is not there.

import {
  CAPTURE_DROPPED, CAPTURE_LOCAL, CAPTURE_UNDERLAY, DEVICE_FIRST_ENDPOINT, DEVICE_NODE,
  DIRECTORY_CAPTURE, DIRECTORY_CAPTURE_LENGTH, DIRECTORY_DROPPED, DROPPED_BYTES, DROPPED_CAPTURED,
  DROPPED_DEVICE, DROPPED_DIRECTION, DROPPED_HEAD, DROPPED_LENGTH, DROPPED_LIMIT, DROPPED_PACKETS,
  DROPPED_REASON, DROPPED_RECORDS, DROPPED_SIZE, DIRECTORY_START, FAMILY_IPV4, SEND_FLAG_FRAME,
} from '../wasm/abi/layout.ts';
import { IPV4_HEADER_SIZE, IPV6_HEADER_SIZE } from '../wasm/abi/headers.ts';
import { FRAME_SKIP, tunnelSkip } from './device/pcap.ts';
import type { Slots } from './slots.ts';

/** A packet at a device, or one that was dropped. */
export interface TapRecord {
  device: number;
  /** Of a packet at a device: whether it came from there. */
  isRead: boolean;
  /** Why it was dropped, REASON_*; 0 for a packet at a device. */
  reason: number;
  /** DIRECTION_* of a dropped packet. */
  direction: number;
  /** Packets that it stands for. */
  packets: number;
  timeMs: number;
  length: number;
  bytes: Uint8Array;
}

/** What a turn has captured; `lost` dropped packets were overwritten in their ring. */
export interface TapBatch {
  records: TapRecord[];
  lost: number;
}

export class CaptureTap {
  readonly #slots: Slots;
  readonly #report: (batch: TapBatch) => void;
  readonly #words: Uint32Array;
  readonly #ring: number;
  #wanted = 0;
  #head = 0;
  #records: TapRecord[] = [];
  #lost = 0;

  constructor(slots: Slots, report: (batch: TapBatch) => void) {
    this.#slots = slots;
    this.#report = report;
    this.#words = new Uint32Array(slots.core.memory.buffer);
    const size = DROPPED_RECORDS + (DROPPED_LIMIT * DROPPED_SIZE);
    this.#ring = slots.core.directory(DIRECTORY_DROPPED) + (slots.worker * size);
  }

  /** Looks whether anything is wanted, before a turn. */
  begin(): boolean {
    const wanted = this.#words[(DIRECTORY_START + DIRECTORY_CAPTURE) >>> 2] ?? 0;
    if (wanted === 0 && this.#wanted === 0) return false;
    const isNew = (wanted & CAPTURE_DROPPED) !== 0 && (this.#wanted & CAPTURE_DROPPED) === 0;
    if (isNew) this.#head = this.#dropHead();
    this.#wanted = wanted;
    return wanted !== 0;
  }

  /** Takes note of what a device has just filled slots with. */
  read(device: number, first: number, count: number): void {
    if (!this.#isWanted(device)) return;
    const slots = this.#slots;
    for (let slot = first; slot < first + count; slot += 1) {
      const start = slots.start(slot);
      const packet = slots.core.bytes.subarray(start, start + slots.length(slot));
      this.#train(device, packet, slots.segmentSize(slot), true);
    }
  }

  /** Takes note of what a device is about to get. `vnetSize` bytes in front are none of the
   * packet's. */
  written(device: number, send: number, vnetSize: number): void {
    if (!this.#isWanted(device)) return;
    const { sends } = this.#slots;
    const packet = sends.copy(send);
    if ((sends.flags(send) & SEND_FLAG_FRAME) === 0) {
      return this.#train(device, packet.subarray(vnetSize), sends.segmentSize(send), false);
    }
    const isIpv4 = sends.remoteFamily(send) === FAMILY_IPV4;
    const outer = FRAME_SKIP + (isIpv4 ? IPV4_HEADER_SIZE : IPV6_HEADER_SIZE);
    this.#save(device, packet.subarray(outer), false);
  }

  /** Takes what the core has dropped in its last batch. */
  dropped(): void {
    if ((this.#wanted & CAPTURE_DROPPED) === 0) return;
    const head = this.#dropHead();
    const count = (head - this.#head) >>> 0;
    this.#lost += Math.max(0, count - DROPPED_LIMIT);
    for (let back = Math.min(count, DROPPED_LIMIT); back > 0; back -= 1) {
      this.#drop((head - back) >>> 0);
    }
    this.#head = head;
  }

  /** Hands over what there is, after a turn. */
  end(): void {
    if (this.#records.length === 0 && this.#lost === 0) return;
    this.#report({ records: this.#records, lost: this.#lost });
    this.#records = [];
    this.#lost = 0;
  }

  #isWanted(device: number): boolean {
    const isLocal = device === DEVICE_NODE || device >= DEVICE_FIRST_ENDPOINT;
    return (this.#wanted & (isLocal ? CAPTURE_LOCAL : CAPTURE_UNDERLAY)) !== 0;
  }

  /** Datagrams of one size that lie one behind the other, the last shorter or not. */
  #train(device: number, train: Uint8Array, segmentSize: number, isRead: boolean): void {
    const size = segmentSize === 0 ? train.length : segmentSize;
    for (let at = 0; at < train.length; at += size) {
      this.#save(device, train.subarray(at, at + size), isRead);
    }
  }

  #save(device: number, datagram: Uint8Array, isRead: boolean): void {
    const isLocal = device === DEVICE_NODE || device >= DEVICE_FIRST_ENDPOINT;
    const skip = isLocal ? 0 : tunnelSkip(device)(datagram, isRead);
    const packet = datagram.subarray(skip);
    this.#records.push({
      device, isRead, reason: 0, direction: 0, packets: 1, timeMs: Date.now(),
      length: packet.length, bytes: this.#cut(packet),
    });
  }

  #drop(number: number): void {
    const { bytes, view } = this.#slots.core;
    const at = this.#ring + DROPPED_RECORDS + ((number & (DROPPED_LIMIT - 1)) * DROPPED_SIZE);
    const start = at + DROPPED_BYTES;
    const captured = view.getUint16(at + DROPPED_CAPTURED, true);
    this.#records.push({
      device: view.getUint16(at + DROPPED_DEVICE, true),
      isRead: true,
      reason: view.getUint8(at + DROPPED_REASON),
      direction: view.getUint8(at + DROPPED_DIRECTION),
      packets: view.getUint16(at + DROPPED_PACKETS, true),
      timeMs: Date.now(),
      length: view.getUint32(at + DROPPED_LENGTH, true),
      bytes: this.#cut(bytes.subarray(start, start + captured)),
    });
  }

  #dropHead(): number {
    return this.#slots.core.view.getUint32(this.#ring + DROPPED_HEAD, true);
  }

  /** A copy in memory that is not shared. */
  #cut(packet: Uint8Array): Uint8Array {
    const limit = this.#slots.core.directory(DIRECTORY_CAPTURE_LENGTH);
    return new Uint8Array(packet.subarray(0, limit));
  }
}
