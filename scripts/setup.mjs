// Set-up that runs before anything else can: installs the packages, builds the core and compiles
// the TypeScript, each only when it is out of date. Silent when there is nothing to do; what it
// does say goes to standard error, because the program that runs next owns standard output.
//
// Theory of operation. Packages are current when npm's own record of what it installed
// (node_modules/.package-lock.json) agrees with package-lock.json. A build is current when the
// stamp it left in dist/ is the hash of its sources; the stamp is removed before a build and
// written after it, so a build that was cut short is done again. Everything that changes the tree
// happens under a lock, a folder whose owner touches it every second; whoever finds it untouched
// for LOCK_STALE_MS, or its owner gone, takes it over.

import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, readdirSync, readlinkSync, rmSync, statSync,
  utimesSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const NODE_MINIMUM = 20;
const LOCK_STALE_MS = 30_000;
const LOCK_POLL_MS = 200;
const LOCK_WAIT_MS = 15 * 60_000;
const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const LOCK = join(ROOT, '.tools', 'setup.lock');
const NOT_SOURCE = new Set(['node_modules', 'dist', '.git', '.tools']);

/** One build: what it is made from, what proves that it is there, and the command.
 * @typedef {{ name: string, isSource: (path: string) => boolean, output: string,
 *   says: string, command: string[] }} Build
 * @typedef {import('node:child_process').ChildProcess} ChildProcess */

/** @type {Build[]} */
const BUILDS = [
  {
    name: 'core',
    isSource: (path) => path === 'asconfig.json' || /^wasm\/.*(?<!\.d)\.ts$/.test(path),
    output: 'dist/wasm/core.wasm',
    says: 'building the core (asc)',
    command: ['node_modules/assemblyscript/bin/asc.js', 'wasm/index.ts',
      '--config', 'asconfig.json', '--target', 'release'],
  },
  {
    name: 'typescript',
    isSource: (path) => /(^|\/)tsconfig[^/]*\.json$/.test(path)
      || (/\.ts$/.test(path) && !/^wasm\/(?!abi\/)/.test(path)),
    output: 'dist/scripts/test.js',
    says: 'compiling TypeScript (tsc)',
    command: ['node_modules/typescript/bin/tsc', '-b'],
  },
  {
    name: 'cni',
    isSource: (path) => path === 'package.json' || path === 'scripts/bundle.ts'
      || /^(cni|engine|ffi)\/.*\.ts$/.test(path),
    output: 'dist/cni/culvert.cjs',
    says: 'bundling the CNI plugin (esbuild)',
    command: ['dist/scripts/bundle.js'],
  },
  {
    name: 'command',
    isSource: (path) => ['package.json', 'scripts/bundle-command.ts'].includes(path)
      || /^(cli|cni|host|engine|ffi|modules|sync|wasm\/abi)\/.*(\.ts|tsconfig\.json)$/.test(path),
    output: 'dist/bundle/main.js',
    says: 'bundling the command (esbuild)',
    command: ['dist/scripts/bundle-command.js'],
  },
];

/** A failure that has been explained in full; needs no stack. */
class SetupError extends Error {}

/** The command that runs at the moment, to be ended with us. @type {ChildProcess | null} */
let running = null;

/** Says what is being done, on standard error. @param {string} text */
function say(text) {
  process.stderr.write(`culvert: ${text}\n`);
}

function checkMachine() {
  if (process.platform !== 'linux') {
    throw new SetupError(`Culvert needs Linux; this is ${process.platform}`);
  }
  if (Number(process.versions.node.split('.')[0]) < NODE_MINIMUM) {
    throw new SetupError(`Culvert needs Node.js ${NODE_MINIMUM} or newer; this is `
      + `${process.version} (${process.execPath})`);
  }
}

/** The file parsed as JSON, or null when it is missing or damaged. @param {string} path */
function readJson(path) {
  try {
    return JSON.parse(readFileSync(join(ROOT, path), 'utf8'));
  } catch {
    return null;
  }
}

/** True if every package of the lock file is installed in its version. Packages for other machines
 * are marked optional and may be missing. */
