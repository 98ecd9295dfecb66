// The times of a reflector, all in milliseconds but for those that a server is told in seconds.

export interface Timing {
  /** The first wait after a failure; each further one is twice as long, up to the cap. */
  backoffFirstMs: number;
  backoffCapMs: number;
  /** A watch that held for so long was good: the next failure is a first one. */
  stableMs: number;
  /** The longest silence of a watch; then it is asked for again, since a connection whose other
   * side is gone is silent too. Less than a minute, and less than the servers' bookmarks take. */
  silenceMs: number;
  /** After so long without a word from the server about the resource its version is checked. */
  checkMs: number;
  /** A refusal for want of rights counts after so long: right after its start a server does not
   * know the roles yet. */
  refusalGraceMs: number;
  /** A resource that the server does not have counts as absent after so long; where its objects are
   * known, after so long. */
  absenceGraceMs: number;
  lossGraceMs: number;
  /** How often a resource that is forbidden or absent is asked for. */
  slowRetryMs: number;
  /** A server that does not do WatchList is asked for it again after so long. */
  watchListRetryMs: number;
  /** A watch that ends within this time and says nothing is a failure. */
  shortWatchMs: number;
  /** How long a server keeps a watch; up to twice as long, at random. */
  watchSeconds: number;
  /** Objects on a page of a list. */
  pageSize: number;
}

export const TIMING: Timing = {
  backoffFirstMs: 500,
  backoffCapMs: 10_000,
  stableMs: 10_000,
  silenceMs: 50_000,
  checkMs: 300_000,
  refusalGraceMs: 10_000,
  absenceGraceMs: 2000,
  lossGraceMs: 60_000,
  slowRetryMs: 30_000,
  watchListRetryMs: 3_600_000,
  shortWatchMs: 1000,
  watchSeconds: 300,
  pageSize: 500,
};
