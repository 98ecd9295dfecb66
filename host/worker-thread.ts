// One data worker as the main thread sees it: commands to it, reports from it, and another one when
// it dies. Devices and tables outlive a worker: descriptors are the main thread's, tables are in
// shared memory, so a new worker goes on where the old one stopped.

import { MessageChannel, Worker } from 'node:worker_threads';
import type { Core } from '../engine/core.ts';
import type { Log } from '../engine/log.ts';
import { endTurn } from '../engine/tables/grace.ts';
import { closeFd, openEventFd, signalEventFd } from '../ffi/file.ts';
import type { Command, DeviceSpec, WorkerData, WorkerReport } from './worker.ts';

/** Wait before a new worker after a crash: doubles up to the limit, and is forgotten after a while
 * without one. */
const RESTART_FIRST_MS = 20;
const RESTART_LIMIT_MS = 5000;
const RESTART_FORGET_MS = 30000;

export interface WorkerThreadOptions {
  core: Core;
  module: WebAssembly.Module;
  log: Log;
  /** The worker's number; its slots and counters go by it. */
  worker: number;
  /** What a worker has that starts. */
  devices: ReadonlyMap<number, DeviceSpec>;
  /** Told of all reports but answers to commands. */
  onReport(report: Exclude<WorkerReport, { type: 'done' }>): void;
}

interface Waiting {
  resolve(): void;
  reject(error: Error): void;
}

// Omit over each kind of command, not over their union.
type CommandBody = Command extends infer C ? (C extends Command ? Omit<C, 'id'> : never) : never;

export class WorkerThread {
  /** Times that it died since the start. */
  crashes = 0;
  readonly #options: WorkerThreadOptions;
  readonly #wakeFd = openEventFd();
  readonly #waiting = new Map<number, Waiting>();
  #worker: Worker | null = null;
  #commands: MessageChannel['port1'] | null = null;
  #nextId = 1;
  #restartMs = RESTART_FIRST_MS;
  #startedMs = 0;
  #isStopping = false;
  #isStopped = false;
  #restartTimer: NodeJS.Timeout | null = null;

  constructor(options: WorkerThreadOptions) {
    this.#options = options;
    this.#start();
  }

  /** True while it turns packets over. */
  get isRunning(): boolean {
    return this.#worker !== null;
  }

  /** Resolves when it has done what it was told. A worker that dies over it is told no more: the
   * next one has the devices as they are then; one that has ended for good has none. */
  command(body: CommandBody): Promise<void> {
    if (this.#isStopped) return Promise.resolve();
    const id = this.#nextId;
    this.#nextId += 1;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#commands?.postMessage({ ...body, id });
      signalEventFd(this.#wakeFd);
    });
  }

  /** Ends it after the turn it is in. */
  async stop(): Promise<void> {
    this.#isStopping = true;
    if (this.#restartTimer !== null) clearTimeout(this.#restartTimer);
    const worker = this.#worker;
    if (worker !== null) {
      const exited = new Promise<void>((resolve) => worker.once('exit', () => resolve()));
      await this.command({ verb: 'stop' });
      await exited;
    }
    this.#isStopped = true;
    this.#resolveAll();
    closeFd(this.#wakeFd);
  }

  #start(): void {
    const { port1, port2 } = new MessageChannel();
    const { core, module, worker: number, log } = this.#options;
    const data: WorkerData = {
      module, memory: core.memory, worker: number, wakeFd: this.#wakeFd, commands: port2,
    };
    const worker = new Worker(new URL('./worker.js', import.meta.url), {
      workerData: data, transferList: [port2], name: `culvert-data-${number}`,
    });
    this.#worker = worker;
    this.#commands = port1;
    this.#startedMs = performance.now();
    port1.unref();
    worker.on('message', (report: WorkerReport) => this.#hear(report));
    worker.on('error', (error: Error) => {
      log.error({ worker: number, error: error.message }, 'data worker crashed');
    });
    worker.on('exit', () => this.#exited(worker, port1));
  }

  #exited(worker: Worker, commands: MessageChannel['port1']): void {
    commands.close();
    if (this.#worker !== worker) return;
    this.#worker = null;
    this.#commands = null;
    const { core, log, worker: number } = this.#options;
    endTurn(core, number);
    if (this.#isStopping) return this.#resolveAll();
    this.crashes += 1;
    if (performance.now() - this.#startedMs > RESTART_FORGET_MS) this.#restartMs = RESTART_FIRST_MS;
    log.warn({ worker: number, inMs: this.#restartMs }, 'starting another data worker');
    this.#restartTimer = setTimeout(() => this.#restart(), this.#restartMs);
    this.#restartMs = Math.min(this.#restartMs * 2, RESTART_LIMIT_MS);
  }

  /** Starts a worker with all devices. Commands that were under way are covered by that. */
  #restart(): void {
    this.#restartTimer = null;
    const orphans = [...this.#waiting.values()];
    this.#waiting.clear();
    this.#start();
    const { log, devices, worker } = this.#options;
    this.command({ verb: 'attach', devices: [...devices.values()], isFirst: false })
      .catch((error: Error) => {
        log.error({ worker, error: error.message }, 'cannot attach devices again');
      });
    for (const orphan of orphans) orphan.resolve();
  }

  /** With the last worker gone, nothing uses a descriptor any more. */
  #resolveAll(): void {
    for (const waiting of this.#waiting.values()) waiting.resolve();
    this.#waiting.clear();
  }

  #hear(report: WorkerReport): void {
    if (report.type !== 'done') return this.#options.onReport(report);
    const waiting = this.#waiting.get(report.id);
    this.#waiting.delete(report.id);
    if (report.error === null) waiting?.resolve();
    else waiting?.reject(new Error(report.error));
  }
}
