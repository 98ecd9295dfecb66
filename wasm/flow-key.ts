// What tells flows apart: the 5-tuple, as a flow entry holds it (abi/policy.ts), the same for both
// directions. Queries of ICMP have an identifier in place of ports (RFC 5508 section 3).

import {
  ICMPV6_ECHO_REPLY, ICMPV6_ECHO_REQUEST, ICMPV6_INFORMATIONAL, ICMP_ADDRESS_MASK,
  ICMP_ADDRESS_MASK_REPLY, ICMP_ECHO_REPLY, ICMP_ECHO_REQUEST, ICMP_HEADER_SIZE, ICMP_IDENTIFIER,
  ICMP_INFORMATION, ICMP_TIMESTAMP, ICMP_TYPE, IPV4_DESTINATION, IPV4_SOURCE, IPV6_DESTINATION,
  IPV6_SOURCE, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_SCTP, PROTOCOL_TCP, SCTP_CHUNK_INIT,
  SCTP_CHUNK_TYPE, TCP_FLAGS, TCP_FLAG_ACK, TCP_FLAG_RST, TCP_FLAG_SYN, TRANSPORT_PORTS_SIZE,
} from "./abi/headers";
import {
  FLOW_ADDRESS_A, FLOW_ADDRESS_B, FLOW_FLAGS, FLOW_FLAG_FROM_B, FLOW_FLAG_USED, FLOW_PORT_A,
  FLOW_PORT_B, FLOW_PROTOCOL, FLOW_SIGNAL, PROGRAM_KEY_PROTOCOL_SHIFT,
} from "./abi/policy";
import { isIcmpError } from "./wire/icmp";
import { isIpv4 } from "./wire/ip";
import { hasPorts, isHeaderless, transportOffset, transportProtocol } from "./wire/transport";

/** Writes the first 40 bytes of an entry: the packet's flow, as if this packet opened it. `total`
 * is the length of the IP packet as far as it is there. */
// @ts-ignore: decorator
@inline
export function writeFlowKey(flow: usize, packet: usize, transport: i32, total: i32): void {
  const ports = flowPorts(packet, transport, total);
  const ipv4 = isIpv4(packet);
  let order = ipv4 ? compareEnds4(packet) : compareEnds6(packet);
  if (order == 0) order = comparePorts(ports);
  const fromB = order > 0;
  const source = flow + (fromB ? FLOW_ADDRESS_B : FLOW_ADDRESS_A);
  const destination = flow + (fromB ? FLOW_ADDRESS_A : FLOW_ADDRESS_B);
  if (ipv4) {
    writeMapped(source, load<u32>(packet, IPV4_SOURCE));
    writeMapped(destination, load<u32>(packet, IPV4_DESTINATION));
  } else {
    v128.store(source, v128.load(packet, IPV6_SOURCE));
    v128.store(destination, v128.load(packet, IPV6_DESTINATION));
  }
  const flags = fromB ? FLOW_FLAG_USED | FLOW_FLAG_FROM_B : FLOW_FLAG_USED;
  const signal = flowSignal(packet, transport, total);
  // In one word, because it is read as one (table/flow-hash.ts).
  const rest = transportProtocol(transport) | (flags << 8) | (signal << 24);
  const ends = fromB ? rotl<u32>(ports, 16) : ports;
  store<u64>(flow, <u64>ends | (<u64>rest << 32), FLOW_PORT_A);
}

/** The same from parts: addresses of 16 bytes, and ports as they lie in a header. */
export function composeFlowKey(
  flow: usize, source: usize, destination: usize, ports: u32, protocol: i32,
): void {
  let order = compareAddresses(source, destination);
  if (order == 0) order = comparePorts(ports);
  const fromB = order > 0;
  v128.store(flow + (fromB ? FLOW_ADDRESS_B : FLOW_ADDRESS_A), v128.load(source));
  v128.store(flow + (fromB ? FLOW_ADDRESS_A : FLOW_ADDRESS_B), v128.load(destination));
  const flags = fromB ? FLOW_FLAG_USED | FLOW_FLAG_FROM_B : FLOW_FLAG_USED;
  const ends = fromB ? rotl<u32>(ports, 16) : ports;
  store<u64>(flow, <u64>ends | (<u64>(protocol | (flags << 8)) << 32), FLOW_PORT_A);
}

