// Fragments. The first has the ports, is judged as the packet it begins, and is remembered
// (table/fragment.ts); later ones follow it, as long as its flow may. A later fragment cannot
// change what was judged: a first fragment must hold all that tells flows apart (RFC 1858,
// RFC 7112), and whatever else begins at offset 0 is judged itself.

import {
  ICMP_HEADER_SIZE, IPV4_IDENTIFICATION, PROTOCOL_TCP, TCP_FRAGMENT_MINIMUM, UDP_HEADER_SIZE,
} from "./abi/headers";
import {
  REASON_FRAGMENT_TABLE_FULL, REASON_FRAGMENT_UNKNOWN, REASON_NONE, REASON_TOO_SHORT,
} from "./abi/verdict";
import { isIcmp, writeFlowKey } from "./flow-key";
import { confirmFlow, findLive, trackPacket } from "./flow-track";
import { flowCandidate, setPacketFlow } from "./table/flow";
import { fragmentFlow, fragmentRemember } from "./table/fragment";
import { isIpv4 } from "./wire/ip";
import { ipv4FragmentOffset } from "./wire/ipv4";
import {
  hasPorts, ipv6FragmentId, isHeaderless, isLaterFragment, transportOffset, transportProtocol,
} from "./wire/transport";

/** Decides about a fragment, or a packet whose transport header cannot be found. REASON_NONE lets
 * it pass. */
export function trackFragment(
  packet: usize,
  transport: i32,
  total: i32,
  worker: i32,
  nowMs: i32,
): i32 {
  const key = flowCandidate(worker);
  writeFlowKey(key, packet, transport, total);
  if (isLaterFragment(transport)) return followFirst(packet, transport, key, worker, nowMs);
  const size = total - transportOffset(transport);
  if (isHeaderless(transport) || size < firstFragmentMinimum(transportProtocol(transport))) {
    return REASON_TOO_SHORT;
  }
  const reason = trackPacket(key, worker, nowMs);
  if (reason != REASON_NONE) return reason;
  const flow = findLive(key, worker, nowMs);
  const isKept = flow != 0 && rememberFirst(packet, transport, key, flow, nowMs);
  return isKept ? REASON_NONE : REASON_FRAGMENT_TABLE_FULL;
}

/** Lets a later fragment pass if its first did, and its flow still may. One that could rewrite
 * TCP's flags is none of ours (RFC 3128). */
function followFirst(packet: usize, transport: i32, key: usize, worker: i32, nowMs: i32): i32 {
  const protocol = fragmentProtocol(packet, transport);
  if (protocol == PROTOCOL_TCP && ipv4FragmentOffset(packet) == 1) return REASON_FRAGMENT_UNKNOWN;
  const flow = laterFlow(packet, transport, key, nowMs);
  setPacketFlow(worker, flow);
  return flow != 0 ? confirmFlow(flow, worker, nowMs) : REASON_FRAGMENT_UNKNOWN;
}

/** The flow of a later fragment, whose key is `key`; 0 if its first was not remembered. */
export function laterFlow(packet: usize, transport: i32, key: usize, nowMs: i32): usize {
  return fragmentFlow(key, fragmentId(packet), fragmentProtocol(packet, transport), nowMs);
}

/** Remembers a first fragment as part of `flow`. False: there is no room. */
export function rememberFirst(
  packet: usize, transport: i32, key: usize, flow: usize, nowMs: i32,
): bool {
  const protocol = fragmentProtocol(packet, transport);
  return fragmentRemember(key, fragmentId(packet), protocol, flow, nowMs);
}

/** Bytes of the transport header that a first fragment must have. */
function firstFragmentMinimum(protocol: i32): i32 {
  if (protocol == PROTOCOL_TCP) return TCP_FRAGMENT_MINIMUM;
  if (isIcmp(protocol)) return ICMP_HEADER_SIZE;
  return hasPorts(protocol) ? UDP_HEADER_SIZE : 0;
}

function fragmentId(packet: usize): u32 {
  return isIpv4(packet) ? load<u16>(packet, IPV4_IDENTIFICATION) : ipv6FragmentId(packet);
}

/** The protocol where it belongs to the identification: RFC 791 section 3.2, not RFC 8200. */
function fragmentProtocol(packet: usize, transport: i32): i32 {
  return isIpv4(packet) ? transportProtocol(transport) : 0;
}
