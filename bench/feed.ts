// Writes TCP packets of 64 bytes (IPv4) or 84 bytes (IPv6) into a core's slots, as devices would:
// headers only, word by word, because that costs a few nanoseconds where a copy costs fifty. The
// payload stays what it is, and TCP's checksum is 0: the core looks at neither.

import * as layout from '../wasm/abi/layout.ts';
import { macBytes } from '../engine/address.ts';
import type { Core } from '../engine/core.ts';
import { BATCH, OWN_MAC, VNI, deviceOf } from './scene.ts';
import { Hash } from './random.ts';

export const SYN = 0x02;
export const SYN_ACK = 0x12;
export const ACK = 0x10;

const IPV4_LENGTH = 64;
const IPV6_LENGTH = 84;
/** VXLAN and Ethernet headers, RFC 7348 section 5. */
const TUNNEL_SIZE = 22;
/** Room in front of the IP header, so that it is aligned with tunnel headers and without. */
const FRONT_WORDS = 6;
/** 10.64.0.0 and 10.128.0.0, fd00:64:: and fd00:128::, first words as they lie in memory. */
const LOCAL_IPV4 = 0x0000400a;
const REMOTE_IPV4 = 0x0000800a;
const LOCAL_IPV6 = 0x640000fd;
const REMOTE_IPV6 = 0x280100fd;

export class Feed {
  readonly core: Core;
  /** The first of the worker's slots. */
  readonly firstSlot: number;
  #words: Int32Array;
  /** Word index of each slot's IP header, and of its descriptor. */
  #packets: Int32Array;
  #descriptors: Int32Array;
  #tunnel: Record<4 | 6, Int32Array>;

  constructor(core: Core, worker = 0) {
    this.core = core;
    this.firstSlot = worker * BATCH;
    this.#words = new Int32Array(core.memory.buffer);
    const slots = Array.from({ length: BATCH }, (_, slot) => this.firstSlot + slot);
    this.#packets = Int32Array.from(slots, (slot) => (core.packetAddress(slot) / 4) + FRONT_WORDS);
    this.#descriptors = Int32Array.from(slots, (slot) => core.descriptorAddress(slot) / 4);
    this.#tunnel = { 4: tunnelWords(0x0800), 6: tunnelWords(0x86dd) };
  }

  /** An IPv4 packet into the worker's slot number `slot`. `fromLocal` and `toLocal` say which ends
   * are pods of this node. */
  putIpv4(
    slot: number, from: number, fromLocal: boolean, to: number, toLocal: boolean,
    sourcePort: number, destinationPort: number, flags: number,
  ): void {
    const words = this.#words;
    const at = this.#packets[slot] ?? 0;
    const source = fromLocal ? localIpv4(from) : remoteIpv4(from);
    const destination = toLocal ? localIpv4(to) : remoteIpv4(to);
    let sum = FIXED_SUM_IPV4 + (source & 0xffff) + (source >>> 16)
      + (destination & 0xffff) + (destination >>> 16);
    sum = (sum & 0xffff) + (sum >>> 16);
    sum = (sum & 0xffff) + (sum >>> 16);
    words[at] = 0x45 | (IPV4_LENGTH << 24);
    words[at + 1] = 0;
    words[at + 2] = 0x0640 | ((0xffff - sum) << 16);
    words[at + 3] = source;
    words[at + 4] = destination;
    this.#putTcp(at + 5, sourcePort, destinationPort, flags);
    this.#describe(slot, at, 4, IPV4_LENGTH, from, fromLocal);
  }

  /** The same for IPv6. */
  putIpv6(
    slot: number, from: number, fromLocal: boolean, to: number, toLocal: boolean,
    sourcePort: number, destinationPort: number, flags: number,
  ): void {
    const words = this.#words;
    const at = this.#packets[slot] ?? 0;
    words[at] = 0x60;
    words[at + 1] = ((IPV6_LENGTH - 40) << 8) | (6 << 16) | (64 << 24);
    this.#putIpv6Address(at + 2, from, fromLocal);
    this.#putIpv6Address(at + 6, to, toLocal);
    this.#putTcp(at + 10, sourcePort, destinationPort, flags);
    this.#describe(slot, at, 6, IPV6_LENGTH, from, fromLocal);
  }

