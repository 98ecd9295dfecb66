// From a peer to a pod or the node. Functions stand in the order in which a packet meets them:
//
//   1. inbound()           the outer source is a known peer (table/route.ts)
//   2. decapsulateVxlan()  the tunnel header matches exactly (tunnel/vxlan.ts)
//   3. checkPacket()       headers are sound (forward.ts, wire/ip.ts)
//   4. inbound()           the inner source belongs to that peer
//   5. enforce()           its flow is known, or policy allows it (flow.ts)
//   6. forwardInbound()    route, TTL; deliver (forward.ts)

import { NEXT_HOP_KIND_PEER } from "./abi/layout";
import {
  DIRECTION_INBOUND,
  REASON_FOREIGN_SOURCE,
  REASON_NONE,
  REASON_UNKNOWN_PEER,
} from "./abi/verdict";
import { drop } from "./count";
import { checkPacket, forwardInbound } from "./forward";
import { outerSource, packetStart } from "./packet";
import { nextHopAt, nextHopIndex, nextHopKind, peerAt } from "./table/record";
import { routeDestination, routeRemote, routeSource } from "./table/route";
import { decapsulateVxlan } from "./tunnel/vxlan";

/** Takes a datagram of the underlay as far as it goes. */
export function inbound(descriptor: usize, worker: i32, nowMs: i32): void {
  const origin = routeRemote(outerSource(descriptor));
  const record = nextHopAt(origin);
  if (nextHopKind(record) != NEXT_HOP_KIND_PEER) {
    return drop(descriptor, worker, DIRECTION_INBOUND, REASON_UNKNOWN_PEER);
  }
  let reason = decapsulateVxlan(descriptor, peerAt(nextHopIndex(record)));
  if (reason == REASON_NONE) reason = checkPacket(descriptor);
  if (reason != REASON_NONE) return drop(descriptor, worker, DIRECTION_INBOUND, reason);
  const packet = packetStart(descriptor);
  if (routeSource(packet) != origin) {
    return drop(descriptor, worker, DIRECTION_INBOUND, REASON_FOREIGN_SOURCE);
  }
  forwardInbound(descriptor, worker, nowMs, origin, routeDestination(packet));
}
