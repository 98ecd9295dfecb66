// All Services of the cluster, as the node's host is to serve them. Each is put together from its
// object and its slices when something of it has changed, and again while a snapshot is read, so
// that nothing is kept twice: of an endpoint there are its address and what it shares with others.
// A change costs as much as the Services that it concerns.

import { createHash } from 'node:crypto';
import { addressFamily } from '../../engine/address.ts';
import type { Backend, Service, ServiceChange } from '../../engine/model.ts';
import { PART_LIMIT, SERVICE_BACKEND_LIMIT, SERVICE_PORT_LIMIT } from '../../engine/model.ts';
import { compareText, labelValue } from '../fields.ts';
import type { Labels } from '../fields.ts';
import { chooseBackends } from './choice.ts';
import type { Candidate } from './choice.ts';
import type { EndpointFacts, FrontPort, ServedPort, ServiceFacts, SliceFacts } from './objects.ts';

interface ServiceRecord {
  facts: ServiceFacts | null;
  /** Mostly one. */
  slices: readonly Slice[];
  /** What stands for what the host was told; empty for nothing. */
  told: string;
}

interface Slice {
  key: string;
  facts: SliceFacts;
}

/** Labels that name a node's zone, the one of old last. */
const ZONE_LABELS = ['topology.kubernetes.io/zone', 'failure-domain.beta.kubernetes.io/zone'];
/** Weight of a part at most: more than the heaviest Service, and far below what a frame holds. */
export const PART_WEIGHT = 10_500;
const CONDITIONS: readonly EndpointFacts['condition'][] = ['ready', 'draining', 'unready'];

export class Services {
  readonly #node: string;
  #zone = '';
  readonly #records = new Map<string, ServiceRecord>();
  readonly #ownerOfSlice = new Map<string, string>();
  readonly #touched = new Set<string>();
  readonly #problems = new Map<string, string>();

  /** `node` is where the clients are. */
  constructor(node: string) {
    this.#node = node;
  }

