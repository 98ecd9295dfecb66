// What a TAP asks beside sending packets: ARP (RFC 826) and neighbour solicitation (RFC 4861). The
// pod's Ethernet has one neighbour, us, who answers for every address but the pod's own, so that
// duplicate address detection (RFC 5227, RFC 4862 section 5.4) finds nobody.

import {
  ARP_HARDWARE_ETHERNET, ARP_HARDWARE_SIZE, ARP_HARDWARE_TYPE, ARP_OPERATION, ARP_OPERATION_REPLY,
  ARP_OPERATION_REQUEST, ARP_PROTOCOL_SIZE, ARP_PROTOCOL_TYPE, ARP_SENDER_IPV4, ARP_SENDER_MAC,
  ARP_SIZE, ARP_TARGET_IPV4, ARP_TARGET_MAC, ETHERNET_HEADER_SIZE, ETHER_TYPE_ARP, ETHER_TYPE_IPV4,
  ETHER_TYPE_IPV6, ICMP_CHECKSUM, ICMP_CODE, ICMP_TYPE, IPV4_ADDRESS_SIZE, IPV6_DESTINATION,
  IPV6_HEADER_SIZE, IPV6_SOURCE, ND_ADVERTISEMENT, ND_FLAGS, ND_FLAGS_ANSWER, ND_HOP_LIMIT,
  ND_OPTION_SIZE, ND_OPTION_TARGET_MAC, ND_SIZE, ND_SOLICITATION, ND_TARGET, PROTOCOL_ICMPV6,
} from "./abi/headers";
import { DEVICE_GATEWAY_MAC, DEVICE_MAC } from "./abi/layout";
import { packetStart, prepend, trimTo } from "./packet";
import { deviceNextHop } from "./table/record";
import { routeIpv4, routeIpv6 } from "./table/route";
import { copyMac, emitEthernet } from "./wire/ethernet";
import { icmpv6Checksum } from "./wire/icmp";
import {
  checkIpv6, copyIpv6, emitIpv6, ipv6HopLimit, ipv6NextHeader, ipv6SourceHi, ipv6TotalLength,
} from "./wire/ipv6";

/** Turns an ARP request of the pod, Ethernet header already off, into our reply with an Ethernet
 * header. False: it is not to be answered, and is as it came. */
export function answerArp(descriptor: usize, device: usize, length: i32): bool {
  const arp = packetStart(descriptor);
  if (length < ARP_SIZE || !isIpv4Request(arp)) return false;
  const own = deviceNextHop(device);
  if (routeIpv4(arp + ARP_SENDER_IPV4) != own) return false;
  if (routeIpv4(arp + ARP_TARGET_IPV4) == own) return false;
  trimTo(descriptor, ARP_SIZE);
  const asked = load<u32>(arp, ARP_TARGET_IPV4);
  store<u16>(arp, bswap<u16>(<u16>ARP_OPERATION_REPLY), ARP_OPERATION);
  copyMac(arp + ARP_TARGET_MAC, arp + ARP_SENDER_MAC);
  store<u32>(arp, load<u32>(arp, ARP_SENDER_IPV4), ARP_TARGET_IPV4);
  copyMac(arp + ARP_SENDER_MAC, device + DEVICE_GATEWAY_MAC);
  store<u32>(arp, asked, ARP_SENDER_IPV4);
  addEthernet(descriptor, device, ETHER_TYPE_ARP);
  return true;
}

function isIpv4Request(arp: usize): bool {
  return arpField(arp, ARP_HARDWARE_TYPE) == ARP_HARDWARE_ETHERNET
    && arpField(arp, ARP_PROTOCOL_TYPE) == ETHER_TYPE_IPV4
    && load<u8>(arp, ARP_HARDWARE_SIZE) == 6
    && load<u8>(arp, ARP_PROTOCOL_SIZE) == IPV4_ADDRESS_SIZE
    && arpField(arp, ARP_OPERATION) == ARP_OPERATION_REQUEST;
}

function arpField(arp: usize, field: i32): i32 {
  return bswap<u16>(load<u16>(arp + field));
}

/** True for a packet that is a neighbour solicitation as RFC 4861 section 7.1.1 wants it. */
export function isSolicitation(packet: usize, length: i32): bool {
  if (checkIpv6(packet, length) != 0 || ipv6NextHeader(packet) != PROTOCOL_ICMPV6) return false;
  const size = ipv6TotalLength(packet) - IPV6_HEADER_SIZE;
  if (size < ND_SIZE) return false;
  const message = packet + IPV6_HEADER_SIZE;
  return load<u8>(message, ICMP_TYPE) == ND_SOLICITATION && load<u8>(message, ICMP_CODE) == 0
    && ipv6HopLimit(packet) == ND_HOP_LIMIT && load<u8>(message, ND_TARGET) != 0xff
    && icmpv6Checksum(message, size) == 0;
}

/** Turns a solicitation of the pod into our advertisement with an Ethernet header. False: it is not
 * to be answered (duplicate address detection, or the pod asks for itself). */
export function answerSolicitation(descriptor: usize, device: usize): bool {
  const packet = packetStart(descriptor);
  const message = packet + IPV6_HEADER_SIZE;
  const own = deviceNextHop(device);
  const fromLinkLocal = ipv6SourceHi(packet) >> 54 == 0x3fa;
  if (!fromLinkLocal && routeIpv6(packet + IPV6_SOURCE) != own) return false;
  if (routeIpv6(message + ND_TARGET) == own) return false;
  const size = ND_SIZE + ND_OPTION_SIZE;
  trimTo(descriptor, IPV6_HEADER_SIZE + size);
  copyIpv6(packet + IPV6_DESTINATION, packet + IPV6_SOURCE);
  const asker = packet + IPV6_DESTINATION;
  emitIpv6(packet, size, PROTOCOL_ICMPV6, ND_HOP_LIMIT, message + ND_TARGET, asker);
  store<u8>(message, ND_ADVERTISEMENT, ICMP_TYPE);
  store<u32>(message, ND_FLAGS_ANSWER, ND_FLAGS);
  store<u8>(message + ND_SIZE, ND_OPTION_TARGET_MAC);
  store<u8>(message + ND_SIZE, 1, 1);
  copyMac(message + ND_SIZE + 2, device + DEVICE_GATEWAY_MAC);
  store<u16>(message, 0, ICMP_CHECKSUM);
  store<u16>(message, icmpv6Checksum(message, size), ICMP_CHECKSUM);
  addEthernet(descriptor, device, ETHER_TYPE_IPV6);
  return true;
}

function addEthernet(descriptor: usize, device: usize, type: i32): void {
  const frame = prepend(descriptor, ETHERNET_HEADER_SIZE);
  emitEthernet(frame, device + DEVICE_MAC, device + DEVICE_GATEWAY_MAC, type);
}
