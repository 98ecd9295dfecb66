// The vnet header, virtio 1.2 section 5.1.6 and linux/virtio_net.h: what a device with offloads
// says of each packet, and is told. It names work that is left to do: cut the packet, finish a
// checksum whose field holds the sum of the pseudo-header. Whoever sent the packet may have written
// the header, so readVnet() holds every number of it to the packet's own headers. After it, the
// descriptor says what the packet is; functions here have the precondition that it does.

import {
  ETHERNET_HEADER_SIZE, IPV6_HEADER_SIZE, PROTOCOL_TCP, PROTOCOL_UDP, TCP_CHECKSUM, UDP_CHECKSUM,
  UDP_HEADER_SIZE, VNET_CHECKSUM_OFFSET, VNET_CHECKSUM_START, VNET_FLAGS, VNET_GSO_ECN,
  VNET_GSO_NONE, VNET_GSO_SIZE, VNET_GSO_TCPV4, VNET_GSO_TCPV6, VNET_GSO_TYPE, VNET_GSO_UDP_L4,
  VNET_HEADER_LENGTH, VNET_HEADER_SIZE, VNET_NEEDS_CHECKSUM,
} from "../abi/headers";
import {
  DESCRIPTOR_CHECKSUM_OFFSET, DESCRIPTOR_CHECKSUM_START, DESCRIPTOR_GSO_TYPE,
  DESCRIPTOR_OFFLOAD_FLAGS, DESCRIPTOR_SEGMENTS, DESCRIPTOR_SEGMENT_SIZE, DEVICE_KIND_TAP,
  HEADER_STRIDE, PEER_HEADER_SIZE, SEGMENTS_MAX,
} from "../abi/layout";
import { REASON_NONE, REASON_OFFLOAD } from "../abi/verdict";
import { checksumAdd, checksumFold } from "../checksum";
import {
  clearOffload, isSuperPacket, packetLength, packetSegments, packetStart, trimTo,
} from "../packet";
import { deviceKind, deviceVnetSize } from "../table/record";
import { ipTransport, isIpv4, setIpTotalLength } from "../wire/ip";
import { ipv4HeaderLength } from "../wire/ipv4";
import { checkTcp, tcpHeaderLength } from "../wire/tcp";
import { isFragment, isHeaderless, transportOffset, transportProtocol } from "../wire/transport";
import { udpChecksumField } from "../wire/udp";

/** Reads what a local device says about the packet that it gave. REASON_NONE accepts it.
 * Preconditions: checkPacket() accepted the packet, and it lies where the device put it. */
export function readVnet(descriptor: usize, device: usize): i32 {
  const vnetSize = deviceVnetSize(device);
  if (vnetSize == 0) return REASON_NONE;
  const link = deviceKind(device) == DEVICE_KIND_TAP ? ETHERNET_HEADER_SIZE : 0;
  const packet = packetStart(descriptor);
  const header = packet - <usize>(link + vnetSize);
  const type = <i32>load<u8>(header, VNET_GSO_TYPE);
  if ((load<u8>(header, VNET_FLAGS) & VNET_NEEDS_CHECKSUM) == 0) {
    return type == VNET_GSO_NONE ? REASON_NONE : REASON_OFFLOAD;
  }
  const start = <i32>load<u16>(header, VNET_CHECKSUM_START) - link;
  const offset = <i32>load<u16>(header, VNET_CHECKSUM_OFFSET);
  const behindIp = isIpv4(packet) ? ipv4HeaderLength(packet) : IPV6_HEADER_SIZE;
  if (start < behindIp || start + offset + 2 > packetLength(descriptor)) return REASON_OFFLOAD;
  store<u8>(descriptor, VNET_NEEDS_CHECKSUM, DESCRIPTOR_OFFLOAD_FLAGS);
  store<u16>(descriptor, <u16>start, DESCRIPTOR_CHECKSUM_START);
  store<u16>(descriptor, <u16>offset, DESCRIPTOR_CHECKSUM_OFFSET);
  if (type == VNET_GSO_NONE) return REASON_NONE;
  return readSuperPacket(descriptor, type, load<u16>(header, VNET_GSO_SIZE));
}

/** Accepts a super-packet: TCP or UDP, as its type says, whole headers that fit a header block, and
 * the checksum that is left is theirs. What is no larger than one packet is one, as the kernel sees
 * it, too. */
function readSuperPacket(descriptor: usize, type: i32, size: i32): i32 {
  const packet = packetStart(descriptor);
  const start = checksumStart(descriptor);
  const transport = ipTransport(packet);
  if (isFragment(transport) || isHeaderless(transport)) return REASON_OFFLOAD;
  if (transportOffset(transport) != start || size == 0) return REASON_OFFLOAD;
  if (transportProtocol(transport) != protocolOf(type, isIpv4(packet))) return REASON_OFFLOAD;
  const isUdp = type == VNET_GSO_UDP_L4;
  const room = packetLength(descriptor) - start;
  const isWhole = isUdp ? room >= UDP_HEADER_SIZE : checkTcp(packet + start, room);
  const field = isUdp ? UDP_CHECKSUM : TCP_CHECKSUM;
  if (!isWhole || checksumOffset(descriptor) != field) return REASON_OFFLOAD;
  store<u8>(descriptor, <u8>type, DESCRIPTOR_GSO_TYPE);
  store<u16>(descriptor, <u16>size, DESCRIPTOR_SEGMENT_SIZE);
  const headers = superHeaders(descriptor);
  const segments = (packetLength(descriptor) - headers + size - 1) / size;
  if (headers > HEADER_STRIDE - PEER_HEADER_SIZE || segments > SEGMENTS_MAX) return REASON_OFFLOAD;
  if (segments > 1) store<u16>(descriptor, <u16>segments, DESCRIPTOR_SEGMENTS);
  else store<u8>(descriptor, VNET_GSO_NONE, DESCRIPTOR_GSO_TYPE);
  return REASON_NONE;
}

