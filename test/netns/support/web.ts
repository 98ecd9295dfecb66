// HTTP in a pod: a server that tells whom it saw and what was asked of it, and a client that trusts
// the certificate that it is given and no other.

import type { Host } from '../../../cli/demo/bed.ts';
import { Thread } from './thread.ts';

/** A request. `host` goes into the Host field and, with TLS, into SNI (RFC 6066 section 3). */
export interface WebQuestion {
  address: string;
  port: number;
  path: string;
  host: string;
  /** What signed the server's certificate, as PEM; without TLS where there is none. */
  authority?: string;
  timeoutMs: number;
}

export type WebRequest =
  | { verb: 'serve'; address: string; port: number; name: string }
  | ({ verb: 'get' } & WebQuestion);

/** What our server says of a request. */
export interface Sight {
  by: string;
  /** Whose connection it was. */
  seen: string;
  /** Of the proxy before: X-Forwarded-For. */
  forwarded: string;
  host: string;
  path: string;
}

/** `sight` is null where somebody else answered: a proxy with an error of its own. */
export interface WebAnswer {
  status: number;
  sight: Sight | null;
}

/** A pod's thread. */
export class Web {
  readonly #thread: Thread<WebRequest>;

  constructor(host: Host) {
    this.#thread = new Thread(host, new URL('./web-worker.js', import.meta.url));
  }

  /** Serves at an address, `::` being all of both families. */
  async serve(name: string, port: number, address = '::'): Promise<void> {
    await this.#thread.ask({ verb: 'serve', address, port, name });
  }

  /** Throws where no answer comes. */
  get(question: WebQuestion): Promise<WebAnswer> {
    return this.#thread.ask({ verb: 'get', ...question }) as Promise<WebAnswer>;
  }

  close(): Promise<void> {
    return this.#thread.close();
  }
}
