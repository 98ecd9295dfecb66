// The slow twin of wasm/checksum.ts: RFC 1071 section 1, word by word.

/** The Internet checksum of the bytes, as a number of the order they have on the wire. An odd last
 * byte is the upper half of a word whose lower half is 0. */
export function slowChecksum(bytes: Uint8Array): number {
  let sum = 0;
  for (let at = 0; at < bytes.length; at += 2) {
    sum += ((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0);
  }
  while (sum > 0xffff) sum = (sum & 0xffff) + Math.floor(sum / 0x10000);
  return 0xffff - sum;
}
