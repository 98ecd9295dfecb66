// Ends a TCP connection whose backend has left: the client's next segment is answered as the host
// that is gone would answer, by a reset (RFC 9293 section 3.10.7.1).

import {
  IPV4_HEADER_SIZE, IPV6_HEADER_SIZE, PROTOCOL_TCP, TCP_ACKNOWLEDGMENT, TCP_CHECKSUM,
  TCP_DATA_OFFSET, TCP_FLAGS, TCP_FLAG_ACK, TCP_FLAG_FIN, TCP_FLAG_RST, TCP_FLAG_SYN,
  TCP_HEADER_SIZE, TCP_SEQUENCE,
} from "../abi/headers";
import { EVENT_RESET_SENT } from "../abi/verdict";
import { checksumAdd, checksumFold } from "../checksum";
import { countEvent } from "../count";
import { pseudoSum } from "../offload/unfinished";
import { clearOffload, packetLength, packetStart, prepend, trimTo } from "../packet";
import { ipDestinationAddress, ipSourceAddress, ipTransport, isIpv4 } from "../wire/ip";
import { emitIpv4 } from "../wire/ipv4";
import { emitIpv6 } from "../wire/ipv6";
import { checkTcp, tcpFlags, tcpHeaderLength, tcpSequence } from "../wire/tcp";
import { isHeaderless, transportOffset, transportProtocol } from "../wire/transport";

const TTL: i32 = 64;

/** Turns a packet into the reset that its sender is to get. False: it gets none. */
export function answerWithReset(descriptor: usize, worker: i32): bool {
  const packet = packetStart(descriptor);
  const transport = ipTransport(packet);
  const offset = transportOffset(transport);
  const room = packetLength(descriptor) - offset;
  const seen = packet + <usize>offset;
  if (transportProtocol(transport) != PROTOCOL_TCP || isHeaderless(transport)) return false;
  if (!checkTcp(seen, room) || (tcpFlags(seen) & TCP_FLAG_RST) != 0) return false;
  const ipv4 = isIpv4(packet);
  const ipSize = ipv4 ? IPV4_HEADER_SIZE : IPV6_HEADER_SIZE;
  clearOffload(descriptor);
  const answer = prepend(descriptor, ipSize + TCP_HEADER_SIZE);
  trimTo(descriptor, ipSize + TCP_HEADER_SIZE);
  const from = ipDestinationAddress(packet);
  const to = ipSourceAddress(packet);
  if (ipv4) emitIpv4(answer, ipSize + TCP_HEADER_SIZE, 0, TTL, PROTOCOL_TCP, from, to);
  else emitIpv6(answer, TCP_HEADER_SIZE, PROTOCOL_TCP, TTL, from, to);
  const header = answer + <usize>ipSize;
  emitReset(header, seen, room - tcpHeaderLength(seen));
  const sum = pseudoSum(answer, PROTOCOL_TCP) + <u64>bswap<u16>(<u16>TCP_HEADER_SIZE);
  const checksum = checksumFold(checksumAdd(sum, header, TCP_HEADER_SIZE));
  store<u16>(header, checksum, TCP_CHECKSUM);
  countEvent(worker, EVENT_RESET_SENT);
  return true;
}

/** Where the segment acknowledges something, the reset begins there; otherwise it acknowledges the
 * segment, of `length` bytes of data. */
function emitReset(header: usize, seen: usize, length: i32): void {
  const flags = tcpFlags(seen);
  memory.fill(header, 0, TCP_HEADER_SIZE);
  store<u32>(header, rotl<u32>(load<u32>(seen), 16));
  store<u8>(header, <u8>((TCP_HEADER_SIZE >> 2) << 4), TCP_DATA_OFFSET);
  store<u8>(header, TCP_FLAG_RST, TCP_FLAGS);
  if ((flags & TCP_FLAG_ACK) != 0) {
    store<u32>(header, load<u32>(seen, TCP_ACKNOWLEDGMENT), TCP_SEQUENCE);
    return;
  }
  const controls = <i32>((flags & TCP_FLAG_SYN) != 0) + <i32>((flags & TCP_FLAG_FIN) != 0);
  const next = tcpSequence(seen) + length + controls;
  store<u32>(header, bswap<u32>(next), TCP_ACKNOWLEDGMENT);
  store<u8>(header, TCP_FLAG_RST | TCP_FLAG_ACK, TCP_FLAGS);
}
