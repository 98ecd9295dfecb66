// Into a tunnel and out of it, whichever kind it is. What the core puts in front of a packet is
// ready-made in the peer's record but for the type of what follows; the outer IP header, and UDP
// where the tunnel has that, is made by the host's socket. What comes from a tunnel has been
// through the socket of its kind, so its device says what it is.

import { ETHERNET_HEADER_SIZE, GENEVE_HEADER_SIZE, GENEVE_PROTOCOL } from "../abi/headers";
import {
  PEER_HEADER, PEER_HEADER_SIZE, TUNNEL_GENEVE, TUNNEL_IPIP, TUNNEL_VXLAN,
} from "../abi/layout";
import { REASON_NONE, REASON_WRONG_TUNNEL } from "../abi/verdict";
import { cutSegments } from "../offload/segment";
import { largestPacket, lastPacket } from "../offload/vnet";
import { addDatagram, addDatagrams, addPiece, takeHeaders } from "../outbox";
import {
  packetLength, packetSegments, packetStart, prepend, setOutput,
} from "../packet";
import { peerDevice, peerHeaderLength, peerMtu, peerPrevious, peerTunnel } from "../table/record";
import { setEtherType } from "../wire/ethernet";
import { flowHash, ipEcn, ipEtherType } from "../wire/ip";
import { decapsulateGeneve } from "./geneve";
import { decapsulateIpip } from "./ipip";
import { decapsulateVxlan } from "./vxlan";

/** Puts the peer's headers in front of the packet and addresses it to the peer. */
export function encapsulate(descriptor: usize, worker: i32, peer: usize): void {
  const inner = packetStart(descriptor);
  const hash = flowHash(inner);
  const type = ipEtherType(inner);
  const tos = ipEcn(inner);
  const joins = joinsDatagrams(peer, packetLength(descriptor));
  const device = peerDevice(peer, type);
  emitTunnel(prepend(descriptor, peerHeaderLength(peer)), peer, type);
  setOutput(descriptor, device);
  addPiece(worker, packetStart(descriptor), packetLength(descriptor));
  addDatagram(worker, peer, device, 1, packetLength(descriptor), hash, tos, joins);
}

/** Cuts a super-packet and addresses its packets to the peer, each behind the peer's headers. */
export function segment(descriptor: usize, worker: i32, peer: usize): void {
  const inner = packetStart(descriptor);
  const count = packetSegments(descriptor);
  const largest = largestPacket(descriptor);
  const type = ipEtherType(inner);
  const device = peerDevice(peer, type);
  const size = peerHeaderLength(peer);
  const blocks = takeHeaders(worker, count);
  emitTunnel(blocks, peer, type);
  cutSegments(descriptor, worker, blocks, size);
  addDatagrams(worker, peer, device, count, 2, size + largest, size + lastPacket(descriptor),
    flowHash(inner), ipEcn(inner), joinsDatagrams(peer, largest));
  setOutput(descriptor, device);
}

/** True where the kernel can cut what is sent into datagrams for the peer: of UDP, unless it must
 * fragment them. */
function joinsDatagrams(peer: usize, largest: i32): bool {
  return largest <= peerMtu(peer) && peerTunnel(peer) != TUNNEL_IPIP;
}

/** Writes the peer's headers, peerHeaderLength() bytes, in front of a packet of an EtherType: those
 * that end in an Ethernet header, Geneve's alone, or none. */
export function emitTunnel(header: usize, peer: usize, type: i32): void {
  const size = peerHeaderLength(peer);
  if (size == PEER_HEADER_SIZE) {
    v128.store(header, v128.load(peer, PEER_HEADER));
    store<u32>(header, load<u32>(peer + 16, PEER_HEADER), 16);
    setEtherType(header + <usize>(PEER_HEADER_SIZE - ETHERNET_HEADER_SIZE), type);
  } else if (size == GENEVE_HEADER_SIZE) {
    store<u64>(header, load<u64>(peer, PEER_HEADER));
    store<u16>(header, bswap<u16>(<u16>type), GENEVE_PROTOCOL);
  }
}

/** True where packets of a kind of tunnel are taken from the peer: of its own, or of the one that
 * it had until lately. */
export function takesTunnel(peer: usize, tunnel: i32): bool {
  if (peerTunnel(peer) == tunnel) return true;
  const previous = peerPrevious(peer);
  return previous != 0 && peerTunnel(previous) == tunnel;
}

/** Takes the headers of a kind of tunnel off and leaves an IP packet not yet checked, with
 * REASON_NONE; otherwise the packet is as it came. What is not as the peer's tunnel is now may be
 * as it was until lately. */
export function decapsulate(descriptor: usize, peer: usize, tunnel: i32): i32 {
  const reason = peerTunnel(peer) == tunnel
    ? decapsulateBy(descriptor, peer, tunnel)
    : REASON_WRONG_TUNNEL;
  if (reason == REASON_NONE) return REASON_NONE;
  const previous = peerPrevious(peer);
  if (previous == 0 || peerTunnel(previous) != tunnel) return reason;
  return decapsulateBy(descriptor, previous, tunnel);
}

/** The same by one record. */
function decapsulateBy(descriptor: usize, record: usize, tunnel: i32): i32 {
  if (tunnel == TUNNEL_VXLAN) return decapsulateVxlan(descriptor, record);
  if (tunnel == TUNNEL_GENEVE) return decapsulateGeneve(descriptor, record);
  return tunnel == TUNNEL_IPIP ? decapsulateIpip(descriptor) : REASON_NONE;
}
