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
 * version that the header says, otherwise it is as it came. As the kernel's devices do: a
 * destination that is ours or broadcast, a source that is not ours. `sent` is the header of what we
 * send to the peer. Precondition: the packet has that many bytes. */
export function decapsulateFrame(descriptor: usize, before: i32, sent: usize): i32 {
  const frame = packetStart(descriptor) + <usize>before;
  const ownMac = sent + ETHERNET_SOURCE;
  const destination = frame + ETHERNET_DESTINATION;
  if (!macEquals(destination, ownMac) && !macIsBroadcast(destination)) return REASON_WRONG_MAC;
  if (macEquals(frame + ETHERNET_SOURCE, ownMac)) return REASON_OWN_MAC;
  if (packetLength(descriptor) <= before + ETHERNET_HEADER_SIZE) return REASON_TOO_SHORT;
  return decapsulatePacket(descriptor, before + ETHERNET_HEADER_SIZE, etherType(frame));
}

/** Takes `before` bytes off; REASON_NONE leaves a packet of the version that `type` says, otherwise
 * it is as it came. Precondition: the packet has more bytes. */
export function decapsulatePacket(descriptor: usize, before: i32, type: i32): i32 {
  if (ipEtherType(packetStart(descriptor) + <usize>before) != type) {
    const known = type == ETHER_TYPE_IPV4 || type == ETHER_TYPE_IPV6;
    return known ? REASON_IP_VERSION : REASON_ETHER_TYPE;
  }
  trimFront(descriptor, before);
  return REASON_NONE;
}
