// Connections that are opened all the time, to a port that must let them in and one that must turn
// them away: each is a new flow, and each outcome is checked.

import type { Host } from '../../../cli/demo/bed.ts';
import { Thread } from './thread.ts';

export type Outcome = 'open' | 'refused' | 'silence';

export type KnocksRequest =
  | { verb: 'listen'; ports: number[] }
  | { verb: 'try'; address: string; port: number; timeoutMs: number }
  | { verb: 'knock'; address: string; open: number; shut: number; perSecond: number }
  | { verb: 'stop' };

/** Connections that ended as they must, and the first ones that did not. */
export interface KnocksReport {
  open: number;
  refused: number;
  wrong: string[];
}

export class Knocks {
  readonly #thread: Thread<KnocksRequest>;

  constructor(host: Host) {
    this.#thread = new Thread(host, new URL('./knocks-worker.js', import.meta.url));
  }

  /** Accepts connections, and says nothing. */
  async listen(ports: number[]): Promise<void> {
    await this.#thread.ask({ verb: 'listen', ports });
  }

  /** What becomes of one connection. */
  try(address: string, port: number, timeoutMs: number): Promise<Outcome> {
    return this.#thread.ask({ verb: 'try', address, port, timeoutMs }) as Promise<Outcome>;
  }

  /** Knocks from now on, as often at each of the two ports. */
  async knock(address: string, open: number, shut: number, perSecond: number): Promise<void> {
    await this.#thread.ask({ verb: 'knock', address, open, shut, perSecond });
  }

  /** Knocks no more. Answers once the last knock has ended. */
  stop(): Promise<KnocksReport> {
    return this.#thread.ask({ verb: 'stop' }) as Promise<KnocksReport>;
  }

  close(): Promise<void> {
    return this.#thread.close();
  }
}
