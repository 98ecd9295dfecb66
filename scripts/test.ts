// The test runner behind `npm test`: runs each compiled test file in a process of its own, two at a
// time, and adds up what uvu reports. What shares the machine's names has its process id in them.
// The few that need the machine for themselves, because they judge how long something took, run
// alone afterwards.
//
// usage: node dist/scripts/test.js [--slow] [part of a file name]...
//
// Standard output ends with the line `N passed, N failed, N skipped`.

import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type FileRun, type Outcome, addUp, describe, judge, timeLimitMs } from './test-report.ts';
import { FILE_PACKAGES, TOOLS, bringTools } from './tools.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const PARALLEL = 2;
/** After SIGTERM a test has this long to clean up its namespaces. */
const GRACE_MS = 10_000;
/** Output that arrives later than this after a test's exit is lost. */
const LEFTOVER_MS = 2_000;
/** Tests under these folders may need programs of others, which are brought meanwhile. */
const NEEDING_TOOLS = /^test\/(bench|cli|cni|deploy|ffi|host|netns|platform|scripts|sync|arm)\//;
/** These compare how long something takes with how long something else does, or are large. */
const ALONE = /^test\/(netns\/(killed|module-threats)|cni\/request)\.test\.ts$|\.slow\.test\.ts$/;

const children = new Set<ChildProcess>();
let interrupted = false;

/** Every compiled test below `folder`, as the paths of their sources, sorted. */
function findTests(folder: string): string[] {
  const found: string[] = [];
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) found.push(...findTests(path));
    else if (entry.name.endsWith('.test.js')) {
      found.push(relative(join(ROOT, 'dist'), path).replace(/\.js$/, '.ts'));
    }
  }
  return found.sort();
}

/** The tests that the arguments ask for. */
function selectTests(args: string[]): string[] {
  const slow = args.includes('--slow');
  const filters = args.filter((arg) => !arg.startsWith('--'));
  return findTests(join(ROOT, 'dist', 'test'))
    .filter((file) => file.endsWith('.slow.test.ts') === slow)
    .filter((file) => filters.length === 0 || filters.some((part) => file.includes(part)));
}

/** Sends a signal to a child and all that it started. */
function signalGroup(child: ChildProcess, signal: NodeJS.Signals): void {
  if (child.pid === undefined) return;
  try {
    process.kill(-child.pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

/** Asks a child's group to end, and ends it when it has not after GRACE_MS. */
function endGroup(child: ChildProcess): void {
  signalGroup(child, 'SIGTERM');
  setTimeout(() => signalGroup(child, 'SIGKILL'), GRACE_MS).unref();
}

/** Runs one test file to its end, or until it has said nothing for its time limit. */
function runFile(file: string): Promise<FileRun> {
  const source = join(ROOT, file);
  const limitMs = timeLimitMs(existsSync(source) ? readFileSync(source, 'utf8') : '');
  const script = join(ROOT, 'dist', file.replace(/\.ts$/, '.js'));
  const startMs = performance.now();
  return new Promise((done) => {
    const child = spawn(process.execPath, ['--enable-source-maps', script], {
      cwd: ROOT, detached: true, stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, NO_COLOR: '1' },
    });
    children.add(child);
    const output: Buffer[] = [];
    let timedOut = false;
    const timer = setTimeout(() => {
      timedOut = true;
      endGroup(child);
    }, limitMs);
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (chunk: Buffer) => {
        output.push(chunk);
        if (!timedOut) timer.refresh();
      });
    }
    // What a test left running would hold its output open: it ends with the test, and what has
    // left the group is not waited for.
    child.on('exit', () => {
      signalGroup(child, 'SIGKILL');
      setTimeout(() => {
        child.stdout.destroy();
        child.stderr.destroy();
      }, LEFTOVER_MS).unref();
    });
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      children.delete(child);
      const seconds = (performance.now() - startMs) / 1000;
      const text = Buffer.concat(output).toString();
      done({ file, output: text, code, signal, seconds, timedOut, limitMs });
    });
  });
}

/** Runs the files, `parallel` at a time, and prints a line for each. */
async function runAll(files: string[], parallel: number): Promise<Outcome[]> {
  const outcomes: Outcome[] = [];
  const queue = [...files];
  const work = async (): Promise<void> => {
    for (let file = queue.shift(); file !== undefined; file = queue.shift()) {
      if (interrupted) return;
      const outcome = judge(await runFile(file));
      outcomes.push(outcome);
      if (!interrupted) process.stdout.write(describe(outcome));
    }
  };
  await Promise.all(Array.from({ length: parallel }, work));
  return outcomes;
}

/** Ends the running tests when we are told to end, and lets them clean up first. */
function handleInterrupts(): void {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => {
      const again = interrupted;
      interrupted = true;
      for (const child of children) {
        if (again) signalGroup(child, 'SIGKILL');
        else endGroup(child);
      }
    });
  }
  process.on('exit', () => {
    for (const child of children) signalGroup(child, 'SIGKILL');
  });
}

async function main(): Promise<void> {
  const files = selectTests(process.argv.slice(2));
  handleInterrupts();
  const needing = files.filter((file) => NEEDING_TOOLS.test(file));
  const alone = needing.filter((file) => ALONE.test(file));
  const tools = needing.length > 0 ? bringTools(TOOLS, FILE_PACKAGES) : Promise.resolve();
  const pure = runAll(files.filter((file) => !NEEDING_TOOLS.test(file)), PARALLEL);
  const [outcomes] = await Promise.all([pure, tools]);
  outcomes.push(...await runAll(needing.filter((file) => !ALONE.test(file)), PARALLEL));
  outcomes.push(...await runAll(alone, 1));
  const sum = addUp(outcomes);
  for (const line of sum.skips) process.stdout.write(`skipped: ${line}\n`);
  for (const file of sum.failedFiles) process.stdout.write(`failed: ${file}\n`);
  if (files.length === 0) process.stdout.write('no test file matches\n');
  if (interrupted) process.stdout.write('interrupted\n');
  process.stdout.write(`${sum.passed} passed, ${sum.failed} failed, ${sum.skipped} skipped\n`);
  process.exitCode = sum.failed > 0 || files.length === 0 || interrupted ? 1 : 0;
}

await main();
