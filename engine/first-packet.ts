// The first packet of a connection, as a pod's stack would send it: TCP SYN, a UDP datagram, SCTP
// INIT, ICMP echo request; and the VXLAN frame that brings it from another node. All fields are
// right, checksums included.

import {
  ETHERNET_HEADER_SIZE, ETHERNET_SOURCE, ETHERNET_TYPE, ETHER_TYPE_IPV4, ETHER_TYPE_IPV6,
  ICMPV6_ECHO_REQUEST, ICMP_ECHO_REQUEST, IPV4_CHECKSUM, IPV4_DESTINATION, IPV4_FLAGS_OFFSET,
  IPV4_HEADER_SIZE, IPV4_PROTOCOL, IPV4_SOURCE, IPV4_TOTAL_LENGTH, IPV4_TTL, IPV6_DESTINATION,
  IPV6_HEADER_SIZE, IPV6_HOP_LIMIT, IPV6_NEXT_HEADER, IPV6_PAYLOAD_LENGTH, IPV6_SOURCE,
  PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP, VXLAN_FLAGS,
  VXLAN_FLAG_VNI, VXLAN_HEADER_SIZE, VXLAN_VNI,
} from '../wasm/abi/headers.ts';

export type Protocol = 'TCP' | 'UDP' | 'SCTP' | 'ICMP';

/** What a flow's first packet says. Addresses are 4 or 16 bytes, both alike. For ICMP `sourcePort`
 * is the echo's identifier. */
export interface FirstPacket {
  source: Uint8Array;
  destination: Uint8Array;
  protocol: Protocol;
  sourcePort: number;
  destinationPort: number;
  /** Bytes of zeros behind the header, which TCP, UDP and ICMP may have. */
  payload?: number;
}

const TTL = 64;
const VERSION_4 = 0x45;
const VERSION_6 = 0x60;
const DONT_FRAGMENT = 0x4000;

/** What a VXLAN frame takes in front of the packet. */
export const FRAME_SIZE = VXLAN_HEADER_SIZE + ETHERNET_HEADER_SIZE;

/** Writes the packet and returns its length. */
export function emitPacket(view: DataView, at: number, packet: FirstPacket): number {
  const isIpv4 = packet.source.length === 4;
  const payload = at + (isIpv4 ? IPV4_HEADER_SIZE : IPV6_HEADER_SIZE);
  const size = emitTransport(view, payload, packet);
  if (isIpv4) emitIpv4(view, at, packet, size);
  else emitIpv6(view, at, packet, size);
  emitChecksum(view, payload, size, packet);
  return payload + size - at;
}

/** Writes VXLAN and Ethernet headers as a peer would, RFC 7348 section 5; FRAME_SIZE bytes. */
export function emitFrame(
  view: DataView, at: number, vni: number, macs: { to: Uint8Array; from: Uint8Array },
  isIpv4: boolean,
): void {
  view.setUint32(at + VXLAN_FLAGS, VXLAN_FLAG_VNI << 24);
  view.setUint32(at + VXLAN_VNI, vni << 8);
  const ethernet = at + VXLAN_HEADER_SIZE;
  setBytes(view, ethernet, macs.to);
  setBytes(view, ethernet + ETHERNET_SOURCE, macs.from);
  view.setUint16(ethernet + ETHERNET_TYPE, isIpv4 ? ETHER_TYPE_IPV4 : ETHER_TYPE_IPV6);
}

function emitIpv4(view: DataView, at: number, packet: FirstPacket, size: number): void {
  zero(view, at, IPV4_HEADER_SIZE);
  view.setUint8(at, VERSION_4);
  view.setUint16(at + IPV4_TOTAL_LENGTH, IPV4_HEADER_SIZE + size);
  view.setUint16(at + IPV4_FLAGS_OFFSET, DONT_FRAGMENT);
  view.setUint8(at + IPV4_TTL, TTL);
  view.setUint8(at + IPV4_PROTOCOL, protocolNumber(packet));
  setBytes(view, at + IPV4_SOURCE, packet.source);
  setBytes(view, at + IPV4_DESTINATION, packet.destination);
  view.setUint16(at + IPV4_CHECKSUM, fold(sumWords(view, at, IPV4_HEADER_SIZE)));
}

function emitIpv6(view: DataView, at: number, packet: FirstPacket, size: number): void {
  zero(view, at, IPV6_HEADER_SIZE);
  view.setUint8(at, VERSION_6);
  view.setUint16(at + IPV6_PAYLOAD_LENGTH, size);
  view.setUint8(at + IPV6_NEXT_HEADER, protocolNumber(packet));
  view.setUint8(at + IPV6_HOP_LIMIT, TTL);
  setBytes(view, at + IPV6_SOURCE, packet.source);
  setBytes(view, at + IPV6_DESTINATION, packet.destination);
}

