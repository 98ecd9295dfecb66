// Builds a policy module from its sources: a folder with a module.json and, by its language, an
// index.ts, module.c or module.rs. A compiler makes a core WebAssembly module; this adds the types
// of modules/wit/policy.wit and makes a component of it.

import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync,
  writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as v from 'valibot';
import { parseShape } from '../engine/shape.ts';
import { renameExports } from './core-module.ts';
import { ModuleError } from './error.ts';
import { PAYLOAD, POLICY } from './wit.ts';

/** The package's folder: this file is dist/modules/build.js in it, or dist/bundle/main.js. */
const PACKAGE = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const SOURCES = join(PACKAGE, 'modules');
const COMPILE_LIMIT_MS = 120_000;
const STACK_BYTES = 65536;
const INITIAL_MEMORY_BYTES = 131072;

const ManifestSchema = v.strictObject({
  name: v.pipe(v.string(), v.regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/)),
  version: v.pipe(v.string(), v.regex(/^\d+\.\d+\.\d+$/)),
  language: v.picklist(['assemblyscript', 'c', 'rust']),
  world: v.optional(v.picklist(['policy-module', 'payload-module']), 'policy-module'),
  stateful: v.optional(v.boolean(), false),
});
type Manifest = v.InferOutput<typeof ManifestSchema>;

/** Compilers that are not on PATH under their usual names. */
export interface Compilers {
  clang?: string;
  rustc?: string;
  /** The linker for both. */
  wasmLd?: string;
}

export interface BuildOptions {
  /** Path of the component; the module's name in its folder, unless said. */
  out?: string;
  compilers?: Compilers;
}

/** What was built. */
export interface Built {
  path: string;
  sha256: string;
  bytes: Uint8Array;
}

/** Folders that newModule() can begin with. */
export function templates(): string[] {
  const examples = join(SOURCES, 'examples');
  return ['template', ...readdirSync(examples).sort()];
}

/** Makes a folder for a new module with the sources of a template. */
export function newModule(folder: string, template = 'template'): void {
  if (!templates().includes(template)) {
    const known = templates().join(', ');
    throw new ModuleError('build', `There is no template ${template}; there are: ${known}.`);
  }
  if (existsSync(folder) && readdirSync(folder).length > 0) {
    throw new ModuleError('build', `${folder} is there already and is not empty.`);
  }
  const from = template === 'template' ? 'template' : join('examples', template);
  cpSync(join(SOURCES, from), folder, { recursive: true });
  const path = join(folder, 'module.json');
  const manifest = readManifest(folder);
  const wanted = basename(resolve(folder)).toLowerCase().replace(/[^a-z0-9-]/g, '-');
  const isName = v.is(ManifestSchema.entries.name, wanted);
  const named = { ...manifest, name: isName ? wanted : manifest.name };
  writeFileSync(path, `${JSON.stringify(named, null, 2)}\n`);
}

/** Builds the component of the module in `folder`. Throws ModuleError with what the compiler
 * says. */
