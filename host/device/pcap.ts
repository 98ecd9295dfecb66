// Writes what passes through another device to a pcap file, which tcpdump and Wireshark read
// (draft-ietf-opsawg-pcap). A TUN's packets are raw IP; a TAP's, and the inner frames of an
// underlay device behind its tunnel header, are Ethernet. A file that is there is continued, so
// that a worker that starts after a crash loses nothing.

import { closeSync, fstatSync, openSync, writeSync } from 'node:fs';
import type { Slots } from '../slots.ts';
import type { Device } from './device.ts';

const MAGIC = 0xa1b2c3d4;
const FILE_HEADER_SIZE = 24;
const RECORD_HEADER_SIZE = 16;
const SNAP_LENGTH = 65600;
export const LINK_TYPE_ETHERNET = 1;
export const LINK_TYPE_RAW = 101;

export interface PcapOptions {
  path: string;
  linkType: number;
  /** Bytes in front of the recorded packet that are not part of it. */
  skip: number;
}

export class PcapDevice implements Device {
  readonly name: string;
  readonly descriptors: readonly number[];
  readonly #inner: Device;
  readonly #slots: Slots;
  readonly #skip: number;
  readonly #file: number;
  readonly #record = new DataView(new ArrayBuffer(RECORD_HEADER_SIZE));

  constructor(inner: Device, slots: Slots, options: PcapOptions) {
    this.#inner = inner;
    this.#slots = slots;
    this.#skip = options.skip;
    this.name = inner.name;
    this.descriptors = inner.descriptors;
    this.#file = openSync(options.path, 'a', 0o600);
    if (fstatSync(this.#file).size === 0) this.#writeHeader(options.linkType);
  }

  #writeHeader(linkType: number): void {
    const header = new DataView(new ArrayBuffer(FILE_HEADER_SIZE));
    header.setUint32(0, MAGIC, true);
    header.setUint16(4, 2, true);
    header.setUint16(6, 4, true);
    header.setUint32(16, SNAP_LENGTH, true);
    header.setUint32(20, linkType, true);
    writeSync(this.#file, new Uint8Array(header.buffer));
  }

  get isPending(): boolean {
    return this.#inner.isPending;
  }

  read(first: number, count: number): number {
    const done = this.#inner.read(first, count);
    for (let slot = first; slot < first + done; slot += 1) {
      const start = this.#slots.start(slot);
      this.#save(this.#slots.core.bytes.subarray(start, start + this.#slots.length(slot)));
    }
    return done;
  }

  write(send: number): void {
    this.#save(this.#slots.sends.copy(send));
    this.#inner.write(send);
  }

  flush(): number {
    return this.#inner.flush();
  }

  close(): void {
    closeSync(this.#file);
    this.#inner.close();
  }

  #save(packet: Uint8Array): void {
    const length = packet.length - this.#skip;
    if (length <= 0) return;
    const now = Date.now();
    this.#record.setUint32(0, Math.floor(now / 1000), true);
    this.#record.setUint32(4, (now % 1000) * 1000, true);
    this.#record.setUint32(8, length, true);
    this.#record.setUint32(12, length, true);
    writeSync(this.#file, new Uint8Array(this.#record.buffer));
    writeSync(this.#file, packet, this.#skip, length);
  }
}
