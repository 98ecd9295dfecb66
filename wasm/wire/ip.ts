// What IPv4 and IPv6 have in common, told apart by the version nibble. Every function but checkIp()
// has the precondition that checkIp() accepted the packet.

import {
  ECN_MASK, ETHER_TYPE_IPV4, ETHER_TYPE_IPV6, IPV4_DESTINATION, IPV4_SOURCE, IPV4_TOS,
  IPV6_DESTINATION, IPV6_HEADER_SIZE, IPV6_SOURCE,
} from "../abi/headers";
import {
  REASON_IP_VERSION, REASON_NONE, REASON_SOURCE_ROUTE, REASON_TOO_SHORT,
} from "../abi/verdict";
import {
  checkIpv4, checkIpv4Addresses, ipv4DecrementTtl, ipv4Destination, ipv4DontFragment, ipv4Source,
  ipv4TotalLength, ipv4Ttl, setIpv4TotalLength,
} from "./ipv4";
import {
  checkIpv6, checkIpv6Addresses, ipv6DecrementHopLimit, ipv6HopLimit, ipv6TotalLength,
  ipv6TrafficClass, setIpv6PayloadLength,
} from "./ipv6";
import {
  ipv4Transport, ipv6Transport, isFragment, isSourceRouted, transportPorts, transportProtocol,
} from "./transport";

/** Accepts a packet with REASON_NONE: its headers are sound, lie within `length`, and its addresses
 * may be forwarded between. After it, every accessor stays within ipTotalLength() bytes. */
// @ts-ignore: decorator
@inline
export function checkIp(packet: usize, length: i32): i32 {
  if (length < 1) return REASON_TOO_SHORT;
  const version = load<u8>(packet) >> 4;
  if (version == 4) {
    const reason = checkIpv4(packet, length);
    return reason != REASON_NONE ? reason : checkIpv4Addresses(packet);
  }
  if (version != 6) return REASON_IP_VERSION;
  const reason = checkIpv6(packet, length);
  if (reason != REASON_NONE) return reason;
  if (isSourceRouted(ipv6Transport(packet))) return REASON_SOURCE_ROUTE;
  return checkIpv6Addresses(packet);
}

export function isIpv4(packet: usize): bool {
  return load<u8>(packet) >> 4 == 4;
}

export function ipTotalLength(packet: usize): i32 {
  return isIpv4(packet) ? ipv4TotalLength(packet) : ipv6TotalLength(packet);
}

/** Sets what ipTotalLength() reads. */
export function setIpTotalLength(packet: usize, length: i32): void {
  if (isIpv4(packet)) setIpv4TotalLength(packet, length);
  else setIpv6PayloadLength(packet, length - IPV6_HEADER_SIZE);
}

export function ipEtherType(packet: usize): i32 {
  return isIpv4(packet) ? ETHER_TYPE_IPV4 : ETHER_TYPE_IPV6;
}

/** TTL or hop limit. */
export function ipHopLimit(packet: usize): i32 {
  return isIpv4(packet) ? ipv4Ttl(packet) : ipv6HopLimit(packet);
}

export function ipDecrementHopLimit(packet: usize): void {
  if (isIpv4(packet)) ipv4DecrementTtl(packet);
  else ipv6DecrementHopLimit(packet);
}

/** TOS or traffic class: DSCP and ECN. */
export function ipTos(packet: usize): i32 {
  return isIpv4(packet) ? <i32>load<u8>(packet, IPV4_TOS) : ipv6TrafficClass(packet);
}

/** The ECN field, RFC 3168 section 5. */
export function ipEcn(packet: usize): i32 {
  return ipTos(packet) & ECN_MASK;
}

/** True where no router may fragment the packet: IPv6, and IPv4 with DF. */
export function ipDontFragment(packet: usize): bool {
  return !isIpv4(packet) || ipv4DontFragment(packet);
}

/** See transport.ts. */
// @ts-ignore: decorator
@inline
export function ipTransport(packet: usize): i32 {
  return isIpv4(packet) ? ipv4Transport(packet) : ipv6Transport(packet);
}

/** A hash equal for all packets of a flow and for all fragments of a datagram: addresses and, where
 * it is no fragment, protocol and ports. (Of an IPv6 datagram only the first fragment can tell the
 * protocol, behind the extension headers that may follow the fragment header.) */
// @ts-ignore: decorator
@inline
export function flowHash(packet: usize): u32 {
  const transport = ipTransport(packet);
  const ports = transportPorts(packet, transport, ipTotalLength(packet));
  const protocol = isFragment(transport) ? 0 : transportProtocol(transport);
  let mixed = (<u64>ports << 8) | <u64>protocol;
  if (isIpv4(packet)) {
    const addresses = (<u64>ipv4Source(packet) << 32) | <u64>ipv4Destination(packet);
    mixed = mix(mix(0, mixed), addresses);
  } else {
    mixed = mix(mixed, load<u64>(packet, IPV6_SOURCE));
    mixed = mix(mixed, load<u64>(packet, IPV6_SOURCE + 8));
    mixed = mix(mixed, load<u64>(packet, IPV6_DESTINATION));
    mixed = mix(mixed, load<u64>(packet, IPV6_DESTINATION + 8));
  }
  return <u32>(mixed >> 32);
}

/** One round of a multiplicative hash; the constant is 2^64 divided by the golden ratio. */
function mix(hash: u64, word: u64): u64 {
  const product = (hash ^ word) * 0x9e3779b97f4a7c15;
  return product ^ (product >> 29);
}

/** Address of the source address, 4 or 16 bytes. */
export function ipSourceAddress(packet: usize): usize {
  return packet + (isIpv4(packet) ? IPV4_SOURCE : IPV6_SOURCE);
}

/** Address of the destination address, 4 or 16 bytes. */
export function ipDestinationAddress(packet: usize): usize {
  return packet + (isIpv4(packet) ? IPV4_DESTINATION : IPV6_DESTINATION);
}
