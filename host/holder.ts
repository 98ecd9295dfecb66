// The holder: a small process that keeps a daemon's descriptors open while no daemon lives. The
// kernel queues packets in a TUN and datagrams in a socket as long as anybody has them open, and
// keeps a memfd's bytes, so the next daemon goes on where the last one was killed.
//
// Theory of operation. It does nothing but wait in poll() and answer: no timers, no threads of its
// own, no file but the socket. A daemon opens one connection that stands for its life (WATCH), and
// others to put and to get. Requests are answered at once and in order (holder-protocol.ts); who
// sends anything else is cut off. When the last watching connection ends, the holder waits for the
// next daemon: as long as that one wished, or for ever while a pod's device is here.

import { rmSync } from 'node:fs';
import { ERRNO } from '../ffi/errno.ts';
import { closeFd } from '../ffi/file.ts';
import { PollSet, POLLIN } from '../ffi/poll.ts';
import { receiveWithFd } from '../ffi/rights.ts';
import { peerCredentials } from '../ffi/socket.ts';
import { acceptUnix, connectUnix, listenUnix } from '../ffi/unix-socket.ts';
import {
  decodeMessage,
  HOLD_DROP,
  HOLD_ITEM,
  HOLD_LIST,
  HOLD_OK,
  HOLD_PUT,
  HOLD_REFUSED,
  HOLD_STOP,
  HOLD_WATCH,
  MESSAGE_SIZE,
  POD_PREFIX,
  sendMessage,
  type HolderMessage,
} from './holder-protocol.ts';
import { HELD_LIMIT } from './limits.ts';

/** Connections at a time; a daemon has two. */
const CONNECTION_LIMIT = 8;
/** A holder without pods waits this long for a daemon, if no other time was asked for. */
const AWAY_LIMIT_MS = 600_000;
/** Longest single wait. */
const WAIT_LIMIT_MS = 0x7fff_ffff;

/** Somebody answers on the socket already. */
export class SecondHolderError extends Error {
  override name = 'SecondHolderError';
}

export interface HolderOptions {
  socketPath: string;
  /** Milliseconds without a daemon after which it ends; 0: never while it has a pod's device. */
  awayMs: number;
  /** Users that may connect, beside root and the holder's own. */
  uids?: readonly number[];
}

interface Connection {
  fd: number;
  /** True for a daemon's watching connection. */
  isWatching: boolean;
}

class Holder {
  readonly #options: HolderOptions;
  readonly #listener: number;
  readonly #poll = new PollSet(CONNECTION_LIMIT + 1);
  readonly #held = new Map<string, number>();
  readonly #message = new Uint8Array(MESSAGE_SIZE);
  #connections: Connection[] = [];
  #awayMs: number;
  #awaySince = performance.now();
  #isStopping = false;

  constructor(options: HolderOptions) {
    this.#options = options;
    this.#awayMs = options.awayMs;
    this.#listener = serve(options.socketPath);
  }

