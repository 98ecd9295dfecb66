// The Internet checksum, RFC 1071, and its incremental update, RFC 1624. Sums are taken over
// 16-bit words as they lie in memory: the ones' complement sum does not depend on byte order
// (RFC 1071 section 2(B)), so a result is stored as it comes. Words may be added in any grouping,
// with carries added back at the end (section 2(C)). The slow twin is test/reference/checksum.ts.

/** From here on, vectors are quicker. */
const VECTOR_MINIMUM: i32 = 64;
/** Bytes in a turn of the vector loop. */
const BLOCK: i32 = 128;

/** Adds `length` bytes to a running sum that checksumFold() finishes. */
export function checksumAdd(sum: u64, start: usize, length: i32): u64 {
  return sum + sumBytes(start, length);
}

// @ts-ignore: decorator
@inline
function sumBytes(start: usize, length: i32): u64 {
  let sum: u64 = 0;
  let at = start;
  if (length >= VECTOR_MINIMUM) {
    sum = sumVectors(start, length & -16);
    at += length & -16;
  } else {
    for (const end = start + (length & -16); at < end; at += 16) {
      sum += <u64>load<u32>(at) + <u64>load<u32>(at, 4) + <u64>load<u32>(at, 8)
        + <u64>load<u32>(at, 12);
    }
  }
  if ((length & 8) != 0) {
    sum += <u64>load<u32>(at) + <u64>load<u32>(at, 4);
    at += 8;
  }
  if ((length & 4) != 0) {
    sum += <u64>load<u32>(at);
    at += 4;
  }
  if ((length & 2) != 0) {
    sum += <u64>load<u16>(at);
    at += 2;
  }
  return (length & 1) != 0 ? sum + <u64>load<u8>(at) : sum;
}

/** Sums whole vectors of 16 bytes. Lanes of 64 bits are added as they are, which loses carries, and
 * their upper halves once more alone, which are too small to: so both halves' sums are known in
 * full. That is three operations for a vector, and none needs a constant, which V8 would make anew
 * in every turn. Two pairs of sums take turns, so that no addition waits for the one before. */
// @ts-ignore: decorator
@inline
function sumVectors(start: usize, length: i32): u64 {
  let whole0 = i64x2.splat(0);
  let whole1 = i64x2.splat(0);
  let upper0 = i64x2.splat(0);
  let upper1 = i64x2.splat(0);
  let at = start;
  for (const end = start + (length & -BLOCK); at < end; at += BLOCK) {
    const a = v128.load(at);
    const b = v128.load(at, 16);
    const c = v128.load(at, 32);
    const d = v128.load(at, 48);
    const e = v128.load(at, 64);
    const f = v128.load(at, 80);
    const g = v128.load(at, 96);
    const h = v128.load(at, 112);
    whole0 = i64x2.add(i64x2.add(i64x2.add(i64x2.add(whole0, a), c), e), g);
    whole1 = i64x2.add(i64x2.add(i64x2.add(i64x2.add(whole1, b), d), f), h);
    upper0 = addUpper(addUpper(addUpper(addUpper(upper0, a), c), e), g);
    upper1 = addUpper(addUpper(addUpper(addUpper(upper1, b), d), f), h);
  }
  for (const end = start + length; at < end; at += 16) {
    const a = v128.load(at);
    whole0 = i64x2.add(whole0, a);
    upper0 = addUpper(upper0, a);
  }
  const upper = i64x2.add(upper0, upper1);
  const lower = i64x2.sub(i64x2.add(whole0, whole1), i64x2.shl(upper, 32));
  const both = i64x2.add(lower, upper);
  return i64x2.extract_lane(both, 0) + i64x2.extract_lane(both, 1);
}

// @ts-ignore: decorator
@inline
function addUpper(sum: v128, words: v128): v128 {
  return i64x2.add(sum, i64x2.shr_u(words, 32));
}

/** Folds a running sum to 16 bits and complements it. A number plus itself with its halves swapped
 * has in its upper half the sum of both halves, with the carry added back. */
// @ts-ignore: decorator
@inline
export function checksumFold(sum: u64): u16 {
  const half = <u32>((sum + rotl<u64>(sum, 32)) >>> 32);
  return <u16>~((half + rotl<u32>(half, 16)) >>> 16);
}

/** Checksum of `length` bytes: 0 over a header whose checksum field is right. */
export function checksum(start: usize, length: i32): u16 {
  return checksumFold(checksumAdd(0, start, length));
}

/** The same of whole 32-bit words, five or more: an IPv4 header. */
// @ts-ignore: decorator
@inline
export function headerChecksum(start: usize, length: i32): u16 {
  let sum = <u64>load<u32>(start) + <u64>load<u32>(start, 4) + <u64>load<u32>(start, 8)
    + <u64>load<u32>(start, 12) + <u64>load<u32>(start, 16);
  for (let at = 20; at < length; at += 4) sum += <u64>load<u32>(start + at);
  return checksumFold(sum);
}

/** RFC 1624 equation 3: the checksum after one 16-bit word changed from `before` to `after`. */
export function checksumUpdate(checksum: u16, before: u16, after: u16): u16 {
  const sum = <u32>(~checksum & 0xffff) + <u32>(~before & 0xffff) + <u32>after;
  return <u16>~((sum + rotl<u32>(sum, 16)) >>> 16);
}

/** Checksums of `count` runs of `length` bytes, `stride` bytes apart, each a u16: what the packet
 * path does, without a call for each. For tests and benches. */
export function checksumMany(
  start: usize, length: i32, stride: i32, count: i32, sums: usize,
): void {
  for (let index = 0; index < count; index += 1) {
    const sum = sumBytes(start + <usize>(index * stride), length);
    store<u16>(sums + (<usize>index << 1), checksumFold(sum));
  }
}
