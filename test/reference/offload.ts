// Slow twin of wasm/offload: what a super-packet stands for, and which packets are joined to one.
// Cutting writes every packet anew and sums all of it. Joining is told by cutting: a packet goes on
// where a run stops if cutting the two of them, joined, gives back exactly those two.

import { PROTOCOL, concat, internetChecksum, parseIpv4, read16, read32, transportChecksum, word16,
  word32 } from '../support/packets.ts';
import { GSO, VNET_FLAG, vnet, type Vnet } from '../support/vnet.ts';
import { findTransport } from './transport.ts';

/** How a super-packet is to be cut. `segmentSize` is the payload of each packet but the last. */
export interface Cut {
  gsoType: number;
  segmentSize: number;
}

/** A packet that came from a peer. `from` names all that is around it: outer source, outer TOS,
 * tunnel and Ethernet headers. */
export interface Arrived {
  packet: Uint8Array;
  from: string;
}

/** What is delivered. `gsoSize` is 0 for a packet that stands for itself, which is left as it came;
 * in others the transport checksum is that of the pseudo-header, for the kernel to go on from. */
export interface Joined {
  packet: Uint8Array;
  segments: number;
  gsoSize: number;
}

/** What the other side's kernel takes: TCP from tier T1 on, UDP from T2 on. */
export interface Kinds {
  tcp: boolean;
  udp: boolean;
}

interface Parts {
  ip: Uint8Array;
  transport: Uint8Array;
  payload: Uint8Array;
}

const FLAG = { fin: 0x01, psh: 0x08, ack: 0x10, cwr: 0x80 };
const LARGEST_PACKET = 65_535;
/** Ours to choose: room for the headers of a packet that is cut, and how many packets it gives. */
const HEADERS_MAX = 170;
const CUTS_MAX = 1024;
/** Ours to choose: packets that are joined to one. */
const JOINS_MAX = 127;

/** True where a packet is what its vnet header says. Whoever sent the packet wrote the header, so
 * it must say of a super-packet what the packet's own headers say; a checksum of a packet that is
 * not cut may be anywhere behind the IP header. Precondition: sound IP headers; offsets of the
 * header count from the packet's first byte. */
export function isSaid(packet: Uint8Array, said: Vnet): boolean {
  if ((said.flags & VNET_FLAG.needsChecksum) === 0) return said.gsoType === GSO.none;
  const whole = totalLength(packet);
  const behindIp = isIpv4(packet) ? parseIpv4(packet).headerSize : 40;
  const [start, offset] = [said.checksumStart, said.checksumOffset];
  if (start < behindIp || start + offset + 2 > whole) return false;
  if (said.gsoType === GSO.none) return true;
  const found = findTransport(packet);
  const isTcp = found.protocol === PROTOCOL.tcp;
  const types = isTcp ? [gsoTypeOf(packet), gsoTypeOf(packet) | GSO.ecn] : [GSO.udp];
  const headers = found.offset + transportSize(packet);
  return !found.fragment && !found.outOfSight && (isTcp || found.protocol === PROTOCOL.udp)
    && types.includes(said.gsoType) && said.gsoSize > 0
    && transportSize(packet) >= (isTcp ? 20 : 8) && headers <= Math.min(whole, HEADERS_MAX)
    && start === found.offset && offset === (isTcp ? 16 : 6)
    && Math.ceil((whole - headers) / said.gsoSize) <= CUTS_MAX;
}

/** Cuts a super-packet into the packets it stands for, complete with all checksums. Precondition:
 * it is TCP or UDP with sound headers. */
export function segment(packet: Uint8Array, { segmentSize }: Cut): Uint8Array[] {
  const { ip, transport, payload } = takeApart(packet);
  const count = Math.max(1, Math.ceil(payload.length / segmentSize));
  return Array.from({ length: count }, (_, index) => {
    const start = index * segmentSize;
    const header = protocolOf(packet) === PROTOCOL.tcp
      ? tcpHeader(transport, start, index === 0, index === count - 1)
      : transport;
    return complete(ipHeader(ip, index), header, payload.subarray(start, start + segmentSize));
  });
}

/** The beginning of a super-packet, as long as the first of its packets: what an ICMP error about
 * it quotes. It is not made complete, since whoever reads a quote looks for addresses and ports. */
export function beginning(packet: Uint8Array, { segmentSize }: Cut): Uint8Array {
  const { ip, transport, payload } = takeApart(packet);
  const shorter = concat(ip, transport, payload.subarray(0, segmentSize));
  writeTotalLength(shorter);
  return shorter;
}

/** Joins a train of packets, in order. Precondition: each has sound IP headers. */
export function coalesce(arrived: readonly Arrived[], kinds: Kinds): Joined[] {
  const runs: Arrived[][] = [];
  for (const next of arrived) {
    const run = runs.at(-1);
    if (run !== undefined && goesOn(run, next, kinds)) run.push(next);
    else runs.push([next]);
  }
  return runs.map((run) => deliver(run.map(({ packet }) => packet)));
}

