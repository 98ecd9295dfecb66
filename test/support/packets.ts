// Packets as the RFCs draw them: built from named fields and read back, in plain TypeScript. None
// of it comes from the core, checksums least of all, so that it can say what the core gets wrong.

import { addressBytes } from '../../engine/address.ts';
import { slowChecksum } from '../reference/checksum.ts';

export const PROTOCOL = {
  hopByHop: 0, icmp: 1, tcp: 6, udp: 17, routing: 43, fragment: 44, authentication: 51, icmpv6: 58,
  none: 59, destinationOptions: 60, sctp: 132,
} as const;
export const ETHER_TYPE = { ipv4: 0x0800, arp: 0x0806, ethernet: 0x6558, ipv6: 0x86dd } as const;

/** An address as text or as its bytes. */
export type Address = string | Uint8Array;

const NOTHING = new Uint8Array(0);

export function concat(...parts: (Uint8Array | readonly number[])[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** Bytes from hexadecimal text. From `#` to the end of a line is comment. */
export function fromHex(text: string): Uint8Array {
  const digits = text.replace(/#.*$/gm, '').replace(/\s+/g, '');
  if (!/^([0-9a-f]{2})*$/i.test(digits)) throw new Error(`not hexadecimal: ${digits}`);
  return Uint8Array.from(digits.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}

export function toHex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join(' ');
}

export function word16(value: number): number[] {
  return [(value >>> 8) & 0xff, value & 0xff];
}

export function word32(value: number): number[] {
  return [...word16(value >>> 16), ...word16(value)];
}

export function read16(bytes: Uint8Array, at: number): number {
  return ((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0);
}

export function read32(bytes: Uint8Array, at: number): number {
  return (read16(bytes, at) * 0x10000) + read16(bytes, at + 2);
}

export function macOf(text: string): Uint8Array {
  return fromHex(text.replaceAll(':', ''));
}

export function addressOf(address: Address): Uint8Array {
  if (typeof address !== 'string') return address;
  const known = parsed.get(address) ?? addressBytes(address);
  parsed.set(address, known);
  return known;
}

/** Addresses parsed before, since the same few come again and again. */
const parsed = new Map<string, Uint8Array>();

/** The Internet checksum as RFC 1071 section 1 puts it: big-endian words, odd byte padded. */
export function internetChecksum(...parts: Uint8Array[]): number {
  return slowChecksum(parts.length === 1 ? parts[0] ?? NOTHING : concat(...parts));
}

/** Checksum with the pseudo-header of RFC 9293 section 3.1 or of RFC 8200 section 8.1. */
export function transportChecksum(
  source: Address, destination: Address, protocol: number, segment: Uint8Array,
): number {
  const [from, to] = [addressOf(source), addressOf(destination)];
  const rest = from.length === 4
    ? [0, protocol, ...word16(segment.length)]
    : [...word32(segment.length), 0, 0, 0, protocol];
  return internetChecksum(from, to, Uint8Array.from(rest), segment);
}

/** The bytes with a checksum put at `at`. */
function withChecksum(bytes: Uint8Array, at: number, checksum: number): Uint8Array {
  bytes.set(word16(checksum), at);
  return bytes;
}

export interface EthernetFields {
  destination: string | Uint8Array;
  source: string | Uint8Array;
  type: number;
}

export function ethernet(fields: EthernetFields, payload: Uint8Array): Uint8Array {
  const mac = (value: string | Uint8Array): Uint8Array =>
    typeof value === 'string' ? macOf(value) : value;
  return concat(mac(fields.destination), mac(fields.source), word16(fields.type), payload);
}

export interface ArpFields {
  operation: number;
  senderMac: string;
  senderAddress: Address;
  targetMac: string;
  targetAddress: Address;
  hardwareType?: number;
}

/** ARP, RFC 826, for IPv4 over Ethernet. */
export function arp(fields: ArpFields): Uint8Array {
  return concat(
    word16(fields.hardwareType ?? 1), word16(ETHER_TYPE.ipv4), [6, 4], word16(fields.operation),
    macOf(fields.senderMac), addressOf(fields.senderAddress),
    macOf(fields.targetMac), addressOf(fields.targetAddress),
  );
}

export interface Ipv4Fields {
  source: Address;
  destination: Address;
  protocol: number;
  ttl?: number;
  tos?: number;
  identification?: number;
  dontFragment?: boolean;
  moreFragments?: boolean;
  offset?: number;
  options?: Uint8Array;
  version?: number;
  headerWords?: number;
  totalLength?: number;
  checksum?: number;
}

/** IPv4, RFC 791 section 3.1. Lengths and checksum are right unless given. */
export function ipv4(fields: Ipv4Fields, payload: Uint8Array): Uint8Array {
  const options = fields.options ?? NOTHING;
  const padding = new Array<number>((4 - (options.length % 4)) % 4).fill(0);
  const headerSize = 20 + options.length + padding.length;
  const flags = (fields.dontFragment ? 0x4000 : 0) | (fields.moreFragments ? 0x2000 : 0);
  const header = concat(
    [((fields.version ?? 4) << 4) | (fields.headerWords ?? headerSize / 4), fields.tos ?? 0],
    word16(fields.totalLength ?? headerSize + payload.length),
    word16(fields.identification ?? 0), word16(flags | (fields.offset ?? 0)),
    [fields.ttl ?? 64, fields.protocol, 0, 0],
    addressOf(fields.source), addressOf(fields.destination), options, padding,
  );
  withChecksum(header, 10, fields.checksum ?? internetChecksum(header));
  return concat(header, payload);
}

export interface Ipv6Fields {
  source: Address;
  destination: Address;
  nextHeader: number;
  hopLimit?: number;
  trafficClass?: number;
  flowLabel?: number;
  version?: number;
  payloadLength?: number;
}

/** IPv6, RFC 8200 section 3. `payload` includes extension headers. */
export function ipv6(fields: Ipv6Fields, payload: Uint8Array): Uint8Array {
  const label = ((fields.trafficClass ?? 0) << 20) | (fields.flowLabel ?? 0);
  const first = word32(label);
  first[0] = (first[0] ?? 0) | ((fields.version ?? 6) << 4);
  return concat(
    first, word16(fields.payloadLength ?? payload.length),
    [fields.nextHeader, fields.hopLimit ?? 64],
    addressOf(fields.source), addressOf(fields.destination), payload,
  );
}

/** Hop-by-hop or destination options of `units` times 8 bytes, filled with one PadN option. */
export function optionsHeader(nextHeader: number, units = 1): Uint8Array {
  const header = new Uint8Array(units * 8);
  header.set([nextHeader, units - 1, 1, (units * 8) - 4]);
  return header;
}

/** Routing header, RFC 8200 section 4.4, with no addresses. */
export function routingHeader(nextHeader: number, type: number, segmentsLeft = 0): Uint8Array {
  return Uint8Array.of(nextHeader, 0, type, segmentsLeft, 0, 0, 0, 0);
}

/** Fragment header, RFC 8200 section 4.5. `offset` is in units of 8 bytes. */
export function fragmentHeader(nextHeader: number, offset: number, more: boolean): Uint8Array {
  return Uint8Array.from([
    nextHeader, 0, ...word16((offset << 3) | Number(more)), ...word32(0x01020304),
  ]);
}

/** Authentication header, RFC 4302 section 2, with an integrity value of 12 bytes. */
export function authenticationHeader(nextHeader: number): Uint8Array {
  const header = new Uint8Array(24);
  header.set([nextHeader, 4]);
  return header;
}

export interface SegmentFields {
  source: Address;
  destination: Address;
  sourcePort: number;
  destinationPort: number;
}

/** UDP, RFC 768. */
export function udp(fields: SegmentFields, payload: Uint8Array): Uint8Array {
  const datagram = concat(
    word16(fields.sourcePort), word16(fields.destinationPort), word16(8 + payload.length), [0, 0],
    payload,
  );
  const sum = transportChecksum(fields.source, fields.destination, PROTOCOL.udp, datagram);
  return withChecksum(datagram, 6, sum === 0 ? 0xffff : sum);
}

export interface TcpFields extends SegmentFields {
  sequence?: number;
  acknowledgment?: number;
  flags?: number;
  window?: number;
  urgent?: number;
  options?: Uint8Array;
}

/** TCP, RFC 9293 section 3.1. Options are padded to whole words. */
export function tcp(fields: TcpFields, payload: Uint8Array): Uint8Array {
  const options = fields.options ?? NOTHING;
  const padding = new Array<number>((4 - (options.length % 4)) % 4).fill(0);
  const words = 5 + ((options.length + padding.length) / 4);
  const segment = concat(
    word16(fields.sourcePort), word16(fields.destinationPort),
    word32(fields.sequence ?? 1), word32(fields.acknowledgment ?? 2),
    [words << 4, fields.flags ?? 0x10], word16(fields.window ?? 65535), [0, 0],
    word16(fields.urgent ?? 0), options, padding, payload,
  );
  const sum = transportChecksum(fields.source, fields.destination, PROTOCOL.tcp, segment);
  return withChecksum(segment, 16, sum);
}

/** ICMP, RFC 792. `rest` is the second word. */
export function icmp(type: number, code: number, rest: number, payload: Uint8Array): Uint8Array {
  const message = concat([type, code, 0, 0], word32(rest), payload);
  return withChecksum(message, 2, internetChecksum(message));
}

export interface Icmpv6Fields {
  source: Address;
  destination: Address;
  type: number;
  code?: number;
  rest?: number;
}

/** ICMPv6, RFC 4443 section 2.1. */
export function icmpv6(fields: Icmpv6Fields, payload: Uint8Array): Uint8Array {
  const message = concat([fields.type, fields.code ?? 0, 0, 0], word32(fields.rest ?? 0), payload);
  const sum = transportChecksum(fields.source, fields.destination, PROTOCOL.icmpv6, message);
  return withChecksum(message, 2, sum);
}

/** A neighbour solicitation or advertisement as an IPv6 packet, RFC 4861 sections 4.3 and 4.4.
 * `mac` goes into the link-layer address option. */
export function neighbour(fields: {
  source: Address;
  destination: Address;
  type: 135 | 136;
  flags?: number;
  target: Address;
  mac: string | null;
  hopLimit?: number;
}): Uint8Array {
  const { source, destination, type } = fields;
  const option = fields.mac === null ? NOTHING : concat([type - 134, 1], macOf(fields.mac));
  const rest = ((fields.flags ?? 0) << 24) >>> 0;
  const message = icmpv6(
    { source, destination, type, rest }, concat(addressOf(fields.target), option));
  const hopLimit = fields.hopLimit ?? 255;
  return ipv6({ source, destination, nextHeader: PROTOCOL.icmpv6, hopLimit }, message);
}

/** VXLAN, RFC 7348 section 5, in front of a frame. */
export function vxlan(
  fields: { vni: number; flags?: number; reserved?: number; reservedLast?: number },
  frame: Uint8Array,
): Uint8Array {
  const first = (((fields.flags ?? 0x08) << 24) | (fields.reserved ?? 0)) >>> 0;
  const second = (fields.vni * 256) + (fields.reservedLast ?? 0);
  return concat(word32(first), word32(second), frame);
}

/** Geneve, RFC 8926 section 3.4, in front of what `protocol` says. */
export function geneve(
  fields: {
    vni: number; protocol: number; version?: number; flags?: number; options?: Uint8Array;
    reservedLast?: number;
  },
  payload: Uint8Array,
): Uint8Array {
  const { version = 0, flags = 0, options = NOTHING } = fields;
  return concat([(version << 6) | (options.length / 4), flags], word16(fields.protocol),
    word32((fields.vni * 256) + (fields.reservedLast ?? 0)), options, payload);
}

/** Precondition: at least 8 bytes. */
export function parseGeneve(datagram: Uint8Array) {
  const [first = 0, flags = 0] = datagram;
  return {
    version: first >> 6,
    size: 8 + ((first & 0x3f) * 4),
    isControl: (flags & 0x80) !== 0,
    isCritical: (flags & 0x40) !== 0,
    protocol: read16(datagram, 2),
    vni: Math.floor(read32(datagram, 4) / 256),
  };
}

export function parseEthernet(frame: Uint8Array) {
  return {
    destination: frame.subarray(0, 6),
    source: frame.subarray(6, 12),
    type: read16(frame, 12),
    payload: frame.subarray(14),
  };
}

export function parseArp(packet: Uint8Array) {
  return {
    hardwareType: read16(packet, 0),
    protocolType: read16(packet, 2),
    hardwareSize: packet[4],
    protocolSize: packet[5],
    operation: read16(packet, 6),
    senderMac: packet.subarray(8, 14),
    senderAddress: packet.subarray(14, 18),
    targetMac: packet.subarray(18, 24),
    targetAddress: packet.subarray(24, 28),
  };
}

/** Precondition: at least 20 bytes. */
export function parseIpv4(packet: Uint8Array) {
  const headerSize = ((packet[0] ?? 0) & 0x0f) * 4;
  const fragment = read16(packet, 6);
  return {
    version: (packet[0] ?? 0) >> 4,
    headerSize,
    tos: packet[1] ?? 0,
    totalLength: read16(packet, 2),
    identification: read16(packet, 4),
    dontFragment: (fragment & 0x4000) !== 0,
    moreFragments: (fragment & 0x2000) !== 0,
    offset: fragment & 0x1fff,
    ttl: packet[8] ?? 0,
    protocol: packet[9] ?? 0,
    checksum: read16(packet, 10),
    source: packet.subarray(12, 16),
    destination: packet.subarray(16, 20),
    options: packet.subarray(20, headerSize),
  };
}

/** Precondition: at least 40 bytes. */
export function parseIpv6(packet: Uint8Array) {
  return {
    version: (packet[0] ?? 0) >> 4,
    trafficClass: (read16(packet, 0) >> 4) & 0xff,
    flowLabel: read32(packet, 0) & 0xfffff,
    payloadLength: read16(packet, 4),
    nextHeader: packet[6] ?? 0,
    hopLimit: packet[7] ?? 0,
    source: packet.subarray(8, 24),
    destination: packet.subarray(24, 40),
  };
}

export function parseVxlan(datagram: Uint8Array) {
  return {
    flags: datagram[0] ?? 0,
    reserved: read32(datagram, 0) & 0xffffff,
    vni: Math.floor(read32(datagram, 4) / 256),
    reservedLast: datagram[7] ?? 0,
    frame: datagram.subarray(8),
  };
}
