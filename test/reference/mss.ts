// Slow twin of wasm/mss.ts: what becomes of a packet that goes into a tunnel or comes from one.

import {
  PROTOCOL, read16, transportChecksum, word16, type Address,
} from '../support/packets.ts';
import { findTransport } from './transport.ts';

const CHECKSUM = 16;

/** A copy of a packet whose MSS options say no more than fits into `mtu` bytes, or null where all
 * stays as it is. Precondition: the checksums of the packet are right. */
export function clampMss(packet: Uint8Array, mtu: number): Uint8Array | null {
  const { protocol, offset, fragment, outOfSight } = findTransport(packet);
  if (protocol !== PROTOCOL.tcp || fragment || outOfSight) return null;
  const copy = packet.slice();
  const segment = copy.subarray(offset);
  if (segment.length < 20) return null;
  const size = ((segment[12] ?? 0) >> 4) * 4;
  if (size < 20 || size > segment.length || ((segment[13] ?? 0) & 2) === 0) return null;
  const isIpv4 = (packet[0] ?? 0) >> 4 === 4;
  const most = mtu - (isIpv4 ? 40 : 60);
  const places = mssPlaces(segment.subarray(0, size)).filter((at) => read16(segment, at) > most);
  if (places.length === 0) return null;
  for (const at of places) segment.set(word16(most), at);
  segment.set([0, 0], CHECKSUM);
  const [source, destination] = endsOf(copy, isIpv4);
  segment.set(word16(transportChecksum(source, destination, PROTOCOL.tcp, segment)), CHECKSUM);
  return copy;
}

/** Where a TCP header has values of MSS options. */
function mssPlaces(header: Uint8Array): number[] {
  const places: number[] = [];
  for (let at = 20; at < header.length && header[at] !== 0;) {
    if (header[at] === 1) {
      at += 1;
      continue;
    }
    const size = header[at + 1] ?? 0;
    if (size < 2 || at + size > header.length) break;
    if (header[at] === 2 && size === 4) places.push(at + 2);
    at += size;
  }
  return places;
}

function endsOf(packet: Uint8Array, isIpv4: boolean): [Address, Address] {
  const [start, size] = isIpv4 ? [12, 4] : [8, 16];
  return [packet.slice(start, start + size), packet.slice(start + size, start + (2 * size))];
}
