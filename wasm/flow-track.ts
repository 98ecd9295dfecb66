// One flow and its packets: opened by a judgement, judged anew when policy changes, and kept in a
// state that decides how long it lives.
//
// States. A flow is NEW until its opener has sent again after an answer: no third party's spoofed
// packets get it further, and only then is it safe from being given up when the table is full. For
// UDP some two seconds must have passed, too, as they must for Linux (nf_conntrack_proto_udp.c): a
// question, its answer and the next question, as of a resolver, are no conversation yet. TCP
// closes by RST or by a FIN from each end; data after a mere RST shows that the RST was not heeded.
// A flow that policy cuts is NEW again, of an epoch that is none, so each packet of it is judged.

import {
  PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP, TCP_FLAG_FIN, TCP_FLAG_RST, TCP_FLAG_SYN,
} from "./abi/headers";
import {
  FLOW_ANSWER_EGRESS, FLOW_ANSWER_INGRESS, FLOW_EPOCH, FLOW_EXCHANGE_STEPS, FLOW_EXPIRES,
  FLOW_FLAGS, FLOW_FLAG_FIN_A, FLOW_FLAG_FIN_B, FLOW_FLAG_FROM_B, FLOW_FLAG_REPLIED,
  FLOW_FLAG_TRANSLATED, FLOW_FLAG_USED, FLOW_LIFETIME, FLOW_PAIR, FLOW_PROTOCOL, FLOW_SIGNAL,
  FLOW_SIZE, FLOW_STATE, FLOW_STATE_CLOSING, FLOW_STATE_ESTABLISHED, FLOW_STATE_NEW,
  FLOW_STEP_SHIFT, FLOW_TIMEOUT_CLOSING, FLOW_TIMEOUT_CUT, FLOW_TIMEOUT_HALF_CLOSED,
  FLOW_TIMEOUT_ICMP, FLOW_TIMEOUT_LATE, FLOW_TIMEOUT_NEW, FLOW_TIMEOUT_OTHER, FLOW_TIMEOUT_TCP,
  FLOW_TIMEOUT_UDP,
} from "./abi/policy";
import { REASON_FLOW_TABLE_FULL, REASON_NONE } from "./abi/verdict";
import { flowFromB, flowMatches, flowOpens, flowSameWay, isIcmp } from "./flow-key";
import { judgeFlow, policyEpoch } from "./policy/judge";
import { beginWatch, continueWatch, missWatch, modulesInspect, watchPacket } from "./policy/watch";
import {
  flowFind, flowInsert, flowIsSession, flowRemove, flowTimeLeft, setPacketFlow,
} from "./table/flow";
import { watchedEpoch } from "./table/watch";

/** Looks up the flow that a packet would open, `candidate`, unless it is `hint`, the one that its
 * session led to, and judges what must be judged.
 * REASON_NONE lets the packet pass. */
// @ts-ignore: decorator
@inline
export function trackPacket(candidate: usize, worker: i32, nowMs: i32, hint: usize = 0): i32 {
  const flow = hint != 0 && flowMatches(hint, candidate) ? hint : flowFind(candidate);
  if (flow == 0) return openFlow(candidate, worker, nowMs);
  if (isQuiet(flow, candidate) && load<i32>(flow, FLOW_EXPIRES) - nowMs > 0
    && load<u32>(flow, FLOW_EPOCH) == policyEpoch()) {
    refresh(flow, nowMs);
    setPacketFlow(worker, flow);
    return REASON_NONE;
  }
  return trackChange(flow, candidate, worker, nowMs);
}

/** True for a packet that changes nothing but the time, as most do: TCP without flags that say
 * something, or UDP, and no step nearer to an established flow. */
// @ts-ignore: decorator
@inline
function isQuiet(flow: usize, seen: usize): bool {
  const known = load<u32>(flow, FLOW_PROTOCOL); // protocol, flags, state, signal
  const word = load<u32>(seen, FLOW_PROTOCOL);
  const protocol = <i32>(word & 0xff);
  if (protocol == PROTOCOL_TCP) {
    if (((word >>> 24) & (TCP_FLAG_SYN | TCP_FLAG_FIN | TCP_FLAG_RST)) != 0) return false;
  } else if (protocol != PROTOCOL_UDP) {
    return false;
  }
  const isAnswered = ((known >>> 8) & FLOW_FLAG_REPLIED) != 0;
  if ((((known ^ word) >>> 8) & FLOW_FLAG_FROM_B) != 0) return isAnswered;
  return !isAnswered || ((known >>> 16) & 0xff) == FLOW_STATE_ESTABLISHED;
}

