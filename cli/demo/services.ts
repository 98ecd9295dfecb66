// The Services of the demo: every pod and node of a Culvert node asks at each of their addresses,
// until each backend that policy admits it to has answered. A backend tells whom it saw: that must
// be the client itself.

import { addressFamily, type Family } from '../../engine/address.ts';
import type { Service } from '../../engine/model.ts';
import type { Entry } from '../../sync/objects.ts';
import { AGENT_PORT } from './agent.ts';
import { servicesFor } from '../policy/services.ts';
import type { Host } from './bed.ts';
import { expectedOf } from './expect.ts';
import type { Patience } from './patience.ts';

/** Connections at a time, and how many times so many are tried before a backend is given up. */
const AT_A_TIME = 4;
const ROUNDS = 12;

/** A pod or a node: `namespace/pod` or `node/name`. */
export interface Client {
  name: string;
  /** The node that it runs on, or is. */
  node: string;
  host: Host;
  addresses: string[];
}

/** One client at one address of a Service. Backends are pods and nodes by name. */
export interface ServiceTrial {
  from: string;
  service: string;
  family: Family;
  address: string;
  port: number;
  /** Those that policy lets the client to, and those that answered. */
  admitted: string[];
  answered: string[];
  /** Every backend that answered saw the client's own address. */
  seesClient: boolean;
  ok: boolean;
}

interface Plan {
  client: Client;
  service: Service;
  address: string;
  port: number;
  /** The others. */
  backends: { name: string; isAdmitted: boolean }[];
  /** It is a backend itself: what it may do to itself, policy does not say. */
  isBackend: boolean;
}

/** Tries every Service from every client. `everyone` are the ends that backends may be. */
export async function tryServices(
  entries: readonly Entry[], clients: readonly Client[],
  everyone: readonly Pick<Client, 'name' | 'addresses'>[], patience: Patience, stop: AbortSignal,
): Promise<ServiceTrial[]> {
  const names = new Map(everyone.flatMap(({ name, addresses }) =>
    addresses.map((address) => [address, name] as const)));
  const plans = clients.flatMap((client) => planFor(client, entries, names));
  return Promise.all(plans.map((plan) => tryOne(plan, names, patience, stop)));
}

function planFor(
  client: Client, entries: readonly Entry[], names: ReadonlyMap<string, string>,
): Plan[] {
  return servicesFor(client.node, entries).flatMap((service) =>
    service.addresses.flatMap((address) =>
      service.ports.flatMap(({ protocol, port, backends }): Plan[] => {
        const family = addressFamily(address);
        const ready = backends.filter((backend) =>
          backend.state === 'ready' && addressFamily(backend.address) === family);
        const isServed = protocol === 'TCP' && ready.length > 0 && ready.every((backend) =>
          backend.port === AGENT_PORT && names.has(backend.address));
        if (!isServed) return [];
        const all = ready.map((backend) => names.get(backend.address) ?? '');
        const known = all.filter((name) => name !== client.name);
        const answers = expectedOf(entries, known.map((to) =>
          ({ from: client.name, to, protocol, family })), AGENT_PORT);
        const judged = known.map((name, at) => ({ name, isAdmitted: answers[at] === 'reach' }));
        const isBackend = known.length < all.length;
        return [{ client, service, address, port, backends: judged, isBackend }];
      })));
}

async function tryOne(
  { client, service, address, port, backends, isBackend }: Plan, names: ReadonlyMap<string, string>,
  { openMs, blockedMs }: Patience, stop: AbortSignal,
): Promise<ServiceTrial> {
  const admitted = backends.filter(({ isAdmitted }) => isAdmitted).map(({ name }) => name);
  const isOpen = admitted.length === backends.length && !isBackend;
  const timeoutMs = isOpen ? openMs : blockedMs;
  const answered = new Set<string>();
  let seesClient = true;
  let failures = 0;
  for (let round = 0; round < ROUNDS && !stop.aborted; round += 1) {
    const answers = await Promise.all(Array.from({ length: AT_A_TIME }, () =>
      client.host.agent.ask({ verb: 'who', address, port, timeoutMs })));
    for (const { ok, from } of answers) {
      const [seen = '', by = ''] = from.split(' ');
      const backend = names.get(by) ?? '';
      if (!ok) failures += 1;
      else answered.add(backend);
      // A node has an address for the overlay, too; a backend that is its own client sees the
      // Service, since nobody takes packets from himself.
      const isOwn = client.addresses.includes(seen) || client.name.startsWith('node/')
        || (backend === client.name && seen === address);
      seesClient &&= !ok || isOwn;
    }
    if (admitted.every((name) => answered.has(name))) break;
  }
  const others = [...answered].filter((name) => name !== client.name);
  const isAsAdmitted = others.length === admitted.length
    && admitted.every((name) => answered.has(name)) && (!isOpen || failures === 0);
  return {
    from: client.name, service: `${service.namespace}/${service.name}`,
    family: addressFamily(address), address, port, admitted, answered: [...answered].sort(),
    seesClient, ok: isAsAdmitted && seesClient,
  };
}
