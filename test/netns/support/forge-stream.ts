// Traffic between two pods that does not stop: a datagram and a record on one TCP connection every
// few milliseconds, all echoed. It says whether packets still flow, and in the end what was lost.

import { Worker } from 'node:worker_threads';
import type { Host } from '../../../cli/demo/bed.ts';
import { PATIENCE_MS, until } from '../../support/until.ts';

const FIRST_PORT = 9000;

/** What a thread of a stream is given; `address` is null for the side that echoes. */
export interface StreamData {
  namespaceFd: number;
  address: string | null;
  port: number;
}

export interface StreamCommand {
  id: number;
  verb: 'more' | 'report' | 'stop';
  count: number;
}

/** Datagrams sent and echoed, records sent and returned in order; `fault` of the connection. */
export interface StreamReport {
  datagrams: number;
  echoed: number;
  records: number;
  returned: number;
  fault: string;
}

interface Answer {
  id: number;
  report: StreamReport | null;
}

/** One end in a thread of its own. */
class End {
  readonly #worker: Worker;
  readonly #waiting = new Map<number, (answer: Answer) => void>();
  readonly ready: Promise<unknown>;
  #nextId = 1;

  constructor(data: StreamData) {
    this.#worker = new Worker(new URL('./forge-stream-worker.js', import.meta.url), {
      workerData: data,
    });
    this.ready = this.#wait(0, data.address === null ? 'listening' : 'the first echo');
    this.#worker.on('message', (answer: Answer) => this.#waiting.get(answer.id)?.(answer));
  }

  ask(verb: StreamCommand['verb'], count: number): Promise<Answer> {
    const id = this.#nextId;
    this.#nextId += 1;
    this.#worker.postMessage({ id, verb, count });
    return this.#wait(id, `${verb} ${count}`);
  }

  async close(): Promise<void> {
    await this.#worker.terminate();
  }

  #wait(id: number, what: string): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`stream: ${what}: in vain`)), PATIENCE_MS);
      this.#waiting.set(id, (answer) => {
        clearTimeout(timer);
        this.#waiting.delete(id);
        resolve(answer);
      });
    });
  }
}

export class Stream {
  static #nextPort = FIRST_PORT;
  /** Of TCP and UDP alike. */
  readonly port: number;
  readonly #server: End;
  readonly #client: End;

  private constructor(port: number, server: End, client: End) {
    this.port = port;
    this.#server = server;
    this.#client = client;
  }

  /** Starts a stream and waits until it has been echoed. */
  static async start(from: Host, to: Host, address: string): Promise<Stream> {
    const port = Stream.#nextPort;
    Stream.#nextPort += 1;
    const server = new End({ namespaceFd: to.namespace.fd, address: null, port });
    await server.ready;
    const client = new End({ namespaceFd: from.namespace.fd, address, port });
    const stream = new Stream(port, server, client);
    try {
      await client.ready;
      return stream;
    } catch (error) {
      await stream.close();
      throw error;
    }
  }

  /** Resolves when so many more datagrams, and records not yet sent, have come back. */
  async goesOn(count = 20): Promise<void> {
    await this.#client.ask('more', count);
  }

  /** What has become of the stream so far. */
  async report(): Promise<StreamReport> {
    const { report } = await this.#client.ask('report', 0);
    if (report === null) throw new Error('stream: no report');
    return report;
  }

  /** Waits until so many more datagrams have been sent, whether they come back or not. */
  async speaks(count = 20): Promise<void> {
    const wanted = (await this.report()).datagrams + count;
    await until(`datagram ${wanted}`, async () => (await this.report()).datagrams >= wanted);
  }

  /** Ends the stream and says what became of it. */
  async stop(): Promise<StreamReport> {
    const { report } = await this.#client.ask('stop', 0);
    await this.close();
    if (report === null) throw new Error('stream: no report');
    return report;
  }

  async close(): Promise<void> {
    await Promise.all([this.#server.close(), this.#client.close()]);
  }
}
