// Flows: who may talk to whom is decided once for each connection, so that replies pass.
//
// Theory of operation. enforce() stands between routing and forwarding. What has no local pod at
// either end has no flow; a pod may always talk with itself and with its own node. Any other packet
// is looked up by its 5-tuple (table/flow.ts). A known flow passes; if the policy epoch has changed
// since it was judged, it is judged anew first (policy/judge.ts), and cut if it is no longer
// allowed. A packet of no known flow is judged, and an allowed one opens a flow. That holds for any
// packet: after a restart, connections are picked up in the middle.
//
// A packet that can only open a connection (SYN, INIT, an ICMP query) is no reply: from the other
// end than the opener it is judged itself. An ICMP error passes if it is about a known flow
// (flow-error.ts). Fragments follow their first one (flow-fragment.ts).

import { NEXT_HOP_KIND_NODE } from "./abi/layout";
import { REASON_FLOW_TABLE_FULL, REASON_NONE, REASON_POLICY_PENDING } from "./abi/verdict";
import { trackError } from "./flow-error";
import { trackFragment } from "./flow-fragment";
import { flowIsError, writeFlowKey } from "./flow-key";
import { trackPacket } from "./flow-track";
import { flowCandidate } from "./table/flow";
import {
  deviceEgress,
  deviceIngress,
  deviceIsClosed,
  endpointDevice,
  nextHopAt,
  nextHopKind,
} from "./table/record";
import { ipTotalLength, ipTransport } from "./wire/ip";
import { isFragment, isHeaderless } from "./wire/transport";

/** Decides whether a checked packet may go from its source's next hop to its destination's.
 * REASON_NONE lets it pass; otherwise it is to be dropped. */
export function enforce(
  packet: usize,
  worker: i32,
  nowMs: i32,
  sourceHop: i32,
  destinationHop: i32,
): i32 {
  const source = nextHopAt(sourceHop);
  const destination = nextHopAt(destinationHop);
  const from = endpointDevice(source);
  const to = endpointDevice(destination);
  if (from == 0 && to == 0) return REASON_NONE;
  if (isClosed(from) || isClosed(to)) return REASON_POLICY_PENDING;
  if (from == to || nextHopKind(source) == NEXT_HOP_KIND_NODE
    || nextHopKind(destination) == NEXT_HOP_KIND_NODE) return REASON_NONE;
  const isPoliced = hasRuleSet(from) || hasRuleSet(to);
  const reason = track(packet, worker, nowMs, from != 0, isPoliced);
  return reason == REASON_FLOW_TABLE_FULL && !isPoliced ? REASON_NONE : reason;
}

/** Where no rule set looks at either end, nothing depends on flows: what has none passes. */
function track(packet: usize, worker: i32, nowMs: i32, fromLocal: bool, isPoliced: bool): i32 {
  const transport = ipTransport(packet);
  const total = ipTotalLength(packet);
  if (isPoliced && (isFragment(transport) || isHeaderless(transport))) {
    return trackFragment(packet, transport, total, worker, nowMs);
  }
  if (isHeaderless(transport)) return REASON_NONE;
  const candidate = flowCandidate(worker);
  writeFlowKey(candidate, packet, transport, total);
  if (!flowIsError(candidate)) return trackPacket(candidate, worker, nowMs);
  return trackError(packet, transport, total, candidate, worker, nowMs, fromLocal);
}

function isClosed(device: usize): bool {
  return device != 0 && deviceIsClosed(device);
}

function hasRuleSet(device: usize): bool {
  return device != 0 && (deviceEgress(device) | deviceIngress(device)) != 0;
}
