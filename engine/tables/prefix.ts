// A prefix table of the core, by key. The structure is wasm/table/prefix.ts.

import { CONTROL_SCRATCH_START } from '../../wasm/abi/layout.ts';
import {
  PREFIX_NOT_FOUND,
  PREFIX_OK,
  PREFIX_TABLE_BUSY,
  PREFIX_TABLE_FULL,
} from '../../wasm/abi/prefix-table.ts';
import { addressBytes, prefixText, type PrefixKey } from '../address.ts';
import type { Core } from '../core.ts';
import { TableFullError } from './limits.ts';

/** Milliseconds that a change waits for workers at most. */
const BUSY_WAITS = 100;

/** Prefixes of one family to next hop ids, or to identities. */
export class PrefixTable {
  readonly name: string;
  readonly limit: number;
  #core: Core;
  #table: number;

  constructor(core: Core, name: string, directoryField: number, limit: number) {
    this.#core = core;
    this.name = name;
    this.limit = limit;
    this.#table = core.directory(directoryField);
  }

  get count(): number {
    return this.#core.exports.prefixCount(this.#table);
  }

  /** Adds the prefix or replaces its value. Throws TableFullError; then nothing has changed. */
  insert(key: PrefixKey, value: number): void {
    const { exports } = this.#core;
    const status = this.#patiently(() =>
      exports.prefixInsert(this.#table, this.#scratch(key.bytes), key.length, value));
    if (status === PREFIX_OK) return;
    if (status === PREFIX_TABLE_FULL || status === PREFIX_TABLE_BUSY) {
      throw new TableFullError(this.name, this.limit, prefixText(key));
    }
    throw new Error(`add ${prefixText(key)} to ${this.name}: status ${status}`);
  }

  /** Removes the prefix; one that is not there is no error. */
  remove(key: PrefixKey): void {
    const { exports } = this.#core;
    const status = this.#patiently(() =>
      exports.prefixRemove(this.#table, this.#scratch(key.bytes), key.length));
    if (status === PREFIX_OK || status === PREFIX_NOT_FOUND) return;
    throw new Error(`remove ${prefixText(key)} from ${this.name}: status ${status}`);
  }

  /** The value of exactly this prefix; 0 where it is not there. */
  get(key: PrefixKey): number {
    const { exports } = this.#core;
    return Math.max(exports.prefixGet(this.#table, this.#scratch(key.bytes), key.length), 0);
  }

  /** What the prefix's addresses would find without it. */
  above(key: PrefixKey): number {
    return this.#core.exports.prefixAbove(this.#table, this.#scratch(key.bytes), key.length);
  }

  /** The value of the longest prefix that holds the address; 0 where none does. */
  find(address: string): number {
    const bytes = new Uint8Array(16);
    bytes.set(addressBytes(address));
    return this.#core.exports.prefixFind(this.#table, this.#scratch(bytes));
  }

  /** Tries again while memory waits for workers to end their turns, which take microseconds. */
  #patiently(change: () => number): number {
    let status = change();
    for (let waits = 0; status === PREFIX_TABLE_BUSY && waits < BUSY_WAITS; waits += 1) {
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
      status = change();
    }
    return status;
  }

  #scratch(bytes: Uint8Array): number {
    this.#core.bytes.set(bytes, CONTROL_SCRATCH_START);
    return CONTROL_SCRATCH_START;
  }
}
