// Whole frames for the kernel to cut: a super-packet for a peer behind tunnel, UDP, IP and Ethernet
// headers, and a vnet header that says where they are (linux/virtio_net.h, struct
// virtio_net_hdr_v1_hash_tunnel). The host writes it to a TAP towards the node's own stack, which
// forwards it to the underlay and cuts it behind the tunnel headers.
//
// The outer headers are those of our sockets' datagrams: from the node's own address, and from the
// port of the socket that the flow's other packets use.

import {
  ETHERNET_HEADER_SIZE, ETHER_TYPE_IPV4, ETHER_TYPE_IPV6, IPV4_ADDRESS_SIZE, IPV4_CHECKSUM,
  IPV4_FLAGS_OFFSET, IPV4_HEADER_SIZE, IPV4_IDENTIFICATION, IPV6_ADDRESS_SIZE, IPV6_HEADER_SIZE,
  IPV6_VERSION_CLASS, PROTOCOL_UDP, UDP_CHECKSUM, UDP_HEADER_SIZE, VNET_FLAGS, VNET_GSO_TYPE,
  VNET_GSO_UDP_TUNNEL_IPV4, VNET_GSO_UDP_TUNNEL_IPV6, VNET_HEADER_SIZE, VNET_INNER_NETWORK,
  VNET_NEEDS_CHECKSUM, VNET_OUTER_TRANSPORT, VNET_TUNNEL_CHECKSUM, VNET_TUNNEL_HEADER_SIZE,
} from "../abi/headers";
import {
  DEVICE_GATEWAY_MAC, DEVICE_MAC, DIRECTORY_SENDER_COUNT, DIRECTORY_SENDER_PORTS, DIRECTORY_START,
  DIRECTORY_UNDERLAY_IPV4, DIRECTORY_UNDERLAY_IPV6, FAMILY_IPV4, PEER_REMOTE,
  REMOTE_FAMILY, REMOTE_IPV4, REMOTE_IPV6, REMOTE_PORT, SENDER_LIMIT,
} from "../abi/layout";
import { checksum, checksumAdd, checksumFold } from "../checksum";
import { emitVnet, largestPacket } from "../offload/vnet";
import { addFrame } from "../outbox";
import { directory, packetLength, packetStart, prepend } from "../packet";
import {
  deviceAt, deviceVnetSize, peerDevice, peerHeaderLength, peerMtu,
} from "../table/record";
import { emitEthernet } from "../wire/ethernet";
import { ipEcn, flowHash, ipEtherType } from "../wire/ip";
import { emitIpv4 } from "../wire/ipv4";
import { emitIpv6 } from "../wire/ipv6";
import { emitUdp } from "../wire/udp";
import { emitTunnel } from "./tunnel";

/** What our sockets' datagrams have, and one for the node's own stack to take off. */
const TTL: i32 = 65;
const IP_LENGTH_MAX: i32 = 65535;

/** Sends a super-packet to the peer as one frame. False: there is no TAP for it, what it needs is
 * not known, or it does not fit; then it is to be cut, and is as it was. */
export function frameTunnel(descriptor: usize, worker: i32, peer: usize): bool {
  const packet = packetStart(descriptor);
  const type = ipEtherType(packet);
  const index = peerDevice(peer, type);
  const device = deviceAt(index);
  if (deviceVnetSize(device) != VNET_TUNNEL_HEADER_SIZE) return false;
  const ipv4 = load<u16>(peer + PEER_REMOTE, REMOTE_FAMILY) == FAMILY_IPV4;
  const ipSize = ipv4 ? IPV4_HEADER_SIZE : IPV6_HEADER_SIZE;
  const tunnel = peerHeaderLength(peer);
  const outer = ipSize + UDP_HEADER_SIZE + tunnel;
  if (packetLength(descriptor) + outer > IP_LENGTH_MAX) return false;
  if (largestPacket(descriptor) > peerMtu(peer) || !knowsSender(ipv4)) return false;
  const hash = flowHash(packet);
  const tos = ipEcn(packet);
  const frame = packet - <usize>(ETHERNET_HEADER_SIZE + outer);
  emitTunnelVnet(frame - VNET_TUNNEL_HEADER_SIZE, descriptor, ipSize, outer, ipv4);
  emitEthernet(frame, device + DEVICE_MAC, device + DEVICE_GATEWAY_MAC,
    ipv4 ? ETHER_TYPE_IPV4 : ETHER_TYPE_IPV6);
  emitTunnel(packet - <usize>tunnel, peer, type);
  const udp = packet - <usize>(UDP_HEADER_SIZE + tunnel);
  const length = packetLength(descriptor) + UDP_HEADER_SIZE + tunnel;
  emitUdp(udp, senderPort(ipv4, hash), load<u16>(peer + PEER_REMOTE, REMOTE_PORT), length);
  if (ipv4) emitOuterIpv4(udp - IPV4_HEADER_SIZE, length, tos, hash, peer);
  else emitOuterIpv6(udp - IPV6_HEADER_SIZE, length, tos, peer);
  const addresses = ipv4 ? IPV4_ADDRESS_SIZE * 2 : IPV6_ADDRESS_SIZE * 2;
  emitPseudoSum(udp, udp - <usize>addresses, addresses, length);
  prepend(descriptor, VNET_TUNNEL_HEADER_SIZE + ETHERNET_HEADER_SIZE + outer);
  addFrame(descriptor, worker, peer, index, hash, tos);
  return true;
}

