// The part of the walk that outbound and inbound share: where a routed packet goes, and what its
// sender hears if it goes nowhere. A packet has an origin, the next hop id it came from.

import { ETHERNET_HEADER_SIZE, IPV6_MINIMUM_MTU } from "./abi/headers";
import {
  DEVICE_GATEWAY_MAC, DEVICE_KIND_NONE, DEVICE_KIND_TAP, DEVICE_MAC, DEVICE_NODE,
  NEXT_HOP_KIND_BLACKHOLE, NEXT_HOP_KIND_ENDPOINT, NEXT_HOP_KIND_NODE, NEXT_HOP_KIND_OUTSIDE,
  NEXT_HOP_KIND_PEER, NEXT_HOP_KIND_PROHIBIT, NEXT_HOP_KIND_SERVICE, NEXT_HOP_NODE,
  TUNNEL_DIRECT,
} from "./abi/layout";
import {
  DIRECTION_INBOUND, DIRECTION_OUTBOUND, EVENT_OUTER_FRAGMENTED, REASON_BLACKHOLE,
  REASON_DEVICE_UNKNOWN, REASON_HOP_LIMIT, REASON_NONE, REASON_NOT_LOCAL, REASON_NO_ROUTE,
  REASON_POLICY_PENDING, REASON_PROHIBITED, REASON_SERVICE_PEER, REASON_TOO_BIG,
} from "./abi/verdict";
import { countEvents, countSent, drop } from "./count";
import { enforce, isPending } from "./flow";
import { answerWithError } from "./icmp-error";
import { clampMss } from "./mss";
import { cutSegments } from "./offload/segment";
import {
  emitVnet, finishChecksum, keepFirst, largestPacket, lastPacket, needsChecksum,
} from "./offload/vnet";
import { addSend, pieceSize, sendBehind, sendToDevice, takeHeaders } from "./outbox";
import {
  isSuperPacket, packetLength, packetRoom, packetSegments, packetStart, packetTranslated, prepend,
  setOutput, trimTo,
} from "./packet";
import { serve } from "./service/serve";
import { undoTranslation } from "./service/translate";
import {
  deviceAt, deviceKind, deviceVnetSize, nextHopAt, nextHopIndex, nextHopKind, peerAt, peerMtu,
  peerTunnel,
} from "./table/record";
import { routeDestination } from "./table/route";
import { needsFragments, sendFragments } from "./tunnel/fragment";
import { frameTunnel } from "./tunnel/frame";
import { costsHopOut, costsHopToNode, isFromStack } from "./tunnel/hops";
import { encapsulate, segment } from "./tunnel/tunnel";
import { emitEthernet } from "./wire/ethernet";
import {
  checkIp, ipDecrementHopLimit, ipDontFragment, ipEtherType, ipHopLimit, ipTotalLength, isIpv4,
} from "./wire/ip";

/** Checks the packet's headers and cuts link-layer padding off. REASON_NONE accepts it. */
export function checkPacket(descriptor: usize): i32 {
  const packet = packetStart(descriptor);
  const reason = checkIp(packet, packetLength(descriptor));
  if (reason == REASON_NONE) trimTo(descriptor, ipTotalLength(packet));
  return reason;
}

/** Sends a checked packet of a local device on to `nextHop`. `source` is the next hop of its source
 * address: the origin, or what lies behind the node. */
export function forwardOutbound(
  descriptor: usize,
  worker: i32,
  nowMs: i32,
  origin: i32,
  source: i32,
  nextHop: i32,
): void {
  let record = nextHopAt(nextHop);
  let reason = REASON_NONE;
  if (nextHopKind(record) == NEXT_HOP_KIND_SERVICE) {
    reason = isPending(source) ? REASON_POLICY_PENDING : serve(descriptor, worker, nowMs);
    nextHop = routeDestination(packetStart(descriptor));
    record = nextHopAt(nextHop);
  }
  const kind = nextHopKind(record);
  if (reason == REASON_NONE) reason = enforce(descriptor, worker, nowMs, source, nextHop);
  let mtu = 0;
  if (reason != REASON_NONE) {
    return reject(descriptor, worker, nowMs, DIRECTION_OUTBOUND, origin, reason, 0);
  }
  if (kind == NEXT_HOP_KIND_PEER) {
    const peer = peerAt(nextHopIndex(record));
    const costsHop = costsHopOut(descriptor, peerTunnel(peer));
    if (costsHop) reason = checkHop(descriptor);
    if (reason == REASON_NONE) reason = checkSize(descriptor, worker, peerMtu(peer));
    if (reason == REASON_NONE) {
      if (costsHop) spendHop(descriptor);
      clampMss(descriptor, worker, peerMtu(peer));
      return sendToPeer(descriptor, worker, nextHop, peer);
    }
    mtu = peerMtu(peer);
  } else if (kind == NEXT_HOP_KIND_OUTSIDE && origin != NEXT_HOP_NODE) {
    return deliver(descriptor, worker, DIRECTION_OUTBOUND, nextHop, DEVICE_NODE);
  } else {
    reason = deliverLocal(descriptor, worker, DIRECTION_OUTBOUND, origin, nextHop);
  }
  if (reason != REASON_NONE) {
    reject(descriptor, worker, nowMs, DIRECTION_OUTBOUND, origin, reason, mtu);
  }
}

