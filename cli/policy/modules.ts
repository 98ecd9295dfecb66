// Policy modules offline: the same component, compiled and instantiated as a node does it, called
// by the same core. Each node's core has instances of its own, as the nodes have.
//
// A module's state is that of the flows before, in the order of the file; all of them come at one
// moment, so that the same file has the same verdicts always. What judges by payload is asked for
// the first packet only, which has none: its `more` passes.

import { createHash } from 'node:crypto';
import { parentPort } from 'node:worker_threads';
import { addressFamily, isAddress } from '../../engine/address.ts';
import {
  ModuleTable, attachEvaluate, attachInspect, type ModuleCounters, type ModuleEntry,
} from '../../engine/modules.ts';
import type { Core } from '../../engine/core.ts';
import type { PolicyTables } from '../../engine/tables/policy.ts';
import { ModuleError } from '../../modules/error.ts';
import type { ModuleImage } from '../../modules/image.ts';
import { MODULE_MEMORY_CAP_BYTES } from '../../modules/limits.ts';
import { inspectComponent, instantiateModule, type ModuleEndpoint } from
  '../../modules/runtime.ts';
import { MODULE_LIMIT } from '../../wasm/abi/module.ts';
import { CommandError, EXIT_USAGE } from '../exit.ts';
import { readComponent, readConfig } from '../module/file.ts';
import { parseModule, type ModuleSettings } from '../module/settings.ts';
import { NOW_MS, type NodeBed } from './bed.ts';
import type { ClusterPod } from './ends.ts';
import type { Starting, Watched } from './watched.ts';

/** A module as the command line names it. */
interface Loaded {
  name: string;
  image: ModuleImage;
  config: Uint8Array;
  settings: ModuleSettings;
}

/** What a module said to first packets, by verdict, and how often it failed. */
export interface ModuleAnswers {
  name: string;
  version: string;
  answers: Record<string, number>;
  faults: number;
  /** The last of these. */
  fault: string | null;
}

const VERDICTS = ['pass', 'allow', 'deny', 'reject', 'more'] as const;

/** The modules of all nodes, each in the place in which it is asked. */
export class OfflineModules {
  readonly #modules: readonly Loaded[];
  readonly #tables: ModuleTable[] = [];
  /** The last fault of each place. */
  readonly #faults = new Map<number, string>();

  private constructor(modules: readonly Loaded[]) {
    this.#modules = modules;
  }

  /** Reads and compiles what `--module` says, in any number; what names a place is put there among
   * those before, as on a node. Throws a CommandError. */
  static async load(texts: readonly string[]): Promise<OfflineModules> {
    const modules: Loaded[] = [];
    const compiled: Compiled = new Map();
    for (const text of texts) {
      const loaded = await load(text, compiled);
      if (modules.some(({ name }) => name === loaded.name)) {
        refuse(text, `another module is called ${loaded.name}; give it a name`);
      }
      modules.splice(loaded.settings.order ?? modules.length, 0, loaded);
    }
    if (modules.length > MODULE_LIMIT) refuse('', `a node has at most ${MODULE_LIMIT} modules`);
    return new OfflineModules(modules);
  }

  /** The name of a module by its place in the core. */
  nameOf(place: number): string {
    return this.#modules[place]?.name ?? String(place);
  }

  /** Puts instances into a node's core, and tells them of its pods. */
  install(bed: NodeBed, policy: PolicyTables, pods: readonly ClusterPod[]): void {
    const endpoints = pods.map(({ namespace, name, addresses: [address = ''] }) =>
      ({ id: identityOf(policy, address), namespace, pod: name, labels: [] }));
    const table = new ModuleTable(bed.core);
    const entries = this.#modules.map((loaded, place): ModuleEntry => {
      start(loaded, place, bed.core, endpoints);
      const { image: { hasPayload }, settings: { failure, mayAllow, perPacket } } = loaded;
      return { place, failure, mayAllow, perPacket, hasPayload, disabled: false };
    });
    table.set(entries);
    this.#tables.push(table);
    const watched: Watched = {
      memory: bed.core.memory, names: this.#modules.map(({ name }) => name),
    };
    parentPort?.postMessage(watched);
    bed.onFault = ({ place, kind, message }) => {
      this.#faults.set(place, `${kind}: ${message}`);
    };
  }

  /** What the modules said so far, on all nodes together. */
  answers(): ModuleAnswers[] {
    return this.#modules.map(({ name, image }, place) => {
      const own = this.#tables.map((table) => table.counters(place));
      const sum = (count: (one: ModuleCounters) => number): number =>
        own.reduce((total, one) => total + count(one), 0);
      const answers = VERDICTS.map((verdict) => [verdict, sum((one) => one[verdict])] as const);
      return {
        name, version: image.version,
        answers: Object.fromEntries(answers.filter(([, count]) => count > 0)),
        faults: sum(({ trap, timeout, memory, answer }) => trap + timeout + memory + answer),
        fault: this.#faults.get(place) ?? null,
      };
    });
  }
}

/** Makes an instance at its place in a core. */
function start(
  { name, image, config }: Loaded, place: number, core: Core, endpoints: readonly ModuleEndpoint[],
): void {
  const log = (level: string, message: string): void => {
    if (level === 'debug' || level === 'info') return;
    process.stderr.write(`${name}: ${level}: ${message}\n`);
  };
  const starting: Starting = { starting: name };
  parentPort?.postMessage(starting);
  try {
    const instance = instantiateModule(image, { log, nowMs: () => NOW_MS });
    instance.configure(config);
    instance.endpoints([...endpoints]);
    attachEvaluate(core, place, instance.evaluate);
    attachInspect(core, place, image.hasPayload
      ? (flow, offset, bytes) => instance.inspect(flow, offset, bytes) : null);
  } catch (error) {
    if (!(error instanceof ModuleError)) throw error;
    refuse(name, error.message);
  }
}

/** Components that were compiled already, by their bytes and what they may have. */
type Compiled = Map<string, ModuleImage>;

/** Compiles a component; one that is given several times, once. */
async function imageOf(
  bytes: Uint8Array, { allow, memoryCapBytes }: ModuleSettings, compiled: Compiled,
): Promise<ModuleImage> {
  const hash = createHash('sha256').update(bytes).digest('hex');
  const key = `${hash} ${memoryCapBytes} ${allow.join()}`;
  const image = compiled.get(key) ?? await inspectComponent(bytes, {
    allow, memoryCapBytes: memoryCapBytes ?? MODULE_MEMORY_CAP_BYTES,
  });
  compiled.set(key, image);
  return image;
}

/** Reads what `--module` says. */
async function load(text: string, compiled: Compiled): Promise<Loaded> {
  const { file, settings } = parseModule(text);
  const config = await readConfig('--module', settings.config, EXIT_USAGE);
  const bytes = await readComponent('--module', file, EXIT_USAGE);
  try {
    const image = await imageOf(bytes, settings, compiled);
    if (settings.perPacket && !image.stateful) {
      return refuse(text, 'it is not stateful, so it is asked once for each flow');
    }
    const name = settings.name ?? image.name;
    return { name, image, config: config ?? new Uint8Array(), settings };
  } catch (error) {
    if (!(error instanceof ModuleError)) throw error;
    return refuse(file, error.message);
  }
}

/** The class of addresses that the core has this one in. */
function identityOf(policy: PolicyTables, address: string): number {
  return isAddress(address) ? policy.identities[addressFamily(address)].find(address) : 0;
}

function refuse(what: string, why: string): never {
  throw new CommandError(EXIT_USAGE, `--module ${what}: ${why}`);
}
