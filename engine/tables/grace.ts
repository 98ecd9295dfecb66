// Grace periods on the control side: an index that workers may still be reading is free again once
// each worker has left the turn it was in (the turn clock of wasm/count.ts is odd within a turn).

import {
  DIRECTORY_FLOW_LOCK,
  DIRECTORY_FLOW_WAITERS,
  DIRECTORY_START,
  DIRECTORY_WORKER_COUNT,
  WORKERS_START,
  WORKER_STRIDE,
  WORKER_TURN,
} from '../../wasm/abi/layout.ts';
import type { Core } from '../core.ts';

interface Retired {
  index: number;
  turns: number[];
}

/** Free indexes of a table of records, taken back after a grace period. */
export class IndexPool {
  readonly limit: number;
  #core: Core;
  #first: number;
  #next: number;
  #free: number[] = [];
  #retired: Retired[] = [];

  constructor(core: Core, first: number, limit: number) {
    this.#core = core;
    this.#first = first;
    this.#next = first;
    this.limit = limit;
  }

  /** Indexes in use, those in their grace period included. */
  get used(): number {
    this.#reclaim();
    return this.#next - this.#first - this.#free.length;
  }

  /** A free index, or -1 where the table is full. */
  take(): number {
    this.#reclaim();
    const reused = this.#free.pop();
    if (reused !== undefined) return reused;
    if (this.#next >= this.limit) return -1;
    this.#next += 1;
    return this.#next - 1;
  }

  /** Gives an index back; it is used again when no worker can be reading it. */
  retire(index: number): void {
    this.#retired.push({ index, turns: workerTurns(this.#core) });
    this.#reclaim();
  }

  #reclaim(): void {
    if (this.#retired.length === 0) return;
    const now = workerTurns(this.#core);
    const waiting: Retired[] = [];
    for (const retired of this.#retired) {
      if (hasPassed(retired.turns, now)) this.#free.push(retired.index);
      else waiting.push(retired);
    }
    this.#retired = waiting;
  }
}

/** The turn clock of every worker. */
export function workerTurns(core: Core): number[] {
  const words = new Int32Array(core.memory.buffer);
  const count = core.directory(DIRECTORY_WORKER_COUNT);
  return Array.from({ length: count }, (_, worker) =>
    Atomics.load(words, turnWord(worker)));
}

/** Ends the turn of a worker that died inside it, and frees the lock of flows if it had it
 * (wasm/lock.ts), so that nothing waits for it for ever. */
export function endTurn(core: Core, worker: number): void {
  const words = new Int32Array(core.memory.buffer);
  if ((Atomics.load(words, turnWord(worker)) & 1) === 1) Atomics.add(words, turnWord(worker), 1);
  releaseFlows(core, worker);
}

/** Frees the lock of flows if the worker had it when it left the core before its end. */
export function releaseFlows(core: Core, worker: number): void {
  const words = new Int32Array(core.memory.buffer);
  const lock = (DIRECTORY_START + DIRECTORY_FLOW_LOCK) / 4;
  Atomics.and(words, (DIRECTORY_START + DIRECTORY_FLOW_WAITERS) / 4, ~(1 << worker));
  if (Atomics.compareExchange(words, lock, worker + 1, 0) === worker + 1) {
    Atomics.notify(words, lock);
  }
}

function turnWord(worker: number): number {
  return (WORKERS_START + (worker * WORKER_STRIDE) + WORKER_TURN) / 4;
}

/** True where no worker can still be in a turn that it was in `then`. */
export function hasPassed(then: number[], now: number[]): boolean {
  return then.every((turn, worker) => (turn & 1) === 0 || turn !== now[worker]);
}
