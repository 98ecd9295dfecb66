// Random numbers that a seed repeats, and a skewed choice: the same work in every run.

/** xorshift32, Marsaglia 2003. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = (Math.imul(seed, 0x9e3779b1) ^ 0x5bd1e995) | 1;
  }

  /** 32 bits, unsigned. */
  next(): number {
    let state = this.#state;
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    this.#state = state;
    return state >>> 0;
  }

  /** From 0 to `limit` - 1. */
  below(limit: number): number {
    return this.next() % limit;
  }
}

/** Draws ranks from 0 to `count` - 1; rank r is drawn with weight 1 / (r + 1) ** exponent. */
export class Zipf {
  #random: Random;
  #sums: Float64Array;

  constructor(random: Random, count: number, exponent: number) {
    this.#random = random;
    this.#sums = new Float64Array(count);
    let sum = 0;
    for (let rank = 0; rank < count; rank += 1) {
      sum += (rank + 1) ** -exponent;
      this.#sums[rank] = sum;
    }
  }

  next(): number {
    const total = this.#sums[this.#sums.length - 1] ?? 0;
    const drawn = (this.#random.next() / 0x100000000) * total;
    let low = 0;
    for (let high = this.#sums.length - 1; low < high;) {
      const middle = (low + high) >>> 1;
      if ((this.#sums[middle] ?? 0) > drawn) high = middle;
      else low = middle + 1;
    }
    return low;
  }
}

/** FNV-1a over words, as eight hexadecimal digits. */
export class Hash {
  #state = 0x811c9dc5;

  add(word: number): void {
    for (let shift = 0; shift < 32; shift += 8) {
      this.#state = Math.imul(this.#state ^ ((word >>> shift) & 0xff), 0x01000193);
    }
  }

  addBytes(bytes: Uint8Array): void {
    for (const byte of bytes) this.#state = Math.imul(this.#state ^ byte, 0x01000193);
  }

  text(): string {
    return (this.#state >>> 0).toString(16).padStart(8, '0');
  }
}
