// Runs programs as a user runs them: exit code, standard output and standard error. What is started
// carries a marker in its environment, which its children inherit, so that a test can see whether
// any of them is left.

import { spawn, type ChildProcess, type SpawnOptions } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT } from './source.ts';
import { PATIENCE_MS, until } from './until.ts';

export const CLI = join(ROOT, 'dist', 'cli', 'culvert.js');
/** A user who may do nothing. */
export const NOBODY = { uid: 65534, gid: 65534 };

const MARKER = 'CULVERT_TEST_MARKER';
let started = 0;

/** How a program ended and what it wrote. */
export interface Outcome {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

/** A program that runs. Its standard input stays open. */
export class Command {
  readonly child: ChildProcess;
  readonly ended: Promise<Outcome>;
  readonly #marker: string;
  readonly #limitMs: number;
  #stdout = '';
  #stderr = '';

  constructor(command: readonly string[], options: SpawnOptions = {}, limitMs = PATIENCE_MS) {
    started += 1;
    this.#limitMs = limitMs;
    this.#marker = `${process.pid}-${started}`;
    const [program = '', ...words] = command;
    const env = { ...process.env, ...options.env, [MARKER]: this.#marker };
    const child = spawn(program, words, { cwd: ROOT, stdio: 'pipe', ...options, env });
    this.child = child;
    child.stdout?.on('data', (chunk: Buffer) => { this.#stdout += chunk.toString(); });
    child.stderr?.on('data', (chunk: Buffer) => { this.#stderr += chunk.toString(); });
    const timer = setTimeout(() => child.kill('SIGKILL'), limitMs);
    this.ended = new Promise((resolve, reject) => {
      child.on('error', reject);
      child.on('close', (code, signal) => {
        clearTimeout(timer);
        resolve({ code, signal, stdout: this.#stdout, stderr: this.#stderr });
      });
    });
    this.ended.catch(() => {});
  }

  get stderr(): string {
    return this.#stderr;
  }

  /** Waits until standard error has a text. Throws when the program ends without it. */
  async untilSaid(text: string): Promise<void> {
    await until(`"${text}"`, () => {
      if (this.#stderr.includes(text)) return true;
      if (this.child.exitCode !== null || this.child.signalCode !== null) {
        throw new Error(`ended without saying "${text}":\n${this.#stderr}`);
      }
      return false;
    }, () => this.#stderr, this.#limitMs);
  }

  /** Ids of the processes of this command that run now, the command's own included. */
  processes(): number[] {
    const text = `${MARKER}=${this.#marker}\0`;
    return readdirSync('/proc').filter((name) => /^\d+$/.test(name)).map(Number)
      .filter((pid) => environmentOf(pid).includes(text));
  }

  /** Ends everything of the command that is still there. */
  async end(): Promise<void> {
    for (const pid of this.processes()) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // It has just ended.
      }
    }
    await this.ended.catch(() => {});
  }
}

/** Empty for a process that is gone, a zombie, or somebody else's. */
function environmentOf(pid: number): string {
  try {
    return `${readFileSync(`/proc/${pid}/environ`, 'utf8')}\0`;
  } catch {
    return '';
  }
}

/** Runs `culvert` to its end, with nothing on standard input. */
export async function culvert(args: readonly string[], options: SpawnOptions = {})
  : Promise<Outcome> {
  const command = new Command([process.execPath, CLI, ...args], options);
  command.child.stdin?.end();
  try {
    return await command.ended;
  } finally {
    await command.end();
  }
}

/** Spawn options of an unprivileged user; null where that user cannot run the program at all. */
export async function unprivileged(): Promise<SpawnOptions | null> {
  if (process.getuid?.() !== 0) return {};
  const { code } = await culvert(['--version'], { ...NOBODY, cwd: '/' })
    .catch(() => ({ code: null }));
  return code === 0 ? { ...NOBODY, cwd: '/' } : null;
}
