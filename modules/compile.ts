// From a component's bytes to a module that is ready to run: checks it against the WIT, has jco
// make the bindings, puts limits on the core modules, and starts the result once to hear its name.
// Runs in a process of its own (compile-process.ts): what it takes to compile a hostile component
// is that process's to lose.

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { exportedType, exportsMemory, importedModules, limitCore } from './core-module.ts';
import { ModuleError } from './error.ts';
import { EVALUATE_TYPE } from './flow.ts';
import type { ImageCore, ModuleImage, WasiName } from './image.ts';
import { instantiateModule, type ModuleInfo } from './instance.ts';
import { MODULE_CORES } from './limits.ts';
import { PLAIN_MEMORY, PLAIN_TYPES, REALLOC_TYPE } from './plain.ts';
import { checkGrants, checkTypes, exportedInterface, parseWorld,
  type TypeFiles } from './wit.ts';

/** The package's folder: this file is dist/modules/compile.js in it, or in dist/bundle/. */
const PACKAGE = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const WIT = join(PACKAGE, 'modules', 'wit', 'policy.wit');
const NAME = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;
const VERSION = /^[0-9A-Za-z.+-]{1,64}$/;
const MODULE_NAME = 'module';
/** What jco's file of bindings begins its function with, and what must not be in a script. */
const BINDINGS = 'export function instantiate(';

export interface InspectOptions {
  allow: readonly WasiName[];
  memoryCapBytes: number;
}

/** Compiles and checks a component. `note` is told when its own code is about to run. */
export async function compileComponent(
  bytes: Uint8Array, { allow, memoryCapBytes }: InspectOptions, note: () => void,
): Promise<ModuleImage> {
  const wit = await witOf(bytes);
  const world = parseWorld(wit);
  const policy = exportedInterface(world, 'culvert:policy/policy');
  if (policy === null) {
    throw new ModuleError('wit-version', 'The component exports no culvert:policy/policy: it is no '
      + 'policy module.');
  }
  const payload = exportedInterface(world, 'culvert:policy/payload');
  checkGrants(world, allow);
  const files = await generateBindings(bytes);
  const cores = limitCores(files, memoryCapBytes);
  const image: ModuleImage = {
    sha256: createHash('sha256').update(bytes).digest('hex'), name: MODULE_NAME, version: '0.0.0',
    stateful: false, wit, policy, imports: world.imports, path: pathOf(policy, cores), plain: null,
    hasPayload: payload !== null, allow: [...allow].sort(), memoryCapBytes,
    script: scriptOf(files), cores,
  };
  note();
  const info = describe(image);
  const plain = image.path === 'direct' ? plainCore(image) : null;
  // Both ways must say the same: the one knows what the component says of itself, the encoding of
  // its texts for one, and the other takes the usual for granted.
  const isSame = plain !== null
    && JSON.stringify(describe({ ...image, plain })) === JSON.stringify(info);
  return { ...image, ...info, plain: isSame ? plain : null };
}

/** The core module that is the whole module, but for what jco and wit-component put around each;
 * null where there is more to it. */
function plainCore({ policy, cores }: ModuleImage): string | null {
  const main = cores.find(({ bytes }) => exportedType(bytes, `${policy}#evaluate`) !== null);
  if (main === undefined || main.memories !== 1) return null;
  const { bytes } = main;
  const isPlain = importedModules(bytes).every((name) => name.startsWith('culvert:policy/'))
    && exportsMemory(bytes, PLAIN_MEMORY)
    && exportedType(bytes, 'cabi_realloc') === REALLOC_TYPE
    && Object.entries(PLAIN_TYPES)
      .every(([name, type]) => exportedType(bytes, `${policy}#${name}`) === type);
  return isPlain ? main.name : null;
}

async function witOf(bytes: Uint8Array): Promise<string> {
  const tools = await import('@bytecodealliance/jco-transpile/wasm-tools');
  try {
    return await tools.componentWit(bytes);
  } catch (error) {
    throw new ModuleError('not-a-component', 'The file is no WebAssembly component, or is damaged: '
      + `${reasonOf(error)}.`);
  }
}

