// Where the transport header of an IP packet is: behind IPv4 options, or behind IPv6 extension
// headers (RFC 8200 section 4). The answer is one number, so that it travels in a register.
//
//   bits 0-7 protocol   8-23 offset from the IP header   24 fragment   25 not the first fragment
//   26 IPv6 source route (type 0 routing header, RFC 5095)   27 the chain leaves the packet

import {
  IPV6_EXTENSION_LIMIT, IPV6_FRAGMENT_ID, IPV6_FRAGMENT_OFFSET, IPV6_FRAGMENT_SIZE,
  IPV6_HEADER_SIZE, IPV6_ROUTING_TYPE, PROTOCOL_AUTHENTICATION, PROTOCOL_DESTINATION_OPTIONS,
  PROTOCOL_FRAGMENT, PROTOCOL_HOP_BY_HOP, PROTOCOL_ROUTING, PROTOCOL_SCTP, PROTOCOL_TCP,
  PROTOCOL_UDP, TRANSPORT_PORTS_SIZE,
} from "../abi/headers";
import { ipv4FragmentOffset, ipv4HeaderLength, ipv4IsFragment, ipv4Protocol } from "./ipv4";
import { ipv6NextHeader, ipv6TotalLength } from "./ipv6";

const FRAGMENT: i32 = 1 << 24;
const LATER_FRAGMENT: i32 = 1 << 25;
const SOURCE_ROUTE: i32 = 1 << 26;
const BROKEN: i32 = 1 << 27;

/** Finds the transport header of an IPv4 packet. Precondition: checkIpv4() accepted it. */
// @ts-ignore: decorator
@inline
export function ipv4Transport(header: usize): i32 {
  let found = ipv4Protocol(header) | (ipv4HeaderLength(header) << 8);
  if (ipv4IsFragment(header)) found |= FRAGMENT;
  if (ipv4FragmentOffset(header) != 0) found |= LATER_FRAGMENT;
  return found;
}

/** Finds the transport header of an IPv6 packet. Precondition: checkIpv6() accepted it. */
// @ts-ignore: decorator
@inline
export function ipv6Transport(header: usize): i32 {
  const protocol = ipv6NextHeader(header);
  if (!isExtension(protocol)) return protocol | (IPV6_HEADER_SIZE << 8);
  return ipv6TransportWithin(header, ipv6TotalLength(header));
}

/** The same of a packet cut to `total` bytes, such as an ICMP error quotes. Precondition: they hold
 * the IPv6 header. */
export function ipv6TransportWithin(header: usize, total: i32): i32 {
  let protocol = ipv6NextHeader(header);
  let offset = IPV6_HEADER_SIZE;
  let flags = 0;
  for (let walked = 0; walked <= IPV6_EXTENSION_LIMIT; walked += 1) {
    if (!isExtension(protocol)) return protocol | (offset << 8) | flags;
    if (walked == IPV6_EXTENSION_LIMIT || offset + IPV6_FRAGMENT_SIZE > total) break;
    const extension = header + offset;
    if (protocol == PROTOCOL_FRAGMENT) flags |= fragmentFlags(extension);
    if (protocol == PROTOCOL_ROUTING && load<u8>(extension, IPV6_ROUTING_TYPE) == 0) {
      flags |= SOURCE_ROUTE;
    }
    offset += extensionSize(extension, protocol);
    protocol = load<u8>(extension);
    if (offset > total) break;
    if ((flags & LATER_FRAGMENT) != 0) return protocol | (offset << 8) | flags;
  }
  return protocol | (IPV6_HEADER_SIZE << 8) | flags | BROKEN;
}

/** Identification of a fragment, as it lies in the header. Precondition: isFragment(). */
export function ipv6FragmentId(header: usize): u32 {
  let protocol = ipv6NextHeader(header);
  let extension = header + IPV6_HEADER_SIZE;
  while (protocol != PROTOCOL_FRAGMENT) {
    const size = extensionSize(extension, protocol);
    protocol = load<u8>(extension);
    extension += size;
  }
  return load<u32>(extension, IPV6_FRAGMENT_ID);
}

/** A bit for each protocol that is an extension header; all are below 64. */
const EXTENSIONS: u64 = (<u64>1 << PROTOCOL_HOP_BY_HOP) | (<u64>1 << PROTOCOL_ROUTING)
  | (<u64>1 << PROTOCOL_FRAGMENT) | (<u64>1 << PROTOCOL_DESTINATION_OPTIONS)
  | (<u64>1 << PROTOCOL_AUTHENTICATION);

// @ts-ignore: decorator
@inline
function isExtension(protocol: i32): bool {
  return protocol < 64 && ((EXTENSIONS >>> protocol) & 1) != 0;
}

/** Bytes of an extension header: RFC 8200 section 4.2, and RFC 4302 section 2.2 for AH. */
function extensionSize(extension: usize, protocol: i32): i32 {
  if (protocol == PROTOCOL_FRAGMENT) return IPV6_FRAGMENT_SIZE;
  const length = <i32>load<u8>(extension, 1);
  return protocol == PROTOCOL_AUTHENTICATION ? (length + 2) << 2 : (length + 1) << 3;
}

/** An atomic fragment (offset 0, none follow, RFC 6946) counts as a whole packet. */
function fragmentFlags(extension: usize): i32 {
  const field = <i32>bswap<u16>(load<u16>(extension, IPV6_FRAGMENT_OFFSET));
  if ((field & 0xfff8) != 0) return FRAGMENT | LATER_FRAGMENT;
  return (field & 1) != 0 ? FRAGMENT : 0;
}

export function transportProtocol(transport: i32): i32 {
  return transport & 0xff;
}

export function transportOffset(transport: i32): i32 {
  return (transport >> 8) & 0xffff;
}

/** True for every fragment, the first included. */
export function isFragment(transport: i32): bool {
  return (transport & FRAGMENT) != 0;
}

/** True for the fragments behind the first. */
export function isLaterFragment(transport: i32): bool {
  return (transport & LATER_FRAGMENT) != 0;
}

/** True where the transport header is not in this packet: it is in the first fragment, or the
 * chain of extension headers was longer than the packet or than we walk. */
export function isHeaderless(transport: i32): bool {
  return (transport & (LATER_FRAGMENT | BROKEN)) != 0;
}

export function isSourceRouted(transport: i32): bool {
  return (transport & SOURCE_ROUTE) != 0;
}

export function hasPorts(protocol: i32): bool {
  return protocol == PROTOCOL_TCP || protocol == PROTOCOL_UDP || protocol == PROTOCOL_SCTP;
}

/** Both ports as they lie in the header, or 0 where this packet has none to show. All fragments of
 * a datagram answer 0, so that they stay together. `total` is the length of the IP packet. */
// @ts-ignore: decorator
@inline
export function transportPorts(header: usize, transport: i32, total: i32): u32 {
  const protocol = transportProtocol(transport);
  if (isFragment(transport) || isHeaderless(transport)) return 0;
  if (!hasPorts(protocol)) return 0;
  const offset = transportOffset(transport);
  return offset + TRANSPORT_PORTS_SIZE > total ? 0 : load<u32>(header + offset);
}
