// For the tests of prefix tables: a table in a memory of its own. Prefixes are the benches'.

import { readFileSync } from 'node:fs';
import * as abi from '../../wasm/abi/prefix-table.ts';
import {
  CONTROL_SCRATCH_START, DIRECTORY_START, DIRECTORY_WORKER_COUNT, TABLES_START, WORKERS_START,
  WORKER_STRIDE, WORKER_TURN,
} from '../../wasm/abi/layout.ts';

export { generateIpv4, generateIpv6, parseAddress, randomSource, readPrefixFile,
  type PrefixSet } from '../../bench/prefixes.ts';

/** The exports of the core that prefix tables have. */
export interface PrefixExports {
  prefixTableSize(
    prefixLimit: number, nodeLimit: number, leafLimit: number, leafSize: number): number;
  prefixTableInit(
    table: number, prefixes: number, nodes: number, leaves: number, leafSize: number): number;
  prefixAbove(table: number, key: number, length: number): number;
  prefixInsert(table: number, key: number, length: number, value: number): number;
  prefixRemove(table: number, key: number, length: number): number;
  prefixStage(table: number, key: number, length: number, value: number): number;
  prefixPublish(table: number): number;
  prefixGet(table: number, key: number, length: number): number;
  prefixFind(table: number, key: number): number;
  prefixFindMany4(table: number, addresses: number, count: number, values: number): void;
  prefixFindMany6(table: number, keys: number, count: number, values: number): void;
  prefixCount(table: number): number;
  prefixReclaim(table: number): number;
  prefixUsage(table: number, what: number): number;
}

export interface PrefixLimits {
  readonly prefixes: number;
  readonly nodes: number;
  readonly leaves: number;
}

const PAGE = 65536;
const MEMORY_PAGES_MAX = 32768;
const CORE = new URL('../../wasm/core.wasm', import.meta.url);

/** Number of keys TestTable.findMany takes at a time. */
export const BATCH = 4096;

/** Instantiates the core over a memory. */
export function instantiateCore(memory: WebAssembly.Memory): PrefixExports {
  const module = new WebAssembly.Module(readFileSync(CORE));
  const instance = new WebAssembly.Instance(module, { env: { memory, inspectPayload: () => 0 } });
  return instance.exports as unknown as PrefixExports;
}

/** One prefix table alone in a memory, with a space for keys behind it. */
export class TestTable {
  readonly memory: WebAssembly.Memory;
  readonly core: PrefixExports;
  readonly table = TABLES_START;
  readonly keys: number;
  readonly leafSize: number;
  readonly #view: DataView;
  readonly #bytes: Uint8Array;

  constructor(limits: PrefixLimits, leafSize: number = abi.PREFIX_LEAF_NARROW) {
    this.leafSize = leafSize;
    const pages = (bytes: number): number => Math.ceil(bytes / PAGE);
    const room = BATCH * (abi.PREFIX_KEY_SIZE + leafSize);
    const probe = instantiateCore(newMemory(1));
    const size = probe.prefixTableSize(
      limits.prefixes, limits.nodes, limits.leaves, leafSize);
    if (size === 0) throw new Error('prefixTableSize refuses these limits');
    this.memory = newMemory(pages(TABLES_START + size + room));
    this.core = instantiateCore(this.memory);
    this.keys = TABLES_START + size;
    this.#view = new DataView(this.memory.buffer);
    this.#bytes = new Uint8Array(this.memory.buffer);
    this.core.prefixTableInit(
      this.table, limits.prefixes, limits.nodes, limits.leaves, leafSize);
  }

  get values(): number {
    return this.keys + BATCH * abi.PREFIX_KEY_SIZE;
  }

  get bytes(): Uint8Array {
    return this.#bytes;
  }

  usage(what: number): number {
    return this.core.prefixUsage(this.table, what);
  }

  insert(key: bigint, length: number, value: number): number {
    return this.core.prefixInsert(this.table, this.#put(key), length, value);
  }

  remove(key: bigint, length: number): number {
    return this.core.prefixRemove(this.table, this.#put(key), length);
  }

  stage(key: bigint, length: number, value: number): number {
    return this.core.prefixStage(this.table, this.#put(key), length, value);
  }

  publish(): number {
    return this.core.prefixPublish(this.table);
  }

  get(key: bigint, length: number): number {
    return this.core.prefixGet(this.table, this.#put(key), length);
  }

  /** What the prefix's addresses would find without it. */
  above(key: bigint, length: number): number {
    return this.core.prefixAbove(this.table, this.#put(key), length);
  }

  find(key: bigint): number {
    return this.core.prefixFind(this.table, this.#put(key));
  }

  /** The lookup of the packet path for IPv4. */
  find4(key: bigint): number {
    this.#view.setUint32(this.keys, Number(key >> 96n), true);
    this.core.prefixFindMany4(this.table, this.keys, 1, this.values);
    return this.leafSize === abi.PREFIX_LEAF_WIDE
      ? this.#view.getUint32(this.values, true)
      : this.#view.getUint16(this.values, true);
  }

  /** Copies a key of 16 bytes to where the core takes it from; returns its address. */
  putBytes(keys: Uint8Array, index: number): number {
    const from = index * abi.PREFIX_KEY_SIZE;
    for (let at = 0; at < abi.PREFIX_KEY_SIZE; at++) {
      this.#bytes[CONTROL_SCRATCH_START + at] = keys[from + at] ?? 0;
    }
    return CONTROL_SCRATCH_START;
  }

  setWorkers(count: number): void {
    this.#view.setUint32(DIRECTORY_START + DIRECTORY_WORKER_COUNT, count, true);
  }

  setTurn(worker: number, turn: number): void {
    this.#view.setUint32(WORKERS_START + worker * WORKER_STRIDE + WORKER_TURN, turn, true);
  }

  #put(key: bigint): number {
    this.#view.setBigUint64(CONTROL_SCRATCH_START, key >> 64n);
    this.#view.setBigUint64(CONTROL_SCRATCH_START + 8, key & 0xffff_ffff_ffff_ffffn);
    return CONTROL_SCRATCH_START;
  }
}

function newMemory(pages: number): WebAssembly.Memory {
  return new WebAssembly.Memory({ initial: pages, maximum: MEMORY_PAGES_MAX, shared: true });
}
