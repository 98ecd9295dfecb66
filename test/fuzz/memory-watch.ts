// What the core must never do, whatever it is given: write anywhere but into the batch's slots and
// descriptors, its own counters, flows, fragments, verdicts, counts of Services, and outbox.

import * as layout from '../../wasm/abi/layout.ts';
import { WATCH_LIMIT, WATCH_SIZE } from '../../wasm/abi/module.ts';
import { FLOW_SIZE, VERDICTS_RECORDS, VERDICT_SIZE } from '../../wasm/abi/policy.ts';
import { FRONT_COUNTS_SIZE } from '../../wasm/abi/service.ts';
import type { Core } from '../../engine/core.ts';

/** A part of memory that the core may write to. */
export interface Open {
  start: number;
  end: number;
}

/** Compares memory with what it was when this was made. */
export class MemoryWatch {
  readonly #core: Core;
  readonly #before: Buffer;
  readonly #open: Open[];

  /** `slots` are the parts of the first `count` slots that a batch may write, in order. */
  constructor(core: Core, count: number, slots: Open[]) {
    this.#core = core;
    this.#before = Buffer.from(Buffer.from(core.memory.buffer));
    this.#open = [...openTables(core, count), ...slots];
  }

  /** Throws where another part has changed; `when` is the latest time that it can have been. */
  look(when: string): void {
    const now = Buffer.from(this.#core.memory.buffer);
    const before = this.#before;
    let at = 0;
    for (const { start, end } of [...this.#open, { start: now.length, end: now.length }]) {
      if (Buffer.compare(now.subarray(at, start), before.subarray(at, start)) !== 0) {
        const wrong = now.subarray(at, start).findIndex((byte, index) =>
          byte !== before[at + index]);
        throw new Error(`address ${at + wrong} was written; ${when} at the latest`);
      }
      at = end;
    }
  }
}

/** What a batch of `count` slots may write of tables, in the order of memory. */
function openTables(core: Core, count: number): Open[] {
  const statistics = core.directory(layout.DIRECTORY_STATISTICS);
  const descriptors = core.directory(layout.DIRECTORY_DESCRIPTORS);
  const records = core.directory(layout.DIRECTORY_NEXT_HOP_LIMIT) * layout.STATISTICS_STRIDE;
  const verdicts = core.directory(layout.DIRECTORY_VERDICTS);
  const ring = VERDICTS_RECORDS
    + (core.directory(layout.DIRECTORY_VERDICT_LIMIT) * VERDICT_SIZE);
  const counts = core.directory(layout.DIRECTORY_FRONT_COUNTS);
  const fronts = core.directory(layout.DIRECTORY_FRONT_LIMIT);
  const headers = core.directory(layout.DIRECTORY_HEADERS);
  const flows = core.directory(layout.DIRECTORY_FLOWS);
  const flowCount = core.directory(layout.DIRECTORY_FLOW_COUNT);
  return [
    { start: layout.WORKERS_START, end: layout.WORKERS_START + layout.WORKER_STRIDE },
    { start: statistics, end: statistics + records },
    { start: core.directory(layout.DIRECTORY_FRAGMENTS), end: verdicts + ring },
    { start: counts, end: counts + (fronts * FRONT_COUNTS_SIZE) },
    {
      start: core.directory(layout.DIRECTORY_MODULE_COUNTS),
      end: core.directory(layout.DIRECTORY_WATCHES) + (WATCH_LIMIT * WATCH_SIZE),
    },
    {
      start: core.directory(layout.DIRECTORY_SENDS),
      end: headers + (layout.HEADER_LIMIT * layout.HEADER_STRIDE),
    },
    { start: flows, end: flows + (flowCount * (FLOW_SIZE + 1)) },
    { start: descriptors, end: descriptors + (count * layout.DESCRIPTOR_STRIDE) },
  ];
}
