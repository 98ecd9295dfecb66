// The conversation with the node's daemon over control.sock.

import { connect } from 'node:net';
import { join } from 'node:path';
import type * as v from 'valibot';
import { ConnectionError, RequestError, connectionOver, type Connection } from
  '../engine/connection.ts';
import { CNI_FAILURES } from '../engine/model.ts';
import { CODE, CniError, DaemonDownError } from './errors.ts';

const CONTROL_SOCKET = 'control.sock';
/** Where many pods start at once, a daemon may be slow to answer and we to read it; a runtime waits
 * for minutes. */
const GREETING_TIMEOUT_MS = 30_000;
/** What a daemon says that serves as many connections as it may. */
const TOO_MANY = 'too many connections';
const TURN_TIMEOUT_MS = 30_000;
const TURN_PAUSE_MS = 100;
/** Longer than the daemon's longest wait for a pod's rule sets (cni.policyWaitSeconds). */
const ANSWER_TIMEOUT_MS = 150_000;

/** What the daemon's refusals are in CNI's words. */
const CODES: Record<string, number> = {
  [CNI_FAILURES.tryAgain]: CODE.tryAgainLater,
  [CNI_FAILURES.attached]: CODE.alreadyAttached,
  [CNI_FAILURES.unknown]: CODE.unknownContainer,
  [CNI_FAILURES.lost]: CODE.checkFailed,
  busy: CODE.tryAgainLater,
};

export class Daemon {
  readonly #connection: Connection;

  private constructor(connection: Connection) {
    this.#connection = connection;
  }

  /** Waits for its turn where the daemon has too many guests: a node starts many pods at once.
   * Throws DaemonDownError. */
  static async connect(runtimeDirectory: string, version: string): Promise<Daemon> {
    const path = join(runtimeDirectory, CONTROL_SOCKET);
    const deadline = performance.now() + TURN_TIMEOUT_MS;
    for (;;) {
      try {
        return new Daemon(await open(path, version));
      } catch (error) {
        const { message } = error as Error;
        if (!message.includes(TOO_MANY) || performance.now() > deadline) {
          throw new DaemonDownError(`the culvert daemon does not answer on ${path}: ${message}`);
        }
      }
      await new Promise((resolve) => setTimeout(resolve, TURN_PAUSE_MS));
    }
  }

  /** Asks. Throws CniError for a refusal, DaemonDownError where the connection ends meanwhile. */
  async ask<S extends v.GenericSchema>(
    name: string, params: unknown, answer: S,
  ): Promise<v.InferOutput<S>> {
    const timer = setTimeout(() => this.#connection.close(), ANSWER_TIMEOUT_MS);
    try {
      return await this.#connection.request(name, params, answer);
    } catch (error) {
      if (error instanceof RequestError) {
        throw new CniError(CODES[error.code] ?? CODE.attachFailed, error.message);
      }
      if (!(error instanceof ConnectionError)) throw error;
      throw new DaemonDownError(`the culvert daemon has gone: ${error.message}`);
    } finally {
      clearTimeout(timer);
    }
  }

  close(): void {
    this.#connection.close();
  }
}

async function open(path: string, version: string): Promise<Connection> {
  const socket = connect(path);
  const connection = connectionOver(socket, { version, role: 'cni' });
  const timer = setTimeout(() => socket.destroy(
    new Error(`no answer in ${GREETING_TIMEOUT_MS / 1000} s`)), GREETING_TIMEOUT_MS);
  try {
    await connection.opened;
    return connection;
  } finally {
    clearTimeout(timer);
  }
}
