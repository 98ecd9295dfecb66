// Joins packets that come from a peer, one behind the other, to the super-packet that the peer's
// kernel cut them from, so that a pod's kernel is given many at once.
//
// Theory of operation. One run is open at a time, kept in the worker's block. The first packet of a
// run, its head, has been through every check, is held back, and stays where it lies; the run's
// record begins with a copy of its descriptor, because the slot's own goes on to the next packet. A
// packet goes on with the run if it is what cutting would have made next: tunnel, Ethernet and IP
// headers are the head's but for lengths, identification and checksums; TCP goes on at the next
// sequence number with everything else equal, UDP with the same ports; its payload is as long as
// the head's, and a shorter one, or PSH or FIN, ends the run. So of such a packet nothing has to be
// looked up again. Its payload becomes one more piece (outbox.ts). Any other packet ends the run
// first. A run of one is delivered as it came.
//
// The pod's kernel takes the checksums of a joined packet for good. So both of each packet are
// verified before, the head's once a second one wants to join. What does not verify travels alone,
// as it came. The ideas are those of net/ipv4/tcp_offload.c, tcp_gro_receive(), and of
// wireguard-go, tun/offload_linux.go. The slow twin is test/reference/offload.ts.

import {
  IPV4_HEADER_SIZE, IPV6_HEADER_SIZE, PROTOCOL_TCP, PROTOCOL_UDP, TCP_CHECKSUM, TCP_FLAG_ACK,
  TCP_FLAG_FIN, TCP_FLAG_PSH, TCP_HEADER_SIZE, TCP_URGENT, UDP_CHECKSUM, UDP_HEADER_SIZE,
  UDP_LENGTH, VNET_GSO_TCPV4, VNET_GSO_TCPV6, VNET_GSO_UDP_L4, VNET_NEEDS_CHECKSUM,
} from "../abi/headers";
import {
  COALESCE_TCP, COALESCE_UDP, DESCRIPTOR_CHECKSUM_OFFSET, DESCRIPTOR_CHECKSUM_START,
  DESCRIPTOR_GSO_TYPE, DESCRIPTOR_HEAD, DESCRIPTOR_OFFLOAD_FLAGS, DESCRIPTOR_PIECES,
  DESCRIPTOR_SEGMENTS, DESCRIPTOR_SEGMENT_SIZE, DESCRIPTOR_STRIDE, DIRECTORY_COALESCE, FAMILY_IPV6,
  PEER_HEADER_SIZE, REMOTE_FAMILY, REMOTE_IPV6, RUN_SEGMENTS_MAX, WORKERS_START, WORKER_RUN,
  WORKER_STRIDE,
} from "../abi/layout";
import { EVENT_COALESCED } from "../abi/verdict";
import { checksum, checksumAdd, checksumFold } from "../checksum";
import { countEvent, countReceived } from "../count";
import { forwardInbound } from "../forward";
import { addPiece, pieceSize, takePieces } from "../outbox";
import {
  directory, inputDevice, outerSource, outerTos, packetLength, packetSegments, packetStart,
  setSegments, trimTo,
} from "../packet";
import { routeDestination } from "../table/route";
import { decapsulateEcn } from "../wire/ecn";
import { ipTotalLength, isIpv4, setIpTotalLength } from "../wire/ip";
import {
  ipv4DontFragment, ipv4HeaderLength, ipv4Identification, ipv4IsFragment, ipv4Protocol,
} from "../wire/ipv4";
import { ipv6NextHeader } from "../wire/ipv6";
import { checkTcp, setTcpFlags, tcpFlags, tcpHeaderLength, tcpSequence } from "../wire/tcp";
import { setUdpLength } from "../wire/udp";
import { isUnfinished, pseudoSum } from "./unfinished";

