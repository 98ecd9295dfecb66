// Policy modules as the core sees them (wasm/policy/module.ts): the list of those that are asked,
// their functions in an instance's table, what they have said, and what is done when one fails.
//
// A module's instance sits at a place, in every worker's core; the list says which places are asked
// and in which order. So one is exchanged for another without a gap: the new one is attached at a
// free place in all workers, a list with it published, and the old one's place is free once no
// worker can be calling it.

import {
  DIRECTORY_MODULES,
  DIRECTORY_MODULE_COUNTS,
  DIRECTORY_MODULE_LISTS,
  DIRECTORY_POLICY_EPOCH,
  DIRECTORY_SLOT_COUNT,
  DIRECTORY_START,
  DIRECTORY_WORKER_COUNT,
  WORKERS_START,
  WORKER_MODULE,
  WORKER_MODULE_FAILURE,
  WORKER_MODULE_SAID,
  WORKER_MODULE_SHIFT,
  WORKER_STRIDE,
} from '../wasm/abi/layout.ts';
import * as abi from '../wasm/abi/module.ts';
import { ANSWER_MODULE_MASK, ANSWER_MODULE_SHIFT } from '../wasm/abi/policy.ts';
import type { Core } from './core.ts';
import { hasPassed, releaseFlows, workerTurns } from './tables/grace.ts';

/** By its number in the verdicts of modules/wit/policy.wit. */
export const MODULE_VERDICTS = ['pass', 'allow', 'deny', 'reject', 'more'] as const;
export type ModuleVerdict = (typeof MODULE_VERDICTS)[number];
/** Behind the verdicts, as they are counted. */
export const MODULE_FAULTS = ['trap', 'timeout', 'memory', 'answer'] as const;
export type FaultKind = (typeof MODULE_FAULTS)[number];
export type FailureVerdict = 'pass' | 'allow' | 'deny';

/** One module of the list. */
export interface ModuleEntry {
  /** Below MODULE_PLACES. */
  place: number;
  /** What counts where it fails. */
  failure: FailureVerdict;
  /** Its `allow` skips NetworkPolicy; otherwise that counts as `pass`. */
  mayAllow: boolean;
  /** It is asked about each packet of a flow, not only the first. */
  perPacket: boolean;
  /** It may ask for payload. */
  hasPayload: boolean;
  /** It is not called any more; its failure verdict applies. */
  disabled: boolean;
}

export type ModuleCounters = Record<ModuleVerdict | FaultKind, number>;

/** A module that did not come back from a call. */
export interface ModuleFault {
  place: number;
  kind: FaultKind;
  message: string;
}

/** Is told of a fault in the thread that runs the batch, before the batch goes on. */
export type OnFault = (fault: ModuleFault) => void;

export type Evaluate = (...words: number[]) => number;
export type Inspect = (flow: Int32Array, offset: number, bytes: Uint8Array) => number;

const FLAGS: [name: 'mayAllow' | 'perPacket' | 'hasPayload' | 'disabled', bit: number][] = [
  ['mayAllow', abi.MODULE_MAY_ALLOW],
  ['perPacket', abi.MODULE_PER_PACKET],
  ['hasPayload', abi.MODULE_HAS_PAYLOAD],
  ['disabled', abi.MODULE_DISABLED],
];
const FLOW_WORDS = 16;
/** Longest wait for workers to leave a list, in steps of a millisecond. */
const LIST_WAIT_MS = 1000;

/** Writes the list of modules. One thread owns it. */
export class ModuleTable {
  readonly #core: Core;
  readonly #words: Int32Array;
  /** Turns of all workers when they may last have begun to read a list; by its number. */
  readonly #left: number[][] = Array.from({ length: abi.MODULE_LISTS }, () => []);
  /** Likewise for places. */
  readonly #leftPlaces = new Map<number, number[]>();

  constructor(core: Core) {
    this.#core = core;
    this.#words = new Int32Array(core.memory.buffer);
  }

