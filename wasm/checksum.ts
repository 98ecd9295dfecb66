// The Internet checksum, RFC 1071, and its incremental update, RFC 1624. Sums are taken over
// 16-bit words as they lie in memory: the ones' complement sum does not depend on byte order
// (RFC 1071 section 2(B)), so a result is stored as it comes.

/** Adds `length` bytes to a running sum that checksumFold() finishes. */
export function checksumAdd(sum: u64, start: usize, length: i32): u64 {
  let at = start;
  let left = length;
  while (left >= 4) {
    sum += <u64>load<u32>(at);
    at += 4;
    left -= 4;
  }
  if (left >= 2) {
    sum += <u64>load<u16>(at);
    at += 2;
    left -= 2;
  }
  if (left > 0) sum += <u64>load<u8>(at);
  return sum;
}

/** Folds a running sum to 16 bits and complements it. */
export function checksumFold(sum: u64): u16 {
  let folded = (sum >> 32) + (sum & 0xffffffff);
  folded = (folded >> 16) + (folded & 0xffff);
  folded = (folded >> 16) + (folded & 0xffff);
  folded = (folded >> 16) + (folded & 0xffff);
  return <u16>~folded;
}

/** Checksum of `length` bytes: 0 over a header whose checksum field is right. */
export function checksum(start: usize, length: i32): u16 {
  return checksumFold(checksumAdd(0, start, length));
}

/** RFC 1624 equation 3: the checksum after one 16-bit word changed from `before` to `after`. */
export function checksumUpdate(checksum: u16, before: u16, after: u16): u16 {
  const sum = <u32>(~checksum & 0xffff) + <u32>(~before & 0xffff) + <u32>after;
  const folded = (sum >> 16) + (sum & 0xffff);
  return <u16>~((folded >> 16) + (folded & 0xffff));
}