// The run's record: the head's descriptor, whose DESCRIPTOR_SEGMENTS counts the packets in the run,
// 0 when none is open; and what the next packet is held to.
const RUN_ORIGIN: i32 = DESCRIPTOR_STRIDE;            // u32, next hop id of the peer
const RUN_PROTOCOL: i32 = DESCRIPTOR_STRIDE + 4;      // u32, PROTOCOL_TCP or PROTOCOL_UDP
const RUN_TRANSPORT: i32 = DESCRIPTOR_STRIDE + 8;     // u32, bytes of the IP header
const RUN_HEADERS: i32 = DESCRIPTOR_STRIDE + 12;      // u32, bytes of IP and transport headers
const RUN_PAYLOAD: i32 = DESCRIPTOR_STRIDE + 16;      // u32, bytes of the head's payload
const RUN_SEQUENCE: i32 = DESCRIPTOR_STRIDE + 20;     // u32, sequence number that comes next
const RUN_IDENTIFICATION: i32 = DESCRIPTOR_STRIDE + 24; // u32, that comes next unless DF is set
const RUN_VERIFIED: i32 = DESCRIPTOR_STRIDE + 28;     // u32, 1 once the head's checksum is verified
const RUN_PSEUDO: i32 = DESCRIPTOR_STRIDE + 32;       // u64, sum of the pseudo-header, no length
const RUN_ENDS: i32 = DESCRIPTOR_STRIDE + 40;         // u32, 1 once it has the last packet it takes
const RUN_TUNNEL: i32 = DESCRIPTOR_STRIDE + 44;       // u32, bytes of tunnel header before the head

const BYTES_MAX: i32 = 65535; // that a total length can say, RFC 791 section 3.1
const TCP_FLAGS_LAST: i32 = TCP_FLAG_PSH | TCP_FLAG_FIN; // that only the last packet may have

function runOf(worker: i32): usize {
  return <usize>(WORKERS_START + (worker * WORKER_STRIDE) + WORKER_RUN);
}

/** Forgets the run: it is on its way, or an earlier batch left it, when its worker died. */
export function resetRun(worker: i32): void {
  setSegments(runOf(worker), 0);
}

/** Ends the open run unless the datagrams of this slot may go on with it: they came by the same
 * device, and have the same outer source and the same outer TOS. */
export function meetSlot(descriptor: usize, worker: i32, nowMs: i32): void {
  const run = runOf(worker);
  if (packetSegments(run) == 0) return;
  if (outerTos(run) == outerTos(descriptor) && inputDevice(run) == inputDevice(descriptor)
    && sameRemote(outerSource(run), outerSource(descriptor))) return;
  finishRun(worker, nowMs);
}

/** Family, port and IPv4 address are the first 8 bytes. */
function sameRemote(left: usize, right: usize): bool {
  if (load<u64>(left) != load<u64>(right)) return false;
  if (load<u16>(left, REMOTE_FAMILY) != FAMILY_IPV6) return true;
  return sameBytes(left + REMOTE_IPV6, right + REMOTE_IPV6);
}

/** True where 16 bytes are the same. */
// @ts-ignore: decorator
@inline
function sameBytes(left: usize, right: usize): bool {
  return !v128.any_true(v128.xor(v128.load(left), v128.load(right)));
}

/** Takes a checked packet of a peer as the head of a run, if others may follow it. `tunnel` bytes
 * of tunnel header lie before it. Precondition: no run is open. */
export function openRun(descriptor: usize, worker: i32, origin: i32, tunnel: i32): bool {
  const kinds = directory(DIRECTORY_COALESCE);
  if (kinds == 0) return false;
  const packet = packetStart(descriptor);
  const length = packetLength(descriptor);
  const protocol = plainProtocol(packet);
  const transport = isIpv4(packet) ? IPV4_HEADER_SIZE : IPV6_HEADER_SIZE;
  let size = 0;
  if (protocol == PROTOCOL_TCP && (kinds & COALESCE_TCP) != 0) {
    size = headTcpSize(packet + transport, length - transport);
  } else if (protocol == PROTOCOL_UDP && (kinds & COALESCE_UDP) != 0) {
    size = headUdpSize(packet + transport, length - transport);
  }
  const payload = length - transport - size;
  if (size == 0 || payload < 1) return false;
  const run = runOf(worker);
  memory.copy(run, descriptor, DESCRIPTOR_STRIDE);
  setSegments(run, 1);
  store<i32>(run, origin, RUN_ORIGIN);
  store<i32>(run, protocol, RUN_PROTOCOL);
  store<i32>(run, transport, RUN_TRANSPORT);
  store<i32>(run, transport + size, RUN_HEADERS);
  store<i32>(run, payload, RUN_PAYLOAD);
  store<u32>(run, tcpSequence(packet + transport) + payload, RUN_SEQUENCE);
  store<i32>(run, ipv4Identification(packet) + 1, RUN_IDENTIFICATION);
  store<i32>(run, 0, RUN_VERIFIED);
  store<i32>(run, 0, RUN_ENDS);
  store<i32>(run, tunnel, RUN_TUNNEL);
  return true;
}

