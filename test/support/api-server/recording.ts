// Recordings of real servers (test/kube-recordings/README.md), read into exchanges.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT } from '../source.ts';
import type { KubeObject } from './resources.ts';

export interface Exchange {
  id: number;
  atMs: number;
  method: string;
  path: string;
  /** `admin`, `engine`, `bad` or `none`. */
  auth: string;
  accept: Record<string, string>;
  /** Null where the connection was refused. */
  response: { atMs: number; status: number; headers: Record<string, string> } | null;
  chunks: { atMs: number; bytes: Buffer }[];
  end: { atMs: number; complete: boolean; error?: string; closedBy?: string };
}

export interface Note {
  atMs: number;
  text: string;
}

export interface Recording {
  name: string;
  exchanges: Exchange[];
  notes: Note[];
}

/** One line of a watch. */
export interface WatchEvent {
  type: string;
  object: KubeObject & { kind?: string; code?: number; reason?: string; message?: string };
}

interface Line {
  t: number;
  kind: string;
  id: number;
  body?: string;
  bodyBase64?: string;
  method: string;
  path: string;
  auth: string;
  headers: Record<string, string>;
  status: number;
  complete: boolean;
  error?: string;
  closedBy?: string;
}

/** Reads one recording, such as `04-expired.v1.36.2`. */
export function readRecording(name: string): Recording {
  const text = readFileSync(join(ROOT, 'test', 'kube-recordings', `${name}.jsonl`), 'utf8');
  const exchanges = new Map<number, Exchange>();
  const notes: Note[] = [];
  for (const row of text.split('\n')) {
    if (row === '') continue;
    const line = JSON.parse(row) as Line;
    if (line.kind === 'note') notes.push({ atMs: line.t, text: line.body ?? '' });
    else addLine(exchanges, line);
  }
  return { name, exchanges: [...exchanges.values()], notes };
}

function addLine(exchanges: Map<number, Exchange>, line: Line): void {
  if (line.kind === 'request') {
    exchanges.set(line.id, {
      id: line.id, atMs: line.t, method: line.method, path: line.path, auth: line.auth,
      accept: line.headers, response: null, chunks: [], end: { atMs: Infinity, complete: false },
    });
    return;
  }
  const exchange = exchanges.get(line.id);
  if (exchange === undefined) throw new Error(`an answer without a request: ${line.id}`);
  if (line.kind === 'response') {
    exchange.response = { atMs: line.t, status: line.status, headers: line.headers };
  } else if (line.kind === 'chunk') {
    const bytes = line.bodyBase64 === undefined ? Buffer.from(line.body ?? '')
      : Buffer.from(line.bodyBase64, 'base64');
    exchange.chunks.push({ atMs: line.t, bytes });
  } else if (line.kind === 'end') {
    const { complete, error, closedBy } = line;
    exchange.end = {
      atMs: line.t, complete, ...(error === undefined ? {} : { error }),
      ...(closedBy === undefined ? {} : { closedBy }),
    };
  }
}

export function bodyOf(exchange: Exchange): Buffer {
  return Buffer.concat(exchange.chunks.map(({ bytes }) => bytes));
}

export function isWatch({ path }: { path: string }): boolean {
  return /[?&]watch=(1|true)/.test(path) || path.startsWith('/api/v1/watch/');
}

/** The whole lines of a watch's body. */
export function eventsOf(body: Buffer | string): WatchEvent[] {
  const lines = body.toString().split('\n');
  lines.pop();
  return lines.map((line) => JSON.parse(line) as WatchEvent);
}

/** The plural name of the resource that a path is about. */
export function resourceOf(path: string): string {
  const parts = path.replace(/\?.*/, '').split('/')
    .filter((part) => part !== '' && part !== 'watch');
  const rest = parts.slice(parts[0] === 'api' ? 2 : 3);
  return rest[0] === 'namespaces' && rest.length > 2 ? rest[2] ?? '' : rest[0] ?? '';
}
