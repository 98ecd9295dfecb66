// IPv4, RFC 791 section 3.1. checkIpv4() is the one function that meets an untrusted length; the
// accessors after it cannot leave the packet.

import {
  IPV4_CHECKSUM, IPV4_DESTINATION, IPV4_FLAGS_OFFSET, IPV4_FLAG_DF, IPV4_FLAG_MF, IPV4_HEADER_SIZE,
  IPV4_IDENTIFICATION, IPV4_OFFSET_MASK, IPV4_OPTION_END, IPV4_OPTION_LSRR, IPV4_OPTION_NOP,
  IPV4_OPTION_SSRR, IPV4_PROTOCOL, IPV4_SOURCE, IPV4_TOS, IPV4_TOTAL_LENGTH, IPV4_TTL,
  IPV4_VERSION_IHL,
} from "../abi/headers";
import {
  REASON_HEADER_CHECKSUM, REASON_HEADER_LENGTH, REASON_IP_VERSION, REASON_MARTIAN_DESTINATION,
  REASON_MARTIAN_SOURCE, REASON_MULTICAST, REASON_NONE, REASON_SOURCE_ROUTE, REASON_TOO_SHORT,
} from "../abi/verdict";
import { checksumUpdate, headerChecksum } from "../checksum";

/** Accepts a header with REASON_NONE: version, lengths and checksum are right, total length is
 * within `length`, and no option routes the packet by its source's wish (RFC 7126 section 4.3). */
export function checkIpv4(header: usize, length: i32): i32 {
  if (length < IPV4_HEADER_SIZE) return REASON_TOO_SHORT;
  if (load<u8>(header, IPV4_VERSION_IHL) >> 4 != 4) return REASON_IP_VERSION;
  const headerLength = ipv4HeaderLength(header);
  const totalLength = ipv4TotalLength(header);
  if (headerLength < IPV4_HEADER_SIZE || headerLength > totalLength) return REASON_HEADER_LENGTH;
  if (totalLength > length) return REASON_TOO_SHORT;
  if (headerChecksum(header, headerLength) != 0) return REASON_HEADER_CHECKSUM;
  if (headerLength > IPV4_HEADER_SIZE && hasSourceRoute(header, headerLength)) {
    return REASON_SOURCE_ROUTE;
  }
  return REASON_NONE;
}

/** Accepts with REASON_NONE a source and destination that a router may forward between,
 * RFC 1812 sections 5.3.7 and 4.2.2.11. */
export function checkIpv4Addresses(header: usize): i32 {
  const source = ipv4Source(header);
  const destination = ipv4Destination(header);
  if (isGroup(destination)) return REASON_MULTICAST;
  if (isGroup(source) || isThisHost(source)) return REASON_MARTIAN_SOURCE;
  if (isThisHost(destination)) return REASON_MARTIAN_DESTINATION;
  return REASON_NONE;
}

/** 224.0.0.0/4 and 255.255.255.255. */
function isGroup(address: u32): bool {
  return address >> 28 == 14 || address == 0xffffffff;
}

/** 0.0.0.0/8 and 127.0.0.0/8. */
function isThisHost(address: u32): bool {
  return address >> 24 == 0 || address >> 24 == 127;
}

/** Walks the options, RFC 791 page 14. A malformed option ends the walk. */
function hasSourceRoute(header: usize, headerLength: i32): bool {
  let at = IPV4_HEADER_SIZE;
  while (at < headerLength) {
    const option = <i32>load<u8>(header + at);
    if (option == IPV4_OPTION_LSRR || option == IPV4_OPTION_SSRR) return true;
    if (option == IPV4_OPTION_END) return false;
    if (option == IPV4_OPTION_NOP) {
      at += 1;
      continue;
    }
    if (at + 1 >= headerLength) return false;
    const size = <i32>load<u8>(header + at + 1);
    if (size < 2) return false;
    at += size;
  }
  return false;
}

