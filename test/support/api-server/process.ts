// Starts the test API server in a process of its own (main.ts) and talks to it.

import { spawn, type ChildProcess } from 'node:child_process';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { ROOT } from '../source.ts';

const MAIN = join(ROOT, 'dist', 'test', 'support', 'api-server', 'main.js');

export class ApiServerProcess {
  url = '';
  ca = '';
  token = '';
  adminToken = '';
  kubeconfig = '';
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;
  #last: Promise<unknown> = Promise.resolve();

  private constructor(child: ChildProcess) {
    this.#child = child;
    if (child.stdout === null) throw new Error('the server has no output');
    this.#lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** Starts a server with arguments as main.ts has them. */
  static async start(...args: string[]): Promise<ApiServerProcess> {
    const child = spawn(process.execPath, ['--enable-source-maps', MAIN, ...args],
      { stdio: ['pipe', 'pipe', 'inherit'] });
    const server = new ApiServerProcess(child);
    const { pid: _pid, ...said } = await server.#read();
    Object.assign(server, said);
    return server;
  }

  /** Runs one command; what it gives. */
  async do(...command: unknown[]): Promise<unknown> {
    const answer = this.#last.then(async () => {
      this.#child.stdin?.write(`${JSON.stringify(command)}\n`);
      return await this.#read() as { ok: boolean; result?: unknown; error?: string };
    });
    this.#last = answer.catch(() => {});
    const { ok, result, error } = await answer;
    if (!ok) throw new Error(`${String(command[0])}: ${error ?? ''}`);
    return result;
  }

  async close(): Promise<void> {
    const ended = new Promise((resolve) => this.#child.once('close', resolve));
    if (this.#child.exitCode !== null) return;
    this.#child.stdin?.end();
    await ended;
  }

  async #read(): Promise<Record<string, unknown>> {
    const line = await this.#lines.next();
    if (line.done === true) throw new Error('the test API server has ended');
    return JSON.parse(line.value) as Record<string, unknown>;
  }
}
