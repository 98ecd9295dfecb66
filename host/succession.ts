// A planned restart: the daemon starts the next one beside itself, which makes everything ready
// while this one still forwards, and takes over between two turns of the workers. Between the last
// turn here and the first one there a few milliseconds pass, and devices and sockets queue what
// comes. docs/SURVIVAL.md tells what else survives.
//
// Theory of operation. Two daemons must not change the same things, so this one takes no changes
// while the other one reads what there is: its sockets are closed, and whoever wants something asks
// again, of the next one. Where the next one fails before it was told to go, this one opens its
// sockets again and is as before. Their words are succession-words.ts.

import { spawn, type ChildProcess } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { ERRNO } from '../ffi/errno.ts';
import { closeFd } from '../ffi/file.ts';
import { POLLIN, waitFor } from '../ffi/poll.ts';
import { receiveWithFd } from '../ffi/rights.ts';
import { acceptUnix, listenUnix } from '../ffi/unix-socket.ts';
import { HOLD_ITEM, HOLD_OK, MESSAGE_SIZE, sendMessage } from './holder-protocol.ts';
import type { Host } from './main.ts';
import type { Manager } from './notify.ts';
import {
  heard, said, SUCCESSION_SOCKET, SUCCESSOR_VARIABLE, type Word,
} from './succession-words.ts';

/** How long another daemon may take to load, and to make everything ready: a whole cluster's
 * objects take a small board some time. */
const PREPARE_MS = 60_000;
const READY_MS = 120_000;
/** How long it may take from its word to its connection, its request, and its first turn. */
const SOON_MS = 5000;
const STEP_MS = 1;
/** The next daemon has no parent but process 1, where that is the service manager: it is not told
 * of the ends of others' children. Standard input of what runs behind would be empty. */
const STARTER = 'exec 9<&0; "$@" <&9 9<&- &';
/** What is about this process only. */
const OURS = ['LISTEN_PID', 'LISTEN_FDS', 'LISTEN_FDNAMES', 'WATCHDOG_PID'];

type Environment = Readonly<Record<string, string | undefined>>;

/** Another daemon of the same command line, as the files on the disk have it now. */
class Successor {
  readonly #child: ChildProcess;
  #pid = 0;
  #heard: Word | null = null;
  #wake: () => void = () => {};

  constructor(environment: Environment) {
    const others = Object.entries(environment).filter(([name]) => !OURS.includes(name));
    const command = [process.execPath, ...process.execArgv, ...process.argv.slice(1)];
    this.#child = spawn('/bin/sh', ['-c', STARTER, 'sh', ...command], {
      stdio: ['inherit', 'inherit', 'inherit', 'ipc'],
      env: { ...Object.fromEntries(others), [SUCCESSOR_VARIABLE]: '1' },
    });
    this.#child.on('error', () => this.#wake());
    this.#child.on('disconnect', () => this.#wake());
    this.#child.on('message', (message) => {
      const said = heard(message);
      this.#pid = said?.pid ?? this.#pid;
      this.#heard = said?.word ?? this.#heard;
      this.#wake();
    });
  }

  get pid(): number {
    return this.#pid;
  }

  tell(word: Word): void {
    this.#child.send(said(word), () => {});
  }

  /** Resolves when it says that. Rejects where it ends, or takes too long. */
  async hear(word: Word, limitMs: number): Promise<void> {
    const deadline = performance.now() + limitMs;
    while (this.#heard !== word) {
      const leftMs = deadline - performance.now();
      if (!this.#child.connected || leftMs <= 0) {
        throw new Error(`the next daemon is not ${word}: its log says why`);
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, leftMs);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  /** Gives it descriptors, at a socket that only our user may connect to. */
  async give(path: string, items: ReadonlyMap<string, number>): Promise<void> {
    rmSync(path, { force: true });
    const umask = process.umask(0o177);
    const listener = ((): number => {
      try {
        return listenUnix(path, 1);
      } finally {
        process.umask(umask);
      }
    })();
    let socket = -1;
    try {
      this.tell('frozen');
      const deadline = performance.now() + SOON_MS;
      while (socket < 0) {
        socket = acceptUnix(listener);
        const isOver = !this.#child.connected || performance.now() > deadline;
        if (socket >= 0) break;
        if (socket !== -ERRNO.EAGAIN || isOver) throw new Error('nobody takes over');
        await new Promise((resolve) => setTimeout(resolve, STEP_MS));
      }
      giveAll(socket, items);
    } finally {
      if (socket >= 0) closeFd(socket);
      closeFd(listener);
      rmSync(path, { force: true });
    }
  }

  /** Has it go on alone. */
  leave(): void {
    if (this.#child.connected) this.#child.disconnect();
  }

  /** Ends it. */
  end(): void {
    this.leave();
    if (this.#pid > 0) killIfThere(this.#pid);
  }
}

/** Answers a LIST: holder-protocol.ts. */
function giveAll(socket: number, items: ReadonlyMap<string, number>): void {
  waitFor(socket, POLLIN, SOON_MS);
  receiveWithFd(socket, new Uint8Array(MESSAGE_SIZE));
  for (const [name, fd] of items) {
    if (!sendMessage(socket, HOLD_ITEM, name, 0, fd)) throw new Error(`give ${name}: not taken`);
  }
  sendMessage(socket, HOLD_OK, '', items.size);
}

function killIfThere(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It has ended.
  }
}

/** The daemon's part of planned restarts. */
export class Succession {
  readonly #environment: Environment;
  readonly #manager: Manager;
  readonly #onOver: () => void;
  #isUnderWay = false;

  /** `onOver` is told once another daemon forwards, and this one is to end. */
  constructor(environment: Environment, manager: Manager, onOver: () => void) {
    this.#environment = environment;
    this.#manager = manager;
    this.#onOver = onOver;
  }

  /** Starts another daemon. Resolves when it has loaded all that it needs; it takes over soon after
   * that. Rejects where none can, and then nothing has changed. */
  async begin(host: Host): Promise<void> {
    if (this.#isUnderWay) throw new Error('a restart is under way');
    const reason = host.succeedsNot();
    if (reason !== null) throw new Error(reason);
    this.#isUnderWay = true;
    const successor = new Successor(this.#environment);
    try {
      await successor.hear('prepared', PREPARE_MS);
    } catch (error) {
      successor.end();
      this.#isUnderWay = false;
      throw error;
    }
    // Whoever has asked is answered before sockets close.
    setImmediate(() => void this.#complete(host, successor));
  }

  async #complete(host: Host, successor: Successor): Promise<void> {
    const { log, config } = host.options;
    try {
      await host.freeze();
      await successor.give(join(config.runtimeDirectory, SUCCESSION_SOCKET), host.possessions());
      await successor.hear('ready', READY_MS);
    } catch (error) {
      successor.end();
      log.error({ error: (error as Error).message }, 'no other daemon takes over');
      await host.thaw();
      this.#isUnderWay = false;
      return;
    }
    const haltMs = performance.now();
    await host.halt();
    // Only its main process may tell the manager which process that is.
    this.#manager.tell(`MAINPID=${successor.pid}`);
    successor.tell('go');
    await successor.hear('begun', SOON_MS).catch(() => {
      log.error({ pid: successor.pid }, 'the daemon that took over does not say so');
    });
    const pauseMs = Math.round(performance.now() - haltMs);
    log.info({ pid: successor.pid, pauseMs }, 'another daemon has taken over');
    successor.leave();
    this.#onOver();
  }
}
