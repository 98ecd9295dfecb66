// Segmentation by header only: each packet that a super-packet stands for gets a header block, its
// payload stays where it was read. A block is the headers of a tunnel or link as a prefix, then IP
// and transport headers as the sender would have written them.
//
// The first block is the template of the others: what differs between packets is stored in each.
// Sums over what is alike are taken once, so that a packet costs a copy of its headers, its few
// fields, and the sum over its payload. test/reference/offload.ts is the slow twin.

import {
  IPV4_CHECKSUM, IPV4_IDENTIFICATION, IPV4_TOTAL_LENGTH, IPV6_HEADER_SIZE, TCP_CHECKSUM,
  TCP_FLAG_CWR, TCP_FLAG_FIN, TCP_FLAG_PSH, UDP_CHECKSUM, UDP_HEADER_SIZE, VNET_GSO_UDP_L4,
} from "../abi/headers";
import { HEADER_STRIDE } from "../abi/layout";
import { EVENT_SEGMENTED } from "../abi/verdict";
import { checksumAdd, checksumFold } from "../checksum";
import { countEvent } from "../count";
import { pieceSize, pieceStart, setPiece, takePieces } from "../outbox";
import { packetLength, packetPieces, packetSegments, packetStart } from "../packet";
import { isIpv4 } from "../wire/ip";
import { ipv4HeaderLength, ipv4Identification } from "../wire/ipv4";
import { setIpv6PayloadLength } from "../wire/ipv6";
import { setTcpFlags, setTcpSequence, tcpFlags, tcpHeaderLength, tcpSequence } from "../wire/tcp";
import { setUdpLength, udpChecksumField } from "../wire/udp";
import {
  checksumOffset, checksumStart, gsoType, lastPacket, segmentSize, superHeaders,
} from "./vnet";

/** Cuts a super-packet: writes the headers of all its packets, one block each from `blocks` on, and
 * takes two pieces for each, block and payload. Returns the first piece. Precondition: the first
 * `prefix` bytes of the first block stand. */
export function cutSegments(descriptor: usize, worker: i32, blocks: usize, prefix: i32): usize {
  const packet = packetStart(descriptor);
  const headers = superHeaders(descriptor);
  const first = blocks + <usize>prefix;
  memory.copy(first, packet, headers);
  copyFirst(blocks, prefix + headers, packetSegments(descriptor));
  if (isIpv4(packet)) emitIpv4Fields(descriptor, first, headers);
  else emitIpv6Fields(descriptor, first, headers);
  const transport = first + <usize>checksumStart(descriptor);
  if (gsoType(descriptor) == VNET_GSO_UDP_L4) emitUdpFields(descriptor, transport);
  else emitTcpFields(descriptor, transport);
  countEvent(worker, EVENT_SEGMENTED);
  return takeSegmentPieces(descriptor, worker, blocks, prefix + headers);
}

/** Copies the first block to the others, 16 bytes at a time: HEADER_STRIDE is a multiple of 16. */
function copyFirst(blocks: usize, length: i32, count: i32): void {
  const end = blocks + <usize>(count * HEADER_STRIDE);
  for (let at: usize = 0; at < <usize>length; at += 16) {
    const part = v128.load(blocks + at);
    for (let block = blocks + HEADER_STRIDE; block < end; block += HEADER_STRIDE) {
      v128.store(block + at, part);
    }
  }
}

/** Total length, identification (one more from packet to packet, RFC 6864) and checksum. */
function emitIpv4Fields(descriptor: usize, first: usize, headers: i32): void {
  const last = packetSegments(descriptor) - 1;
  const length = headers + segmentSize(descriptor);
  const lastLength = lastPacket(descriptor);
  let number = ipv4Identification(first);
  store<u32>(first, 0, IPV4_TOTAL_LENGTH); // and IPV4_IDENTIFICATION behind it
  store<u16>(first, 0, IPV4_CHECKSUM);
  const alike = checksumAdd(0, first, ipv4HeaderLength(first));
  let header = first;
  for (let index = 0; index <= last; index += 1) {
    const total = bswap<u16>(<u16>(index == last ? lastLength : length));
    const identification = bswap<u16>(<u16>number);
    store<u16>(header, total, IPV4_TOTAL_LENGTH);
    store<u16>(header, identification, IPV4_IDENTIFICATION);
    const sum = alike + <u64>total + <u64>identification;
    store<u16>(header, checksumFold(sum), IPV4_CHECKSUM);
    number += 1;
    header += HEADER_STRIDE;
  }
}

