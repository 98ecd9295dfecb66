// Packet slots and their descriptors as a worker sees them: numbers at fixed places (wasm/abi), no
// objects. The bytes of packets are the core's business and the devices'.

import {
  DESCRIPTOR_INPUT,
  DESCRIPTOR_LENGTH,
  DESCRIPTOR_OUTPUT,
  DESCRIPTOR_SOURCE,
  DESCRIPTOR_START,
  DESCRIPTOR_STRIDE,
  DESCRIPTOR_SEGMENT_SIZE,
  DESCRIPTOR_OUTER_TOS,
  DESCRIPTOR_VERDICT,
  DIRECTORY_BASE,
  DIRECTORY_DESCRIPTORS,
  DIRECTORY_POINTER_SIZE,
  DIRECTORY_SLOT_COUNT,
  TURN_ARRIVAL_SIZE,
  TURN_BEGUN,
  TURN_DONE,
  TURN_OFFER,
  TURN_OFFER_DEVICE_SHIFT,
  TURN_OFFER_END_MASK,
  TURN_READ,
  TURN_SLOTS,
  TURN_SLOT_HEAD,
  TURN_SLOT_HEAD_BEFORE,
  TURN_SLOT_HEAD_SIZE,
  TURN_SLOT_LENGTH,
  TURN_SLOT_SEGMENT_SIZE,
  TURN_SLOT_STRIDE,
} from '../wasm/abi/layout.ts';
import { VERDICT_SEND } from '../wasm/abi/verdict.ts';
import { countDrop } from '../engine/counters.ts';
import type { Core } from '../engine/core.ts';
import { turnRecord } from '../engine/tables/kept.ts';
import { addressOf, POINTER_SIZE } from '../ffi/memory.ts';
import { Sends } from './sends.ts';

/** Of a frame, where its EtherType lies, and first bytes of the packet behind it. */
const FRAME_TYPE_WORD = 12;

/** The slots of one worker; slot numbers are the core's. */
export class Slots {
  readonly core: Core;
  readonly worker: number;
  /** First slot of this worker, and how many it has. */
  readonly first: number;
  readonly count: number;
  /** Absolute address of linear memory. */
  readonly base: number;
  readonly sends: Sends;
  readonly #words: Uint32Array;
  readonly #halves: Uint16Array;
  readonly #descriptors: number;
  /** Address of the record of the turn that is under way. */
  readonly #turn: number;

  constructor(core: Core, worker: number) {
    this.core = core;
    this.worker = worker;
    this.count = core.directory(DIRECTORY_SLOT_COUNT);
    this.first = worker * this.count;
    this.base = addressOf(core.bytes);
    setBase(core, this.base);
    this.sends = new Sends(core, worker, this.base);
    this.#words = new Uint32Array(core.memory.buffer);
    this.#halves = new Uint16Array(core.memory.buffer);
    this.#descriptors = core.directory(DIRECTORY_DESCRIPTORS);
    this.#turn = turnRecord(core, worker);
  }

  /** Absolute address at which a device reads into the slot. */
  room(slot: number): number {
    return this.base + this.core.packetAddress(slot);
  }

  /** Enters a packet that was read to room(). Of an underlay device: `segmentSize` is the size of
   * each datagram but the last where the kernel joined several, else 0; `outerTos` is theirs. */
  fill(slot: number, device: number, length: number, segmentSize = 0, outerTos = 0): void {
    const at = this.#at(slot);
    this.#words[(at + DESCRIPTOR_START) >>> 2] = this.core.packetAddress(slot);
    this.#words[(at + DESCRIPTOR_LENGTH) >>> 2] = length;
    this.#halves[(at + DESCRIPTOR_INPUT) >>> 1] = device;
    this.#halves[(at + DESCRIPTOR_SEGMENT_SIZE) >>> 1] = segmentSize;
    this.core.bytes[at + DESCRIPTOR_OUTER_TOS] = outerTos;
    const place = slot - this.first;
    const saved = this.#turn + TURN_SLOTS + (place * TURN_SLOT_STRIDE);
    this.#words[(saved + TURN_SLOT_LENGTH) >>> 2] = length;
    this.#words[(saved + TURN_SLOT_SEGMENT_SIZE) >>> 2] = segmentSize;
    const head = this.core.packetAddress(slot) - TURN_SLOT_HEAD_BEFORE;
    this.core.bytes.copyWithin(saved + TURN_SLOT_HEAD, head, head + TURN_SLOT_HEAD_SIZE);
    this.#words[(this.#turn + TURN_READ) >>> 2] = place + 1;
  }

