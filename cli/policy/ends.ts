// Who has which address: the ends of flows, from names to the addresses that their packets carry.

import { addressBytes, addressFamily, addressText, type Family } from '../../engine/address.ts';
import type { End, Flow } from './flows.ts';

/** A pod as flows know it. */
export interface ClusterPod {
  key: string;
  namespace: string;
  name: string;
  uid: string;
  nodeName: string;
  addresses: string[];
  isHostNetwork: boolean;
  isFinished: boolean;
  isRunning: boolean;
  created: string;
}

/** A node with all its addresses, those of its host-network pods included. */
export interface NodeAddresses {
  name: string;
  addresses: string[];
}

/** One end of a packet. `pod` is set where policy applies to it; `node` names whose address it is,
 * or where the pod runs; null is outside the cluster. */
export interface Place {
  address: string;
  bytes: Uint8Array;
  pod: ClusterPod | null;
  node: string | null;
}

/** A flow with the addresses of its first packet. */
export interface PlacedFlow {
  flow: Flow;
  source: Place;
  destination: Place;
}

/** A node, the pods on it, and what other addresses packets of flows carry. */
export interface BedPlan {
  addresses: string[];
  pods: ClusterPod[];
  others: NodeAddresses[];
}

/** A flow that has no first packet: which of its fields is at fault, and why. */
export class FlowFault extends Error {
  readonly field: string;

  constructor(field: string, reason: string) {
    super(reason);
    this.field = field;
  }
}

/** The cluster's addresses and whose they are. */
export class AddressBook {
  readonly pods = new Map<string, ClusterPod>();
  readonly nodes = new Map<string, NodeAddresses>();
  #places = new Map<string, Place>();

  constructor(pods: readonly ClusterPod[], nodes: readonly NodeAddresses[]) {
    for (const node of nodes) this.nodes.set(node.name, { ...node });
    for (const pod of pods) {
      this.pods.set(pod.key, pod);
      if (pod.isHostNetwork && !pod.isFinished) this.#addNodeAddresses(pod);
    }
    for (const { name, addresses } of this.nodes.values()) {
      for (const address of addresses) this.#enter(address, null, name);
    }
    // The last one to claim an address has it.
    for (const pod of pods.filter(isAttached).sort((a, b) => compareClaims(b, a))) {
      for (const address of pod.addresses) this.#enter(address, pod, pod.nodeName);
    }
  }

  /** Pods that have a device of their own. */
  attached(): ClusterPod[] {
    return [...this.pods.values()].filter(isAttached);
  }

  /** The pods of a node that have a device of their own, with the addresses that are theirs. */
  podsOf(nodeName: string): ClusterPod[] {
    return this.attached().filter((pod) => pod.nodeName === nodeName)
      .map((pod) => this.#withOwnAddresses(pod)).sort((a, b) => compareText(a.key, b.key));
  }

  /** Gives the flow's ends their addresses. Throws FlowFault. */
  place(flow: Flow): PlacedFlow {
    const sources = this.#addresses(flow.src, 'src');
    const destinations = this.#addresses(flow.dst, 'dst');
    const wanted = flow.family ?? null;
    const families = (['IPv4', 'IPv6'] as const).filter((family) =>
      (wanted === null || family === wanted)
      && firstOf(sources, family) !== undefined && firstOf(destinations, family) !== undefined);
    const [family, other] = families;
    if (family === undefined) throw noFamily(wanted, sources, destinations);
    if (other !== undefined) {
      throw new FlowFault('family', 'missing: both ends have IPv4 and IPv6');
    }
    return {
      flow,
      source: this.#placeOf(firstOf(sources, family) ?? ''),
      destination: this.#placeOf(firstOf(destinations, family) ?? ''),
    };
  }

  /** What the node's core must know for these flows. */
  planFor(nodeName: string, flows: readonly PlacedFlow[]): BedPlan {
    const pods = new Map<string, ClusterPod>();
    const addresses = new Set(this.nodes.get(nodeName)?.addresses);
    const others = new Map<string, Set<string>>();
    for (const { address, pod, node } of flows.flatMap((flow) =>
      [flow.source, flow.destination])) {
      if (node === nodeName) {
        if (pod !== null) pods.set(pod.key, this.#withOwnAddresses(pod));
        else addresses.add(address);
      } else if (node !== null) {
        const known = others.get(node) ?? new Set();
        others.set(node, known.add(address));
      }
    }
    return {
      addresses: [...addresses], pods: [...pods.values()],
      others: [...others].map(([name, own]) => ({ name, addresses: [...own] })),
    };
  }

  /** The pod without addresses that another one has now. */
  #withOwnAddresses(pod: ClusterPod): ClusterPod {
    const addresses = pod.addresses.filter((address) => this.#places.get(address)?.pod === pod);
    return { ...pod, addresses };
  }

  #enter(address: string, pod: ClusterPod | null, node: string): void {
    this.#places.set(address, { address, bytes: addressBytes(address), pod, node });
  }

  /** A pod on the host's network is the node. */
  #addNodeAddresses({ nodeName, addresses }: ClusterPod): void {
    const known = this.nodes.get(nodeName)?.addresses ?? [];
    this.nodes.set(nodeName, { name: nodeName, addresses: [...new Set([...known, ...addresses])] });
  }

