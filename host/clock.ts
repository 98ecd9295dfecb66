// The data plane's clock: milliseconds of CLOCK_MONOTONIC as a wrapping 32-bit number. All threads
// of the machine read the same, so that what one worker wrote down means the same to the next.

/** A reader of the clock that allocates nothing. */
export function monotonicClock(): () => number {
  const offset = (Number(process.hrtime.bigint() / 1000n) / 1000) - performance.now();
  return () => Math.trunc(performance.now() + offset) | 0;
}

/** The wall clock's time, in milliseconds, of a moment `nowMs` of the data plane's clock. */
export function wallClockOf(momentMs: number, nowMs: number): number {
  return Date.now() - ((nowMs - momentMs) | 0);
}
