// The supervisor's thread: it owns the threads of data workers while there are policy modules, and
// does nothing else, so that a module that does not return is noticed and its thread replaced while
// the main thread is busy. Its other half is supervision.ts.
//
// Theory of operation. Only who has started a thread can end it. A module that loops is switched
// off first, then its thread is ended: nothing else gets a thread out of such a loop. Once that has
// gone, the standby is let go. It finds in shared memory which packets the other had in its hands.

import { parentPort, workerData } from 'node:worker_threads';
import type { Worker } from 'node:worker_threads';
import { Core } from '../engine/core.ts';
import { disableModule } from '../engine/modules.ts';
import { endTurn } from '../engine/tables/grace.ts';
import { signalEventFd } from '../ffi/file.ts';
import { startWorker } from './data-thread.ts';
import { GO_INSTEAD, THREAD_GO } from './thread-state.ts';
import type { WorkerData } from './worker.ts';
import { WATCH_MS } from './modules/limits.ts';
import { CallWatch } from './modules/watch.ts';

export interface SupervisorData {
  module: WebAssembly.Module;
  memory: WebAssembly.Memory;
}

export type SupervisorCommand =
  | { verb: 'start'; id: number; data: WorkerData }
  | { verb: 'terminate'; id: number }
  /** The threads of a worker that run and stand by, null for none. */
  | { verb: 'note'; worker: number; running: number | null; standby: number | null }
  | { verb: 'watch'; isOn: boolean };

export type SupervisorReport =
  | { type: 'failed'; id: number; message: string }
  /** `next` is the standby that took its place. */
  | { type: 'exited'; id: number; next: number | null }
  | ({ type: 'stuck' } & Stuck);

/** A module that did not return: it is off, and its thread is being ended. */
export interface Stuck {
  worker: number;
  place: number;
  isStandby: boolean;
}

interface Owned {
  worker: Worker;
  data: WorkerData;
  watch: CallWatch;
  isEnding: boolean;
}

class Supervisor {
  readonly #core: Core;
  readonly #report: (report: SupervisorReport) => void;
  readonly #owned = new Map<number, Owned>();
  readonly #running = new Map<number, number>();
  readonly #standbys = new Map<number, number>();
  #timer: NodeJS.Timeout | null = null;

  constructor({ module, memory }: SupervisorData, report: (report: SupervisorReport) => void) {
    this.#core = Core.attach(module, memory);
    this.#report = report;
  }

  obey(command: SupervisorCommand): void {
    switch (command.verb) {
      case 'start':
        return this.#start(command.id, command.data);
      case 'terminate':
        return void this.#owned.get(command.id)?.worker.terminate();
      case 'note':
        setOrDelete(this.#running, command.worker, command.running);
        return setOrDelete(this.#standbys, command.worker, command.standby);
      case 'watch':
        if (this.#timer !== null) clearInterval(this.#timer);
        this.#timer = command.isOn ? setInterval(() => this.#look(), WATCH_MS) : null;
    }
  }

  #start(id: number, data: WorkerData): void {
    const worker = startWorker(data);
    const watch = new CallWatch(this.#core, data.worker, data.state);
    this.#owned.set(id, { worker, data, watch, isEnding: false });
    worker.on('error', ({ message }: Error) => this.#report({ type: 'failed', id, message }));
    worker.on('exit', () => this.#exited(id));
  }

  #look(): void {
    const nowMs = performance.now();
    for (const [id, owned] of this.#owned) {
      const { data: { worker }, watch } = owned;
      const isStandby = this.#running.get(worker) !== id;
      const place = owned.isEnding ? -1 : watch.look(nowMs, isStandby);
      if (place < 0) continue;
      owned.isEnding = true;
      disableModule(this.#core, place);
      void owned.worker.terminate();
      this.#report({ type: 'stuck', worker, place, isStandby });
    }
  }

  #exited(id: number): void {
    const owned = this.#owned.get(id);
    this.#owned.delete(id);
    if (owned === undefined) return;
    const { data: { worker } } = owned;
    let next: number | null = null;
    if (this.#running.get(worker) === id) {
      next = this.#standbys.get(worker) ?? null;
      const standby = next === null ? undefined : this.#owned.get(next);
      setOrDelete(this.#running, worker, next);
      this.#standbys.delete(worker);
      endTurn(this.#core, worker);
      if (standby !== undefined) {
        Atomics.store(standby.data.state, THREAD_GO, GO_INSTEAD);
        signalEventFd(standby.data.wakeFd);
      }
    } else if (this.#standbys.get(worker) === id) {
      this.#standbys.delete(worker);
    }
    this.#report({ type: 'exited', id, next });
  }
}

function setOrDelete(map: Map<number, number>, worker: number, id: number | null): void {
  if (id === null) map.delete(worker);
  else map.set(worker, id);
}

const port = parentPort;
if (port !== null) {
  const supervisor = new Supervisor(
    workerData as SupervisorData, (report) => port.postMessage(report));
  port.on('message', (command: SupervisorCommand) => supervisor.obey(command));
}
