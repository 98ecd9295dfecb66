// A program in a network namespace, held to a processor, with what it printed. It does not outlive
// this process: setpriv has the kernel end it then, however that came.

import { spawn, type ChildProcess } from 'node:child_process';
import { readFileSync } from 'node:fs';
import type { Namespace } from '../../ffi/netns.ts';
import { findTool } from '../../scripts/tools.ts';

const READY_TIMEOUT_MS = 15_000;
const STOP_TIMEOUT_MS = 3000;
/** Clock ticks in a second of /proc/PID/stat (proc(5)): 100 for programs, on every architecture. */
const TICKS_PER_SECOND = 100;
/** Fields of /proc/PID/stat behind the name, counted from 0. */
const STAT_UTIME = 11;
const STAT_STIME = 12;
/** Lines of a log that an error quotes. */
const QUOTED_LINES = 3;

/** Where a program runs: its namespace, and the processors it may use as taskset lists them; empty
 * for all. */
export interface Stage {
  namespace: Namespace;
  cores: string;
}

const SETPRIV = findTool('setpriv');
const TASKSET = findTool('taskset');
const STDBUF = findTool('stdbuf');

/** What stands in front of a command: it ends with us, keeps to its processors, and prints line by
 * line. Each of these becomes the next, so the process stays one. */
function launcher(cores: string): string[] {
  return [
    ...(SETPRIV === null ? [] : [SETPRIV, '--pdeathsig', 'KILL']),
    ...(TASKSET === null || cores === '' ? [] : [TASKSET, '-c', cores]),
    ...(STDBUF === null ? [] : [STDBUF, '-oL']),
  ];
}

export class Program {
  readonly #child: ChildProcess;
  readonly #name: string;
  readonly #exited: Promise<number | null>;
  #output = '';
  #log = '';
  #hasExited = false;

  /** Starts it. Its standard input stays open until closeInput(). */
  constructor(stage: Stage, command: string[], onOutput: (text: string) => void = () => {}) {
    const [first = '', ...words] = [...launcher(stage.cores), ...command];
    this.#name = command[0]?.split('/').at(-1) ?? '';
    this.#child = stage.namespace.run(() =>
      spawn(first, words, { stdio: ['pipe', 'pipe', 'pipe'] }));
    this.#child.stdout?.on('data', (chunk: Buffer) => {
      this.#output += chunk.toString();
      onOutput(chunk.toString());
    });
    this.#child.stderr?.on('data', (chunk: Buffer) => { this.#log += chunk.toString(); });
    this.#child.stdin?.on('error', () => {});
    this.#exited = new Promise((resolve) => {
      const end = (code: number | null): void => {
        this.#hasExited = true;
        resolve(code);
      };
      this.#child.on('error', (error) => {
        this.#log += error.message;
        end(null);
      });
      this.#child.on('close', end);
    });
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  get hasExited(): boolean {
    return this.#hasExited;
  }

  /** Waits until it has printed `text`, on either stream. */
  async waitFor(text: string): Promise<void> {
    const deadline = performance.now() + READY_TIMEOUT_MS;
    while (!this.#output.includes(text) && !this.#log.includes(text)) {
      if (this.#hasExited) throw this.#failure('ended');
      if (performance.now() > deadline) throw this.#failure('not ready in time');
      await sleep(5);
    }
  }

  /** Waits for a good end, and gives what it printed on standard output. */
  async finish(timeoutMs: number): Promise<string> {
    let isLate = false;
    const timer = setTimeout(() => {
      isLate = true;
      this.kill();
    }, timeoutMs);
    const code = await this.#exited;
    clearTimeout(timer);
    if (isLate) throw this.#failure(`took more than ${timeoutMs / 1000} s`);
    if (code !== 0) throw this.#failure(code === null ? 'was ended' : `exit ${code}`);
    return this.#output;
  }

  /** Ends its standard input, by which some know that they are done. */
  closeInput(): void {
    this.#child.stdin?.end();
  }

  /** Ends it, politely first. */
  async stop(): Promise<void> {
    if (this.#hasExited) return;
    this.#child.kill('SIGTERM');
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), STOP_TIMEOUT_MS);
    await this.#exited;
    clearTimeout(timer);
  }

  /** Ends it at once. */
  kill(): void {
    if (!this.#hasExited) this.#child.kill('SIGKILL');
  }

  /** Processor time that it has used, in seconds. */
  cpuSeconds(): number {
    const stat = readFileSync(`/proc/${this.pid}/stat`, 'utf8');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    const ticks = Number(fields[STAT_UTIME]) + Number(fields[STAT_STIME]);
    return ticks / TICKS_PER_SECOND;
  }

  /** Memory of it that is in RAM, in bytes. */
  residentBytes(): number {
    const status = readFileSync(`/proc/${this.pid}/status`, 'utf8');
    return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1] ?? NaN) * 1024;
  }

  #failure(what: string): Error {
    const said = this.#log === '' ? this.#output : this.#log;
    const lines = said.trim().split('\n').slice(-QUOTED_LINES).filter((line) => line !== '');
    return new Error([`${this.#name} ${what}`, ...lines].join('; '));
  }
}

export function sleep(milliseconds: number): Promise<void> {
  return new Promise((resolve) => { setTimeout(resolve, milliseconds); });
}
