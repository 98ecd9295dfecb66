// One thread of a data worker as the main thread sees it: commands to it, answers and reports from
// it, and its end. Who owns the thread, and so may end it, is another matter (Threads).

import { MessageChannel, Worker, receiveMessageOnPort } from 'node:worker_threads';
import type { MessagePort } from 'node:worker_threads';
import { closeFd, openEventFd, signalEventFd } from '../ffi/file.ts';
import {
  GO_FIRST, GO_INSTEAD, THREAD_EVENTS, THREAD_GO, THREAD_STANDBY_EVENTS, THREAD_STATE_SIZE,
} from './thread-state.ts';
import type { Command, WorkerData, WorkerReport } from './worker.ts';

// Omit over each kind of command, not over their union.
export type CommandBody =
  Command extends infer C ? (C extends Command ? Omit<C, 'id'> : never) : never;
export type Report = Exclude<WorkerReport, { type: 'done' }>;

/** Told of a thread's end. */
export interface ThreadEvents {
  onError(message: string): void;
  /** `next` is the standby that its owner has let go in its place, or null. */
  onExit(next: number | null): void;
}

/** A thread that runs. */
export interface RunningThread {
  /** A number that no other thread of this owner has. */
  readonly id: number;
  /** Ends it wherever it is, also within a module. */
  terminate(): void;
}

/** Starts threads, and owns them. */
export interface Threads {
  start(data: WorkerData, events: ThreadEvents): RunningThread;
}

/** Starts a data worker's thread, which belongs to the thread that calls this. */
export function startWorker(data: WorkerData): Worker {
  return new Worker(new URL('./worker.js', import.meta.url), {
    workerData: data, transferList: [data.commands], name: `culvert-data-${data.worker}`,
  });
}

/** Threads that the main thread owns. */
export class OwnThreads implements Threads {
  #nextId = 0;

  start(data: WorkerData, events: ThreadEvents): RunningThread {
    const worker = startWorker(data);
    worker.on('error', (error: Error) => events.onError(error.message));
    worker.on('exit', () => events.onExit(null));
    this.#nextId += 1;
    return { id: this.#nextId, terminate: () => void worker.terminate() };
  }
}

export interface DataThreadOptions {
  threads: Threads;
  module: WebAssembly.Module;
  memory: WebAssembly.Memory;
  worker: number;
  /** It makes everything ready and waits for go(). */
  isStandby: boolean;
  onReport(report: Report): void;
  onError(message: string): void;
  onExit(thread: DataThread, next: number | null): void;
}

interface Waiting {
  resolve(isDone: boolean): void;
  reject(error: Error): void;
}

export class DataThread {
  readonly startedMs = performance.now();
  readonly #options: DataThreadOptions;
  readonly #wakeFd = openEventFd();
  readonly #state = new Int32Array(new SharedArrayBuffer(THREAD_STATE_SIZE));
  readonly #waiting = new Map<number, Waiting>();
  readonly #commands: MessagePort;
  readonly #thread: RunningThread;
  #nextId = 1;
  #isOver = false;

  constructor(options: DataThreadOptions) {
    this.#options = options;
    const { port1, port2 } = new MessageChannel();
    const { module, memory, worker, isStandby } = options;
    this.#commands = port1;
    const wakeFd = this.#wakeFd;
    port1.on('message', (report: WorkerReport) => this.#hear(report));
    port1.unref();
    this.#thread = options.threads.start(
      { module, memory, worker, wakeFd, isStandby, commands: port2, state: this.#state },
      { onError: options.onError, onExit: (next) => this.#exited(next) },
    );
  }

  get id(): number {
    return this.#thread.id;
  }

  isOf(threads: Threads): boolean {
    return this.#options.threads === threads;
  }

  /** Resolves when it has done what it was told: true; or when it has ended: false. */
  command(body: CommandBody): Promise<boolean> {
    if (this.#isOver) return Promise.resolve(false);
    const id = this.#nextId;
    this.#nextId += 1;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#commands.postMessage({ ...body, id });
      signalEventFd(this.#wakeFd);
    });
  }

  /** Has a standby begin: in the place of a thread that turns nothing over any more, or as the
   * first one of this process. */
  go(isFirst = false): void {
    Atomics.store(this.#state, THREAD_GO, isFirst ? GO_FIRST : GO_INSTEAD);
    if (!this.#isOver) signalEventFd(this.#wakeFd);
  }

  /** Ends it wherever it is. */
  terminate(): void {
    if (!this.#isOver) this.#thread.terminate();
  }

  #exited(next: number | null): void {
    if (this.#isOver) return;
    // What it has said before its end may still be under way.
    for (;;) {
      const received = receiveMessageOnPort(this.#commands) as
        { message: WorkerReport } | undefined;
      if (received === undefined) break;
      this.#hear(received.message);
    }
    this.#isOver = true;
    this.#commands.close();
    closeFd(this.#wakeFd);
    for (const word of [THREAD_EVENTS, THREAD_STANDBY_EVENTS]) {
      const descriptor = Atomics.load(this.#state, word) - 1;
      if (descriptor >= 0) closeFd(descriptor);
    }
    for (const waiting of this.#waiting.values()) waiting.resolve(false);
    this.#waiting.clear();
    this.#options.onExit(this, next);
  }

  #hear(report: WorkerReport): void {
    if (report.type !== 'done') return this.#options.onReport(report);
    const waiting = this.#waiting.get(report.id);
    this.#waiting.delete(report.id);
    if (report.error === null) waiting?.resolve(true);
    else waiting?.reject(new Error(report.error));
  }
}
