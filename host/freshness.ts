// Since when the state in force may not be the cluster's any more: while no sidecar is connected,
// or while the one that is does not hear from its source.

import type { Intake } from './intake.ts';

export class Freshness {
  readonly #nowMs: () => number;
  /** Unix time from which on nobody vouches for the state; null while somebody does, or where there
   * is none. */
  #sinceMs: number | null = null;
  #hasState = false;

  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
  }

  /** A state was put into force that was true at this time, as far as is known. */
  recalled(atMs: number): void {
    this.#hasState = true;
    this.#sinceMs = atMs;
  }

  /** Something about the sidecar has changed. */
  update({ isConnected, revision, health }: Pick<Intake, 'isConnected' | 'revision' | 'health'>,
  ): void {
    if (isConnected && revision === null) return;
    this.#hasState ||= isConnected;
    if (!this.#hasState) return;
    const isFresh = isConnected && health?.fresh !== false;
    const toldMs = health?.fresh === false ? health.staleSinceMs : null;
    this.#sinceMs = isFresh ? null : this.#sinceMs ?? toldMs ?? this.#nowMs();
  }

  /** As text for status, null while the state is fresh. */
  get staleSince(): string | null {
    return this.#sinceMs === null ? null : new Date(this.#sinceMs).toISOString();
  }
}
