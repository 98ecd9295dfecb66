// Services as the core serves them: fronts, which clients address, and blocks of backends.
//
// Theory of operation. A front is an address, protocol and port of a Service; its backends stand in
// an immutable block. A change is checked, and everything it needs is written where nothing leads
// to it yet; where memory does not suffice, that is given back, and nothing has changed. Then
// fronts' words are stored, new fronts are entered, old ones taken out, and the service epoch is
// raised: sessions look at their fronts again (wasm/service/serve.ts). What nothing leads to any
// more is used again after a grace period. Only what a change names is looked at.

import {
  DIRECTORY_FRONTS, DIRECTORY_FRONT_COUNTS, DIRECTORY_FRONT_LIMIT, DIRECTORY_HAS_SERVICES,
  DIRECTORY_SERVICE_ARENA, DIRECTORY_SERVICE_ARENA_SIZE, DIRECTORY_SERVICE_EPOCH, DIRECTORY_START,
  DIRECTORY_WORKER_COUNT,
} from '../../wasm/abi/layout.ts';
import {
  BACKENDS_AFFINITY, BACKENDS_COUNT, BACKENDS_EPOCH, BACKENDS_FLAGS, BACKENDS_FLAG_SILENT,
  BACKENDS_LANES, BACKENDS_READY, BACKENDS_SEEDS, BACKEND_ADDRESS, BACKEND_PORT, BACKEND_SIZE,
  FRONT_ADDRESS, FRONT_BACKENDS, FRONT_COUNTS_OPENED, FRONT_COUNTS_REFUSED, FRONT_COUNTS_SIZE,
  FRONT_NEXT, FRONT_PORT, FRONT_PROTOCOL, FRONT_SIZE,
} from '../../wasm/abi/service.ts';
import { addressBytes, addressFamily } from '../address.ts';
import type { Core } from '../core.ts';
import type { ServiceLimits } from '../memory-map.ts';
import type { Backend, Service, ServiceChange, ServicePort } from '../model.ts';
import { Arena } from './arena.ts';
import { IndexPool } from './grace.ts';
import { TableFullError } from './limits.ts';

/** Protocol numbers of what can be served, IANA. */
const PROTOCOLS = { TCP: 6, UDP: 17, SCTP: 132 } as const;
const MS_PER_SECOND = 1000;
/** The first 12 bytes of an IPv4-mapped address (RFC 4291 section 2.5.5.2). */
const MAPPED = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/** What a Service's routes are for: its addresses lead to the core's own next hop for Services. */
export type ClaimAddresses = (owner: string, addresses: string[]) => void;

/** A front that packets can find. */
interface Front {
  owner: string;
  index: number;
  block: number;
  backends: number;
  /** What the block holds, to see whether it has changed. */
  content: string;
}

/** A front as a change wants it. */
interface Wanted {
  key: string;
  address: string;
  port: ServicePort;
  service: Service;
}

/** A change of one front, ready to be published. */
interface Step {
  key: string;
  front: Front;
  before: Front | undefined;
}

export class ServiceTables {
  readonly limits: ServiceLimits;
  #core: Core;
  #words: Int32Array;
  #arena: Arena;
  #pool: IndexPool;
  #claim: ClaimAddresses;
  #services = new Map<string, Service>();
  #fronts = new Map<string, Front>();
  #owned = new Map<string, Set<string>>();
  /** Fronts that a Service wants and another has: by owner, a line for each. */
  #contested = new Map<string, string[]>();
  #backends = 0;

