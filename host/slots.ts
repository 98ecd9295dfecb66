// Packet slots and their descriptors as a worker sees them: numbers at fixed places (wasm/abi), no
// objects. The bytes of packets are the core's business and the devices'.

import {
  DESCRIPTOR_FLOW_HASH,
  DESCRIPTOR_INPUT,
  DESCRIPTOR_LENGTH,
  DESCRIPTOR_OUTPUT,
  DESCRIPTOR_REMOTE,
  DESCRIPTOR_SOURCE,
  DESCRIPTOR_START,
  DESCRIPTOR_STRIDE,
  DESCRIPTOR_VERDICT,
  DIRECTORY_DESCRIPTORS,
  DIRECTORY_SLOT_COUNT,
  FAMILY_IPV4,
  REMOTE_IPV4_SIZE,
  REMOTE_IPV6_SIZE,
} from '../wasm/abi/layout.ts';
import { VERDICT_SEND } from '../wasm/abi/verdict.ts';
import { countDrop } from '../engine/counters.ts';
import type { Core } from '../engine/core.ts';
import { addressOf } from '../ffi/memory.ts';

/** The slots of one worker; slot numbers are the core's. */
export class Slots {
  readonly core: Core;
  readonly worker: number;
  /** First slot of this worker, and how many it has. */
  readonly first: number;
  readonly count: number;
  /** Absolute address of linear memory. */
  readonly base: number;
  readonly #words: Uint32Array;
  readonly #halves: Uint16Array;
  readonly #descriptors: number;

  constructor(core: Core, worker: number) {
    this.core = core;
    this.worker = worker;
    this.count = core.directory(DIRECTORY_SLOT_COUNT);
    this.first = worker * this.count;
    this.base = addressOf(core.bytes);
    this.#words = new Uint32Array(core.memory.buffer);
    this.#halves = new Uint16Array(core.memory.buffer);
    this.#descriptors = core.directory(DIRECTORY_DESCRIPTORS);
  }

  /** Absolute address at which a device reads into the slot. */
  room(slot: number): number {
    return this.base + this.core.packetAddress(slot);
  }

  /** Enters a packet that was read to room(). */
  fill(slot: number, device: number, length: number): void {
    const at = this.#at(slot);
    this.#words[(at + DESCRIPTOR_START) >>> 2] = this.core.packetAddress(slot);
    this.#words[(at + DESCRIPTOR_LENGTH) >>> 2] = length;
    this.#halves[(at + DESCRIPTOR_INPUT) >>> 1] = device;
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

  flowHash(slot: number): number {
    return this.#words[(this.#at(slot) + DESCRIPTOR_FLOW_HASH) >>> 2] ?? 0;
  }

  /** Absolute address of the packet's outer destination, a socket address. */
  remote(slot: number): number {
    return this.base + (this.#words[(this.#at(slot) + DESCRIPTOR_REMOTE) >>> 2] ?? 0);
  }

  /** Bytes of that socket address. */
  remoteSize(slot: number): number {
    const remote = this.#words[(this.#at(slot) + DESCRIPTOR_REMOTE) >>> 2] ?? 0;
    return this.#halves[remote >>> 1] === FAMILY_IPV4 ? REMOTE_IPV4_SIZE : REMOTE_IPV6_SIZE;
  }

  /** Counts a packet lost at a device. */
  countDrop(direction: number, reason: number, length: number): void {
    countDrop(this.core, this.worker, direction, reason, length);
  }

  #at(slot: number): number {
    return this.#descriptors + (slot * DESCRIPTOR_STRIDE);
  }
}
