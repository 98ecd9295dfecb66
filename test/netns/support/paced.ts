// Datagrams at a steady rate from one pod to another, each accounted for, and a watch over a link.

import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import type { Host } from '../../../cli/demo/bed.ts';

const POLL_MS = 20;
/** Longer than any queue on the way holds a datagram. */
const QUIET_MS = 2000;

/** What a thread is given. */
export interface PacedData {
  namespaceFd: number;
  role: 'send' | 'listen' | 'watch';
  address: string;
  port: number;
  perSecond: number;
  device: string;
}

/** What a thread has seen so far; each fills in its own part. */
export interface PacedReport {
  sent: number;
  /** Different datagrams that have come, and those that came again. */
  arrived: number;
  duplicates: number;
  /** Between two arrivals. */
  longestGapMs: number;
  /** Frames on the link, and those with a pod's packet outside a tunnel, the first one in hex. */
  frames: number;
  strays: number;
  sample: string;
}

/** A thread in a namespace. */
export class Paced {
  readonly #worker: Worker;

  private constructor(data: PacedData) {
    this.#worker = new Worker(new URL('./paced-worker.js', import.meta.url), { workerData: data });
  }

  /** Sends from now on. */
  static sender(host: Host, address: string, port: number, perSecond: number): Promise<Paced> {
    return Paced.#start(host, { role: 'send', address, port, perSecond });
  }

  /** `address` is one of the host's. */
  static listener(host: Host, address: string, port: number): Promise<Paced> {
    return Paced.#start(host, { role: 'listen', address, port });
  }

  /** Looks at everything that crosses an interface. */
  static watch(host: Host, device: string): Promise<Paced> {
    return Paced.#start(host, { role: 'watch', device });
  }

  static async #start({ namespace }: Host, data: Partial<PacedData>): Promise<Paced> {
    const paced = new Paced({
      namespaceFd: namespace.fd, role: 'watch', address: '', port: 0, perSecond: 0, device: '',
      ...data,
    });
    await once(paced.#worker, 'message');
    return paced;
  }

  report(): Promise<PacedReport> {
    return this.#ask('report');
  }

  /** Waits until a listener has heard so many, or has heard nothing for a while. */
  async settled(count: number): Promise<PacedReport> {
    let last = await this.report();
    for (let quietMs = 0; last.arrived < count && quietMs < QUIET_MS;) {
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
      const next = await this.report();
      quietMs = next.arrived === last.arrived ? quietMs + POLL_MS : 0;
      last = next;
    }
    return last;
  }

  /** Sends, or watches, no more. */
  stop(): Promise<PacedReport> {
    return this.#ask('stop');
  }

  /** Ends it by its own hand: a thread that is terminated in a system call aborts the process. */
  async close(): Promise<void> {
    const exited = once(this.#worker, 'exit');
    this.#worker.postMessage('end');
    await exited;
  }

  async #ask(verb: string): Promise<PacedReport> {
    this.#worker.postMessage(verb);
    const [report] = await once(this.#worker, 'message') as [PacedReport];
    return report;
  }
}
