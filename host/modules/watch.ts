// Tells a module that does not return. A worker's block in shared memory says which module it is
// in; the same module, in the same turn, with no call counted in between, is the same call.
//
// What counts is the time that the thread has run, not what the clock says: a thread that other
// programs keep from running is not to blame.

import { readFileSync } from 'node:fs';
import { WORKERS_START, WORKER_STRIDE, WORKER_TURN } from '../../wasm/abi/layout.ts';
import type { Core } from '../../engine/core.ts';
import { currentModule, moduleCalls } from '../../engine/modules.ts';
import { THREAD_CONTROL, THREAD_ID } from '../thread-state.ts';
import { CALL_LIMIT_MS, CLOCK_FACTOR, CONTROL_LIMIT_MS } from './limits.ts';

const NS_PER_MS = 1_000_000;

/** Where a thread is: numbers that are equal as long as it is in one call. */
interface Where {
  place: number;
  isControl: boolean;
  turn: number;
  calls: number;
}

/** Milliseconds that a thread of this process has run; null where the kernel does not tell. The
 * format is that of Documentation/scheduler/sched-stats.rst. */
export function threadRanMs(thread: number): number | null {
  try {
    const [ran] = readFileSync(`/proc/self/task/${thread}/schedstat`, 'latin1').split(' ');
    const ms = Number(ran) / NS_PER_MS;
    return ms > 0 ? ms : null;
  } catch {
    return null;
  }
}

/** Watches one thread of a worker. */
export class CallWatch {
  readonly #core: Core;
  readonly #worker: number;
  readonly #state: Int32Array;
  readonly #ran: (thread: number) => number | null;
  #last: Where | null = null;
  #sinceMs = 0;
  #ranMs: number | null = null;

  constructor(core: Core, worker: number, state: Int32Array, ran = threadRanMs) {
    this.#core = core;
    this.#worker = worker;
    this.#state = state;
    this.#ran = ran;
  }

  /** To be called now and then. The place of a module that does not return, or -1. A thread that
   * stands by is in no call of the core's: those are of the thread that runs. */
  look(nowMs: number, isStandby: boolean): number {
    const where = this.#where(isStandby);
    const last = this.#last;
    this.#last = where;
    if (where === null) return -1;
    if (last === null || !isSame(last, where)) {
      this.#sinceMs = nowMs;
      this.#ranMs = this.#ran(Atomics.load(this.#state, THREAD_ID));
      return -1;
    }
    const limitMs = where.isControl ? CONTROL_LIMIT_MS : CALL_LIMIT_MS;
    if (nowMs - this.#sinceMs < limitMs) return -1;
    return this.#tookMs(nowMs) < limitMs ? -1 : where.place;
  }

  #tookMs(nowMs: number): number {
    const ranMs = this.#ran(Atomics.load(this.#state, THREAD_ID));
    if (ranMs === null || this.#ranMs === null) return (nowMs - this.#sinceMs) / CLOCK_FACTOR;
    return ranMs - this.#ranMs;
  }

  #where(isStandby: boolean): Where | null {
    const control = Atomics.load(this.#state, THREAD_CONTROL);
    if (control > 0) return { place: control - 1, isControl: true, turn: 0, calls: 0 };
    const place = isStandby ? -1 : currentModule(this.#core, this.#worker);
    if (place < 0) return null;
    const turn = this.#core.view.getUint32(
      WORKERS_START + (this.#worker * WORKER_STRIDE) + WORKER_TURN, true);
    return { place, isControl: false, turn, calls: moduleCalls(this.#core, this.#worker) };
  }
}

function isSame(one: Where, other: Where): boolean {
  return one.place === other.place && one.isControl === other.isControl
    && one.turn === other.turn && one.calls === other.calls;
}
