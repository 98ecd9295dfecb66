// ICMP errors that the core makes: RFC 1812 section 4.3 for IPv4, RFC 4443 for IPv6. The packet at
// fault stays where it lies and becomes the quote: headers are put in front of it, its tail is cut.
// Each origin has a bucket of tokens, so that no sender can have the answers of another used up
// (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4(f)).

import {
  ICMPV6_CODE_ADDRESS, ICMPV6_CODE_NO_ROUTE, ICMPV6_CODE_PORT, ICMPV6_CODE_PROHIBITED,
  ICMPV6_PACKET_TOO_BIG, ICMPV6_QUOTE_LIMIT, ICMPV6_TIME_EXCEEDED, ICMPV6_UNREACHABLE,
  ICMP_CODE_FRAGMENTATION_NEEDED, ICMP_CODE_HOST, ICMP_CODE_NET, ICMP_CODE_PORT,
  ICMP_CODE_PROHIBITED, ICMP_HEADER_SIZE, ICMP_QUOTE_LIMIT, ICMP_TIME_EXCEEDED, ICMP_UNREACHABLE,
  IPV4_HEADER_SIZE, IPV6_HEADER_SIZE, IPV6_MINIMUM_MTU, PROTOCOL_ICMP, PROTOCOL_ICMPV6,
  PROTOCOL_TCP,
} from "./abi/headers";
import {
  DIRECTORY_DENY_WITH_ICMP, DIRECTORY_ICMP_BURST, DIRECTORY_ICMP_RATE, DIRECTORY_NODE_IPV4,
  DIRECTORY_NODE_IPV6, DIRECTORY_START, HEADER_LIMIT, HEADER_STRIDE, NEXT_HOP_KIND_PEER,
  PACKET_HEADROOM, RUN_SEGMENTS_MAX, SEGMENTS_MAX, STATISTICS_ICMP_STAMP, STATISTICS_ICMP_TOKENS,
  WORKERS_START, WORKER_HEADERS, WORKER_STRIDE,
} from "./abi/layout";
import {
  EVENT_ICMP_SENT, EVENT_ICMP_SUPPRESSED, REASON_HOP_LIMIT, REASON_MODULE_EGRESS,
  REASON_MODULE_INGRESS, REASON_MODULE_REJECTED, REASON_NO_ROUTE, REASON_POLICY_EGRESS,
  REASON_POLICY_INGRESS, REASON_PROHIBITED, REASON_SERVICE_EMPTY, REASON_SERVICE_GONE,
  REASON_SERVICE_PORT, REASON_TOO_BIG,
} from "./abi/verdict";
import { countEvent, statisticsOf } from "./count";
import { takeHeaders } from "./outbox";
import {
  directory, packetLength, packetRoom, packetStart, prepend, setPacket, setRoom, trimTo,
} from "./packet";
import { answerWithReset } from "./service/reset";
import { nextHopAt, nextHopKind } from "./table/record";
import { isFromStack } from "./tunnel/hops";
import { emitIcmp, emitIcmpv6, mayAnswerWithError } from "./wire/icmp";
import { ipDestinationAddress, ipSourceAddress, ipTransport, isIpv4 } from "./wire/ip";
import { emitIpv4 } from "./wire/ipv4";
import { emitIpv6 } from "./wire/ipv6";
import { transportProtocol } from "./wire/transport";

const TTL: i32 = 64;
/** Header blocks that a quote takes with headroom, at most. */
const QUOTE_BYTES: i32 = PACKET_HEADROOM + ICMPV6_QUOTE_LIMIT;
const QUOTE_BLOCKS: i32 = (QUOTE_BYTES + HEADER_STRIDE - 1) / HEADER_STRIDE;
const TOS_INTERNETWORK_CONTROL: i32 = 0xc0; // RFC 1812 section 4.3.2.5

/** Turns a rejected packet into the error, or the TCP reset, that its sender is to get. False:
 * there is none to send. */
