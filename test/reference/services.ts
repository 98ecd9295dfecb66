// Slow twins of what the core does for Services: the choice of a backend, by plain arithmetic, and
// SCTP's checksum, bit by bit.

/** CRC32c as RFC 9260 appendix A has it, over bytes whose checksum field is 0. */
export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit += 1) crc = (crc >>> 1) ^ ((crc & 1) === 1 ? 0x82f63b78 : 0);
  }
  return (crc ^ 0xffffffff) >>> 0;
}
