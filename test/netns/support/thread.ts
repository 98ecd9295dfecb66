// A thread in a host's network namespace that answers requests one by one or many at a time. Those
// who make one give the file of its program, which hands serveThread() what answers.

import { once } from 'node:events';
import { Worker, parentPort, workerData } from 'node:worker_threads';
import type { Host } from '../../../cli/demo/bed.ts';
import { Namespace } from '../../../ffi/netns.ts';

interface Reply {
  id: number;
  error: string | null;
  value: unknown;
}

export class Thread<Request extends object> {
  readonly #worker: Worker;
  readonly #waiting = new Map<number, (reply: Reply) => void>();
  #nextId = 1;

  constructor({ namespace, name }: Host, program: URL) {
    this.#worker = new Worker(program, { workerData: { namespaceFd: namespace.fd }, name });
    const fail = (error: string): void => {
      for (const resolve of this.#waiting.values()) resolve({ id: 0, error, value: null });
      this.#waiting.clear();
    };
    this.#worker.on('message', (reply: Reply) => {
      this.#waiting.get(reply.id)?.(reply);
      this.#waiting.delete(reply.id);
    });
    this.#worker.on('error', (error: Error) => fail(error.message));
    this.#worker.on('exit', () => fail('the thread has ended'));
  }

  async ask(request: Request): Promise<unknown> {
    const id = this.#nextId;
    this.#nextId += 1;
    const reply = await new Promise<Reply>((resolve) => {
      this.#waiting.set(id, resolve);
      this.#worker.postMessage({ id, request });
    });
    if (reply.error !== null) throw new Error(`${JSON.stringify(request)}: ${reply.error}`);
    return reply.value;
  }

  /** Ends the thread by its own hand: terminated in a system call, it would abort the process. */
  async close(): Promise<void> {
    const exited = once(this.#worker, 'exit');
    this.#worker.postMessage({ id: 0, request: null });
    await exited;
  }
}

/** Enters the namespace and answers what is asked; nothing happens in the main thread. */
export function serveThread<Request>(answer: (request: Request) => Promise<unknown>): void {
  const port = parentPort;
  if (port === null) return;
  new Namespace((workerData as { namespaceFd: number }).namespaceFd).enter();
  port.on('message', ({ id, request }: { id: number; request: Request | null }) => {
    if (request === null) process.exit();
    answer(request).then(
      (value: unknown) => port.postMessage({ id, error: null, value }),
      (error: Error) => port.postMessage({ id, error: error.message, value: null }));
  });
}
