// Pods that send before they have a network, and a record of every packet that comes to them.
//
// The thread (eager-worker.ts) opens its sockets in a pod's namespace while nothing but `lo` is
// there: raw ones, which try again and again until the kernel takes a packet, and a packet socket
// on all interfaces, the coming one included. So nothing that a pod is sent from its first moment
// on goes unseen, and what it sends meets its interface as it comes up.

import { once } from 'node:events';
import { Worker } from 'node:worker_threads';

/** Where pods send from. No other program of the tests uses it. */
export const EAGER_PORT = 40_000;

export type Protocol = 'TCP' | 'UDP' | 'ICMP';

/** What a pod sends: a SYN, a datagram or an echo request. The port is 0 for ICMP. */
export interface Shot {
  protocol: Protocol;
  address: string;
  port: number;
}

/** Packets of one kind that came to a pod: from whom, and the lower one of their two ports, which
 * is the service's. `isReply` where that is the sender's, and of ICMP all but echo requests. Times
 * are of process.hrtime(). */
export interface Arrival {
  to: string;
  from: string;
  protocol: string;
  port: number;
  isReply: boolean;
  count: number;
  firstMs: number;
}

/** What a pod has sent, and how much of what came is not in the record. */
export interface Sent {
  pod: string;
  /** Tries that the kernel refused, before the interface was up for the most part. */
  refused: number;
  sent: number;
  /** Packets that came too fast to be looked at. */
  unseen: number;
  enteredMs: number;
  /** When the kernel took the first packet; 0 where it has taken none. */
  firstMs: number;
}

export interface EagerReport {
  sent: Sent[];
  arrivals: Arrival[];
}

/** How many packets a pod sends at a time, and how often, once its first ones are out. */
export interface Pace {
  count: number;
  everyMs: number;
}

const STEADY: Pace = { count: 1, everyMs: 25 };

export type EagerRequest =
  | { verb: 'enter'; pod: string; path: string; shots: Shot[]; pace: Pace }
  | { verb: 'leave'; pod: string }
  | { verb: 'report' | 'take' | 'end' };

export class Eager {
  readonly #worker = new Worker(new URL('./eager-worker.js', import.meta.url));
  #last: Promise<unknown> = Promise.resolve();
  #ended: Promise<void> | null = null;

  /** Begins in a namespace, named by a path: sends in turn, from now on, and watches. */
  enter(pod: string, path: string, shots: Shot[], pace = STEADY): Promise<EagerReport> {
    return this.#ask({ verb: 'enter', pod, path, shots, pace });
  }

  /** Lets go of a pod's namespace. What it has sent and got stays in the report. */
  leave(pod: string): Promise<EagerReport> {
    return this.#ask({ verb: 'leave', pod });
  }

  report(): Promise<EagerReport> {
    return this.#ask({ verb: 'report' });
  }

  /** The report, which begins anew with this. */
  take(): Promise<EagerReport> {
    return this.#ask({ verb: 'take' });
  }

  /** Ends it, once, by its own hand: a thread that is terminated in a system call aborts the
   * process. */
  close(): Promise<void> {
    this.#ended ??= once(this.#worker, 'exit').then(() => {});
    this.#worker.postMessage({ verb: 'end' });
    return this.#ended;
  }

  #ask(request: EagerRequest): Promise<EagerReport> {
    const answer = this.#last.then(async () => {
      this.#worker.postMessage(request);
      const [result] = await once(this.#worker, 'message') as [EagerReport | string];
      if (typeof result === 'string') throw new Error(result);
      return result;
    });
    this.#last = answer.catch(() => {});
    return answer;
  }
}

/** The clock of arrivals. */
export function nowMs(): number {
  return Number(process.hrtime.bigint() / 1000n) / 1000;
}