function packagesAreCurrent() {
  const wanted = readJson('package-lock.json')?.packages;
  const installed = readJson('node_modules/.package-lock.json')?.packages;
  if (!wanted || !installed) return false;
  return Object.entries(wanted).every(([path, entry]) => {
    if (path === '') return true;
    const found = installed[path];
    if (!found) return entry.optional === true;
    return found.version === entry.version && found.integrity === entry.integrity;
  });
}

/** Every file below `folder` that may be source, as sorted paths from the root.
 * @param {string} folder @returns {string[]} */
function listFiles(folder = '') {
  const found = [];
  for (const entry of readdirSync(join(ROOT, folder), { withFileTypes: true })) {
    const path = folder === '' ? entry.name : `${folder}/${entry.name}`;
    if (entry.isDirectory() && !NOT_SOURCE.has(entry.name)) found.push(...listFiles(path));
    if (entry.isFile()) found.push(path);
  }
  return found.sort();
}

/** @param {Build} build @param {string[]} files */
function hashSources(build, files) {
  const hash = createHash('sha256').update(build.command.join(' '));
  for (const path of ['package-lock.json', ...files.filter(build.isSource)]) {
    if (!existsSync(join(ROOT, path))) continue;
    hash.update(`\0${path}\0`).update(readFileSync(join(ROOT, path)));
  }
  return hash.digest('hex');
}

/** @param {Build} build */
function stampPath(build) {
  return join(ROOT, 'dist', `.${build.name}.stamp`);
}

/** @param {Build} build @param {string[]} files */
function buildIsCurrent(build, files) {
  if (!existsSync(join(ROOT, build.output)) || !existsSync(stampPath(build))) return false;
  return readFileSync(stampPath(build), 'utf8') === hashSources(build, files);
}

/** Runs a command to its end and keeps what it prints; throws that if it fails.
 * @param {string} program @param {string[]} args @returns {Promise<void>} */
function run(program, args) {
  return new Promise((done, fail) => {
    const child = spawn(program, args, { cwd: ROOT, stdio: ['ignore', 'pipe', 'pipe'] });
    running = child;
    /** @type {Buffer[]} */
    const output = [];
    child.stdout.on('data', (chunk) => output.push(chunk));
    child.stderr.on('data', (chunk) => output.push(chunk));
    child.on('error', (error) => fail(new SetupError(`cannot run ${program}: ${error.message}`)));
    child.on('close', (code, signal) => {
      running = null;
      if (code === 0) return done();
      const shown = [program === process.execPath ? 'node' : program, ...args].join(' ');
      const ending = signal === null ? `exit status ${code}` : `ended by ${signal}`;
      fail(new SetupError(`${Buffer.concat(output).toString()}\n${shown}: ${ending}`.trim()));
    });
  });
}

async function installPackages() {
  const verb = existsSync(join(ROOT, 'package-lock.json')) ? 'ci' : 'install';
  const args = [verb, '--include=dev', '--loglevel=error', '--no-audit', '--no-fund'];
  say(`installing packages (npm ${verb})`);
  const npm = process.env.npm_execpath ?? '';
  if (/npm-cli\.c?js$/.test(npm)) await run(process.execPath, [npm, ...args]);
  else await run('npm', args);
  if (!packagesAreCurrent()) {
    throw new SetupError('npm installed other packages than package-lock.json names');
  }
}

/** Removes compiled files whose source is gone, so that no deleted test runs again.
 * @param {string[]} files */
function removeOrphans(files) {
  const sources = new Set(files);
  /** @param {string} folder */
  const sweep = (folder) => {
    for (const entry of readdirSync(join(ROOT, folder), { withFileTypes: true })) {
      const path = `${folder}/${entry.name}`;
      if (entry.isDirectory()) sweep(path);
      const source = /^dist\/(.*)\.(?:js|d\.ts)(?:\.map)?$/.exec(path)?.[1];
      if (source !== undefined && !sources.has(`${source}.ts`)) rmSync(join(ROOT, path));
    }
  };
  if (existsSync(join(ROOT, 'dist'))) sweep('dist');
}

