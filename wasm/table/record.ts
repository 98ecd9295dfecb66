// Next hops, peers and devices: arrays of small records, found by index. Readers only; the engine
// writes them (engine/tables/), a peer or next hop by one atomic store of the next hop's word.

import { ETHER_TYPE_IPV4 } from "../abi/headers";
import {
  DEVICE_CLOSED, DEVICE_EGRESS, DEVICE_INGRESS, DEVICE_KIND, DEVICE_NEXT_HOP, DEVICE_STRIDE,
  DEVICE_TUNNEL, DEVICE_VNET_SIZE, DIRECTORY_DEVICES, DIRECTORY_DEVICE_LIMIT, DIRECTORY_NEXT_HOPS,
  DIRECTORY_PEERS, NEXT_HOP_INDEX_MASK, NEXT_HOP_KIND_ENDPOINT, NEXT_HOP_KIND_SHIFT,
  NEXT_HOP_STRIDE, PEER_DEVICE, PEER_DEVICE_IPV6, PEER_HEADER_LENGTH, PEER_MTU, PEER_PREVIOUS,
  PEER_STRIDE, PEER_TUNNEL, PEER_VNI,
} from "../abi/layout";
import { directory } from "../packet";

/** The record of a next hop id: kind and index in one word. */
export function nextHopAt(id: i32): i32 {
  return atomic.load<i32>(<usize>(directory(DIRECTORY_NEXT_HOPS) + (id * NEXT_HOP_STRIDE)));
}

export function nextHopKind(record: i32): i32 {
  return record >>> NEXT_HOP_KIND_SHIFT;
}

export function nextHopIndex(record: i32): i32 {
  return record & NEXT_HOP_INDEX_MASK;
}

export function peerAt(index: i32): usize {
  return <usize>(directory(DIRECTORY_PEERS) + (index * PEER_STRIDE));
}

/** Largest inner packet the path to the peer takes whole. */
export function peerMtu(peer: usize): i32 {
  return load<i32>(peer, PEER_MTU);
}

export function peerVni(peer: usize): i32 {
  return load<i32>(peer, PEER_VNI);
}

/** TUNNEL_*: how the peer is reached. */
export function peerTunnel(peer: usize): i32 {
  return load<u8>(peer, PEER_TUNNEL);
}

/** Bytes of the headers that the core puts in front of packets for the peer. */
export function peerHeaderLength(peer: usize): i32 {
  return load<u8>(peer, PEER_HEADER_LENGTH);
}

/** The device by which packets of an EtherType reach the peer. */
export function peerDevice(peer: usize, type: i32): i32 {
  return type == ETHER_TYPE_IPV4 ? load<u16>(peer, PEER_DEVICE) : load<u16>(peer, PEER_DEVICE_IPV6);
}

/** The record that the peer had as another kind of tunnel; 0 for none that is still good. */
export function peerPrevious(peer: usize): usize {
  return atomic.load<u32>(peer, PEER_PREVIOUS);
}

/** Address of a device's record, or 0 for an index beyond the table. */
export function deviceAt(index: i32): usize {
  if (index >= directory(DIRECTORY_DEVICE_LIMIT)) return 0;
  return <usize>(directory(DIRECTORY_DEVICES) + (index * DEVICE_STRIDE));
}

/** The device of a local endpoint's next hop, 0 of any other. */
export function endpointDevice(record: i32): usize {
  return nextHopKind(record) == NEXT_HOP_KIND_ENDPOINT ? deviceAt(nextHopIndex(record)) : 0;
}

export function deviceKind(device: usize): i32 {
  return load<u8>(device, DEVICE_KIND);
}

/** Bytes of vnet header before each of the device's packets; 0 where it takes none. */
export function deviceVnetSize(device: usize): i32 {
  return load<u8>(device, DEVICE_VNET_SIZE);
}

/** TUNNEL_*: what comes by an underlay device. */
export function deviceTunnel(device: usize): i32 {
  return load<u8>(device, DEVICE_TUNNEL);
}

/** The next hop id that leads to the device. */
export function deviceNextHop(device: usize): i32 {
  return load<u16>(device, DEVICE_NEXT_HOP);
}

/** Address of the rule set that judges what the device sends; 0 allows it. */
export function deviceEgress(device: usize): usize {
  return atomic.load<u32>(device, DEVICE_EGRESS);
}

/** Address of the rule set that judges what the device receives; 0 allows it. */
export function deviceIngress(device: usize): usize {
  return atomic.load<u32>(device, DEVICE_INGRESS);
}

/** True while the policy of the device's pod is not known. */
export function deviceIsClosed(device: usize): bool {
  return atomic.load<u32>(device, DEVICE_CLOSED) != 0;
}
