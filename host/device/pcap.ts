// Writes what passes through another device to a pcap file, which tcpdump and Wireshark read
// (draft-ietf-opsawg-pcap). A TUN's packets are raw IP; a TAP's, and the inner frames of VXLAN, are
// Ethernet; of other tunnels it is the packets inside, raw. Datagrams that travel together are
// recorded one by one; a super-packet is recorded as it is. A file that is there is continued, so
// that a worker that starts after a crash loses nothing.

import { closeSync, fstatSync, openSync, writeSync } from 'node:fs';
import {
  DEVICE_GENEVE_IPV4,
  DEVICE_GENEVE_IPV6,
  DEVICE_IP6IP_IPV4,
  DEVICE_IP6IP_IPV6,
  DEVICE_IPIP_IPV4,
  DEVICE_IPIP_IPV6,
  DEVICE_UDP_IPV4,
  DEVICE_UDP_IPV6,
  DEVICE_UNDERLAY_IPV4,
  DEVICE_UNDERLAY_IPV6,
  DEVICE_VXLAN_IPV4,
  DEVICE_VXLAN_IPV6,
  FAMILY_IPV4,
  SEND_FLAG_FRAME,
} from '../../wasm/abi/layout.ts';
import {
  ETHERNET_HEADER_SIZE,
  ETHER_TYPE_ETHERNET,
  GENEVE_HEADER_SIZE,
  GENEVE_LENGTH_MASK,
  GENEVE_PROTOCOL,
  GENEVE_VERSION_LENGTH,
  IPV4_HEADER_SIZE,
  IPV6_HEADER_SIZE,
  UDP_HEADER_SIZE,
  VNET_TUNNEL_HEADER_SIZE,
  VXLAN_HEADER_SIZE,
} from '../../wasm/abi/headers.ts';
import type { Slots } from '../slots.ts';
import type { Device } from './device.ts';

const MAGIC = 0xa1b2c3d4;
const FILE_HEADER_SIZE = 24;
const RECORD_HEADER_SIZE = 16;
/** Above every super-packet; what tcpdump takes at most. */
const SNAP_LENGTH = 262144;
export const LINK_TYPE_ETHERNET = 1;
export const LINK_TYPE_RAW = 101;

export interface PcapOptions {
  path: string;
  linkType: number;
  /** Tells how many bytes in front of each packet are not recorded. */
  skip?: Skip;
  /** Likewise, of those in front of a packet that is written: its vnet header. */
  vnetSize?: number;
}

/** Of a packet, or datagram, that was read from a device or is written to it. */
export type Skip = (packet: Uint8Array, isRead: boolean) => number;

/** What is in front of a datagram where a frame is made whole, without the IP header. */
export const FRAME_SKIP = VNET_TUNNEL_HEADER_SIZE + ETHERNET_HEADER_SIZE + UDP_HEADER_SIZE;

/** What lies in front of the frame inside VXLAN, or of the packet inside another tunnel, by the
 * device that it comes or goes by. */
export function tunnelSkip(device: number): Skip {
  switch (device) {
    case DEVICE_GENEVE_IPV4: case DEVICE_GENEVE_IPV6:
      return geneveSkip;
    // A raw socket of IPv4 gives the outer header, too, and takes none: raw(7).
    case DEVICE_IPIP_IPV4: case DEVICE_IP6IP_IPV4:
      return ([first = 0], isRead) => isRead ? (first & 0x0f) * 4 : 0;
    case DEVICE_IPIP_IPV6: case DEVICE_IP6IP_IPV6: case DEVICE_UDP_IPV4: case DEVICE_UDP_IPV6:
      return () => 0;
    default:
      return () => VXLAN_HEADER_SIZE;
  }
}

/** True where what is recorded of a device's datagrams begins with an Ethernet header. */
export function recordsFrames(device: number): boolean {
  return [DEVICE_UNDERLAY_IPV4, DEVICE_UNDERLAY_IPV6, DEVICE_VXLAN_IPV4, DEVICE_VXLAN_IPV6]
    .includes(device);
}

function geneveSkip(datagram: Uint8Array): number {
  const options = ((datagram[GENEVE_VERSION_LENGTH] ?? 0) & GENEVE_LENGTH_MASK) * 4;
  const protocol = ((datagram[GENEVE_PROTOCOL] ?? 0) << 8) | (datagram[GENEVE_PROTOCOL + 1] ?? 0);
  const frame = protocol === ETHER_TYPE_ETHERNET ? ETHERNET_HEADER_SIZE : 0;
  return GENEVE_HEADER_SIZE + options + frame;
}

export class PcapDevice implements Device {
  readonly name: string;
  readonly descriptors: readonly number[];
  readonly #inner: Device;
  readonly #slots: Slots;
  readonly #skip: Skip;
  readonly #vnetSize: number;
  readonly #file: number;
  readonly #record = new DataView(new ArrayBuffer(RECORD_HEADER_SIZE));

  constructor(inner: Device, slots: Slots, options: PcapOptions) {
    this.#inner = inner;
    this.#slots = slots;
    this.#skip = options.skip ?? (() => 0);
    this.#vnetSize = options.vnetSize ?? 0;
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

  read(first: number, count: number, bytes?: number): number {
    const done = this.#inner.read(first, count, bytes);
    for (let slot = first; slot < first + done; slot += 1) {
      const start = this.#slots.start(slot);
      const packet = this.#slots.core.bytes.subarray(start, start + this.#slots.length(slot));
      this.#saveTrain(packet, this.#slots.segmentSize(slot), true);
    }
    return done;
  }

  write(send: number): void {
    const { sends } = this.#slots;
    const packet = sends.copy(send);
    if ((sends.flags(send) & SEND_FLAG_FRAME) !== 0) {
      const isIpv4 = sends.remoteFamily(send) === FAMILY_IPV4;
      const outer = FRAME_SKIP + (isIpv4 ? IPV4_HEADER_SIZE : IPV6_HEADER_SIZE);
      this.#save(packet, outer + this.#skip(packet.subarray(outer), false));
    } else {
      this.#saveTrain(packet.subarray(this.#vnetSize), sends.segmentSize(send), false);
    }
    this.#inner.write(send);
  }

  flush(): number {
    return this.#inner.flush();
  }

  close(): void {
    closeSync(this.#file);
    this.#inner.close();
  }

  /** Saves datagrams of one size that lie one behind the other, the last shorter or not. */
  #saveTrain(train: Uint8Array, segmentSize: number, isRead: boolean): void {
    const size = segmentSize === 0 ? train.length : segmentSize;
    for (let at = 0; at < train.length; at += size) {
      const datagram = train.subarray(at, at + size);
      this.#save(datagram, this.#skip(datagram, isRead));
    }
  }

  #save(packet: Uint8Array, skip: number): void {
    const length = packet.length - skip;
    if (length <= 0) return;
    const now = Date.now();
    this.#record.setUint32(0, Math.floor(now / 1000), true);
    this.#record.setUint32(4, (now % 1000) * 1000, true);
    this.#record.setUint32(8, length, true);
    this.#record.setUint32(12, length, true);
    writeSync(this.#file, new Uint8Array(this.#record.buffer));
    writeSync(this.#file, packet, skip, length);
  }
}