  /** What is not served, or not as it is meant, one line each. */
  get problems(): string[] {
    return [...this.#problems.values()];
  }

  setService(key: string, facts: ServiceFacts): void {
    this.#record(key).facts = facts;
    this.#touched.add(key);
  }

  removeService(key: string): void {
    const record = this.#records.get(key);
    if (record === undefined) return;
    record.facts = null;
    this.#touched.add(key);
  }

  setSlice(key: string, facts: SliceFacts): void {
    if (this.#ownerOfSlice.get(key) !== facts.owner) this.removeSlice(key);
    if (facts.owner === '') return;
    this.#ownerOfSlice.set(key, facts.owner);
    const record = this.#record(facts.owner);
    record.slices = [...without(record.slices, key), { key, facts }];
    this.#touched.add(facts.owner);
  }

  removeSlice(key: string): void {
    const owner = this.#ownerOfSlice.get(key);
    if (owner === undefined) return;
    this.#ownerOfSlice.delete(key);
    const record = this.#record(owner);
    record.slices = without(record.slices, key);
    this.#touched.add(owner);
  }

  /** Takes the labels of our node, which name its zone. */
  setNodeLabels(labels: Labels): void {
    const zones = ZONE_LABELS.map((label) => labelValue(labels, label) ?? '');
    const zone = zones.find((name) => name !== '') ?? '';
    if (zone === this.#zone) return;
    this.#zone = zone;
    for (const key of this.#records.keys()) this.#touched.add(key);
  }

  /** What differs from what was taken before; null for nothing. Where it is not wanted, because
   * everything will be read, there is nothing in it. */
  take(isWanted: boolean): ServiceChange | null {
    const change: ServiceChange = { services: [], removedServices: [] };
    let hasChanged = false;
    for (const key of this.#touched) {
      const record = this.#record(key);
      const service = this.#put(key, record);
      const told = service === null ? '' : digest(service);
      if (told !== record.told) {
        hasChanged = true;
        record.told = told;
        if (service !== null && isWanted) change.services.push(service);
        if (service === null) change.removedServices.push(nameOf(key));
      }
      if (record.facts === null && record.slices.length === 0) this.#records.delete(key);
    }
    this.#touched.clear();
    return hasChanged ? change : null;
  }

  /** All Services, by name, in parts that each fit a frame, put together as they are taken.
   * Precondition: nothing has changed since take(). */
  * parts(): Generator<Service[]> {
    let part: Service[] = [];
    let weight = 0;
    for (const key of [...this.#records.keys()].sort(compareText)) {
      const service = this.#put(key, this.#record(key));
      if (service === null) continue;
      const more = weightOf(service);
      if (part.length === PART_LIMIT || weight + more > PART_WEIGHT) {
        yield part;
        part = [];
        weight = 0;
      }
      part.push(service);
      weight += more;
    }
    // That there are none is a state, too.
    yield part;
  }

  #record(key: string): ServiceRecord {
    const known = this.#records.get(key);
    if (known !== undefined) return known;
    const record: ServiceRecord = { facts: null, slices: [], told: '' };
    this.#records.set(key, record);
    return record;
  }

  /** The Service as the host is to see it; null where there is none for it. */
  #put(key: string, { facts, slices }: ServiceRecord): Service | null {
    this.#problems.delete(key);
    if (facts === null || facts.addresses.length === 0) return null;
    const { namespace, name, addresses, ports, affinitySeconds } = facts;
    if (ports.length > SERVICE_PORT_LIMIT) {
      this.#problems.set(key, `Service ${key}: ${ports.length} ports, the limit is `
        + `${SERVICE_PORT_LIMIT}: not served`);
      return null;
    }
    const inOrder = [...slices].sort((a, b) => compareText(a.key, b.key)).map((one) => one.facts);
    const limit = Math.floor(SERVICE_BACKEND_LIMIT / Math.max(ports.length, 1));
    const served = ports.map((port) => {
      const backends = this.#backends(facts, port, inOrder);
      if (backends.length > limit) {
        this.#problems.set(key, `Service ${key}: ${backends.length} backends of a port, the limit `
          + `is ${limit}: the others get nothing`);
      }
      return { ...port, backends: backends.slice(0, limit) };
    });
    return {
      namespace, name, addresses: [...addresses], ports: served, affinitySeconds, empty: 'reject',
      ...outsideRules(facts),
    };
  }

  #backends(
    facts: ServiceFacts, port: ServedPort, slices: readonly SliceFacts[],
  ): Backend[] {
    const place = { node: this.#node, zone: this.#zone };
    const families = new Set(facts.addresses.map(addressFamily));
    const isForAll = port.nodePort !== undefined && !facts.isExternalLocal;
    return [...families].flatMap((family) => {
      const ofFamily = slices.filter((slice) => slice.family === family);
      return chooseBackends(candidates(ofFamily, port), facts, place, isForAll);
    });
  }
}

/** What only node ports ask for; nothing where there are none. */
function outsideRules(
  { ports, isLocal, isExternalLocal, proxyProtocol }: ServiceFacts,
): Pick<Service, 'externalLocal' | 'internalLocal' | 'proxyProtocol'> {
  if (ports.every(({ nodePort }) => nodePort === undefined)) return {};
  return {
    ...isExternalLocal ? { externalLocal: true } : {},
    ...isLocal ? { internalLocal: true } : {},
    ...proxyProtocol === 'none' ? {} : { proxyProtocol },
  };
}

function without(slices: readonly Slice[], key: string): Slice[] {
  return slices.filter((slice) => slice.key !== key);
}

/** Endpoints of a port, each once: while it moves from one slice to another it stands in both. */
function candidates(slices: readonly SliceFacts[], wanted: FrontPort): Candidate[] {
  const found = new Map<string, Candidate>();
  for (const { ports, endpoints } of slices) {
    for (const { name, protocol, port } of ports) {
      if (name !== wanted.name || protocol !== wanted.protocol) continue;
      for (const { address, facts } of endpoints) {
        const key = `${address} ${port}`;
        const known = found.get(key);
        if (known !== undefined && rank(known.facts) <= rank(facts)) continue;
        found.set(key, { address, port, facts });
      }
    }
  }
  return [...found].sort(([a], [b]) => compareText(a, b)).map(([, candidate]) => candidate);
}

/** The best word about an endpoint counts. */
function rank({ condition }: EndpointFacts): number {
  return CONDITIONS.indexOf(condition);
}

/** A measure of size: about so many backends take as much room. */
export function weightOf({ ports, name, namespace }: Service): number {
  const names = [name, namespace, ...ports.map((port) => port.name)];
  const letters = names.reduce((sum, text) => sum + text.length, 0);
  return ports.reduce((sum, { backends }) => sum + backends.length + 2, 4)
    + Math.ceil(letters / 16);
}

function digest(service: Service): string {
  return createHash('sha256').update(JSON.stringify(service)).digest('base64');
}

/** The two names in a key. */
function nameOf(key: string): { namespace: string; name: string } {
  const [namespace = '', name = ''] = key.split('/');
  return { namespace, name };
}