function emitIpv6Fields(descriptor: usize, first: usize, headers: i32): void {
  const last = packetSegments(descriptor) - 1;
  const length = headers + segmentSize(descriptor);
  let header = first;
  for (let index = 0; index < last; index += 1) {
    setIpv6PayloadLength(header, length - IPV6_HEADER_SIZE);
    header += HEADER_STRIDE;
  }
  setIpv6PayloadLength(header, lastPacket(descriptor) - IPV6_HEADER_SIZE);
}

/** Sequence number, flags and checksum. CWR is the first packet's (RFC 3168 section 6.1.2), FIN and
 * PSH go with the last byte. */
function emitTcpFields(descriptor: usize, first: usize): void {
  const last = packetSegments(descriptor) - 1;
  const size = segmentSize(descriptor);
  const lastSize = lastPacket(descriptor) - superHeaders(descriptor);
  const headerLength = tcpHeaderLength(first);
  const flags = tcpFlags(first);
  let sequence = tcpSequence(first);
  setTcpSequence(first, 0);
  setTcpFlags(first, 0);
  const alike = sumAlike(descriptor, first, headerLength);
  let header = first;
  for (let index = 0; index <= last; index += 1) {
    const length = index == last ? lastSize : size;
    let own = flags;
    if (index > 0) own &= ~TCP_FLAG_CWR;
    if (index < last) own &= ~(TCP_FLAG_FIN | TCP_FLAG_PSH);
    setTcpSequence(header, sequence);
    setTcpFlags(header, own);
    const sum = alike + <u64>bswap<u32>(sequence) + (<u64>own << 8)
      + <u64>bswap<u16>(<u16>(headerLength + length));
    const whole = checksumAdd(sum, payloadStart(descriptor, index), length);
    store<u16>(header, checksumFold(whole), TCP_CHECKSUM);
    sequence += length;
    header += HEADER_STRIDE;
  }
}

/** Length and checksum. The length counts twice: the pseudo-header has it, too. */
function emitUdpFields(descriptor: usize, first: usize): void {
  const last = packetSegments(descriptor) - 1;
  const size = segmentSize(descriptor);
  const lastSize = lastPacket(descriptor) - superHeaders(descriptor);
  setUdpLength(first, 0);
  const alike = sumAlike(descriptor, first, UDP_HEADER_SIZE);
  let header = first;
  for (let index = 0; index <= last; index += 1) {
    const length = index == last ? lastSize : size;
    setUdpLength(header, UDP_HEADER_SIZE + length);
    const sum = alike + (<u64>bswap<u16>(<u16>(UDP_HEADER_SIZE + length)) << 1);
    const whole = checksumAdd(sum, payloadStart(descriptor, index), length);
    store<u16>(header, udpChecksumField(checksumFold(whole)), UDP_CHECKSUM);
    header += HEADER_STRIDE;
  }
}

/** Sums what is alike in all packets' checksums: the transport header, whose fields that differ are
 * 0, and the pseudo-header without its length. The checksum field holds the pseudo-header's sum
 * with the super-packet's length (virtio 1.2 section 5.1.6.2), and is 0 from then on. */
function sumAlike(descriptor: usize, header: usize, headerLength: i32): u64 {
  const field = header + <usize>checksumOffset(descriptor);
  const length = bswap<u16>(<u16>(packetLength(descriptor) - checksumStart(descriptor)));
  const pseudo = <u64>load<u16>(field) + <u64>(length ^ 0xffff);
  store<u16>(field, 0);
  return checksumAdd(pseudo, header, headerLength);
}

/** Where a packet's payload lies: behind the one before it, or where its piece says. */
function payloadStart(descriptor: usize, index: i32): usize {
  const pieces = packetPieces(descriptor);
  if (pieces != 0 && index > 0) return pieceStart(pieces + <usize>(index * pieceSize()));
  const first = packetStart(descriptor) + <usize>superHeaders(descriptor);
  return first + <usize>(index * segmentSize(descriptor));
}

function takeSegmentPieces(descriptor: usize, worker: i32, blocks: usize, head: i32): usize {
  const last = packetSegments(descriptor) - 1;
  const size = segmentSize(descriptor);
  const lastSize = lastPacket(descriptor) - superHeaders(descriptor);
  const step = <usize>pieceSize();
  const pieces = takePieces(worker, 2 * (last + 1));
  let piece = pieces;
  for (let index = 0; index <= last; index += 1) {
    setPiece(piece, blocks + <usize>(index * HEADER_STRIDE), head);
    setPiece(piece + step, payloadStart(descriptor, index), index == last ? lastSize : size);
    piece += 2 * step;
  }
  return pieces;
}