export function ipv4HeaderLength(header: usize): i32 {
  return (load<u8>(header, IPV4_VERSION_IHL) & 0x0f) << 2;
}

export function ipv4TotalLength(header: usize): i32 {
  return bswap<u16>(load<u16>(header, IPV4_TOTAL_LENGTH));
}

/** Sets the total length and updates the checksum, RFC 1624. */
export function setIpv4TotalLength(header: usize, length: i32): void {
  const before = load<u16>(header, IPV4_TOTAL_LENGTH);
  const after = bswap<u16>(<u16>length);
  store<u16>(header, after, IPV4_TOTAL_LENGTH);
  const updated = checksumUpdate(load<u16>(header, IPV4_CHECKSUM), before, after);
  store<u16>(header, updated, IPV4_CHECKSUM);
}

export function ipv4Identification(header: usize): i32 {
  return bswap<u16>(load<u16>(header, IPV4_IDENTIFICATION));
}

export function ipv4Source(header: usize): u32 {
  return bswap<u32>(load<u32>(header, IPV4_SOURCE));
}

export function ipv4Destination(header: usize): u32 {
  return bswap<u32>(load<u32>(header, IPV4_DESTINATION));
}

export function ipv4Protocol(header: usize): i32 {
  return load<u8>(header, IPV4_PROTOCOL);
}

export function ipv4Ttl(header: usize): i32 {
  return load<u8>(header, IPV4_TTL);
}

export function ipv4DontFragment(header: usize): bool {
  return (bswap<u16>(load<u16>(header, IPV4_FLAGS_OFFSET)) & IPV4_FLAG_DF) != 0;
}

/** True for every fragment, the first included. */
export function ipv4IsFragment(header: usize): bool {
  const field = <i32>bswap<u16>(load<u16>(header, IPV4_FLAGS_OFFSET));
  return (field & (IPV4_FLAG_MF | IPV4_OFFSET_MASK)) != 0;
}

/** Fragment offset in units of 8 bytes; 0 in the first. */
export function ipv4FragmentOffset(header: usize): i32 {
  return <i32>bswap<u16>(load<u16>(header, IPV4_FLAGS_OFFSET)) & IPV4_OFFSET_MASK;
}

/** Decrements the TTL and updates the checksum, RFC 1624. Precondition: the TTL is above 0. */
export function ipv4DecrementTtl(header: usize): void {
  // The TTL is the lower byte of its word. Stored as a byte, the word could not be read at once.
  const before = load<u16>(header, IPV4_TTL);
  const after = <u16>(before - 1);
  store<u16>(header, after, IPV4_TTL);
  const updated = checksumUpdate(load<u16>(header, IPV4_CHECKSUM), before, after);
  store<u16>(header, updated, IPV4_CHECKSUM);
}

/** Writes a header without options, DF set: only with it may the identification be 0 in every
 * packet (RFC 6864 section 4.1). `source` and `destination` are addresses of 4 bytes. */
export function emitIpv4(
  header: usize,
  totalLength: i32,
  tos: i32,
  ttl: i32,
  protocol: i32,
  source: usize,
  destination: usize,
): void {
  store<u8>(header, 0x45, IPV4_VERSION_IHL);
  store<u8>(header, <u8>tos, IPV4_TOS);
  store<u16>(header, bswap<u16>(<u16>totalLength), IPV4_TOTAL_LENGTH);
  store<u16>(header, 0, IPV4_IDENTIFICATION);
  store<u16>(header, bswap<u16>(<u16>IPV4_FLAG_DF), IPV4_FLAGS_OFFSET);
  store<u8>(header, <u8>ttl, IPV4_TTL);
  store<u8>(header, <u8>protocol, IPV4_PROTOCOL);
  store<u16>(header, 0, IPV4_CHECKSUM);
  store<u32>(header, load<u32>(source), IPV4_SOURCE);
  store<u32>(header, load<u32>(destination), IPV4_DESTINATION);
  store<u16>(header, headerChecksum(header, IPV4_HEADER_SIZE), IPV4_CHECKSUM);
}
