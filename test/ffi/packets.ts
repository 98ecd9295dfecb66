// The few packets these tests need, built by hand: RFC 791, RFC 8200, RFC 768, RFC 1071.

import { parseIp } from '../../ffi/address.ts';

const IPPROTO_UDP = 17;

/** RFC 1071 checksum, to be stored in network order. */
export function internetChecksum(bytes: Uint8Array): number {
  let sum = 0;
  for (let i = 0; i < bytes.length; i += 2) sum += ((bytes[i] ?? 0) << 8) + (bytes[i + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

/** A whole IPv4 or IPv6 packet with a UDP datagram, checksums filled in. */
export function udpPacket(
  source: string, destination: string, sourcePort: number, port: number, payload: Uint8Array,
): Uint8Array {
  const from = parseIp(source);
  const to = parseIp(destination);
  const udp = Buffer.alloc(8 + payload.length);
  udp.writeUInt16BE(sourcePort, 0);
  udp.writeUInt16BE(port, 2);
  udp.writeUInt16BE(udp.length, 4);
  udp.set(payload, 8);
  const pseudo = Buffer.from([...from, ...to, 0, IPPROTO_UDP, udp.length >>> 8, udp.length & 0xff]);
  udp.writeUInt16BE(internetChecksum(Buffer.concat([pseudo, udp])), 6);
  const header = from.length === 4 ? ipv4Header(udp.length) : ipv6Header(udp.length);
  header.set(from, header.length - 2 * from.length);
  header.set(to, header.length - to.length);
  if (from.length === 4) header.writeUInt16BE(internetChecksum(header), 10);
  return Buffer.concat([header, udp]);
}

function ipv4Header(payloadLength: number): Buffer {
  const header = Buffer.alloc(20);
  header[0] = 0x45;
  header.writeUInt16BE(20 + payloadLength, 2);
  header[8] = 64;
  header[9] = IPPROTO_UDP;
  return header;
}

function ipv6Header(payloadLength: number): Buffer {
  const header = Buffer.alloc(40);
  header[0] = 0x60;
  header.writeUInt16BE(payloadLength, 4);
  header[6] = IPPROTO_UDP;
  header[7] = 64;
  return header;
}
