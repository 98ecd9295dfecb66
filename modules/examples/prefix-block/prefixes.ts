// Prefixes of IPv4 and IPv6: their text (RFC 4632 section 3.1, RFC 4291 section 2.2), and a table
// that finds the longest one an address is in. An address is 128 bits in two halves; IPv4 is in the
// first 32 of them, in a table of its own.
//
// The table is made once: prefixes nest, so sorted they cut the space into ranges with one answer
// each, and a lookup is a binary search for the range.

export class Prefix {
  isIpv4: bool = false;
  hi: u64 = 0;
  lo: u64 = 0;
  length: i32 = 0;
  value: i32 = 0;

  /** The last address. */
  get lastHi(): u64 {
    return this.hi | (this.length >= 64 ? 0 : u64.MAX_VALUE >> this.length);
  }

  get lastLo(): u64 {
    if (this.length >= 128) return this.lo;
    return this.lo | (u64.MAX_VALUE >> (this.length <= 64 ? 0 : this.length - 64));
  }
}

/** The prefix that a text means, a single address included; null where it means none. */
export function parsePrefix(text: string): Prefix | null {
  const slash = text.indexOf('/');
  const address = slash < 0 ? text : text.substring(0, slash);
  const prefix = new Prefix();
  prefix.isIpv4 = !address.includes(':');
  const isAddress = prefix.isIpv4 ? parseIpv4(address, prefix) : parseIpv6(address, prefix);
  if (!isAddress) return null;
  const longest = prefix.isIpv4 ? 32 : 128;
  prefix.length = slash < 0 ? longest : parseNumber(text.substring(slash + 1), 10, longest);
  if (prefix.length < 0) return null;
  // Bits behind the prefix are cleared, as routers do.
  prefix.hi &= firstBits(min(prefix.length, 64));
  prefix.lo &= firstBits(max(prefix.length - 64, 0));
  return prefix;
}

/** A word with so many first bits set. */
function firstBits(count: i32): u64 {
  return count == 0 ? 0 : u64.MAX_VALUE << (64 - count);
}

/** A number of digits only, at most `limit`; -1 where it is none. */
function parseNumber(text: string, radix: i32, limit: i32): i32 {
  if (text.length == 0 || text.length > 4) return -1;
  let value = 0;
  for (let at = 0; at < text.length; at += 1) {
    const code = text.charCodeAt(at);
    const letter = code | 0x20;
    let digit = 99;
    if (code >= 48 && code <= 57) digit = code - 48;
    else if (letter >= 97 && letter <= 102) digit = letter - 87;
    if (digit >= radix) return -1;
    value = (value * radix) + digit;
  }
  return value > limit ? -1 : value;
}

function parseIpv4(text: string, prefix: Prefix): bool {
  const parts = text.split('.');
  if (parts.length != 4) return false;
  for (let at = 0; at < 4; at += 1) {
    const byte = parseNumber(parts[at], 10, 255);
    if (byte < 0) return false;
    prefix.hi |= (<u64>byte) << (56 - (at * 8));
  }
  return true;
}

function parseIpv6(text: string, prefix: Prefix): bool {
  const gap = text.indexOf('::');
  if (gap < 0) return parseGroups(text, 8, 0, prefix) == 8;
  const before = text.substring(0, gap);
  const after = text.substring(gap + 2);
  const first = before.length == 0 ? 0 : parseGroups(before, 7, 0, prefix);
  if (first < 0) return false;
  if (after.length == 0) return true;
  const count = after.split(':').length;
  return first + count < 8 && parseGroups(after, count, 8 - count, prefix) == count;
}

/** Puts at most `most` groups of 16 bits in place from group `at` on; how many, or -1. */
function parseGroups(text: string, most: i32, at: i32, prefix: Prefix): i32 {
  const groups = text.split(':');
  if (groups.length > most) return -1;
  for (let index = 0; index < groups.length; index += 1) {
    const group = parseNumber(groups[index], 16, 0xffff);
    if (group < 0) return -1;
    const place = at + index;
    if (place < 4) prefix.hi |= (<u64>group) << (48 - (place * 16));
    else prefix.lo |= (<u64>group) << (112 - (place * 16));
  }
  return groups.length;
}

function isBefore(hi: u64, lo: u64, otherHi: u64, otherLo: u64): bool {
  return hi < otherHi || (hi == otherHi && lo < otherLo);
}

/** By first address; of those that begin alike, the wider first. */
function compare(left: Prefix, right: Prefix): i32 {
  if (left.hi != right.hi) return left.hi < right.hi ? -1 : 1;
  if (left.lo != right.lo) return left.lo < right.lo ? -1 : 1;
  return left.length - right.length;
}

/** What an address in no prefix has. */
export const NO_VALUE = -1;

/** A table of prefixes of one family. */
export class PrefixTable {
  /** First addresses of ranges, in order, and the value of each. */
  private readonly hi: u64[] = [];
  private readonly lo: u64[] = [];
  private readonly values: i32[] = [];

  constructor(prefixes: Prefix[]) {
    prefixes.sort(compare);
    const open = new Array<Prefix>();
    this.push(0, 0, NO_VALUE);
    for (let at = 0; at < prefixes.length; at += 1) {
      const prefix = prefixes[at];
      while (open.length > 0 && this.endsBefore(open[open.length - 1], prefix)) this.close(open);
      this.push(prefix.hi, prefix.lo, prefix.value);
      open.push(prefix);
    }
    while (open.length > 0) this.close(open);
  }

  /** The value of the longest prefix that an address is in, or NO_VALUE. */
  find(hi: u64, lo: u64): i32 {
    let low = 0;
    let high = this.hi.length;
    while (high - low > 1) {
      const middle = (low + high) >>> 1;
      if (isBefore(hi, lo, this.hi[middle], this.lo[middle])) high = middle;
      else low = middle;
    }
    return this.values[low];
  }

  private endsBefore(prefix: Prefix, next: Prefix): bool {
    return isBefore(prefix.lastHi, prefix.lastLo, next.hi, next.lo);
  }

  /** Ends the innermost open prefix: behind it, the one around it goes on. */
  private close(open: Prefix[]): void {
    const ended = open.pop();
    const value = open.length > 0 ? open[open.length - 1].value : NO_VALUE;
    const lo = ended.lastLo + 1;
    const hi = lo == 0 ? ended.lastHi + 1 : ended.lastHi;
    if (hi != 0 || lo != 0) this.push(hi, lo, value);
  }

  /** Begins a range; one that would be empty is replaced. */
  private push(hi: u64, lo: u64, value: i32): void {
    const last = this.hi.length - 1;
    if (last >= 0 && this.hi[last] == hi && this.lo[last] == lo) {
      this.values[last] = value;
      return;
    }
    this.hi.push(hi);
    this.lo.push(lo);
    this.values.push(value);
  }
}