// @ts-ignore: decorator
@inline
function writeMapped(target: usize, address: u32): void {
  v128.store(target, i32x4.replace_lane(i32x4(0, 0, 0xffff0000, 0), 3, address));
}

/** Above 0 where the source is the higher address, 0 where both are the same. */
// @ts-ignore: decorator
@inline
function compareEnds4(packet: usize): i32 {
  const source = bswap<u32>(load<u32>(packet, IPV4_SOURCE));
  const destination = bswap<u32>(load<u32>(packet, IPV4_DESTINATION));
  return <i32>(source > destination) - <i32>(source < destination);
}

function comparePorts(ports: u32): i32 {
  return <i32>bswap<u16>(<u16>ports) - <i32>bswap<u16>(<u16>(ports >> 16));
}

// @ts-ignore: decorator
@inline
function compareEnds6(packet: usize): i32 {
  return compareAddresses(packet + IPV6_SOURCE, packet + IPV6_DESTINATION);
}

/** The same for addresses of 16 bytes: what the first byte says that differs. */
// @ts-ignore: decorator
@inline
function compareAddresses(left: usize, right: usize): i32 {
  const differing = i8x16.bitmask(i8x16.eq(v128.load(left), v128.load(right))) ^ 0xffff;
  if (differing == 0) return 0;
  const byte = <usize>ctz(differing);
  return <i32>load<u8>(left + byte) - <i32>load<u8>(right + byte);
}

/** Both ports as they lie in the header, of first fragments too; an identifier twice; or 0. */
// @ts-ignore: decorator
@inline
function flowPorts(packet: usize, transport: i32, total: i32): u32 {
  if (isHeaderless(transport)) return 0;
  const protocol = transportProtocol(transport);
  const offset = transportOffset(transport);
  const header = packet + offset;
  if (hasPorts(protocol)) {
    return offset + TRANSPORT_PORTS_SIZE > total ? 0 : load<u32>(header);
  }
  if (!isIcmp(protocol) || offset + ICMP_HEADER_SIZE > total) return 0;
  if (!isQuery(protocol, load<u8>(header, ICMP_TYPE))) return 0;
  return <u32>load<u16>(header, ICMP_IDENTIFIER) * 0x10001;
}

/** TCP's flags, ICMP's type, SCTP's first chunk; 0 where they are not in this packet. */
// @ts-ignore: decorator
@inline
function flowSignal(packet: usize, transport: i32, total: i32): i32 {
  const protocol = transportProtocol(transport);
  let offset = transportOffset(transport);
  if (protocol == PROTOCOL_TCP) offset += TCP_FLAGS;
  else if (isIcmp(protocol)) offset += ICMP_TYPE;
  else if (protocol == PROTOCOL_SCTP) offset += SCTP_CHUNK_TYPE;
  else return 0;
  return isHeaderless(transport) || offset >= total ? 0 : load<u8>(packet + offset);
}

export function isIcmp(protocol: i32): bool {
  return protocol == PROTOCOL_ICMP || protocol == PROTOCOL_ICMPV6;
}

/** Echo, timestamp, information and address mask, and their replies. */
function isQuery(protocol: i32, type: i32): bool {
  if (protocol == PROTOCOL_ICMPV6) {
    return type == ICMPV6_ECHO_REQUEST || type == ICMPV6_ECHO_REPLY;
  }
  return type == ICMP_ECHO_REQUEST || type == ICMP_ECHO_REPLY
    || (type >= ICMP_TIMESTAMP && type <= ICMP_ADDRESS_MASK_REPLY);
}

/** True where the packet of this key can only be the first of a connection: TCP's SYN, SCTP's INIT,
 * a query of ICMP. From the other end than the flow's opener it is no reply. */