/** Takes note of any other packet of a flow. A session is none: its Service has gone. */
function trackChange(flow: usize, candidate: usize, worker: i32, nowMs: i32): i32 {
  setPacketFlow(worker, 0);
  if (flowTimeLeft(flow, nowMs) <= 0 || flowIsSession(flow)) {
    flowRemove(worker, flow);
    return openFlow(candidate, worker, nowMs);
  }
  if (isOtherWay(flow, candidate)) {
    return openOtherWay(flow, candidate, worker, nowMs);
  }
  const isAnew = flowOpens(candidate) && flowSameWay(flow, candidate) && modulesInspect();
  const reason = isAnew
    ? judgeAnew(flow, candidate, worker, nowMs)
    : confirmFlow(flow, worker, nowMs);
  if (reason != REASON_NONE) return reason;
  advance(flow, candidate, nowMs);
  setPacketFlow(worker, flow);
  return REASON_NONE;
}

/** True of what opens a connection from the other end than the flow's opener. */
function isOtherWay(flow: usize, candidate: usize): bool {
  return !flowSameWay(flow, candidate) && flowOpens(candidate);
}

/** Takes note of a packet that nobody judges, where it is of a known flow, or `opens` one. */
export function followPacket(candidate: usize, worker: i32, nowMs: i32, opens: bool): i32 {
  let flow = findLive(candidate, worker, nowMs);
  if (flow != 0 && (flowIsSession(flow) || isOtherWay(flow, candidate))) {
    if (!opens) return REASON_NONE;
    flowRemove(worker, flow);
    flow = 0;
  }
  if (flow != 0) {
    advance(flow, candidate, nowMs);
  } else if (opens) {
    begin(candidate, nowMs);
    store<u32>(candidate, unknownEpoch(), FLOW_EPOCH);
    flow = flowInsert(worker, candidate, nowMs);
    if (flow == 0) return REASON_FLOW_TABLE_FULL;
  }
  setPacketFlow(worker, flow);
  return REASON_NONE;
}

/** A policy epoch of which nothing is known: who meets it has to judge. */
export function unknownEpoch(): u32 {
  return policyEpoch() - 1;
}

/** Address of the entry of a key, 0 if there is none or it has expired. */
export function findLive(key: usize, worker: i32, nowMs: i32): usize {
  const flow = flowFind(key);
  if (flow == 0 || flowTimeLeft(flow, nowMs) > 0) return flow;
  flowRemove(worker, flow);
  return 0;
}

function openFlow(candidate: usize, worker: i32, nowMs: i32): i32 {
  const reason = judgeFlow(candidate, worker, nowMs);
  if (reason != REASON_NONE) return reason;
  begin(candidate, nowMs);
  const flow = flowInsert(worker, candidate, nowMs);
  setPacketFlow(worker, flow);
  return flow != 0 ? beginWatch(flow, worker, nowMs) : REASON_FLOW_TABLE_FULL;
}

/** Judges a new connection between the ends of a known flow, by its first packet. */
function judgeAnew(flow: usize, candidate: usize, worker: i32, nowMs: i32): i32 {
  const reason = judgeFlow(candidate, worker, nowMs);
  if (reason != REASON_NONE) {
    cutFlow(flow, nowMs);
    return reason;
  }
  store<u32>(flow, load<u32>(candidate, FLOW_EPOCH), FLOW_EPOCH);
  store<u32>(flow, load<u32>(candidate, FLOW_ANSWER_EGRESS), FLOW_ANSWER_EGRESS);
  store<u32>(flow, load<u32>(candidate, FLOW_ANSWER_INGRESS), FLOW_ANSWER_INGRESS);
  return beginWatch(flow, worker, nowMs);
}

/** Judges a known flow anew where policy has changed; one that is no longer allowed is cut. Of one
 * that modules watch, they look at the packet. */
