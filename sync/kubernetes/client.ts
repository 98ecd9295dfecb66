// The HTTP client of the API server: requests with an answer to hold, and streams of bytes.
//
// Everything has a deadline: the connection, the head of the answer, and each silence in its body.
// A stream has a connection of its own while it lasts; afterwards the connection serves the next
// request. A connection that the server closed while it lay idle is no error: the request goes out
// once more on a fresh one.

import { Agent as HttpAgent, request as httpRequest } from 'node:http';
import type { ClientRequest, IncomingMessage, OutgoingHttpHeaders } from 'node:http';
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https';
import type { Access, Credentials } from './access.ts';

/** The longest answer that is held whole. */
export const ANSWER_SIZE_LIMIT = 8 * 1024 * 1024;
export const CONNECT_TIMEOUT_MS = 10_000;
/** A server may let a request wait for its turn, or for its storage. */
export const HEADER_TIMEOUT_MS = 30_000;
export const SILENCE_TIMEOUT_MS = 30_000;
/** When the kernel begins to ask an idle connection whether the other side is still there. */
const KEEPALIVE_MS = 15_000;
const IDLE_CONNECTIONS = 2;
const MESSAGE_LIMIT = 500;

export type Query = Readonly<Record<string, string | number | boolean | undefined>>;

export interface ClientOptions {
  /** Of Culvert, for the server's log. */
  version?: string;
  connectTimeoutMs?: number;
  headerTimeoutMs?: number;
  silenceTimeoutMs?: number;
}

export interface StreamOptions {
  /** The longest time without a byte. */
  silenceTimeoutMs?: number;
  /** Called when the server has accepted, before the first byte of the body. */
  onOpen?(): void;
}

/** What went wrong with a request. `status` is the server's answer, 0 where there was none;
 * `reason` one word: as the server says it (`Forbidden`, `Expired`), or `Unreachable`, `Timeout`,
 * `Silent`, `Cut`, `TooLong`. */
export class ApiError extends Error {
  readonly status: number;
  readonly reason: string;
  /** How long the server wants us to wait; null where it did not say. */
  readonly retryAfterMs: number | null;

  constructor(
    status: number, reason: string, message: string, retryAfterMs: number | null = null,
    options?: ErrorOptions,
  ) {
    super(message.slice(0, MESSAGE_LIMIT), options);
    this.name = 'ApiError';
    this.status = status;
    this.reason = reason;
    this.retryAfterMs = retryAfterMs;
  }
}

interface Body {
  text: string;
  contentType: string;
}

interface Exchange {
  method: 'GET' | 'PATCH';
  path: string;
  query: Query;
  body: Body | null;
  signal: AbortSignal;
}

export class ApiClient {
  readonly access: Access;
  readonly #options: ClientOptions;
  #agent: HttpAgent | null = null;
  #used: Credentials | null = null;

  constructor(access: Access, options: ClientOptions = {}) {
    this.access = access;
    this.#options = options;
  }

  /** The answer, as the value its JSON stands for. Throws ApiError. */
  async get(path: string, query: Query, signal: AbortSignal): Promise<unknown> {
    return this.#hold({ method: 'GET', path, query, body: null, signal });
  }

  /** The object after the change. Throws ApiError. */
  async patch(
    path: string, change: unknown, contentType: string, signal: AbortSignal, query: Query = {},
  ): Promise<unknown> {
    const body = { text: JSON.stringify(change), contentType };
    return this.#hold({ method: 'PATCH', path, query, body, signal });
  }

  /** The bytes of an answer as they come. Throws ApiError, also where the answer was cut or fell
   * silent. */
  async* stream(
    path: string, query: Query, signal: AbortSignal, options: StreamOptions = {},
  ): AsyncGenerator<Buffer, void, undefined> {
    const answer = await this.#begin({ method: 'GET', path, query, body: null, signal });
    if (answer.statusCode !== 200) throw await this.#refusal(answer);
    options.onOpen?.();
    const { silenceTimeoutMs = this.#options.silenceTimeoutMs ?? SILENCE_TIMEOUT_MS } = options;
    yield* chunksOf(answer, path, silenceTimeoutMs, signal);
  }

  /** Ends the connections that lie idle. */
  close(): void {
    this.#agent?.destroy();
    this.#agent = null;
    this.#used = null;
  }

  async #hold(exchange: Exchange): Promise<unknown> {
    const answer = await this.#begin(exchange);
    const { statusCode = 0 } = answer;
    if (statusCode < 200 || statusCode > 299) throw await this.#refusal(answer);
    const text = await this.#text(answer, exchange.path);
    try {
      return JSON.parse(text);
    } catch (error) {
      throw new ApiError(statusCode, 'NotJson', `${exchange.path}: the answer is not JSON`, null,
        { cause: error });
    }
  }

