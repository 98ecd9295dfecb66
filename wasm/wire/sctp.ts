// SCTP's checksum, a CRC32c over the whole packet (RFC 9260 section 6.8 and appendix A). It is
// linear: where four bytes change, it changes by those bits, taken through as many steps as bytes
// follow; the payload is not read. A step of 8 bits is a multiplication by x^8, many are a power of
// it, in the field of 2^32 that the polynomial makes. Bits are reversed, as the CRC has them.

import { SCTP_CHECKSUM } from "../abi/headers";

const POLYNOMIAL: u32 = 0x82f63b78;
/** 1 and x^8. */
const ONE: u32 = 1 << 31;
const BYTE: u32 = 1 << 23;

/** Updates the checksum of a packet of `length` bytes in which the first four, its ports, changed
 * from `before` to `after`, as they lie there. */
export function updateSctpChecksum(header: usize, length: i32, before: u32, after: u32): void {
  let change = before ^ after;
  let power = BYTE;
  for (let left = length; left > 0; left >>= 1) {
    if ((left & 1) != 0) change = multiply(change, power);
    power = multiply(power, power);
  }
  store<u32>(header, load<u32>(header, SCTP_CHECKSUM) ^ change, SCTP_CHECKSUM);
}

function multiply(left: u32, right: u32): u32 {
  let product: u32 = 0;
  for (let bit = ONE; bit != 0; bit >>>= 1) {
    if ((left & bit) != 0) product ^= right;
    right = (right & 1) != 0 ? (right >>> 1) ^ POLYNOMIAL : right >>> 1;
  }
  return product;
}