/** Protocol of a whole packet without IPv4 options or IPv6 extension headers; else none of ours. */
function plainProtocol(packet: usize): i32 {
  if (!isIpv4(packet)) return ipv6NextHeader(packet);
  const isPlain = ipv4HeaderLength(packet) == IPV4_HEADER_SIZE && !ipv4IsFragment(packet);
  return isPlain ? ipv4Protocol(packet) : 0;
}

/** Bytes of a TCP header that data may follow in the next packet; 0: none may. */
function headTcpSize(tcp: usize, length: i32): i32 {
  return checkTcp(tcp, length) && tcpFlags(tcp) == TCP_FLAG_ACK ? tcpHeaderLength(tcp) : 0;
}

/** Bytes of a UDP header whose length is the packet's and that has a checksum; else 0. */
function headUdpSize(udp: usize, length: i32): i32 {
  return length >= UDP_HEADER_SIZE && isWholeUdp(udp, length) ? UDP_HEADER_SIZE : 0;
}

function isWholeUdp(udp: usize, length: i32): bool {
  return <i32>bswap<u16>(load<u16>(udp, UDP_LENGTH)) == length && load<u16>(udp, UDP_CHECKSUM) != 0;
}

/** Appends a datagram to the open run, if it is what comes next. False leaves the datagram as it
 * came, but for ECN, which decapsulateEcn() may have carried over already. Precondition: meetSlot()
 * has seen its slot. */
export function extendRun(descriptor: usize, worker: i32, nowMs: i32): bool {
  const run = runOf(worker);
  if (packetSegments(run) == 0) return false;
  const head = packetStart(run);
  const datagram = packetStart(descriptor);
  const tunnel = load<i32>(run, RUN_TUNNEL);
  const room = packetLength(descriptor) - tunnel;
  const headers = load<i32>(run, RUN_HEADERS);
  if (room <= headers || !sameTunnel(datagram, head - <usize>tunnel, tunnel)) return false;
  const packet = datagram + <usize>tunnel;
  if (!decapsulateEcn(packet, outerTos(descriptor))) return false;
  const transport = load<i32>(run, RUN_TRANSPORT);
  const sameIp = transport == IPV4_HEADER_SIZE
    ? sameIpv4(packet, head, load<i32>(run, RUN_IDENTIFICATION))
    : sameIpv6(packet, head);
  if (!sameIp) return false;
  const total = ipTotalLength(packet);
  const payload = total - headers;
  if (total > room || payload < 1 || payload > load<i32>(run, RUN_PAYLOAD)) return false;
  const isNext = load<i32>(run, RUN_PROTOCOL) == PROTOCOL_TCP
    ? nextTcp(run, packet + transport, head + transport, headers - transport)
    : nextUdp(packet + transport, head + transport, total - transport);
  if (!isNext || packetSegments(run) >= RUN_SEGMENTS_MAX
    || packetLength(run) + payload > BYTES_MAX || !isVerified(run, packet, total)) return false;
  append(run, worker, packet + headers, payload);
  if (endsRun(run, packet + transport, payload)) {
    store<i32>(run, 1, RUN_ENDS);
    finishRun(worker, nowMs);
  }
  return true;
}

