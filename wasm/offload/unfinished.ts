// Transport checksums that a peer's kernel left to a device that never came: over a veth, or a
// virtual NIC, that says it finishes checksums, inner packets arrive with the pseudo-header's sum
// in the field (CHECKSUM_PARTIAL). Taken only where the configuration says so: nothing has looked
// after such a packet's bytes on the way.

import {
  IPV6_ADDRESS_SIZE, PROTOCOL_TCP, PROTOCOL_UDP, TCP_CHECKSUM, UDP_CHECKSUM, VNET_NEEDS_CHECKSUM,
} from "../abi/headers";
import {
  DESCRIPTOR_CHECKSUM_OFFSET, DESCRIPTOR_CHECKSUM_START, DESCRIPTOR_OFFLOAD_FLAGS,
  DIRECTORY_TAKE_UNFINISHED,
} from "../abi/layout";
import { EVENT_UNFINISHED } from "../abi/verdict";
import { checksumAdd, checksumFold } from "../checksum";
import { countEvent } from "../count";
import { directory, packetLength, packetStart } from "../packet";
import { ipSourceAddress, ipTransport, isIpv4 } from "../wire/ip";
import { isFragment, isHeaderless, transportOffset, transportProtocol } from "../wire/transport";

/** Where a checked packet's transport checksum is unfinished and may be, says so in its descriptor,
 * and counts it. */
export function takeUnfinished(descriptor: usize, worker: i32): void {
  if (directory(DIRECTORY_TAKE_UNFINISHED) == 0) return;
  const packet = packetStart(descriptor);
  const transport = ipTransport(packet);
  const protocol = transportProtocol(transport);
  if (isFragment(transport) || isHeaderless(transport)) return;
  if (protocol != PROTOCOL_TCP && protocol != PROTOCOL_UDP) return;
  const start = transportOffset(transport);
  const offset = protocol == PROTOCOL_TCP ? TCP_CHECKSUM : UDP_CHECKSUM;
  const length = packetLength(descriptor) - start;
  if (offset + 2 > length) return;
  const sum = pseudoSum(packet, protocol) + <u64>bswap<u16>(<u16>length);
  if (!isUnfinished(packet + <usize>(start + offset), sum)) return;
  store<u8>(descriptor, VNET_NEEDS_CHECKSUM, DESCRIPTOR_OFFLOAD_FLAGS);
  store<u16>(descriptor, <u16>start, DESCRIPTOR_CHECKSUM_START);
  store<u16>(descriptor, <u16>offset, DESCRIPTOR_CHECKSUM_OFFSET);
  countEvent(worker, EVENT_UNFINISHED);
}

/** True where unfinished checksums are taken, and the field holds the pseudo-header's `sum`. */
export function isUnfinished(field: usize, sum: u64): bool {
  if (directory(DIRECTORY_TAKE_UNFINISHED) == 0) return false;
  return load<u16>(field) == <u16>~checksumFold(sum);
}

/** Sum of the pseudo-header without its length: RFC 9293 section 3.1, RFC 8200 section 8.1. */
export function pseudoSum(packet: usize, protocol: i32): u64 {
  const addresses = isIpv4(packet) ? 8 : 2 * IPV6_ADDRESS_SIZE;
  return checksumAdd(<u64>protocol << 8, ipSourceAddress(packet), addresses);
}
