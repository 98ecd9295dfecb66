// A module that runs: its core module alone (plain.ts), or, where there is more to it, the core
// modules that the bindings of jco put together, which then carry the control calls. `evaluate` is
// the core module's own function, which the engine calls through a function table for some
// nanoseconds where the bindings take microseconds. Everything here is synchronous: a data worker
// does it between two turns.
//
// Imports of Culvert's own are not taken through the bindings either, which would need to know of
// the call that they are made in.

import { Script } from 'node:vm';
import { ModuleError } from './error.ts';
import { EVALUATE_TYPE, FLOW_WORDS, INSPECT_BYTES, INSPECT_OFFSET, INSPECT_SIZE, INSPECT_TYPE,
  LEVELS, VERDICTS, flowOf, writeFlow, type ModuleFlow, type ModuleLevel,
  type ModuleVerdict } from './flow.ts';
import { exportedType } from './core-module.ts';
import { grantedInterfaces } from './grants.ts';
import type { ModuleImage } from './image.ts';
import { MODULE_CORES, MODULE_LOG_BYTES, MODULE_PROBLEM_LENGTH,
  MODULE_TABLES } from './limits.ts';
import { PlainCalls } from './plain.ts';

/** What a module may use of the host. */
export interface ModuleHost {
  log(level: ModuleLevel, text: string): void;
  /** Milliseconds that never go backwards, for modules with the grant `clock`. */
  nowMs?(): number;
}

/** What a module says of itself. */
export interface ModuleInfo {
  name: string;
  version: string;
  stateful: boolean;
}

/** A pod of this node, as modules are told of it. */
export interface ModuleEndpoint {
  id: number;
  namespace: string;
  pod: string;
  labels: { key: string; value: string }[];
}

/** A running module. An instance whose control call has thrown is of no further use. */
export interface ModuleInstance {
  describe(): ModuleInfo;
  /** Throws ModuleError `configure` with what the module says is wrong. */
  configure(config: Uint8Array): void;
  endpoints(list: ModuleEndpoint[]): void;
  /** Sixteen words to a verdict, callable through a function table. */
  evaluate: (...words: number[]) => number;
  /** Judges payload; throws what the module traps with. */
  inspect(flow: ArrayLike<number>, offset: number, bytes: Uint8Array): number;
  /** Bytes of its linear memory. */
  memoryBytes(): number;
}

type Imports = Record<string, Record<string, unknown>>;

/** What the bindings of a module give. */
interface Bindings {
  policy: {
    describe(): ModuleInfo;
    configure(config: Uint8Array): void;
    endpoints(list: ModuleEndpoint[]): void;
    evaluate(flow: ModuleFlow): ModuleVerdict;
  };
  payload?: { inspect(flow: ModuleFlow, offset: number, bytes: Uint8Array): ModuleVerdict };
}

type Instantiate = (
  getCore: (path: string) => WebAssembly.Module, imports: Imports,
  instantiateCore: (module: WebAssembly.Module, imports?: Imports) => WebAssembly.Instance,
) => Bindings;

/** A module with one function, which it imports: so does a function of JavaScript become one that a
 * function table takes. (module (func (import "" "f") (param i32 x 16) (result i32)) (export
 * "f")) */
const WRAPPER = Uint8Array.from([
  0, 0x61, 0x73, 0x6d, 1, 0, 0, 0,
  1, 5 + FLOW_WORDS, 1, 0x60, FLOW_WORDS, ...new Array<number>(FLOW_WORDS).fill(0x7f), 1, 0x7f,
  2, 6, 1, 0, 1, 0x66, 0, 0,
  7, 5, 1, 1, 0x66, 0, 0,
]);

/** The core modules of an image, linked: which of them is the module itself. */
class Linker {
  readonly #image: ModuleImage;
  readonly #host: ModuleHost;
  readonly #compiled = new Map<string, WebAssembly.Module>();
  readonly #names = new Map<WebAssembly.Module, string>();
  readonly #evaluate: string;
  #instances = 0;
  #memories = 0;
  #tables = 0;
  #memory: WebAssembly.Memory | null = null;
  /** Exports of the core module that has `evaluate`. */
  main: Record<string, unknown> | null = null;
  mainCore: Uint8Array | null = null;

  constructor(image: ModuleImage, host: ModuleHost) {
    this.#image = image;
    this.#host = host;
    this.#evaluate = `${image.policy}#evaluate`;
  }

