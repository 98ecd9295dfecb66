// The server for whoever looks after the node: metrics, and whether the daemon lives and is ready.
// It answers GET and HEAD of a few paths, on the loopback address unless told otherwise, and keeps
// nobody waiting: what it is asked is read from memory.

import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Log } from '../engine/log.ts';

/** Limits of the server: it must not be what a node suffers from. */
const CONNECTION_LIMIT = 16;
const REQUEST_TIMEOUT_MS = 5000;
const IDLE_TIMEOUT_MS = 30_000;

/** One thing that was looked at; `detail` says more, where it is not well why not. */
export interface Check {
  name: string;
  isWell: boolean;
  detail: string;
}

export interface Answer {
  status: number;
  type: string;
  text: string;
}

export type Route = (query: URLSearchParams) => Answer | Promise<Answer>;

export interface HttpOptions {
  address: string;
  port: number;
  log: Log;
  /** By path. */
  routes: Readonly<Record<string, Route>>;
}

export class HttpServer {
  readonly #options: HttpOptions;
  #server: Server | null = null;
  #isClosed = false;

  constructor(options: HttpOptions) {
    this.#options = options;
  }

  /** The port it listens at, 0 while it does not. */
  get port(): number {
    const address = this.#server?.address();
    return typeof address === 'object' && address !== null ? address.port : 0;
  }

  /** Begins to serve. A port that is taken is no reason for pods to be without a network: it is
   * told, and the daemon goes on. The server's code is loaded now, not before packets flow. */
  async listen(): Promise<void> {
    const { address, port, log } = this.#options;
    this.#isClosed = false;
    const { createServer } = await import('node:http');
    if (this.#isClosed) return;
    const server = createServer({
      requestTimeout: REQUEST_TIMEOUT_MS, headersTimeout: REQUEST_TIMEOUT_MS,
      keepAliveTimeout: IDLE_TIMEOUT_MS,
    }, (request, response) => void this.#serve(request, response));
    server.maxConnections = CONNECTION_LIMIT;
    await new Promise<void>((resolve) => {
      server.once('error', (error: NodeJS.ErrnoException) => {
        log.warn({ address, port, error: error.code ?? error.message },
          'cannot listen for metrics and health; set http.port to another one, or to null');
        resolve();
      });
      server.listen(port, address, () => {
        this.#server = server;
        server.on('error', (error) => log.warn({ error: error.message }, 'http server failed'));
        resolve();
      });
    });
    // Nothing of it keeps a daemon alive that is about to end.
    server.unref();
  }

  /** Ends all connections, and listening, until it is to listen again. */
  async close(): Promise<void> {
    this.#isClosed = true;
    const server = this.#server;
    this.#server = null;
    if (server === null) return;
    server.closeAllConnections();
    await new Promise<void>((resolve) => server.close(() => resolve()));
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { status, type, text } = await this.#answer(request);
    response.writeHead(status, { 'content-type': type, 'cache-control': 'no-store' });
    response.end(request.method === 'HEAD' ? '' : text);
  }

  async #answer({ method, url = '/' }: IncomingMessage): Promise<Answer> {
    if (method !== 'GET' && method !== 'HEAD') return plain(405, 'only GET and HEAD\n');
    const { pathname, searchParams } = new URL(url, 'http://localhost');
    const route = Object.hasOwn(this.#options.routes, pathname)
      ? this.#options.routes[pathname] : undefined;
    if (route === undefined) {
      return plain(404, `${Object.keys(this.#options.routes).join('\n')}\n`);
    }
    try {
      return await route(searchParams);
    } catch (error) {
      this.#options.log.error({ path: pathname, error: (error as Error).message },
        'request failed');
      return plain(500, 'failed\n');
    }
  }
}

export function plain(status: number, text: string): Answer {
  return { status, type: 'text/plain; charset=utf-8', text };
}

/** What kubelet's own health checks look like: 200 or 503; a line for each check where asked by
 * `?verbose`, and where one is not well. */
export function checksAnswer(checks: readonly Check[], query: URLSearchParams): Answer {
  const isWell = checks.every((check) => check.isWell);
  const lines = checks.map(({ name, isWell: good, detail }) => {
    const outcome = good ? `[+]${name} ok` : `[-]${name} failed`;
    return `${outcome}${detail === '' ? '' : `: ${detail}`}\n`;
  });
  const verdict = `${isWell ? 'ok' : 'not ok'}\n`;
  const text = query.has('verbose') || !isWell ? `${lines.join('')}${verdict}` : verdict;
  return plain(isWell ? 200 : 503, text);
}
