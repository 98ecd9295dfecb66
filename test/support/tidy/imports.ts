// Who may import whom. Every arrow ends in pure code, except ffi.

import { posix } from 'node:path';
import { builtinModules } from 'node:module';
import { type SourceFile, type Token, tokenize } from '../source.ts';

/** An import of one file: what it says and where. */
interface Import {
  target: string;
  line: number;
}

/** The parts of a tree that this part may import, or all but some. Its own is always allowed. */
interface Neighbours {
  only?: string[];
  allBut?: string[];
}

/** What the sidecar and the CNI plugin share with the host: the model, and how it travels. */
const MODEL = ['model', 'frame', 'shape', 'address', 'connection', 'log', 'net-conf']
  .map((name) => `engine/${name}.ts`);

const MAY_IMPORT: Record<string, Neighbours> = {
  'wasm/abi': { only: [] },
  wasm: { only: ['wasm/abi'] },
  engine: { only: ['wasm/abi'] },
  ffi: { only: [] },
  host: { only: ['engine', 'ffi', 'wasm/abi', 'modules'] },
  modules: { only: ['engine', 'wasm/abi'] },
  sync: { only: MODEL },
  cni: { only: [...MODEL, 'ffi'] },
  cli: { allBut: ['test', 'bench', 'scripts'] },
  scripts: { only: [] },
  bench: { allBut: ['test'] },
  test: { allBut: [] },
};

/** Packages with one user, so that one folder knows what they know. */
const ONLY_IN: { pattern: RegExp; folder: string }[] = [
  { pattern: /^koffi$|^netlink(\/|$)/, folder: 'ffi' },
  { pattern: /kubernetes|^k8s/i, folder: 'sync' },
];

/** What policy modules import; `culvert module build` puts modules/sdk in its place. */
const GUEST_PACKAGE = 'culvert';

const BUILTINS = new Set(builtinModules);
/** Names that engine/ cannot use and stay pure. */
const IMPURE_NAMES = new Set([
  'Buffer', 'process', 'require', 'fetch', 'WebSocket', '__dirname', '__filename',
]);

/** The part of the tree that a path belongs to: its folder, or `wasm/abi`. */
function partOf(path: string): string {
  return path.startsWith('wasm/abi/') ? 'wasm/abi' : path.slice(0, path.indexOf('/'));
}

/** Every import, re-export and dynamic import of a program. */
function findImports(tokens: Token[]): Import[] {
  const found: Import[] = [];
  for (const [index, token] of tokens.entries()) {
    if (token.kind !== 'string') continue;
    const [before, earlier] = [tokens[index - 1]?.text, tokens[index - 2]?.text];
    const isImport = before === 'from' || before === 'import'
      || (before === '(' && (earlier === 'import' || earlier === 'require'));
    if (isImport) found.push({ target: token.text.slice(1, -1), line: token.line });
  }
  return found;
}

/** The path in the tree that a relative import names; the core's compiler wants no extension. */
function resolveImport(from: string, target: string): string {
  const path = posix.join(posix.dirname(from), target);
  return /\.[a-z]+$/.test(path) ? path : `${path}.ts`;
}

/** Why `from` may not import the tree's file `to`, or null. */
function refuseOwn(from: string, to: string): string | null {
  const [part, other] = [partOf(from), partOf(to)];
  if (part === 'wasm/abi') return 'wasm/abi imports nothing: two compilers read it';
  if (part === other) return null;
  if (other === 'cli' && part !== 'test') return 'only tests import cli';
  const rule = MAY_IMPORT[part];
  if (rule === undefined) return `${part} has no import rule; add one to this test`;
  const allowed = rule.only !== undefined
    ? rule.only.includes(other) || rule.only.includes(to)
    : !(rule.allBut ?? []).includes(other);
  if (allowed) return null;
  const list = rule.only?.join(', ') || 'nothing else of ours';
  return rule.only === undefined
    ? `nobody but tests and benches imports ${other}`
    : `${part} may import ${list}`;
}

/** Why `from` may not import the package or built-in module `target`, or null. */
function refuseForeign(from: string, target: string): string | null {
  const part = partOf(from);
  if (part === 'wasm' || part === 'wasm/abi') return `${part} imports only wasm`;
  const builtin = target.startsWith('node:') || BUILTINS.has(target);
  if (builtin && part === 'engine') return 'engine is pure: no module of Node.js';
  if (builtin && !target.startsWith('node:')) return `say node:${target}`;
  for (const { pattern, folder } of ONLY_IN) {
    if (pattern.test(target) && part !== folder) return `only ${folder} imports ${target}`;
  }
  return null;
}

/** Imports against the order of the house. */
export function checkImports(files: SourceFile[]): string[] {
  const faults: string[] = [];
  for (const file of files) {
    for (const { target, line } of findImports(tokenize(file.text))) {
      const reason = target.startsWith('.')
        ? refuseOwn(file.path, resolveImport(file.path, target))
        : refuseForeign(file.path, target);
      if (reason !== null) faults.push(`${file.path}:${line}: imports ${target}; ${reason}`);
    }
  }
  return faults;
}

/** Packages that are imported but not declared, or declared for tests only. */
export function checkPackages(
  files: SourceFile[],
  declared: { dependencies: string[]; devDependencies: string[] },
): string[] {
  const faults: string[] = [];
  for (const file of files) {
    const known = ['test', 'bench', 'scripts'].includes(partOf(file.path))
      ? [...declared.dependencies, ...declared.devDependencies]
      : declared.dependencies;
    for (const { target, line } of findImports(tokenize(file.text))) {
      if (target.startsWith('.') || target.startsWith('node:') || BUILTINS.has(target)) continue;
      const name = target.split('/').slice(0, target.startsWith('@') ? 2 : 1).join('/');
      if (known.includes(name) || (name === GUEST_PACKAGE && partOf(file.path) === 'modules')) {
        continue;
      }
      faults.push(`${file.path}:${line}: ${name} is not among package.json's dependencies`);
    }
  }
  return faults;
}

/** Names of Node.js and of browsers in engine/, which runs anywhere. */
export function checkPurity(files: SourceFile[]): string[] {
  const faults: string[] = [];
  for (const file of files.filter(({ path }) => partOf(path) === 'engine')) {
    const tokens = tokenize(file.text);
    for (const [index, token] of tokens.entries()) {
      if (token.kind !== 'name' || !IMPURE_NAMES.has(token.text)) continue;
      const before = tokens[index - 1]?.text;
      if (before === '.' || before === '?.' || tokens[index + 1]?.text === ':') continue;
      faults.push(`${file.path}:${token.line}: ${token.text}; engine is pure, pass what it needs`);
    }
  }
  return faults;
}

/** Reads of the environment outside main.ts files, the CNI plugin, scripts, tests and benches. */
export function checkEnvironment(files: SourceFile[]): string[] {
  const faults: string[] = [];
  for (const file of files) {
    if (['cni', 'scripts', 'test', 'bench'].includes(partOf(file.path))) continue;
    if (posix.basename(file.path) === 'main.ts') continue;
    const tokens = tokenize(file.text);
    for (const [index, token] of tokens.entries()) {
      const reads = token.text === 'env' && tokens[index - 2]?.text === 'process';
      const imports = token.kind === 'string' && /^.(node:)?process.$/.test(token.text)
        && tokens[index - 1]?.text === 'from';
      if (!reads && !imports) continue;
      faults.push(`${file.path}:${token.line}: only main.ts files read the environment; `
        + 'take the value as an argument');
    }
  }
  return faults;
}
