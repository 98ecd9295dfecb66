// The Internet checksum, RFC 1071, and its incremental update, RFC 1624. Sums are taken over
// 16-bit words as they lie in memory: the ones' complement sum does not depend on byte order
// (RFC 1071 section 2(B)), so a result is stored as it comes. The slow twin is
// internetChecksum() of test/support/packets.ts.

/** Below this, setting up and adding up the lanes costs more than they save. */
const VECTOR_MINIMUM: i32 = 48;

/** Adds up to 65,535 bytes to a running sum that checksumFold() finishes. */
export function checksumAdd(sum: u64, start: usize, length: i32): u64 {
  let at = start;
  let left = length;
  if (left >= VECTOR_MINIMUM) {
    sum += sumVectors(at, left);
    at += <usize>(left & ~15);
    left &= 15;
  }
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

/** Sum of the 16-bit words of all whole vectors in `length` bytes. Pairs of words are added into
 * lanes of 32 bits, which 64 KiB cannot overflow; four sums keep the processor's units busy. */
function sumVectors(start: usize, length: i32): u64 {
  let first = i32x4.splat(0);
  let second = i32x4.splat(0);
  let third = i32x4.splat(0);
  let fourth = i32x4.splat(0);
  let at = start;
  const end = start + <usize>(length & ~15);
  const whole = start + <usize>(length & ~63);
  while (at < whole) {
    first = i32x4.add(first, i32x4.extadd_pairwise_i16x8_u(v128.load(at)));
    second = i32x4.add(second, i32x4.extadd_pairwise_i16x8_u(v128.load(at, 16)));
    third = i32x4.add(third, i32x4.extadd_pairwise_i16x8_u(v128.load(at, 32)));
    fourth = i32x4.add(fourth, i32x4.extadd_pairwise_i16x8_u(v128.load(at, 48)));
    at += 64;
  }
  while (at < end) {
    first = i32x4.add(first, i32x4.extadd_pairwise_i16x8_u(v128.load(at)));
    at += 16;
  }
  const lanes = i32x4.add(i32x4.add(first, second), i32x4.add(third, fourth));
  return <u64><u32>i32x4.extract_lane(lanes, 0) + <u64><u32>i32x4.extract_lane(lanes, 1)
    + <u64><u32>i32x4.extract_lane(lanes, 2) + <u64><u32>i32x4.extract_lane(lanes, 3);
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
