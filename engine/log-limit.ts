// How often a log says the same: what happens again and again on a board that nobody visits must
// not fill its disk. Each message has a bucket of lines of its own; what is left out is counted,
// and told by the next line that is not.

/** Lines of one message at once, and how long it takes to earn another. */
export const LOG_BURST = 20;
export const LOG_INTERVAL_MS = 5000;
/** Messages that are told apart. They are constants of the program, so this is never reached. */
const MESSAGE_LIMIT = 2000;

interface Bucket {
  lines: number;
  atMs: number;
  leftOut: number;
}

export class LogLimit {
  readonly #buckets = new Map<string, Bucket>();

  /** Takes a line of a message. Returns how many were left out before it, or -1 where it is to be
   * left out, too. */
  take(message: string, nowMs: number): number {
    const bucket = this.#bucket(message, nowMs);
    const earned = (nowMs - bucket.atMs) / LOG_INTERVAL_MS;
    bucket.lines = Math.min(LOG_BURST, bucket.lines + Math.max(0, earned));
    bucket.atMs = nowMs;
    if (bucket.lines < 1) {
      bucket.leftOut += 1;
      return -1;
    }
    const { leftOut } = bucket;
    bucket.lines -= 1;
    bucket.leftOut = 0;
    return leftOut;
  }

  #bucket(message: string, nowMs: number): Bucket {
    const known = this.#buckets.get(message);
    if (known !== undefined) return known;
    if (this.#buckets.size >= MESSAGE_LIMIT) this.#buckets.clear();
    const bucket = { lines: LOG_BURST, atMs: nowMs, leftOut: 0 };
    this.#buckets.set(message, bucket);
    return bucket;
  }
}
