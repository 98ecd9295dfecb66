// Random histories of a random cluster: steps of a few events, as watches bring them. Beside the
// plain ones: pods that finish, get their address late or give it to another, pods replaced under
// their name, relabelled namespaces, nodes with new addresses.

import {
  ClusterGenerator, isLive, objectKey, podStatus, type KubeObject, type PodObject,
} from './cluster-generator.ts';
import type { Random } from './random.ts';

export interface KubeEvent {
  type: 'ADDED' | 'MODIFIED' | 'DELETED';
  object: KubeObject;
}

/** How a step reaches the one who watches: as it happened, each event twice, in another order
 * between objects, or with one event missing and everything listed anew afterwards. */
export type Delivery = 'plain' | 'duplicated' | 'reordered' | 'lost';

export class HistoryGenerator {
  readonly cluster: ClusterGenerator;
  #random: Random;
  #events: KubeEvent[] = [];

  constructor(random: Random) {
    this.#random = random;
    this.cluster = new ClusterGenerator(random);
  }

  /** Changes the cluster and returns what happened, in order. */
  step(): KubeEvent[] {
    this.#events = [];
    for (let count = this.#random.between(1, 4); count > 0; count -= 1) this.#change();
    return this.#events;
  }

  /** What of the events arrives, and in which order. Events of one object keep theirs. */
  deliver(events: KubeEvent[], delivery: Delivery): KubeEvent[] {
    if (delivery === 'duplicated') return events.flatMap((event) => [event, event]);
    if (delivery === 'lost') {
      const lost = this.#random.below(Math.max(events.length, 1));
      return events.filter((_, index) => index !== lost);
    }
    if (delivery === 'plain') return events;
    const queues = new Map<string, KubeEvent[]>();
    for (const event of events) {
      const key = objectKey(event.object);
      queues.set(key, [...queues.get(key) ?? [], event]);
    }
    const order: KubeEvent[] = [];
    while (queues.size > 0) {
      const [key, queue] = this.#random.pick([...queues]);
      const event = queue.shift();
      if (event !== undefined) order.push(event);
      if (queue.length === 0) queues.delete(key);
    }
    return order;
  }

  #change(): void {
    const { cluster } = this;
    this.#random.pick<() => void>([
      () => this.#changePod(), () => this.#changePod(), () => this.#changePod(),
      () => this.#set(cluster.makePod()),
      () => this.#removeOne('Pod'),
      () => this.#handOver(),
      () => this.#set(cluster.makeNetworkPolicy()),
      () => this.#set(cluster.makeClusterPolicy()),
      () => this.#changePolicy('NetworkPolicy'),
      () => this.#changePolicy('ClusterNetworkPolicy'),
      () => this.#removeOne('NetworkPolicy'),
      () => this.#removeOne('ClusterNetworkPolicy'),
      () => this.#relabelNamespace(),
      () => this.#changeNode(),
    ])();
  }

  #set(object: KubeObject): void {
    const isKnown = this.cluster.objects.has(objectKey(object));
    this.cluster.add(object);
    this.#events.push({ type: isKnown ? 'MODIFIED' : 'ADDED', object });
  }

  #remove(object: KubeObject): void {
    this.cluster.objects.delete(objectKey(object));
    this.#events.push({ type: 'DELETED', object });
  }

  #ofKind(kind: string): KubeObject[] {
    return this.cluster.list().filter((object) => object.kind === kind);
  }

  #removeOne(kind: string): void {
    const candidates = this.#ofKind(kind);
    if (candidates.length > 1) this.#remove(this.#random.pick(candidates));
  }

  #changePod(): void {
    const pods = this.cluster.pods();
    if (pods.length === 0) return;
    const pod = this.#random.pick(pods);
    const labels = this.cluster.labels();
    const { labels: _, ...metadata } = pod.metadata;
    const node = this.cluster.nodes().find((other) => other.metadata.name === pod.spec?.nodeName);
    this.#random.pick<() => void>([
      () => this.#set({ ...pod, metadata: { ...metadata, ...labels && { labels } } } as PodObject),
      () => this.#finish(pod),
      () => {
        if (pod.status?.podIP || node === undefined) return;
        const ips = this.cluster.freeAddresses(Number(node.metadata.name.slice(1)), pod);
        this.#set({ ...pod, status: podStatus('Running', ips) } as PodObject);
      },
      () => {
        // Replaced under its name, as a StatefulSet does.
        this.#remove(pod);
        this.#set(this.cluster.makePod(pod.metadata.name, pod.metadata.namespace ?? 'default'));
      },
    ])();
  }

  #finish(pod: PodObject): void {
    const ips = (pod.status?.podIPs ?? []).map(({ ip }) => ip);
    const phase = this.#random.pick(['Succeeded', 'Failed']);
    this.#set({ ...pod, status: podStatus(phase, ips) } as PodObject);
  }

  /** A pod goes, or finishes, and another gets its addresses at once. */
  #handOver(): void {
    const live = this.cluster.pods().filter(isLive);
    if (live.length === 0) return;
    const pod = this.#random.pick(live);
    const ips = (pod.status?.podIPs ?? []).map(({ ip }) => ip);
    if (this.#random.oneIn(2)) this.#remove(pod);
    else this.#finish(pod);
    const heir = this.cluster.makePod();
    this.#set({
      ...heir,
      spec: { ...heir.spec, hostNetwork: false, nodeName: pod.spec?.nodeName },
      status: podStatus('Running', ips),
    } as PodObject);
  }

  #changePolicy(kind: 'NetworkPolicy' | 'ClusterNetworkPolicy'): void {
    const candidates = this.#ofKind(kind);
    if (candidates.length === 0) return;
    const { name, namespace } = this.#random.pick(candidates).metadata;
    this.#set(kind === 'NetworkPolicy'
      ? this.cluster.makeNetworkPolicy(name, namespace ?? 'default')
      : this.cluster.makeClusterPolicy(name));
  }

  #relabelNamespace(): void {
    const namespaces = this.#ofKind('Namespace');
    if (namespaces.length === 0) return;
    const { name } = this.#random.pick(namespaces).metadata;
    this.#set(this.cluster.makeNamespace(name));
  }

  #changeNode(): void {
    const node = this.#random.pick(this.cluster.nodes());
    this.#set(this.cluster.makeNode(Number(node.metadata.name.slice(1))));
  }
}
