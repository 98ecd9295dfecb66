// Reads what the core has counted. Names of reasons and events are those of wasm/abi/verdict.ts in
// camel case, so that there is one list of them.

import {
  DIRECTORY_FLOW_COUNT,
  DIRECTORY_NEXT_HOP_LIMIT,
  DIRECTORY_STATISTICS,
  DIRECTORY_WORKER_COUNT,
  STATISTICS_RX_BYTES,
  STATISTICS_RX_PACKETS,
  STATISTICS_STRIDE,
  STATISTICS_TX_BYTES,
  STATISTICS_TX_PACKETS,
  WORKERS_START,
  WORKER_DROPS,
  WORKER_DROP_REASONS,
  WORKER_DROP_STRIDE,
  WORKER_EVENTS,
  WORKER_FLOWS,
  WORKER_STRIDE,
} from '../wasm/abi/layout.ts';
import * as verdict from '../wasm/abi/verdict.ts';
import type { Core } from './core.ts';

export type Direction = 'outbound' | 'inbound';

export interface Traffic {
  rxPackets: number;
  rxBytes: number;
  txPackets: number;
  txBytes: number;
}

/** Reason names by number: `spoofedSource` for REASON_SPOOFED_SOURCE. */
export const REASON_NAMES = namesOf('REASON_', verdict.REASON_COUNT);
export const EVENT_NAMES = namesOf('EVENT_', verdict.EVENT_COUNT);

function namesOf(start: string, count: number): string[] {
  const names = new Array<string>(count).fill('');
  for (const [name, value] of Object.entries(verdict)) {
    if (!name.startsWith(start) || name === `${start}COUNT`) continue;
    names[value] = name.slice(start.length).toLowerCase()
      .replace(/_(.)/g, (_, letter: string) => letter.toUpperCase());
  }
  return names;
}

/** Packets dropped, by reason; every reason is listed. */
export function readDrops(core: Core, direction: Direction): Record<string, number> {
  return readDropField(core, direction, 0);
}

/** Bytes of those packets. */
export function readDropBytes(core: Core, direction: Direction): Record<string, number> {
  return readDropField(core, direction, 8);
}

function readDropField(core: Core, direction: Direction, field: number): Record<string, number> {
  const offset = direction === 'outbound' ? verdict.DIRECTION_OUTBOUND : verdict.DIRECTION_INBOUND;
  const drops: Record<string, number> = {};
  for (let reason = 1; reason < verdict.REASON_COUNT; reason += 1) {
    const index = (offset * WORKER_DROP_REASONS) + reason;
    drops[REASON_NAMES[reason] ?? ''] =
      sumWorkers(core, WORKER_DROPS + (index * WORKER_DROP_STRIDE) + field);
  }
  return drops;
}

/** What the core did beside forwarding and dropping. */
export function readEvents(core: Core): Record<string, number> {
  return Object.fromEntries(EVENT_NAMES.map((name, event) =>
    [name, sumWorkers(core, WORKER_EVENTS + (event * 8))]));
}

/** Flows in the table, expired ones not yet swept included, and room for them. Each worker counts
 * what it opened less what it ended, which may be another's: only the sum says something. */
export function readFlowFill(core: Core): { used: number; limit: number } {
  const workers = core.directory(DIRECTORY_WORKER_COUNT);
  let used = 0;
  for (let worker = 0; worker < workers; worker += 1) {
    used += core.view.getInt32(WORKERS_START + (worker * WORKER_STRIDE) + WORKER_FLOWS, true);
  }
  return { used: used >>> 0, limit: core.directory(DIRECTORY_FLOW_COUNT) };
}

/** Forgets what was counted for an id, before something else gets it. */
export function clearTraffic(core: Core, nextHop: number): void {
  for (const record of statisticsOf(core, nextHop)) {
    core.bytes.fill(0, record, record + STATISTICS_STRIDE);
  }
}

/** Addresses of an id's statistics, one record for each worker. */
function statisticsOf(core: Core, nextHop: number): number[] {
  const start = core.directory(DIRECTORY_STATISTICS);
  const limit = core.directory(DIRECTORY_NEXT_HOP_LIMIT);
  return Array.from({ length: core.directory(DIRECTORY_WORKER_COUNT) }, (_, worker) =>
    start + (((worker * limit) + nextHop) * STATISTICS_STRIDE));
}

/** Packets and bytes from and to one next hop. */
export function readTraffic(core: Core, nextHop: number): Traffic {
  const traffic = { rxPackets: 0, rxBytes: 0, txPackets: 0, txBytes: 0 };
  for (const record of statisticsOf(core, nextHop)) {
    traffic.rxPackets += readCounter(core, record + STATISTICS_RX_PACKETS);
    traffic.rxBytes += readCounter(core, record + STATISTICS_RX_BYTES);
    traffic.txPackets += readCounter(core, record + STATISTICS_TX_PACKETS);
    traffic.txBytes += readCounter(core, record + STATISTICS_TX_BYTES);
  }
  return traffic;
}

/** Packets and bytes that one worker has taken, whatever they came from. */
export function readReceived(
  core: Core, worker: number,
): { rxPackets: number; rxBytes: number } {
  const received = { rxPackets: 0, rxBytes: 0 };
  const limit = core.directory(DIRECTORY_NEXT_HOP_LIMIT);
  const first = core.directory(DIRECTORY_STATISTICS) + (worker * limit * STATISTICS_STRIDE);
  for (let nextHop = 0; nextHop < limit; nextHop += 1) {
    const record = first + (nextHop * STATISTICS_STRIDE);
    received.rxPackets += readCounter(core, record + STATISTICS_RX_PACKETS);
    received.rxBytes += readCounter(core, record + STATISTICS_RX_BYTES);
  }
  return received;
}

/** Adds packets and their bytes to a drop counter of a worker, for drops at the devices. Call it on
 * that worker only. */
export function countDrop(
  core: Core,
  worker: number,
  direction: number,
  reason: number,
  length: number,
  packets: number,
): void {
  const index = (direction * WORKER_DROP_REASONS) + reason;
  const counter = WORKERS_START + (worker * WORKER_STRIDE) + WORKER_DROPS
    + (index * WORKER_DROP_STRIDE);
  core.view.setBigUint64(counter, core.view.getBigUint64(counter, true) + BigInt(packets), true);
  const bytes = counter + 8;
  core.view.setBigUint64(bytes, core.view.getBigUint64(bytes, true) + BigInt(length), true);
}

function sumWorkers(core: Core, offset: number): number {
  let sum = 0;
  for (let worker = 0; worker < core.directory(DIRECTORY_WORKER_COUNT); worker += 1) {
    sum += readCounter(core, WORKERS_START + (worker * WORKER_STRIDE) + offset);
  }
  return sum;
}

function readCounter(core: Core, address: number): number {
  return Number(core.view.getBigUint64(address, true));
}
