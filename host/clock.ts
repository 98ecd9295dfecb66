// The data plane's clock: milliseconds of CLOCK_MONOTONIC as a wrapping 32-bit number. All threads
// of the machine read the same, so that what one worker wrote down means the same to the next.

/** A reader of the clock that allocates nothing. */
export function monotonicClock(): () => number {
  const offset = (Number(process.hrtime.bigint() / 1000n) / 1000) - performance.now();
  return () => Math.trunc(performance.now() + offset) | 0;
}

/** How far the wall clock may drift away before it counts as having been set. */
const STEP_MS = 250;

/** Gives moments of the data plane's clock as times of the wall clock: the same moment always as
 * the same time, until the wall clock is set. */
export class WallClock {
  readonly #clock = monotonicClock();
  #moment = this.#clock();
  #time = Date.now();

  /** Milliseconds since 1970. The moment must be within three weeks of now. */
  timeOf(moment: number): number {
    const now = this.#clock();
    const expected = this.#time + ((now - this.#moment) | 0);
    if (Math.abs(Date.now() - expected) > STEP_MS) {
      this.#moment = now;
      this.#time = Date.now();
    }
    return this.#time + ((moment - this.#moment) | 0);
  }
}
