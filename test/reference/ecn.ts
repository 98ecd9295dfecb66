// Slow twin of wasm/wire/ecn.ts: what the end of a tunnel makes of two ECN fields.

import { internetChecksum, parseIpv4, read16, word16 } from '../support/packets.ts';

const CE = 3;

/** RFC 6040 figure 4: the inner field is the row, the outer one the column, in the order Not-ECT,
 * ECT(1), ECT(0), CE in which their values count. Null is a drop. */
const COMBINED: (number | null)[][] = [
  [0, 0, 0, null],
  [1, 1, 1, CE],
  [2, 1, 2, CE],
  [CE, CE, CE, CE],
];

/** The packet with what the outer TOS says of congestion; null where it must be dropped. */
export function carried(packet: Uint8Array, outerTos: number): Uint8Array | null {
  const isIpv4 = (packet[0] ?? 0) >> 4 === 4;
  const tos = isIpv4 ? packet[1] ?? 0 : (read16(packet, 0) >> 4) & 0xff;
  const combined = COMBINED[tos & 3]?.[outerTos & 3];
  if (combined === null || combined === undefined) return null;
  const changed = packet.slice();
  if (!isIpv4) {
    changed[1] = ((packet[1] ?? 0) & 0xcf) | (combined << 4);
    return changed;
  }
  changed[1] = (tos & 0xfc) | combined;
  const header = changed.subarray(0, parseIpv4(packet).headerSize);
  const wasRight = internetChecksum(packet.subarray(0, header.length)) === 0;
  if (!wasRight) return changed;
  header.set([0, 0], 10);
  header.set(word16(internetChecksum(header)), 10);
  return changed;
}
