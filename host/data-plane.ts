// The data worker as the main thread sees it: commands to it, reports from it, and another one when
// it dies. Devices and tables outlive a worker: descriptors are the main thread's, tables are in
// shared memory, so a new worker goes on where the old one stopped.

import { MessageChannel, Worker } from 'node:worker_threads';
import type { Core } from '../engine/core.ts';
import { endTurn } from '../engine/tables/grace.ts';
import { closeFd, openEventFd, signalEventFd } from '../ffi/file.ts';
import type { Log } from '../engine/log.ts';
import type { Command, DeviceSpec, WorkerData, WorkerReport } from './worker.ts';

/** Wait before a new worker after a crash: doubles up to the limit, and is forgotten after a while
 * without one. */
const RESTART_FIRST_MS = 20;
const RESTART_LIMIT_MS = 5000;
const RESTART_FORGET_MS = 30000;

export interface DataPlaneOptions {
  core: Core;
  module: WebAssembly.Module;
  log: Log;
  /** A device ended by itself: its interface was deleted. It is detached already. */
  onLost(index: number, errno: number): void;
  /** The TAP of tier T3 was deleted; frames for it are lost until the core makes none. */
  onTapLost(): void;
}

interface Waiting {
  resolve(): void;
  reject(error: Error): void;
}

// Omit over each kind of command, not over their union.
type CommandBody = Command extends infer C ? (C extends Command ? Omit<C, 'id'> : never) : never;

export class DataPlane {
  /** Workers that died since the start. */
  crashes = 0;
  readonly #options: DataPlaneOptions;
  readonly #wakeFd = openEventFd();
  readonly #devices = new Map<number, DeviceSpec>();
  readonly #waiting = new Map<number, Waiting>();
  #worker: Worker | null = null;
  #commands: MessageChannel['port1'] | null = null;
  #nextId = 1;
  #restartMs = RESTART_FIRST_MS;
  #startedMs = 0;
  #isStopping = false;
  #restartTimer: NodeJS.Timeout | null = null;

  constructor(options: DataPlaneOptions) {
    this.#options = options;
    this.#start();
  }

  /** True while a worker turns packets over. */
  get isRunning(): boolean {
    return this.#worker !== null;
  }

  /** Gives devices to the worker, all between two of its turns. Resolves when the worker reads
   * them, and survives its crashes. */
  attach(...devices: DeviceSpec[]): Promise<void> {
    return this.#attach(devices, false);
  }

  /** Likewise for the first devices of a daemon; the packets that an earlier one had in its hands
   * come first. */
  begin(devices: DeviceSpec[]): Promise<void> {
    return this.#attach(devices, true);
  }

  async #attach(devices: DeviceSpec[], isFirst: boolean): Promise<void> {
    for (const device of devices) this.#devices.set(device.index, device);
    try {
      await this.#command({ verb: 'attach', devices, isFirst });
    } catch (error) {
      for (const { index } of devices) this.#devices.delete(index);
      throw error;
    }
  }

  /** Takes a device back. When it resolves, the worker no longer uses the descriptors. */
  async detach(index: number): Promise<void> {
    if (!this.#devices.delete(index)) return;
    await this.#command({ verb: 'detach', index });
  }

  /** Ends the worker after the turn it is in. */
  async stop(): Promise<void> {
    this.#isStopping = true;
    if (this.#restartTimer !== null) clearTimeout(this.#restartTimer);
    const worker = this.#worker;
    if (worker !== null) {
      const exited = new Promise<void>((resolve) => worker.once('exit', () => resolve()));
      await this.#command({ verb: 'stop' });
      await exited;
    }
    this.#resolveAll();
    closeFd(this.#wakeFd);
  }

  #start(): void {
    const { port1, port2 } = new MessageChannel();
    const { core, module } = this.#options;
    const data: WorkerData = {
      module, memory: core.memory, worker: 0, wakeFd: this.#wakeFd, commands: port2,
    };
    const worker = new Worker(new URL('./worker.js', import.meta.url), {
      workerData: data, transferList: [port2], name: 'culvert-data-0',
    });
    this.#worker = worker;
    this.#commands = port1;
    this.#startedMs = performance.now();
    port1.unref();
    worker.on('message', (report: WorkerReport) => this.#hear(report));
    worker.on('error', (error: Error) => {
      this.#options.log.error({ error: error.message }, 'data worker crashed');
    });
    worker.on('exit', () => this.#exited(worker, port1));
  }

  #exited(worker: Worker, commands: MessageChannel['port1']): void {
    commands.close();
    if (this.#worker !== worker) return;
    this.#worker = null;
    this.#commands = null;
    endTurn(this.#options.core, 0);
    if (this.#isStopping) return this.#resolveAll();
    this.crashes += 1;
    if (performance.now() - this.#startedMs > RESTART_FORGET_MS) this.#restartMs = RESTART_FIRST_MS;
    this.#options.log.warn({ inMs: this.#restartMs }, 'starting another data worker');
    this.#restartTimer = setTimeout(() => this.#restart(), this.#restartMs);
    this.#restartMs = Math.min(this.#restartMs * 2, RESTART_LIMIT_MS);
  }

  /** Starts a worker with all devices. Commands that were under way are covered by that. */
  #restart(): void {
    this.#restartTimer = null;
    const orphans = [...this.#waiting.values()];
    this.#waiting.clear();
    this.#start();
    this.#command({ verb: 'attach', devices: [...this.#devices.values()], isFirst: false })
      .catch((error: Error) => {
        this.#options.log.error({ error: error.message }, 'cannot attach devices again');
      });
    for (const orphan of orphans) orphan.resolve();
  }

  /** With the last worker gone, nothing uses a descriptor any more. */
  #resolveAll(): void {
    for (const waiting of this.#waiting.values()) waiting.resolve();
    this.#waiting.clear();
  }

  #command(body: CommandBody): Promise<void> {
    const id = this.#nextId;
    this.#nextId += 1;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#commands?.postMessage({ ...body, id });
      signalEventFd(this.#wakeFd);
    });
  }

  #hear(report: WorkerReport): void {
    if (report.type === 'lost') {
      this.#devices.delete(report.index);
      this.#options.onLost(report.index, report.errno);
      return;
    }
    if (report.type === 'tapLost') {
      this.#options.onTapLost();
      return;
    }
    if (report.type === 'uncut') {
      this.#options.log.warn({ device: report.name },
        'the kernel no longer cuts trains of datagrams: the way out lacks checksum offload');
      return;
    }
    const waiting = this.#waiting.get(report.id);
    this.#waiting.delete(report.id);
    if (report.error === null) waiting?.resolve();
    else waiting?.reject(new Error(report.error));
  }
}