/** The transport protocol of a super-packet's type; -1 of one that is not ours. */
function protocolOf(type: i32, ipv4: bool): i32 {
  if (type == VNET_GSO_UDP_L4) return PROTOCOL_UDP;
  return (type & ~VNET_GSO_ECN) == (ipv4 ? VNET_GSO_TCPV4 : VNET_GSO_TCPV6) ? PROTOCOL_TCP : -1;
}

/** VNET_GSO_*, with VNET_GSO_ECN where CWR is set in the first packet. */
export function gsoType(descriptor: usize): i32 {
  return load<u8>(descriptor, DESCRIPTOR_GSO_TYPE);
}

/** True where a checksum is left to finish. */
export function needsChecksum(descriptor: usize): bool {
  return load<u8>(descriptor, DESCRIPTOR_OFFLOAD_FLAGS) != 0;
}

/** Where the bytes begin that the unfinished checksum covers, from the IP header on: the transport
 * header of a super-packet. */
export function checksumStart(descriptor: usize): i32 {
  return load<u16>(descriptor, DESCRIPTOR_CHECKSUM_START);
}

/** Where its field is, from there on. */
export function checksumOffset(descriptor: usize): i32 {
  return load<u16>(descriptor, DESCRIPTOR_CHECKSUM_OFFSET);
}

/** True where the checksum that is left is that of the header at `start`, its field `offset` bytes
 * from there. */
export function leavesChecksum(descriptor: usize, start: i32, offset: i32): bool {
  return needsChecksum(descriptor) && checksumStart(descriptor) == start
    && checksumOffset(descriptor) == offset;
}

/** Bytes of payload in each of a super-packet's packets but the last. */
export function segmentSize(descriptor: usize): i32 {
  return load<u16>(descriptor, DESCRIPTOR_SEGMENT_SIZE);
}

/** Bytes of a super-packet's IP and transport headers. Precondition: its start is the IP header. */
export function superHeaders(descriptor: usize): i32 {
  const start = checksumStart(descriptor);
  if (gsoType(descriptor) == VNET_GSO_UDP_L4) return start + UDP_HEADER_SIZE;
  return start + tcpHeaderLength(packetStart(descriptor) + start);
}

/** Bytes of the largest packet that this one stands for. Precondition as above. */
export function largestPacket(descriptor: usize): i32 {
  if (!isSuperPacket(descriptor)) return packetLength(descriptor);
  return superHeaders(descriptor) + segmentSize(descriptor);
}

/** Bytes of the last packet that this one stands for. Precondition as above. */
export function lastPacket(descriptor: usize): i32 {
  return packetLength(descriptor) - ((packetSegments(descriptor) - 1) * segmentSize(descriptor));
}

/** Finishes the checksum that was left to us: the field holds the sum of the pseudo-header already.
 * Precondition: no super-packet; its start is the IP header. */
export function finishChecksum(descriptor: usize): void {
  if (!needsChecksum(descriptor)) return;
  const start = packetStart(descriptor) + <usize>checksumStart(descriptor);
  const length = packetLength(descriptor) - checksumStart(descriptor);
  const sum = checksumFold(checksumAdd(0, start, length));
  const offset = checksumOffset(descriptor);
  store<u16>(start + <usize>offset, offset == UDP_CHECKSUM ? udpChecksumField(sum) : sum);
  store<u8>(descriptor, 0, DESCRIPTOR_OFFLOAD_FLAGS);
}

/** Leaves the first of a super-packet's packets, for an error to quote, and nothing that is left to
 * do. Precondition: its start is the IP header. */
export function keepFirst(descriptor: usize): void {
  if (isSuperPacket(descriptor)) {
    const length = largestPacket(descriptor);
    setIpTotalLength(packetStart(descriptor), length);
    trimTo(descriptor, length);
  }
  clearOffload(descriptor);
}

/** Writes the header for a device that takes one, VNET_HEADER_SIZE bytes. `link` bytes will lie
 * between it and the packet. Precondition: the packet's start is the IP header. */
export function emitVnet(header: usize, descriptor: usize, link: i32): void {
  const whole = isSuperPacket(descriptor);
  const open = needsChecksum(descriptor);
  store<u8>(header, <u8>(open ? VNET_NEEDS_CHECKSUM : 0), VNET_FLAGS);
  store<u8>(header, <u8>gsoType(descriptor), VNET_GSO_TYPE);
  store<u16>(header, <u16>(whole ? link + superHeaders(descriptor) : 0), VNET_HEADER_LENGTH);
  store<u16>(header, <u16>(whole ? segmentSize(descriptor) : 0), VNET_GSO_SIZE);
  store<u16>(header, <u16>(open ? link + checksumStart(descriptor) : 0), VNET_CHECKSUM_START);
  store<u16>(header, <u16>(open ? checksumOffset(descriptor) : 0), VNET_CHECKSUM_OFFSET);
}
