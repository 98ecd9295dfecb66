// The data workers together: each has every device, by a descriptor of its own to read from. A TUN
// has a queue for each worker, the underlay a socket of one group; the kernel chooses among them by
// the flow. The descriptor of a worker that is being replaced stays open, and its packets wait.

import { availableParallelism } from 'node:os';
import { DIRECTORY_WORKER_COUNT, WORKER_LIMIT } from '../wasm/abi/layout.ts';
import type { Core } from '../engine/core.ts';
import type { Log } from '../engine/log.ts';
import { readModules } from '../engine/modules.ts';
import type { TapBatch } from './capture-tap.ts';
import { OwnThreads, type Report } from './data-thread.ts';
import { REHEARSAL_LIMIT_MS } from './modules/limits.ts';
import type { ModuleReports } from './modules/instances.ts';
import type { ModuleChange, ModuleEndpoint, ModuleLoad, ModulesOfWorker } from './modules/load.ts';
import { Supervision } from './supervision.ts';
import type { Stuck } from './supervisor.ts';
import { WorkerThread } from './worker-thread.ts';
import type { DeviceSpec } from './worker.ts';

/** Processors of a machine that leaves its one worker alone. */
const SMALL_MACHINE = 2;

export interface DataPlaneOptions {
  /** Its directory says how many workers there are. */
  core: Core;
  module: WebAssembly.Module;
  log: Log;
  /** Workers turn nothing over before begin(): another process may still do so. */
  isHeld?: boolean;
  /** A device ended by itself: its interface was deleted. It is detached already. */
  onLost(index: number, errno: number): void;
  /** The TAP of tier T3 was deleted; frames for it are lost until the core makes none. */
  onTapLost(): void;
  /** A worker tells of its modules. */
  onModule?(report: ModuleReports): void;
  /** A module did not return. */
  onStuck?(stuck: Stuck): void;
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
  /** By place. */
  readonly #modules = new Map<number, ModuleLoad>();
  #moduleEndpoints: ModuleEndpoint[] = [];
  #supervision: Supervision | null = null;
  #isTapLost = false;
  /** Is given packets while somebody looks at them. */
  onCaptured: ((batch: TapBatch) => void) | null = null;

  constructor(options: DataPlaneOptions) {
    this.#options = options;
    const { core, module, log, isHeld = false } = options;
    const count = core.directory(DIRECTORY_WORKER_COUNT);
    const threads = new OwnThreads();
    this.workers = Array.from({ length: count }, (_, worker) => new WorkerThread({
      core, module, log, worker, threads, isHeld,
      devices: this.#devices,
      modules: () => this.#modulesNow(),
      onReport: (report) => this.#hear(report),
    }));
  }

  /** The name of a device; its number where there is none any more. */
  deviceName(index: number): string {
    return this.#devices.get(index)?.name ?? `device-${index}`;
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
  async attach(...devices: DeviceSpec[]): Promise<void> {
    for (const device of devices) this.#devices.set(device.index, device);
    const outcomes = await Promise.allSettled(
      this.workers.map((worker) => worker.command({ verb: 'attach', devices })));
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

  /** Has workers that were held turn packets over. Those that an earlier process had in its hands
   * come first. */
  begin(): void {
    for (const worker of this.workers) worker.begin();
  }

  /** Has the workers turn nothing over any more after the turns they are in. */
  async halt(): Promise<void> {
    await Promise.all(this.workers.map((worker) => worker.halt()));
  }

  /** Ends the workers after the turns they are in. */
  async stop(): Promise<void> {
    await Promise.all(this.workers.map((worker) => worker.stop()));
    await this.#supervision?.close();
    this.#supervision = null;
  }

  /** Puts instances of modules in their places, in every worker between two of its turns. The
   * standbys try it first, so that a module which fails there, or does not return, costs no packet.
   * Rejects with the reason; then every place has what it had before. */
  async changeModules(changes: ModuleChange[]): Promise<void> {
    await this.#supervise();
    const before = changes.map(({ place }) =>
      ({ place, load: this.#modules.get(place) ?? null }));
    this.#note(changes);
    const command = { verb: 'modules', changes, endpoints: this.#moduleEndpoints } as const;
    try {
      const rehearsed = await Promise.all(this.workers.map((worker) =>
        worker.rehearse(command, REHEARSAL_LIMIT_MS)));
      const isNew = changes.some(({ load }) => load !== null);
      if (isNew && !rehearsed.every(Boolean)) {
        throw new Error('its configure() or endpoints() does not return, or no standby is there '
          + 'to try them');
      }
      await Promise.all(this.workers.map(async (worker) => {
        if (!await worker.settle()) await worker.perform(command);
      }));
    } catch (error) {
      this.#note(before);
      for (const worker of this.workers) worker.renewStandby();
      await Promise.allSettled(this.workers.map((worker) =>
        worker.perform({ ...command, changes: before })));
      throw error;
    }
    if (this.#modules.size === 0) this.#rest();
  }

  /** Tells all modules of the node's pods. */
  async tellModules(endpoints: ModuleEndpoint[]): Promise<void> {
    this.#moduleEndpoints = endpoints;
    if (this.#modules.size === 0) return;
    const command = { verb: 'endpoints', endpoints } as const;
    await Promise.all(this.workers.map((worker) =>
      worker.rehearse(command, REHEARSAL_LIMIT_MS)));
    await Promise.all(this.workers.map((worker) => worker.perform(command)));
  }

  /** Has all workers report the sizes of their modules. */
  async measureModules(): Promise<void> {
    if (this.#modules.size === 0) return;
    await Promise.all(this.workers.map((worker) => worker.perform({ verb: 'measure' })));
  }

  /** From the first module on the workers' threads are the supervisor's, and each has a standby. */
  async #supervise(): Promise<void> {
    const { core, module, log, onStuck } = this.#options;
    this.#supervision ??= new Supervision({
      core, module, log, onStuck: (stuck) => onStuck?.(stuck),
    });
    const supervision = this.#supervision;
    supervision.watch(true);
    await Promise.all(this.workers.map((worker) => worker.keep(supervision)));
  }

  /** Without modules there is nothing to stand by for. */
  #rest(): void {
    this.#supervision?.watch(false);
    for (const worker of this.workers) worker.dropStandby();
  }

  /** What a thread has that starts: no module that is off, which may not even let it start. */
  #modulesNow(): ModulesOfWorker {
    const off = readModules(this.#options.core).filter(({ disabled }) => disabled);
    const changes = [...this.#modules].map(([place, load]) => ({ place, load }))
      .filter(({ place }) => !off.some((entry) => entry.place === place));
    return { changes, endpoints: this.#moduleEndpoints };
  }

  #note(changes: ModuleChange[]): void {
    for (const { place, load } of changes) {
      if (load === null) this.#modules.delete(place);
      else this.#modules.set(place, load);
    }
  }

  async #takeBack(index: number): Promise<void> {
    await Promise.all(this.workers.map((worker) => worker.command({ verb: 'detach', index })));
  }

  #hear(report: Report): void {
    switch (report.type) {
      case 'lost':
        return this.#lost(report.index, report.errno);
      case 'tapLost':
        if (!this.#isTapLost) this.#options.onTapLost();
        this.#isTapLost = true;
        return;
      case 'captured':
        return this.onCaptured?.(report.batch);
      case 'uncut':
        return this.#options.log.warn({ device: report.name },
          'the kernel no longer cuts trains of datagrams: the way out lacks checksum offload');
      default:
        return this.#options.onModule?.(report);
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