  get memory(): WebAssembly.Memory | null {
    return this.#memory;
  }

  compile(path: string): WebAssembly.Module {
    const known = this.#compiled.get(path);
    if (known !== undefined) return known;
    const core = this.#image.cores.find(({ name }) => name === path);
    if (core === undefined) throw new ModuleError('image', `The module has no part ${path}.`);
    const module = core.module ?? new WebAssembly.Module(core.bytes);
    this.#compiled.set(path, module);
    this.#names.set(module, path);
    return module;
  }

  /** Makes an instance of a core module. A component may make several of one, so what a module may
   * have is counted here. */
  instantiate(module: WebAssembly.Module, imports: Imports = {}): WebAssembly.Instance {
    const core = this.#image.cores.find(({ name }) => name === this.#names.get(module));
    this.#instances += 1;
    this.#memories += core?.memories ?? 0;
    this.#tables += core?.tables ?? 0;
    if (this.#instances > MODULE_CORES) {
      throw new ModuleError('memory', `The module has more than ${MODULE_CORES} instances.`);
    }
    if (this.#memories > 1) throw new ModuleError('memory', 'The module has several memories.');
    if (this.#tables > MODULE_TABLES) {
      throw new ModuleError('memory', `The module has more than ${MODULE_TABLES} tables.`);
    }
    const names = WebAssembly.Module.exports(module).map(({ name }) => name);
    const isMain = this.main === null && names.includes(this.#evaluate);
    const { exports } = isMain
      ? new WebAssembly.Instance(module, this.#withOwn(imports))
      : new WebAssembly.Instance(module, imports);
    for (const value of Object.values(exports)) {
      if (value instanceof WebAssembly.Memory) this.#memory ??= value;
    }
    if (isMain) {
      this.main = exports;
      this.mainCore = core?.bytes ?? null;
    }
    return { exports } as WebAssembly.Instance;
  }

  /** The imports of the module itself, with Culvert's functions in their raw form. */
  #withOwn(imports: Imports): Imports {
    const own: Imports = {};
    for (const [name, functions] of Object.entries(imports)) {
      own[name] = name.startsWith('culvert:policy/')
        ? { ...functions, ...this.#ownFunctions() } : functions;
    }
    return own;
  }

  #ownFunctions(): Record<string, unknown> {
    return {
      log: (level: number, text: number, length: number) => {
        const memory = this.#memory;
        if (memory === null) return;
        const bytes = new Uint8Array(memory.buffer, text >>> 0, Math.min(length >>> 0,
          MODULE_LOG_BYTES));
        this.#host.log(LEVELS[level] ?? 'info', printable(new TextDecoder().decode(bytes)));
      },
      'now-ms': () => nowMs(this.#host),
    };
  }
}

function nowMs(host: ModuleHost): number {
  return Math.floor(host.nowMs?.() ?? performance.now()) | 0;
}

/** A text of a module's as one line of a log. */
function printable(text: string): string {
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]+/g, ' ').trim();
}

/** The imports of a module as the bindings look them up: by name, without versions. */
function importsFor(image: ModuleImage, host: ModuleHost): Imports {
  return {
    'culvert:policy/types': {},
    'culvert:policy/host': {
      log: (level: ModuleLevel, text: string) => {
        host.log(level, printable(text.slice(0, MODULE_LOG_BYTES)));
      },
    },
    'culvert:policy/clock': { nowMs: () => nowMs(host) >>> 0 },
    ...grantedInterfaces(image.allow),
  };
}

/** Why a call of a module failed. */
function reasonOf(error: unknown): string {
  const { payload, message } = error as { payload?: unknown; message?: unknown };
  return printable(String(payload ?? message ?? error)).slice(0, MODULE_PROBLEM_LENGTH);
}

/** Makes an instance of a module. Throws ModuleError where it traps while it starts. */
export function instantiateModule(image: ModuleImage, host: ModuleHost): ModuleInstance {
  const linker = new Linker(image, host);
  let bindings: Bindings;
  try {
    bindings = image.path === 'direct' && image.plain !== null
      ? linkPlain(linker, image, image.plain) : linkBound(linker, image, host);
  } catch (error) {
    if (error instanceof ModuleError) throw error;
    throw new ModuleError('start', `The module does not start: ${reasonOf(error)}.`);
  }
  return {
    describe: () => control('describe', () => describe(bindings)),
    configure: (config) => configure(bindings, config),
    endpoints: (list) => control('endpoints', () => bindings.policy.endpoints(list)),
    evaluate: image.path === 'direct' ? rawEvaluate(linker) : boundEvaluate(bindings),
    inspect: inspectOf(image, linker, bindings),
    memoryBytes: () => linker.memory?.buffer.byteLength ?? 0,
  };
}

/** The core module alone. */
function linkPlain(linker: Linker, { policy }: ModuleImage, plain: string): Bindings {
  const module = linker.compile(plain);
  const imports = WebAssembly.Module.imports(module).map(({ module: name }) => [name, {}]);
  linker.instantiate(module, Object.fromEntries(imports) as Imports);
  return { policy: new PlainCalls(linker.main ?? {}, policy) };
}

/** The core modules as the bindings put them together. */
function linkBound(linker: Linker, image: ModuleImage, host: ModuleHost): Bindings {
  const script = new Script(image.script, { filename: `module ${image.name}` });
  const instantiate = script.runInThisContext() as Instantiate;
  return instantiate((path) => linker.compile(path), importsFor(image, host),
    (module, imports) => linker.instantiate(module, imports));
}

function control<T>(name: string, call: () => T): T {
  try {
    return call();
  } catch (error) {
    if (error instanceof ModuleError) throw error;
    throw new ModuleError('trap', `The module's ${name}() failed: ${reasonOf(error)}.`);
  }
}

function describe({ policy }: Bindings): ModuleInfo {
  const { name, version, stateful } = policy.describe();
  return { name, version, stateful };
}

function configure({ policy }: Bindings, config: Uint8Array): void {
  try {
    policy.configure(config);
  } catch (error) {
    const trapped = ['RuntimeError', 'RangeError'].includes((error as Error).name);
    throw new ModuleError('configure', trapped
      ? `The module's configure() failed: ${reasonOf(error)}.`
      : `The module refuses its configuration: ${reasonOf(error)}.`);
  }
}

function rawEvaluate({ main, mainCore }: Linker): ModuleInstance['evaluate'] {
  const entry = Object.entries(main ?? {}).find(([name]) => name.endsWith('#evaluate'));
  if (entry === undefined || mainCore === null
    || exportedType(mainCore, entry[0]) !== EVALUATE_TYPE) {
    throw new ModuleError('image', 'The module has no evaluate() that can be called straight.');
  }
  return entry[1] as ModuleInstance['evaluate'];
}

function boundEvaluate({ policy }: Bindings): ModuleInstance['evaluate'] {
  const f = (...words: number[]): number => VERDICTS.indexOf(policy.evaluate(flowOf(words)));
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(WRAPPER), { '': { f } });
  return exports.f as ModuleInstance['evaluate'];
}