/** True where the node's own address of the family is known, and a socket's port to send from. */
function knowsSender(ipv4: bool): bool {
  return directory(DIRECTORY_SENDER_COUNT) != 0 && load<u32>(ownAddress(ipv4)) != 0;
}

function ownAddress(ipv4: bool): usize {
  return DIRECTORY_START + (ipv4 ? DIRECTORY_UNDERLAY_IPV4 : DIRECTORY_UNDERLAY_IPV6);
}

/** Port of the socket that the flow's datagrams leave by, as it lies in a header. */
function senderPort(ipv4: bool, flowHash: u32): u16 {
  const sender = flowHash % <u32>directory(DIRECTORY_SENDER_COUNT);
  const index = <i32>sender + (ipv4 ? 0 : SENDER_LIMIT);
  return bswap<u16>(load<u16>(<usize>(directory(DIRECTORY_SENDER_PORTS) + (index * 2))));
}

/** All but the offsets is what the packet's own vnet header would have, counted from the frame. */
function emitTunnelVnet(
  header: usize,
  descriptor: usize,
  ipSize: i32,
  outer: i32,
  ipv4: bool,
): void {
  memory.fill(header + VNET_HEADER_SIZE, 0, VNET_TUNNEL_HEADER_SIZE - VNET_HEADER_SIZE);
  emitVnet(header, descriptor, ETHERNET_HEADER_SIZE + outer);
  const type = ipv4 ? VNET_GSO_UDP_TUNNEL_IPV4 : VNET_GSO_UDP_TUNNEL_IPV6;
  store<u8>(header, load<u8>(header, VNET_GSO_TYPE) | <u8>type, VNET_GSO_TYPE);
  store<u16>(header, <u16>(ETHERNET_HEADER_SIZE + ipSize), VNET_OUTER_TRANSPORT);
  store<u16>(header, <u16>(ETHERNET_HEADER_SIZE + outer), VNET_INNER_NETWORK);
  store<u8>(header, VNET_NEEDS_CHECKSUM | VNET_TUNNEL_CHECKSUM, VNET_FLAGS);
}

/** DF is clear, as our sockets have it. The kernel counts identifications on from the flow's. */
function emitOuterIpv4(header: usize, length: i32, tos: i32, flowHash: u32, peer: usize): void {
  const destination = peer + PEER_REMOTE + REMOTE_IPV4;
  const total = IPV4_HEADER_SIZE + length;
  emitIpv4(header, total, tos, TTL, PROTOCOL_UDP, ownAddress(true), destination);
  store<u16>(header, <u16>flowHash, IPV4_IDENTIFICATION);
  store<u16>(header, 0, IPV4_FLAGS_OFFSET);
  store<u16>(header, 0, IPV4_CHECKSUM);
  store<u16>(header, checksum(header, IPV4_HEADER_SIZE), IPV4_CHECKSUM);
}

function emitOuterIpv6(header: usize, length: i32, tos: i32, peer: usize): void {
  const destination = peer + PEER_REMOTE + REMOTE_IPV6;
  emitIpv6(header, length, PROTOCOL_UDP, TTL, ownAddress(false), destination);
  store<u8>(header, <u8>(tos << 4), IPV6_VERSION_CLASS + 1);
}

/** Outer UDP has a checksum: over IPv6 it must (RFC 8200 section 8.1), and the receiving kernel
 * joins datagrams of either family only if they have one (net/ipv4/udp_offload.c). Its field gets
 * the sum of the pseudo-header with the length of the whole: the kernel goes on from there for each
 * datagram that it cuts. The addresses end where the UDP header begins. */
function emitPseudoSum(udp: usize, addresses: usize, size: i32, length: i32): void {
  const fields = <u64>bswap<u16>(<u16>length) + (<u64>PROTOCOL_UDP << 8);
  store<u16>(udp, ~checksumFold(checksumAdd(fields, addresses, size)), UDP_CHECKSUM);
}
