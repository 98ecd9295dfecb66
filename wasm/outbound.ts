// From a pod or the node towards a peer, another pod or the node. Functions stand in the order in
// which a packet meets them:
//
//   1. outbound()         which device, and does it speak Ethernet
//   2. receiveFrame()     Ethernet off; ARP and neighbour solicitation answered
//   3. checkPacket()      headers are sound (forward.ts, wire/ip.ts)
//   4. readVnet()         one packet or many, and is its checksum finished (offload/vnet.ts)
//   5. ownsSource()       the source address is the device's own; of the node's device it may be a
//                         peer's that needs no tunnel (inbound.ts)
//   6. forwardOutbound()  route, TTL, size; encapsulate, cut or deliver (forward.ts)
//   7. serve()            what is for a Service goes to a backend (service/serve.ts)
//   8. enforce()          its flow is known, or policy allows it (flow.ts)

import {
  ETHERNET_DESTINATION, ETHERNET_HEADER_SIZE, ETHER_TYPE_ARP, ETHER_TYPE_IPV4, ETHER_TYPE_IPV6,
} from "./abi/headers";
import {
  DEVICE_GATEWAY_MAC, DEVICE_KIND_NODE, DEVICE_KIND_TAP, NEXT_HOP_KIND_OUTSIDE, NEXT_HOP_KIND_PEER,
  NEXT_HOP_NODE,
} from "./abi/layout";
import {
  DIRECTION_OUTBOUND, EVENT_NEIGHBOUR_ANSWERED, REASON_ETHER_TYPE, REASON_IP_VERSION,
  REASON_MULTICAST, REASON_NEIGHBOUR, REASON_NONE, REASON_SPOOFED_SOURCE, REASON_TOO_SHORT,
  REASON_WRONG_MAC,
} from "./abi/verdict";
import { countEvent, countReceived, drop } from "./count";
import { checkPacket, forwardOutbound } from "./forward";
import { inboundDirect } from "./inbound";
import { answerArp, answerSolicitation, isSolicitation } from "./neighbour";
import { emitVnet, readVnet } from "./offload/vnet";
import { sendToDevice } from "./outbox";
import { inputDevice, packetLength, packetStart, prepend, trimFront } from "./packet";
import { deviceKind, deviceNextHop, deviceVnetSize, nextHopAt, nextHopKind } from "./table/record";
import { routeDestination, routeSource } from "./table/route";
import { etherType, macEquals, macIsGroup } from "./wire/ethernet";
import { ipEtherType } from "./wire/ip";

/** Takes a packet of a local device as far as it goes. */
export function outbound(descriptor: usize, worker: i32, nowMs: i32, device: usize): void {
  if (deviceKind(device) == DEVICE_KIND_TAP) {
    const reason = receiveFrame(descriptor, worker, device);
    if (reason == ANSWERED) return;
    if (reason != REASON_NONE) return drop(descriptor, worker, DIRECTION_OUTBOUND, reason);
  }
  let reason = checkPacket(descriptor);
  if (reason == REASON_NONE) reason = readVnet(descriptor, device);
  if (reason != REASON_NONE) return drop(descriptor, worker, DIRECTION_OUTBOUND, reason);
  const packet = packetStart(descriptor);
  const source = routeSource(packet);
  if (!ownsSource(device, source)) {
    if (isOfPeer(device, source)) return inboundDirect(descriptor, worker, nowMs, source);
    return drop(descriptor, worker, DIRECTION_OUTBOUND, REASON_SPOOFED_SOURCE);
  }
  const origin = deviceNextHop(device);
  countReceived(worker, origin, descriptor);
  forwardOutbound(descriptor, worker, nowMs, origin, source, routeDestination(packet));
}

const ANSWERED: i32 = -1;

/** Takes the Ethernet header off a TAP's frame: REASON_NONE leaves an IP packet, ANSWERED our
 * answer to a neighbour's question, ready to go. What came to a group address, whatever IP address
 * it is for, is not forwarded (RFC 1812 section 5.3.4). */
function receiveFrame(descriptor: usize, worker: i32, device: usize): i32 {
  if (packetLength(descriptor) <= ETHERNET_HEADER_SIZE) return REASON_TOO_SHORT;
  const frame = packetStart(descriptor);
  const destination = frame + ETHERNET_DESTINATION;
  const toGroup = macIsGroup(destination);
  if (!toGroup && !macEquals(destination, device + DEVICE_GATEWAY_MAC)) return REASON_WRONG_MAC;
  const type = etherType(frame);
  trimFront(descriptor, ETHERNET_HEADER_SIZE);
  const length = packetLength(descriptor);
  if (type == ETHER_TYPE_ARP) {
    return answerArp(descriptor, device, length)
      ? answered(descriptor, worker, device)
      : REASON_NEIGHBOUR;
  }
  if (type != ETHER_TYPE_IPV4 && type != ETHER_TYPE_IPV6) return REASON_ETHER_TYPE;
  const packet = packetStart(descriptor);
  if (type == ETHER_TYPE_IPV6 && isSolicitation(packet, length)) {
    return answerSolicitation(descriptor, device)
      ? answered(descriptor, worker, device)
      : REASON_NEIGHBOUR;
  }
  if (toGroup) return REASON_MULTICAST;
  return ipEtherType(packet) == type ? REASON_NONE : REASON_IP_VERSION;
}

function answered(descriptor: usize, worker: i32, device: usize): i32 {
  const vnetSize = deviceVnetSize(device);
  if (vnetSize != 0) emitVnet(prepend(descriptor, vnetSize), descriptor, ETHERNET_HEADER_SIZE);
  sendToDevice(descriptor, worker, inputDevice(descriptor));
  countEvent(worker, EVENT_NEIGHBOUR_ANSWERED);
  return ANSWERED;
}

/** True where the source's next hop is the device itself. The node also speaks for what lies
 * outside the cluster: it may be a router. */
function ownsSource(device: usize, source: i32): bool {
  if (deviceKind(device) != DEVICE_KIND_NODE) return source == deviceNextHop(device);
  return source == NEXT_HOP_NODE || nextHopKind(nextHopAt(source)) == NEXT_HOP_KIND_OUTSIDE;
}

/** True where the node's own stack hands over what a peer has sent. */
function isOfPeer(device: usize, source: i32): bool {
  return deviceKind(device) == DEVICE_KIND_NODE
    && nextHopKind(nextHopAt(source)) == NEXT_HOP_KIND_PEER;
}
