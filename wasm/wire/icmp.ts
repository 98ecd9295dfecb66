// ICMP, RFC 792, and ICMPv6, RFC 4443: the errors that a router makes, and the test that keeps it
// from answering what must not be answered.

import {
  ICMPV6_INFORMATIONAL, ICMP_CHECKSUM, ICMP_CODE, ICMP_ECHO_REPLY, ICMP_ECHO_REQUEST,
  ICMP_HEADER_SIZE, ICMP_PARAMETER_PROBLEM, ICMP_REDIRECT, ICMP_TIME_EXCEEDED, ICMP_TYPE,
  ICMP_UNREACHABLE, ICMP_UNUSED, IPV6_ADDRESS_SIZE, IPV6_HEADER_SIZE, IPV6_SOURCE, ND_REDIRECT,
  PROTOCOL_ICMP, PROTOCOL_ICMPV6,
} from "../abi/headers";
import { checksum, checksumAdd, checksumFold } from "../checksum";
import { ipTransport, isIpv4 } from "./ip";
import { isHeaderless, transportOffset, transportProtocol } from "./transport";

/** True where RFC 1812 section 4.3.2.7 and RFC 4443 section 2.4(e) let a router answer the packet
 * with an error: not a later fragment, not itself an ICMP error or a redirect. Addresses were
 * judged by checkIp(). */
export function mayAnswerWithError(packet: usize, total: i32): bool {
  const transport = ipTransport(packet);
  if (isHeaderless(transport)) return false;
  const ipv4 = isIpv4(packet);
  const protocol = transportProtocol(transport);
  if (protocol != (ipv4 ? PROTOCOL_ICMP : PROTOCOL_ICMPV6)) return true;
  const offset = transportOffset(transport);
  if (offset + ICMP_HEADER_SIZE > total) return false;
  const type = <i32>load<u8>(packet + offset, ICMP_TYPE);
  return ipv4 ? !isIcmpError(type) : type >= ICMPV6_INFORMATIONAL && type != ND_REDIRECT;
}

/** Types 3, 4 (source quench), 5, 11 and 12. */
export function isIcmpError(type: i32): bool {
  if (type == ICMP_ECHO_REPLY || type == ICMP_ECHO_REQUEST) return false;
  return (type >= ICMP_UNREACHABLE && type <= ICMP_REDIRECT)
    || type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETER_PROBLEM;
}

/** Writes the header of an ICMP error over `length` bytes, header and quote, and its checksum.
 * `rest` is the second word in host order: 0, or the next hop's MTU (RFC 1191 section 4). */
export function emitIcmp(header: usize, length: i32, type: i32, code: i32, rest: u32): void {
  emitIcmpHeader(header, type, code, rest);
  store<u16>(header, checksum(header, length), ICMP_CHECKSUM);
}

/** The same for ICMPv6. Precondition: the IPv6 header in front of it is complete, since the
 * checksum covers a pseudo-header (RFC 8200 section 8.1). */
export function emitIcmpv6(header: usize, length: i32, type: i32, code: i32, rest: u32): void {
  emitIcmpHeader(header, type, code, rest);
  store<u16>(header, icmpv6Checksum(header, length), ICMP_CHECKSUM);
}

/** Checksum of an ICMPv6 message right behind its IPv6 header: 0 where its field is right. */
export function icmpv6Checksum(header: usize, length: i32): u16 {
  const addresses = header - IPV6_HEADER_SIZE + IPV6_SOURCE;
  let sum = <u64>bswap<u32>(length) + (<u64>PROTOCOL_ICMPV6 << 24);
  sum = checksumAdd(sum, addresses, IPV6_ADDRESS_SIZE * 2);
  return checksumFold(checksumAdd(sum, header, length));
}

function emitIcmpHeader(header: usize, type: i32, code: i32, rest: u32): void {
  store<u8>(header, <u8>type, ICMP_TYPE);
  store<u8>(header, <u8>code, ICMP_CODE);
  store<u16>(header, 0, ICMP_CHECKSUM);
  store<u32>(header, bswap<u32>(rest), ICMP_UNUSED);
}
