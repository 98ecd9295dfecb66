// What Services leave to do about a packet that may pass: a served one joins the two entries of its
// connection, a reply gets the Service's address and port, an ICMP error quotes what its receiver
// sent. The caller holds the lock of flows, and the packet's key stands at flowCandidate().

import { PROTOCOL_SCTP } from "../abi/headers";
import {
  TRANSLATED_REPLY, TRANSLATED_SERVED, WORKERS_START, WORKER_FRONT, WORKER_STRIDE,
} from "../abi/layout";
import {
  FLOW_EPOCH, FLOW_FLAGS, FLOW_FLAG_FROM_B, FLOW_FLAG_SESSION, FLOW_FLAG_TRANSLATED, FLOW_PAIR,
  FLOW_STATE, FLOW_STATE_ESTABLISHED,
} from "../abi/policy";
import { FRONT_COUNTS_OPENED } from "../abi/service";
import {
  EVENT_SERVED, REASON_FLOW_TABLE_FULL, REASON_FRAGMENT_TABLE_FULL, REASON_NONE,
  REASON_SERVICE_CONFLICT, REASON_SERVICE_PROTOCOL, REASON_SERVICE_SESSION,
} from "../abi/verdict";
import { countEvent, countFront } from "../count";
import { rememberFirst } from "../flow-fragment";
import { flowIsError, flowMatches, flowSameWay } from "../flow-key";
import { findLive, unknownEpoch } from "../flow-track";
import { packetStart, packetTranslated } from "../packet";
import {
  flowCandidate, flowFind, flowInsert, flowIsTranslated, flowPair, flowRemove, flowSession,
  packetFlow,
} from "../table/flow";
import { isFragment, isHeaderless, isLaterFragment, transportProtocol } from "../wire/transport";
import { translate, translateQuote } from "./translate";

/** Finishes a packet that may pass. REASON_NONE lets it; otherwise it is to be dropped. */
// @ts-ignore: decorator
@inline
export function settle(descriptor: usize, transport: i32, worker: i32, nowMs: i32): i32 {
  const flow = packetFlow(worker);
  if (packetTranslated(descriptor) == TRANSLATED_SERVED) {
    return settleServed(descriptor, transport, worker, nowMs, flow);
  }
  if (flow == 0 || !flowIsTranslated(flow)) return REASON_NONE;
  return settleReply(descriptor, transport, worker, nowMs, flow);
}

function settleServed(
  descriptor: usize, transport: i32, worker: i32, nowMs: i32, flow: usize,
): i32 {
  if (isHeaderless(transport) || flowIsError(flowCandidate(worker))) return REASON_NONE;
  if (flow == 0) return whyNoFlow(worker);
  const key = flowSession(worker);
  let session = flowPair(flow);
  if (session == 0 || !flowMatches(session, key)) {
    session = joinPair(key, flow, worker, nowMs);
    if (session == 0) return REASON_FLOW_TABLE_FULL;
  }
  if (!isFragment(transport)) return REASON_NONE;
  // By the addresses that the datagram's other fragments come with.
  const isKept = rememberFirst(packetStart(descriptor), transport, key, session, nowMs);
  return isKept ? REASON_NONE : REASON_FRAGMENT_TABLE_FULL;
}

/** Why a packet that may pass has no flow: another worker's packet has made one from the backend's
 * end, with the same ends and ports, since the backend was chosen; or there was no room. */
function whyNoFlow(worker: i32): i32 {
  const other = flowFind(flowCandidate(worker));
  return other != 0 ? REASON_SERVICE_CONFLICT : REASON_FLOW_TABLE_FULL;
}

/** Makes a session for a flow, and both a pair. Returns the session, 0 if there is no room. */
function joinPair(key: usize, flow: usize, worker: i32, nowMs: i32): usize {
  const before = findLive(key, worker, nowMs);
  if (before != 0) flowRemove(worker, before);
  store<u8>(key, load<u8>(key, FLOW_FLAGS) | FLOW_FLAG_SESSION, FLOW_FLAGS);
  store<u32>(key, unknownEpoch(), FLOW_EPOCH);
  store<u32>(key, <u32>flow, FLOW_PAIR);
  const session = flowInsert(worker, key, nowMs);
  if (session == flow) flowRemove(worker, flow); // it took the place of its own pair
  if (session == 0 || session == flow) return 0;
  // The client opened it, even where the table knew it by an answer first.
  const flags = (load<u8>(flow, FLOW_FLAGS) & ~FLOW_FLAG_FROM_B) | FLOW_FLAG_TRANSLATED;
  const from = load<u8>(flowCandidate(worker), FLOW_FLAGS) & FLOW_FLAG_FROM_B;
  store<u8>(flow, <u8>(flags | from), FLOW_FLAGS);
  store<u32>(flow, <u32>session, FLOW_PAIR);
  countEvent(worker, EVENT_SERVED);
  const block = <usize>(WORKERS_START + (worker * WORKER_STRIDE));
  countFront(worker, load<u32>(block, WORKER_FRONT), FRONT_COUNTS_OPENED);
  return session;
}

/** A packet of a translated flow that was not served is the backend's. One of the client's end is
 * of another connection: it takes an idle flow over, and is refused beside a busy one. */
function settleReply(
  descriptor: usize, transport: i32, worker: i32, nowMs: i32, flow: usize,
): i32 {
  const key = flowCandidate(worker);
  const pair = flowPair(flow);
  if (!isHeaderless(transport) && flowIsError(key)) {
    if (pair == 0) return REASON_SERVICE_SESSION;
    translateQuote(descriptor, worker, flow, pair, TRANSLATED_REPLY);
    return REASON_NONE;
  }
  if (flowSameWay(flow, key)) {
    if (pair != 0 && load<u8>(flow, FLOW_STATE) == FLOW_STATE_ESTABLISHED) {
      return REASON_SERVICE_CONFLICT;
    }
    store<u8>(flow, load<u8>(flow, FLOW_FLAGS) & ~FLOW_FLAG_TRANSLATED, FLOW_FLAGS);
    return REASON_NONE;
  }
  if (pair == 0) return REASON_SERVICE_SESSION;
  if (transportProtocol(transport) == PROTOCOL_SCTP && isFragment(transport)) {
    return REASON_SERVICE_PROTOCOL;
  }
  translate(descriptor, worker, pair, false, TRANSLATED_REPLY);
  if (!isFragment(transport) || isLaterFragment(transport)) return REASON_NONE;
  const isKept = rememberFirst(packetStart(descriptor), transport, key, flow, nowMs);
  return isKept ? REASON_NONE : REASON_FRAGMENT_TABLE_FULL;
}
