// The policy modules of this node: which there are, in which order they are asked, what becomes of
// one that fails. docs/MODULES.md tells what they are for.
//
// Theory of operation. A module that is added is compiled by a process of its own, stored, and
// instantiated in every worker at a place of the core's table that nobody reads; then a new list is
// published, which every flow is judged by from its next packet on, and the place of one that was
// replaced is given up. What fails before that leaves everything as it was. One change is made
// after the other.
//
// A module that is in use and fails is not asked any more after MODULE_FAULT_LIMIT faults, or once
// it did not return. It stays in the list, disabled: its failure verdict applies until it is added
// again or removed. So does that of a module which a daemon finds on its disk and cannot load.

import type { Core } from '../engine/core.ts';
import type { Log } from '../engine/log.ts';
import { RequestError } from '../engine/connection.ts';
import type {
  KeptModule, ModuleAdd, ModuleReport, ModuleState,
} from '../engine/model-modules.ts';
import { disableModule, MODULE_FAULTS, ModuleTable, type ModuleEntry } from '../engine/modules.ts';
import { MODULE_LIMIT, MODULE_PLACES } from '../wasm/abi/module.ts';
import { MODULE_MEMORY_CAP_BYTES } from '../modules/limits.ts';
import {
  GRANTS, inspectComponent, ModuleError, type ModuleImage, type WasiName,
} from '../modules/runtime.ts';
import type { DataPlane } from './data-plane.ts';
import type { ModuleReports } from './modules/instances.ts';
import { ENDPOINTS_SETTLE_MS, MODULE_FAULT_LIMIT, PLACE_WAIT_MS } from './modules/limits.ts';
import type { ModuleEndpoint } from './modules/load.ts';
import { hashOf, type ModuleStore } from './modules/store.ts';
import type { Stuck } from './supervisor.ts';

/** The name of what stands in for modules whose list cannot be read. */
export const UNREADABLE = 'unreadable-set';
const NO_HASH = '0'.repeat(64);

export interface ModulesOptions {
  core: Core;
  dataPlane: DataPlane;
  store: ModuleStore;
  log: Log;
  /** The pods of this node. */
  endpoints(): ModuleEndpoint[];
}

/** One module of the list. */
interface Held {
  kept: KeptModule;
  place: number;
  /** Null where it could not be loaded. */
  image: ModuleImage | null;
  /** Why it is not asked, or null. */
  reason: string | null;
}

export class Modules {
  readonly #options: ModulesOptions;
  readonly #table: ModuleTable;
  /** In the order in which they are asked. */
  #held: Held[] = [];
  /** The module that was last at a place: verdicts name places. */
  readonly #names = new Map<number, string>();
  readonly #sizes = new Map<number, number>();
  /** The last change. */
  #queue: Promise<unknown> = Promise.resolve();
  #told = '';
  #settleTimer: NodeJS.Timeout | null = null;

  constructor(options: ModulesOptions) {
    this.#options = options;
    this.#table = new ModuleTable(options.core);
  }

