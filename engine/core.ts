// The core as TypeScript sees it: instantiates the module over one shared memory, checks that both
// were built from the same wasm/abi, and gives the exports types. The first instance lays the
// memory; workers attach further instances to it.

import * as layout from '../wasm/abi/layout.ts';
import { MODULE_PLACES, MODULE_TABLE_BASE } from '../wasm/abi/module.ts';
import { PREFIX_LEAF_NARROW, PREFIX_LEAF_WIDE } from '../wasm/abi/prefix-table.ts';
import { ABI_VERSION } from '../wasm/abi/version.ts';
import { writeFlowKeys } from './flow-keys.ts';
import { layMemory, writeDirectory, type Limits, type PrefixLimits } from './memory-map.ts';

/** Exports of wasm/index.ts. Addresses are byte offsets in linear memory. */
export interface CoreExports {
  readonly ABI_VERSION: { readonly value: number };
  /** Functions that the core calls by index; its own are below MODULE_TABLE_BASE. */
  readonly table: WebAssembly.Table;
  processBatch(first: number, count: number, nowMs: number): number;
  resumeBatch(first: number, count: number, nowMs: number): number;
  flowAdopt(nowMs: number): number;
  checksumMany(start: number, length: number, stride: number, count: number, sums: number): void;
  flowFindMany(
    table: number, entries: number, keys: number, count: number, found: number): void;
  parseMany(first: number, count: number): number;
  encapsulateMany(first: number, count: number, peer: number): void;
  frontEnter(front: number): void;
  frontRemove(front: number): void;
  frontReplace(before: number, front: number): void;
  policyAnswer(ruleSet: number, identity: number, key: number): number;
  policyProgram(ruleSet: number, identity: number): number;
  prefixTableSize(prefixes: number, nodes: number, leaves: number, leafSize: number): number;
  prefixTableInit(
    table: number, prefixes: number, nodes: number, leaves: number, leafSize: number): number;
  prefixInsert(table: number, key: number, length: number, value: number): number;
  prefixRemove(table: number, key: number, length: number): number;
  prefixGet(table: number, key: number, length: number): number;
  prefixAbove(table: number, key: number, length: number): number;
  prefixFind(table: number, key: number): number;
  prefixFindMany4(table: number, addresses: number, count: number, values: number): void;
  prefixFindMany6(table: number, keys: number, count: number, values: number): void;
  prefixCount(table: number): number;
  prefixStage(table: number, key: number, length: number, value: number): number;
  prefixPublish(table: number): number;
  prefixReclaim(table: number): number;
  prefixUsage(table: number, what: number): number;
}

/** The core's answer when it was built from other constants than this engine. */
export class AbiError extends Error {
  override name = 'AbiError';
}

const PAGE_BYTES = 65536;

/** Shows a module payload that a flow's opener sent. The flow is 16 words at `flow`, the payload
 * lies `offset` bytes behind its first byte. Returns a verdict; what it throws is the module's
 * fault. */
export type InspectPayload = (
  flow: number, offset: number, payload: number, length: number) => number;

/** One instance of the core over a memory that others may share. */
export class Core {
  readonly exports: CoreExports;
  readonly module: WebAssembly.Module;
  /** Of the modules that look at payload, by place (engine/modules.ts). */
  readonly inspectors = new Map<number, InspectPayload>();
  readonly memory: WebAssembly.Memory;
  readonly bytes: Uint8Array;
  readonly view: DataView;

  private constructor(module: WebAssembly.Module, memory: WebAssembly.Memory) {
    this.module = module;
    this.exports = instantiate(module, memory, (place, flow, offset, payload, length) => {
      const inspect = this.inspectors.get(place);
      if (inspect === undefined) throw new Error('inspect payload: no function is there');
      return inspect(flow, offset, payload, length);
    });
    this.exports.table.grow(
      MODULE_TABLE_BASE + MODULE_PLACES - this.exports.table.length);
    this.memory = memory;
    this.bytes = new Uint8Array(memory.buffer);
    this.view = new DataView(memory.buffer);
  }

