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

/** The peer's record for packets of a kind of tunnel: its own, or the one that it had until lately;
 * 0 where the peer has nothing to do with that kind. */
export function recordFor(peer: usize, tunnel: i32): usize {
  if (peerTunnel(peer) == tunnel) return peer;
  const previous = peerPrevious(peer);
  return previous != 0 && peerTunnel(previous) == tunnel ? previous : 0;
}

/** Takes the headers of a kind of tunnel off and leaves an IP packet not yet checked, with
 * REASON_NONE; otherwise the packet is as it came. */
export function decapsulate(descriptor: usize, peer: usize, tunnel: i32): i32 {
  const record = recordFor(peer, tunnel);
  if (record == 0) return REASON_WRONG_TUNNEL;
  if (tunnel == TUNNEL_VXLAN) return decapsulateVxlan(descriptor, record);
  if (tunnel == TUNNEL_GENEVE) return decapsulateGeneve(descriptor, record);
  return tunnel == TUNNEL_IPIP ? decapsulateIpip(descriptor) : REASON_NONE;
}