export function confirmFlow(flow: usize, worker: i32, nowMs: i32): i32 {
  const epoch = policyEpoch();
  if (load<u32>(flow, FLOW_EPOCH) == epoch) return REASON_NONE;
  if (load<u32>(flow, FLOW_EPOCH) == watchedEpoch(epoch)) return watchPacket(flow, worker, nowMs);
  const reason = judgeFlow(flow, worker, nowMs);
  if (reason == REASON_NONE) return continueWatch(flow, worker, nowMs);
  cutFlow(flow, nowMs);
  return reason;
}

/** Keeps a flow that is no longer allowed, unconfirmed, so that what its other end sends opens no
 * flow of that end's own, in which the opener's packets would pass as replies. Where the protocol
 * shows who opens a connection, it stays as long as either end tries; otherwise until the answers
 * to what has passed must have come: from then on that end may open a flow. */
function cutFlow(flow: usize, nowMs: i32): void {
  store<u32>(flow, load<u32>(flow, FLOW_EPOCH) - 1, FLOW_EPOCH);
  setState(flow, FLOW_STATE_NEW);
  const protocol = <i32>load<u8>(flow, FLOW_PROTOCOL);
  if (protocol == PROTOCOL_TCP || protocol == PROTOCOL_SCTP) {
    store<i32>(flow, nowMs + FLOW_TIMEOUT_CUT, FLOW_EXPIRES);
    store<i32>(flow, FLOW_TIMEOUT_NEW, FLOW_LIFETIME); // new flows take the place of others first
  } else if (load<i32>(flow, FLOW_LIFETIME) != FLOW_TIMEOUT_LATE) {
    store<i32>(flow, FLOW_TIMEOUT_LATE, FLOW_LIFETIME); // no flow that is allowed has this one
    refresh(flow, nowMs);
  }
}

/** A connection the other way, between the same ports. It takes the place of one that is not
 * established; beside one that is, it passes without an entry of its own. */
function openOtherWay(flow: usize, candidate: usize, worker: i32, nowMs: i32): i32 {
  const reason = judgeFlow(candidate, worker, nowMs);
  if (reason != REASON_NONE) return reason;
  if (load<u8>(flow, FLOW_STATE) == FLOW_STATE_ESTABLISHED) {
    return missWatch(candidate, worker, nowMs);
  }
  begin(candidate, nowMs);
  memory.copy(flow, candidate, FLOW_SIZE);
  setPacketFlow(worker, flow);
  return beginWatch(flow, worker, nowMs);
}

/** Completes a candidate to the entry of a flow with one packet. */
function begin(flow: usize, nowMs: i32): void {
  const closes = isTcp(flow) && (load<u8>(flow, FLOW_SIGNAL) & TCP_FLAG_RST) != 0;
  store<u8>(flow, closes ? FLOW_STATE_CLOSING : FLOW_STATE_NEW, FLOW_STATE);
  if (isUdp(flow)) store<u8>(flow, stepAt(nowMs), FLOW_SIGNAL);
  store<u32>(flow, 0, FLOW_PAIR);
  store<i32>(flow, timeoutOf(flow), FLOW_LIFETIME);
  refresh(flow, nowMs);
}

/** Lets the flow live on from now. */
function refresh(flow: usize, nowMs: i32): void {
  store<i32>(flow, nowMs + load<i32>(flow, FLOW_LIFETIME), FLOW_EXPIRES);
}

/** Takes note of a packet of a known flow; `seen` is its key. */
export function advance(flow: usize, seen: usize, nowMs: i32): void {
  const byOpener = flowSameWay(flow, seen);
  if (isTcp(flow)) {
    advanceTcp(flow, load<u8>(seen, FLOW_SIGNAL), byOpener, flowFromB(seen));
  } else if (!byOpener || !isUdp(flow) || isPastExchange(flow, nowMs)) {
    advanceStream(flow, byOpener);
  }
  store<i32>(flow, timeoutOf(flow), FLOW_LIFETIME);
  refresh(flow, nowMs);
}

/** Counts an answer, and the opener's answer to that. */
function advanceStream(flow: usize, byOpener: bool): void {
  if (!byOpener) setFlags(flow, FLOW_FLAG_REPLIED);
  else if (hasFlags(flow, FLOW_FLAG_REPLIED)) setState(flow, FLOW_STATE_ESTABLISHED);
}

