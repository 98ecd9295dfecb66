// A client of many Services at once, that never uses a port for long. Each of its datagrams carries
// the time at which it was sent.

import type { Host } from '../../../cli/demo/bed.ts';
import { Thread } from './thread.ts';

/** Client ports of a Service, one range for each protocol. */
export const CLIENT_PORTS = 1000;

/** Milliseconds of a clock that all threads share. */
export function nowMs(): number {
  return Number(process.hrtime.bigint() / 1000n) / 1000;
}

/** A Service, and where the client's ports for it begin. */
export interface LoadTarget {
  addresses: string[];
  port: number;
  from: Record<'TCP' | 'UDP', number>;
}

export type LoadRequest =
  | { verb: 'start'; targets: LoadTarget[]; pace: Int32Array; each: number }
  | { verb: 'report' | 'stop' };

/** Of datagrams and of connections; `opened` counts ports of both. */
export interface LoadReport {
  sent: number;
  answered: number;
  opened: number;
  connected: number;
  failed: number;
}

export class Load {
  readonly #thread: Thread<LoadRequest>;
  /** One word: how many datagrams are to be sent so far. */
  readonly #pace = new Int32Array(new SharedArrayBuffer(4));

  constructor(host: Host) {
    this.#thread = new Thread(host, new URL('./churn-worker.js', import.meta.url));
  }

  /** Sends datagrams as they fall due, `each` from one port, and opens a connection of each Service
   * after the other. */
  async start(targets: LoadTarget[], each: number): Promise<void> {
    await this.#thread.ask({ verb: 'start', targets, pace: this.#pace, each });
  }

  /** Has so many datagrams be sent in all. */
  due(count: number): void {
    Atomics.store(this.#pace, 0, count);
  }

  report(): Promise<LoadReport> {
    return this.#thread.ask({ verb: 'report' }) as Promise<LoadReport>;
  }

  /** Sends no more, and opens no more. */
  stop(): Promise<LoadReport> {
    return this.#thread.ask({ verb: 'stop' }) as Promise<LoadReport>;
  }

  close(): Promise<void> {
    return this.#thread.close();
  }
}
