// A prefix table of the core, by key. The structure is wasm/table/prefix.ts.

import { CONTROL_SCRATCH_START } from '../../wasm/abi/layout.ts';
import {
  PREFIX_NOT_FOUND,
  PREFIX_OK,
  PREFIX_TABLE_BUSY,
  PREFIX_TABLE_FULL,
  PREFIX_TRIE_ROOT,
  TRIE_CHILDREN,
  TRIE_HIGH,
  TRIE_LENGTH,
  TRIE_LOW,
  TRIE_VALUE,
} from '../../wasm/abi/prefix-table.ts';
import { addressBytes, prefixText, type PrefixKey } from '../address.ts';
import type { Core } from '../core.ts';
import { TableFullError } from './limits.ts';

/** Milliseconds that a change waits for workers at most. */
const BUSY_WAITS = 100;
/** TRIE_VALUE shares its word with TRIE_LENGTH. */
const TRIE_VALUE_MASK = 0xffffff;

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

  /** Every prefix, read from the control side's trie. Only who changes the table may ask. */
  prefixes(): string[] {
    const { view } = this.#core;
    const found: string[] = [];
    const family = this.name.startsWith('IPv4') ? 'IPv4' : 'IPv6';
    const waiting = [view.getUint32(this.#table + PREFIX_TRIE_ROOT, true)];
    for (let node = waiting.pop(); node !== undefined; node = waiting.pop()) {
      if (node === 0) continue;
      const bytes = new Uint8Array(16);
      const key = new DataView(bytes.buffer);
      key.setBigUint64(0, view.getBigUint64(node + TRIE_HIGH, true));
      key.setBigUint64(8, view.getBigUint64(node + TRIE_LOW, true));
      const value = view.getUint32(node + TRIE_VALUE, true) & TRIE_VALUE_MASK;
      const length = view.getUint8(node + TRIE_LENGTH);
      if (value !== 0) found.push(prefixText({ family, bytes, length }));
      waiting.push(view.getUint32(node + TRIE_CHILDREN, true));
      waiting.push(view.getUint32(node + TRIE_CHILDREN + 4, true));
    }
    return found;
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
