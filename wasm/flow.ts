// Flows: who may talk to whom is decided once for each connection, so that replies pass.
//
// Theory of operation. enforce() stands between routing and forwarding. What has no local pod at
// either end has no flow; a pod may always talk with itself and with its own node. Of those only
// connections to Services are followed, so that replies can be translated. Any other packet
// is looked up by its 5-tuple (table/flow.ts). A known flow passes; if the policy epoch has changed
// since it was judged, it is judged anew first (policy/judge.ts), and cut if it is no longer
// allowed. A packet of no known flow is judged, and an allowed one opens a flow. That holds for any
// packet: after a restart, connections are picked up in the middle.
//
// A packet that can only open a connection (SYN, INIT, an ICMP query) is no reply: from the other
// end than the opener it is judged itself. An ICMP error passes if it is about a known flow
// (flow-error.ts). Fragments follow their first one (flow-fragment.ts).
//
// Workers share the table of flows, for the two directions of a connection may come to different
// ones (docs/decisions/workers.md). Only this file and
// service/serve.ts take its lock (lock.ts).

import {
  DIRECTORY_HAS_SERVICES, NEXT_HOP_KIND_NODE, TRANSLATED_REPLY, TRANSLATED_SERVED,
} from "./abi/layout";
import { REASON_FLOW_TABLE_FULL, REASON_NONE, REASON_POLICY_PENDING } from "./abi/verdict";
import { followError, trackError } from "./flow-error";
import { laterFlow, trackFragment } from "./flow-fragment";
import { flowIsError, writeFlowKey } from "./flow-key";
import { followPacket, trackPacket } from "./flow-track";
import { takeInHand } from "./hand";
import { lockFlows, unlockFlows } from "./lock";
import { directory, packetStart, packetTranslated } from "./packet";
import { moduleList } from "./policy/module";
import { settle } from "./service/settle";
import { flowCandidate, flowSweep, packetFlow, setPacketFlow } from "./table/flow";
import {
  deviceEgress, deviceIngress, deviceIsClosed, endpointDevice, nextHopAt, nextHopKind,
} from "./table/record";
import { ipTotalLength, ipTransport } from "./wire/ip";
import { isFragment, isHeaderless, isLaterFragment } from "./wire/transport";

/** Decides whether a checked packet may go from its source's next hop to its destination's, and
 * finishes what Services do about it. REASON_NONE lets it pass; otherwise it is to be dropped. */
// @ts-ignore: decorator
@inline
export function enforce(
  descriptor: usize,
  worker: i32,
  nowMs: i32,
  sourceHop: i32,
  destinationHop: i32,
): i32 {
  const source = nextHopAt(sourceHop);
  const destination = nextHopAt(destinationHop);
  const from = endpointDevice(source);
  const to = endpointDevice(destination);
  if (isClosed(from) || isClosed(to)) return REASON_POLICY_PENDING;
  if (from == to || nextHopKind(source) == NEXT_HOP_KIND_NODE
    || nextHopKind(destination) == NEXT_HOP_KIND_NODE) return follow(descriptor, worker, nowMs);
  const packet = packetStart(descriptor);
  const transport = ipTransport(packet);
  takeInHand(worker, descriptor, sourceHop, destinationHop);
  lockFlows(worker);
  const hint = packetTranslated(descriptor) == 0 ? <usize>0 : packetFlow(worker);
  const isPlain = !isFragment(transport) && !isHeaderless(transport);
  let reason = isPlain
    ? trackWhole(packet, transport, worker, nowMs, from != 0, hint)
    : trackPiece(packet, transport, worker, nowMs, isJudged(from) || isJudged(to));
  if (reason == REASON_FLOW_TABLE_FULL && !isJudged(from) && !isJudged(to)) {
    reason = REASON_NONE;
  }
  if (reason == REASON_NONE) reason = settle(descriptor, transport, worker, nowMs);
  unlockFlows();
  return reason;
}

/** Lets pass what nobody judges. Only of connections to Services is anything kept. */
function follow(descriptor: usize, worker: i32, nowMs: i32): i32 {
  const kind = packetTranslated(descriptor);
  if (directory(DIRECTORY_HAS_SERVICES) == 0 || kind == TRANSLATED_REPLY) return REASON_NONE;
  const packet = packetStart(descriptor);
  const transport = ipTransport(packet);
  const key = flowCandidate(worker);
  const total = ipTotalLength(packet);
  lockFlows(worker);
  setPacketFlow(worker, 0);
  writeFlowKey(key, packet, transport, total);
  let reason = REASON_NONE;
  if (isHeaderless(transport)) {
    followLater(packet, transport, key, worker, nowMs);
  } else if (flowIsError(key)) {
    followError(packet, transport, total, worker, nowMs);
  } else {
    reason = followPacket(key, worker, nowMs, kind == TRANSLATED_SERVED);
  }
  if (reason == REASON_NONE) reason = settle(descriptor, transport, worker, nowMs);
  unlockFlows();
  return reason;
}

/** Takes out some of what has expired, in turn. */
export function sweepFlows(worker: i32, nowMs: i32): void {
  lockFlows(worker);
  flowSweep(worker, nowMs);
  unlockFlows();
}

/** `hint` is the flow that the packet's session led to, or 0. */
// @ts-ignore: decorator
@inline
function trackWhole(
  packet: usize, transport: i32, worker: i32, nowMs: i32, fromPod: bool, hint: usize,
): i32 {
  const candidate = flowCandidate(worker);
  const total = ipTotalLength(packet);
  writeFlowKey(candidate, packet, transport, total);
  if (!flowIsError(candidate)) return trackPacket(candidate, worker, nowMs, hint);
  return trackError(packet, transport, total, candidate, worker, nowMs, fromPod);
}

/** Where no rule set looks at either end, nothing depends on flows: what has none passes. */
function trackPiece(packet: usize, transport: i32, worker: i32, nowMs: i32, judged: bool): i32 {
  setPacketFlow(worker, 0);
  if (judged) return trackFragment(packet, transport, ipTotalLength(packet), worker, nowMs);
  if (!isHeaderless(transport)) return trackWhole(packet, transport, worker, nowMs, false, 0);
  const key = flowCandidate(worker);
  writeFlowKey(key, packet, transport, ipTotalLength(packet));
  followLater(packet, transport, key, worker, nowMs);
  return REASON_NONE;
}

/** Takes note of the flow of a later fragment, where its first was remembered. */
function followLater(packet: usize, transport: i32, key: usize, worker: i32, nowMs: i32): void {
  if (!isLaterFragment(transport)) return;
  setPacketFlow(worker, laterFlow(packet, transport, key, nowMs));
}

/** True where a next hop leads to a pod whose policy is not known yet. */
export function isPending(hop: i32): bool {
  return isClosed(endpointDevice(nextHopAt(hop)));
}

function isClosed(device: usize): bool {
  return device != 0 && deviceIsClosed(device);
}

/** True of a pod whose packets are not let pass unseen. */
function isJudged(device: usize): bool {
  return hasRuleSet(device) || (device != 0 && moduleList() != 0);
}

function hasRuleSet(device: usize): bool {
  return device != 0 && (deviceEgress(device) | deviceIngress(device)) != 0;
}
