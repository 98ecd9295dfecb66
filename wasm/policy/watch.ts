// Modules that look at more than a flow's first packet: at each, where the operator allows that, or
// at the first payload that its opener sends. Flows of which no module wants that cost nothing for
// it: a watched one has an epoch that is never the present one, so its packets come here by the way
// of what is judged anew (flow-track.ts).
//
// Payload. A module that has said `more` is shown what the opener sends, packet by packet, until it
// says something else; meanwhile all passes. Once it has had MODULE_PAYLOAD_PACKETS packets or
// MODULE_PAYLOAD_BYTES bytes and wants still more, it has failed; so it has where payload comes in
// fragments. A flow that is refused for its payload stays refused, until policy changes or its
// opener begins a new connection, which is judged anew. What is said of a single packet holds for
// that packet.

import {
  MODULE_HAS_PAYLOAD, MODULE_LIST_COUNT, MODULE_LIST_ENTRIES, MODULE_LIST_FLAGS,
  MODULE_PAYLOAD_BYTES, MODULE_PAYLOAD_PACKETS, MODULE_PER_PACKET, MODULE_PLACE_MASK,
  MODULE_VERDICT_MORE, SAID_BITS, SAID_MASK, WATCH_BYTES, WATCH_INGRESS_SHIFT, WATCH_PACKETS,
  WATCH_PENDING,
} from "../abi/module";
import {
  ANSWER_ALLOW, ANSWER_FINAL, ANSWER_MODULE_MASK, ANSWER_MODULE_SHIFT, FLOW_ANSWER_EGRESS,
  FLOW_ANSWER_INGRESS, FLOW_EPOCH,
} from "../abi/policy";
import { REASON_NONE } from "../abi/verdict";
import {
  flowDestination, flowIsIpv4, flowMatches, flowPolicyKey, flowSameWay, flowSource,
} from "../flow-key";
import { packetInHand } from "../hand";
import { packetLength, packetStart } from "../packet";
import { flowCandidate } from "../table/flow";
import { watchClose, watchFind, watchOpen, watchedEpoch } from "../table/watch";
import { ipTransport } from "../wire/ip";
import { isFragment } from "../wire/transport";
import { identityOf, localEndpoint, policyEpoch, reasonOf } from "./judge";
import {
  closeJudgement, evaluate, failureOf, moduleList, modulesWatch, pendingBit, pendingModules,
  refused, refuses, saidOf, setPending,
} from "./module";
import { firstSequence, payloadOffset, payloadStart, showPayload } from "./payload";
import { recordVerdict } from "./ring";

/** True where some module may ask for payload: what opens a connection is then judged anew. */
export function modulesInspect(): bool {
  const list = moduleList();
  return list != 0 && (load<u32>(list, MODULE_LIST_FLAGS) & MODULE_HAS_PAYLOAD) != 0;
}

/** Begins to watch a flow that was judged just now, where modules want that, and shows them what
 * this packet has of payload. REASON_NONE lets it pass. */
// @ts-ignore: decorator
@inline
export function beginWatch(flow: usize, worker: i32, nowMs: i32): i32 {
  return pendingModules(worker) == 0 ? REASON_NONE : openWatch(flow, worker, nowMs);
}

function openWatch(flow: usize, worker: i32, nowMs: i32): i32 {
  const list = moduleList();
  const pending = pendingModules(worker);
  setPending(worker, 0);
  const watch = watchOpen(flow, pending, firstSequence(worker), policyEpoch());
  if (watch == 0) return failPending(list, worker, flow, pending, nowMs);
  return showAlone(list, worker, flow, watch, nowMs);
}

/** Goes on with the watch of a known flow that was judged anew, if it has one. */
export function continueWatch(flow: usize, worker: i32, nowMs: i32): i32 {
  const list = moduleList();
  const watch = list != 0 ? watchFind(flow) : 0;
  if (watch == 0) return REASON_NONE;
  const pending = pendingModules(worker);
  store<u32>(watch, pending, WATCH_PENDING);
  if (!flowMatches(flow, flowCandidate(worker))) return REASON_NONE;
  return showAlone(list, worker, flow, watch, nowMs);
}