/** The protocol number; ICMP is another one in IPv6. */
export function protocolNumber({ protocol, source }: FirstPacket): number {
  if (protocol === 'ICMP') return source.length === 4 ? PROTOCOL_ICMP : PROTOCOL_ICMPV6;
  return { TCP: PROTOCOL_TCP, UDP: PROTOCOL_UDP, SCTP: PROTOCOL_SCTP }[protocol];
}

/** The header after IP, checksum zero. Returns its size. */
function emitTransport(view: DataView, at: number, packet: FirstPacket): number {
  const { protocol, sourcePort, destinationPort, payload = 0 } = packet;
  const more = protocol === 'SCTP' ? 0 : payload;
  const size = { TCP: 20, UDP: 8, SCTP: 32, ICMP: 8 }[protocol] + more;
  zero(view, at, size);
  if (protocol === 'ICMP') {
    view.setUint8(at, packet.source.length === 4 ? ICMP_ECHO_REQUEST : ICMPV6_ECHO_REQUEST);
    view.setUint16(at + 4, sourcePort);
    return size;
  }
  view.setUint16(at, sourcePort);
  view.setUint16(at + 2, destinationPort);
  if (protocol === 'UDP') view.setUint16(at + 4, size);
  if (protocol === 'TCP') {
    view.setUint16(at + 12, (5 << 12) | 0x02); // 5 words of header, SYN: RFC 9293 section 3.1
    view.setUint16(at + 14, 65535);
  }
  if (protocol === 'SCTP') emitInit(view, at + 12);
  return size;
}

/** An INIT chunk, RFC 9260 section 3.3.2; the verification tag in front of it is zero. */
function emitInit(view: DataView, at: number): void {
  view.setUint8(at, 1);
  view.setUint16(at + 2, 20);
  view.setUint32(at + 4, 1);       // initiate tag
  view.setUint32(at + 8, 65536);   // advertised receiver window
  view.setUint16(at + 12, 1);      // outbound streams
  view.setUint16(at + 14, 1);      // inbound streams
  view.setUint32(at + 16, 1);      // initial TSN
}

function emitChecksum(view: DataView, at: number, size: number, packet: FirstPacket): void {
  const { protocol, source } = packet;
  if (protocol === 'SCTP') return view.setUint32(at + 8, crc32c(view, at, size), true);
  const isPlain = protocol === 'ICMP' && source.length === 4;
  const sum = sumWords(view, at, size) + (isPlain ? 0 : sumPseudoHeader(packet, size));
  const checksum = fold(sum);
  if (protocol === 'UDP') return view.setUint16(at + 6, checksum === 0 ? 0xffff : checksum);
  view.setUint16(at + (protocol === 'TCP' ? 16 : 2), checksum);
}

/** The pseudo-header's words, RFC 9293 section 3.1 and RFC 8200 section 8.1. */
function sumPseudoHeader(packet: FirstPacket, size: number): number {
  let sum = protocolNumber(packet) + size;
  for (const address of [packet.source, packet.destination]) {
    for (let at = 0; at < address.length; at += 2) {
      sum += ((address[at] ?? 0) << 8) | (address[at + 1] ?? 0);
    }
  }
  return sum;
}

/** RFC 1071: the sum of big-endian words. What there is of payload is zero. */
function sumWords(view: DataView, at: number, size: number): number {
  let sum = 0;
  for (let offset = 0; offset + 1 < size; offset += 2) sum += view.getUint16(at + offset);
  return sum;
}

function fold(sum: number): number {
  let folded = sum;
  while (folded > 0xffff) folded = (folded & 0xffff) + (folded >>> 16);
  return 0xffff - folded;
}

/** RFC 9260 appendix A, bit by bit. */
function crc32c(view: DataView, at: number, size: number): number {
  let crc = 0xffffffff;
  for (let offset = 0; offset < size; offset += 1) {
    crc ^= view.getUint8(at + offset);
    for (let bit = 0; bit < 8; bit += 1) {
      crc = (crc & 1) === 0 ? crc >>> 1 : (crc >>> 1) ^ 0x82f63b78;
    }
  }
  return (crc ^ 0xffffffff) >>> 0;
}

function zero(view: DataView, at: number, size: number): void {
  for (let offset = 0; offset < size; offset += 1) view.setUint8(at + offset, 0);
}

function setBytes(view: DataView, at: number, bytes: Uint8Array): void {
  for (const [offset, byte] of bytes.entries()) view.setUint8(at + offset, byte);
}
