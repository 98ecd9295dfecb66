// Holds the largest segment that the ends of a connection name to each other to what a tunnel
// takes: the MSS option of SYN segments, in both directions (RFC 9293 section 3.7.1; RFC 4459
// section 3.2 says why a tunnel may). So connections do not wait for ICMP errors, and go without
// fragments, where the ends of an IPv6 connection would be told 1,280 bytes. Only where the
// configuration asks for it. The slow twin is test/reference/mss.ts.

import {
  IPV4_HEADER_SIZE, IPV6_HEADER_SIZE, PROTOCOL_TCP, TCP_CHECKSUM, TCP_FLAG_SYN, TCP_HEADER_SIZE,
  TCP_OPTION_END, TCP_OPTION_MSS, TCP_OPTION_MSS_SIZE, TCP_OPTION_NOP,
} from "./abi/headers";
import { DIRECTORY_MSS_CLAMP } from "./abi/layout";
import { EVENT_MSS_CLAMPED } from "./abi/verdict";
import { checksumUpdate } from "./checksum";
import { countEvent } from "./count";
import { leavesChecksum } from "./offload/vnet";
import { directory, packetLength, packetStart } from "./packet";
import { ipTransport, isIpv4 } from "./wire/ip";
import { checkTcp, tcpFlags, tcpHeaderLength } from "./wire/tcp";
import { isFragment, isHeaderless, transportOffset, transportProtocol } from "./wire/transport";

/** Holds a checked packet's MSS to packets of `mtu` bytes, where it is a SYN that names more. */
// @ts-ignore: decorator
@inline
export function clampMss(descriptor: usize, worker: i32, mtu: i32): void {
  if (directory(DIRECTORY_MSS_CLAMP) != 0) clamp(descriptor, worker, mtu);
}

function clamp(descriptor: usize, worker: i32, mtu: i32): void {
  const packet = packetStart(descriptor);
  const transport = ipTransport(packet);
  if (transportProtocol(transport) != PROTOCOL_TCP) return;
  const offset = transportOffset(transport);
  const tcp = packet + <usize>offset;
  if (isHeaderless(transport) || isFragment(transport)) return;
  if (!checkTcp(tcp, packetLength(descriptor) - offset)) return;
  if ((tcpFlags(tcp) & TCP_FLAG_SYN) == 0) return;
  const header = isIpv4(packet) ? IPV4_HEADER_SIZE : IPV6_HEADER_SIZE;
  const isLeft = leavesChecksum(descriptor, offset, TCP_CHECKSUM);
  if (clampOptions(tcp, mtu - header - TCP_HEADER_SIZE, isLeft)) {
    countEvent(worker, EVENT_MSS_CLAMPED);
  }
}

/** Goes through the options of a header, RFC 9293 section 3.2; a malformed one ends the walk. True
 * where an MSS was more than `most`. */
function clampOptions(tcp: usize, most: i32, isLeft: bool): bool {
  const end = tcpHeaderLength(tcp);
  let isClamped = false;
  let at = TCP_HEADER_SIZE;
  while (at < end) {
    const option = tcp + <usize>at;
    const type = <i32>load<u8>(option);
    if (type == TCP_OPTION_END) break;
    if (type == TCP_OPTION_NOP) {
      at += 1;
      continue;
    }
    const size = at + 1 < end ? <i32>load<u8>(option, 1) : 0;
    if (size < 2 || at + size > end) break;
    if (type == TCP_OPTION_MSS && size == TCP_OPTION_MSS_SIZE
      && <i32>bswap<u16>(load<u16>(option, 2)) > most) {
      setMss(tcp, at + 2, <u16>most, isLeft);
      isClamped = true;
    }
    at += size;
  }
  return isClamped;
}

/** Writes an MSS at an offset into the header. The checksum follows, RFC 1624, unless it is left to
 * a device; at an odd offset each half counts for the other's place (RFC 1071 section 2(B)). */
function setMss(tcp: usize, at: i32, mss: u16, isLeft: bool): void {
  const field = tcp + <usize>at;
  const before = load<u16>(field);
  const after = bswap<u16>(mss);
  store<u16>(field, after);
  if (isLeft) return;
  const isOdd = (at & 1) != 0;
  const updated = checksumUpdate(load<u16>(tcp, TCP_CHECKSUM), isOdd ? bswap<u16>(before) : before,
    isOdd ? mss : after);
  store<u16>(tcp, updated, TCP_CHECKSUM);
}
