// What a policy module costs: the first packet of a flow, with no module, with one that is called
// directly, and with the same one called through its component's bindings; and packets of
// established flows, which it should cost nothing. The flows go from a pod to a peer, so that a
// module is asked once for each.
//
// The module is modules/examples/smallest-as, built and compiled as on a node. `module/call/native`
// is the like of a direct call in C: a function by its pointer, with the same arguments.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { DIRECTORY_MODULES } from '../wasm/abi/layout.ts';
import { FLOW_SIZE } from '../wasm/abi/policy.ts';
import type { Core } from '../engine/core.ts';
import { attachEvaluate, ModuleTable } from '../engine/modules.ts';
import { addressOf } from '../ffi/memory.ts';
import { buildModule } from '../modules/build.ts';
import { MODULE_MEMORY_CAP_BYTES } from '../modules/limits.ts';
import { inspectComponent, instantiateModule, ModuleError, type ModuleImage } from
  '../modules/runtime.ts';
import { Mix } from './mix.ts';
import { loadNative } from './native.ts';
import { measure, type Effort, type Measured, type RatioSpec, type Subject } from './rounds.ts';
import { BATCH, makeScene } from './scene.ts';

const MODULE = fileURLToPath(new URL('../../modules/examples/smallest-as', import.meta.url));
const PODS = 256;
const PORT = 8080;
const FLOW_TABLE = 131_072;
/** Flows are forgotten before the table is half full, so that no packet pays for finding one to
 * give up. */
const BATCHES_KEPT = 900;
const CALLS = 256;

const RATIOS: RatioSpec[] = [
  { name: 'module/directExtraNs', cost: 'module/direct', to: 'module/none', isExtra: true },
  { name: 'module/componentExtraNs', cost: 'module/component', to: 'module/none', isExtra: true },
  { name: 'module/establishedExtraNs', cost: 'module/established/direct',
    to: 'module/established/none', isExtra: true },
];

type Path = ModuleImage['path'];

export async function moduleBench(effort: Effort): Promise<Measured> {
  const image = await imageOf(effort);
  const paths: Path[] = image === null ? [] : ['direct', 'component'];
  const [firsts, known] = [new ModuleScene(1), new ModuleScene(0)];
  if (image !== null) {
    for (const path of paths) firsts.put({ ...image, path });
    known.put({ ...image, path: 'direct' });
  }
  known.mix.establish();
  const subjects = [
    ...firsts.subjects('module', ['none', ...paths]),
    ...known.subjects('module/established', ['none', ...paths.slice(0, 1)]),
    ...nativeCalls(effort),
  ];
  return measure('module', subjects, image === null ? [] : RATIOS, effort);
}

/** The module as a node has it; null where it cannot be built here, after `say` was told why. */
async function imageOf({ say }: Effort): Promise<ModuleImage | null> {
  const work = mkdtempSync(join(tmpdir(), 'culvert-bench-module-'));
  try {
    const { bytes } = await buildModule(MODULE, { out: join(work, 'module.wasm') });
    return await inspectComponent(bytes, { allow: [], memoryCapBytes: MODULE_MEMORY_CAP_BYTES });
  } catch (error) {
    if (!(error instanceof ModuleError)) throw error;
    say(`module: without a module: ${error.message}`);
    return null;
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** A node whose module is another one, or none, from turn to turn: the same packets and tables for
 * all, so that nothing but the module makes a difference. */
class ModuleScene {
  readonly mix: Mix;
  readonly #core: Core;
  readonly #table: ModuleTable;
  /** Addresses of lists with one module. */
  readonly #lists = new Map<Path | 'none', number>([['none', 0]]);
  #batches = 0;

  /** `first` is the part of the packets that are the first of their flow. */
  constructor(first: number) {
    const { core } = makeScene({ pods: PODS, families: ['IPv4'], policy: { flows: FLOW_TABLE } });
    this.#core = core;
    this.#table = new ModuleTable(core);
    this.mix = new Mix(core, { pods: PODS, family: 4, way: 'outbound', first, portOf: () => PORT });
  }

  /** Puts a module in force. */
  put(image: ModuleImage): void {
    const place = this.#lists.size;
    const instance = instantiateModule(image, { log: () => undefined });
    instance.configure(new Uint8Array(0));
    attachEvaluate(this.#core, place, instance.evaluate);
    this.#table.set([{
      place, failure: 'deny', mayAllow: false, perPacket: false, hasPayload: false,
      disabled: false,
    }]);
    this.#lists.set(image.path, this.#core.directory(DIRECTORY_MODULES));
  }

  /** One for each of these modules. What they do is what is done without. */
  subjects(name: string, paths: (Path | 'none')[]): Subject[] {
    const input = `${name}/input`;
    const turns = paths.map((path): Subject => ({
      name: `${name}/${path}`, opsPerRun: BATCH, without: input,
      run: () => this.#turn(path),
      hash: () => this.#hash(path),
      check: () => this.mix.expectNoDrops(),
      ...(path === 'none' ? {} : { sameAs: `${name}/none` }),
    }));
    return [
      { name: input, hidden: true, opsPerRun: BATCH, run: () => this.mix.fill(), hash: () => '' },
      ...turns,
    ];
  }

  #turn(path: Path | 'none'): void {
    this.#choose(path);
    this.#batches += 1;
    if (this.#batches % BATCHES_KEPT === 0 && this.mix.isOfFirsts) this.mix.forgetFlows();
    this.mix.turn();
  }

  #hash(path: Path | 'none'): string {
    this.#choose(path);
    this.mix.rewind();
    if (this.mix.isOfFirsts) this.mix.forgetFlows();
    return this.mix.hash();
  }

  #choose(path: Path | 'none'): void {
    this.#core.setDirectory(DIRECTORY_MODULES, this.#lists.get(path) ?? 0);
  }
}

function nativeCalls({ say }: Effort): Subject[] {
  const library = loadNative(['module.c'], say);
  if (library === null) return [];
  const call = library.define('module_calls', ['address', 'int']);
  const flow = new Uint8Array(FLOW_SIZE);
  const address = addressOf(flow);
  // hash() keeps the bytes from being given up.
  return [{
    name: 'module/call/native', opsPerRun: CALLS, run: () => call(address, CALLS),
    hash: () => `${call(address, CALLS)} of ${flow.length} bytes`,
  }];
}
