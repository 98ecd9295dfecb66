// Asks the running daemon over its control socket.

import { connect } from 'node:net';
import { join } from 'node:path';
import type * as v from 'valibot';
import { ConnectionError, connectionOver, RequestError } from '../engine/connection.ts';
import type { Connection, Methods } from '../engine/connection.ts';
import { pageOf } from '../engine/model.ts';
import { CONTROL_SOCKET } from '../host/sockets.ts';
import { CommandError, EXIT_FAILED, EXIT_NO_PERMISSION, EXIT_UNAVAILABLE } from './exit.ts';
import { VERSION } from './version.ts';

const TIMEOUT_MS = 10_000;

/** What the daemon may tell us without being asked, and whether we stay for it. */
export interface DaemonOptions {
  methods?: Methods;
  isLong?: boolean;
  /** How long all of it may take, where that is not `isLong`. */
  timeoutMs?: number;
}

/** Opens a connection, hands it to `work` and closes it. */
export async function withDaemon<T>(
  runtimeDirectory: string,
  work: (connection: Connection) => Promise<T>,
  { methods = {}, isLong = false, timeoutMs = TIMEOUT_MS }: DaemonOptions = {},
): Promise<T> {
  const path = join(runtimeDirectory, CONTROL_SOCKET);
  const connection = await openConnection(path, methods);
  const timer = isLong ? undefined : setTimeout(() => connection.close(), timeoutMs);
  try {
    return await work(connection);
  } catch (error) {
    if (error instanceof RequestError) throw new CommandError(EXIT_FAILED, error.message);
    if (error instanceof ConnectionError) throw explain(path, error);
    throw error;
  } finally {
    clearTimeout(timer);
    connection.close();
  }
}

/** Asks for a list, page by page. */
export function askAll<S extends v.GenericSchema>(
  runtimeDirectory: string,
  name: string,
  entry: S,
): Promise<v.InferOutput<S>[]> {
  return withDaemon(runtimeDirectory, async (connection) => {
    const all: v.InferOutput<S>[] = [];
    for (let from: number | null = 0; from !== null;) {
      const { entries, next }: Page<S> = await connection.request(name, { from }, pageOf(entry));
      all.push(...entries);
      from = next;
    }
    return all;
  });
}

interface Page<S extends v.GenericSchema> {
  entries: v.InferOutput<S>[];
  next: number | null;
}

/** Asks one question. */
export function ask<S extends v.GenericSchema>(
  runtimeDirectory: string,
  name: string,
  params: unknown,
  answer: S,
): Promise<v.InferOutput<S>> {
  return withDaemon(runtimeDirectory, (connection) => connection.request(name, params, answer));
}

/** Connects and greets. Rejects with a CommandError that says what to do. */
export async function openConnection(path: string, methods: Methods = {}): Promise<Connection> {
  const socket = connect(path);
  const connection = connectionOver(socket, { version: VERSION, role: 'cli', methods });
  const timer = setTimeout(() => socket.destroy(new Error('no answer')), TIMEOUT_MS);
  try {
    await connection.opened;
    return connection;
  } catch (error) {
    throw explain(path, error as NodeJS.ErrnoException);
  } finally {
    clearTimeout(timer);
  }
}

function explain(path: string, error: NodeJS.ErrnoException): CommandError {
  const cause = error.message;
  if (cause.includes('EACCES')) {
    return new CommandError(EXIT_NO_PERMISSION, `connect ${path}: EACCES; run as root`);
  }
  if (cause.includes('ENOENT') || cause.includes('ECONNREFUSED')) {
    const hint = 'is `culvert run` running, and is --runtime-directory right?';
    return new CommandError(EXIT_UNAVAILABLE, `connect ${path}: no daemon answers; ${hint}`);
  }
  return new CommandError(EXIT_UNAVAILABLE, `connect ${path}: ${cause}`);
}