  /** Hash of what the slots' verdicts are, of the packets to be sent, and of the outbox. */
  hashSlots(hash: Hash): void {
    const { core } = this;
    for (let slot = 0; slot < BATCH; slot += 1) {
      const at = core.descriptorAddress(this.firstSlot + slot);
      const start = core.view.getUint32(at + layout.DESCRIPTOR_START, true);
      const length = core.view.getUint32(at + layout.DESCRIPTOR_LENGTH, true);
      hash.add(core.view.getUint32(at + layout.DESCRIPTOR_OUTPUT, true));
      hash.add(core.view.getUint16(at + layout.DESCRIPTOR_VERDICT, true));
      hash.addBytes(core.bytes.subarray(start, start + length));
    }
    const sends = core.directory(layout.DIRECTORY_SENDS);
    const count = core.view.getUint32(layout.WORKERS_START + layout.WORKER_SENDS, true);
    for (let index = 0; index < count; index += 1) {
      const send = sends + (index * layout.SEND_STRIDE);
      hash.addBytes(core.bytes.subarray(send + layout.SEND_PIECE_COUNT, send + layout.SEND_PEER));
      const remote = send + layout.SEND_REMOTE;
      hash.addBytes(core.bytes.subarray(remote, remote + layout.REMOTE_IPV4_SIZE));
    }
  }

  #putIpv6Address(at: number, pod: number, local: boolean): void {
    const words = this.#words;
    words[at] = local ? LOCAL_IPV6 : REMOTE_IPV6;
    words[at + 1] = local ? 0 : (pod & 255) << 24;
    words[at + 2] = 0;
    words[at + 3] = local
      ? swapped(pod + 256) << 16
      : ((pod >>> 8) + 1) << 24;
  }

  #putTcp(at: number, sourcePort: number, destinationPort: number, flags: number): void {
    const words = this.#words;
    words[at] = swapped(sourcePort) | (swapped(destinationPort) << 16);
    words[at + 1] = 0x01000000;
    words[at + 2] = 0x01000000;
    words[at + 3] = 0x50 | (flags << 8) | 0xffff0000;
    words[at + 4] = 0;
  }

  /** Fills in the descriptor, and for a packet of a peer what is around it. */
  #describe(
    slot: number, at: number, family: 4 | 6, length: number, from: number, fromLocal: boolean,
  ): void {
    const words = this.#words;
    const descriptor = this.#descriptors[slot] ?? 0;
    if (fromLocal) {
      words[descriptor] = at << 2;
      words[descriptor + 1] = length;
      words[descriptor + 2] = deviceOf(from);
      return;
    }
    const tunnel = this.#tunnel[family];
    for (let index = 0; index < FRONT_WORDS; index += 1) {
      words[at - FRONT_WORDS + index] = tunnel[index] ?? 0;
    }
    words[descriptor] = (at << 2) - TUNNEL_SIZE;
    words[descriptor + 1] = length + TUNNEL_SIZE;
    words[descriptor + 2] = layout.DEVICE_UNDERLAY_IPV4;
    const source = descriptor + (layout.DESCRIPTOR_SOURCE >> 2);
    words[source] = layout.FAMILY_IPV4 | (swapped(8472) << 16);
    words[source + 1] = 0x000110ac | ((from & 255) << 24);
  }
}

/** What is the same in every IPv4 header, summed up as RFC 1071 section 2 (B) allows. */
const FIXED_SUM_IPV4 = 0x45 + (IPV4_LENGTH << 8) + 0x0640;

function localIpv4(pod: number): number {
  return LOCAL_IPV4 | (swapped(pod + 256) << 16);
}

function remoteIpv4(pod: number): number {
  return REMOTE_IPV4 | ((pod & 255) << 16) | (((pod >>> 8) + 1) << 24);
}

/** A 16-bit number in network order, as it lies in memory. */
function swapped(value: number): number {
  return ((value & 255) << 8) | (value >>> 8);
}

/** VXLAN and Ethernet headers behind two bytes that are not theirs. */
function tunnelWords(etherType: number): Int32Array {
  const bytes = new Uint8Array(FRONT_WORDS * 4);
  const view = new DataView(bytes.buffer);
  bytes[2] = 0x08;
  view.setUint32(6, VNI << 8);
  bytes.set(macBytes(OWN_MAC), 10);
  bytes.set(macBytes('02:00:00:00:02:00'), 16);
  view.setUint16(22, etherType);
  return new Int32Array(bytes.buffer);
}