  /** A connection that was closed while it lay idle says nothing about the server. */
  async #begin(exchange: Exchange): Promise<IncomingMessage> {
    const { origin } = this.access.url;
    try {
      return await this.#send(exchange);
    } catch (error) {
      const again = error instanceof StaleConnection && !exchange.signal.aborted;
      if (!again) throw failureOf(error, origin);
    }
    this.#closeIdle();
    return this.#send(exchange).catch((error: unknown) => {
      throw failureOf(error, origin);
    });
  }

  /** Resolves with the head of the answer. */
  #send(exchange: Exchange): Promise<IncomingMessage> {
    const { method, signal, body } = exchange;
    const { url, serverName } = this.access;
    const credentials = this.#credentials();
    const isPlain = url.protocol === 'http:';
    const agent = this.#agentFor(credentials);
    return new Promise((resolve, reject) => {
      const request = (isPlain ? httpRequest : httpsRequest)({
        protocol: url.protocol,
        host: url.hostname.replace(/^\[(.*)\]$/, '$1'),
        port: url.port || (isPlain ? 80 : 443),
        method,
        path: pathOf(url, exchange),
        agent,
        signal,
        headers: this.#headers(credentials, body),
        ...serverName === null ? {} : { servername: serverName },
      });
      this.#setDeadlines(request);
      request.once('response', resolve);
      request.on('error', (error) => {
        const isStale = request.reusedSocket && !(error instanceof ApiError);
        reject(isStale ? new StaleConnection(error) : error);
      });
      request.end(body?.text);
    });
  }

  #headers({ token }: Credentials, body: Body | null): OutgoingHttpHeaders {
    return {
      'accept': 'application/json',
      'user-agent': `culvert/${this.#options.version ?? 'unknown'}`,
      ...token === null ? {} : { authorization: `Bearer ${token}` },
      ...body === null ? {} : {
        'content-type': body.contentType, 'content-length': Buffer.byteLength(body.text),
      },
    };
  }

  #setDeadlines(request: ClientRequest): void {
    const { connectTimeoutMs = CONNECT_TIMEOUT_MS, headerTimeoutMs = HEADER_TIMEOUT_MS } =
      this.#options;
    const { url } = this.access;
    const isPlain = url.protocol === 'http:';
    const end = (what: string, timeoutMs: number): NodeJS.Timeout => setTimeout(() => {
      request.destroy(new ApiError(0, 'Timeout', `${url.origin}: ${what} in ${timeoutMs} ms`));
    }, timeoutMs);
    let timer = end('no connection', connectTimeoutMs);
    const connected = (): void => {
      clearTimeout(timer);
      timer = end('no answer', headerTimeoutMs);
    };
    request.once('socket', (socket) => {
      socket.setKeepAlive(true, KEEPALIVE_MS);
      if (request.reusedSocket) connected();
      else socket.once(isPlain ? 'connect' : 'secureConnect', connected);
    });
    request.once('response', () => clearTimeout(timer));
    request.once('close', () => clearTimeout(timer));
  }

  #credentials(): Credentials {
    try {
      return this.access.credentials();
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      throw new ApiError(0, 'NoCredentials', message, null, { cause: error });
    }
  }

  /** The pool of connections, a new one where certificates have changed. */
  #agentFor(credentials: Credentials): HttpAgent {
    const { ca, certificate, key } = this.#used ?? {};
    const isSame = ca === credentials.ca && certificate === credentials.certificate
      && key === credentials.key;
    if (this.#agent !== null && isSame) return this.#agent;
    // Streams on old connections go on: what was granted to them still is.
    this.#closeIdle();
    this.#used = credentials;
    this.#agent = this.#makeAgent(credentials);
    return this.#agent;
  }

  #closeIdle(): void {
    for (const sockets of Object.values(this.#agent?.freeSockets ?? {})) {
      for (const socket of sockets ?? []) socket.destroy();
    }
  }

  #makeAgent({ ca, certificate, key }: Credentials): HttpAgent {
    const options = { keepAlive: true, maxFreeSockets: IDLE_CONNECTIONS };
    if (this.access.url.protocol === 'http:') return new HttpAgent(options);
    return new HttpsAgent({
      ...options,
      minVersion: 'TLSv1.2',
      ...ca === null ? {} : { ca },
      ...certificate === null ? {} : { cert: certificate },
      ...key === null ? {} : { key },
    });
  }

  async #refusal(answer: IncomingMessage): Promise<ApiError> {
    const { statusCode = 0, headers } = answer;
    const text = await this.#text(answer, '').catch(() => '');
    const seconds = Number(headers['retry-after'] ?? NaN);
    const retryAfterMs = seconds >= 0 ? seconds * 1000 : null;
    return statusError(parseStatus(text), statusCode, text, retryAfterMs);
  }

  async #text(answer: IncomingMessage, path: string): Promise<string> {
    const parts: Buffer[] = [];
    let size = 0;
    const { silenceTimeoutMs = SILENCE_TIMEOUT_MS } = this.#options;
    for await (const part of chunksOf(answer, path, silenceTimeoutMs)) {
      parts.push(part);
      size += part.length;
      if (size > ANSWER_SIZE_LIMIT) {
        const message = `${path}: the answer is longer than ${ANSWER_SIZE_LIMIT} bytes`;
        throw new ApiError(0, 'TooLong', message);
      }
    }
    return Buffer.concat(parts).toString();
  }
}

