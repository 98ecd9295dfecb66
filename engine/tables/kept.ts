// The kept pages of linear memory, which the next process may take over: the flow tables, so that
// connections that are under way go on. What else is in memory is built anew from what is known.

import {
  DIRECTORY_FLOWS,
  DIRECTORY_FLOW_COUNT,
  DIRECTORY_FLOW_SEED,
  DIRECTORY_WORKER_COUNT,
  KEPT_FLOWS,
  KEPT_FLOW_SEED,
  KEPT_GRANULE,
  KEPT_HEADER_SIZE,
  KEPT_MAGIC,
  KEPT_MAGIC_FIELD,
  KEPT_VERSION,
  KEPT_WORKERS,
} from '../../wasm/abi/layout.ts';
import { FLOW_SIZE } from '../../wasm/abi/policy.ts';
import { ABI_VERSION } from '../../wasm/abi/version.ts';
import type { Core } from '../core.ts';

/** The bytes of the kept pages: a multiple of KEPT_GRANULE at a multiple of it. */
export function keptPages(core: Core): Uint8Array {
  const flows = core.directory(DIRECTORY_FLOWS);
  const count = core.directory(DIRECTORY_WORKER_COUNT) * core.directory(DIRECTORY_FLOW_COUNT);
  const end = flows + (count * (FLOW_SIZE + 1));
  const start = flows - KEPT_HEADER_SIZE;
  const length = Math.ceil((end - start) / KEPT_GRANULE) * KEPT_GRANULE;
  return core.bytes.subarray(start, start + length);
}

/** Marks pages that hold nothing yet as this core's. The magic comes last. */
export function beginKept(core: Core): void {
  const header = headerOf(core);
  for (const [field, value] of expected(core)) header.setUint32(field, value, true);
  header.setUint32(KEPT_FLOW_SEED, core.directory(DIRECTORY_FLOW_SEED), true);
  header.setUint32(KEPT_MAGIC_FIELD, KEPT_MAGIC, true);
}

/** Takes pages over that another process left: their flows are judged anew at their next packets,
 * as the connections they are. Returns how many there are; null where the pages are of another
 * layout, and then nothing of them may be used. Precondition: no worker turns. */
export function adoptKept(core: Core, nowMs: number): number | null {
  const header = headerOf(core);
  const isOurs = [[KEPT_MAGIC_FIELD, KEPT_MAGIC] as const, ...expected(core)]
    .every(([field, value]) => header.getUint32(field, true) === value);
  if (!isOurs) return null;
  core.setDirectory(DIRECTORY_FLOW_SEED, header.getUint32(KEPT_FLOW_SEED, true));
  let flows = 0;
  for (let worker = 0; worker < core.directory(DIRECTORY_WORKER_COUNT); worker += 1) {
    flows += core.exports.flowAdopt(worker, nowMs);
  }
  return flows;
}

function headerOf(core: Core): DataView {
  const start = core.directory(DIRECTORY_FLOWS) - KEPT_HEADER_SIZE;
  return new DataView(core.memory.buffer, start, KEPT_HEADER_SIZE);
}

/** What the header of pages of this layout holds, beside the magic and the seed. */
function expected(core: Core): [field: number, value: number][] {
  return [
    [KEPT_VERSION, ABI_VERSION],
    [KEPT_WORKERS, core.directory(DIRECTORY_WORKER_COUNT)],
    [KEPT_FLOWS, core.directory(DIRECTORY_FLOW_COUNT)],
  ];
}
