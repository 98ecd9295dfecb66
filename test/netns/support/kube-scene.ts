// Nodes with daemon and sidecar as shipped, and Kubernetes objects in files: what a test writes is
// what an API server would give.

import type { Bed, Daemon, Host } from '../../../cli/demo/bed.ts';
import { addressFamily } from '../../../engine/address.ts';
import { findTool } from '../../support/tools.ts';
import { clusterNode, nodeAddress, podAddress } from './forge-cluster.ts';
import { Place, openBed, type Pod } from './forge-scene.ts';
import { SERVICE_NETWORKS, serviceAddress } from './service-scene.ts';

export const FAMILIES = ['IPv4', 'IPv6'] as const;
type Families = readonly (typeof FAMILIES)[number][];

/** A port of a Service, and the name or number that its slices give it. */
export interface PortObject {
  name: string;
  protocol: 'TCP' | 'UDP';
  port: number;
  nodePort?: number;
}

/** Of a Kubernetes endpoint; ready where nothing is said. */
export interface Conditions {
  ready?: boolean;
  serving?: boolean;
  terminating?: boolean;
}

/** A pod, or, without `pod`, a node at its own address. */
export interface EndpointObject {
  node: number;
  pod?: number;
  conditions?: Conditions;
}

/** Terminating as Kubernetes has it: it still serves, and gets nothing new. */
export const DRAINING: Conditions = { ready: false, serving: true, terminating: true };

/** Service number `n`, with an address of each family. */
export function serviceObject(
  name: string, n: number, ports: PortObject[], spec: object = {}, families: Families = FAMILIES,
  annotations: Record<string, string> = {},
): object {
  const clusterIPs = families.map((family) => serviceAddress(n, family));
  return {
    apiVersion: 'v1', kind: 'Service', metadata: { name, namespace: 'test', annotations },
    spec: { clusterIP: clusterIPs[0], clusterIPs, ports, ...spec },
  };
}

/** A slice of a Service for each family; `suffix` tells several of them apart. */
export function sliceObjects(
  name: string, ports: PortObject[], endpoints: EndpointObject[], suffix = '',
): object[] {
  return FAMILIES.map((family) => ({
    apiVersion: 'discovery.k8s.io/v1', kind: 'EndpointSlice', addressType: family, ports,
    metadata: {
      name: `${name}-${family.toLowerCase()}${suffix}`, namespace: 'test',
      labels: { 'kubernetes.io/service-name': name },
    },
    endpoints: endpoints.map(({ node, pod, conditions = { ready: true } }) => ({
      addresses: [pod === undefined ? nodeAddress(node, family) : podAddress(node, pod, family)],
      nodeName: `node-${node}`, conditions,
    })),
  }));
}

/** A policy that admits pods to a pod, all by name, and nobody else. */
export function admitting(to: string, from: string[]): object {
  const podSelector = (name: string): object => ({ matchLabels: { name } });
  return {
    apiVersion: 'networking.k8s.io/v1', kind: 'NetworkPolicy',
    metadata: { name: `to-${to}`, namespace: 'test' },
    spec: {
      podSelector: podSelector(to), policyTypes: ['Ingress'],
      ingress: [{ from: from.map((name) => ({ podSelector: podSelector(name) })) }],
    },
  };
}

/** The first `culverts` of the nodes run Culvert, with `extra` flags; the others are the test's to
 * set up. */
export class KubeScene {
  readonly bed: Bed;
  readonly places: Place[];
  readonly #nodes: number[];
  readonly #pods = new Map<string, Pod>();
  #said = 0;

  private constructor(bed: Bed, places: Place[], nodes: number[]) {
    this.bed = bed;
    this.places = places;
    this.#nodes = nodes;
  }

  static async create(
    nodes: number[], culverts = nodes.length, extra: string[] = [],
  ): Promise<KubeScene> {
    const bed = await openBed();
    try {
      const flags = ['--service-networks', SERVICE_NETWORKS.join(','), ...extra];
      const places: Place[] = [];
      for (const n of nodes.slice(0, culverts)) places.push(await Place.add(bed, n, nodes, flags));
      await Promise.all(places.map(({ culvert }) => culvert.start()));
      return new KubeScene(bed, places, nodes);
    } catch (error) {
      await bed.close();
      throw error;
    }
  }

  /** Attaches pods by node and number. */
  async addPods(pods: [number, number][]): Promise<void> {
    for (const [n, number] of pods) {
      const pod = await this.place(n).addPod(number);
      this.#pods.set(pod.name, pod);
    }
  }

  place(n: number): Place {
    const place = this.places.find((one) => one.n === n);
    if (place === undefined) throw new Error(`no node ${n}`);
    return place;
  }

  /** A pod by its name. */
  host(name: string): Host {
    const pod = this.#pods.get(name);
    if (pod === undefined) throw new Error(`no pod ${name}`);
    return pod.host;
  }

  /** Puts objects in the place of all others and waits until they are in force on every node. A
   * Service that changes each time tells when. */
  async say(...objects: object[]): Promise<void> {
    this.#said += 1;
    const mark = serviceObject('mark', 250, [{ name: '', protocol: 'TCP', port: this.#said }]);
    await Promise.all(this.places.map(async (place) => {
      const { sync: { revision } } = await place.culvert.status();
      place.write(this.#nodes.map(clusterNode), [mark, ...objects]);
      await place.culvert.waitFor(({ sync }) => sync.revision !== revision);
    }));
  }

  /** Starts somebody else's program in a pod. Where there is setpriv(1), it ends with this process
   * however that does: nothing but the kernel tells it. */
  start(host: Host, command: string[], readyText: string): Promise<Daemon> {
    const setpriv = findTool('setpriv');
    const guard = setpriv === null ? [] : [setpriv, '--pdeathsig', 'TERM'];
    return this.bed.start(host, [...guard, ...command], readyText);
  }
}

/** A URL's or a proxy's spelling of an address and port. */
export function socketText(address: string, port: number): string {
  return addressFamily(address) === 'IPv6' ? `[${address}]:${port}` : `${address}:${port}`;
}