export function answerWithError(
  descriptor: usize,
  worker: i32,
  nowMs: i32,
  origin: i32,
  reason: i32,
  mtu: i32,
): bool {
  if (reason == REASON_SERVICE_GONE) return answerWithReset(descriptor, worker);
  if (reason == REASON_MODULE_REJECTED && isTcp(packetStart(descriptor))) {
    return makeHeadroom(descriptor, worker) && answerWithReset(descriptor, worker);
  }
  if (!hasMessage(reason)) return false;
  const packet = packetStart(descriptor);
  const source = errorSource(descriptor);
  if (source == 0 || !mayAnswerWithError(packet, packetLength(descriptor))
    || !takeToken(worker, origin, nowMs) || !makeHeadroom(descriptor, worker)) {
    countEvent(worker, EVENT_ICMP_SUPPRESSED);
    return false;
  }
  const fromPeer = nextHopKind(nextHopAt(origin)) == NEXT_HOP_KIND_PEER;
  if (isIpv4(packet)) emitError4(descriptor, source, reason, mtu, fromPeer);
  else emitError6(descriptor, source, reason, mtu, fromPeer);
  countEvent(worker, EVENT_ICMP_SENT);
  return true;
}

/** Sees to headroom in front of the quote. What lies behind another datagram of its slot has none:
 * headers would be written over what may be in the outbox already. So what may be quoted of it is
 * copied to header blocks. False: none are left but those that outboxHasRoom() keeps. */
function makeHeadroom(descriptor: usize, worker: i32): bool {
  if (packetRoom(descriptor) == PACKET_HEADROOM) return true;
  const packet = packetStart(descriptor);
  const taken = load<i32>(<usize>(WORKERS_START + (worker * WORKER_STRIDE)), WORKER_HEADERS);
  if (taken > HEADER_LIMIT - SEGMENTS_MAX - RUN_SEGMENTS_MAX - QUOTE_BLOCKS) return false;
  const quote = takeHeaders(worker, QUOTE_BLOCKS) + PACKET_HEADROOM;
  const length = min(packetLength(descriptor), ICMPV6_QUOTE_LIMIT);
  memory.copy(quote, packet, length);
  setPacket(descriptor, quote, length);
  setRoom(descriptor, PACKET_HEADROOM);
  return true;
}

function hasMessage(reason: i32): bool {
  if (isDenied(reason)) return directory(DIRECTORY_DENY_WITH_ICMP) != 0;
  return reason == REASON_HOP_LIMIT || reason == REASON_NO_ROUTE
    || reason == REASON_PROHIBITED || reason == REASON_MODULE_REJECTED || reason == REASON_TOO_BIG
    || isUnserved(reason);
}

function isUnserved(reason: i32): bool {
  return reason == REASON_SERVICE_PORT || reason == REASON_SERVICE_EMPTY;
}

function isDenied(reason: i32): bool {
  return reason == REASON_POLICY_EGRESS || reason == REASON_POLICY_INGRESS
    || reason == REASON_MODULE_EGRESS || reason == REASON_MODULE_INGRESS;
}

function isProhibited(reason: i32): bool {
  return reason == REASON_PROHIBITED || reason == REASON_MODULE_REJECTED || isDenied(reason);
}

function isTcp(packet: usize): bool {
  return transportProtocol(ipTransport(packet)) == PROTOCOL_TCP;
}

/** Address of the error's source: the node's own, once known. To the node's own stack that would be
 * a martian, so there it is the address that was not reached. 0 where there is none. */
function errorSource(descriptor: usize): usize {
  const packet = packetStart(descriptor);
  if (isFromStack(descriptor)) return ipDestinationAddress(packet);
  const field = isIpv4(packet) ? DIRECTORY_NODE_IPV4 : DIRECTORY_NODE_IPV6;
  return directory(field) != 0 ? <usize>(DIRECTORY_START + field) : 0;
}

