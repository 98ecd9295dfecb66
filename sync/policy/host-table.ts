// Single addresses, each with a value: buckets of those that differ in the last byte only, as the
// pods of a node do. A tree with a leaf for each takes three times as much.

export interface HostValue {
  /** The bytes of the address as characters. */
  readonly bytes: string;
}

export class HostTable<T extends HostValue> {
  readonly #buckets = new Map<string, T[]>();

  get(bytes: string): T | null {
    return this.#buckets.get(start(bytes))?.find((value) => value.bytes === bytes) ?? null;
  }

  /** Enters a value. Precondition: there is none of its address. */
  add(value: T): void {
    const key = start(value.bytes);
    const bucket = this.#buckets.get(key);
    if (bucket === undefined) this.#buckets.set(key, [value]);
    else bucket.push(value);
  }

  delete({ bytes }: T): void {
    const key = start(bytes);
    const bucket = this.#buckets.get(key);
    const at = bucket?.findIndex((value) => value.bytes === bytes) ?? -1;
    if (bucket === undefined || at < 0) return;
    const last = bucket.pop();
    if (last !== undefined && last.bytes !== bytes) bucket[at] = last;
    if (bucket.length === 0) this.#buckets.delete(key);
  }

  /** Those inside a prefix. */
  * inside(bytes: string, length: number): Generator<T> {
    for (const bucket of this.#bucketsInside(bytes, length)) {
      for (const value of bucket) if (holds(bytes, length, value.bytes)) yield value;
    }
  }

  /** All of them. What is added meanwhile may be left out; nothing may be taken out. */
  * values(): Generator<T> {
    for (const bucket of this.#buckets.values()) yield* bucket;
  }

  * #bucketsInside(bytes: string, length: number): Generator<T[]> {
    const lastByte = (bytes.length - 1) * 8;
    if (length >= lastByte) {
      const bucket = this.#buckets.get(start(bytes));
      if (bucket !== undefined) yield bucket;
      return;
    }
    for (const [key, bucket] of this.#buckets) if (holds(bytes, length, key)) yield bucket;
  }
}

/** All bytes but the last. */
function start(bytes: string): string {
  return bytes.slice(0, -1);
}

/** Whether the first `length` bits are those of the prefix. */
function holds(prefix: string, length: number, bytes: string): boolean {
  const whole = length >>> 3;
  for (let at = 0; at < whole; at += 1) {
    if (prefix.charCodeAt(at) !== bytes.charCodeAt(at)) return false;
  }
  const mask = (0xff00 >>> (length & 7)) & 0xff;
  return mask === 0 || ((prefix.charCodeAt(whole) ^ bytes.charCodeAt(whole)) & mask) === 0;
}