/** The vnet header in front of what is delivered; `ethernet` bytes lie between the two. */
export function vnetOf({ packet, gsoSize }: Joined, ethernet = 0): Uint8Array {
  if (gsoSize === 0) return vnet({});
  const { ip, transport } = takeApart(packet);
  const isTcp = protocolOf(packet) === PROTOCOL.tcp;
  return vnet({
    flags: VNET_FLAG.needsChecksum,
    gsoType: gsoTypeOf(packet),
    headerLength: ethernet + ip.length + transport.length,
    gsoSize,
    checksumStart: ethernet + ip.length,
    checksumOffset: isTcp ? 16 : 6,
  });
}

/** GSO_* of a TCP or UDP packet. */
export function gsoTypeOf(packet: Uint8Array): number {
  if (protocolOf(packet) === PROTOCOL.udp) return GSO.udp;
  return isIpv4(packet) ? GSO.tcpv4 : GSO.tcpv6;
}

/** A packet that is left to cut or to sum, as a kernel hands it over: the checksum of its transport
 * header is that of the pseudo-header alone. */
export function unfinished(packet: Uint8Array): Uint8Array {
  const { ip, transport, payload } = takeApart(packet);
  const length = transport.length + payload.length;
  const header = transport.slice();
  // The sum itself, not its complement, so that what is summed from there on adds to it.
  const sum = 0xffff - pseudoChecksum(packet, length);
  header.set(word16(sum), protocolOf(packet) === PROTOCOL.tcp ? 16 : 6);
  return concat(ip, header, payload);
}

/** Finishes a checksum that was left to us: the sum from `start` to the packet's end, which the
 * field at `offset` from there has the beginning of. */
export function finishChecksum(packet: Uint8Array, start: number, offset: number): Uint8Array {
  const finished = packet.slice();
  const sum = internetChecksum(packet.subarray(start));
  const isUdp = start === findTransport(packet).offset && protocolOf(packet) === PROTOCOL.udp;
  finished.set(word16(sum === 0 && isUdp ? 0xffff : sum), start + offset);
  return finished;
}

/** Headers and payload, without what lies behind the IP packet's end. */
export function takeApart(packet: Uint8Array): Parts {
  const { offset } = findTransport(packet);
  const size = transportSize(packet);
  return {
    ip: packet.subarray(0, offset),
    transport: packet.subarray(offset, offset + size),
    payload: packet.subarray(offset + size, totalLength(packet)),
  };
}

function transportSize(packet: Uint8Array): number {
  const { offset, protocol } = findTransport(packet);
  return protocol === PROTOCOL.tcp ? ((packet[offset + 12] ?? 0) >> 4) * 4 : 8;
}

function totalLength(packet: Uint8Array): number {
  return isIpv4(packet) ? read16(packet, 2) : 40 + read16(packet, 4);
}

function protocolOf(packet: Uint8Array): number {
  return findTransport(packet).protocol;
}

function isIpv4(packet: Uint8Array): boolean {
  return (packet[0] ?? 0) >> 4 === 4;
}

/** Addresses and protocol with a length, and nothing else. */
function pseudoChecksum(packet: Uint8Array, length: number): number {
  const [source, destination] = addresses(packet);
  const rest = [...word32(length), 0, 0, 0, protocolOf(packet)];
  return internetChecksum(source, destination, Uint8Array.from(rest));
}

function addresses(packet: Uint8Array): [Uint8Array, Uint8Array] {
  return isIpv4(packet)
    ? [packet.slice(12, 16), packet.slice(16, 20)]
    : [packet.slice(8, 24), packet.slice(24, 40)];
}

/** Identifications count up from the super-packet's, RFC 6864 section 4. */
function ipHeader(ip: Uint8Array, index: number): Uint8Array {
  const header = ip.slice();
  if (isIpv4(ip)) header.set(word16((read16(ip, 4) + index) & 0xffff), 4);
  return header;
}

/** RFC 9293 section 3.4 for the number; RFC 3168 section 6.1.2 for CWR. The stream ends, and is
 * pushed, where the last byte is. */
function tcpHeader(
  transport: Uint8Array, start: number, isFirst: boolean, isLast: boolean,
): Uint8Array {
  const header = transport.slice();
  header.set(word32((read32(transport, 4) + start) % (2 ** 32)), 4);
  const early = isLast ? 0 : FLAG.fin | FLAG.psh;
  const late = isFirst ? 0 : FLAG.cwr;
  header[13] = (transport[13] ?? 0) & ~(early | late);
  return header;
}

