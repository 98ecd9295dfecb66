// Random histories of a cluster: each step changes one object, or a few, in ways that happen: pods
// come, go, finish, get other labels, addresses change their owner, policies are edited.

import type { RawNamespace, RawNetworkPolicy } from '../../reference/policy-objects.ts';
import { ClusterGenerator, KINDS, objectKey } from '../../support/cluster-generator.ts';
import type { KubeObject, PodObject } from '../../support/cluster-generator.ts';
import { Random } from '../../support/random.ts';

const ISOLATION = 'net.beta.kubernetes.io/network-policy';
const DEFAULT_DENY = '{"ingress":{"isolation":"DefaultDeny"}}';

type Step = () => KubeObject | string | null;

/** A pod with its namespace, so that it has one key only. */
function withNamespace(change: KubeObject | string | null): KubeObject | string | null {
  if (change === null || typeof change === 'string' || change.kind !== 'Pod') return change;
  const namespace = change.metadata.namespace ?? 'default';
  return { ...change, metadata: { ...change.metadata, namespace } };
}

/** A cluster that changes. Each step returns the object that is new, or the key of one that is
 * gone. */
export class History {
  readonly cluster: ClusterGenerator;
  readonly random: Random;

  constructor(seed: number) {
    this.random = new Random(seed);
    this.cluster = new ClusterGenerator(this.random);
    for (const pod of this.cluster.pods()) {
      this.cluster.objects.delete(objectKey(pod));
      const named = withNamespace(pod);
      if (named !== null && typeof named !== 'string') this.cluster.add(named);
    }
  }

  step(): KubeObject | string {
    for (;;) {
      const change = withNamespace(this.random.pick<Step>([
        () => this.cluster.makePod(),
        () => this.#anyOf('Pod', (pod) => this.#relabel(pod)),
        () => this.#anyOf('Pod', (pod) => this.#move(pod as PodObject)),
        () => this.#anyOf('Pod', (pod) => this.#replacePod(pod as PodObject)),
        () => this.#remove('Pod'),
        () => this.#anyOf('Namespace', (namespace) => this.#relabelNamespace(namespace)),
        () => this.#anyOf('Node', (node) => this.#relabel(node)),
        () => this.cluster.makeNetworkPolicy(),
        () => this.#editNetworkPolicy(),
        () => this.#remove('NetworkPolicy'),
        () => this.cluster.makeClusterPolicy(),
        () => this.#anyOf('ClusterNetworkPolicy', ({ metadata: { name } }) =>
          this.cluster.makeClusterPolicy(name)),
        () => this.#remove('ClusterNetworkPolicy'),
        () => (this.random.oneIn(4) ? this.#remove('Namespace') : null),
      ])());
      if (change === null) continue;
      if (typeof change === 'string') this.cluster.objects.delete(change);
      else this.cluster.add(change);
      return change;
    }
  }

  #anyOf(kind: keyof typeof KINDS, make: (object: KubeObject) => KubeObject): KubeObject | null {
    const there = this.cluster.list().filter((object) => object.kind === kind);
    return there.length === 0 ? null : make(this.random.pick(there));
  }

  #remove(kind: keyof typeof KINDS): string | null {
    const there = this.cluster.list().filter((object) => object.kind === kind);
    return there.length === 0 ? null : objectKey(this.random.pick(there));
  }

  #relabel(object: KubeObject): KubeObject {
    const { labels: _, ...metadata } = object.metadata;
    const labels = this.cluster.labels();
    return { ...object, metadata: { ...metadata, ...labels && { labels } } };
  }

  #relabelNamespace(namespace: KubeObject & RawNamespace): KubeObject {
    const annotations = this.random.oneIn(3) ? { [ISOLATION]: DEFAULT_DENY } : null;
    const { metadata } = this.#relabel(namespace);
    return { ...namespace, metadata: { ...metadata, annotations } };
  }

  /** The same pod with another phase or other addresses. */
  #move(pod: PodObject): KubeObject {
    const node = this.random.pick(this.cluster.nodes());
    const { hostNetwork: _, ...spec } = pod.spec ?? {};
    return this.cluster.settle(
      { ...pod, spec: { ...spec, nodeName: node.metadata.name } }, node);
  }

  /** Another pod of the same name. */
  #replacePod({ metadata: { name, namespace } }: PodObject): KubeObject {
    return this.cluster.makePod(name, namespace ?? 'default');
  }

  #editNetworkPolicy(): KubeObject | null {
    return this.#anyOf('NetworkPolicy', (object) => {
      const { metadata: { name, namespace } } = object;
      const fresh = this.cluster.makeNetworkPolicy(name, namespace ?? 'default');
      const { spec } = object as KubeObject & RawNetworkPolicy;
      return this.random.oneIn(2) ? fresh : { ...fresh, spec: { ...spec, ...fresh.spec } };
    });
  }
}
