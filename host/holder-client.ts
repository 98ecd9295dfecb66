// The daemon's side of the holder (holder.ts): finds or starts it, gives it descriptors and gets
// them back. Requests are few, local and answered at once, so they wait for their answers; a holder
// that does not answer in time counts as dead.

import { spawn } from 'node:child_process';
import { connect, type Socket } from 'node:net';
import { fileURLToPath } from 'node:url';
import { ERRNO, errnoName } from '../ffi/errno.ts';
import { closeFd } from '../ffi/file.ts';
import { POLLIN, waitFor } from '../ffi/poll.ts';
import { receiveWithFd } from '../ffi/rights.ts';
import { connectUnix } from '../ffi/unix-socket.ts';
import {
  decodeMessage,
  encodeMessage,
  HOLD_DROP,
  HOLD_ITEM,
  HOLD_LIST,
  HOLD_OK,
  HOLD_PUT,
  HOLD_REFUSED,
  HOLD_STOP,
  HOLD_WATCH,
  MESSAGE_SIZE,
  sendMessage,
  type HolderMessage,
} from './holder-protocol.ts';

const PROCESS = fileURLToPath(new URL('./holder-process.js', import.meta.url));
const ANSWER_TIMEOUT_MS = 1000;
const START_TIMEOUT_MS = 10_000;
const START_STEP_MS = 10;

/** The holder refused, or does not answer. */
export class HolderError extends Error {
  override name = 'HolderError';
}

/** A connection to a holder. After a HolderError it is of no more use. */
export class HolderClient {
  readonly kind = 'holder';
  readonly path: string;
  readonly #fd: number;
  #watch: Socket | null = null;

  private constructor(path: string, fd: number) {
    this.path = path;
    this.#fd = fd;
  }

  /** Connects to a holder that is there; null where there is none. */
  static find(path: string): HolderClient | null {
    const fd = connectUnix(path);
    if (fd >= 0) return new HolderClient(path, fd);
    if (fd === -ERRNO.ENOENT || fd === -ERRNO.ECONNREFUSED) return null;
    throw new HolderError(`connect ${path}: ${errnoName(fd)}`);
  }

  /** Starts a holder that outlives us, and connects to it. */
  static async start(path: string, awayMs: number): Promise<HolderClient> {
    const child = spawn(process.execPath, [PROCESS, path, `${awayMs}`], {
      detached: true, stdio: 'ignore', cwd: '/', env: {},
    });
    let failure = '';
    child.once('error', (error) => { failure = error.message; });
    child.once('exit', (code, signal) => { failure = `it ended (${code ?? signal ?? ''})`; });
    child.unref();
    const deadline = performance.now() + START_TIMEOUT_MS;
    while (failure === '' && performance.now() < deadline) {
      const client = HolderClient.find(path);
      if (client !== null) return client;
      await new Promise((resolve) => setTimeout(resolve, START_STEP_MS));
    }
    throw new HolderError(`start holder: ${failure === '' ? 'it does not answer' : failure}`);
  }

  /** Tells the holder that a daemon lives as long as this process does, and how long to wait for
   * the next one. `onLost` is told when the holder ends. */
  watch(awayMs: number, onLost: () => void): Promise<void> {
    return new Promise((resolve, reject) => {
      const socket = connect(this.path, () => socket.write(encodeMessage(HOLD_WATCH, '', awayMs)));
      this.#watch = socket;
      const fail = (error: Error): void => reject(new HolderError(`watch: ${error.message}`));
      const timer = setTimeout(
        () => socket.destroy(new Error('the holder does not answer')), ANSWER_TIMEOUT_MS);
      socket.once('error', fail);
      socket.once('data', () => {
        clearTimeout(timer);
        socket.off('error', fail).on('error', () => {}).unref();
        socket.once('close', () => {
          if (this.#watch === socket) onLost();
        });
        resolve();
      });
    });
  }

  /** Gives the holder a descriptor to keep, in the place of one of the same name. */
  put(name: string, fd: number): void {
    this.#request(HOLD_PUT, name, fd);
  }

  /** Has the holder close what it keeps under a name. */
  drop(name: string): void {
    this.#request(HOLD_DROP, name);
  }

  /** Gets descriptors of our own for everything the holder keeps. */
  list(): Map<string, number> {
    const held = new Map<string, number>();
    this.#send(HOLD_LIST, '', -1);
    for (;;) {
      const { message, fd } = this.#receive();
      if (message.verb === HOLD_ITEM && fd >= 0) held.set(message.name, fd);
      else if (message.verb === HOLD_OK && message.number === held.size) return held;
      else throw new HolderError(`list: ${message.name} came as ${message.verb}`);
    }
  }

  /** Ends the holder and what only it keeps. */
  stop(): void {
    const watch = this.#watch;
    this.#watch = null;
    this.#request(HOLD_STOP, '');
    watch?.destroy();
    closeFd(this.#fd);
  }

  /** Leaves the holder as it is. */
  close(): void {
    const watch = this.#watch;
    this.#watch = null;
    watch?.destroy();
    closeFd(this.#fd);
  }

  #request(verb: number, name: string, fd = -1): void {
    this.#send(verb, name, fd);
    const { message } = this.#receive();
    if (message.verb === HOLD_OK) return;
    const reason = message.verb === HOLD_REFUSED ? message.name : `answer ${message.verb}`;
    throw new HolderError(`ask holder about ${name}: ${reason}`);
  }

  #send(verb: number, name: string, fd: number): void {
    const isSent = sendMessage(this.#fd, verb, name, 0, fd);
    if (!isSent) throw new HolderError('the holder takes nothing');
  }

  #receive(): { message: HolderMessage; fd: number } {
    const bytes = new Uint8Array(MESSAGE_SIZE);
    const events = waitFor(this.#fd, POLLIN, ANSWER_TIMEOUT_MS);
    if ((events & POLLIN) === 0) throw new HolderError('the holder does not answer');
    const { count, fd } = receiveWithFd(this.#fd, bytes);
    const message = count === MESSAGE_SIZE ? decodeMessage(bytes) : null;
    if (message !== null) return { message, fd };
    if (fd >= 0) closeFd(fd);
    throw new HolderError('the holder speaks another version');
  }
}