  /** Puts the modules on the disk into force. To be called before any packet is judged. Never
   * rejects: the failure verdict of what cannot be loaded applies. */
  async restore(): Promise<void> {
    const { store, log } = this.#options;
    let kept: KeptModule[] = [];
    try {
      kept = store.read();
    } catch (error) {
      log.error({ error: (error as Error).message }, 'the list of modules cannot be read');
      kept = [{
        name: UNREADABLE, sha256: NO_HASH, config: NO_HASH, failure: 'deny', mayAllow: false,
        perPacket: false, allow: [], memoryCapBytes: 0,
      }];
    }
    await this.#inOrder(async () => {
      if (kept.length > 0) await this.#tellNow();
      for (const one of kept) this.#held.push(await this.#recall(one));
      if (kept.length > 0) this.#publish();
    });
  }

  /** Takes a module into use, or another version of it; rejects with why not, and then all is as
   * before. */
  add(component: Uint8Array, add: ModuleAdd): Promise<ModuleReport> {
    return this.#inOrder(async () => {
      if (hashOf(component) !== add.sha256) {
        throw new RequestError('module', 'the component did not arrive as it was sent');
      }
      try {
        return await this.#add(component, add);
      } catch (error) {
        if (error instanceof RequestError) throw error;
        throw new RequestError(error instanceof ModuleError ? error.kind : 'module',
          (error as Error).message);
      }
    });
  }

  /** Takes a module out of use. Rejects where there is none of the name. */
  remove(name: string): Promise<ModuleReport> {
    return this.#inOrder(async () => {
      const held = this.#find(name);
      if (held === undefined) {
        throw new RequestError('module', `no module is called ${name}`);
      }
      const report = this.#report(held);
      const rest = this.#held.filter((one) => one !== held);
      this.#options.store.write(rest.map(({ kept }) => kept));
      this.#held = rest;
      this.#publish();
      await this.#vacate(held.place);
      this.#options.log.info({ module: name }, 'module removed');
      return report;
    });
  }

  /** All modules, in the order in which they are asked. */
  async list(): Promise<ModuleReport[]> {
    await this.#options.dataPlane.measureModules();
    return this.#held.map((held) => this.#report(held));
  }

  /** Resolves when all changes are made. */
  settle(): Promise<void> {
    return this.#inOrder(() => Promise.resolve());
  }

  states(): ModuleState[] {
    return this.#held.map(({ kept: { name }, reason }) =>
      ({ name, state: reason === null ? 'enabled' : 'disabled', reason }));
  }

  /** The name of the module at a place, null for none. */
  nameOf(place: number): string | null {
    return this.#names.get(place) ?? null;
  }

  /** Told that the node's pods have changed, or their identities. */
  endpointsChanged(): void {
    if (this.#held.length === 0 || this.#settleTimer !== null) return;
    this.#settleTimer = setTimeout(() => {
      this.#settleTimer = null;
      void this.#inOrder(() => this.#tellNow());
    }, ENDPOINTS_SETTLE_MS);
  }

  /** Hears what a worker tells of its modules. */
  hear(report: ModuleReports): void {
    const { log } = this.#options;
    if (report.type === 'moduleSizes') {
      for (const [place, bytes] of report.sizes) this.#sizes.set(place, bytes);
      return;
    }
    const held = this.#held.find(({ place }) => place === report.place);
    const module = this.nameOf(report.place);
    if (report.type === 'moduleLog') {
      const { message, suppressed } = report;
      const level = report.level in log ? report.level as keyof Log : 'info';
      const fields = suppressed === 0 ? { module } : { module, linesSuppressed: suppressed };
      return log[level](fields, message);
    }
    const { kind, message } = report;
    log.warn({ module, kind, error: message }, 'module failed');
    if (held === undefined || held.reason !== null) return;
    const counters = this.#table.counters(held.place);
    const faults = MODULE_FAULTS.reduce((sum, fault) => sum + counters[fault], 0);
    if (report.isOver || faults >= MODULE_FAULT_LIMIT) {
      this.#disable(held, `${Math.max(faults, 1)} faults, the last: ${kind}: ${message}`);
    }
  }

  /** Told that a module did not return in a worker, whose thread is being replaced. */
  stuck({ worker, place, isStandby }: Stuck): void {
    const held = this.#held.find((one) => one.place === place);
    this.#options.log.error({ module: this.nameOf(place), worker, isStandby },
      'a module did not return; its thread is replaced by one without it');
    if (held !== undefined) this.#disable(held, 'it did not return');
  }

  close(): void {
    if (this.#settleTimer !== null) clearTimeout(this.#settleTimer);
  }

  async #add(component: Uint8Array, add: ModuleAdd): Promise<ModuleReport> {
    const { store, log } = this.#options;
    const memoryCapBytes = add.memoryCapBytes ?? MODULE_MEMORY_CAP_BYTES;
    const { failure, mayAllow, perPacket, sha256 } = add;
    const grants = grantsOf(add.allow);
    const image = await this.#image({ sha256, allow: grants, memoryCapBytes }, component);
    if (perPacket && !image.stateful) {
      throw new RequestError('module', 'the module is not stateful, so it is asked once for each '
        + 'flow: it has to say so itself before it can be asked for each packet');
    }
    const name = add.name ?? image.name;
    const config = add.config ?? new Uint8Array(0);
    const before = this.#find(name);
    const kept: KeptModule = {
      name, sha256, config: hashOf(config), failure, mayAllow, perPacket, allow: grants,
      memoryCapBytes,
    };
    if (before === undefined && this.#held.length >= MODULE_LIMIT) {
      throw new RequestError('module', `there are ${MODULE_LIMIT} modules, which is the limit`);
    }
    const held = await this.#load(kept, image, config);
    const next = this.#arranged(held, before, add.order);
    try {
      store.put(component, config);
      store.write(next.map((one) => one.kept));
    } catch (error) {
      await this.#vacate(held.place);
      throw error;
    }
    this.#held = next;
    this.#publish();
    if (before !== undefined) await this.#vacate(before.place);
    log.info({ module: name, version: image.version, sha256, path: image.path },
      before === undefined ? 'module added' : 'module replaced');
    await this.#options.dataPlane.measureModules();
    return this.#report(held);
  }

  /** The list with a module in it: where the operator wants it, else where it was, else last. */
  #arranged(held: Held, before: Held | undefined, order: number | null): Held[] {
    const rest = this.#held.filter((one) => one !== before);
    const was = before === undefined ? rest.length : this.#held.indexOf(before);
    rest.splice(order ?? was, 0, held);
    return rest;
  }

  /** Instantiates a module in all workers, at a free place. */
  async #load(kept: KeptModule, image: ModuleImage, config: Uint8Array): Promise<Held> {
    const { dataPlane } = this.#options;
    const place = await this.#freePlace();
    this.#table.clear(place);
    this.#sizes.delete(place);
    this.#names.set(place, kept.name);
    await this.#tellNow();
    await dataPlane.changeModules([{ place, load: { name: kept.name, image, config } }]);
    return { kept, place, image, reason: null };
  }

  /** What a component was compiled to, now or before. Those on the disk need not be given. */
  async #image(
    making: Pick<KeptModule, 'sha256' | 'allow' | 'memoryCapBytes'>, component?: Uint8Array,
  ): Promise<ModuleImage> {
    const { store } = this.#options;
    const kept = store.image(making);
    if (kept !== null) return kept;
    const { sha256, memoryCapBytes } = making;
    const image = await inspectComponent(component ?? store.component(sha256),
      { allow: grantsOf(making.allow), memoryCapBytes });
    store.putImage(image);
    return image;
  }

  /** A module as the disk has it. */
  async #recall(kept: KeptModule): Promise<Held> {
    const { store, log } = this.#options;
    try {
      const image = await this.#image(kept);
      return await this.#load(kept, image, store.config(kept.config));
    } catch (error) {
      const { message } = error as Error;
      log.error({ module: kept.name, error: message, failure: kept.failure },
        'module cannot be loaded; its failure verdict applies');
      const place = await this.#freePlace();
      this.#names.set(place, kept.name);
      return { kept, place, image: null, reason: `it cannot be loaded: ${message}` };
    }
  }

  /** A place that no list has and no worker reads. */
  async #freePlace(): Promise<number> {
    const places = Array.from({ length: MODULE_PLACES }, (_, place) => place);
    for (;;) {
      const free = places.find((place) => this.#isFree(place));
      if (free !== undefined) return free;
      await new Promise((resolve) => setTimeout(resolve, PLACE_WAIT_MS));
    }
  }

  #isFree(place: number): boolean {
    return !this.#held.some((held) => held.place === place) && this.#table.isFree(place);
  }

  /** Has the workers let go of what was at a place. */
  async #vacate(place: number): Promise<void> {
    const { dataPlane, log } = this.#options;
    try {
      while (!this.#isFree(place)) {
        await new Promise((resolve) => setTimeout(resolve, PLACE_WAIT_MS));
      }
      await dataPlane.changeModules([{ place, load: null }]);
    } catch (error) {
      log.warn({ place, error: (error as Error).message }, 'a module stays in memory');
    }
  }

  /** Puts the list into force. */
  #publish(): void {
    this.#table.set(this.#held.map((held) => entryOf(held)));
  }

  #disable(held: Held, reason: string): void {
    if (held.reason !== null) return;
    const { name, failure } = held.kept;
    held.reason = reason;
    // Flows that it has judged go on by what it said.
    disableModule(this.#options.core, held.place);
    this.#options.log.error({ module: name, reason, failure },
      'module is disabled; its failure verdict applies');
  }

  /** Tells the modules of the pods, where that is not what they know. */
  async #tellNow(): Promise<void> {
    const { dataPlane, endpoints, log } = this.#options;
    const list = endpoints();
    const text = JSON.stringify(list);
    if (text === this.#told) return;
    this.#told = text;
    try {
      await dataPlane.tellModules(list);
    } catch (error) {
      log.warn({ error: (error as Error).message }, 'modules were not told of the pods');
    }
  }

  #find(name: string): Held | undefined {
    return this.#held.find(({ kept }) => kept.name === name);
  }

  #report(held: Held): ModuleReport {
    const { kept, place, image, reason } = held;
    const { name, sha256, failure, mayAllow, perPacket, allow } = kept;
    const { trap, timeout, memory, answer, ...evaluations } = this.#table.counters(place);
    return {
      name, sha256, failure, mayAllow, perPacket, allow, evaluations,
      version: image?.version ?? '',
      path: image?.path ?? 'direct',
      order: this.#held.indexOf(held),
      stateful: image?.stateful ?? false,
      hasPayload: image?.hasPayload ?? false,
      faults: { trap, timeout, memory, answer },
      memoryBytes: this.#sizes.get(place) ?? 0,
      state: reason === null ? 'enabled' : 'disabled',
      reason,
    };
  }

  #inOrder<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#queue.then(work);
    this.#queue = result.catch(() => {});
    return result;
  }
}

function grantsOf(names: readonly string[]): WasiName[] {
  return names.map((name) => {
    const grant = GRANTS.find((known) => known === name);
    if (grant !== undefined) return grant;
    throw new RequestError('imports', `nothing called ${name} can be allowed, only `
      + GRANTS.join(', '));
  });
}

function entryOf({ kept, place, image, reason }: Held): ModuleEntry {
  const { failure, mayAllow, perPacket } = kept;
  const hasPayload = image?.hasPayload ?? false;
  return { place, failure, mayAllow, perPacket, hasPayload, disabled: reason !== null };
}
