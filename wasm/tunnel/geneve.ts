// Geneve, RFC 8926, with an Ethernet frame behind it, as the kernel's geneve device and Open
// vSwitch send, or with an IP packet (a kernel device made with innerprotoinherit), as the peer's
// record says. We send no options, and understand none: those that need not be understood are
// skipped.

import {
  ETHERNET_HEADER_SIZE, ETHER_TYPE_ETHERNET, ETHER_TYPE_IPV4, ETHER_TYPE_IPV6, GENEVE_HEADER_SIZE,
} from "../abi/headers";
import { PEER_HEADER } from "../abi/layout";
import {
  REASON_ETHER_TYPE, REASON_TOO_SHORT, REASON_TUNNEL_HEADER,
  REASON_TUNNEL_OPTION, REASON_WRONG_VNI,
} from "../abi/verdict";
import { packetLength, packetStart } from "../packet";
import { peerHeaderLength, peerVni } from "../table/record";
import {
  checkGeneve, geneveIsCritical, geneveLength, geneveProtocol, geneveVni,
} from "../wire/geneve";
import { decapsulateFrame, decapsulatePacket } from "./inner-frame";

/** Takes the headers off and leaves an IP packet not yet checked, with REASON_NONE; otherwise the
 * packet is as it came. */
export function decapsulateGeneve(descriptor: usize, peer: usize): i32 {
  const header = packetStart(descriptor);
  const length = packetLength(descriptor);
  if (length < GENEVE_HEADER_SIZE) return REASON_TOO_SHORT;
  if (!checkGeneve(header)) return REASON_TUNNEL_HEADER;
  if (geneveIsCritical(header)) return REASON_TUNNEL_OPTION;
  if (geneveVni(header) != peerVni(peer)) return REASON_WRONG_VNI;
  const size = geneveLength(header);
  const type = geneveProtocol(header);
  if (peerHeaderLength(peer) == GENEVE_HEADER_SIZE) {
    if (type != ETHER_TYPE_IPV4 && type != ETHER_TYPE_IPV6) return REASON_ETHER_TYPE;
    return length > size ? decapsulatePacket(descriptor, size, type) : REASON_TOO_SHORT;
  }
  if (type != ETHER_TYPE_ETHERNET) return REASON_ETHER_TYPE;
  if (length < size + ETHERNET_HEADER_SIZE) return REASON_TOO_SHORT;
  return decapsulateFrame(descriptor, size, peer + PEER_HEADER + GENEVE_HEADER_SIZE);
}
