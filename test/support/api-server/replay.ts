// A server that says what a real one once said. A request gets the first recorded exchange that has
// not been used and that asks for the same: method, path and selectors, list or watch or WatchList,
// and the same user. Versions, limits and time-outs are the client's own business.
//
//   const server = await replayServer('02b-watch-pods.v1.36.2', { cut: 1 });   // byte by byte
//   server.misses                                      // requests that nothing was recorded for
//
// A watch that comes after the last recorded one is answered and stays silent, so that a client
// comes to rest; `misses` has it all the same.

import type { IncomingMessage, ServerResponse } from 'node:http';
import { Random } from '../random.ts';
import { bodyOf, isWatch, readRecording, type Exchange } from './recording.ts';
import { ADMIN_TOKEN, ENGINE_TOKEN, TestApiServer } from './server.ts';

export interface ReplayOptions {
  /** Of the recorded time: 0 is as fast as possible. */
  factor?: number;
  /** Bytes of each write: a number, `recorded` as it was, `random`, or `whole` in one piece. */
  cut?: number | 'recorded' | 'random' | 'whole';
  seed?: number;
  /** Only these exchanges. */
  only?: (exchange: Exchange) => boolean;
}

export interface Replay {
  server: TestApiServer;
  misses: string[];
  /** Exchanges that no request has asked for yet. */
  left: Exchange[];
}

const FREE = new Set(['limit', 'timeoutSeconds', 'resourceVersion', 'continue', 'watch',
  'allowWatchBookmarks', 'resourceVersionMatch', 'sendInitialEvents']);
const AUTH: Record<string, string> = {
  admin: `Bearer ${ADMIN_TOKEN}`, engine: `Bearer ${ENGINE_TOKEN}`,
};
const LARGEST_CUT = 200;

/** What makes two requests the same. A continued list is not a new one. */
function essence(method: string, path: string): string {
  const url = new URL(path, 'http://server');
  const selectors = [...url.searchParams].filter(([name]) => !FREE.has(name))
    .map(([name, value]) => `${name}=${value}`).sort();
  const kind = isWatch({ path })
    ? `watch${url.searchParams.get('sendInitialEvents') === 'true' ? 'List' : ''}`
    : `read${url.searchParams.has('continue') ? 'Continued' : ''}`;
  return [method, url.pathname, kind, ...selectors].join(' ');
}

/** Starts a server that replays a recording. Close `server` at the end. */
export async function replayServer(name: string, options: ReplayOptions = {}): Promise<Replay> {
  const { factor = 0, cut = 'recorded', seed = 1, only = () => true } = options;
  const random = new Random(seed);
  const left = readRecording(name).exchanges
    .filter((exchange) => exchange.response !== null && only(exchange));
  const misses: string[] = [];
  const server = new TestApiServer();
  server.handleBy(async (request, response) => {
    const path = request.url ?? '';
    const wanted = essence(request.method ?? 'GET', path);
    const auth = request.headers.authorization ?? '';
    const at = left.findIndex((exchange) => essence(exchange.method, exchange.path) === wanted
      && (auth === (AUTH[exchange.auth] ?? '') || exchange.auth === 'admin'));
    const [exchange] = at < 0 ? [] : left.splice(at, 1);
    if (exchange === undefined) {
      misses.push(`${request.method} ${path}`);
      answerMiss(request, response);
      return;
    }
    if (cut === 'whole') {
      const atMs = exchange.chunks[0]?.atMs ?? exchange.atMs;
      exchange.chunks = [{ atMs, bytes: bodyOf(exchange) }];
    }
    await play(response, exchange, factor, (bytes) => pieces(bytes, cut, random));
  });
  await server.start();
  return { server, misses, left };
}

function answerMiss(request: IncomingMessage, response: ServerResponse): void {
  if (isWatch({ path: request.url ?? '' })) {
    response.writeHead(200, { 'content-type': 'application/json' });
    response.flushHeaders();
    return;
  }
  response.writeHead(404, { 'content-type': 'text/plain' });
  response.end('not recorded\n');
}

function* pieces(bytes: Buffer, cut: ReplayOptions['cut'], random: Random): Generator<Buffer> {
  for (let at = 0; at < bytes.length;) {
    let size = bytes.length;
    if (typeof cut === 'number') size = cut;
    if (cut === 'random') size = 1 + random.below(LARGEST_CUT);
    yield bytes.subarray(at, at + size);
    at += size;
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => { setTimeout(resolve, ms); });
}

async function play(response: ServerResponse, exchange: Exchange, factor: number,
  cut: (bytes: Buffer) => Generator<Buffer>): Promise<void> {
  const { response: head, chunks, end } = exchange;
  if (head === null) return;
  const { 'transfer-encoding': encoding, ...headers } = head.headers;
  if (encoding === undefined) {
    const size = chunks.reduce((sum, { bytes }) => sum + bytes.length, 0);
    headers['content-length'] = String(size);
  }
  response.writeHead(head.status, headers);
  response.flushHeaders();
  let lastMs = head.atMs;
  for (const { atMs, bytes } of chunks) {
    if (factor > 0) await pause((atMs - lastMs) * factor);
    lastMs = atMs;
    for (const piece of cut(bytes)) {
      if (response.destroyed) return;
      response.write(piece);
      // Each piece goes on the wire by itself.
      await new Promise((resolve) => { setImmediate(resolve); });
    }
  }
  if (factor > 0 && Number.isFinite(end.atMs)) await pause((end.atMs - lastMs) * factor);
  if (end.complete) response.end();
  else if (end.error === 'aborted') response.destroy();
}
