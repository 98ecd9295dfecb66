// Slow twin of wasm/wire/transport.ts: where the transport header of a packet is.

import { PROTOCOL, parseIpv4, parseIpv6, read16 } from '../support/packets.ts';

export interface Transport {
  protocol: number;
  offset: number;
  /** Any fragment, the first included, of a datagram that has more than one. */
  fragment: boolean;
  /** The transport header is in another fragment, or the chain of headers cannot be followed. */
  outOfSight: boolean;
  /** There is a type 0 routing header, RFC 5095. */
  sourceRouted: boolean;
}

/** Extension headers that are walked past; more than this many is our limit of patience. */
const PATIENCE = 8;

const EXTENSIONS: readonly number[] = [
  PROTOCOL.hopByHop, PROTOCOL.routing, PROTOCOL.fragment, PROTOCOL.destinationOptions,
  PROTOCOL.authentication,
];

/** Precondition: the header and its lengths are sound. */
export function findTransport(packet: Uint8Array): Transport {
  return (packet[0] ?? 0) >> 4 === 4 ? findIpv4(packet) : findIpv6(packet);
}

function findIpv4(packet: Uint8Array): Transport {
  const { protocol, headerSize, moreFragments, offset } = parseIpv4(packet);
  return {
    protocol,
    offset: headerSize,
    fragment: moreFragments || offset > 0,
    outOfSight: offset > 0,
    sourceRouted: false,
  };
}

function findIpv6(whole: Uint8Array): Transport {
  const { nextHeader, payloadLength } = parseIpv6(whole);
  const packet = whole.subarray(0, 40 + payloadLength);
  const found: Transport = {
    protocol: nextHeader, offset: 40, fragment: false, outOfSight: false, sourceRouted: false,
  };
  for (let walked = 0; EXTENSIONS.includes(found.protocol); walked += 1) {
    const header = packet.subarray(found.offset);
    if (walked === PATIENCE || header.length < 8) return { ...found, outOfSight: true };
    const size = sizeOf(found.protocol, header);
    if (found.protocol === PROTOCOL.routing && header[2] === 0) found.sourceRouted = true;
    if (found.protocol === PROTOCOL.fragment) {
      const field = read16(header, 2);
      // An atomic fragment, RFC 6946, is a whole packet.
      found.fragment ||= (field & 0xfff8) !== 0 || (field & 1) !== 0;
      if ((field & 0xfff8) !== 0) found.outOfSight = true;
    }
    found.protocol = header[0] ?? 0;
    found.offset += size;
    if (found.outOfSight) return found;
    if (found.offset > packet.length) return { ...found, outOfSight: true };
  }
  return found;
}

/** RFC 8200 sections 4.3 to 4.6; RFC 4302 section 2.2. */
function sizeOf(protocol: number, header: Uint8Array): number {
  const length = header[1] ?? 0;
  if (protocol === PROTOCOL.fragment) return 8;
  return protocol === PROTOCOL.authentication ? (length + 2) * 4 : (length + 1) * 8;
}
