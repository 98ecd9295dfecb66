// IP in IP: RFC 2003 (IPv4 in IPv4), RFC 2473 (either in IPv6), RFC 4213 (IPv6 in IPv4). Nothing
// lies between the outer header and the packet. The host's raw socket makes the outer header, and
// puts fragments together; it has one protocol number, so what its packets carry is of one family.
// What it receives over IPv4 begins with the outer header, over IPv6 behind it (raw(7), ipv6(7)).

import { IPV4_HEADER_SIZE, IPV4_VERSION_IHL } from "../abi/headers";
import { DEVICE_IP6IP_IPV4, FAMILY_IPV4, REMOTE_FAMILY } from "../abi/layout";
import { REASON_IP_VERSION, REASON_NONE, REASON_TOO_SHORT } from "../abi/verdict";
import { inputDevice, outerSource, packetLength, packetStart, trimFront } from "../packet";
import { isIpv4 } from "../wire/ip";

/** Takes off the outer header, where the socket has left it on. False: it is not whole, and the
 * packet is as it came. */
export function takeOuterOff(descriptor: usize): bool {
  if (load<u16>(outerSource(descriptor), REMOTE_FAMILY) != FAMILY_IPV4) return true;
  if (packetLength(descriptor) < IPV4_HEADER_SIZE) return false;
  const size = (<i32>load<u8>(packetStart(descriptor), IPV4_VERSION_IHL) & 0x0f) << 2;
  if (size < IPV4_HEADER_SIZE || size > packetLength(descriptor)) return false;
  trimFront(descriptor, size);
  return true;
}

/** REASON_NONE where the packet, not yet checked, is of the family that its socket is for.
 * Precondition: takeOuterOff() is done. */
export function decapsulateIpip(descriptor: usize): i32 {
  if (packetLength(descriptor) < 1) return REASON_TOO_SHORT;
  const wantsIpv4 = inputDevice(descriptor) < DEVICE_IP6IP_IPV4;
  return isIpv4(packetStart(descriptor)) == wantsIpv4 ? REASON_NONE : REASON_IP_VERSION;
}
