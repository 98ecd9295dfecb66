// Damages packets in place, in linear memory, without allocating: what a seed repeats exactly. Most
// damage leaves a packet that a core looks deep into: lengths and header fields take the values at
// the edges, and checksums are often made right again.

import * as layout from '../../wasm/abi/layout.ts';
import type { Core } from '../../engine/core.ts';
import { writeRemote } from '../../engine/tables/peer.ts';
import { PROTOCOL } from '../support/packets.ts';
import { Random } from '../support/random.ts';
import type { CorpusEntry } from './corpus.ts';

/** Bytes behind a slot's start of packet that mutation may write to. */
export const PACKET_REACH = 2048;

/** Offsets from the IP header of fields worth an extreme value, by version. */
const IPV4_FIELDS = [0, 1, 2, 3, 6, 7, 8, 9, 12, 13, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 28];
const IPV6_FIELDS = [0, 4, 5, 6, 7, 8, 9, 23, 24, 25, 26, 31, 39, 40, 41, 42, 43, 48, 49, 56, 57];
const EXTREMES = [
  0x00, 0x01, 0x02, 0x04, 0x05, 0x06, 0x0f, 0x11, 0x2b, 0x2c, 0x33, 0x3a, 0x3c, 0x3f, 0x40, 0x45,
  0x46, 0x4f, 0x60, 0x7f, 0x80, 0x87, 0x89, 0xe0, 0xfe, 0xff,
];

export class Mutator {
  readonly #core: Core;
  readonly #bytes: Uint8Array;
  readonly #entries: CorpusEntry[];
  readonly #random: Random;
  /** Where each entry's packet and remote lie, ready to be copied. */
  readonly #packets: number[] = [];
  readonly #remotes: number[] = [];

  /** The corpus goes into the slots from `firstSlot` on, one entry to each. */
  constructor(core: Core, entries: CorpusEntry[], firstSlot: number, seed: number) {
    this.#core = core;
    this.#bytes = core.bytes;
    this.#entries = entries;
    this.#random = new Random(seed);
    for (const [index, { packet, source }] of entries.entries()) {
      const at = core.packetAddress(firstSlot + index);
      const remote = at - layout.REMOTE_IPV6_SIZE;
      core.bytes.set(packet, at);
      writeRemote(core.view, core.bytes, remote, source.address, source.port);
      this.#packets.push(at);
      this.#remotes.push(remote);
    }
  }

  /** Puts a damaged packet into a slot, and its descriptor. */
  fill(slot: number): void {
    const random = this.#random;
    const index = random.below(this.#entries.length);
    const entry = this.#entries[index];
    if (entry === undefined) return;
    const start = this.#core.packetAddress(slot);
    const from = this.#packets[index] ?? 0;
    this.#bytes.copyWithin(start, from, from + entry.packet.length);
    let length = entry.packet.length;
    for (let left = random.below(5); left > 0; left -= 1) {
      length = this.#damage(start, length, entry.layer3);
    }
    if ((random.next() & 3) !== 0) this.#repair(start + entry.layer3, length - entry.layer3);
    this.#describe(slot, start, length, entry.input, this.#remotes[index] ?? 0);
  }

  #describe(slot: number, start: number, length: number, input: number, remote: number): void {
    const { view } = this.#core;
    const descriptor = this.#core.descriptorAddress(slot);
    const choice = this.#random.below(512);
    view.setUint32(descriptor + layout.DESCRIPTOR_START, start, true);
    view.setUint32(descriptor + layout.DESCRIPTOR_LENGTH, length, true);
    const device = choice === 0 ? this.#random.next() & 0xffff : choice < 18 ? choice : input;
    view.setUint16(descriptor + layout.DESCRIPTOR_INPUT, device, true);
    view.setUint16(descriptor + layout.DESCRIPTOR_SEGMENT_SIZE, 0, true);
    view.setUint8(descriptor + layout.DESCRIPTOR_OUTER_TOS, 0);
    const source = descriptor + layout.DESCRIPTOR_SOURCE;
    this.#bytes.copyWithin(source, remote, remote + layout.REMOTE_IPV6_SIZE);
    if (choice === 18) this.#flip(source, layout.REMOTE_IPV6_SIZE);
  }