  /** Notes that the kernel is about to be given the rooms of `count` slots, to fill them from a
   * device. From now on the slots themselves say what came: a process that is killed before fill()
   * leaves that to the next one (given.ts). Of a TUN or TAP one slot at a time, which is made to
   * look empty: a packet begins with a version, a frame has an EtherType. Of sockets as many as
   * there are messages, whose lengths are 0. */
  offer(slot: number, device: number, count: number): void {
    const start = this.core.packetAddress(slot);
    this.#words[start >>> 2] = 0;
    this.#words[(start + FRAME_TYPE_WORD) >>> 2] = 0;
    this.#words[(this.#turn + TURN_OFFER) >>> 2] =
      (device << TURN_OFFER_DEVICE_SHIFT) | (slot - this.first + count);
  }

  /** The slots that an earlier process offered and did not fill, from the first to before the last,
   * and the device they were offered to. */
  offered(): { device: number; first: number; end: number } {
    const offer = this.#words[(this.#turn + TURN_OFFER) >>> 2] ?? 0;
    const read = this.#words[(this.#turn + TURN_READ) >>> 2] ?? 0;
    return {
      device: offer >>> TURN_OFFER_DEVICE_SHIFT,
      first: this.first + read,
      end: this.first + Math.min(offer & TURN_OFFER_END_MASK, this.count),
    };
  }

  /** Where the messages lie that say what a socket filled slots with: one for each slot. */
  arrivalPlace(): Uint8Array {
    const start = this.#turn + TURN_SLOTS + (this.count * TURN_SLOT_STRIDE);
    return this.core.bytes.subarray(start, start + (this.count * TURN_ARRIVAL_SIZE));
  }

  /** Notes that the core may change the packets of this turn from now on. */
  beginTurn(): void {
    this.#words[(this.#turn + TURN_BEGUN) >>> 2] = 1;
  }

  /** Notes that so many packets of this turn are written. */
  noteDone(done: number): void {
    this.#words[(this.#turn + TURN_DONE) >>> 2] = done;
  }

  /** Notes that nothing is in our hands any more. */
  endTurn(): void {
    this.#words[(this.#turn + TURN_OFFER) >>> 2] = 0;
    this.#words[(this.#turn + TURN_READ) >>> 2] = 0;
    this.#words[(this.#turn + TURN_DONE) >>> 2] = 0;
    this.#words[(this.#turn + TURN_BEGUN) >>> 2] = 0;
  }

  /** The packets read and not written yet, from the first to before the last. */
  turnInHand(): [first: number, end: number] {
    const first = this.#words[(this.#turn + TURN_DONE) >>> 2] ?? 0;
    const end = this.#words[(this.#turn + TURN_READ) >>> 2] ?? 0;
    return [first, end];
  }

  /** The packets that an earlier process left in its hands. They are forgotten here: what ends the
   * process once must not end every next one. */
  takeTurn(): [first: number, end: number] {
    const turn = this.turnInHand();
    this.endTurn();
    return turn;
  }

  /** Absolute address where a datagram's outer source goes. */
  source(slot: number): number {
    return this.base + this.#at(slot) + DESCRIPTOR_SOURCE;
  }

  /** True where the slot holds a packet to send. */
  isSent(slot: number): boolean {
    return this.core.bytes[this.#at(slot) + DESCRIPTOR_VERDICT] === VERDICT_SEND;
  }

  /** Index of the device that gets the packet. */
  output(slot: number): number {
    return this.#halves[(this.#at(slot) + DESCRIPTOR_OUTPUT) >>> 1] ?? 0;
  }

  /** Offset of the packet's first byte in linear memory. */
  start(slot: number): number {
    return this.#words[(this.#at(slot) + DESCRIPTOR_START) >>> 2] ?? 0;
  }

  length(slot: number): number {
    return this.#words[(this.#at(slot) + DESCRIPTOR_LENGTH) >>> 2] ?? 0;
  }

  /** Bytes of each datagram but the last where the kernel joined several, else 0. */
  segmentSize(slot: number): number {
    return this.#halves[(this.#at(slot) + DESCRIPTOR_SEGMENT_SIZE) >>> 1] ?? 0;
  }

  /** TOS or traffic class of the outer header that it came with. */
  outerTos(slot: number): number {
    return this.core.bytes[this.#at(slot) + DESCRIPTOR_OUTER_TOS] ?? 0;
  }

  /** Counts packets lost at a device: how many, and their bytes together. */
  countDrop(direction: number, reason: number, length: number, packets = 1): void {
    countDrop(this.core, this.worker, direction, reason, length, packets);
  }

  #at(slot: number): number {
    return this.#descriptors + (slot * DESCRIPTOR_STRIDE);
  }
}

/** Tells the core where its memory lies, so that it can write what the kernel reads. The same in
 * every thread of the process. */
function setBase(core: Core, base: number): void {
  core.setDirectory(DIRECTORY_POINTER_SIZE, POINTER_SIZE);
  core.setDirectory(DIRECTORY_BASE, base >>> 0);
  core.setDirectory(DIRECTORY_BASE + 4, Math.floor(base / 0x1_0000_0000));
}