/** @param {Build} build @param {string[]} files */
async function runBuild(build, files) {
  const hash = hashSources(build, files);
  say(build.says);
  rmSync(stampPath(build), { force: true });
  if (build.name === 'typescript') removeOrphans(files);
  await run(process.execPath, build.command);
  if (!existsSync(join(ROOT, build.output))) {
    throw new SetupError(`${build.command.join(' ')} did not write ${build.output}`);
  }
  writeFileSync(stampPath(build), hash);
}

function isCurrent() {
  if (!packagesAreCurrent()) return false;
  const files = listFiles();
  return BUILDS.every((build) => buildIsCurrent(build, files));
}

async function bringUpToDate() {
  if (!packagesAreCurrent()) await installPackages();
  const files = listFiles();
  for (const build of BUILDS) {
    if (!buildIsCurrent(build, files)) await runBuild(build, files);
  }
}

/** Who we are, in words another process can check: process id, and the namespace it counts in. */
function ownName() {
  return `${process.pid} ${readlinkSync('/proc/self/ns/pid')}`;
}

/** True if the lock's owner is gone: its process id is free, or it stopped touching the lock. */
function lockIsStale() {
  try {
    if (Date.now() - statSync(LOCK).mtimeMs > LOCK_STALE_MS) return true;
    const [pid = '', namespace = ''] = readFileSync(join(LOCK, 'owner'), 'utf8').split(' ');
    return namespace === readlinkSync('/proc/self/ns/pid') && !existsSync(`/proc/${pid}`);
  } catch {
    return false; // being made or given up this very moment
  }
}

/** Makes a folder; false if it is there already. @param {string} path */
function tryMakeFolder(path) {
  try {
    mkdirSync(path);
    return true;
  } catch (error) {
    if (/** @type {NodeJS.ErrnoException} */ (error).code === 'EEXIST') return false;
    throw error;
  }
}

/** Removes a stale lock. A second lock around it keeps two from doing so at once, where the slower
 * would remove the lock that the faster has just taken. */
function breakStaleLock() {
  const breaker = `${LOCK}.break`;
  if (!tryMakeFolder(breaker)) {
    const madeMs = statSync(breaker, { throwIfNoEntry: false })?.mtimeMs ?? Date.now();
    if (Date.now() - madeMs > LOCK_STALE_MS) rmSync(breaker, { recursive: true, force: true });
    return;
  }
  try {
    if (lockIsStale()) rmSync(LOCK, { recursive: true, force: true });
  } finally {
    rmSync(breaker, { recursive: true, force: true });
  }
}

/** Waits for the lock and takes it. Answers the function that gives it back. */
async function takeLock() {
  mkdirSync(dirname(LOCK), { recursive: true });
  const startMs = Date.now();
  let waiting = false;
  while (!tryMakeFolder(LOCK)) {
    if (lockIsStale()) {
      breakStaleLock();
      continue;
    }
    if (!waiting) say('waiting for another set-up of this tree');
    waiting = true;
    if (Date.now() - startMs > LOCK_WAIT_MS) throw new SetupError(`${LOCK} is still held`);
    await new Promise((done) => setTimeout(done, LOCK_POLL_MS));
  }
  writeFileSync(join(LOCK, 'owner'), ownName());
  const touch = setInterval(() => {
    if (existsSync(LOCK)) utimesSync(LOCK, new Date(), new Date());
  }, 1_000);
  return () => {
    clearInterval(touch);
    rmSync(LOCK, { recursive: true, force: true });
  };
}

async function main() {
  checkMachine();
  if (isCurrent()) return;
  const giveBack = await takeLock();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
    process.once(signal, () => {
      running?.kill('SIGTERM');
      giveBack();
      process.exit(1);
    });
  }
  try {
    await bringUpToDate();
  } finally {
    giveBack();
  }
}

try {
  await main();
} catch (error) {
  const explained = error instanceof SetupError || typeof error?.code === 'string';
  const text = explained ? error.message : error?.stack ?? error;
  process.stderr.write(`${text}\nculvert: set-up failed\n`);
  process.exitCode = 1;
}