/** Takes a token from the origin's bucket: DIRECTORY_ICMP_RATE a second, DIRECTORY_ICMP_BURST at
 * most. Kept in thousandths, so that each millisecond adds the rate. */
function takeToken(worker: i32, origin: i32, nowMs: i32): bool {
  const bucket = statisticsOf(worker, origin);
  const most = directory(DIRECTORY_ICMP_BURST) * 1000;
  const elapsed = <u32>(nowMs - load<i32>(bucket, STATISTICS_ICMP_STAMP));
  const earned = <i64>elapsed * <i64>directory(DIRECTORY_ICMP_RATE);
  const tokens = <i32>min<i64>(<i64>load<i32>(bucket, STATISTICS_ICMP_TOKENS) + earned, <i64>most);
  store<i32>(bucket, nowMs, STATISTICS_ICMP_STAMP);
  store<i32>(bucket, tokens >= 1000 ? tokens - 1000 : tokens, STATISTICS_ICMP_TOKENS);
  return tokens >= 1000;
}

function emitError4(descriptor: usize, source: usize, reason: i32, mtu: i32, fromPeer: bool): void {
  const quoted = packetStart(descriptor);
  trimTo(descriptor, min(packetLength(descriptor), ICMP_QUOTE_LIMIT));
  const packet = prepend(descriptor, IPV4_HEADER_SIZE + ICMP_HEADER_SIZE);
  const total = packetLength(descriptor);
  const type = reason == REASON_HOP_LIMIT ? ICMP_TIME_EXCEEDED : ICMP_UNREACHABLE;
  let code = ICMP_CODE_NET;
  if (isProhibited(reason)) code = ICMP_CODE_PROHIBITED;
  if (isUnserved(reason)) code = ICMP_CODE_PORT;
  if (reason == REASON_TOO_BIG) code = ICMP_CODE_FRAGMENTATION_NEEDED;
  if (reason == REASON_NO_ROUTE && fromPeer) code = ICMP_CODE_HOST;
  const rest = reason == REASON_TOO_BIG ? mtu : 0;
  const sender = ipSourceAddress(quoted);
  emitIpv4(packet, total, TOS_INTERNETWORK_CONTROL, TTL, PROTOCOL_ICMP, source, sender);
  emitIcmp(packet + IPV4_HEADER_SIZE, total - IPV4_HEADER_SIZE, type, code, <u32>rest);
}

function emitError6(descriptor: usize, source: usize, reason: i32, mtu: i32, fromPeer: bool): void {
  const quoted = packetStart(descriptor);
  trimTo(descriptor, min(packetLength(descriptor), ICMPV6_QUOTE_LIMIT));
  const packet = prepend(descriptor, IPV6_HEADER_SIZE + ICMP_HEADER_SIZE);
  const payload = packetLength(descriptor) - IPV6_HEADER_SIZE;
  let type = ICMPV6_UNREACHABLE;
  let code = ICMPV6_CODE_NO_ROUTE;
  if (reason == REASON_HOP_LIMIT) type = ICMPV6_TIME_EXCEEDED;
  if (reason == REASON_TOO_BIG) type = ICMPV6_PACKET_TOO_BIG;
  if (isProhibited(reason)) code = ICMPV6_CODE_PROHIBITED;
  if (isUnserved(reason)) code = ICMPV6_CODE_PORT;
  if (reason == REASON_NO_ROUTE && fromPeer) code = ICMPV6_CODE_ADDRESS;
  const rest = reason == REASON_TOO_BIG ? max(mtu, IPV6_MINIMUM_MTU) : 0;
  emitIpv6(packet, payload, PROTOCOL_ICMPV6, TTL, source, ipSourceAddress(quoted));
  emitIcmpv6(packet + IPV6_HEADER_SIZE, payload, type, code, <u32>rest);
}
