// What the service manager is told of the daemon: sd_notify(3). A datagram each, on a socket that
// is opened for it: the manager may have started anew since the last one.
//
// The watchdog is fed by the data plane, not by this thread alone: a worker turns over some five
// times a second also without packets (WAIT_MS of loop.ts), so one whose turn clock stands still
// forwards nothing. A worker that has crashed is replaced well within the manager's patience.

import { workerTurns } from '../engine/tables/grace.ts';
import { closeFd } from '../ffi/file.ts';
import { sendWithFd } from '../ffi/rights.ts';
import { connectUnixDatagram } from '../ffi/unix-socket.ts';
import type { Host } from './main.ts';

/** So many looks at the data plane fit into the manager's patience. */
const LOOKS = 4;
/** How often the manager is told how we are where it has no watchdog. */
const STATUS_MS = 10_000;
const US_PER_MS = 1000;
const NS_PER_US = 1000n;

type Environment = Readonly<Record<string, string | undefined>>;

/** The service manager that runs us, or none: then nothing is told. */
export class Manager {
  /** Its patience with a daemon that is silent; 0 where it has no end. */
  readonly watchdogMs: number;
  readonly #path: string;

  constructor(environment: Environment) {
    this.#path = environment['NOTIFY_SOCKET'] ?? '';
    const watched = environment['WATCHDOG_PID'] ?? '';
    const isWatched = watched === '' || Number(watched) === process.pid;
    const us = Number(environment['WATCHDOG_USEC'] ?? 0);
    this.watchdogMs = isWatched && us > 0 ? us / US_PER_MS : 0;
  }

  get isThere(): boolean {
    return this.#path !== '';
  }

  /** Tells assignments, as READY=1. A manager that does not listen now is told the next ones. */
  tell(...assignments: string[]): void {
    if (!this.isThere) return;
    try {
      const socket = connectUnixDatagram(this.#path);
      sendWithFd(socket, Buffer.from(assignments.join('\n')), -1);
      closeFd(socket);
    } catch {
      // It is being started anew; the daemon does not depend on it.
    }
  }

  /** The configuration is read anew; READY=1 ends that. */
  tellReloading(): void {
    this.tell('RELOADING=1', `MONOTONIC_USEC=${process.hrtime.bigint() / NS_PER_US}`);
  }
}

/** Whether the data plane lives. */
export class Heartbeat {
  readonly #turns: () => number[];
  #last: number[];

  /** `turns` reads the turn clock of every worker. */
  constructor(turns: () => number[]) {
    this.#turns = turns;
    this.#last = turns();
  }

  /** True where every worker has turned since it was last found to have. */
  hasBeaten(): boolean {
    const now = this.#turns();
    if (now.some((turn, worker) => turn === this.#last[worker])) return false;
    this.#last = now;
    return true;
  }
}

/** Tells the manager, now and then, how the daemon is. */
export class Reports {
  readonly #manager: Manager;
  readonly #host: Host;
  readonly #heartbeat: Heartbeat;
  readonly #timer: NodeJS.Timeout | null;
  #told = '';
  #trouble = '';

  constructor(manager: Manager, host: Host) {
    this.#manager = manager;
    this.#host = host;
    this.#heartbeat = new Heartbeat(() => workerTurns(host.core));
    const everyMs = manager.watchdogMs > 0 ? manager.watchdogMs / LOOKS : STATUS_MS;
    this.#timer = manager.isThere ? setInterval(() => this.#report(), everyMs) : null;
    this.#timer?.unref();
    this.#manager.tell('READY=1', this.#status());
  }

  /** The configuration was read anew. `trouble` is why it is not in force, empty where it is. */
  reloaded(trouble: string): void {
    this.#trouble = trouble;
    this.#manager.tell('READY=1', this.#status());
  }

  /** The daemon is about to end; the service is not where another daemon has taken over. */
  close(isOver = false): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    if (!isOver) this.#manager.tell('STOPPING=1', 'STATUS=stopping');
  }

  #report(): void {
    const lines: string[] = [];
    if (this.#heartbeat.hasBeaten() && this.#manager.watchdogMs > 0) lines.push('WATCHDOG=1');
    const told = this.#told;
    const status = this.#status();
    if (status !== told) lines.push(status);
    if (lines.length > 0) this.#manager.tell(...lines);
  }

  #status(): string {
    this.#told = `STATUS=${this.#trouble === '' ? describe(this.#host) : this.#trouble}`;
    return this.#told;
  }
}

/** One line for `systemctl status`. */
function describe(host: Host): string {
  const { dataPlane, endpoints, forwarding, intake, freshness, isNodeDeviceLost } = host;
  const parts = [
    dataPlane.isRunning ? 'forwarding' : 'a data worker is being replaced',
    `tier ${host.tierName}`,
    `${forwarding.nodes.size} nodes`,
    `${endpoints.count} pods here`,
    intake.isConnected ? `cluster at revision ${intake.revision ?? 'unknown'}`
      : 'no sidecar connected',
  ];
  const { staleSince } = freshness;
  if (staleSince !== null) parts.push(`cluster stale since ${staleSince}`);
  if (isNodeDeviceLost) parts.push('the node\'s device is lost');
  return parts.join(', ');
}
