// TCP, RFC 9293 section 3.1. Precondition of every accessor: checkTcp() accepted the header.

import { TCP_DATA_OFFSET, TCP_FLAGS, TCP_HEADER_SIZE, TCP_SEQUENCE } from "../abi/headers";

/** True where a whole header, options and all, lies within `room` bytes. */
export function checkTcp(header: usize, room: i32): bool {
  if (room < TCP_HEADER_SIZE) return false;
  const length = tcpHeaderLength(header);
  return length >= TCP_HEADER_SIZE && length <= room;
}

/** Options included. */
export function tcpHeaderLength(header: usize): i32 {
  return (load<u8>(header, TCP_DATA_OFFSET) >> 4) << 2;
}

export function tcpSequence(header: usize): u32 {
  return bswap<u32>(load<u32>(header, TCP_SEQUENCE));
}

export function setTcpSequence(header: usize, sequence: u32): void {
  store<u32>(header, bswap<u32>(sequence), TCP_SEQUENCE);
}

/** The eight control bits, TCP_FLAG_*. */
export function tcpFlags(header: usize): i32 {
  return load<u8>(header, TCP_FLAGS);
}

export function setTcpFlags(header: usize, flags: i32): void {
  store<u8>(header, <u8>flags, TCP_FLAGS);
}