export function flowOpens(flow: usize): bool {
  const signal = <i32>load<u8>(flow, FLOW_SIGNAL);
  const protocol = <i32>load<u8>(flow, FLOW_PROTOCOL);
  if (protocol == PROTOCOL_TCP) {
    return (signal & (TCP_FLAG_SYN | TCP_FLAG_ACK | TCP_FLAG_RST)) == TCP_FLAG_SYN;
  }
  if (protocol == PROTOCOL_SCTP) return signal == SCTP_CHUNK_INIT;
  if (protocol == PROTOCOL_ICMPV6) return signal == ICMPV6_ECHO_REQUEST;
  if (protocol != PROTOCOL_ICMP) return false;
  return signal == ICMP_ECHO_REQUEST || signal == ICMP_TIMESTAMP || signal == ICMP_INFORMATION
    || signal == ICMP_ADDRESS_MASK;
}

/** True where the packet of this key is an ICMP error, about another flow. */
export function flowIsError(flow: usize): bool {
  const signal = <i32>load<u8>(flow, FLOW_SIGNAL);
  const protocol = <i32>load<u8>(flow, FLOW_PROTOCOL);
  if (protocol == PROTOCOL_ICMPV6) return signal < ICMPV6_INFORMATIONAL;
  return protocol == PROTOCOL_ICMP && isIcmpError(signal);
}

/** True where a flow in use has this key. One comparison for all that must be equal: addresses, and
 * in the word of the ports 41 bits, up to FLOW_FLAG_USED, which every key has. */
// @ts-ignore: decorator
@inline
export function flowMatches(flow: usize, key: usize): bool {
  const rest = load<u64>(flow, FLOW_PORT_A) ^ load<u64>(key, FLOW_PORT_A);
  return (differentEnds(flow, key) | (rest << 23)) == 0;
}

/** True where both keys have the same addresses, whatever their ports. */
export function flowSameEnds(left: usize, right: usize): bool {
  return differentEnds(left, right) == 0;
}

/** 0 where both keys have the same addresses. */
// @ts-ignore: decorator
@inline
function differentEnds(left: usize, right: usize): u64 {
  const a = i8x16.eq(v128.load(left, FLOW_ADDRESS_A), v128.load(right, FLOW_ADDRESS_A));
  const b = i8x16.eq(v128.load(left, FLOW_ADDRESS_B), v128.load(right, FLOW_ADDRESS_B));
  return <u64>(i8x16.bitmask(v128.and(a, b)) ^ 0xffff);
}

/** True where B opened the flow. */
export function flowFromB(flow: usize): bool {
  return (load<u8>(flow, FLOW_FLAGS) & FLOW_FLAG_FROM_B) != 0;
}

/** Address of the opener's address, 16 bytes. */
export function flowSource(flow: usize): usize {
  return flow + (flowFromB(flow) ? FLOW_ADDRESS_B : FLOW_ADDRESS_A);
}

/** Address of the other end's address, 16 bytes. */
export function flowDestination(flow: usize): usize {
  return flow + (flowFromB(flow) ? FLOW_ADDRESS_A : FLOW_ADDRESS_B);
}

export function flowIsIpv4(flow: usize): bool {
  return load<u64>(flow, FLOW_ADDRESS_A) == 0 && load<u32>(flow + 8, FLOW_ADDRESS_A) == 0xffff0000;
}

export function flowSourcePort(flow: usize): i32 {
  const port = load<u16>(flow + (flowFromB(flow) ? FLOW_PORT_B : FLOW_PORT_A));
  return bswap<u16>(port);
}

/** Both ports as they lie in a packet of the opener. */
export function flowOpenerPorts(flow: usize): u32 {
  const ports = load<u32>(flow, FLOW_PORT_A);
  return flowFromB(flow) ? rotl<u32>(ports, 16) : ports;
}

/** True where both keys are of the same direction of a flow. */
export function flowSameWay(flow: usize, key: usize): bool {
  return flowFromB(flow) == flowFromB(key);
}

/** The key that programs are asked for: protocol, and destination port where there is one. */
export function flowPolicyKey(flow: usize): u32 {
  const protocol = <i32>load<u8>(flow, FLOW_PROTOCOL);
  const key = <u32>protocol << PROGRAM_KEY_PROTOCOL_SHIFT;
  if (!hasPorts(protocol)) return key;
  const port = load<u16>(flow + (flowFromB(flow) ? FLOW_PORT_A : FLOW_PORT_B));
  return key | <u32>bswap<u16>(port);
}
