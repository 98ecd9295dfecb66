// Numbered datagrams that do not stop, and an account of each one that arrived.

import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import type { Host } from '../../../cli/demo/bed.ts';
import { until } from '../../support/until.ts';

/** Where the datagrams of a sender go, in turn. */
export interface Target {
  address: string;
  port: number;
}

/** What a thread is given: it sends to the targets, or listens on the ports. */
export interface DatagramData {
  namespaceFd: number;
  targets: Target[];
  ports: number[];
}

/** Datagrams that were sent, and how many have arrived at each port; `numbers` of those that have
 * arrived at each port where they were asked for. */
export interface DatagramReport {
  sent: number;
  counts: [port: number, count: number][];
  numbers: [port: number, numbers: number[]][];
}

/** A thread in a namespace. */
class DatagramEnd {
  readonly #worker: Worker;

  protected constructor(data: DatagramData) {
    this.#worker = new Worker(new URL('./datagrams-worker.js', import.meta.url), {
      workerData: data,
    });
  }

  report(verb: 'count' | 'numbers' = 'count'): Promise<DatagramReport> {
    this.#worker.postMessage(verb);
    return this.answer();
  }

  /** Ends it by its own hand: a thread that is terminated in a system call aborts the process. */
  async close(): Promise<void> {
    const exited = once(this.#worker, 'exit');
    this.#worker.postMessage('end');
    await exited;
  }

  protected async answer(): Promise<DatagramReport> {
    const [report] = await once(this.#worker, 'message') as [DatagramReport];
    return report;
  }
}

export class DatagramSender extends DatagramEnd {
  /** Sends from now on, whether there is a way or not. */
  static async start({ namespace }: Host, targets: Target[]): Promise<DatagramSender> {
    const sender = new DatagramSender({ namespaceFd: namespace.fd, targets, ports: [] });
    await sender.answer();
    return sender;
  }

  /** Waits until as many more datagrams have been sent. */
  async goesOn(count: number): Promise<void> {
    const wanted = (await this.report()).sent + count;
    await until(`datagram ${wanted}`, async () => (await this.report()).sent >= wanted);
  }
}

export class DatagramListener extends DatagramEnd {
  static async start({ namespace }: Host, ports: number[]): Promise<DatagramListener> {
    const listener = new DatagramListener({ namespaceFd: namespace.fd, targets: [], ports });
    await listener.answer();
    return listener;
  }

  /** Numbers of the datagrams that have arrived at a port. */
  async numbers(port: number): Promise<number[]> {
    return new Map((await this.report('numbers')).numbers).get(port) ?? [];
  }

  /** How many datagrams have arrived at a port. */
  async count(port: number): Promise<number> {
    return new Map((await this.report()).counts).get(port) ?? 0;
  }

  /** Waits until one that is not there yet arrives at a port. */
  async hears(port: number): Promise<void> {
    const before = await this.count(port);
    await until(`a datagram at ${port}`, async () => await this.count(port) > before);
  }
}
