// IPv6, RFC 8200 section 3. checkIpv6() is the one function that meets an untrusted length; the
// accessors after it cannot leave the packet.

import {
  IPV6_DESTINATION, IPV6_HEADER_SIZE, IPV6_HOP_LIMIT, IPV6_NEXT_HEADER, IPV6_PAYLOAD_LENGTH,
  IPV6_SOURCE, IPV6_VERSION_CLASS,
} from "../abi/headers";
import {
  REASON_IP_VERSION, REASON_LINK_LOCAL, REASON_MARTIAN_DESTINATION, REASON_MARTIAN_SOURCE,
  REASON_MULTICAST, REASON_NONE, REASON_TOO_SHORT,
} from "../abi/verdict";

/** Accepts a header with REASON_NONE: the version is right and the payload is within `length`.
 * Jumbograms (RFC 2675) do not fit a slot; their payload length of 0 makes them a bare header. */
export function checkIpv6(header: usize, length: i32): i32 {
  if (length < IPV6_HEADER_SIZE) return REASON_TOO_SHORT;
  if (load<u8>(header, IPV6_VERSION_CLASS) >> 4 != 6) return REASON_IP_VERSION;
  if (ipv6TotalLength(header) > length) return REASON_TOO_SHORT;
  return REASON_NONE;
}

/** Accepts with REASON_NONE a source and destination that a router may forward between,
 * RFC 4291 sections 2.5.2, 2.5.3, 2.5.5, 2.5.6 and 2.7. Words are looked at as they lie: swapping
 * all four costs more than the rest. */
export function checkIpv6Addresses(header: usize): i32 {
  if (load<u8>(header, IPV6_DESTINATION) == 0xff) return REASON_MULTICAST;
  if (load<u8>(header, IPV6_SOURCE) == 0xff || isThisHost(header + IPV6_SOURCE)) {
    return REASON_MARTIAN_SOURCE;
  }
  if (isThisHost(header + IPV6_DESTINATION)) return REASON_MARTIAN_DESTINATION;
  if (isLinkLocal(header + IPV6_SOURCE) || isLinkLocal(header + IPV6_DESTINATION)) {
    return REASON_LINK_LOCAL;
  }
  return REASON_NONE;
}

/** ::, ::1 and the IPv4-mapped ::ffff:0:0/96. */
// @ts-ignore: decorator
@inline
function isThisHost(address: usize): bool {
  if (load<u64>(address) != 0) return false;
  const low = load<u64>(address, 8);
  return low == 0 || low == <u64>1 << 56 || <u32>low == 0xffff0000;
}

/** fe80::/10. */
// @ts-ignore: decorator
@inline
function isLinkLocal(address: usize): bool {
  return (load<u16>(address) & 0xc0ff) == 0x80fe;
}

/** Header and payload, in bytes. */
export function ipv6TotalLength(header: usize): i32 {
  return IPV6_HEADER_SIZE + <i32>bswap<u16>(load<u16>(header, IPV6_PAYLOAD_LENGTH));
}

/** Of everything behind the header, extension headers included. */
export function setIpv6PayloadLength(header: usize, length: i32): void {
  store<u16>(header, bswap<u16>(<u16>length), IPV6_PAYLOAD_LENGTH);
}

export function ipv6NextHeader(header: usize): i32 {
  return load<u8>(header, IPV6_NEXT_HEADER);
}

export function ipv6TrafficClass(header: usize): i32 {
  return (<i32>bswap<u16>(load<u16>(header, IPV6_VERSION_CLASS)) >> 4) & 0xff;
}

export function ipv6HopLimit(header: usize): i32 {
  return load<u8>(header, IPV6_HOP_LIMIT);
}

export function ipv6SourceHi(header: usize): u64 {
  return bswap<u64>(load<u64>(header, IPV6_SOURCE));
}

export function ipv6SourceLo(header: usize): u64 {
  return bswap<u64>(load<u64>(header + 8, IPV6_SOURCE));
}

export function ipv6DestinationHi(header: usize): u64 {
  return bswap<u64>(load<u64>(header, IPV6_DESTINATION));
}

export function ipv6DestinationLo(header: usize): u64 {
  return bswap<u64>(load<u64>(header + 8, IPV6_DESTINATION));
}

/** True where two addresses of 16 bytes are the same. */
export function ipv6Equals(left: usize, right: usize): bool {
  return load<u64>(left) == load<u64>(right) && load<u64>(left, 8) == load<u64>(right, 8);
}

export function copyIpv6(target: usize, source: usize): void {
  const hi = load<u64>(source);
  const lo = load<u64>(source, 8);
  store<u64>(target, hi);
  store<u64>(target, lo, 8);
}

/** Decrements the hop limit. Precondition: it is above 0. */
export function ipv6DecrementHopLimit(header: usize): void {
  store<u8>(header, load<u8>(header, IPV6_HOP_LIMIT) - 1, IPV6_HOP_LIMIT);
}

/** Writes a header. `source` and `destination` are addresses of 16 bytes. */
export function emitIpv6(
  header: usize,
  payloadLength: i32,
  nextHeader: i32,
  hopLimit: i32,
  source: usize,
  destination: usize,
): void {
  store<u32>(header, 0x60, IPV6_VERSION_CLASS);
  setIpv6PayloadLength(header, payloadLength);
  store<u8>(header, <u8>nextHeader, IPV6_NEXT_HEADER);
  store<u8>(header, <u8>hopLimit, IPV6_HOP_LIMIT);
  copyIpv6(header + IPV6_SOURCE, source);
  copyIpv6(header + IPV6_DESTINATION, destination);
}
