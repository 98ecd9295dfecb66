// The data workers together: each has every device, by a descriptor of its own to read from. A TUN
// has a queue for each worker, the underlay a socket of one group; the kernel chooses among them by
// the flow. The descriptor of a worker that is being replaced stays open, and its packets wait.

import { availableParallelism } from 'node:os';
import { DIRECTORY_WORKER_COUNT, WORKER_LIMIT } from '../wasm/abi/layout.ts';
import type { Core } from '../engine/core.ts';
import type { Log } from '../engine/log.ts';
import { WorkerThread } from './worker-thread.ts';
import type { DeviceSpec, WorkerReport } from './worker.ts';

/** Processors of a machine that leaves its one worker alone. */
const SMALL_MACHINE = 2;

export interface DataPlaneOptions {
  /** Its directory says how many workers there are. */
  core: Core;
  module: WebAssembly.Module;
  log: Log;
  /** A device ended by itself: its interface was deleted. It is detached already. */
  onLost(index: number, errno: number): void;
  /** The TAP of tier T3 was deleted; frames for it are lost until the core makes none. */
  onTapLost(): void;
}

/** How many workers there are to be: as configured, or, for 0, half of the machine's processors. */
export function workerCount(configured: number, processors = availableParallelism()): number {
  if (configured > 0) return configured;
  return processors <= SMALL_MACHINE ? 1 : Math.min(Math.floor(processors / 2), WORKER_LIMIT);
}

export class DataPlane {
  readonly workers: readonly WorkerThread[];
  readonly #options: DataPlaneOptions;
  readonly #devices = new Map<number, DeviceSpec>();
  /** Devices that ended, as long as a worker may still use their descriptors. */
  readonly #ending = new Map<number, Promise<void>>();
  #isTapLost = false;

  constructor(options: DataPlaneOptions) {
    this.#options = options;
    const { core, module, log } = options;
    const count = core.directory(DIRECTORY_WORKER_COUNT);
    this.workers = Array.from({ length: count }, (_, worker) => new WorkerThread({
      core, module, log, worker,
      devices: this.#devices,
      onReport: (report) => this.#hear(report),
    }));
  }

  /** True while every worker turns packets over. */
  get isRunning(): boolean {
    return this.workers.every(({ isRunning }) => isRunning);
  }

  /** Times that a worker died since the start. */
  get crashes(): number {
    return this.workers.reduce((sum, { crashes }) => sum + crashes, 0);
  }

  /** Gives devices to the workers, to each between two of its turns. Resolves when all workers read
   * them, and survives their crashes. */
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
    const outcomes = await Promise.allSettled(
      this.workers.map((worker) => worker.command({ verb: 'attach', devices, isFirst })));
    const failed = outcomes.find(({ status }) => status === 'rejected');
    if (failed?.status !== 'rejected') return;
    for (const { index } of devices) await this.detach(index);
    throw failed.reason;
  }

  /** Takes a device back. When it resolves, no worker uses the descriptors any longer. */
  async detach(index: number): Promise<void> {
    const ending = this.#ending.get(index);
    if (ending !== undefined) return ending;
    if (this.#devices.delete(index)) await this.#takeBack(index);
  }

  /** Ends the workers after the turns they are in. */
  async stop(): Promise<void> {
    await Promise.all(this.workers.map((worker) => worker.stop()));
  }

  async #takeBack(index: number): Promise<void> {
    await Promise.all(this.workers.map((worker) => worker.command({ verb: 'detach', index })));
  }

  #hear(report: Exclude<WorkerReport, { type: 'done' }>): void {
    switch (report.type) {
      case 'lost':
        return this.#lost(report.index, report.errno);
      case 'tapLost':
        if (!this.#isTapLost) this.#options.onTapLost();
        this.#isTapLost = true;
        return;
      case 'uncut':
        return this.#options.log.warn({ device: report.name },
          'the kernel no longer cuts trains of datagrams: the way out lacks checksum offload');
    }
  }

  /** The first worker to find a device ended speaks for all; a device is lost when none of them
   * uses its descriptors any longer. */
  #lost(index: number, errno: number): void {
    if (!this.#devices.delete(index)) return;
    this.#ending.set(index, this.#takeBack(index).then(() => {
      this.#ending.delete(index);
      this.#options.onLost(index, errno);
    }));
  }
}
