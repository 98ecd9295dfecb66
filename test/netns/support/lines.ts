// Connections and datagrams that say who answers: a server tells its name, whom it saw and by which
// of its ports, and then echoes; a client counts what comes back.

import type { Host } from '../../../cli/demo/bed.ts';
import type { DnsAnswer, DnsQuestion } from './dns.ts';
import { Thread } from './thread.ts';

/** What a server says first. */
export interface Greeting {
  by: string;
  seen: string;
  port: number;
}

/** A datagram's answer, and where it came from. */
export interface Echo extends Greeting {
  from: string;
  fromPort: number;
}

/** A connection that is kept open: how many of its questions were answered, and how it ended; empty
 * while it has not. */
export interface Held {
  by: string;
  localPort: number;
  echoes: number;
  end: string;
}

/** Where a server of a name listens. */
export interface Post {
  address: string;
  port: number;
  name: string;
}

export interface Target {
  address: string;
  port: number;
  timeoutMs: number;
}

export type LinesRequest =
  | ({ verb: 'serve' | 'serveDatagrams' } & Post)
  | { verb: 'stopListening' }
  | ({ verb: 'who' | 'datagram' } & Target)
  | ({ verb: 'hold'; count: number } & Target)
  | { verb: 'held' | 'letGo' }
  | ({ verb: 'dns' } & DnsQuestion);

/** A pod's thread. Failures are errors with the kernel's word in them. */
export class Lines {
  readonly #thread: Thread<LinesRequest>;

  constructor(host: Host) {
    this.#thread = new Thread(host, new URL('./lines-worker.js', import.meta.url));
  }

  /** Serves TCP at all addresses. */
  async serve(name: string, port: number): Promise<void> {
    await this.#thread.ask({ verb: 'serve', address: '::', port, name });
  }

  /** Serves UDP at one address: one at all addresses does not know by which it was asked. */
  async serveDatagrams(name: string, address: string, port: number): Promise<void> {
    await this.#thread.ask({ verb: 'serveDatagrams', address, port, name });
  }

  /** Takes no more connections; those that are there stay. */
  async stopListening(): Promise<void> {
    await this.#thread.ask({ verb: 'stopListening' });
  }

  /** Opens a connection, hears the greeting, closes it. */
  who(address: string, port: number, timeoutMs: number): Promise<Greeting> {
    return this.#thread.ask({ verb: 'who', address, port, timeoutMs }) as Promise<Greeting>;
  }

  /** Sends a datagram from a socket that takes answers from anywhere. */
  datagram(address: string, port: number, timeoutMs: number): Promise<Echo> {
    return this.#thread.ask({ verb: 'datagram', address, port, timeoutMs }) as Promise<Echo>;
  }

  /** Opens connections, and asks something by each again and again until it ends. */
  async hold(address: string, port: number, count: number, timeoutMs: number): Promise<Held[]> {
    return await this.#thread.ask({ verb: 'hold', address, port, count, timeoutMs }) as Held[];
  }

  held(): Promise<Held[]> {
    return this.#thread.ask({ verb: 'held' }) as Promise<Held[]>;
  }

  /** Closes what is held. */
  async letGo(): Promise<void> {
    await this.#thread.ask({ verb: 'letGo' });
  }

  dns(question: DnsQuestion): Promise<DnsAnswer> {
    return this.#thread.ask({ verb: 'dns', ...question }) as Promise<DnsAnswer>;
  }

  close(): Promise<void> {
    return this.#thread.close();
  }
}
