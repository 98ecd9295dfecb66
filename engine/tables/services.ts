// Services as the core serves them: fronts, which clients address, each with its backends.
//
// Theory of operation. A front is an address, protocol and port of a Service, and immutable. A
// change is checked, and everything it needs is written where nothing leads to it yet; where memory
// does not suffice, that is given back, and nothing has changed. Then fronts take the place of
// those before, new ones are entered, old ones taken out, each by one atomic store, and the service
// epoch is raised: sessions look at their fronts again (wasm/service/serve.ts). What nothing leads
// to any more is used again after a grace period. Only what a change names is looked at.

import {
  DIRECTORY_FRONT_ARENA, DIRECTORY_FRONT_ARENA_SIZE, DIRECTORY_FRONT_COUNTS,
  DIRECTORY_FRONT_LIMIT, DIRECTORY_HAS_SERVICES, DIRECTORY_SERVICE_EPOCH, DIRECTORY_START,
  DIRECTORY_WORKER_COUNT,
} from '../../wasm/abi/layout.ts';
import {
  BACKEND_ADDRESS, BACKEND_PORT, BACKEND_SIZE, FRONT_ADDRESS, FRONT_AFFINITY, FRONT_BACKENDS,
  FRONT_COUNTS, FRONT_COUNTS_OPENED, FRONT_COUNTS_REFUSED, FRONT_COUNTS_SIZE, FRONT_EPOCH,
  FRONT_FLAGS, FRONT_FLAG_SILENT, FRONT_LANES, FRONT_OFFERED, FRONT_PORT, FRONT_PROTOCOL,
  FRONT_SEEDS,
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
/** In the order of backends. */
const STATES: readonly Backend['state'][] = ['ready', 'draining', 'distant', 'unready'];
/** The first 12 bytes of an IPv4-mapped address (RFC 4291 section 2.5.5.2). */
const MAPPED = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/** A Service that says two things of one front. */
class ContradictionError extends Error {
  override name = 'ContradictionError';
}

/** What a Service's routes are for: its addresses lead to the core's own next hop for Services. */
export type ClaimAddresses = (owner: string, addresses: string[]) => void;

/** A front that packets can find. `at` is its address, `counts` the index of what it has seen. */
interface Front {
  owner: string;
  at: number;
  counts: number;
  backends: number;
  /** What it says, to see whether that has changed. */
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
  #refused = new Map<string, { service: Service; reason: string }>();
  #backends = 0;

  constructor(core: Core, limits: ServiceLimits, claim: ClaimAddresses = () => {}) {
    this.#core = core;
    this.limits = limits;
    this.#claim = claim;
    this.#words = new Int32Array(core.memory.buffer);
    this.#arena = new Arena(core, core.directory(DIRECTORY_FRONT_ARENA),
      core.directory(DIRECTORY_FRONT_ARENA_SIZE));
    this.#pool = new IndexPool(core, 0, core.directory(DIRECTORY_FRONT_LIMIT));
  }

  /** Puts a change into force, each Service of it as a whole, as far as the tables take it: see
   * problems(). One that does not fit, or contradicts itself, is as it was before. */
  apply({ services, removedServices }: ServiceChange): void {
    for (const name of removedServices) this.#remove(nameOf(name));
    for (const service of services) this.#putOrRefuse(service);
    this.#retryContested();
    this.#retryRefused();
  }

  /** Makes `services` all there are. */
  replace(services: Service[]): void {
    const names = new Set(services.map(nameOf));
    const refused = [...this.#refused.values()].map(({ service }) => service);
    const known = [...this.#services.values(), ...refused];
    const removedServices = known.filter((one) => !names.has(nameOf(one)));
    this.apply({ services, removedServices });
  }

  /** Every Service in force. */
  services(): Service[] {
    return [...this.#services.values()];
  }

  /** What is not as the cluster says: fronts that two Services want, Services that found a table
   * full or contradict themselves. */
  problems(): string[] {
    return [...this.#contested.values()].flat().concat(
      [...this.#refused].map(([name, { reason }]) => `service ${name}: ${reason}`));
  }

  /** Tables and their fill, for `culvert status`. */
  tables(): { name: string; used: number; limit: number }[] {
    return [
      { name: 'fronts', used: this.#fronts.size, limit: this.limits.fronts },
      { name: 'backends', used: this.#backends, limit: this.limits.backends },
    ];
  }

  /** Bytes of fronts with their backends. */
  get bytes(): number {
    return this.#arena.used;
  }

  /** Flows that a Service's backends got, and packets that found none. */
  counts(service: { namespace: string; name: string }): { opened: number; refused: number } {
    const counts = { opened: 0, refused: 0 };
    for (const key of this.#owned.get(nameOf(service)) ?? []) {
      for (const at of this.#countsOf(this.#fronts.get(key)?.counts ?? 0)) {
        counts.opened += Number(this.#core.view.getBigUint64(at + FRONT_COUNTS_OPENED, true));
        counts.refused += Number(this.#core.view.getBigUint64(at + FRONT_COUNTS_REFUSED, true));
      }
    }
    return counts;
  }

  #putOrRefuse(service: Service): boolean {
    const owner = nameOf(service);
    this.#refused.delete(owner);
    try {
      this.#put(service);
      return true;
    } catch (error) {
      const isRefusal = error instanceof TableFullError || error instanceof ContradictionError;
      if (!isRefusal) throw error;
      this.#refused.set(owner, { service, reason: error.message });
      return false;
    }
  }

  /** What found a table full is tried again with every change, in turn, until one finds it so
   * again. */
  #retryRefused(): void {
    for (const { service } of [...this.#refused.values()]) {
      if (!this.#putOrRefuse(service)) return;
    }
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
    this.#refused.delete(owner);
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
      if (service !== undefined) this.#putOrRefuse(service);
    }
  }

  /** Writes what is new of the fronts. */
  #prepare(owner: string, wanted: Wanted[]): Step[] {
    const steps: Step[] = [];
    let room = this.limits.backends - this.#backends;
    try {
      for (const one of wanted) {
        const backends = backendsOf(one.port, one.address);
        const content = contentOf(backends, one.service);
        const before = this.#fronts.get(one.key);
        if (before?.content === content) continue;
        room += (before?.backends ?? 0) - backends.length;
        if (room < 0) {
          throw new TableFullError('backends', this.limits.backends, `service ${owner}`);
        }
        const counts = before?.counts ?? this.#takeCounts(owner);
        const front = { owner, at: 0, counts, backends: backends.length, content };
        steps.push({ key: one.key, front, before });
        front.at = this.#write(one, backends, counts);
      }
      return steps;
    } catch (error) {
      for (const step of steps) this.#cancel(step);
      throw error;
    }
  }

  #cancel({ front, before }: Step): void {
    if (front.at !== 0) this.#arena.free(front.at);
    if (before === undefined) this.#pool.retire(front.counts);
  }

  #publish(steps: Step[], gone: string[]): void {
    if (steps.length === 0 && gone.length === 0) return;
    const { exports, view } = this.#core;
    const retired: number[] = [];
    const epoch = (DIRECTORY_START + DIRECTORY_SERVICE_EPOCH) / 4;
    const next = Atomics.load(this.#words, epoch) + 1;
    this.#core.setDirectory(DIRECTORY_HAS_SERVICES, 1);
    for (const { key, front, before } of steps) {
      view.setInt32(front.at + FRONT_EPOCH, next, true);
      if (before === undefined) exports.frontEnter(front.at);
      else {
        exports.frontReplace(before.at, front.at);
        retired.push(before.at);
      }
      this.#backends += front.backends - (before?.backends ?? 0);
      this.#fronts.set(key, front);
    }
    for (const key of gone) {
      const front = this.#fronts.get(key);
      if (front === undefined) continue;
      exports.frontRemove(front.at);
      this.#pool.retire(front.counts);
      retired.push(front.at);
      this.#backends -= front.backends;
      this.#fronts.delete(key);
    }
    Atomics.store(this.#words, epoch, next);
    this.#arena.retire(retired);
  }

  /** Addresses of a front's counts, one record for each worker. */
  #countsOf(index: number): number[] {
    const start = this.#core.directory(DIRECTORY_FRONT_COUNTS);
    const limit = this.#core.directory(DIRECTORY_FRONT_LIMIT);
    const workers = this.#core.directory(DIRECTORY_WORKER_COUNT);
    return Array.from({ length: workers }, (_, worker) =>
      start + (((worker * limit) + index) * FRONT_COUNTS_SIZE));
  }

  #takeCounts(owner: string): number {
    const index = this.#pool.take();
    if (index < 0) throw new TableFullError('fronts', this.limits.fronts, `service ${owner}`);
    for (const counts of this.#countsOf(index)) {
      this.#core.bytes.fill(0, counts, counts + FRONT_COUNTS_SIZE);
    }
    return index;
  }

  /** Writes a front where nothing leads to it yet. Returns its address. */
  #write({ address, port, service }: Wanted, backends: SeededBackend[], counts: number): number {
    const lanes = Math.ceil(backends.length / FRONT_LANES) * FRONT_LANES;
    const records = FRONT_SEEDS + (lanes * 4);
    const size = records + (backends.length * BACKEND_SIZE);
    const front = this.#arena.take(size);
    if (front === 0) {
      const object = `service ${nameOf(service)}`;
      throw new TableFullError('backends', this.#arena.limit, object, 'bytes');
    }
    const { view, bytes } = this.#core;
    bytes.fill(0, front, front + size);
    bytes.set(mappedBytes(address), front + FRONT_ADDRESS);
    view.setUint16(front + FRONT_PORT, port.port, false);
    view.setUint8(front + FRONT_PROTOCOL, PROTOCOLS[port.protocol]);
    view.setUint8(front + FRONT_FLAGS, service.empty === 'drop' ? FRONT_FLAG_SILENT : 0);
    view.setUint16(front + FRONT_OFFERED, offered(backends), true);
    view.setUint16(front + FRONT_BACKENDS, backends.length, true);
    view.setUint32(front + FRONT_AFFINITY, service.affinitySeconds * MS_PER_SECOND, true);
    view.setUint32(front + FRONT_COUNTS, counts, true);
    for (const [index, backend] of backends.entries()) {
      const at = front + records + (index * BACKEND_SIZE);
      view.setUint32(front + FRONT_SEEDS + (index * 4), backend.seed, true);
      bytes.set(backend.address, at + BACKEND_ADDRESS);
      view.setUint16(at + BACKEND_PORT, backend.port, false);
    }
    return front;
  }
}

/** A backend as a front has it; `address` is 16 bytes. */
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
      if (wanted.has(key)) throw new ContradictionError(`${key} comes twice`);
      wanted.set(key, { key, address, port, service });
    }
  }
  return [...wanted.values()];
}

/** How many of the backends, in their order, new connections get: those that are ready, or the
 * draining ones where none is. */
function offered(backends: SeededBackend[]): number {
  const count = (wanted: Backend['state']): number =>
    backends.filter(({ state }) => state === wanted).length;
  return count('ready') > 0 ? count('ready') : count('draining');
}

/** The backends that an address of a Service has, which are those of its family: ready ones first,
 * then draining ones, each seed another. The same backends always make the same front. One that is
 * not ready has nothing to keep where there are no connections. */
function backendsOf({ protocol, backends }: ServicePort, address: string): SeededBackend[] {
  const family = addressFamily(address);
  const known = new Map<string, SeededBackend>();
  for (const { address: text, port, state } of backends) {
    if (addressFamily(text) !== family) continue;
    if (state === 'unready' && protocol === 'UDP') continue;
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
  const rank = ({ state }: SeededBackend): number => STATES.indexOf(state);
  return all.sort((one, other) => rank(one) - rank(other));
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
