// The modules of one data worker: an instance of each, and the places that they have in this
// worker's core. All of it happens between two turns, or in a standby.

import type { Core } from '../../engine/core.ts';
import {
  attachEvaluate, attachInspect, disableModule, readModules, type ModuleFault,
} from '../../engine/modules.ts';
import { instantiateModule, type ModuleInstance } from '../../modules/instance.ts';
import { monotonicClock } from '../clock.ts';
import { THREAD_CONTROL } from '../thread-state.ts';
import { LOG_LINES_LIMIT, MODULE_FAULT_LIMIT } from './limits.ts';
import type { ModuleEndpoint, ModuleLoad, ModulesOfWorker } from './load.ts';

const LOG_WINDOW_MS = 1000;

/** What a data worker tells of its modules. */
export type ModuleReports =
  /** `isOver`: it is not asked any more. */
  | {
    type: 'moduleFault'; place: number; kind: ModuleFault['kind']; message: string; isOver: boolean;
  }
  | { type: 'moduleLog'; place: number; level: string; message: string; suppressed: number }
  | { type: 'moduleSizes'; sizes: [place: number, bytes: number][] };

type Report = (report: ModuleReports) => void;

/** Lets some lines a second through, and counts the others. */
class LogGate {
  #sinceMs = -Infinity;
  #lines = 0;
  #suppressed = 0;

  /** How many lines were kept back before this one; -1 where this one is, too. */
  pass(nowMs: number): number {
    if (nowMs - this.#sinceMs >= LOG_WINDOW_MS) {
      this.#sinceMs = nowMs;
      this.#lines = 0;
    }
    this.#lines += 1;
    if (this.#lines > LOG_LINES_LIMIT) {
      this.#suppressed += 1;
      return -1;
    }
    const suppressed = this.#suppressed;
    this.#suppressed = 0;
    return suppressed;
  }
}

export class ModuleInstances {
  readonly #core: Core;
  readonly #state: Int32Array;
  readonly #report: Report;
  readonly #instances = new Map<number, ModuleInstance>();
  readonly #faults = new Map<number, number>();
  readonly #clock = monotonicClock();

  constructor(core: Core, state: Int32Array, report: Report) {
    this.#core = core;
    this.#state = state;
    this.#report = report;
  }

  /** Makes what is new, configures it and tells it of the pods; only once all of it is ready, it is
   * put in its places. Throws what a module says against it; then nothing has changed. */
  change({ changes, endpoints }: ModulesOfWorker): void {
    const made = changes.map(({ place, load }) =>
      ({ place, instance: load === null ? null : this.#make(place, load, endpoints) }));
    for (const { place, instance } of made) {
      this.#faults.delete(place);
      if (instance === null) this.#instances.delete(place);
      else this.#instances.set(place, instance);
      attachEvaluate(this.#core, place, instance?.evaluate ?? null);
      attachInspect(this.#core, place, instance === null ? null
        : (flow, offset, bytes) => instance.inspect(flow, offset, bytes));
    }
  }

  /** Tells those that are asked of the node's pods. One that fails over it is switched off. */
  tell(endpoints: ModuleEndpoint[]): void {
    const off = readModules(this.#core).filter(({ disabled }) => disabled);
    for (const [place, instance] of this.#instances) {
      if (off.some((entry) => entry.place === place)) continue;
      try {
        this.#guard(place, () => instance.endpoints(endpoints));
      } catch (error) {
        disableModule(this.#core, place);
        const message = `told of the node's pods: ${(error as Error).message}`;
        this.#report({ type: 'moduleFault', place, kind: 'trap', message, isOver: true });
      }
    }
  }

  /** Bytes of each one's memory. */
  sizes(): [place: number, bytes: number][] {
    return [...this.#instances].map(([place, instance]) => [place, instance.memoryBytes()]);
  }

  /** Told of a fault that the core has recovered from. */
  fault({ place, kind, message }: ModuleFault): void {
    const faults = (this.#faults.get(place) ?? 0) + 1;
    this.#faults.set(place, faults);
    const isOver = faults >= MODULE_FAULT_LIMIT;
    if (isOver) disableModule(this.#core, place);
    if (faults > MODULE_FAULT_LIMIT) return;
    this.#report({ type: 'moduleFault', place, kind, message, isOver });
  }

  #make(place: number, load: ModuleLoad, endpoints: ModuleEndpoint[]): ModuleInstance {
    return this.#guard(place, () => {
      const instance = instantiateModule(load.image, this.#hostOf(place));
      instance.configure(load.config);
      instance.endpoints(endpoints);
      return instance;
    });
  }

  #hostOf(place: number): Parameters<typeof instantiateModule>[1] {
    const gate = new LogGate();
    return {
      nowMs: () => this.#clock() >>> 0,
      log: (level, message) => {
        const suppressed = gate.pass(performance.now());
        if (suppressed < 0) return;
        this.#report({ type: 'moduleLog', place, level, message, suppressed });
      },
    };
  }

  /** Has the watchdog see that a module is being told something. */
  #guard<T>(place: number, work: () => T): T {
    Atomics.store(this.#state, THREAD_CONTROL, place + 1);
    try {
      return work();
    } finally {
      Atomics.store(this.#state, THREAD_CONTROL, 0);
    }
  }
}
