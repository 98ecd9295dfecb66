// One data worker as the main thread sees it: the thread that turns packets over, and, while there
// are policy modules, a standby that has all devices and modules and waits to take its place.
// Devices and tables outlive a thread: descriptors are the main thread's, tables are in shared
// memory, so the next thread goes on where the old one stopped.
//
//   no standby:   runs -- crash --> (wait) --> another thread runs
//   standby:      runs -- crash, or ended within a module --> the standby runs, (wait) --> standby
//
// A worker may be held at first: its thread has all that it needs, and turns nothing over, as long
// as another process does.

import type { Core } from '../engine/core.ts';
import type { Log } from '../engine/log.ts';
import { endTurn } from '../engine/tables/grace.ts';
import { DataThread, type CommandBody, type Report, type Threads } from './data-thread.ts';
import type { ModulesOfWorker } from './modules/load.ts';
import type { DeviceSpec } from './worker.ts';

/** Wait before a new thread after a crash: doubles up to the limit, and is forgotten after a while
 * without one. */
const RESTART_FIRST_MS = 20;
const RESTART_LIMIT_MS = 5000;
const RESTART_FORGET_MS = 30000;

/** Who starts threads, and takes note of which runs and which stands by. */
export interface Keeper extends Threads {
  /** The threads of a worker, null for none. The keeper lets a standby go when the other ends. */
  note(worker: number, running: number | null, standby: number | null): void;
}

export interface WorkerThreadOptions {
  core: Core;
  module: WebAssembly.Module;
  log: Log;
  /** The worker's number; its slots and counters go by it. */
  worker: number;
  threads: Threads;
  /** It turns nothing over before begin(). */
  isHeld: boolean;
  /** What a thread has that starts. */
  devices: ReadonlyMap<number, DeviceSpec>;
  modules(): ModulesOfWorker;
  /** Told of all reports but answers to commands. */
  onReport(report: Report): void;
}

export class WorkerThread {
  /** Times that it died since the start. */
  crashes = 0;
  readonly #options: WorkerThreadOptions;
  #threads: Threads;
  /** Where standbys are started; null before there was one. */
  #keeper: Keeper | null = null;
  #wantsStandby = false;
  #running: DataThread | null = null;
  #standby: DataThread | null = null;
  /** Resolves once the standby has all that it needs. */
  #standbyReady: Promise<unknown> = Promise.resolve();
  /** Commands given while no thread runs: the next one has the devices as they are then. */
  readonly #orphans = new Set<() => void>();
  /** To be told of the ends of threads that were stopped. */
  readonly #exits = new Map<DataThread, () => void>();
  readonly #ends: Promise<void>[] = [];
  #restartMs = RESTART_FIRST_MS;
  #isHeld: boolean;
  #isStopping = false;
  #isStopped = false;
  /** Of what is to be started again. */
  readonly #timers = new Set<NodeJS.Timeout>();

  constructor(options: WorkerThreadOptions) {
    this.#options = options;
    this.#threads = options.threads;
    this.#isHeld = options.isHeld;
    this.#running = this.#start(this.#isHeld);
  }

  /** True while it turns packets over. */
  get isRunning(): boolean {
    return this.#running !== null;
  }

  /** True while a standby could take over. */
  get hasStandby(): boolean {
    return this.#standby !== null;
  }

