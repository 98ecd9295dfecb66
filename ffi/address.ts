// Addresses as the kernel takes them: IP addresses in bytes, struct sockaddr_in and sockaddr_in6.

import * as libc from './libc.ts';
import { NativeBlock } from './memory.ts';

export const AF_INET = 2;
export const AF_INET6 = 10;
/** Room for either struct sockaddr_in (16) or struct sockaddr_in6 (28). */
export const SOCKADDR_SIZE_MAX = 28;

const SOCKADDR_IN_SIZE = 16;
const SOCKADDR_IN6_SIZE = 28;
const IPV4_OFFSET = 4;
const IPV6_OFFSET = 8;

export type IpFamily = 'IPv4' | 'IPv6';

/** One end of a datagram; `port` is 0 for raw sockets. */
export interface SocketAddress {
  address: string;
  port: number;
}

const parsed = new NativeBlock(16);

/** Bytes of an IP address in network order: 4 or 16. Anything else throws. */
export function parseIp(text: string): Uint8Array {
  const family = text.includes(':') ? AF_INET6 : AF_INET;
  if (libc.inetPton(family, text, parsed.address) !== 1) {
    throw new TypeError(`${text} is not an IPv4 or IPv6 address`);
  }
  return parsed.bytes.slice(0, family === AF_INET6 ? 16 : 4);
}

/** An address as text; IPv6 in the form of RFC 5952. */
export function formatIp(bytes: Uint8Array): string {
  if (bytes.length === 4) return bytes.join('.');
  const groups: number[] = [];
  for (let i = 0; i < 16; i += 2) groups.push(((bytes[i] ?? 0) << 8) | (bytes[i + 1] ?? 0));
  const { start, length } = longestZeroRun(groups);
  const hex = groups.map((group) => group.toString(16));
  if (length < 2) return hex.join(':');
  return `${hex.slice(0, start).join(':')}::${hex.slice(start + length).join(':')}`;
}

/** RFC 5952 section 4.2.3: the first of the longest runs is the one that is shortened. */
function longestZeroRun(groups: number[]): { start: number; length: number } {
  let best = { start: 0, length: 0 };
  let length = 0;
  for (const [i, group] of groups.entries()) {
    length = group === 0 ? length + 1 : 0;
    if (length > best.length) best = { start: i - length + 1, length };
  }
  return best;
}

/** Address family number of an IP address in text. */
export function familyOf(address: string): number {
  return address.includes(':') ? AF_INET6 : AF_INET;
}

/**
 * Writes a struct sockaddr_in or sockaddr_in6 and returns its size.
 * Precondition: `target` has SOCKADDR_SIZE_MAX bytes.
 */
export function writeSocketAddress(target: Uint8Array, address: string, port: number): number {
  const ip = parseIp(address);
  const isV6 = ip.length === 16;
  const size = isV6 ? SOCKADDR_IN6_SIZE : SOCKADDR_IN_SIZE;
  target.fill(0, 0, size);
  target[0] = isV6 ? AF_INET6 : AF_INET;
  target[2] = port >>> 8;
  target[3] = port & 0xff;
  target.set(ip, isV6 ? IPV6_OFFSET : IPV4_OFFSET);
  return size;
}

/** Reads a struct sockaddr_in or sockaddr_in6. */
export function readSocketAddress(source: Uint8Array): SocketAddress {
  const isV6 = source[0] === AF_INET6;
  const start = isV6 ? IPV6_OFFSET : IPV4_OFFSET;
  const address = formatIp(source.subarray(start, start + (isV6 ? 16 : 4)));
  return { address, port: ((source[2] ?? 0) << 8) | (source[3] ?? 0) };
}