/** True where `size` bytes of tunnel headers are the same. Those that end in an Ethernet header are
 * compared at once, others two bytes at a time: all have an even number. */
function sameTunnel(left: usize, right: usize, size: i32): bool {
  if (size == PEER_HEADER_SIZE) {
    return sameBytes(left, right) && load<u32>(left, 16) == load<u32>(right, 16)
      && load<u16>(left, 20) == load<u16>(right, 20);
  }
  for (let at: usize = 0; at < <usize>size; at += 2) {
    if (load<u16>(left + at) != load<u16>(right + at)) return false;
  }
  return true;
}

/** Equal but for total length, identification and checksum. The identification matters where the
 * packet may be fragmented (RFC 6864 section 4). */
function sameIpv4(packet: usize, head: usize, identification: i32): bool {
  const mask = i32x4(0x0000ffff, 0xffff0000, 0x0000ffff, 0xffffffff);
  const differing = v128.and(v128.xor(v128.load(packet), v128.load(head)), mask);
  if (v128.any_true(differing) || load<u32>(packet, 16) != load<u32>(head, 16)) return false;
  return ipv4DontFragment(head) || ipv4Identification(packet) == (identification & 0xffff);
}

/** Equal but for payload length. */
function sameIpv6(packet: usize, head: usize): bool {
  const mask = i32x4(0xffffffff, 0xffff0000, 0xffffffff, 0xffffffff);
  const differing = v128.and(v128.xor(v128.load(packet), v128.load(head)), mask);
  return !v128.any_true(differing) && sameBytes(packet + 16, head + 16)
    && load<u64>(packet, 32) == load<u64>(head, 32);
}

/** Equal but for sequence number, which is the next, checksum, and flags of a last packet. */
function nextTcp(run: usize, tcp: usize, head: usize, size: i32): bool {
  if (tcpSequence(tcp) != load<u32>(run, RUN_SEQUENCE)) return false;
  const mask = i32x4(0xffffffff, 0, 0xffffffff, ~(TCP_FLAGS_LAST << 8));
  const differing = v128.and(v128.xor(v128.load(tcp), v128.load(head)), mask);
  if (v128.any_true(differing) || load<u16>(tcp, TCP_URGENT) != load<u16>(head, TCP_URGENT)) {
    return false;
  }
  for (let at = TCP_HEADER_SIZE; at < size; at += 4) {
    if (load<u32>(tcp + at) != load<u32>(head + at)) return false;
  }
  return true;
}

function nextUdp(udp: usize, head: usize, length: i32): bool {
  return load<u32>(udp) == load<u32>(head) && isWholeUdp(udp, length);
}

/** Verifies both checksums of a packet that wants to join, and the head's if it is the first to. */
function isVerified(run: usize, packet: usize, total: i32): bool {
  const transport = load<i32>(run, RUN_TRANSPORT);
  if (transport == IPV4_HEADER_SIZE && checksum(packet, IPV4_HEADER_SIZE) != 0) return false;
  if (load<i32>(run, RUN_VERIFIED) == 0) {
    const head = packetStart(run);
    store<u64>(run, pseudoSum(head, load<i32>(run, RUN_PROTOCOL)), RUN_PSEUDO);
    if (!isIntact(run, head + transport, packetLength(run) - transport)) return false;
    store<i32>(run, 1, RUN_VERIFIED);
  }
  return isIntact(run, packet + transport, total - transport);
}

/** The pseudo-header's sum for `length` bytes of transport header and payload. */
function pseudoSumFor(run: usize, length: i32): u64 {
  return load<u64>(run, RUN_PSEUDO) + <u64>bswap<u16>(<u16>length);
}

/** True where the checksum of `length` bytes of transport header and payload is right, or left
 * unfinished where that is taken. */
function isIntact(run: usize, transport: usize, length: i32): bool {
  const sum = pseudoSumFor(run, length);
  const isTcp = load<i32>(run, RUN_PROTOCOL) == PROTOCOL_TCP;
  if (isUnfinished(transport + (isTcp ? TCP_CHECKSUM : UDP_CHECKSUM), sum)) return true;
  return checksumFold(checksumAdd(sum, transport, length)) == 0;
}

