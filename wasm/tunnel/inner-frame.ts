// The Ethernet frame inside VXLAN and Geneve. Both ends have a MAC of their own, which says nothing
// about pods: the frame is for us, from somebody else, and carries IP.

import {
  ETHERNET_DESTINATION, ETHERNET_HEADER_SIZE, ETHERNET_SOURCE, ETHER_TYPE_IPV4, ETHER_TYPE_IPV6,
} from "../abi/headers";
import {
  REASON_ETHER_TYPE, REASON_IP_VERSION, REASON_NONE, REASON_OWN_MAC, REASON_TOO_SHORT,
  REASON_WRONG_MAC,
} from "../abi/verdict";
import { packetLength, packetStart, trimFront } from "../packet";
import { etherType, macEquals, macIsBroadcast } from "../wire/ethernet";
import { ipEtherType } from "../wire/ip";

/** Takes `before` bytes and the Ethernet header behind them off; REASON_NONE leaves a packet of the
 * version that the header says. As the kernel's devices do: a destination that is ours or
 * broadcast, a source that is not ours. `sent` is the header of what we send to the peer.
 * Precondition: the packet has that many bytes. */
export function decapsulateFrame(descriptor: usize, before: i32, sent: usize): i32 {
  const frame = packetStart(descriptor) + <usize>before;
  const ownMac = sent + ETHERNET_SOURCE;
  const destination = frame + ETHERNET_DESTINATION;
  if (!macEquals(destination, ownMac) && !macIsBroadcast(destination)) return REASON_WRONG_MAC;
  if (macEquals(frame + ETHERNET_SOURCE, ownMac)) return REASON_OWN_MAC;
  const type = etherType(frame);
  trimFront(descriptor, before + ETHERNET_HEADER_SIZE);
  if (packetLength(descriptor) < 1) return REASON_TOO_SHORT;
  if (ipEtherType(packetStart(descriptor)) == type) return REASON_NONE;
  const known = type == ETHER_TYPE_IPV4 || type == ETHER_TYPE_IPV6;
  return known ? REASON_IP_VERSION : REASON_ETHER_TYPE;
}