  constructor(core: Core, limits: ServiceLimits, claim: ClaimAddresses = () => {}) {
    this.#core = core;
    this.limits = limits;
    this.#claim = claim;
    this.#words = new Int32Array(core.memory.buffer);
    this.#arena = new Arena(core, core.directory(DIRECTORY_SERVICE_ARENA),
      core.directory(DIRECTORY_SERVICE_ARENA_SIZE));
    this.#pool = new IndexPool(core, 0, core.directory(DIRECTORY_FRONT_LIMIT));
  }

  /** Puts a change into force, each Service of it as a whole. Throws TableFullError where it does
   * not fit, and an Error where a Service contradicts itself; that Service is as before then, and
   * those after it. */
  apply({ services, removedServices }: ServiceChange): void {
    for (const name of removedServices) this.#remove(nameOf(name));
    for (const service of services) this.#put(service);
    this.#retryContested();
  }

  /** Makes `services` all there are. */
  replace(services: Service[]): void {
    const names = new Set(services.map(nameOf));
    const removedServices = [...this.#services.values()].filter((one) => !names.has(nameOf(one)));
    this.apply({ services, removedServices });
  }

  /** Every Service in force. */
  services(): Service[] {
    return [...this.#services.values()];
  }

  /** What is not as the cluster says: fronts that two Services want. */
  problems(): string[] {
    return [...this.#contested.values()].flat();
  }

  /** Tables and their fill, for `culvert status`. */
  tables(): { name: string; used: number; limit: number }[] {
    return [
      { name: 'fronts', used: this.#fronts.size, limit: this.limits.fronts },
      { name: 'backends', used: this.#backends, limit: this.limits.backends },
    ];
  }

  /** Bytes of fronts and of blocks of backends in use. */
  get bytes(): number {
    return (this.#fronts.size * FRONT_SIZE) + this.#arena.used;
  }

  /** Flows that a Service's backends got, and packets that found none. */
  counts(service: { namespace: string; name: string }): { opened: number; refused: number } {
    const counts = { opened: 0, refused: 0 };
    for (const key of this.#owned.get(nameOf(service)) ?? []) {
      for (const at of this.#countsOf(this.#fronts.get(key)?.index ?? 0)) {
        counts.opened += Number(this.#core.view.getBigUint64(at + FRONT_COUNTS_OPENED, true));
        counts.refused += Number(this.#core.view.getBigUint64(at + FRONT_COUNTS_REFUSED, true));
      }
    }
    return counts;
  }

  /** A Service's routes lead to it from when its fronts are there until they go. */
  #put(service: Service): void {
    const owner = nameOf(service);
    const before = this.#services.get(owner);
    const wanted = wantedFronts(service);
    const free = wanted.filter(({ key }) => (this.#fronts.get(key)?.owner ?? owner) === owner);
    const keys = new Set(free.map(({ key }) => key));
    const gone = [...this.#owned.get(owner) ?? []].filter((key) => !keys.has(key));
    const steps = this.#prepare(owner, free);
    if (before?.addresses.join() !== service.addresses.join()) {
      try {
        this.#claim(owner, service.addresses);
      } catch (error) {
        for (const step of steps) this.#cancel(step);
        throw error;
      }
    }
    this.#services.set(owner, service);
    this.#publish(steps, gone);
    this.#owned.set(owner, keys);
    const lines = wanted.filter(({ key }) => !keys.has(key)).map(({ key }) =>
      `${key} of service ${owner} is kept by service ${this.#fronts.get(key)?.owner ?? ''}`);
    if (lines.length > 0) this.#contested.set(owner, lines);
    else this.#contested.delete(owner);
  }

  #remove(owner: string): void {
    if (!this.#services.delete(owner)) return;
    this.#claim(owner, []);
    this.#contested.delete(owner);
    this.#publish([], [...this.#owned.get(owner) ?? []]);
    this.#owned.delete(owner);
  }

  /** A front that its owner has given up goes to the next who wants it. */
  #retryContested(): void {
    for (const owner of [...this.#contested.keys()]) {
      const service = this.#services.get(owner);
      if (service !== undefined) this.#put(service);
    }
  }

  /** Writes what is new of the fronts. */
  #prepare(owner: string, wanted: Wanted[]): Step[] {
    const steps: Step[] = [];
    try {
      for (const { key, address, port, service } of wanted) {
        const backends = backendsOf(port, address);
        const content = contentOf(backends, service);
        const before = this.#fronts.get(key);
        if (before?.content === content) continue;
        const extra = steps.reduce((sum, step) =>
          sum + step.front.backends - (step.before?.backends ?? 0), backends.length);
        if (this.#backends + extra - (before?.backends ?? 0) > this.limits.backends) {
          throw new TableFullError('backends', this.limits.backends, `service ${owner}`);
        }
        const block = this.#writeBlock(owner, backends, service);
        const index = before?.index ?? -1;
        const front = { owner, index, block, backends: backends.length, content };
        const step: Step = { key, front, before };
        steps.push(step);
        if (before === undefined) front.index = this.#writeFront(owner, address, port, block);
      }
      return steps;
    } catch (error) {
      for (const step of steps) this.#cancel(step);
      throw error;
    }
  }

  #cancel({ front, before }: Step): void {
    this.#arena.free(front.block);
    if (before === undefined && front.index >= 0) this.#pool.retire(front.index);
  }

  #publish(steps: Step[], gone: string[]): void {
    if (steps.length === 0 && gone.length === 0) return;
    const retired: number[] = [];
    const epoch = (DIRECTORY_START + DIRECTORY_SERVICE_EPOCH) / 4;
    const next = Atomics.load(this.#words, epoch) + 1;
    this.#core.setDirectory(DIRECTORY_HAS_SERVICES, 1);
    for (const { key, front, before } of steps) {
      const at = this.#frontAt(front.index);
      this.#core.view.setInt32(front.block + BACKENDS_EPOCH, next, true);
      Atomics.store(this.#words, (at + FRONT_BACKENDS) / 4, front.block);
      if (before === undefined) this.#core.exports.frontEnter(at);
      else retired.push(before.block);
      this.#backends += front.backends - (before?.backends ?? 0);
      this.#fronts.set(key, front);
    }
    for (const key of gone) {
      const front = this.#fronts.get(key);
      if (front === undefined) continue;
      this.#core.exports.frontRemove(this.#frontAt(front.index));
      this.#pool.retire(front.index);
      retired.push(front.block);
      this.#backends -= front.backends;
      this.#fronts.delete(key);
    }
    Atomics.store(this.#words, epoch, next);
    this.#arena.retire(retired);
  }

  #frontAt(index: number): number {
    return this.#core.directory(DIRECTORY_FRONTS) + (index * FRONT_SIZE);
  }

  /** Addresses of a front's counts, one record for each worker. */
  #countsOf(index: number): number[] {
    const start = this.#core.directory(DIRECTORY_FRONT_COUNTS);
    const limit = this.#core.directory(DIRECTORY_FRONT_LIMIT);
    const workers = this.#core.directory(DIRECTORY_WORKER_COUNT);
    return Array.from({ length: workers }, (_, worker) =>
      start + (((worker * limit) + index) * FRONT_COUNTS_SIZE));
  }

  #writeFront(owner: string, address: string, port: ServicePort, block: number): number {
    const index = this.#pool.take();
    if (index < 0) throw new TableFullError('fronts', this.limits.fronts, `service ${owner}`);
    const at = this.#frontAt(index);
    const { view, bytes } = this.#core;
    bytes.set(mappedBytes(address), at + FRONT_ADDRESS);
    view.setUint32(at + FRONT_PORT, 0, true);
    view.setUint16(at + FRONT_PORT, port.port, false);
    view.setUint8(at + FRONT_PROTOCOL, PROTOCOLS[port.protocol]);
    view.setUint32(at + FRONT_BACKENDS, block, true);
    view.setUint32(at + FRONT_NEXT, 0, true);
    for (const counts of this.#countsOf(index)) bytes.fill(0, counts, counts + FRONT_COUNTS_SIZE);
    return index;
  }

  #writeBlock(owner: string, backends: SeededBackend[], service: Service): number {
    const lanes = Math.ceil(backends.length / BACKENDS_LANES) * BACKENDS_LANES;
    const records = BACKENDS_SEEDS + (lanes * 4);
    const size = records + (backends.length * BACKEND_SIZE);
    const block = this.#arena.take(size);
    if (block === 0) {
      throw new TableFullError('backends', this.#arena.limit, `service ${owner}`, 'bytes');
    }
    const { view, bytes } = this.#core;
    bytes.fill(0, block, block + size);
    const ready = backends.filter(({ state }) => state === 'ready').length;
    view.setUint32(block + BACKENDS_READY, ready, true);
    view.setUint32(block + BACKENDS_COUNT, backends.length, true);
    view.setUint32(block + BACKENDS_AFFINITY, service.affinitySeconds * MS_PER_SECOND, true);
    const flags = service.empty === 'drop' ? BACKENDS_FLAG_SILENT : 0;
    view.setUint32(block + BACKENDS_FLAGS, flags, true);
    for (const [index, { seed, address, port }] of backends.entries()) {
      const at = block + records + (index * BACKEND_SIZE);
      view.setUint32(block + BACKENDS_SEEDS + (index * 4), seed, true);
      bytes.set(address, at + BACKEND_ADDRESS);
      view.setUint16(at + BACKEND_PORT, port, false);
    }
    return block;
  }
}

/** A backend as a block has it; `address` is 16 bytes. */
interface SeededBackend {
  seed: number;
  address: Uint8Array;
  port: number;
  state: Backend['state'];
}

function nameOf({ namespace, name }: { namespace: string; name: string }): string {
  return `${namespace}/${name}`;
}

/** Fronts of a Service: each address with each port. */
function wantedFronts(service: Service): Wanted[] {
  const wanted = new Map<string, Wanted>();
  for (const address of service.addresses) {
    for (const port of service.ports) {
      const key = `${address} ${port.protocol} ${port.port}`;
      if (wanted.has(key)) throw new Error(`service ${nameOf(service)}: ${key} comes twice`);
      wanted.set(key, { key, address, port, service });
    }
  }
  return [...wanted.values()];
}

/** The backends that an address of a Service has, which are those of its family: ready ones first,
 * each seed another. The same backends always make the same block. */
function backendsOf({ backends }: ServicePort, address: string): SeededBackend[] {
  const family = addressFamily(address);
  const known = new Map<string, SeededBackend>();
  for (const { address: text, port, state } of backends) {
    if (addressFamily(text) !== family) continue;
    const bytes = mappedBytes(text);
    known.set(`${text} ${port}`, { seed: seedOf(bytes, port), address: bytes, port, state });
  }
  const order = [...known.entries()].sort(([one, left], [other, right]) =>
    left.seed - right.seed || (one < other ? -1 : 1));
  let last = -1;
  for (const [, backend] of order) {
    backend.seed = Math.max(backend.seed, last + 1);
    last = backend.seed;
  }
  const all = order.map(([, backend]) => backend);
  return [...all.filter(({ state }) => state === 'ready'),
    ...all.filter(({ state }) => state === 'draining')];
}

function contentOf(backends: SeededBackend[], { affinitySeconds, empty }: Service): string {
  const list = backends.map(({ seed, address, port, state }) =>
    `${seed} ${address.join('.')} ${port} ${state}`);
  return [affinitySeconds, empty, ...list].join();
}

/** An address as flows have it. */
function mappedBytes(address: string): Uint8Array {
  const bytes = addressBytes(address);
  return bytes.length === 16 ? bytes : Uint8Array.from([...MAPPED, ...bytes]);
}

/** 32 bits of FNV-1a over address and port: by these a backend is chosen, on every node. */
function seedOf(address: Uint8Array, port: number): number {
  let hash = 0x811c9dc5;
  for (const byte of [...address, port >> 8, port & 0xff]) {
    hash = Math.imul(hash ^ byte, 0x01000193);
  }
  return hash >>> 0;
}