export async function buildModule(folder: string, options: BuildOptions = {}): Promise<Built> {
  const manifest = readManifest(folder);
  const work = mkdtempSync(join(tmpdir(), 'culvert-module-'));
  try {
    const core = await compileCore(resolve(folder), work, manifest, options.compilers ?? {});
    const bytes = await makeComponent(core, `timed-${manifest.world}`);
    const path = options.out ?? join(folder, `${manifest.name}.wasm`);
    writeFileSync(path, bytes);
    return { path, sha256: createHash('sha256').update(bytes).digest('hex'), bytes };
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

function readManifest(folder: string): Manifest {
  const path = join(folder, 'module.json');
  try {
    return parseShape(ManifestSchema, JSON.parse(readFileSync(path, 'utf8')), path);
  } catch (error) {
    throw new ModuleError('build', `The module cannot be built: ${(error as Error).message}.`);
  }
}

/** Makes a component of a core module that has the names and types of a world. */
export async function makeComponent(core: Uint8Array, world: string): Promise<Uint8Array> {
  const tools = await import('@bytecodealliance/jco-transpile/wasm-tools');
  try {
    const witSource = readFileSync(join(SOURCES, 'wit', 'policy.wit'), 'utf8');
    const embedded = await tools.componentEmbed({
      binary: core, witSource, world, stringEncoding: 'utf8',
    });
    return await tools.componentNew(embedded, []);
  } catch (error) {
    throw new ModuleError('build', `No component can be made of it: ${reasonOf(error)}.`);
  }
}

/** What the tools throw: an error, or the text of one. */
function reasonOf(error: unknown): string {
  const { message, payload } = error as { message?: string; payload?: unknown };
  return String(payload ?? message ?? error).trim().replace(/\s+/g, ' ');
}

function compileCore(
  folder: string, work: string, manifest: Manifest, compilers: Compilers,
): Promise<Uint8Array> {
  if (manifest.language === 'c') return compileC(folder, work, manifest, compilers);
  if (manifest.language === 'rust') return compileRust(folder, work, manifest, compilers);
  return compileAssemblyScript(folder, work, manifest);
}

/** Runs a compiler; gives the file that it was to write. */
function runCompiler(program: string, args: string[], cwd: string, out: string)
  : Promise<Uint8Array> {
  return new Promise((done, fail) => {
    execFile(program, args, { cwd, timeout: COMPILE_LIMIT_MS, encoding: 'utf8' },
      (error, stdout, stderr) => {
        if (error === null && existsSync(out)) return done(readFileSync(out));
        const missing = (error as NodeJS.ErrnoException | null)?.code === 'ENOENT';
        const said = `${stdout}${stderr}`.trim() || error?.message;
        fail(new ModuleError('build', missing
          ? `${program} is needed to build the module, and is not there.`
          : `The module does not compile:\n${said}`));
      });
  });
}

/** Path of the AssemblyScript compiler: the module's own, or the one that Culvert is built with. */
function findAsc(folder: string): string {
  for (const from of [join(folder, 'module.json'), import.meta.url]) {
    try {
      return createRequire(from).resolve('assemblyscript/bin/asc.js');
    } catch {
      // The next place is tried.
    }
  }
  throw new ModuleError('build', 'The AssemblyScript compiler is needed to build the module: '
    + '`npm install assemblyscript` in its folder.');
}

/** The sources of Culvert's own part and the user's come together in `work`. */
function compileAssemblyScript(folder: string, work: string, manifest: Manifest)
  : Promise<Uint8Array> {
  const { name, version, stateful } = manifest;
  writeFileSync(join(work, 'manifest.ts'), [
    `export const NAME = ${JSON.stringify(name)};`,
    `export const VERSION = ${JSON.stringify(version)};`,
    `export const STATEFUL: bool = ${stateful};`, '',
  ].join('\n'));
  cpSync(join(SOURCES, 'sdk', 'entry.ts'), join(work, 'entry.ts'));
  mkdirSync(join(work, 'node_modules'));
  cpSync(join(SOURCES, 'sdk'), join(work, 'node_modules', 'culvert'), { recursive: true });
  symlinkSync(folder, join(work, 'user'), 'dir');
  const out = join(work, 'core.wasm');
  const args = [
    findAsc(folder), 'entry.ts', '--baseDir', work, '--outFile', out, '--optimizeLevel', '3',
    '--runtime', 'incremental', '--use', 'abort=~lib/culvert/glue/onAbort', '--noColors',
    '--path', join(folder, 'node_modules'),
  ];
  return runCompiler(process.execPath, args, work, out)
    .then((core) => renameExports(core, (exported) => componentName(exported, manifest.world)));
}

/** The name in the component model of what the entry exports, null for what is not exported. */
function componentName(exported: string, world: string): string | null {
  if (['memory', 'cabi_realloc'].includes(exported)) return exported;
  if (exported === 'inspect') return world === 'payload-module' ? `${PAYLOAD}#inspect` : null;
  const post = 'cabi_post_';
  if (exported.startsWith(post)) return `${post}${POLICY}#${exported.slice(post.length)}`;
  return `${POLICY}#${exported}`;
}

/** Compiles Culvert's part and the user's, and links both. */
async function compileC(
  folder: string, work: string, manifest: Manifest, compilers: Compilers,
): Promise<Uint8Array> {
  const { name, version, stateful, world } = manifest;
  const options = [
    '--target=wasm32', '-O2', '-ffreestanding', '-Wall', '-Wextra', '-I', join(SOURCES, 'sdk'),
    `-DCULVERT_NAME="${name}"`, `-DCULVERT_VERSION="${version}"`,
    `-DCULVERT_STATEFUL=${Number(stateful)}`,
    ...world === 'payload-module' ? ['-DCULVERT_PAYLOAD'] : [],
  ];
  const sources = [join(SOURCES, 'sdk', 'culvert.c'), join(folder, 'module.c')];
  const objects: string[] = [];
  for (const [index, source] of sources.entries()) {
    const object = join(work, `${index}.o`);
    const args = [...options, '-c', '-o', object, source];
    await runCompiler(compilers.clang ?? 'clang', args, work, object);
    objects.push(object);
  }
  const out = join(work, 'core.wasm');
  const link = [
    '--no-entry', '--strip-all', '-z', `stack-size=${STACK_BYTES}`,
    `--initial-memory=${INITIAL_MEMORY_BYTES}`, '-o', out, ...objects,
  ];
  return await runCompiler(compilers.wasmLd ?? 'wasm-ld', link, work, out);
}

function compileRust(
  folder: string, work: string, manifest: Manifest, compilers: Compilers,
): Promise<Uint8Array> {
  const { name, version, stateful } = manifest;
  const out = join(work, 'core.wasm');
  const args = [
    '--target', 'wasm32-unknown-unknown', '--crate-type', 'cdylib', '--edition', '2021',
    '-C', 'opt-level=3', '-C', 'panic=abort', '-C', 'strip=symbols',
    '-C', `link-arg=-zstack-size=${STACK_BYTES}`, '-C', `linker=${compilers.wasmLd ?? 'wasm-ld'}`,
    '-o', out, join(folder, 'module.rs'),
  ];
  // The compiler's env!() is how constants from outside come into Rust.
  const constants = [
    `CULVERT_SDK=${join(SOURCES, 'sdk')}`, `CULVERT_NAME=${name}`, `CULVERT_VERSION=${version}`,
    `CULVERT_STATEFUL=${stateful}`,
  ];
  const program = compilers.rustc ?? 'rustc';
  return runCompiler('env', [...constants, program, ...args], work, out);
}
