// UDP, RFC 768. Precondition of every function: UDP_HEADER_SIZE bytes.

import {
  TRANSPORT_DESTINATION_PORT, TRANSPORT_SOURCE_PORT, UDP_CHECKSUM, UDP_LENGTH,
} from "../abi/headers";

/** Header and payload, in bytes. */
export function setUdpLength(header: usize, length: i32): void {
  store<u16>(header, bswap<u16>(<u16>length), UDP_LENGTH);
}

/** A checksum as the field has it: 0 would say that there is none. */
export function udpChecksumField(checksum: u16): u16 {
  return checksum == 0 ? 0xffff : checksum;
}

/** Writes a header without a checksum. Ports are as they lie in headers. */
export function emitUdp(header: usize, source: u16, destination: u16, length: i32): void {
  store<u16>(header, source, TRANSPORT_SOURCE_PORT);
  store<u16>(header, destination, TRANSPORT_DESTINATION_PORT);
  setUdpLength(header, length);
  store<u16>(header, 0, UDP_CHECKSUM);
}