type Realloc = (old: number, oldSize: number, align: number, size: number) => number;

/** `inspect` by the raw function, whose parameters and payload go through the module's memory; by
 * the bindings where there is no such function. */
function inspectOf(image: ModuleImage, linker: Linker, bindings: Bindings)
  : ModuleInstance['inspect'] {
  const { main, mainCore, memory } = linker;
  const name = `${image.policy.replace('/policy@', '/payload@')}#inspect`;
  const raw = main?.[name] as ((from: number) => number) | undefined;
  const realloc = main?.cabi_realloc as Realloc | undefined;
  const isRaw = image.path === 'direct' && raw !== undefined && realloc !== undefined
    && memory !== null && mainCore !== null && exportedType(mainCore, name) === INSPECT_TYPE;
  if (!isRaw) {
    return (flow, offset, bytes) =>
      VERDICTS.indexOf(bindings.payload?.inspect(flowOf(flow), offset, bytes) ?? 'pass');
  }
  return (flow, offset, bytes) => {
    const payload = bytes.length === 0 ? 1 : realloc(0, 0, 1, bytes.length) >>> 0;
    const from = realloc(0, 0, 4, INSPECT_SIZE) >>> 0;
    new Uint8Array(memory.buffer, payload, bytes.length).set(bytes);
    const view = new DataView(memory.buffer);
    writeFlow(view, from, flow);
    view.setUint32(from + INSPECT_OFFSET, offset, true);
    view.setUint32(from + INSPECT_BYTES, payload, true);
    view.setUint32(from + INSPECT_BYTES + 4, bytes.length, true);
    return raw(from);
  };
}