/** Takes a payload into the run. Its pieces lie one behind the other, since whatever else takes one
 * ends the run first. The head's piece is pointed when the headers in front of it are known, and
 * before it there is one for headers that do not fit there. */
function append(run: usize, worker: i32, payload: usize, length: i32): void {
  const count = packetSegments(run);
  if (count == 1) {
    const pieces = takePieces(worker, 2) + <usize>pieceSize();
    store<u32>(run, <u32>pieces, DESCRIPTOR_PIECES);
    store<i32>(run, packetLength(run), DESCRIPTOR_HEAD);
  }
  addPiece(worker, payload, length);
  setSegments(run, count + 1);
  trimTo(run, packetLength(run) + length);
  store<u32>(run, load<u32>(run, RUN_SEQUENCE) + length, RUN_SEQUENCE);
  store<i32>(run, load<i32>(run, RUN_IDENTIFICATION) + 1, RUN_IDENTIFICATION);
}

/** True behind a packet that can only be a run's last; the head takes over its flags. */
function endsRun(run: usize, transport: usize, payload: i32): bool {
  if (load<i32>(run, RUN_PROTOCOL) != PROTOCOL_TCP) return payload < load<i32>(run, RUN_PAYLOAD);
  const flags = tcpFlags(transport);
  setTcpFlags(packetStart(run) + load<i32>(run, RUN_TRANSPORT), flags);
  return flags != TCP_FLAG_ACK || payload < load<i32>(run, RUN_PAYLOAD);
}

/** Ends the open run, if there is one, and sends what it has become on its way. */
export function finishRun(worker: i32, nowMs: i32): void {
  const run = runOf(worker);
  const count = packetSegments(run);
  if (count == 0) return;
  const packet = packetStart(run);
  if (count > 1) {
    writeHeaders(run, packet);
    countEvent(worker, EVENT_COALESCED);
  }
  const origin = load<i32>(run, RUN_ORIGIN);
  countReceived(worker, origin, run);
  forwardInbound(run, worker, nowMs, origin, routeDestination(packet));
  resetRun(worker);
}

/** True where the packet is a run that is on its way. */
export function isRun(descriptor: usize, worker: i32): bool {
  return descriptor == runOf(worker);
}

/** True of a run which has the packet of the slot in hand for its last. */
export function runHasLast(worker: i32): bool {
  return load<i32>(runOf(worker), RUN_ENDS) != 0;
}

/** Makes the head's headers those of the whole, with its transport checksum left to the kernel: the
 * field holds the pseudo-header's sum, from which it goes on (virtio 1.2 section 5.1.6.2). */
function writeHeaders(run: usize, packet: usize): void {
  const isTcp = load<i32>(run, RUN_PROTOCOL) == PROTOCOL_TCP;
  const start = load<i32>(run, RUN_TRANSPORT);
  const offset = isTcp ? TCP_CHECKSUM : UDP_CHECKSUM;
  const transport = packet + start;
  const length = packetLength(run) - start;
  setIpTotalLength(packet, packetLength(run));
  if (!isTcp) setUdpLength(transport, length);
  store<u16>(transport + offset, ~checksumFold(pseudoSumFor(run, length)));
  const tcpType = start == IPV4_HEADER_SIZE ? VNET_GSO_TCPV4 : VNET_GSO_TCPV6;
  store<u8>(run, <u8>(isTcp ? tcpType : VNET_GSO_UDP_L4), DESCRIPTOR_GSO_TYPE);
  store<u8>(run, VNET_NEEDS_CHECKSUM, DESCRIPTOR_OFFLOAD_FLAGS);
  store<u16>(run, <u16>load<i32>(run, RUN_PAYLOAD), DESCRIPTOR_SEGMENT_SIZE);
  store<u16>(run, <u16>start, DESCRIPTOR_CHECKSUM_START);
  store<u16>(run, <u16>offset, DESCRIPTOR_CHECKSUM_OFFSET);
}