function showAlone(list: usize, worker: i32, flow: usize, watch: usize, nowMs: i32): i32 {
  const reason = showPacket(list, worker, flow, watch, nowMs);
  closeJudgement(worker, flow);
  return reason;
}

/** Fails those who want to see payload of a flow that passes without an entry. */
export function missWatch(key: usize, worker: i32, nowMs: i32): i32 {
  const pending = pendingModules(worker);
  return pending == 0 ? REASON_NONE : failPending(moduleList(), worker, key, pending, nowMs);
}

/** Looks at a packet of a watched flow. REASON_NONE lets it pass. An ICMP error about the flow, and
 * a later fragment, is no packet of its own: it has the flow's answer. */
export function watchPacket(flow: usize, worker: i32, nowMs: i32): i32 {
  const reason = reasonOf(answerOf(flow, 0), answerOf(flow, 1));
  if (reason != REASON_NONE || !flowMatches(flow, flowCandidate(worker))) return reason;
  const list = moduleList();
  if (list == 0) return REASON_NONE;
  const watch = watchFind(flow);
  let result = REASON_NONE;
  if (modulesWatch(list)) {
    const pending = watch != 0 ? load<u32>(watch, WATCH_PENDING) : 0;
    result = askAgain(list, worker, flow, 0, pending, nowMs);
    if (result == REASON_NONE) result = askAgain(list, worker, flow, 1, pending, nowMs);
  }
  if (result == REASON_NONE && watch != 0) result = showPacket(list, worker, flow, watch, nowMs);
  closeJudgement(worker, flow);
  return result;
}

/** Asks those about a packet, for one end, that are asked about each, but for those that wait for
 * payload. */
function askAgain(
  list: usize, worker: i32, flow: usize, ingress: i32, pending: u32, nowMs: i32,
): i32 {
  const ipv4 = flowIsIpv4(flow);
  const near = identityOf(flowSource(flow), ipv4);
  const far = identityOf(flowDestination(flow), ipv4);
  const end = localEndpoint(ingress != 0 ? flowDestination(flow) : flowSource(flow), ipv4);
  const answer = answerOf(flow, ingress);
  if (end == 0 || (answer & ANSWER_FINAL) != 0) return REASON_NONE;
  const seen = flowCandidate(worker);
  const said = saidOf(worker, flow, ingress);
  const count = load<i32>(list, MODULE_LIST_COUNT);
  for (let index = 0; index < count; index += 1) {
    const entry = entryAt(list, index);
    if (hasDecided(entry, answer)) break;
    if ((entry & MODULE_PER_PACKET) == 0 || (pending & pendingBit(index, ingress)) != 0) continue;
    const shift = index * SAID_BITS;
    const known = <i32>(load<u64>(said) >>> shift) & SAID_MASK;
    const verdict = known != 0
      ? known - 1
      : evaluate(entry, worker, flow, seen, ingress, said, shift, near, far);
    if (refuses(verdict)) {
      return refuse(worker, flow, ingress, refused(entry, verdict), nowMs);
    }
  }
  return REASON_NONE;
}

/** True of the module that has allowed the flow: those behind it are not asked. */
function hasDecided(entry: u32, answer: u32): bool {
  const decider = (answer >>> ANSWER_MODULE_SHIFT) & ANSWER_MODULE_MASK;
  return decider == (entry & MODULE_PLACE_MASK) + 1;
}

