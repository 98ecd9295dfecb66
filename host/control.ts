// A unix socket that the daemon serves: control.sock for the command line and the CNI plugin,
// sync.sock for the sidecar.
//
// Who gets in: the file mode decides who can connect at all, the peer's uid (asked of the kernel)
// who may stay, the handshake's role what for. One connection's bad frame closes that connection
// and no other. Everything has a limit: connections, time to say hello, bytes waiting for a slow
// reader. Each refusal is counted and, where the other side can still read, explained.
//
// A socket file may be left over from a daemon that died. It is moved aside first and asked there,
// so that of two daemons starting at once only one can take it and none removes a live one.

import { chmodSync, chownSync, lstatSync, mkdirSync, renameSync, rmSync } from 'node:fs';
import { Server, Socket, connect, createServer } from 'node:net';
import { dirname } from 'node:path';
import { Connection, attachSocket } from '../engine/connection.ts';
import type { Methods, Party, Role } from '../engine/connection.ts';
import { encodeFrame } from '../engine/frame.ts';
import type { Log } from '../engine/log.ts';

export const CONNECTION_LIMIT = 64;
/** Bytes that may wait for a reader before it is cut off. */
export const WRITE_QUEUE_LIMIT = 8 * 1024 * 1024;
/** From connecting to the end of the handshake. */
export const HANDSHAKE_TIMEOUT_MS = 5000;
/** For the other side to read why it is being closed. */
const LINGER_MS = 1000;

export interface ControlServerOptions {
  path: string;
  /** Of the socket file: 0o600, or 0o660 together with `gid`. */
  mode: number;
  /** Group that owns the socket file. */
  gid?: number;
  /** Of the folder, where it has to be made. Default: 0o700 for 0o600, else 0o755. */
  directoryMode?: number;
  /** Roles that may use this socket. */
  roles: readonly Role[];
  methods: Methods;
  version: string;
  log: Log;
  /** Asks the kernel who is at the other end of a socket's descriptor. */
  peerUid?(fd: number): { uid: number };
  /** Uids that may connect, where `peerUid` is given. Default: root and our own. */
  uids?: readonly number[];
  /** A further reason to refuse a party, or null. */
  accept?(party: Party): string | null;
  onOpen?(connection: Connection): void;
  onClosed?(connection: Connection): void;
  connectionLimit?: number;
  handshakeTimeoutMs?: number;
}

/** Counters of one socket. Every connection that is not served adds to one of the last five. */
export interface ControlCounters {
  accepted: number;
  opened: number;
  overLimit: number;
  foreignUid: number;
  refused: number;
  badFrames: number;
  slow: number;
}

export class ControlServer {
  readonly counters: ControlCounters = {
    accepted: 0, opened: 0, overLimit: 0, foreignUid: 0, refused: 0, badFrames: 0, slow: 0,
  };
  readonly #options: ControlServerOptions;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #connections = new Set<Connection>();

  constructor(options: ControlServerOptions) {
    this.#options = options;
    this.#server = createServer((socket) => this.#take(socket));
  }

  /** Connections whose handshake is over. */
  get connections(): ReadonlySet<Connection> {
    return this.#connections;
  }