/** What wasm-tools and jco throw: an error, a text, or a variant with one. The first line says
 * it. */
function reasonOf(error: unknown): string {
  const { message, payload } = error as { message?: string; payload?: { val?: unknown } };
  const said = String(payload?.val ?? payload ?? message ?? error).replace(/\s+/g, ' ').trim();
  return said.slice(0, 300).replace(/\.$/, '');
}

/** The files that jco makes of a component, once its types are known to be right. */
async function generateBindings(bytes: Uint8Array): Promise<Map<string, Uint8Array>> {
  const jco = await import('@bytecodealliance/jco-transpile/component');
  await jco.$init;
  const instantiation = { tag: 'sync' } as const;
  const source = readFileSync(WIT, 'utf8');
  try {
    const ours = jco.generateTypes(MODULE_NAME, {
      wit: { tag: 'source', val: source }, world: 'timed-payload-module', instantiation,
    }) as TypeFiles;
    const found = jco.generateTypes(MODULE_NAME, {
      wit: { tag: 'binary', val: bytes }, instantiation,
    }) as TypeFiles;
    checkTypes(found, ours);
    const { files } = jco.generate(bytes, {
      name: MODULE_NAME, instantiation, noTypescript: true, noNodejsCompat: true, base64Cutoff: 0,
      noComponentErrorWrapping: true,
    });
    return new Map(files as TypeFiles);
  } catch (error) {
    if (error instanceof ModuleError) throw error;
    throw new ModuleError('not-a-component', `No bindings can be made: ${reasonOf(error)}.`);
  }
}

/** jco's module as a script whose value is instantiate(). */
function scriptOf(files: ReadonlyMap<string, Uint8Array>): string {
  const module = new TextDecoder().decode(files.get(`${MODULE_NAME}.js`));
  const body = module.replace(BINDINGS, 'function instantiate(')
    .replace(/^export (?=const )/gm, '');
  if (body === module || /^\s*(import|export)\b/m.test(body)) {
    throw new ModuleError('unsupported', 'The bindings of the module are of a form that is not '
      + 'known.');
  }
  return `(() => {\n'use strict';\n${body}\nreturn instantiate;\n})()`;
}

function limitCores(files: ReadonlyMap<string, Uint8Array>, memoryCapBytes: number): ImageCore[] {
  const cores = [...files].filter(([name]) => name.endsWith('.wasm'));
  if (cores.length > MODULE_CORES) {
    throw new ModuleError('unsupported', `The component has ${cores.length} core modules; it may `
      + `have ${MODULE_CORES}.`);
  }
  return cores.map(([name, bytes]) => ({ name, ...limitCore(bytes, memoryCapBytes) }));
}

/** Straight where a core module has `evaluate` with its sixteen words, and has not asked to be told
 * when the caller is done with the answer: runtimes that do, JavaScript's among them, trap at the
 * second call that does not tell them. */
function pathOf(policy: string, cores: readonly ImageCore[]): ModuleImage['path'] {
  const main = cores.find(({ bytes }) => exportedType(bytes, `${policy}#evaluate`) !== null);
  if (main === undefined) return 'component';
  const isFlat = exportedType(main.bytes, `${policy}#evaluate`) === EVALUATE_TYPE;
  const wantsEnd = exportedType(main.bytes, `cabi_post_${policy}#evaluate`) !== null;
  return isFlat && !wantsEnd ? 'direct' : 'component';
}

function describe(image: ModuleImage): ModuleInfo {
  const info = instantiateModule(image, { log: () => {} }).describe();
  if (NAME.test(info.name) && VERSION.test(info.version)) return info;
  throw new ModuleError('describe', 'The module describes itself with the name '
    + `${JSON.stringify(info.name.slice(0, 100))} and the version `
    + `${JSON.stringify(info.version.slice(0, 100))}; a name has small letters, digits and `
    + 'hyphens, at most 63, a version letters, digits and dots.');
}