/** Writes the lengths and checksums that belong to a payload. */
function complete(ip: Uint8Array, transport: Uint8Array, payload: Uint8Array): Uint8Array {
  const packet = withLength(ip, transport, payload);
  const { ip: header, transport: upper } = takeApart(packet);
  const protocol = protocolOf(packet);
  const at = protocol === PROTOCOL.tcp ? 16 : 6;
  upper.set([0, 0], at);
  const [source, destination] = addresses(packet);
  const rest = packet.subarray(header.length);
  const sum = transportChecksum(source, destination, protocol, rest);
  // RFC 768: a sum of 0 is sent as all ones.
  upper.set(word16(sum === 0 && protocol === PROTOCOL.udp ? 0xffff : sum), at);
  return packet;
}

/** The whole packet with its length fields and its IP header checksum right. */
function withLength(ip: Uint8Array, transport: Uint8Array, payload: Uint8Array): Uint8Array {
  const packet = concat(ip, transport, payload);
  const behind = packet.length - ip.length;
  writeTotalLength(packet);
  if (findTransport(ip).protocol === PROTOCOL.udp) packet.set(word16(behind), ip.length + 4);
  return packet;
}

function writeTotalLength(packet: Uint8Array): void {
  if (!isIpv4(packet)) {
    packet.set(word16(packet.length - 40), 4);
    return;
  }
  packet.set(word16(packet.length), 2);
  packet.set([0, 0], 10);
  packet.set(word16(internetChecksum(packet.subarray(0, parseIpv4(packet).headerSize))), 10);
}

/** True if a packet is what cutting would have made next, behind a run. */
function goesOn(run: readonly Arrived[], next: Arrived, kinds: Kinds): boolean {
  const [first, last] = [run[0], run.at(-1)];
  if (first === undefined || last === undefined || last.from !== next.from) return false;
  if (run.length === JOINS_MAX) return false;
  if (!mayJoin(last.packet, kinds) || !mayJoin(next.packet, kinds)) return false;
  const segmentSize = takeApart(first.packet).payload.length;
  const together = run.reduce((sum, { packet }) => sum + takeApart(packet).payload.length, 0)
    + next.packet.length;
  if (together > LARGEST_PACKET) return false;
  const pair = [last.packet, next.packet];
  const again = segment(join(pair), { gsoType: gsoTypeOf(first.packet), segmentSize });
  return again.length === 2 && again.every((packet, index) =>
    Buffer.compare(comparable(packet), comparable(pair[index] ?? packet)) === 0);
}

/** Ours to choose: what joining is for. Everything else is rare enough to travel alone. */
function mayJoin(packet: Uint8Array, kinds: Kinds): boolean {
  const { offset, protocol, fragment } = findTransport(packet);
  const plainHeader = isIpv4(packet) ? 20 : 40;
  if (fragment || offset !== plainHeader) return false;
  const { transport, payload } = takeApart(packet);
  if (payload.length === 0) return false;
  if (protocol === PROTOCOL.udp) return kinds.udp && read16(transport, 6) !== 0;
  if (protocol !== PROTOCOL.tcp || !kinds.tcp || transport.length < 20) return false;
  return [FLAG.ack, FLAG.ack | FLAG.psh, FLAG.ack | FLAG.psh | FLAG.fin, FLAG.ack | FLAG.fin]
    .includes(transport[13] ?? 0);
}

/** The packet as far as it must be given back. Where DF is set, RFC 6864 section 4.1 lets the
 * identification be anything. */
export function comparable(packet: Uint8Array): Uint8Array {
  if (!isIpv4(packet) || !parseIpv4(packet).dontFragment) return packet;
  const bare = packet.slice();
  bare.set([0, 0], 4);
  // The header checksum is checked with the identification; without it, it is unknown.
  if (internetChecksum(packet.subarray(0, parseIpv4(packet).headerSize)) === 0) {
    bare.set([0, 0], 10);
  }
  return bare;
}

/** One packet with the payloads of all: the first's headers, and what the last says of the end. */
export function join(packets: readonly Uint8Array[]): Uint8Array {
  const parts = packets.map(takeApart);
  const [first, last] = [parts[0], parts.at(-1)];
  if (first === undefined || last === undefined) throw new Error('nothing to join');
  const transport = first.transport.slice();
  if (protocolOf(packets[0] ?? first.ip) === PROTOCOL.tcp) {
    transport[13] = (transport[13] ?? 0) | (last.transport[13] ?? 0);
  }
  return withLength(first.ip, transport, concat(...parts.map(({ payload }) => payload)));
}

function deliver(packets: readonly Uint8Array[]): Joined {
  const [first = new Uint8Array(0)] = packets;
  if (packets.length === 1) return { packet: first, segments: 1, gsoSize: 0 };
  const gsoSize = takeApart(first).payload.length;
  return { packet: unfinished(join(packets)), segments: packets.length, gsoSize };
}