  /** Starts serving. Rejects where another server answers on the path. */
  async listen(): Promise<void> {
    const { path, mode, gid } = this.#options;
    makeDirectory(dirname(path), this.#options.directoryMode ?? (mode === 0o600 ? 0o700 : 0o755));
    await clearStaleSocket(path);
    await this.#bind(path);
    if (gid !== undefined) chownSync(path, -1, gid);
    chmodSync(path, mode);
    this.#server.on('error', (error) => {
      this.#options.log.error({ error: error.message, path }, 'control socket failed');
    });
  }

  /** Tells the same to everyone who is connected. */
  broadcast(name: string, params: unknown): void {
    for (const connection of this.#connections) connection.notify(name, params);
  }

  /** Ends every connection, stops listening and removes the socket file. */
  async close(reason = 'the daemon is stopping'): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const connection of this.#connections) connection.close(reason);
    for (const socket of this.#sockets) {
      socket.destroySoon();
      linger(socket);
    }
    await closed;
  }

  /** Binds with a umask that leaves no moment in which others could connect. */
  #bind(path: string): Promise<void> {
    return new Promise((resolve, reject) => {
      const umask = process.umask(0o177);
      try {
        this.#server.once('error', (error) => reject(explain('bind', path, error)));
        this.#server.listen(path, () => {
          this.#server.removeAllListeners('error');
          resolve();
        });
      } finally {
        process.umask(umask);
      }
    });
  }

  #take(socket: Socket): void {
    this.counters.accepted += 1;
    socket.on('error', () => {});
    const limit = this.#options.connectionLimit ?? CONNECTION_LIMIT;
    if (this.#sockets.size >= limit) {
      this.counters.overLimit += 1;
      return turnAway(socket, `too many connections, the limit is ${limit}`);
    }
    const foreign = this.#foreignReason(socket);
    if (foreign !== null) {
      this.counters.foreignUid += 1;
      this.#options.log.warn({ path: this.#options.path }, foreign);
      return turnAway(socket, foreign);
    }
    this.#sockets.add(socket);
    socket.once('close', () => this.#sockets.delete(socket));
    this.#serve(socket);
  }

  #foreignReason(socket: Socket): string | null {
    const { peerUid, uids = [0, process.getuid?.() ?? 0] } = this.#options;
    if (peerUid === undefined) return null;
    const fd = descriptorOf(socket);
    if (fd === null) return 'the uid of the other side cannot be read';
    try {
      const { uid } = peerUid(fd);
      return uids.includes(uid) ? null : `uid ${uid} may not use this socket`;
    } catch (error) {
      return `the uid of the other side cannot be read: ${messageOf(error)}`;
    }
  }

  #serve(socket: Socket): void {
    const { methods, version, log, path } = this.#options;
    const connection = new Connection({
      methods,
      version,
      send: (bytes) => this.#write(socket, bytes),
      end: () => socket.end(),
      accept: (party) => this.#refusal(party),
      onOpen: (opened) => this.#opened(opened),
      onFault: (error) => {
        this.counters.badFrames += 1;
        log.warn({ path, error: error.message }, 'connection closed for a bad frame');
      },
      onHandlerError: (name, error) => {
        log.error({ method: name, error: messageOf(error) }, 'request failed');
      },
    });
    attachSocket(connection, socket);
    const timer = setTimeout(
      () => connection.close('no hello in time'),
      this.#options.handshakeTimeoutMs ?? HANDSHAKE_TIMEOUT_MS,
    );
    connection.opened.catch(() => {}).finally(() => clearTimeout(timer));
    connection.closed.finally(() => linger(socket));
  }

  /** Cuts a reader off that leaves too much unread. */
  #write(socket: Socket, bytes: Uint8Array): boolean {
    if (socket.destroyed || socket.writableEnded) return false;
    if (socket.writableLength + bytes.length <= WRITE_QUEUE_LIMIT) return socket.write(bytes);
    this.counters.slow += 1;
    this.#options.log.warn({ path: this.#options.path }, 'slow reader cut off');
    socket.destroy();
    return false;
  }

  #refusal(party: Party): string | null {
    const { roles, accept } = this.#options;
    const reason = party.role === null || !roles.includes(party.role)
      ? `role ${party.role} is not served here, only ${roles.join(', ')}`
      : accept?.(party) ?? null;
    if (reason !== null) this.counters.refused += 1;
    return reason;
  }

  #opened(connection: Connection): void {
    this.counters.opened += 1;
    this.#connections.add(connection);
    connection.closed.finally(() => {
      this.#connections.delete(connection);
      this.#options.onClosed?.(connection);
    });
    this.#options.onOpen?.(connection);
  }
}

/** Sends the reason and closes, without ever serving. */
function turnAway(socket: Socket, message: string): void {
  socket.end(encodeFrame({ type: 'error', message }));
  socket.resume();
  linger(socket);
}

function linger(socket: Socket): void {
  const timer = setTimeout(() => socket.destroy(), LINGER_MS);
  timer.unref();
  socket.once('close', () => clearTimeout(timer));
}

/** Node has no public way to a socket's descriptor. Null where this one has none. */
function descriptorOf(socket: Socket): number | null {
  const handle: unknown = Reflect.get(socket, '_handle');
  if (typeof handle !== 'object' || handle === null) return null;
  const fd: unknown = Reflect.get(handle, 'fd');
  return typeof fd === 'number' && fd >= 0 ? fd : null;
}

function makeDirectory(path: string, mode: number): void {
  try {
    if (mkdirSync(path, { recursive: true, mode }) !== undefined) chmodSync(path, mode);
  } catch (error) {
    throw explain('mkdir', path, error);
  }
}

/** Removes a socket nobody answers on. Throws where somebody does, or where it is no socket. */
async function clearStaleSocket(path: string): Promise<void> {
  const stats = lstatSync(path, { throwIfNoEntry: false });
  if (stats === undefined) return;
  if (!stats.isSocket()) throw new Error(`bind ${path}: there is a file that is not a socket`);
  if (await answers(path)) throw new Error(`bind ${path}: another daemon is serving it`);
  const aside = `${path}.stale-${process.pid}`;
  try {
    renameSync(path, aside);
  } catch (error) {
    throw explain('another daemon is starting; rename', path, error);
  }
  if (await answers(aside)) {
    renameSync(aside, path);
    throw new Error(`bind ${path}: another daemon has just taken it`);
  }
  rmSync(aside);
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ECONNREFUSED' || error.code === 'ENOENT') resolve(false);
      else if (error.code === 'EAGAIN') resolve(true);
      else reject(explain('connect', path, error));
    });
  });
}

function explain(operation: string, path: string, error: unknown): Error {
  return new Error(`${operation} ${path}: ${messageOf(error)}`, { cause: error });
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