/** True where a flow of UDP has lasted longer than an exchange may. One that has lasted for minutes
 * looks young at times, and becomes established 2 seconds later. */
function isPastExchange(flow: usize, nowMs: i32): bool {
  const steps = <i32>(stepAt(nowMs) - load<u8>(flow, FLOW_SIGNAL)) & 0xff;
  return steps > FLOW_EXCHANGE_STEPS;
}

function stepAt(nowMs: i32): u8 {
  return <u8>(nowMs >>> FLOW_STEP_SHIFT);
}

function advanceTcp(flow: usize, signal: i32, byOpener: bool, byB: bool): void {
  if ((signal & TCP_FLAG_RST) != 0) return setState(flow, FLOW_STATE_CLOSING);
  if ((signal & TCP_FLAG_SYN) != 0) {
    if (!byOpener) setFlags(flow, FLOW_FLAG_REPLIED);
    else if (load<u8>(flow, FLOW_STATE) == FLOW_STATE_CLOSING) restart(flow);
    return;
  }
  if ((signal & TCP_FLAG_FIN) != 0) setFlags(flow, byB ? FLOW_FLAG_FIN_B : FLOW_FLAG_FIN_A);
  if (hasFlags(flow, FLOW_FLAG_FIN_A | FLOW_FLAG_FIN_B)) {
    setState(flow, FLOW_STATE_CLOSING);
  } else {
    advanceStream(flow, byOpener);
  }
}

/** A new connection of the same opener, between the same ports. */
function restart(flow: usize): void {
  const kept = load<u8>(flow, FLOW_FLAGS)
    & (FLOW_FLAG_USED | FLOW_FLAG_FROM_B | FLOW_FLAG_TRANSLATED);
  store<u8>(flow, <u8>kept, FLOW_FLAGS);
  setState(flow, FLOW_STATE_NEW);
}

/** Lets a flow end soon. */
export function closeFlow(flow: usize, nowMs: i32): void {
  if (load<u8>(flow, FLOW_STATE) == FLOW_STATE_CLOSING) return;
  setState(flow, FLOW_STATE_CLOSING);
  store<i32>(flow, FLOW_TIMEOUT_CLOSING, FLOW_LIFETIME);
  refresh(flow, nowMs);
}

/** How long the flow lives without packets, in the state it is in. */
function timeoutOf(flow: usize): i32 {
  const isNew = load<u8>(flow, FLOW_STATE) == FLOW_STATE_NEW;
  const protocol = <i32>load<u8>(flow, FLOW_PROTOCOL);
  if (isIcmp(protocol)) return FLOW_TIMEOUT_ICMP;
  if (protocol == PROTOCOL_TCP) {
    if (isNew) return FLOW_TIMEOUT_NEW;
    if (load<u8>(flow, FLOW_STATE) == FLOW_STATE_CLOSING) return FLOW_TIMEOUT_CLOSING;
    const closed = load<u8>(flow, FLOW_FLAGS) & (FLOW_FLAG_FIN_A | FLOW_FLAG_FIN_B);
    return closed != 0 ? FLOW_TIMEOUT_HALF_CLOSED : FLOW_TIMEOUT_TCP;
  }
  if (protocol == PROTOCOL_UDP) return isNew ? FLOW_TIMEOUT_NEW : FLOW_TIMEOUT_UDP;
  return isNew && !hasFlags(flow, FLOW_FLAG_REPLIED) ? FLOW_TIMEOUT_NEW : FLOW_TIMEOUT_OTHER;
}

function isTcp(flow: usize): bool {
  return load<u8>(flow, FLOW_PROTOCOL) == PROTOCOL_TCP;
}

function isUdp(flow: usize): bool {
  return load<u8>(flow, FLOW_PROTOCOL) == PROTOCOL_UDP;
}

function setState(flow: usize, state: i32): void {
  store<u8>(flow, <u8>state, FLOW_STATE);
}

function setFlags(flow: usize, flags: i32): void {
  store<u8>(flow, <u8>(load<u8>(flow, FLOW_FLAGS) | flags), FLOW_FLAGS);
}

/** True where all of the flags are set. */
function hasFlags(flow: usize, flags: i32): bool {
  return (load<u8>(flow, FLOW_FLAGS) & flags) == flags;
}