  /** Waits and answers until it is told to end, or nobody has come for too long. */
  run(): void {
    while (!this.#isStopping) {
      this.#arrange();
      const count = this.#poll.wait(this.#waitMs());
      if (count === 0 && this.#leftMs() <= 0) break;
      if (count <= 0) continue;
      if (this.#poll.revents(0) !== 0) this.#accept();
      for (const [place, connection] of [...this.#connections].entries()) {
        if (this.#poll.revents(place + 1) !== 0) this.#serve(connection);
        if (this.#isStopping) break;
      }
    }
    rmSync(this.#options.socketPath, { force: true });
    for (const fd of this.#held.values()) closeFd(fd);
  }

  #arrange(): void {
    this.#poll.set(0, this.#listener, POLLIN);
    for (let place = 0; place < CONNECTION_LIMIT; place += 1) {
      const connection = this.#connections[place];
      if (connection === undefined) this.#poll.remove(place + 1);
      else this.#poll.set(place + 1, connection.fd, POLLIN);
    }
  }

  /** Until the time without a daemon is over; Infinity where it never is. */
  #leftMs(): number {
    if (this.#connections.some(({ isWatching }) => isWatching)) return Infinity;
    const hasPod = [...this.#held.keys()].some((name) => name.startsWith(POD_PREFIX));
    if (this.#awayMs === 0 && hasPod) return Infinity;
    return this.#awaySince + (this.#awayMs === 0 ? AWAY_LIMIT_MS : this.#awayMs)
      - performance.now();
  }

  #waitMs(): number {
    const left = this.#leftMs();
    return left === Infinity ? -1 : Math.min(Math.max(Math.ceil(left), 0), WAIT_LIMIT_MS);
  }

  #accept(): void {
    const fd = acceptUnix(this.#listener);
    if (fd < 0) return;
    const { uid } = peerCredentials(fd);
    const uids = [0, process.getuid?.() ?? 0, ...this.#options.uids ?? []];
    if (!uids.includes(uid)) return turnAway(fd, `uid ${uid} may not use this socket`);
    if (this.#connections.length >= CONNECTION_LIMIT) return turnAway(fd, 'too many connections');
    this.#connections.push({ fd, isWatching: false });
  }

  /** Reads one message and answers it. */
  #serve(connection: Connection): void {
    const { count, fd } = receiveWithFd(connection.fd, this.#message);
    if (count === -ERRNO.EAGAIN) return;
    const request = count === MESSAGE_SIZE ? decodeMessage(this.#message) : null;
    const isAnswered = request !== null && this.#answer(connection, request, fd);
    if (fd >= 0 && (request?.verb !== HOLD_PUT || !isAnswered)) closeFd(fd);
    if (!isAnswered) this.#close(connection);
  }

  /** False where the connection is of no more use. Takes the descriptor of a PUT over. */
  #answer(connection: Connection, { verb, name, number }: HolderMessage, fd: number): boolean {
    switch (verb) {
      case HOLD_WATCH:
        connection.isWatching = true;
        this.#awayMs = number;
        break;
      case HOLD_PUT: {
        const before = this.#held.get(name);
        const isFull = before === undefined && this.#held.size >= HELD_LIMIT;
        if (fd < 0 || isFull) {
          const reason = isFull ? 'the holder is full' : 'no descriptor came';
          sendMessage(connection.fd, HOLD_REFUSED, reason);
          return false;
        }
        this.#held.set(name, fd);
        if (before !== undefined) closeFd(before);
        break;
      }
      case HOLD_DROP:
        this.#drop(name);
        break;
      case HOLD_LIST:
        return this.#list(connection);
      case HOLD_STOP:
        this.#isStopping = true;
        break;
      default:
        sendMessage(connection.fd, HOLD_REFUSED, `there is no verb ${verb}`);
        return false;
    }
    // An answer that cannot be sent does not undo what was asked for.
    return sendMessage(connection.fd, HOLD_OK) || verb === HOLD_PUT;
  }

  #drop(name: string): void {
    const fd = this.#held.get(name);
    this.#held.delete(name);
    if (fd !== undefined) closeFd(fd);
  }

  #list(connection: Connection): boolean {
    for (const [name, fd] of this.#held) {
      if (!sendMessage(connection.fd, HOLD_ITEM, name, 0, fd)) return false;
    }
    return sendMessage(connection.fd, HOLD_OK, '', this.#held.size);
  }

  #close(connection: Connection): void {
    closeFd(connection.fd);
    this.#connections = this.#connections.filter((other) => other !== connection);
    if (connection.isWatching) this.#awaySince = performance.now();
  }
}

/** Runs a holder to its end. Throws SecondHolderError where there is one already. */
export function runHolder(options: HolderOptions): void {
  new Holder(options).run();
}

/** Listens, on a socket that only our user may connect to. */
function serve(path: string): number {
  const other = connectUnix(path);
  if (other >= 0) {
    closeFd(other);
    throw new SecondHolderError(`start holder: another one serves ${path}`);
  }
  rmSync(path, { force: true });
  const umask = process.umask(0o177);
  try {
    return listenUnix(path, CONNECTION_LIMIT);
  } finally {
    process.umask(umask);
  }
}

function turnAway(fd: number, reason: string): void {
  sendMessage(fd, HOLD_REFUSED, reason);
  closeFd(fd);
}