/** Delivers a checked packet of a peer: to a pod or to the node itself, never to another peer. */
export function forwardInbound(
  descriptor: usize,
  worker: i32,
  nowMs: i32,
  origin: i32,
  nextHop: i32,
): void {
  const kind = nextHopKind(nextHopAt(nextHop));
  let reason = kind == NEXT_HOP_KIND_SERVICE
    ? REASON_SERVICE_PEER
    : enforce(descriptor, worker, nowMs, origin, nextHop);
  if (reason == REASON_NONE) {
    reason = kind == NEXT_HOP_KIND_PEER || kind == NEXT_HOP_KIND_OUTSIDE
      ? REASON_NOT_LOCAL
      : deliverLocal(descriptor, worker, DIRECTION_INBOUND, origin, nextHop);
  }
  if (reason == REASON_NONE) return;
  reject(descriptor, worker, nowMs, DIRECTION_INBOUND, origin, reason, 0);
}

/** Hands the packet to a pod or to the node. Returns why not, or REASON_NONE when done. */
function deliverLocal(
  descriptor: usize,
  worker: i32,
  direction: i32,
  origin: i32,
  nextHop: i32,
): i32 {
  const record = nextHopAt(nextHop);
  const kind = nextHopKind(record);
  if (kind == NEXT_HOP_KIND_ENDPOINT) {
    const costsHop = !isFromStack(descriptor);
    return deliverBehind(descriptor, worker, direction, nextHop, nextHopIndex(record), costsHop);
  }
  const isBack = origin == NEXT_HOP_NODE && packetTranslated(descriptor) == 0;
  if (kind == NEXT_HOP_KIND_NODE && !isBack) {
    const costsHop = costsHopToNode(descriptor);
    return deliverBehind(descriptor, worker, direction, nextHop, DEVICE_NODE, costsHop);
  }
  if (kind == NEXT_HOP_KIND_PROHIBIT) return REASON_PROHIBITED;
  return kind == NEXT_HOP_KIND_BLACKHOLE ? REASON_BLACKHOLE : REASON_NO_ROUTE;
}

/** Gives the packet to a local device, for the price of a hop or for none. */
function deliverBehind(
  descriptor: usize,
  worker: i32,
  direction: i32,
  nextHop: i32,
  index: i32,
  costsHop: bool,
): i32 {
  if (costsHop) {
    const reason = checkHop(descriptor);
    if (reason != REASON_NONE) return reason;
    spendHop(descriptor);
  }
  deliver(descriptor, worker, direction, nextHop, index);
  return REASON_NONE;
}

/** Is there a hop left to take off the TTL (RFC 1812 section 5.3.1)? */
function checkHop(descriptor: usize): i32 {
  return ipHopLimit(packetStart(descriptor)) > 1 ? REASON_NONE : REASON_HOP_LIMIT;
}

/** Takes the hop that checkHop() found. */
function spendHop(descriptor: usize): void {
  ipDecrementHopLimit(packetStart(descriptor));
}

/** Holds the inner packet, or each that it stands for, to the path's MTU. What may be fragmented
 * goes in outer fragments, or in its own (tunnel/fragment.ts); every IPv6 path takes 1,280 bytes,
 * by outer fragments if need be (RFC 8200 section 5). */
function checkSize(descriptor: usize, worker: i32, mtu: i32): i32 {
  const packet = packetStart(descriptor);
  const length = largestPacket(descriptor);
  if (length <= mtu) return REASON_NONE;
  const fits = isIpv4(packet) ? !ipDontFragment(packet) : length <= IPV6_MINIMUM_MTU;
  if (!fits) return REASON_TOO_BIG;
  const ofThem = packetSegments(descriptor) - (lastPacket(descriptor) <= mtu ? 1 : 0);
  countEvents(worker, EVENT_OUTER_FRAGMENTED, ofThem);
  return REASON_NONE;
}