/** Shows the packet in hand to those that wait for payload, if it is the opener's and has any. */
function showPacket(list: usize, worker: i32, flow: usize, watch: usize, nowMs: i32): i32 {
  if (!flowSameWay(flow, flowCandidate(worker))) return REASON_NONE;
  const descriptor = packetInHand(worker);
  let pending = load<u32>(watch, WATCH_PENDING);
  if (isFragment(ipTransport(packetStart(descriptor)))) {
    return endWatch(list, worker, flow, watch, pending, nowMs);
  }
  const start = payloadStart(worker);
  const length = packetLength(descriptor) - start;
  if (length <= 0) return REASON_NONE;
  const offset = payloadOffset(worker, watch);
  for (let rest = pending; rest != 0; rest &= rest - 1) {
    const bit = <i32>ctz(rest);
    const ingress = bit / WATCH_INGRESS_SHIFT;
    const index = bit % WATCH_INGRESS_SHIFT;
    const entry = entryAt(list, index);
    const said = saidOf(worker, flow, ingress);
    const verdict =
      showPayload(entry, worker, flow, ingress, said, index * SAID_BITS, start, offset);
    if (verdict == MODULE_VERDICT_MORE) continue;
    pending ^= 1 << bit;
    if (!refuses(verdict)) continue;
    watchClose(watch);
    return refuseFlow(worker, flow, ingress, refused(entry, verdict), nowMs);
  }
  store<u32>(watch, pending, WATCH_PENDING);
  const bytes = max(load<i32>(watch, WATCH_BYTES), min(offset + length, MODULE_PAYLOAD_BYTES));
  const packets = load<i32>(watch, WATCH_PACKETS) + 1;
  store<i32>(watch, bytes, WATCH_BYTES);
  store<i32>(watch, packets, WATCH_PACKETS);
  const isOver = bytes >= MODULE_PAYLOAD_BYTES || packets >= MODULE_PAYLOAD_PACKETS;
  if (pending != 0 && !isOver) return REASON_NONE;
  return endWatch(list, worker, flow, watch, pending, nowMs);
}

/** Ends a watch: who still wants to see more has failed. */
function endWatch(
  list: usize, worker: i32, flow: usize, watch: usize, pending: u32, nowMs: i32,
): i32 {
  watchClose(watch);
  const reason = failPending(list, worker, flow, pending, nowMs);
  if (reason == REASON_NONE && !modulesWatch(list)) {
    store<u32>(flow, watchedEpoch(load<u32>(flow, FLOW_EPOCH)), FLOW_EPOCH);
  }
  return reason;
}

/** Applies the failure verdicts of modules that wanted to see more. */
function failPending(list: usize, worker: i32, flow: usize, pending: u32, nowMs: i32): i32 {
  for (let rest = pending; rest != 0; rest &= rest - 1) {
    const bit = <i32>ctz(rest);
    const entry = entryAt(list, bit % WATCH_INGRESS_SHIFT);
    const verdict = failureOf(entry);
    if (!refuses(verdict)) continue;
    return refuseFlow(worker, flow, bit / WATCH_INGRESS_SHIFT, refused(entry, verdict), nowMs);
  }
  return REASON_NONE;
}

/** Refuses this packet and all that follow. */
function refuseFlow(worker: i32, flow: usize, ingress: i32, answer: u32, nowMs: i32): i32 {
  store<u32>(flow + (ingress != 0 ? FLOW_ANSWER_INGRESS : FLOW_ANSWER_EGRESS), answer);
  return refuse(worker, flow, ingress, answer, nowMs);
}

/** Refuses this packet, at one end. */
function refuse(worker: i32, flow: usize, ingress: i32, answer: u32, nowMs: i32): i32 {
  const ipv4 = flowIsIpv4(flow);
  const near = identityOf(flowSource(flow), ipv4);
  const far = identityOf(flowDestination(flow), ipv4);
  const end = localEndpoint(ingress != 0 ? flowDestination(flow) : flowSource(flow), ipv4);
  const key = flowPolicyKey(flow);
  if (end != 0) recordVerdict(worker, nowMs, flow, end, ingress, answer, near, far, key);
  return ingress != 0 ? reasonOf(ANSWER_ALLOW, answer) : reasonOf(answer, ANSWER_ALLOW);
}

function answerOf(flow: usize, ingress: i32): u32 {
  return load<u32>(flow + (ingress != 0 ? FLOW_ANSWER_INGRESS : FLOW_ANSWER_EGRESS));
}

function entryAt(list: usize, index: i32): u32 {
  return load<u32>(list + (<usize>index << 2), MODULE_LIST_ENTRIES);
}
