// Reads something again and again, where nobody tells of its changes.

import { pause } from './bell.ts';

/** Waits after what failed: they double. */
const RETRY_FIRST_MS = 1000;

/** Something that can be read. Reading throws what the operator should know. */
export interface Readable<T> {
  readonly periodMs: number;
  read(signal: AbortSignal): Promise<T>;
}

/** Who is told. */
export interface Follower<T> {
  value(value: T): void;
  /** It cannot be read now; what was read before still counts. */
  problem(problem: string): void;
}

/** Reads until the signal aborts. */
export async function follow<T>(
  source: Readable<T>, follower: Follower<T>, signal: AbortSignal,
): Promise<void> {
  let retryMs = RETRY_FIRST_MS;
  while (!signal.aborted) {
    let waitMs = source.periodMs;
    try {
      follower.value(await source.read(signal));
      retryMs = RETRY_FIRST_MS;
    } catch (error) {
      if (signal.aborted) return;
      follower.problem(error instanceof Error ? error.message : String(error));
      waitMs = Math.min(retryMs, waitMs);
      retryMs *= 2;
    }
    // Half of it is chance, so that the nodes of a cluster do not ask all at once.
    await pause(waitMs * (0.5 + (Math.random() / 2)), signal);
  }
}