/** The connection was closed by the other side while it lay idle. */
class StaleConnection extends Error {
  constructor(cause: Error) {
    super(cause.message, { cause });
  }
}

/** What a Status object says; it may stand in an answer or in an event. */
export function statusError(
  object: object | null, status = 0, text = '', retryAfterMs: number | null = null,
): ApiError {
  const { code, reason, message, details } = (object ?? {}) as Record<string, unknown>;
  const number = status !== 0 ? status : Number(code) || 0;
  const seconds = typeof details === 'object' && details !== null
    ? Number(Reflect.get(details, 'retryAfterSeconds') ?? NaN) : NaN;
  return new ApiError(
    number,
    typeof reason === 'string' && reason !== '' ? reason : `Status${number}`,
    typeof message === 'string' ? message : text.slice(0, 100).trim() || `status ${number}`,
    retryAfterMs ?? (seconds >= 0 ? seconds * 1000 : null),
  );
}

function parseStatus(text: string): object | null {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' ? value : null;
  } catch {
    return null;
  }
}

/** The body's bytes; throws where it is cut, or silent for too long. */
async function* chunksOf(
  answer: IncomingMessage, path: string, silenceTimeoutMs: number, signal?: AbortSignal,
): AsyncGenerator<Buffer, void, undefined> {
  const timer = setTimeout(() => {
    answer.destroy(new ApiError(0, 'Silent', `${path}: no byte in ${silenceTimeoutMs} ms`));
  }, silenceTimeoutMs);
  try {
    for await (const chunk of answer) {
      timer.refresh();
      yield chunk as Buffer;
      timer.refresh();
    }
  } catch (error) {
    throw error instanceof ApiError || signal?.aborted === true ? error : failureOf(error, path);
  } finally {
    clearTimeout(timer);
  }
  if (!answer.complete) throw new ApiError(0, 'Cut', `${path}: the answer was cut`);
}

function failureOf(error: unknown, place: string): ApiError {
  if (error instanceof ApiError) return error;
  if (error instanceof StaleConnection) return failureOf(error.cause, place);
  const message = error instanceof Error ? error.message : String(error);
  const code: unknown = error instanceof Error ? Reflect.get(error, 'code') : undefined;
  const isCut = code === 'ECONNRESET' || code === 'EPIPE' || message === 'aborted';
  return new ApiError(0, isCut ? 'Cut' : 'Unreachable', `${place}: ${message}`, null,
    { cause: error });
}

function pathOf(url: URL, { path, query }: Exchange): string {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined) parameters.set(name, String(value));
  }
  const search = parameters.toString();
  return `${url.pathname.replace(/\/$/, '')}${path}${search === '' ? '' : `?${search}`}`;
}