  /** Resolves when it has done what it was told, and so has its standby. A thread that dies over it
   * is told no more: the next one has the devices as they are then; a worker that has ended for
   * good has none. */
  async command(body: CommandBody): Promise<void> {
    if (this.#isStopped) return;
    const others = this.#standby?.command(body).catch(() => {});
    if (this.#running === null) {
      await new Promise<void>((resolve) => void this.#orphans.add(resolve));
    } else {
      const isDone = await this.#running.command(body);
      if (!isDone && this.#running === null) {
        await new Promise<void>((resolve) => void this.#orphans.add(resolve));
      }
    }
    await others;
  }

  /** Tells the standby alone, as a rehearsal. False where there is none, or it has ended over it;
   * after `limitMs` it is ended. Rejects with what the standby answers. */
  async rehearse(body: CommandBody, limitMs: number): Promise<boolean> {
    await this.#standbyReady;
    const standby = this.#standby;
    if (standby === null) return false;
    const timer = setTimeout(() => standby.terminate(), limitMs);
    try {
      return await standby.command(body);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Tells the thread that runs alone. */
  async perform(body: CommandBody): Promise<void> {
    await this.#running?.command(body);
  }

  /** Has another standby made, which knows nothing of what this one was told in rehearsals. */
  renewStandby(): void {
    this.#endStandby();
    this.#startStandby();
  }

  /** From now on threads are started by `keeper`, and one of them stands by. Resolves when it has
   * all that it needs. */
  async keep(keeper: Keeper): Promise<void> {
    this.#threads = keeper;
    this.#keeper = keeper;
    this.#wantsStandby = true;
    this.#startStandby();
    await this.#standbyReady;
  }

  /** Has a thread that is not the keeper's replaced by the standby, between two of its turns. False
   * where the thread that runs is the keeper's already. */
  async settle(): Promise<boolean> {
    const { core, worker } = this.#options;
    const [before, next, keeper] = [this.#running, this.#standby, this.#keeper];
    if (keeper === null || next === null || before?.isOf(keeper) !== false) return false;
    this.#standby = null;
    // The old thread ends by itself; #exited() must not take that for a crash.
    this.#running = next;
    if (!await before.command({ verb: 'stop' })) endTurn(core, worker);
    if (!this.#isHeld) next.go();
    this.#startStandby();
    return true;
  }

  /** From now on there is no standby. */
  dropStandby(): void {
    this.#wantsStandby = false;
    this.#endStandby();
  }

  /** Has one that was held turn packets over, those first that an earlier process had read. */
  begin(): void {
    if (!this.#isHeld) return;
    this.#isHeld = false;
    this.#running?.go(true);
  }

  /** Has it turn nothing over any more after the turn it is in. Its threads end soon. */
  async halt(): Promise<void> {
    if (this.#isStopping) return;
    this.#isStopping = true;
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
    const threads = [this.#running, this.#standby].filter((thread) => thread !== null);
    await Promise.all(threads.map(async (thread) => {
      const exited = new Promise<void>((resolve) => void this.#exits.set(thread, resolve));
      if (await thread.command({ verb: 'stop' })) this.#ends.push(exited);
    }));
    this.#isStopped = true;
    this.#releaseOrphans();
  }

  /** Ends it after the turn it is in. */
  async stop(): Promise<void> {
    await this.halt();
    await Promise.all(this.#ends);
  }

  #start(isStandby: boolean): DataThread {
    const { core, module, worker: number, log, onReport } = this.#options;
    return new DataThread({
      threads: this.#threads, module, memory: core.memory, worker: number, isStandby, onReport,
      onError: (error) => log.error({ worker: number, error }, 'data worker crashed'),
      onExit: (thread, next) => this.#exited(thread, next),
    });
  }

  /** Where nothing runs there is nothing to stand by for: that comes first. */
  #startStandby(): void {
    const { log, devices, worker, modules } = this.#options;
    if (!this.#wantsStandby || this.#isStopping) return;
    if (this.#running === null || this.#standby !== null) return;
    const standby = this.#start(true);
    this.#standby = standby;
    this.#note();
    this.#standbyReady = Promise.all([
      standby.command({ verb: 'modules', ...modules() }),
      standby.command({ verb: 'attach', devices: [...devices.values()] }),
    ]).catch((error: Error) => {
      log.error({ worker, error: error.message }, 'cannot make a standby ready');
    });
  }

  #endStandby(): void {
    void this.#standby?.command({ verb: 'stop' });
    this.#standby = null;
    this.#note();
  }

  #note(): void {
    const keeper = this.#keeper;
    if (keeper === null) return;
    const running = this.#running?.isOf(keeper) === true ? this.#running.id : null;
    keeper.note(this.#options.worker, running, this.#standby?.id ?? null);
  }

  #exited(thread: DataThread, next: number | null): void {
    this.#exits.get(thread)?.();
    if (thread === this.#standby) {
      this.#standby = null;
      if (!this.#isStopping) this.#again(thread, () => this.#startStandby());
      return;
    }
    if (this.#running !== thread) return;
    this.#running = null;
    const { core, log, worker } = this.#options;
    if (next === null) endTurn(core, worker);
    if (this.#isStopping) return this.#releaseOrphans();
    this.crashes += 1;
    const standby = this.#standby;
    if (standby === null) {
      log.warn({ worker, inMs: this.#restartMs }, 'starting another data worker');
      return this.#again(thread, () => this.#restart());
    }
    this.#standby = null;
    this.#running = standby;
    if (next !== standby.id && !this.#isHeld) standby.go();
    log.warn({ worker }, 'the standby has taken over');
    this.#releaseOrphans();
    this.#again(thread, () => this.#startStandby());
  }

  /** Does something after a wait that grows as long as threads end soon. */
  #again(thread: DataThread, work: () => void): void {
    if (performance.now() - thread.startedMs > RESTART_FORGET_MS) {
      this.#restartMs = RESTART_FIRST_MS;
    }
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      work();
    }, this.#restartMs);
    this.#timers.add(timer);
    this.#restartMs = Math.min(this.#restartMs * 2, RESTART_LIMIT_MS);
  }

  /** Starts a thread with all devices. Commands that were under way are covered by that. */
  #restart(): void {
    const { log, devices, worker, modules } = this.#options;
    const running = this.#start(this.#isHeld);
    this.#running = running;
    this.#note();
    // Modules come first: no packet is judged without them.
    Promise.all([
      running.command({ verb: 'modules', ...modules() }),
      running.command({ verb: 'attach', devices: [...devices.values()] }),
    ]).catch((error: Error) => {
      log.error({ worker, error: error.message }, 'cannot attach devices again');
    });
    this.#releaseOrphans();
    this.#startStandby();
  }

  /** Whatever they wait for, the thread that runs now has it, or nothing runs any more. */
  #releaseOrphans(): void {
    for (const resolve of this.#orphans) resolve();
    this.#orphans.clear();
  }
}
