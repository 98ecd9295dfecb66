// From a peer to a pod or the node. Functions stand in the order in which a packet meets them:
//
//   1. inbound()           the outer source is a known peer (table/route.ts)
//   2. receiveTrain()      the datagrams that the kernel joined are gone through one by one
//   3. extendRun()         it goes on where the one before it stopped: done (offload/coalesce.ts)
//   4. decapsulate()       the tunnel is the peer's, its header matches exactly (tunnel/tunnel.ts)
//   5. checkPacket()       headers are sound (forward.ts, wire/ip.ts)
//   6. admit()             the inner source belongs to that peer; ECN is carried over (wire/ecn.ts)
//   7. openRun()           others may follow: it is held back until they have (offload/coalesce.ts)
//   8. enforce()           its flow is known, or policy allows it (flow.ts)
//   9. forwardInbound()    route, TTL; deliver (forward.ts)
//
// What a peer on our link sends without a tunnel comes by the node's own device: inboundDirect().

import {
  DESCRIPTOR_SEGMENT_SIZE, NEXT_HOP_KIND_PEER, SEGMENTS_MAX, TUNNEL_DIRECT, TUNNEL_IPIP,
} from "./abi/layout";
import {
  DIRECTION_INBOUND, REASON_CONGESTION, REASON_FOREIGN_SOURCE, REASON_NONE, REASON_OFFLOAD,
  REASON_TOO_SHORT, REASON_UNKNOWN_PEER, REASON_WRONG_TUNNEL,
} from "./abi/verdict";
import { countReceived, drop } from "./count";
import { checkPacket, forwardInbound } from "./forward";
import { beginTrain, datagramInHand, standAtDatagram, trainInHand, trainLength } from "./hand";
import { clampMss } from "./mss";
import { extendRun, finishRun, meetSlot, openRun } from "./offload/coalesce";
import { takeUnfinished } from "./offload/unfinished";
import {
  clearOffload, inputDevice, outerSource, outerTos, packetLength, packetRoom, packetStart,
  setPacket, setRoom, setSegments,
} from "./packet";
import {
  deviceAt, deviceTunnel, nextHopAt, nextHopIndex, nextHopKind, peerAt, peerMtu,
} from "./table/record";
import { routeDestination, routeRemote, routeSource } from "./table/route";
import { takeOuterOff } from "./tunnel/ipip";
import { decapsulate, takesTunnel } from "./tunnel/tunnel";
import { decapsulateEcn } from "./wire/ecn";

/** Takes what an underlay socket received in one slot, a datagram or several, as far as each
 * goes. */
export function inbound(descriptor: usize, worker: i32, nowMs: i32, device: usize): void {
  const tunnel = deviceTunnel(device);
  if (tunnel == TUNNEL_IPIP && !takeOuterOff(descriptor)) {
    return drop(descriptor, worker, DIRECTION_INBOUND, REASON_TOO_SHORT);
  }
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
  if (!isTrain) return receive(descriptor, worker, nowMs, origin, peer, tunnel);
  beginTrain(worker, packetStart(descriptor), packetLength(descriptor));
  receiveTrain(descriptor, worker, nowMs, origin, peer, tunnel, size, 0);
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
    const tunnel = deviceTunnel(deviceAt(inputDevice(descriptor)));
    return receiveTrain(descriptor, worker, nowMs, origin, peer, tunnel, size, at);
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
  tunnel: i32,
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
    setRoom(descriptor, 0);
    receive(descriptor, worker, nowMs, origin, peer, tunnel);
  }
  if (taken == length) return;
  setPacket(descriptor, start + taken, length - taken);
  setSegments(descriptor, datagramCount(descriptor, size));
  drop(descriptor, worker, DIRECTION_INBOUND, REASON_OFFLOAD);
}

function receive(
  descriptor: usize,
  worker: i32,
  nowMs: i32,
  origin: i32,
  peer: usize,
  tunnel: i32,
): void {
  if (extendRun(descriptor, worker, nowMs)) return;
  finishRun(worker, nowMs);
  const datagram = packetStart(descriptor);
  let reason = decapsulate(descriptor, peer, tunnel);
  if (reason == REASON_NONE) reason = checkPacket(descriptor);
  if (reason == REASON_NONE) reason = admit(descriptor, origin);
  if (reason != REASON_NONE) return drop(descriptor, worker, DIRECTION_INBOUND, reason);
  const header = <i32>(packetStart(descriptor) - datagram);
  setRoom(descriptor, packetRoom(descriptor) + header);
  takeUnfinished(descriptor, worker);
  clampMss(descriptor, worker, peerMtu(peer));
  if (openRun(descriptor, worker, origin, header)) return;
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

/** Takes a checked packet that came by way of the node's own stack, from an address of a peer's:
 * that has to be one that needs no tunnel. */
export function inboundDirect(descriptor: usize, worker: i32, nowMs: i32, origin: i32): void {
  const peer = peerAt(nextHopIndex(nextHopAt(origin)));
  if (!takesTunnel(peer, TUNNEL_DIRECT)) {
    return drop(descriptor, worker, DIRECTION_INBOUND, REASON_WRONG_TUNNEL);
  }
  const nextHop = routeDestination(packetStart(descriptor));
  countReceived(worker, origin, descriptor);
  forwardInbound(descriptor, worker, nowMs, origin, nextHop);
}
