// Next hops: ids that routes hold, each one word that says what is behind it.

import {
  DIRECTORY_NEXT_HOPS,
  DIRECTORY_NEXT_HOP_LIMIT,
  NEXT_HOP_BLACKHOLE,
  NEXT_HOP_FIRST_FREE,
  NEXT_HOP_KIND_BLACKHOLE,
  NEXT_HOP_KIND_NODE,
  NEXT_HOP_KIND_NONE,
  NEXT_HOP_KIND_OUTSIDE,
  NEXT_HOP_KIND_PROHIBIT,
  NEXT_HOP_KIND_SERVICE,
  NEXT_HOP_KIND_SHIFT,
  NEXT_HOP_KIND_UNREACHABLE,
  NEXT_HOP_NODE,
  NEXT_HOP_OUTSIDE,
  NEXT_HOP_PROHIBIT,
  NEXT_HOP_SERVICE,
  NEXT_HOP_UNREACHABLE,
} from '../../wasm/abi/layout.ts';
import type { Core } from '../core.ts';
import { clearTraffic } from '../counters.ts';
import { IndexPool } from './grace.ts';
import { TableFullError } from './limits.ts';

/** The table of next hops. Publishing one is a single atomic store. */
export class NextHopTable {
  #core: Core;
  #words: Int32Array;
  #pool: IndexPool;

  constructor(core: Core) {
    this.#core = core;
    const start = core.directory(DIRECTORY_NEXT_HOPS);
    const limit = core.directory(DIRECTORY_NEXT_HOP_LIMIT);
    this.#words = new Int32Array(core.memory.buffer, start, limit);
    this.#pool = new IndexPool(core, NEXT_HOP_FIRST_FREE, limit);
    this.publish(NEXT_HOP_NODE, NEXT_HOP_KIND_NODE, 0);
    this.publish(NEXT_HOP_OUTSIDE, NEXT_HOP_KIND_OUTSIDE, 0);
    this.publish(NEXT_HOP_UNREACHABLE, NEXT_HOP_KIND_UNREACHABLE, 0);
    this.publish(NEXT_HOP_PROHIBIT, NEXT_HOP_KIND_PROHIBIT, 0);
    this.publish(NEXT_HOP_BLACKHOLE, NEXT_HOP_KIND_BLACKHOLE, 0);
    this.publish(NEXT_HOP_SERVICE, NEXT_HOP_KIND_SERVICE, 0);
  }

  get limit(): number {
    return this.#pool.limit;
  }

  get used(): number {
    return this.#pool.used;
  }

  /** An unused id, which leads nowhere until published. Its statistics start at 0. */
  allocate(object: string): number {
    const id = this.#pool.take();
    if (id < 0) throw new TableFullError('next hops', this.limit, object);
    clearTraffic(this.#core, id);
    return id;
  }

  /** Says what is behind an id, for packets from now on. */
  publish(id: number, kind: number, index: number): void {
    Atomics.store(this.#words, id, (kind << NEXT_HOP_KIND_SHIFT) | index);
  }

  /** Gives an id back. Precondition: no route holds it any more. */
  release(id: number): void {
    this.publish(id, NEXT_HOP_KIND_NONE, 0);
    this.#pool.retire(id);
  }
}