  #addresses({ pod: podName, node: nodeName, ip }: End, field: string): string[] {
    if (ip !== undefined) return [addressText(addressBytes(ip))];
    if (nodeName !== undefined) {
      const node = this.nodes.get(nodeName);
      if (node === undefined) throw new FlowFault(`${field}.node`, `there is no node ${nodeName}`);
      if (node.addresses.length === 0) {
        throw new FlowFault(`${field}.node`, `node ${nodeName} has no address`);
      }
      return node.addresses;
    }
    const key = podName?.includes('/') ? podName : `default/${podName ?? ''}`;
    const pod = this.pods.get(key);
    if (pod === undefined) throw new FlowFault(`${field}.pod`, `there is no pod ${key}`);
    if (pod.isFinished) {
      throw new FlowFault(`${field}.pod`, `pod ${key} has finished and given up its address`);
    }
    if (pod.addresses.length === 0) {
      throw new FlowFault(`${field}.pod`, `pod ${key} has no address`);
    }
    if (pod.isHostNetwork) return pod.addresses;
    const own = pod.addresses.filter((address) => this.#places.get(address)?.pod === pod);
    if (own.length > 0) return own;
    const [address = ''] = pod.addresses;
    const heir = this.#places.get(address)?.pod?.key ?? 'another';
    throw new FlowFault(`${field}.pod`, `pod ${key}: its address ${address} is pod ${heir}'s now`);
  }

  #placeOf(address: string): Place {
    const known = this.#places.get(address);
    if (known !== undefined) return known;
    const place = { address, bytes: addressBytes(address), pod: null, node: null };
    this.#places.set(address, place);
    return place;
  }
}

function isAttached({ isHostNetwork, isFinished, addresses }: ClusterPod): boolean {
  return !isHostNetwork && !isFinished && addresses.length > 0;
}

/** Of several pods that claim an address: one that runs, then the newest. */
function compareClaims(a: ClusterPod, b: ClusterPod): number {
  return Number(b.isRunning) - Number(a.isRunning) || compareText(b.created, a.created)
    || compareText(b.uid, a.uid) || compareText(a.key, b.key);
}

function compareText(a: string, b: string): number {
  if (a === b) return 0;
  return a < b ? -1 : 1;
}

function firstOf(addresses: readonly string[], family: Family): string | undefined {
  return addresses.find((address) => addressFamily(address) === family);
}

function noFamily(
  wanted: Family | null, sources: readonly string[], destinations: readonly string[],
): FlowFault {
  if (wanted === null) return new FlowFault('dst', 'the ends have no address family in common');
  const field = firstOf(sources, wanted) === undefined ? 'src' : 'dst';
  const end = field === 'src' ? sources : destinations;
  return new FlowFault(field, `has no ${wanted} address, only ${end.join(', ')}`);
}
