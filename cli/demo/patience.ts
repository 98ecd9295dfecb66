// How long the demo waits for answers: longer on machines that take long for everything.

/** Whole milliseconds for an answer that is expected, and for one that policy blocks. */
export interface Patience {
  openMs: number;
  blockedMs: number;
}

const LEAST: Patience = { openMs: 4000, blockedMs: 1000 };
/** The part of the time that all nodes took to start which shows that nothing comes. */
const BLOCKED_PART = 1 / 8;

/** What a machine needs that took so long to start all nodes. */
export function patienceFor(startMs: number): Patience {
  return {
    openMs: Math.max(LEAST.openMs, Math.round(startMs)),
    blockedMs: Math.max(LEAST.blockedMs, Math.round(startMs * BLOCKED_PART)),
  };
}
