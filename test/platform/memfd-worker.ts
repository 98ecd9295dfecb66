// A thread, or a process, that works on the test's memory: it maps a file over it where it is told
// to, and lets the module store and load there.

import { parentPort, workerData } from 'node:worker_threads';
import { mapOver } from '../../ffi/memfd.ts';

/** Pages of the memory, and where the file lies in it. */
export const PAGES = 8;
export const MAPPED_START = 2 * 65536;
export const MAPPED_SIZE = 3 * 65536;

export interface Accessors {
  load(address: number): number;
  store(address: number, value: number): void;
}

/** (module (import "m" "m" (memory 8 8 shared))
 *    (func (export "l") (param i32) (result i32)  local.get 0  i32.load)
 *    (func (export "s") (param i32 i32)  local.get 0  local.get 1  i32.store)) */
const MODULE = Uint8Array.from([
  0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0,
  1, 11, 2, 0x60, 1, 0x7f, 1, 0x7f, 0x60, 2, 0x7f, 0x7f, 0,
  2, 9, 1, 1, 0x6d, 1, 0x6d, 2, 3, PAGES, PAGES,
  3, 3, 2, 0, 1,
  7, 9, 2, 1, 0x6c, 0, 0, 1, 0x73, 0, 1,
  10, 19, 2, 7, 0, 0x20, 0, 0x28, 2, 0, 0x0b, 9, 0, 0x20, 0, 0x20, 1, 0x36, 2, 0, 0x0b,
]);

export function makeMemory(): WebAssembly.Memory {
  return new WebAssembly.Memory({ initial: PAGES, maximum: PAGES, shared: true });
}

/** An instance of the module over a memory. */
export function accessors(memory: WebAssembly.Memory): Accessors {
  const { exports } = new WebAssembly.Instance(
    new WebAssembly.Module(MODULE), { m: { m: memory } });
  return {
    load: exports['l'] as Accessors['load'], store: exports['s'] as Accessors['store'],
  };
}

/** Puts the file in place. */
export function mapFile(memory: WebAssembly.Memory, fd: number): void {
  mapOver(new Uint8Array(memory.buffer, MAPPED_START, MAPPED_SIZE), fd);
}

export interface WorkerTask {
  /** Null for one of its own. */
  memory: WebAssembly.Memory | null;
  /** File to map, -1 for none. */
  fd: number;
  address: number;
  value: number;
}

const port = parentPort;
if (port !== null) {
  const { fd, address, value, ...task } = workerData as WorkerTask;
  const memory = task.memory ?? makeMemory();
  const { load, store } = accessors(memory);
  if (fd >= 0) mapFile(memory, fd);
  const before = load(address);
  store(address, value);
  port.postMessage(before);
} else if (process.argv[2] === 'count') {
  // A process: counts up in the file of descriptor 3, until it is killed or told to end.
  const memory = makeMemory();
  const { load, store } = accessors(memory);
  mapFile(memory, 3);
  const last = Number(process.argv[3]);
  process.stdout.write('counting\n');
  while (load(MAPPED_START) < last) store(MAPPED_START, load(MAPPED_START) + 1);
}
