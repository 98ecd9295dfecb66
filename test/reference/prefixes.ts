// Slow twins of the prefix table. PrefixList is the definition of longest-prefix match, read off
// RFC 1812 section 5.2.4.3: of the prefixes that match, the longest. PrefixHash answers the same
// from a hash table with every length in turn, and is fast enough for a million prefixes.

const KEY_BITS = 128;

interface Entry {
  readonly key: bigint;
  readonly length: number;
  readonly value: number;
}

/** A linear list of prefixes. Keys are 128 bits, left aligned. */
export class PrefixList {
  #entries: Entry[] = [];

  get entries(): readonly Entry[] {
    return this.#entries;
  }

  /** Adds or replaces; value 0 removes. */
  set(key: bigint, length: number, value: number): void {
    this.#entries = this.#entries.filter((entry) => entry.key !== key || entry.length !== length);
    if (value !== 0) this.#entries.push({ key, length, value });
  }

  get(key: bigint, length: number): number {
    const found = this.#entries.find((entry) => entry.key === key && entry.length === length);
    return found === undefined ? 0 : found.value;
  }

  find(key: bigint): number {
    let best: Entry | undefined;
    for (const entry of this.#entries) {
      const rest = BigInt(KEY_BITS - entry.length);
      if (entry.key >> rest !== key >> rest) continue;
      if (best === undefined || entry.length > best.length) best = entry;
    }
    return best === undefined ? 0 : best.value;
  }
}

/** Open addressing over (key, length). Keys are four words, exactly as they lie in memory. */
export class PrefixHash {
  readonly #words: Uint32Array;
  readonly #lengths: Int16Array;      // -1: never used
  readonly #values: Uint16Array;      // 0: removed
  readonly #mask: number;
  readonly #perLength = new Int32Array(KEY_BITS + 1);
  readonly #masks = new Uint32Array((KEY_BITS + 1) * 4);

  /** Room for `limit` different prefixes, removed ones included. */
  constructor(limit: number) {
    const size = 2 ** Math.ceil(Math.log2(limit * 2));
    this.#words = new Uint32Array(size * 4);
    this.#lengths = new Int16Array(size).fill(-1);
    this.#values = new Uint16Array(size);
    this.#mask = size - 1;
    const bytes = new Uint8Array(this.#masks.buffer);
    for (let length = 0; length <= KEY_BITS; length++) {
      for (let bit = 0; bit < length; bit++) {
        const at = length * 16 + (bit >> 3);
        bytes[at] = (bytes[at] ?? 0) | (0x80 >> (bit & 7));
      }
    }
  }

  /** Adds or replaces; value 0 removes. The key is the four words at `at`. */
  set(words: Uint32Array, at: number, length: number, value: number): void {
    const slot = this.#slot(words, at, length);
    const before = this.#values[slot] ?? 0;
    if ((this.#lengths[slot] ?? -1) < 0) {
      this.#lengths[slot] = length;
      for (let word = 0; word < 4; word++) this.#words[slot * 4 + word] = words[at + word] ?? 0;
    }
    this.#values[slot] = value;
    const change = Number(value !== 0) - Number(before !== 0);
    this.#perLength[length] = (this.#perLength[length] ?? 0) + change;
  }

  get(words: Uint32Array, at: number, length: number): number {
    return this.#values[this.#slot(words, at, length)] ?? 0;
  }

  find(words: Uint32Array, at: number): number {
    for (let length = KEY_BITS; length >= 0; length--) {
      if (this.#perLength[length] === 0) continue;
      const value = this.get(words, at, length);
      if (value !== 0) return value;
    }
    return 0;
  }

  /** Where a prefix is, or the free place it would go. Bits beyond the length do not matter. */
  #slot(words: Uint32Array, at: number, length: number): number {
    const masks = this.#masks;
    const a = ((words[at] ?? 0) & (masks[length * 4] ?? 0)) >>> 0;
    const b = ((words[at + 1] ?? 0) & (masks[length * 4 + 1] ?? 0)) >>> 0;
    const c = ((words[at + 2] ?? 0) & (masks[length * 4 + 2] ?? 0)) >>> 0;
    const d = ((words[at + 3] ?? 0) & (masks[length * 4 + 3] ?? 0)) >>> 0;
    let hash = Math.imul(a, 0x9e3779b1) ^ Math.imul(b, 0x85ebca77) ^ Math.imul(c, 0xc2b2ae3d);
    hash = Math.imul(hash ^ Math.imul(d, 0x27d4eb2f) ^ (hash >>> 15), 0x2c1b3c6d + length * 2);
    let slot = (hash ^ (hash >>> 13)) & this.#mask;
    const own = this.#words;
    while (this.#lengths[slot] !== -1) {
      const same = this.#lengths[slot] === length && own[slot * 4] === a &&
        own[slot * 4 + 1] === b && own[slot * 4 + 2] === c && own[slot * 4 + 3] === d;
      if (same) return slot;
      slot = (slot + 1) & this.#mask;
    }
    return slot;
  }
}