  /** Makes a memory of the size that `limits` asks for, lays it and clears its tables. `seed` is 32
   * bits that nobody who sends packets can guess: it keys the flow table's hash. */
  static create(
    module: WebAssembly.Module, limits: Limits, seed = Math.random() * 0x100000000,
  ): Core {
    const probe = instantiate(module, makeMemory(PAGE_BYTES), () => 0);
    const sizeOf = ({ prefixes, nodes, leaves }: PrefixLimits, leafSize: number): number =>
      probe.prefixTableSize(prefixes, nodes, leaves, leafSize);
    const map = layMemory(limits, sizeOf);
    const core = new Core(module, makeMemory(map.size));
    writeDirectory(core.view, map, limits, ABI_VERSION);
    core.setDirectory(layout.DIRECTORY_FLOW_SEED, seed);
    // No epoch of another life of the flow table is met again by chance.
    core.setDirectory(layout.DIRECTORY_SERVICE_EPOCH, seed);
    writeFlowKeys(core.view, core.directory(layout.DIRECTORY_FLOW_SEED));
    const clear = (at: number, { prefixes, nodes, leaves }: PrefixLimits, leaf: number): void => {
      core.exports.prefixTableInit(at, prefixes, nodes, leaves, leaf);
    };
    for (const name of ['routesIpv4', 'routesIpv6', 'remotesIpv4', 'remotesIpv6'] as const) {
      clear(map[name], limits[name], PREFIX_LEAF_NARROW);
    }
    for (const name of ['identitiesIpv4', 'identitiesIpv6'] as const) {
      clear(map[name], limits.policy[name], PREFIX_LEAF_WIDE);
    }
    return core;
  }

  /** An instance over a memory of its own, with a copy of all tables but the kept pages: no flow is
   * known in it and no packet is in hand. What happens to it changes nothing here. Only the thread
   * that writes the tables may ask for it. */
  copy(): Core {
    const memory = makeMemory(this.bytes.length);
    copyWords(this.memory, memory, this.directory(layout.DIRECTORY_KEPT));
    const core = Core.attach(this.module, memory);
    core.setDirectory(layout.DIRECTORY_FLOW_LOCK, 0);
    core.setDirectory(layout.DIRECTORY_FLOW_WAITERS, 0);
    core.setDirectory(layout.DIRECTORY_CAPTURE, 0);
    return core;
  }

  /** A further instance over a memory that create() laid. */
  static attach(module: WebAssembly.Module, memory: WebAssembly.Memory): Core {
    const core = new Core(module, memory);
    if (core.directory(layout.DIRECTORY_MAGIC_FIELD) !== layout.DIRECTORY_MAGIC) {
      throw new AbiError('attach core: the memory has not been laid out');
    }
    if (core.directory(layout.DIRECTORY_VERSION) !== ABI_VERSION) {
      throw new AbiError('attach core: the memory was laid out by another version');
    }
    return core;
  }

  /** Reads a field of the directory. */
  directory(field: number): number {
    return this.view.getUint32(layout.DIRECTORY_START + field, true);
  }

  /** Writes a field of the directory that may change while the core runs. */
  setDirectory(field: number, value: number): void {
    this.view.setUint32(layout.DIRECTORY_START + field, value, true);
  }

  /** Address of a slot's descriptor. */
  descriptorAddress(slot: number): number {
    return this.directory(layout.DIRECTORY_DESCRIPTORS) + (slot * layout.DESCRIPTOR_STRIDE);
  }

  /** Address at which devices read into a slot. */
  packetAddress(slot: number): number {
    const slots = this.directory(layout.DIRECTORY_SLOTS);
    return slots + (slot * layout.SLOT_STRIDE) + layout.PACKET_HEADROOM;
  }
}

/** Copies the pages that have anything in them: the others take no room in the copy either. */
function copyWords(from: WebAssembly.Memory, to: WebAssembly.Memory, size: number): void {
  const step = PAGE_BYTES / 16;
  const words = new Int32Array(from.buffer, 0, size / 4);
  const target = new Int32Array(to.buffer, 0, size / 4);
  for (let at = 0; at < words.length; at += step / 4) {
    const part = words.subarray(at, at + (step / 4));
    if (!isBlank(part)) target.set(part, at);
  }
}

function isBlank(words: Int32Array): boolean {
  for (let at = 0; at < words.length; at += 1) if (words[at] !== 0) return false;
  return true;
}

function makeMemory(bytes: number): WebAssembly.Memory {
  const pages = Math.ceil(bytes / PAGE_BYTES);
  return new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
}

function instantiate(
  module: WebAssembly.Module,
  memory: WebAssembly.Memory,
  inspectPayload: (place: number, ...shown: Parameters<InspectPayload>) => number,
): CoreExports {
  const imports = { env: { memory, inspectPayload } };
  const exports: unknown = new WebAssembly.Instance(module, imports).exports;
  const core = exports as CoreExports;
  if (core.ABI_VERSION?.value !== ABI_VERSION) {
    const found = String(core.ABI_VERSION?.value);
    throw new AbiError(`load core: its ABI version is ${found}, the engine's is ${ABI_VERSION}`);
  }
  return core;
}
