// Text and bytes of IP addresses, prefixes and MAC addresses. IPv6 texts are ipaddr.js's; IPv4's
// are read here, since a cluster has 100,000 of them and each is read several times on its way.

import ipaddr from 'ipaddr.js';

export type Family = 'IPv4' | 'IPv6';

const ZERO = '0'.charCodeAt(0);
const DOT = '.'.charCodeAt(0) - ZERO;
const SLASH = '/'.charCodeAt(0);

/** A prefix as a table key: 16 bytes, IPv4 in the first four, host bits zero. */
export interface PrefixKey {
  family: Family;
  bytes: Uint8Array;
  length: number;
}

/** True for a dotted-quad IPv4 or an IPv6 address without zone. */
export function isAddress(text: string): boolean {
  if (!text.includes(':')) return ipv4Number(text, text.length) >= 0;
  return !text.includes('%') && ipaddr.IPv6.isValid(text);
}

/** The first `end` characters as a dotted quad: four decimal numbers without leading zeros, as a
 * number; -1 where they are none. */
function ipv4Number(text: string, end: number): number {
  let value = 0;
  let part = -1;
  let parts = 1;
  for (let at = 0; at < end; at += 1) {
    const digit = text.charCodeAt(at) - ZERO;
    if (digit === DOT && part >= 0 && parts < 4) {
      value = (value * 256) + part;
      part = -1;
      parts += 1;
    } else if (digit >= 0 && digit <= 9 && part !== 0) {
      part = part < 0 ? digit : (part * 10) + digit;
      if (part > 255) return -1;
    } else return -1;
  }
  return parts === 4 && part >= 0 ? (value * 256) + part : -1;
}

/** True for an address with a prefix length, host bits allowed. */
export function isPrefix(text: string): boolean {
  if (ipv4PrefixLength(text) >= 0) return true;
  const [address = '', length = '', rest] = text.split('/');
  if (rest !== undefined || !isAddress(address) || !/^\d{1,3}$/.test(length)) return false;
  return Number(length) <= (addressFamily(address) === 'IPv4' ? 32 : 128);
}

/** The length of an IPv4 prefix that is written as usual; -1 for any other text. */
function ipv4PrefixLength(text: string): number {
  const slash = text.length - (text.charCodeAt(text.length - 2) === SLASH ? 2 : 3);
  if (text.charCodeAt(slash) !== SLASH || ipv4Number(text, slash) < 0) return -1;
  const tens = text.length - slash === 3 ? text.charCodeAt(slash + 1) - ZERO : 0;
  const ones = text.charCodeAt(text.length - 1) - ZERO;
  const isNumber = tens >= 0 && tens <= 3 && ones >= 0 && ones <= 9;
  const length = (tens * 10) + ones;
  return isNumber && length <= 32 ? length : -1;
}

/** True for a unicast MAC address in colon form. */
export function isMac(text: string): boolean {
  return /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i.test(text) && (parseInt(text.slice(0, 2), 16) & 1) === 0;
}

export function addressFamily(text: string): Family {
  return text.includes(':') ? 'IPv6' : 'IPv4';
}

/** The 4 or 16 bytes of an address. Throws on text that isAddress() refuses. */
export function addressBytes(text: string): Uint8Array {
  const ipv4 = ipv4Number(text, text.length);
  if (ipv4 >= 0) return Uint8Array.of(ipv4 >>> 24, ipv4 >>> 16, ipv4 >>> 8, ipv4);
  if (!isAddress(text)) throw new Error(`not an IP address: ${text}`);
  return Uint8Array.from(ipaddr.parse(text).toByteArray());
}

/** Canonical text of 4 or 16 bytes; RFC 5952 for IPv6. */
export function addressText(bytes: Uint8Array): string {
  // join() makes one piece; a template would refer to its parts.
  if (bytes.length === 4) return bytes.join('.');
  const address = ipaddr.fromByteArray(Array.from(bytes));
  return address instanceof ipaddr.IPv6 ? address.toRFC5952String() : address.toString();
}

/** The prefix as a key. Host bits are cleared. Throws on text that isPrefix() refuses. */
export function prefixKey(text: string): PrefixKey {
  const ipv4Length = ipv4PrefixLength(text);
  if (ipv4Length >= 0) return ipv4Key(text, ipv4Length);
  if (!isPrefix(text)) throw new Error(`not a prefix in CIDR form: ${text}`);
  const [address = '', length = ''] = text.split('/');
  const bytes = new Uint8Array(16);
  bytes.set(addressBytes(address));
  maskBytes(bytes, Number(length));
  return { family: addressFamily(address), bytes, length: Number(length) };
}

function ipv4Key(text: string, length: number): PrefixKey {
  const value = ipv4Number(text, text.lastIndexOf('/'));
  const masked = length === 0 ? 0 : value & (-1 << (32 - length));
  const bytes = new Uint8Array(16);
  bytes[0] = masked >>> 24;
  bytes[1] = masked >>> 16;
  bytes[2] = masked >>> 8;
  bytes[3] = masked;
  return { family: 'IPv4', bytes, length };
}

/** The host prefix (/32 or /128) of an address. */
export function hostPrefix(address: string): string {
  const bytes = addressBytes(address);
  return `${addressText(bytes)}/${bytes.length * 8}`;
}

/** Canonical text of a key. */
export function prefixText(key: PrefixKey): string {
  const bytes = key.bytes.subarray(0, key.family === 'IPv4' ? 4 : 16);
  return [addressText(bytes), key.length].join('/');
}

/** The first address of a prefix: what flannel puts on its tunnel device. */
export function prefixBase(prefix: string): string {
  return prefixText(prefixKey(prefix)).split('/')[0] ?? '';
}

/** True where the prefix holds the address. */
export function prefixHolds(prefix: string, address: string): boolean {
  const key = prefixKey(prefix);
  if (key.family !== addressFamily(address)) return false;
  const bytes = new Uint8Array(16);
  bytes.set(addressBytes(address));
  maskBytes(bytes, key.length);
  return bytes.every((byte, index) => byte === key.bytes[index]);
}

/** The 6 bytes of a MAC address in colon form. */
export function macBytes(text: string): Uint8Array {
  if (!isMac(text)) throw new Error(`not a unicast MAC address: ${text}`);
  return Uint8Array.from(text.split(':'), (part) => parseInt(part, 16));
}

export function macText(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join(':');
}

function maskBytes(bytes: Uint8Array, length: number): void {
  for (let index = 0; index < 16; index += 1) {
    const keep = Math.min(Math.max(length - (index * 8), 0), 8);
    bytes[index] = (bytes[index] ?? 0) & (0xff00 >> keep);
  }
}
