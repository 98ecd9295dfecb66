// VXLAN, RFC 7348, as flannel and the kernel's vxlan device speak it. The host's UDP socket makes
// the outer IP and UDP headers; the core makes the VXLAN and inner Ethernet headers, which are
// ready-made in the peer's record but for the EtherType.

import {
  ETHERNET_DESTINATION, ETHERNET_HEADER_SIZE, ETHERNET_SOURCE, ETHER_TYPE_IPV4, ETHER_TYPE_IPV6,
  VXLAN_HEADER_SIZE,
} from "../abi/headers";
import { PEER_HEADER, PEER_HEADER_SIZE } from "../abi/layout";
import {
  REASON_ETHER_TYPE, REASON_IP_VERSION, REASON_NONE, REASON_OWN_MAC, REASON_TOO_SHORT,
  REASON_TUNNEL_HEADER, REASON_WRONG_MAC, REASON_WRONG_VNI,
} from "../abi/verdict";
import { cutSegments } from "../offload/segment";
import { largestPacket, lastPacket } from "../offload/vnet";
import { addDatagram, addDatagrams, addPiece, takeHeaders } from "../outbox";
import {
  packetLength, packetSegments, packetStart, prepend, setOutput, trimFront,
} from "../packet";
import { peerDevice, peerMtu, peerVni } from "../table/record";
import { etherType, macEquals, macIsBroadcast, setEtherType } from "../wire/ethernet";
import { flowHash, ipEcn, ipEtherType } from "../wire/ip";
import { checkVxlan, vxlanVni } from "../wire/vxlan";

if (PEER_HEADER_SIZE != VXLAN_HEADER_SIZE + ETHERNET_HEADER_SIZE) {
  ERROR("PEER_HEADER_SIZE in abi/layout.ts is not the VXLAN and Ethernet headers' size");
}

/** Puts the peer's headers in front of the packet and addresses it to the peer. */
export function encapsulateVxlan(descriptor: usize, worker: i32, peer: usize): void {
  const inner = packetStart(descriptor);
  const hash = flowHash(inner);
  const type = ipEtherType(inner);
  const tos = ipEcn(inner);
  const joins = packetLength(descriptor) <= peerMtu(peer);
  emitVxlan(prepend(descriptor, PEER_HEADER_SIZE), peer, type);
  setOutput(descriptor, peerDevice(peer));
  addPiece(worker, packetStart(descriptor), packetLength(descriptor));
  addDatagram(worker, peer, 1, packetLength(descriptor), hash, tos, joins);
}

/** Cuts a super-packet and addresses its packets to the peer, each behind the peer's headers. */
export function segmentVxlan(descriptor: usize, worker: i32, peer: usize): void {
  const inner = packetStart(descriptor);
  const count = packetSegments(descriptor);
  const largest = largestPacket(descriptor);
  const blocks = takeHeaders(worker, count);
  emitVxlan(blocks, peer, ipEtherType(inner));
  cutSegments(descriptor, worker, blocks, PEER_HEADER_SIZE);
  addDatagrams(worker, peer, count, 2, PEER_HEADER_SIZE + largest,
    PEER_HEADER_SIZE + lastPacket(descriptor), flowHash(inner), ipEcn(inner),
    largest <= peerMtu(peer));
  setOutput(descriptor, peerDevice(peer));
}

/** Writes the peer's VXLAN and Ethernet headers, PEER_HEADER_SIZE bytes. */
export function emitVxlan(header: usize, peer: usize, type: i32): void {
  v128.store(header, v128.load(peer, PEER_HEADER));
  store<u32>(header, load<u32>(peer + 16, PEER_HEADER), 16);
  setEtherType(header + VXLAN_HEADER_SIZE, type);
}

/** Takes the headers off and leaves an IP packet not yet checked, with REASON_NONE; otherwise the
 * packet is as it came. The rules are those of the kernel's device: exact flags, our VNI, a
 * destination MAC that is ours or broadcast, a source MAC that is not ours. */
export function decapsulateVxlan(descriptor: usize, peer: usize): i32 {
  const header = packetStart(descriptor);
  if (packetLength(descriptor) < PEER_HEADER_SIZE) return REASON_TOO_SHORT;
  if (!checkVxlan(header)) return REASON_TUNNEL_HEADER;
  if (vxlanVni(header) != peerVni(peer)) return REASON_WRONG_VNI;
  const frame = header + VXLAN_HEADER_SIZE;
  const ownMac = peer + PEER_HEADER + VXLAN_HEADER_SIZE + ETHERNET_SOURCE;
  const destination = frame + ETHERNET_DESTINATION;
  if (!macEquals(destination, ownMac) && !macIsBroadcast(destination)) return REASON_WRONG_MAC;
  if (macEquals(frame + ETHERNET_SOURCE, ownMac)) return REASON_OWN_MAC;
  const type = etherType(frame);
  trimFront(descriptor, PEER_HEADER_SIZE);
  if (packetLength(descriptor) < 1) return REASON_TOO_SHORT;
  if (ipEtherType(packetStart(descriptor)) == type) return REASON_NONE;
  const known = type == ETHER_TYPE_IPV4 || type == ETHER_TYPE_IPV6;
  return known ? REASON_IP_VERSION : REASON_ETHER_TYPE;
}