  /** The modules in force, in the order in which they are asked. */
  get entries(): ModuleEntry[] {
    return readModules(this.#core);
  }

  /** Puts a list in force: with one store, and every flow is judged anew at its next packet. */
  set(entries: readonly ModuleEntry[]): void {
    checkEntries(entries);
    const before = this.entries;
    const current = this.#current();
    let address = 0;
    if (entries.length > 0) {
      const number = this.#freeList(current);
      address = listAddress(this.#core, number);
      this.#write(address, entries);
    }
    Atomics.store(this.#words, (DIRECTORY_START + DIRECTORY_MODULES) / 4, address);
    Atomics.add(this.#words, (DIRECTORY_START + DIRECTORY_POLICY_EPOCH) / 4, 1);
    const turns = workerTurns(this.#core);
    if (current >= 0) this.#left[current] = turns;
    for (const { place } of before) {
      if (!entries.some((entry) => entry.place === place)) this.#leftPlaces.set(place, turns);
    }
  }

  /** True of a place in no list, which no worker can be calling any more. */
  isFree(place: number): boolean {
    if (this.entries.some((entry) => entry.place === place)) return false;
    const turns = this.#leftPlaces.get(place);
    return turns === undefined || hasPassed(turns, workerTurns(this.#core));
  }

  /** What the module at a place has said and done, on all workers. */
  counters(place: number): ModuleCounters {
    const counters = [...MODULE_VERDICTS, ...MODULE_FAULTS].map((name, kind) => {
      let sum = 0;
      for (let worker = 0; worker < workerCount(this.#core); worker += 1) {
        sum += readCount(this.#core, worker, place, kind);
      }
      return [name, sum];
    });
    return Object.fromEntries(counters) as ModuleCounters;
  }

  /** Forgets what was counted at a place, before another module gets it. */
  clear(place: number): void {
    for (let worker = 0; worker < workerCount(this.#core); worker += 1) {
      const record = countsAddress(this.#core, worker, place);
      this.#core.bytes.fill(0, record, record + abi.MODULE_COUNTS_STRIDE);
    }
  }

  /** Number of the list in force, -1 where there is none. */
  #current(): number {
    const address = this.#core.directory(DIRECTORY_MODULES);
    return address === 0 ? -1 : (address - listAddress(this.#core, 0)) / abi.MODULE_LIST_SIZE;
  }

  /** A list that no worker reads. */
  #freeList(current: number): number {
    for (let waited = 0; waited < LIST_WAIT_MS; waited += 1) {
      const now = workerTurns(this.#core);
      const free = this.#left.findIndex((turns, number) =>
        number !== current && hasPassed(turns, now));
      if (free >= 0) return free;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
    }
    throw new Error('set modules: a worker has not left its turn for a second');
  }

  #write(address: number, entries: readonly ModuleEntry[]): void {
    const { view } = this.#core;
    let flags = 0;
    for (const [index, entry] of entries.entries()) {
      const word = entryWord(entry);
      flags |= word;
      view.setUint32(address + abi.MODULE_LIST_ENTRIES + (index * 4), word, true);
    }
    view.setUint32(address + abi.MODULE_LIST_COUNT, entries.length, true);
    view.setUint32(address + abi.MODULE_LIST_FLAGS, flags, true);
  }
}

/** Place of the module that an answer is from, -1 where policy gave it. */
export function moduleOf(answer: number): number {
  return ((answer >>> ANSWER_MODULE_SHIFT) & ANSWER_MODULE_MASK) - 1;
}

/** The modules in force, in the order in which they are asked; in any thread. */
export function readModules(core: Core): ModuleEntry[] {
  const address = core.directory(DIRECTORY_MODULES);
  const count = address === 0 ? 0 : core.view.getUint32(address + abi.MODULE_LIST_COUNT, true);
  return Array.from({ length: count }, (_, index) => {
    const word = core.view.getUint32(address + abi.MODULE_LIST_ENTRIES + (index * 4), true);
    const failure = (word >>> abi.MODULE_FAILURE_SHIFT) & abi.MODULE_FAILURE_MASK;
    return {
      place: word & abi.MODULE_PLACE_MASK,
      failure: MODULE_VERDICTS[failure] as FailureVerdict,
      mayAllow: (word & abi.MODULE_MAY_ALLOW) !== 0,
      perPacket: (word & abi.MODULE_PER_PACKET) !== 0,
      hasPayload: (word & abi.MODULE_HAS_PAYLOAD) !== 0,
      disabled: (word & abi.MODULE_DISABLED) !== 0,
    };
  });
}

/** Has the module at a place called no more; its failure verdict applies. In any thread. */
export function disableModule(core: Core, place: number): void {
  const words = new Int32Array(core.memory.buffer);
  const address = core.directory(DIRECTORY_MODULES);
  for (const [index, entry] of readModules(core).entries()) {
    const word = (address + abi.MODULE_LIST_ENTRIES) / 4 + index;
    if (entry.place === place) Atomics.or(words, word, abi.MODULE_DISABLED);
  }
}

/** Puts a module's function at its place in this instance of the core, or takes it out. It must be
 * an exported function of a WebAssembly instance; one of another type than the core calls it with
 * is a trap at each call. */
export function attachEvaluate(core: Core, place: number, evaluate: Evaluate | null): void {
  core.exports.table.set(abi.MODULE_TABLE_BASE + place, evaluate);
}

/** Likewise for what is shown payload; the bytes are a copy. */
export function attachInspect(core: Core, place: number, inspect: Inspect | null): void {
  if (inspect === null) {
    core.inspectors.delete(place);
    return;
  }
  core.inspectors.set(place, (flow, offset, payload, length) => {
    const words = new Int32Array(core.memory.buffer, flow, FLOW_WORDS).slice();
    return inspect(words, offset, core.bytes.slice(payload, payload + length));
  });
}

/** Runs the core over slots of one worker. A module that fails gets its failure verdict, and the
 * batch goes on with the packet in hand. Returns how many slots are done, as processBatch does. */
export function runBatch(
  core: Core, first: number, count: number, nowMs: number, onFault: OnFault,
): number {
  try {
    return core.exports.processBatch(first, count, nowMs);
  } catch (error) {
    recover(core, first, error, onFault);
    return continueBatch(core, first, count, nowMs, onFault);
  }
}

/** Goes on with a batch out of which a fault led, once recoverFault() has seen to it. */
export function continueBatch(
  core: Core, first: number, count: number, nowMs: number, onFault: OnFault,
): number {
  for (;;) {
    try {
      return core.exports.resumeBatch(first, count, nowMs);
    } catch (error) {
      recover(core, first, error, onFault);
    }
  }
}

function recover(core: Core, first: number, error: unknown, onFault: OnFault): void {
  const worker = Math.floor(first / core.directory(DIRECTORY_SLOT_COUNT));
  const kind = kindOf(error);
  const place = recoverFault(core, worker, kind);
  if (place < 0) throw error;
  onFault({ place, kind, message: error instanceof Error ? error.message : String(error) });
}

/** A module that is refused memory may say so by an error with that kind; all else is a trap. */
function kindOf(error: unknown): FaultKind {
  const isMemory = error instanceof Error && 'kind' in error && error.kind === 'memory';
  return isMemory ? 'memory' : 'trap';
}

/** Gives the module that a worker is in its failure verdict, counts the fault and frees the lock of
 * flows, so that resumeBatch() can go on: in the worker's thread or, where that is gone, another.
 * Returns the module's place, -1 where the worker is in none. */
export function recoverFault(core: Core, worker: number, kind: FaultKind): number {
  const { view } = core;
  const block = blockAddress(worker);
  const place = currentModule(core, worker);
  if (place < 0) return -1;
  const said = view.getUint32(block + WORKER_MODULE_SAID, true);
  const shift = view.getUint16(block + WORKER_MODULE_SHIFT, true);
  const failure = view.getUint16(block + WORKER_MODULE_FAILURE, true);
  const verdict = BigInt(failure + 1) << BigInt(shift);
  view.setBigUint64(said, view.getBigUint64(said, true) | verdict, true);
  countFault(core, worker, place, kind);
  view.setUint32(block + WORKER_MODULE, 0, true);
  releaseFlows(core, worker);
  return place;
}

/** Counts a fault of a module on a worker. */
export function countFault(core: Core, worker: number, place: number, kind: FaultKind): void {
  const at = countsAddress(core, worker, place)
    + ((abi.MODULE_FAULT_TRAP + MODULE_FAULTS.indexOf(kind)) * 8);
  core.view.setBigUint64(at, core.view.getBigUint64(at, true) + 1n, true);
}

/** Place of the module that a worker is in, -1 where it is in none. */
export function currentModule(core: Core, worker: number): number {
  return core.view.getUint32(blockAddress(worker) + WORKER_MODULE, true) - 1;
}

/** Calls of modules that a worker has come back from. */
export function moduleCalls(core: Core, worker: number): number {
  let calls = 0;
  for (let place = 0; place < abi.MODULE_PLACES; place += 1) {
    for (let kind = 0; kind < abi.MODULE_COUNT_KINDS; kind += 1) {
      calls += readCount(core, worker, place, kind);
    }
  }
  return calls;
}

function checkEntries(entries: readonly ModuleEntry[]): void {
  if (entries.length > abi.MODULE_LIMIT) {
    throw new RangeError(`set modules: ${entries.length} are more than ${abi.MODULE_LIMIT}`);
  }
  const places = new Set(entries.map(({ place }) => place));
  if (places.size < entries.length) throw new RangeError('set modules: two have the same place');
  for (const place of places) {
    if (!Number.isInteger(place) || place < 0 || place >= abi.MODULE_PLACES) {
      throw new RangeError(`set modules: place ${place} is not below ${abi.MODULE_PLACES}`);
    }
  }
}

function entryWord(entry: ModuleEntry): number {
  const failure = MODULE_VERDICTS.indexOf(entry.failure) << abi.MODULE_FAILURE_SHIFT;
  return FLAGS.reduce((word, [name, bit]) => (entry[name] ? word | bit : word),
    entry.place | failure);
}

function listAddress(core: Core, number: number): number {
  return core.directory(DIRECTORY_MODULE_LISTS) + (number * abi.MODULE_LIST_SIZE);
}

function blockAddress(worker: number): number {
  return WORKERS_START + (worker * WORKER_STRIDE);
}

function countsAddress(core: Core, worker: number, place: number): number {
  const record = (worker * abi.MODULE_PLACES) + place;
  return core.directory(DIRECTORY_MODULE_COUNTS) + (record * abi.MODULE_COUNTS_STRIDE);
}

function readCount(core: Core, worker: number, place: number, kind: number): number {
  return Number(core.view.getBigUint64(countsAddress(core, worker, place) + (kind * 8), true));
}

function workerCount(core: Core): number {
  return core.directory(DIRECTORY_WORKER_COUNT);
}
