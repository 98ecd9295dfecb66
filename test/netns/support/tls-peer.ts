// TLS in a pod: a server of HTTP/1.0 over TLS, and clients that name a host, or none, and send
// their first bytes in one piece or in many.

import type { Host } from '../../../cli/demo/bed.ts';
import { Thread } from './thread.ts';

/** A question over a connection of its own. */
export interface TlsQuestion {
  address: string;
  port: number;
  /** The host in the ClientHello (RFC 6066 section 3); null: none. */
  name: string | null;
  /** Bytes of each segment; 0: as the kernel likes. */
  pieceBytes: number;
  timeoutMs: number;
}

export type TlsRequest =
  | { verb: 'serve'; port: number; key: string; certificate: string }
  | ({ verb: 'ask' } & TlsQuestion)
  | { verb: 'knock'; address: string; port: number; times: number; timeoutMs: number };

/** A pod's thread. */
export class TlsPeer {
  readonly #thread: Thread<TlsRequest>;

  constructor(host: Host) {
    this.#thread = new Thread(host, new URL('./tls-peer-worker.js', import.meta.url));
  }

  async serve(port: number, key: string, certificate: string): Promise<void> {
    await this.#thread.ask({ verb: 'serve', port, key, certificate });
  }

  /** `answered`, or why not. */
  async ask(question: TlsQuestion): Promise<string> {
    return String(await this.#thread.ask({ verb: 'ask', ...question }));
  }

  /** Opens TCP connections one after the other. Returns how many there are. */
  async knock(address: string, port: number, times: number, timeoutMs: number): Promise<number> {
    return Number(await this.#thread.ask({ verb: 'knock', address, port, times, timeoutMs }));
  }

  close(): Promise<void> {
    return this.#thread.close();
  }
}