/** Puts the packet into the peer's tunnel, or gives it to the node's own stack, which knows the way
 * to a peer without one. A super-packet goes whole where the kernel cuts it behind the tunnel
 * headers; otherwise it is cut here. */
function sendToPeer(descriptor: usize, worker: i32, nextHop: i32, peer: usize): void {
  if (peerTunnel(peer) == TUNNEL_DIRECT) {
    return deliver(descriptor, worker, DIRECTION_OUTBOUND, nextHop, DEVICE_NODE);
  }
  countSent(worker, nextHop, descriptor);
  if (!isSuperPacket(descriptor)) {
    if (needsChecksum(descriptor)) finishChecksum(descriptor);
    if (needsFragments(descriptor, peer)) sendFragments(descriptor, worker, peer);
    else encapsulate(descriptor, worker, peer);
  } else if (!frameTunnel(descriptor, worker, peer)) {
    segment(descriptor, worker, peer);
  }
}

/** Gives the packet to a local device as it takes it: behind an Ethernet header where that is a
 * TAP, whole and behind a vnet header where it has one. */
function deliver(
  descriptor: usize,
  worker: i32,
  direction: i32,
  nextHop: i32,
  index: i32,
): void {
  const device = deviceAt(index);
  const kind = device != 0 ? deviceKind(device) : DEVICE_KIND_NONE;
  if (kind == DEVICE_KIND_NONE) return drop(descriptor, worker, direction, REASON_DEVICE_UNKNOWN);
  countSent(worker, nextHop, descriptor);
  const link = kind == DEVICE_KIND_TAP ? ETHERNET_HEADER_SIZE : 0;
  const vnetSize = deviceVnetSize(device);
  if (vnetSize == 0 && isSuperPacket(descriptor)) {
    return deliverSegments(descriptor, worker, index, link);
  }
  if (vnetSize == 0 && needsChecksum(descriptor)) finishChecksum(descriptor);
  const size = vnetSize + link;
  // What came from a tunnel may have another datagram right in front of its tunnel headers.
  const isApart = size > packetRoom(descriptor);
  const header = isApart ? takeHeaders(worker, 1) : packetStart(descriptor) - <usize>size;
  if (vnetSize != 0) emitVnet(header, descriptor, link);
  if (link != 0) emitLink(header + <usize>vnetSize, descriptor, device);
  if (isApart) return sendBehind(descriptor, worker, index, header, size);
  prepend(descriptor, size);
  sendToDevice(descriptor, worker, index);
}

/** Cuts a super-packet for a device that takes only packets. */
function deliverSegments(descriptor: usize, worker: i32, index: i32, link: i32): void {
  const last = packetSegments(descriptor) - 1;
  const blocks = takeHeaders(worker, last + 1);
  if (link != 0) emitLink(blocks, descriptor, deviceAt(index));
  let pieces = cutSegments(descriptor, worker, blocks, link);
  for (let packet = 0; packet <= last; packet += 1) {
    const length = packet == last ? lastPacket(descriptor) : largestPacket(descriptor);
    addSend(worker, index, pieces, 2, link + length, 1);
    pieces += <usize>(2 * pieceSize());
  }
  setOutput(descriptor, index);
}

/** Writes the Ethernet header of a packet for a TAP. */
function emitLink(frame: usize, descriptor: usize, device: usize): void {
  const type = ipEtherType(packetStart(descriptor));
  emitEthernet(frame, device + DEVICE_MAC, device + DEVICE_GATEWAY_MAC, type);
}

/** Drops the packet, counts why, and tells its sender by ICMP where the RFCs have a message for it
 * and allow it. `mtu` is what REASON_TOO_BIG reports. A super-packet's sender hears of the first of
 * its packets, once. */
export function reject(
  descriptor: usize,
  worker: i32,
  nowMs: i32,
  direction: i32,
  origin: i32,
  reason: i32,
  mtu: i32,
): void {
  drop(descriptor, worker, direction, reason);
  if (packetTranslated(descriptor) != 0) undoTranslation(descriptor, worker);
  keepFirst(descriptor);
  if (!answerWithError(descriptor, worker, nowMs, origin, reason, mtu)) return;
  const record = nextHopAt(origin);
  const kind = nextHopKind(record);
  if (kind == NEXT_HOP_KIND_PEER) {
    sendToPeer(descriptor, worker, origin, peerAt(nextHopIndex(record)));
  } else {
    const index = kind == NEXT_HOP_KIND_ENDPOINT ? nextHopIndex(record) : DEVICE_NODE;
    deliver(descriptor, worker, direction, origin, index);
  }
}
