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
  readonly #events = new Map<number, ThreadEvents>();
  /** Null before the first thread is started, and after it crashed. */
  #thread: Worker | null = null;
  #isWatching = false;
  #nextId = 1;

  constructor(options: SupervisionOptions) {
    this.#options = options;
  }

  start(data: WorkerData, events: ThreadEvents): RunningThread {
    const id = this.#nextId;
    this.#nextId += 1;
    this.#events.set(id, events);
    this.#thread ??= this.#supervisor();
    this.#thread.postMessage({ verb: 'start', id, data } satisfies SupervisorCommand,
      [data.commands]);
    return { id, terminate: () => this.#tell({ verb: 'terminate', id }) };
  }

  note(worker: number, running: number | null, standby: number | null): void {
    this.#tell({ verb: 'note', worker, running, standby });
  }

  /** Looks for modules that do not return, or does not: there may be none. */
  watch(isOn: boolean): void {
    this.#isWatching = isOn;
    this.#tell({ verb: 'watch', isOn });
  }

  /** Ends it. Precondition: its threads have ended. */
  async close(): Promise<void> {
    await this.#thread?.terminate();
  }

  #supervisor(): Worker {
    const { core: { memory }, module, log } = this.#options;
    const data: SupervisorData = { module, memory };
    const thread = new Worker(new URL('./supervisor.js', import.meta.url), {
      workerData: data, name: 'culvert-supervisor',
    });
    thread.on('message', (report: SupervisorReport) => this.#hear(report));
    thread.on('error', ({ message }: Error) => {
      log.error({ error: message }, 'the supervisor of the data workers crashed');
    });
    thread.on('exit', () => this.#over());
    thread.postMessage({ verb: 'watch', isOn: this.#isWatching } satisfies SupervisorCommand);
    return thread;
  }

  #tell(command: SupervisorCommand): void {
    this.#thread?.postMessage(command);
  }

  #hear(report: SupervisorReport): void {
    if (report.type === 'stuck') return this.#options.onStuck(report);
    const events = this.#events.get(report.id);
    if (report.type === 'failed') return events?.onError(report.message);
    this.#events.delete(report.id);
    events?.onExit(report.next);
  }

  /** Threads end with the one that has started them. Another one starts with their successors. */
  #over(): void {
    this.#thread = null;
    const events = [...this.#events.values()];
    this.#events.clear();
    for (const { onExit } of events) onExit(null);
  }
}
