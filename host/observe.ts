// `observe`: verdicts with names, for those who watch. The rings are read only while somebody does.

import type { Connection } from '../engine/connection.ts';
import type { Core } from '../engine/core.ts';
import type { VerdictReport } from '../engine/model.ts';
import type { PolicyTables } from '../engine/tables/policy.ts';
import { VerdictReader, type Verdict } from '../engine/verdicts.ts';
import { WallClock } from './clock.ts';

/** How often the rings are read. */
const READ_MS = 50;
/** Verdicts in one notification. */
const BATCH_LIMIT = 500;

export interface ObserverOptions {
  core: Core;
  policy: PolicyTables;
  /** The pod that has an address, as `namespace/name`, or null. */
  podOf(address: string): string | null;
  /** The name of the module at a place of the core's table, or null. */
  moduleAt(place: number): string | null;
}

export class Observer {
  readonly #options: ObserverOptions;
  readonly #watchers = new Set<Connection>();
  readonly #clock = new WallClock();
  #reader: VerdictReader | null = null;
  #timer: NodeJS.Timeout | null = null;

  constructor(options: ObserverOptions) {
    this.#options = options;
  }

  /** The verdicts that the rings still hold. */
  recent(): VerdictReport[] {
    return this.#report(new VerdictReader(this.#options.core, true).read());
  }

  /** Sends a connection every verdict from now on, as `verdicts` notifications. */
  follow(connection: Connection): void {
    this.#watchers.add(connection);
    void connection.closed.then(() => this.#leave(connection));
    if (this.#timer !== null) return;
    this.#reader = new VerdictReader(this.#options.core);
    this.#timer = setInterval(() => this.#tell(), READ_MS);
  }

  close(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
    this.#reader = null;
  }

  #leave(connection: Connection): void {
    this.#watchers.delete(connection);
    if (this.#watchers.size === 0) this.close();
  }

  #tell(): void {
    const reader = this.#reader;
    if (reader === null) return;
    const verdicts = this.#report(reader.read());
    const { lost } = reader;
    reader.lost = 0;
    if (verdicts.length === 0 && lost === 0) return;
    for (let first = 0; first === 0 || first < verdicts.length; first += BATCH_LIMIT) {
      const batch = verdicts.slice(first, first + BATCH_LIMIT);
      for (const watcher of this.#watchers) {
        watcher.notify('verdicts', { verdicts: batch, lost: first === 0 ? lost : 0 });
      }
    }
  }

  #report(verdicts: Verdict[]): VerdictReport[] {
    const { policy, podOf, moduleAt } = this.#options;
    return verdicts.map(({ moment, device: _, answer, module, ...verdict }) => {
      const rule = module < 0 ? policy.explain(answer) : null;
      return {
        ...verdict,
        time: new Date(this.#clock.timeOf(moment)).toISOString(),
        sourcePod: podOf(verdict.source),
        destinationPod: podOf(verdict.destination),
        policy: rule?.policy ?? null,
        rule: rule?.rule ?? null,
        module: module < 0 ? null : moduleAt(module),
      };
    });
  }
}
