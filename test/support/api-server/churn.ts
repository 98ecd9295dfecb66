// A random cluster that lives on a test API server: what the history generator does happens there,
// and nodes get pod networks and flannel's annotations, which change too.

import { HistoryGenerator } from '../history-generator.ts';
import type { KubeObject as Generated } from '../cluster-generator.ts';
import type { Random } from '../random.ts';
import { keyOf, type KubeObject } from './resources.ts';
import type { TestApiServer } from './server.ts';

/** The node that tests follow the cluster for. */
export const LOCAL = 'n0';

const RESOURCE: Record<string, string> = {
  Node: 'nodes', Pod: 'pods', Namespace: 'namespaces', NetworkPolicy: 'networkpolicies',
  ClusterNetworkPolicy: 'clusternetworkpolicies',
};
const API_VERSION: Record<string, string> = {
  NetworkPolicy: 'networking.k8s.io/v1',
  ClusterNetworkPolicy: 'policy.networking.k8s.io/v1alpha2',
};
const PREFIX = 'flannel.alpha.coreos.com';

export class Churn {
  readonly #server: TestApiServer;
  readonly #random: Random;
  #history: HistoryGenerator;

  constructor(server: TestApiServer, random: Random) {
    this.#server = server;
    this.#random = random;
    this.#history = new HistoryGenerator(random);
    for (const object of this.#history.cluster.list()) this.#put(object);
  }

  /** A few changes. */
  step(): void {
    for (const { type, object } of this.#history.step()) {
      if (type === 'DELETED') this.#remove(object);
      else this.#put(object);
    }
    if (this.#random.oneIn(3)) {
      const nodes = this.#history.cluster.list().filter(({ kind }) => kind === 'Node');
      this.#put(this.#random.pick(nodes));
    }
  }

  /** Makes the server's objects those of the generator, after the server has lost or regained
   * some. */
  repair(): void {
    for (const [kind, resource] of Object.entries(RESOURCE)) {
      if (!this.#server.store.types().some(({ plural }) => plural === resource)) continue;
      const wanted = this.#history.cluster.list().filter((object) => object.kind === kind);
      const keys = new Set(wanted.map((object) => keyOf(served(object, this.#random))));
      for (const object of this.#server.list(resource)) {
        if (!keys.has(keyOf(object))) this.#server.delete(resource, keyOf(object));
      }
      for (const object of wanted) this.#put(object);
    }
  }

  /** All objects of the server that a sidecar follows, as it would list them. */
  objects(): object[] {
    const known = new Set(this.#server.store.types().map(({ plural }) => plural));
    return Object.entries(RESOURCE).filter(([, resource]) => known.has(resource))
      .flatMap(([kind, resource]) => this.#server.list(resource)
        .map((object) => ({ ...object, kind, apiVersion: API_VERSION[kind] ?? 'v1' })));
  }

  #put(object: Generated): void {
    const resource = RESOURCE[object.kind] ?? '';
    if (!this.#server.store.types().some(({ plural }) => plural === resource)) return;
    const next = served(object, this.#random);
    const old = this.#server.get(resource, keyOf(next));
    // An object that changes stays the one it is. Pods have uids of the generator's.
    const { uid, creationTimestamp } = old?.metadata ?? {};
    const metadata = {
      ...(uid === undefined ? {} : { uid }),
      ...(creationTimestamp === undefined ? {} : { creationTimestamp }), ...next.metadata,
    };
    this.#server.replace(resource, { ...next, metadata });
  }

  #remove(object: Generated): void {
    const resource = RESOURCE[object.kind] ?? '';
    if (!this.#server.store.types().some(({ plural }) => plural === resource)) return;
    const key = keyOf(served(object, this.#random));
    if (this.#server.get(resource, key) !== null) this.#server.delete(resource, key);
  }
}

/** An object as a server has it: in a namespace where it has to be, nodes with pod networks that
 * change, two of them claimed twice now and then, and with addresses of tunnels. */
function served(object: Generated, random: Random): KubeObject {
  const isNamespaced = object.kind === 'Pod' || object.kind === 'NetworkPolicy';
  const { kind: _kind, apiVersion: _apiVersion, ...rest } = structuredClone(object);
  const result = rest as unknown as KubeObject;
  if (isNamespaced) result.metadata.namespace ??= 'default';
  if (object.kind !== 'Node') return result;
  const count = random.between(0, 2);
  const podCIDRs = Array.from({ length: count }, () => `10.244.${random.below(8)}.0/24`);
  const mac = random.below(256).toString(16).padStart(2, '0');
  return {
    ...result,
    metadata: {
      ...result.metadata,
      creationTimestamp: `202${random.below(4)}-01-01T00:00:00Z`,
      annotations: {
        ...result.metadata.annotations,
        [`${PREFIX}/kube-subnet-manager`]: 'true', [`${PREFIX}/backend-type`]: 'vxlan',
        [`${PREFIX}/backend-data`]: `{"VNI":1,"VtepMAC":"02:00:00:00:00:${mac}"}`,
        [`${PREFIX}/public-ip`]: `192.0.2.${1 + random.below(250)}`,
      },
    },
    spec: { ...(result['spec'] as object | undefined), podCIDRs },
  };
}
