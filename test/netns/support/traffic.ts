// Traffic that knows what it is: streams of TCP whose every byte is compared by SHA-256, and trains
// of numbered datagrams, from one pod to another. Each pod has a thread in its namespace.

import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import type { Host } from '../../../cli/demo/bed.ts';
import { until } from '../../support/until.ts';

/** Where every pod serves: TCP, and UDP of both families. */
export const TRAFFIC_PORT = 9100;
const UNDER_WAY_SEGMENTS = 100;

/** A train of datagrams: `count` of `size` bytes, numbered from `first` on. Where `segmented`, the
 * sender's kernel makes super-packets of them (UDP_SEGMENT). `tos` goes into the IP headers. */
export interface Train {
  address: string;
  stream: number;
  first: number;
  size: number;
  count: number;
  segmented: boolean;
  tos: number;
}

export type TrafficRequest =
  | { verb: 'serve' }
  | {
    verb: 'send' | 'fetch'; address: string; port: number; bytes: number; timeoutMs: number;
  }
  | { verb: 'bursts' | 'urgent'; address: string }
  | ({ verb: 'train' } & Train)
  | { verb: 'streams' }
  | { verb: 'counters' }
  | { verb: 'end' };

/** Of a TCP stream: whether the digests were the same, and the longest wait for the next byte. */
export interface StreamAnswer {
  bytes: number;
  same: boolean;
  elapsedMs: number;
  longestPauseMs: number;
}

/** What a pod has received of one train. `marks` counts datagrams by their TOS. */
export interface TrainAnswer {
  stream: number;
  received: number;
  late: number;
  damaged: number;
  sizes: number[];
  marks: Record<number, number>;
}

/** Counters of a pod's kernel, by the names in /proc/net/snmp and snmp6: `TcpInCsumErrors`. */
export type KernelCounters = Record<string, number>;

export interface TrafficReply {
  id: number;
  error: string | null;
  value: unknown;
}

/** A pod's thread. */
export class Traffic {
  readonly #worker: Worker;
  readonly #waiting = new Map<number, (reply: TrafficReply) => void>();
  #nextId = 1;

  private constructor({ namespace, name }: Host) {
    this.#worker = new Worker(new URL('./traffic-worker.js', import.meta.url), {
      workerData: { namespaceFd: namespace.fd }, name,
    });
    const fail = (error: string): void => {
      for (const resolve of this.#waiting.values()) resolve({ id: 0, error, value: null });
      this.#waiting.clear();
    };
    this.#worker.on('message', (reply: TrafficReply) => {
      this.#waiting.get(reply.id)?.(reply);
      this.#waiting.delete(reply.id);
    });
    this.#worker.on('error', (error: Error) => fail(error.message));
    this.#worker.on('exit', () => fail('the traffic thread has ended'));
  }

  /** Starts serving in a pod. */
  static async start(host: Host): Promise<Traffic> {
    const traffic = new Traffic(host);
    await traffic.#ask({ verb: 'serve' });
    return traffic;
  }

  /** Sends a TCP stream to another pod. */
  send(
    address: string, bytes: number, timeoutMs: number, port = TRAFFIC_PORT,
  ): Promise<StreamAnswer> {
    return this.#ask({ verb: 'send', address, port, bytes, timeoutMs }) as Promise<StreamAnswer>;
  }

  /** Has another pod send us a TCP stream. */
  fetch(
    address: string, bytes: number, timeoutMs: number, port = TRAFFIC_PORT,
  ): Promise<StreamAnswer> {
    return this.#ask({ verb: 'fetch', address, port, bytes, timeoutMs }) as Promise<StreamAnswer>;
  }

  /** Sends a TCP stream with pauses, each part of it pushed. True where it arrived as it was. */
  bursts(address: string): Promise<boolean> {
    return this.#ask({ verb: 'bursts', address }) as Promise<boolean>;
  }

  /** Sends a TCP stream with urgent data. True where the rest arrived as it was. */
  urgent(address: string): Promise<boolean> {
    return this.#ask({ verb: 'urgent', address }) as Promise<boolean>;
  }

  /** Sends a train, never more than one send ahead of what has arrived. Returns how many bursts
   * were not acknowledged in time. */
  train(train: Train): Promise<number> {
    return this.#ask({ verb: 'train', ...train }) as Promise<number>;
  }

  /** What has arrived of all trains. */
  streams(): Promise<TrainAnswer[]> {
    return this.#ask({ verb: 'streams' }) as Promise<TrainAnswer[]>;
  }

  counters(): Promise<KernelCounters> {
    return this.#ask({ verb: 'counters' }) as Promise<KernelCounters>;
  }

  /** Waits until this pod has sent so much of TCP since it had these counters that a stream is
   * under way. */
  async untilUnderWay(since: KernelCounters): Promise<void> {
    const sent = (counters: KernelCounters): number => counters['TcpOutSegs'] ?? 0;
    await until('a stream under way', async () =>
      sent(await this.counters()) >= sent(since) + UNDER_WAY_SEGMENTS);
  }

  /** Ends the thread by its own hand: terminated in a system call, it would abort the process. */
  async close(): Promise<void> {
    const exited = once(this.#worker, 'exit');
    this.#worker.postMessage({ id: 0, request: { verb: 'end' } });
    await exited;
  }

  async #ask(request: TrafficRequest): Promise<unknown> {
    const id = this.#nextId;
    this.#nextId += 1;
    const reply = await new Promise<TrafficReply>((resolve) => {
      this.#waiting.set(id, resolve);
      this.#worker.postMessage({ id, request });
    });
    if (reply.error !== null) throw new Error(`${JSON.stringify(request)}: ${reply.error}`);
    return reply.value;
  }
}
