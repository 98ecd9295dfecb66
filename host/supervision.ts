// The supervisor (supervisor.ts) as the main thread sees it.

import { Worker } from 'node:worker_threads';
import type { Core } from '../engine/core.ts';
import type { Log } from '../engine/log.ts';
import type { RunningThread, ThreadEvents } from './data-thread.ts';
import type { WorkerData } from './worker.ts';
import type { Keeper } from './worker-thread.ts';
import type { Stuck, SupervisorCommand, SupervisorData, SupervisorReport } from './supervisor.ts';

export interface SupervisionOptions {
  core: Core;
  module: WebAssembly.Module;
  log: Log;
  onStuck(stuck: Stuck): void;
}

export class Supervision implements Keeper {
  readonly #options: SupervisionOptions;
  readonly #thread: Worker;
  readonly #events = new Map<number, ThreadEvents>();
  #nextId = 1;

  constructor(options: SupervisionOptions) {
    this.#options = options;
    const data: SupervisorData = { module: options.module, memory: options.core.memory };
    this.#thread = new Worker(new URL('./supervisor.js', import.meta.url), {
      workerData: data, name: 'culvert-supervisor',
    });
    this.#thread.on('message', (report: SupervisorReport) => this.#hear(report));
    this.#thread.on('error', ({ message }: Error) => {
      options.log.error({ error: message }, 'the supervisor of the data workers crashed');
    });
    this.#thread.on('exit', () => this.#over());
  }

  start(data: WorkerData, events: ThreadEvents): RunningThread {
    const id = this.#nextId;
    this.#nextId += 1;
    this.#events.set(id, events);
    this.#thread.postMessage({ verb: 'start', id, data } satisfies SupervisorCommand,
      [data.commands]);
    return { id, terminate: () => this.#tell({ verb: 'terminate', id }) };
  }

  note(worker: number, running: number | null, standby: number | null): void {
    this.#tell({ verb: 'note', worker, running, standby });
  }

  /** Looks for modules that do not return, or does not: there may be none. */
  watch(isOn: boolean): void {
    this.#tell({ verb: 'watch', isOn });
  }

  /** Ends it. Precondition: its threads have ended. */
  async close(): Promise<void> {
    await this.#thread.terminate();
  }

  #tell(command: SupervisorCommand): void {
    this.#thread.postMessage(command);
  }

  #hear(report: SupervisorReport): void {
    if (report.type === 'stuck') return this.#options.onStuck(report);
    const events = this.#events.get(report.id);
    if (report.type === 'failed') return events?.onError(report.message);
    this.#events.delete(report.id);
    events?.onExit(report.next);
  }

  /** Threads end with the one that has started them. */
  #over(): void {
    for (const events of [...this.#events.values()]) events.onExit(null);
    this.#events.clear();
  }
}
