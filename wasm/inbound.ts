// From a peer to a pod or the node. Functions stand in the order in which a packet meets them:
//
//   1. inbound()           the outer source is a known peer (table/route.ts)
//   2. receiveTrain()      the datagrams that the kernel joined are gone through one by one
//   3. extendRun()         it goes on where the one before it stopped: done (offload/coalesce.ts)
//   4. decapsulateVxlan()  the tunnel header matches exactly (tunnel/vxlan.ts)
//   5. checkPacket()       headers are sound (forward.ts, wire/ip.ts)
//   6. admit()             the inner source belongs to that peer; ECN is carried over (wire/ecn.ts)
//   7. openRun()           others may follow: it is held back until they have (offload/coalesce.ts)
//   8. enforce()           its flow is known, or policy allows it (flow.ts)
//   9. forwardInbound()    route, TTL; deliver (forward.ts)

import { DESCRIPTOR_SEGMENT_SIZE, NEXT_HOP_KIND_PEER, SEGMENTS_MAX } from "./abi/layout";
import {
  DIRECTION_INBOUND, REASON_CONGESTION, REASON_FOREIGN_SOURCE, REASON_NONE, REASON_OFFLOAD,
  REASON_UNKNOWN_PEER,
} from "./abi/verdict";
import { countReceived, drop } from "./count";
import { checkPacket, forwardInbound } from "./forward";
import { beginTrain, datagramInHand, standAtDatagram, trainInHand, trainLength } from "./hand";
import { extendRun, finishRun, meetSlot, openRun } from "./offload/coalesce";
import { takeUnfinished } from "./offload/unfinished";
import {
  clearOffload, outerSource, outerTos, packetLength, packetStart, setPacket, setSegments,
} from "./packet";
import { nextHopAt, nextHopIndex, nextHopKind, peerAt } from "./table/record";
import { routeDestination, routeRemote, routeSource } from "./table/route";
import { decapsulateVxlan } from "./tunnel/vxlan";
import { decapsulateEcn } from "./wire/ecn";

/** Takes what an underlay socket received in one slot, a datagram or several, as far as each
 * goes. */
export function inbound(descriptor: usize, worker: i32, nowMs: i32): void {
  meetSlot(descriptor, worker, nowMs);
  const origin = routeRemote(outerSource(descriptor));
  const record = nextHopAt(origin);
  const size = <i32>load<u16>(descriptor, DESCRIPTOR_SEGMENT_SIZE);
  const isTrain = size > 0 && packetLength(descriptor) > size;
  if (nextHopKind(record) != NEXT_HOP_KIND_PEER) {
    if (isTrain) setSegments(descriptor, datagramCount(descriptor, size));
    return drop(descriptor, worker, DIRECTION_INBOUND, REASON_UNKNOWN_PEER);
  }
  const peer = peerAt(nextHopIndex(record));
  if (!isTrain) return receive(descriptor, worker, nowMs, origin, peer);
  beginTrain(worker, packetStart(descriptor), packetLength(descriptor));
  receiveTrain(descriptor, worker, nowMs, origin, peer, size, 0);
}

/** Goes on with the train in hand, where a module's fault had led out of it, at the datagram in
 * hand or, where that `isDone`, at the next. */
export function resumeTrain(descriptor: usize, worker: i32, nowMs: i32, isDone: bool): void {
  const size = <i32>load<u16>(descriptor, DESCRIPTOR_SEGMENT_SIZE);
  const at = datagramInHand(worker) + (isDone ? size : 0);
  const left = trainLength(worker) - at;
  if (left <= 0) return;
  const origin = routeRemote(outerSource(descriptor));
  const record = nextHopAt(origin);
  if (nextHopKind(record) == NEXT_HOP_KIND_PEER) {
    const peer = peerAt(nextHopIndex(record));
    return receiveTrain(descriptor, worker, nowMs, origin, peer, size, at);
  }
  setPacket(descriptor, trainInHand(worker) + at, left);
  setSegments(descriptor, datagramCount(descriptor, size));
  drop(descriptor, worker, DIRECTION_INBOUND, REASON_UNKNOWN_PEER);
}

function datagramCount(descriptor: usize, size: i32): i32 {
  return (packetLength(descriptor) + size - 1) / size;
}

/** Goes through the train's datagrams of `size` bytes, the last of which may be shorter, from the
 * offset `first` on. The descriptor is that of the one in hand. */
function receiveTrain(
  descriptor: usize,
  worker: i32,
  nowMs: i32,
  origin: i32,
  peer: usize,
  size: i32,
  first: i32,
): void {
  const start = trainInHand(worker);
  const length = trainLength(worker);
  const taken = min(length, size * SEGMENTS_MAX);
  for (let at = first; at < taken; at += size) {
    standAtDatagram(worker, at);
    setPacket(descriptor, start + at, min(size, taken - at));
    clearOffload(descriptor);
    receive(descriptor, worker, nowMs, origin, peer);
  }
  if (taken == length) return;
  setPacket(descriptor, start + taken, length - taken);
  setSegments(descriptor, datagramCount(descriptor, size));
  drop(descriptor, worker, DIRECTION_INBOUND, REASON_OFFLOAD);
}

function receive(descriptor: usize, worker: i32, nowMs: i32, origin: i32, peer: usize): void {
  if (extendRun(descriptor, worker, nowMs)) return;
  finishRun(worker, nowMs);
  let reason = decapsulateVxlan(descriptor, peer);
  if (reason == REASON_NONE) reason = checkPacket(descriptor);
  if (reason == REASON_NONE) reason = admit(descriptor, origin);
  if (reason != REASON_NONE) return drop(descriptor, worker, DIRECTION_INBOUND, reason);
  takeUnfinished(descriptor, worker);
  if (openRun(descriptor, worker, origin)) return;
  const nextHop = routeDestination(packetStart(descriptor));
  countReceived(worker, origin, descriptor);
  forwardInbound(descriptor, worker, nowMs, origin, nextHop);
}

/** Refuses an inner source that another peer, or nobody, owns, and a packet that met congestion
 * and cannot say so. REASON_NONE admits it. */
function admit(descriptor: usize, origin: i32): i32 {
  const packet = packetStart(descriptor);
  if (routeSource(packet) != origin) return REASON_FOREIGN_SOURCE;
  return decapsulateEcn(packet, outerTos(descriptor)) ? REASON_NONE : REASON_CONGESTION;
}
