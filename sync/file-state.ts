// Between the source `file`, which gives everything each time, and the state, which wants what has
// changed.

import type { Log } from '../engine/log.ts';
import type { Entry } from './objects.ts';
import { NO_NODE } from './nodes.ts';
import type { ClusterState } from './state.ts';
import { findDuplicates } from './translate.ts';
import type { Sink } from './watch.ts';

/** Hands good readings on and tells the operator about the others: the last good one is what the
 * operator means, so it does not count as stale. */
export class FileState implements Sink {
  readonly #state: ClusterState;
  readonly #log: Log;
  /** What the last good reading had. */
  #known = new Map<string, Pick<Entry, 'kind' | 'key'>>();

  constructor(state: ClusterState, log: Log) {
    this.#state = state;
    this.#log = log;
  }

  state(entries: readonly Entry[]): void {
    const problems = findDuplicates(entries);
    if (!entries.some(({ kind }) => kind === 'Node')) problems.push(NO_NODE);
    if (problems.length > 0) return this.problem(problems);
    const known = new Map(entries.map(({ kind, key }) => [`${kind} ${key}`, { kind, key }]));
    this.#state.begin();
    for (const [id, { kind, key }] of this.#known) {
      if (!known.has(id)) this.#state.remove(kind, key, '');
    }
    this.#known = known;
    for (const entry of entries) this.#state.upsert(entry);
    this.#state.commit();
    this.#log.info(this.#state.counts, 'objects read');
    this.#state.setHealth({ source: 'file', fresh: true, staleSinceMs: null, problems: [] });
  }

  problem(problems: readonly string[]): void {
    for (const problem of problems) this.#log.error({}, problem);
    this.#log.error(
      { problems: problems.length }, 'the objects are not used; the last state stays');
  }
}
