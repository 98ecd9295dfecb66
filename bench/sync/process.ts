// A program that a benchmark watches: its lines, and the memory it takes.

import { spawn, type ChildProcess } from 'node:child_process';
import { readFileSync } from 'node:fs';

const KIBIBYTE = 1024;
const STOP_TIMEOUT_MS = 3000;
const QUOTED_LINES = 5;

export interface Resident {
  nowBytes: number;
  peakBytes: number;
}

export class Watched {
  readonly #child: ChildProcess;
  readonly #name: string;
  #lines: string[] = [];
  #log = '';
  #wake = (): void => {};
  #hasExited = false;

  constructor(name: string, command: readonly string[], start: StartProcess = spawn) {
    const [program = '', ...words] = command;
    this.#name = name;
    this.#child = start(program, words, { stdio: ['pipe', 'pipe', 'pipe'] });
    let rest = '';
    this.#child.stdout?.on('data', (chunk: Buffer) => {
      const lines = (rest + chunk.toString()).split('\n');
      rest = lines.pop() ?? '';
      this.#lines.push(...lines);
      this.#wake();
    });
    this.#child.stderr?.on('data', (chunk: Buffer) => {
      this.#log += chunk.toString();
      this.#wake();
    });
    this.#child.stdin?.on('error', () => {});
    this.#child.once('exit', () => {
      this.#hasExited = true;
      this.#wake();
    });
  }

  /** Writes a line. */
  tell(line: string): void {
    this.#child.stdin?.write(`${line}\n`);
  }

  /** The next line of output. */
  async line(timeoutMs: number): Promise<string> {
    await this.#until(() => this.#lines.length > 0, timeoutMs);
    return this.#lines.shift() ?? '';
  }

  /** Waits for a text in its log, and gives the line it is in. */
  async logged(text: string, timeoutMs: number): Promise<string> {
    await this.#until(() => this.#log.includes(text), timeoutMs);
    return this.#log.split('\n').find((line) => line.includes(text)) ?? '';
  }

  /** Memory that is in RAM, and the most that ever was. */
  resident(): Resident {
    const status = readFileSync(`/proc/${this.#child.pid}/status`, 'utf8');
    const bytes = (field: string): number =>
      Number(new RegExp(`^${field}:\\s+(\\d+) kB$`, 'm').exec(status)?.[1] ?? NaN) * KIBIBYTE;
    return { nowBytes: bytes('VmRSS'), peakBytes: bytes('VmHWM') };
  }

  /** Ends it, politely first. */
  async stop(): Promise<void> {
    if (this.#hasExited) return;
    const exited = new Promise((resolve) => this.#child.once('exit', resolve));
    this.#child.kill('SIGTERM');
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), STOP_TIMEOUT_MS);
    await exited;
    clearTimeout(timer);
  }

  async #until(isTrue: () => boolean, timeoutMs: number): Promise<void> {
    const deadline = performance.now() + timeoutMs;
    while (!isTrue()) {
      const left = deadline - performance.now();
      if (this.#hasExited || left <= 0) {
        const said = this.#log.trim().split('\n').slice(-QUOTED_LINES).join('; ');
        throw new Error(`${this.#name} ${this.#hasExited ? 'ended' : 'took too long'}: ${said}`);
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, Math.min(left, 100));
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }
}

/** spawn(), or the same inside a namespace. */
export type StartProcess = (
  program: string, words: readonly string[], options: { stdio: ['pipe', 'pipe', 'pipe'] },
) => ChildProcess;