  /** One kind of damage; returns the new length. */
  #damage(start: number, length: number, layer3: number): number {
    const random = this.#random;
    switch (random.below(12)) {
      case 0: return random.below(length + 1);
      case 1: return this.#extend(start, length);
      case 2: return this.#splice(start, length);
      case 3: return this.#stretch(start, length, layer3);
      case 4: case 5:
        this.#flip(start, length);
        return length;
      case 6:
        if (length > 0) this.#bytes[this.#within(start, length)] = this.#extreme();
        return length;
      default:
        this.#setField(start + layer3, length - layer3);
        return length;
    }
  }

  #extreme(): number {
    return EXTREMES[this.#random.below(EXTREMES.length)] ?? 0;
  }

  /** Any address of the packet, of its first part where it is long. */
  #within(start: number, length: number): number {
    return start + this.#random.below(Math.min(length, PACKET_REACH));
  }

  #flip(start: number, length: number): void {
    if (length === 0) return;
    const at = this.#within(start, length);
    this.#bytes[at] = (this.#bytes[at] ?? 0) ^ (1 << this.#random.below(8));
  }

  #extend(start: number, length: number): number {
    const more = Math.min(this.#random.below(64), PACKET_REACH - length);
    if (more <= 0) return length;
    const value = this.#extreme();
    this.#bytes.fill(value, start + length, start + length + more);
    return length + more;
  }

  /** Puts a piece of another packet somewhere into this one. */
  #splice(start: number, length: number): number {
    const random = this.#random;
    const other = random.below(this.#entries.length);
    const size = this.#entries[other]?.packet.length ?? 0;
    const from = random.below(size + 1);
    const at = random.below(length + 1);
    const piece = Math.min(random.below(size - from + 1), PACKET_REACH - at);
    if (piece <= 0) return length;
    const source = (this.#packets[other] ?? 0) + from;
    this.#bytes.copyWithin(start + at, source, source + piece);
    return Math.max(length, at + piece);
  }

  /** Makes the packet long, up to what a slot takes, and its length field agree. The new bytes are
   * what lies there. */
  #stretch(start: number, length: number, layer3: number): number {
    const random = this.#random;
    if (length < layer3 + 8 || random.below(4) !== 0) return length;
    const sizes = random.below(3);
    const size = sizes === 0
      ? 1200 + random.below(300)
      : sizes === 1 ? random.below(65536) : 65535 - random.below(3);
    const ipv4 = (this.#bytes[start + layer3] ?? 0) >> 4 === 4;
    const field = ipv4 ? size : Math.max(size - 40, 0);
    this.#put16(start + layer3 + (ipv4 ? 2 : 4), field);
    return Math.max(length, Math.min(layer3 + size, layout.PACKET_CAPACITY));
  }

  #setField(header: number, length: number): void {
    if (length <= 0) return;
    const fields = (this.#bytes[header] ?? 0) >> 4 === 4 ? IPV4_FIELDS : IPV6_FIELDS;
    const at = fields[this.#random.below(fields.length)] ?? 0;
    if (at < length) this.#bytes[header + at] = this.#extreme();
  }

  /** Makes the checksum right that the core would look at first. */
  #repair(header: number, length: number): void {
    if (length < 20) return;
    const first = this.#bytes[header] ?? 0;
    const size = (first & 0x0f) * 4;
    if (first >> 4 === 4 && size >= 20 && size <= length) {
      this.#put16(header + 10, 0);
      this.#put16(header + 10, this.#sum(header, size, 0));
    }
    const isNeighbour = first >> 4 === 6 && this.#bytes[header + 6] === PROTOCOL.icmpv6;
    const payload = this.#get16(header + 4);
    if (!isNeighbour || payload < 8 || payload > 256 || length < 40 + payload) return;
    this.#put16(header + 42, 0);
    const pseudo = payload + PROTOCOL.icmpv6;
    this.#put16(header + 42, this.#sum(header + 8, 32 + payload, pseudo));
  }

  #sum(start: number, length: number, seed: number): number {
    let sum = seed;
    for (let at = 0; at + 1 < length; at += 2) sum += this.#get16(start + at);
    if ((length & 1) !== 0) sum += (this.#bytes[start + length - 1] ?? 0) << 8;
    while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
    return 0xffff - sum;
  }

  #get16(at: number): number {
    return ((this.#bytes[at] ?? 0) << 8) | (this.#bytes[at + 1] ?? 0);
  }

  #put16(at: number, value: number): void {
    this.#bytes[at] = value >> 8;
    this.#bytes[at + 1] = value & 0xff;
  }
}
