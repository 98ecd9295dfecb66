// ICMP errors (RFC 792, RFC 4443): one about a known flow belongs to it and passes with it; any
// other is judged as a packet of ICMP, and opens no flow. The error quotes the packet it is about
// (RFC 5508 section 4).

import { ICMP_HEADER_SIZE, IPV4_HEADER_SIZE, IPV6_HEADER_SIZE } from "./abi/headers";
import { REASON_NONE } from "./abi/verdict";
import { writeFlowKey } from "./flow-key";
import { confirmFlow, findLive } from "./flow-track";
import { judgeFlow } from "./policy/judge";
import { flowIsSession, flowQuoted, setPacketFlow } from "./table/flow";
import { ipDestinationAddress, ipSourceAddress, isIpv4 } from "./wire/ip";
import { ipv4HeaderLength } from "./wire/ipv4";
import { ipv6Equals } from "./wire/ipv6";
import {
  ipv4Transport, ipv6TransportWithin, isHeaderless, transportOffset,
} from "./wire/transport";

/** Decides about an ICMP error, `candidate` by its own key. REASON_NONE lets it pass. `fromLocal`:
 * a pod of this node sent it. */
export function trackError(
  packet: usize,
  transport: i32,
  total: i32,
  candidate: usize,
  worker: i32,
  nowMs: i32,
  fromLocal: bool,
): i32 {
  setPacketFlow(worker, 0);
  const flow = quotedFlow(packet, transport, total, worker, nowMs, fromLocal);
  if (flow == 0 || flowIsSession(flow) || confirmFlow(flow, worker, nowMs) != REASON_NONE) {
    return judgeFlow(candidate, worker, nowMs);
  }
  setPacketFlow(worker, flow);
  return REASON_NONE;
}

/** Takes note of what an ICMP error is about that nobody judges. */
export function followError(
  packet: usize, transport: i32, total: i32, worker: i32, nowMs: i32,
): i32 {
  const flow = quotedFlow(packet, transport, total, worker, nowMs, false);
  if (flow != 0 && !flowIsSession(flow)) setPacketFlow(worker, flow);
  return REASON_NONE;
}

/** The entry of the flow that an ICMP error is about, 0 if there is none; its key is the one at
 * flowQuoted(). The error goes to the quoted packet's sender; a pod, which is no router, answers
 * for itself only. */
export function quotedFlow(
  packet: usize,
  icmp: i32,
  total: i32,
  worker: i32,
  nowMs: i32,
  fromLocal: bool,
): usize {
  const offset = transportOffset(icmp) + ICMP_HEADER_SIZE;
  const quoted = packet + offset;
  const room = total - offset;
  if (!isQuotable(packet, quoted, room)) return 0;
  const ipv4 = isIpv4(packet);
  const transport = ipv4 ? ipv4Transport(quoted) : ipv6TransportWithin(quoted, room);
  if (isHeaderless(transport)) return 0;
  const sender = ipSourceAddress(quoted);
  if (!sameAddress(ipDestinationAddress(packet), sender, ipv4)) return 0;
  const target = ipDestinationAddress(quoted);
  if (fromLocal && !sameAddress(ipSourceAddress(packet), target, ipv4)) return 0;
  const key = flowQuoted(worker);
  writeFlowKey(key, quoted, transport, room);
  return findLive(key, worker, nowMs);
}

/** True where the quote is of the error's own family and has a whole IP header. */
function isQuotable(packet: usize, quoted: usize, room: i32): bool {
  if (room < IPV4_HEADER_SIZE || isIpv4(quoted) != isIpv4(packet)) return false;
  if (!isIpv4(quoted)) return room >= IPV6_HEADER_SIZE && load<u8>(quoted) >> 4 == 6;
  const size = ipv4HeaderLength(quoted);
  return size >= IPV4_HEADER_SIZE && size <= room;
}

function sameAddress(left: usize, right: usize, ipv4: bool): bool {
  return ipv4 ? load<u32>(left) == load<u32>(right) : ipv6Equals(left, right);
}
