// Text and bytes of IP addresses, prefixes and MAC addresses. Text parsing is ipaddr.js's.

import ipaddr from 'ipaddr.js';

export type Family = 'IPv4' | 'IPv6';

/** A prefix as a table key: 16 bytes, IPv4 in the first four, host bits zero. */
export interface PrefixKey {
  family: Family;
  bytes: Uint8Array;
  length: number;
}

/** True for a dotted-quad IPv4 or an IPv6 address without zone. */
export function isAddress(text: string): boolean {
  if (text.includes('%')) return false;
  // One try each: a failed one throws inside, which costs as much as a hundred parsings.
  return text.includes(':') ? ipaddr.IPv6.isValid(text) : ipaddr.IPv4.isValidFourPartDecimal(text);
}

/** True for an address with a prefix length, host bits allowed. */
export function isPrefix(text: string): boolean {
  const [address = '', length = '', rest] = text.split('/');
  if (rest !== undefined || !isAddress(address) || !/^\d{1,3}$/.test(length)) return false;
  return Number(length) <= (addressFamily(address) === 'IPv4' ? 32 : 128);
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
  if (!isAddress(text)) throw new Error(`not an IP address: ${text}`);
  return Uint8Array.from(ipaddr.parse(text).toByteArray());
}

/** Canonical text of 4 or 16 bytes; RFC 5952 for IPv6. */
export function addressText(bytes: Uint8Array): string {
  const address = ipaddr.fromByteArray(Array.from(bytes));
  return address instanceof ipaddr.IPv6 ? address.toRFC5952String() : address.toString();
}

/** The prefix as a key. Host bits are cleared. Throws on text that isPrefix() refuses. */
export function prefixKey(text: string): PrefixKey {
  if (!isPrefix(text)) throw new Error(`not a prefix in CIDR form: ${text}`);
  const [address = '', length = ''] = text.split('/');
  const bytes = new Uint8Array(16);
  bytes.set(addressBytes(address));
  maskBytes(bytes, Number(length));
  return { family: addressFamily(address), bytes, length: Number(length) };
}

/** The host prefix (/32 or /128) of an address. */
export function hostPrefix(address: string): string {
  const bytes = addressBytes(address);
  return `${addressText(bytes)}/${bytes.length * 8}`;
}

/** Canonical text of a key. */
export function prefixText(key: PrefixKey): string {
  return `${addressText(key.bytes.subarray(0, key.family === 'IPv4' ? 4 : 16))}/${key.length}`;
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
