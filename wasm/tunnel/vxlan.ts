// VXLAN, RFC 7348, as flannel, Calico and the kernel's vxlan device speak it: VXLAN and Ethernet
// headers in front of the packet.

import { ETHERNET_HEADER_SIZE, VXLAN_HEADER_SIZE } from "../abi/headers";
import { PEER_HEADER, PEER_HEADER_SIZE } from "../abi/layout";
import {
  REASON_NONE, REASON_TOO_SHORT, REASON_TUNNEL_HEADER, REASON_WRONG_VNI,
} from "../abi/verdict";
import { packetLength, packetStart } from "../packet";
import { peerVni } from "../table/record";
import { checkVxlan, vxlanVni } from "../wire/vxlan";
import { decapsulateFrame } from "./inner-frame";

if (PEER_HEADER_SIZE != VXLAN_HEADER_SIZE + ETHERNET_HEADER_SIZE) {
  ERROR("PEER_HEADER_SIZE in abi/layout.ts is not the VXLAN and Ethernet headers' size");
}

/** Takes the headers off and leaves an IP packet not yet checked, with REASON_NONE; otherwise the
 * packet is as it came. The rules are those of the kernel's device: exact flags, our VNI. */
export function decapsulateVxlan(descriptor: usize, peer: usize): i32 {
  const header = packetStart(descriptor);
  if (packetLength(descriptor) < PEER_HEADER_SIZE) return REASON_TOO_SHORT;
  if (!checkVxlan(header)) return REASON_TUNNEL_HEADER;
  if (vxlanVni(header) != peerVni(peer)) return REASON_WRONG_VNI;
  return decapsulateFrame(descriptor, VXLAN_HEADER_SIZE, peer + PEER_HEADER + VXLAN_HEADER_SIZE);
}
