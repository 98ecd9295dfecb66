// Random clusters that a seed repeats: small ones, so that everything meets everything, and full of
// corners: empty and missing lists, keys that are not there, finished and pending pods, addresses
// with a second life, both families, ports whose name means another number in each pod. An API
// server would take every object.

import type {
  ClusterPeer, ClusterProtocol, ClusterRule, ContainerPort, LabelSelector, Metadata, Peer,
  PolicyPort, RawClusterPolicy, RawNamespace, RawNetworkPolicy, RawNode, RawPod, Rule,
} from '../reference/policy-objects.ts';
import { blockHolds, parseAddress } from '../reference/policy-objects.ts';
import type { Random } from './random.ts';

export interface TypeMeta {
  apiVersion: string;
  kind: string;
}
export type PodObject = TypeMeta & RawPod;
export type NodeObject = TypeMeta & RawNode;
export type KubeObject = TypeMeta & { metadata: Metadata };

export const KINDS = {
  Pod: 'v1', Node: 'v1', Namespace: 'v1', NetworkPolicy: 'networking.k8s.io/v1',
  ClusterNetworkPolicy: 'policy.networking.k8s.io/v1alpha2',
} as const;

const LABEL_KEYS = ['app', 'tier', 'role', 'constructor'] as const;
const LABEL_VALUES = ['a', 'b', ''] as const;
const NAMESPACES = ['default', 'shop', 'ops', 'a'] as const;
export const PORTS = [1, 53, 79, 80, 81, 443, 1023, 1024, 8080, 65534, 65535] as const;
const PORT_NAMES = ['http', 'dns', 'metrics', 'web'] as const;
export const PROTOCOLS = ['TCP', 'UDP', 'SCTP'] as const;
export const OUTSIDE = [
  '8.8.8.8', '198.51.100.7', '198.51.100.8', '203.0.113.255', '1.0.0.1', '223.255.255.255',
  '10.244.9.9', '2001:db8:ffff::1', '2001:db8:ffff::2', '2606:4700::1111', 'fd00:10:244:9::9',
] as const;
const IPV4_LENGTHS = [0, 1, 8, 16, 23, 24, 25, 28, 30, 31, 32] as const;
const IPV6_LENGTHS = [0, 3, 32, 48, 63, 64, 65, 112, 126, 127, 128] as const;
const BIGGEST_POOL = 20;

/** How a cluster is made. Numbers are upper bounds. */
export interface ClusterShape {
  nodes: number;
  pods: number;
  networkPolicies: number;
  clusterPolicies: number;
}

const SMALL: ClusterShape = { nodes: 4, pods: 16, networkPolicies: 12, clusterPolicies: 8 };

/** The key of an object among all. */
export function objectKey({ kind, metadata }: KubeObject): string {
  return `${kind} ${metadata.namespace ?? 'default'}/${metadata.name}`;
}

export function isLive({ spec, status }: RawPod): boolean {
  return spec?.hostNetwork !== true && status?.phase !== 'Succeeded' && status?.phase !== 'Failed'
    && Boolean(status?.podIP);
}

export class ClusterGenerator {
  readonly random: Random;
  readonly objects = new Map<string, KubeObject>();
  readonly shape: ClusterShape;
  #serial = 0;

  constructor(random: Random, shape: ClusterShape = SMALL) {
    this.random = random;
    this.shape = shape;
    for (let index = 0; index < random.between(1, shape.nodes); index += 1) {
      this.add(this.makeNode(index));
    }
    for (const name of NAMESPACES.slice(0, random.between(1, NAMESPACES.length))) {
      this.add(this.makeNamespace(name));
    }
    this.#times(random.between(2, shape.pods), () => this.makePod());
    // One cluster in three has hardly any of the one kind, so that the other decides.
    const [few, none] = [random.oneIn(3), random.oneIn(3)];
    this.#times(random.between(0, few ? 2 : shape.networkPolicies), () =>
      this.makeNetworkPolicy());
    this.#times(none ? 0 : random.between(1, shape.clusterPolicies), () =>
      this.makeClusterPolicy());
  }

  list(): KubeObject[] {
    return [...this.objects.values()];
  }

  pods(): PodObject[] {
    return this.list().filter((object): object is PodObject => object.kind === 'Pod');
  }

  nodes(): NodeObject[] {
    return this.list().filter((object): object is NodeObject => object.kind === 'Node');
  }

  add(object: KubeObject): void {
    this.objects.set(objectKey(object), object);
  }

  #times(count: number, make: () => KubeObject): void {
    for (let index = 0; index < count; index += 1) this.add(make());
  }

  #name(start: string): string {
    this.#serial += 1;
    return `${start}-${this.#serial}`;
  }

  labels(): Record<string, string> | undefined {
    if (this.random.oneIn(8)) return this.random.oneIn(2) ? {} : undefined;
    const labels: Record<string, string> = {};
    for (const key of LABEL_KEYS) {
      if (this.random.oneIn(2)) labels[key] = this.random.pick(LABEL_VALUES);
    }
    return labels;
  }

  makeNode(index: number): NodeObject {
    const labels = this.labels();
    return {
      apiVersion: KINDS.Node, kind: 'Node',
      metadata: { name: `n${index}`, ...labels && { labels } },
      status: {
        addresses: [
          { type: 'InternalIP', address: `192.168.50.${index + 1}` },
          { type: 'InternalIP', address: `2001:db8:50::${index + 1}` },
          ...this.random.oneIn(3)
            ? [{ type: 'ExternalIP', address: `198.51.100.${100 + index}` }] : [],
          { type: 'Hostname', address: `n${index}` },
        ],
      },
    };
  }

  makeNamespace(name: string): TypeMeta & RawNamespace {
    const labels = this.labels();
    const own = this.random.oneIn(2) ? { 'kubernetes.io/metadata.name': name } : {};
    const isolation = this.random.pick(['{"ingress":{"isolation":"DefaultDeny"}}', '{}']);
    const annotations = { 'net.beta.kubernetes.io/network-policy': isolation };
    return {
      apiVersion: KINDS.Namespace, kind: 'Namespace',
      metadata: {
        name, labels: { ...labels, ...own }, ...this.random.oneIn(4) && { annotations },
      },
    };
  }

  /** A namespace's name; now and then of one that is not among the objects. */
  namespace(): string {
    const there = this.list().filter(({ kind }) => kind === 'Namespace');
    if (this.random.oneIn(12) || there.length === 0) return this.random.pick(NAMESPACES);
    return this.random.pick(there).metadata.name;
  }

  makePod(name = this.#name('p'), namespace = this.namespace()): PodObject {
    const { random } = this;
    const node = random.pick(this.nodes());
    const labels = this.labels();
    const metadata: Metadata = { name, uid: this.#name('uid'), ...labels && { labels } };
    if (namespace !== 'default' || random.oneIn(2)) metadata.namespace = namespace;
    const containers = Array.from({ length: random.between(1, 3) }, (_, index) =>
      ({ name: `c${index}`, ...random.oneIn(4) ? {} : { ports: this.containerPorts() } }));
    const pod: PodObject = {
      apiVersion: KINDS.Pod, kind: 'Pod', metadata,
      spec: {
        nodeName: node.metadata.name, containers,
        ...random.oneIn(6) && { initContainers: [{
          ports: this.containerPorts(), ...random.oneIn(2) && { restartPolicy: 'Always' },
        }] },
      },
    };
    return this.settle(pod, node);
  }

  /** Gives a pod its phase and the addresses that go with it. */
  settle(pod: PodObject, node: NodeObject): PodObject {
    const { random } = this;
    if (random.oneIn(12)) {
      const ips = (node.status?.addresses ?? []).slice(0, 2).map(({ address }) => address);
      return {
        ...pod, spec: { ...pod.spec, hostNetwork: true }, status: podStatus('Running', ips),
      };
    }
    if (random.oneIn(10)) return { ...pod, status: podStatus('Pending', []) };
    const ips = this.freeAddresses(Number(node.metadata.name.slice(1)), pod);
    const phase = random.oneIn(8) ? random.pick(['Succeeded', 'Failed']) : 'Running';
    return { ...pod, status: podStatus(random.oneIn(15) ? 'Pending' : phase, ips) };
  }

  /** Addresses on a node that no other live pod has; finished ones may have them still. */
  freeAddresses(node: number, pod: PodObject): string[] {
    const { random } = this;
    const key = objectKey(pod);
    const taken = new Set(this.pods().filter((other) => isLive(other) && objectKey(other) !== key)
      .flatMap(({ status }) => (status?.podIPs ?? []).map(({ ip }) => ip)));
    const pick = (make: (host: number) => string): string => {
      const start = random.below(BIGGEST_POOL);
      for (let host = 0; host <= this.shape.pods + BIGGEST_POOL; host += 1) {
        const address = make(2 + ((start + host) % (this.shape.pods + BIGGEST_POOL)));
        if (!taken.has(address)) return address;
      }
      throw new Error('no address is free');
    };
    const ipv4 = (): string =>
      pick((host) => `10.244.${node}.${host}`);
    const ipv6 = (): string => pick((host) => `fd00:10:244:${node}::${host.toString(16)}`);
    return random.pick([
      () => [ipv4()], () => [ipv6()], () => [ipv4(), ipv6()], () => [ipv6(), ipv4()],
    ])();
  }

  containerPorts(): ContainerPort[] {
    const { random } = this;
    const names = [...PORT_NAMES];
    return Array.from({ length: random.below(4) }, () => {
      const at = random.below(names.length);
      const name = random.oneIn(4) ? undefined : names.splice(at, 1)[0];
      return {
        containerPort: random.pick(PORTS),
        ...name !== undefined && { name },
        ...random.oneIn(3) ? {} : { protocol: random.pick(PROTOCOLS) },
      };
    });
  }

  selector(): LabelSelector {
    const { random } = this;
    if (random.oneIn(3)) {
      return random.pick<LabelSelector>([{}, {}, { matchLabels: {} }, { matchExpressions: [] },
        { matchLabels: null, matchExpressions: null }]);
    }
    const selector: LabelSelector = {};
    const shape = random.below(4);
    if (shape !== 0) {
      selector.matchLabels = Object.fromEntries(this.#oneOrTwo(() =>
        [random.pick(LABEL_KEYS), random.pick([...LABEL_VALUES, 'none'])]));
    }
    if (shape === 0 || shape === 3) {
      selector.matchExpressions = this.#oneOrTwo(() => {
        const key = random.pick([...LABEL_KEYS, 'missing']);
        const operator = random.pick(['In', 'NotIn', 'Exists', 'DoesNotExist']);
        if (operator.endsWith('Exist') || operator === 'Exists') {
          return { key, operator, ...random.oneIn(3) ? { values: [] } : {} };
        }
        const values = Array.from({ length: random.between(1, 2) }, () =>
          random.pick([...LABEL_VALUES, 'none']));
        return { key, operator, values };
      });
    }
    return selector;
  }

  #oneOrTwo<T>(make: () => T): T[] {
    return Array.from({ length: this.random.oneIn(4) ? 2 : 1 }, make);
  }

  namespaceSelector(): LabelSelector {
    if (!this.random.oneIn(3)) return this.selector();
    const name = this.random.pick(NAMESPACES);
    return { matchLabels: { 'kubernetes.io/metadata.name': name } };
  }

  /** An address that something has, or that nothing has. */
  anyAddress(): string {
    const { random } = this;
    const owned = this.pods().flatMap(({ status }) => (status?.podIPs ?? []).map(({ ip }) => ip));
    if (owned.length > 0 && random.oneIn(2)) return random.pick(owned);
    if (random.oneIn(4)) {
      return random.pick((random.pick(this.nodes()).status?.addresses ?? [])
        .filter(({ type }) => type !== 'Hostname')).address;
    }
    return random.pick(OUTSIDE);
  }

  /** A block around an address, at least `least` bits long; host bits stay, as people leave
   * them. */
  cidr(address = this.anyAddress(), least = 0): string {
    const lengths = (address.includes(':') ? IPV6_LENGTHS : IPV4_LENGTHS)
      .filter((length) => length >= least);
    const text = this.random.oneIn(5) ? address.toUpperCase() : address;
    return `${text}/${this.random.pick(lengths)}`;
  }

  ipBlock(): NonNullable<Peer['ipBlock']> {
    const { random } = this;
    const address = this.anyAddress();
    const cidr = this.cidr(address);
    const length = Number(cidr.split('/')[1]);
    if (length >= (address.includes(':') ? 128 : 32) || random.oneIn(3)) {
      return { cidr, ...random.oneIn(4) ? { except: [] } : {} };
    }
    const inside = Array.from({ length: 6 }, () => this.anyAddress())
      .filter((other) => isInside(cidr, other));
    const except = Array.from({ length: random.between(1, 3) }, () =>
      this.cidr(random.pick([address, ...inside]), length + 1));
    return { cidr, except };
  }

  peer(): Peer {
    return this.random.pick<() => Peer>([
      () => ({ podSelector: this.selector() }),
      () => ({ namespaceSelector: this.namespaceSelector() }),
      () => ({ podSelector: this.selector(), namespaceSelector: this.namespaceSelector() }),
      () => ({ podSelector: this.selector(), namespaceSelector: null }),
      () => ({ ipBlock: this.ipBlock() }),
      () => ({ ipBlock: this.ipBlock() }),
    ])();
  }

  policyPort(): PolicyPort {
    const { random } = this;
    const protocol = random.oneIn(3) ? {} : { protocol: random.pick(PROTOCOLS) };
    if (random.oneIn(6)) return protocol;
    if (random.oneIn(3)) return { ...protocol, port: random.pick(PORT_NAMES) };
    const port = random.pick(PORTS);
    if (!random.oneIn(3)) return { ...protocol, port };
    return { ...protocol, port, endPort: random.pick(PORTS.filter((end) => end >= port)) };
  }

  rule(side: 'from' | 'to'): Rule {
    const { random } = this;
    const rule: Rule = {};
    if (!random.oneIn(5)) rule[side] = this.few(3, () => this.peer());
    if (!random.oneIn(3)) rule.ports = this.few(3, () => this.policyPort());
    if (random.oneIn(12)) rule[side] = null;
    return rule;
  }

  /** Up to `most` things; an empty list one time in eight. */
  few<T>(most: number, make: () => T): T[] {
    if (this.random.oneIn(8)) return [];
    return Array.from({ length: this.random.between(1, most) }, make);
  }

  makeNetworkPolicy(
    name = this.#name('np'), namespace = this.namespace(),
  ): TypeMeta & RawNetworkPolicy {
    const { random } = this;
    const spec: NonNullable<RawNetworkPolicy['spec']> = {};
    if (!random.oneIn(10)) spec.podSelector = this.selector();
    if (!random.oneIn(3)) spec.ingress = this.few(3, () => this.rule('from'));
    if (!random.oneIn(3)) spec.egress = this.few(3, () => this.rule('to'));
    if (!random.oneIn(5)) {
      spec.policyTypes = random.pick([
        [], ['Ingress'], ['Egress'], ['Ingress', 'Egress'], ['Egress', 'Ingress'],
      ]);
    }
    return {
      apiVersion: KINDS.NetworkPolicy, kind: 'NetworkPolicy',
      metadata: { name, namespace }, spec,
    };
  }

  clusterPeer(side: 'from' | 'to', hasNames: boolean): ClusterPeer {
    const choices: (() => ClusterPeer)[] = [
      () => ({ namespaces: this.namespaceSelector() }),
      () => ({ pods: { namespaceSelector: this.namespaceSelector(),
        podSelector: this.selector() } }),
    ];
    if (side === 'to' && !hasNames) {
      choices.push(
        () => ({ nodes: this.selector() }),
        () => ({ networks: Array.from({ length: this.random.between(1, 3) }, () => this.cidr())
          .filter((cidr, at, all) => all.indexOf(cidr) === at) }),
      );
    }
    // What only a newer version of the API would know.
    if (this.random.oneIn(12)) return { future: {} } as ClusterPeer;
    return this.random.pick(choices)();
  }

  clusterProtocol(hasNames: boolean): ClusterProtocol {
    const { random } = this;
    if (hasNames && random.oneIn(2)) return { destinationNamedPort: random.pick(PORT_NAMES) };
    const start = random.pick(PORTS.slice(0, -1));
    const destinationPort = random.oneIn(3)
      ? { range: { start, end: random.pick(PORTS.filter((port) => port > start)) } }
      : { number: random.pick(PORTS) };
    return { [random.pick(['tcp', 'udp', 'sctp'])]: { destinationPort } };
  }

  clusterRule(side: 'from' | 'to'): ClusterRule {
    const { random } = this;
    const hasNames = random.oneIn(4);
    const rule: ClusterRule = {
      action: random.pick(['Accept', 'Deny', 'Pass'] as const),
      [side]: Array.from({ length: random.between(1, 3) }, () =>
        this.clusterPeer(side, hasNames)),
    };
    if (hasNames || random.oneIn(2)) {
      rule.protocols = Array.from({ length: random.between(1, 3) }, () =>
        this.clusterProtocol(hasNames));
    }
    return rule;
  }

  makeClusterPolicy(name = this.#name('cnp')): TypeMeta & RawClusterPolicy {
    const { random } = this;
    const subject = random.oneIn(2)
      ? { namespaces: this.namespaceSelector() }
      : { pods: { namespaceSelector: this.namespaceSelector(), podSelector: this.selector() } };
    return {
      apiVersion: KINDS.ClusterNetworkPolicy, kind: 'ClusterNetworkPolicy', metadata: { name },
      spec: {
        tier: random.pick(['Admin', 'Baseline']), priority: random.pick([0, 1, 1, 1000]),
        subject,
        ...random.oneIn(4) ? {} : { ingress: this.few(4, () => this.clusterRule('from')) },
        ...random.oneIn(4) ? {} : { egress: this.few(4, () => this.clusterRule('to')) },
      },
    };
  }
}

/** A pod's status with these addresses. */
export function podStatus(phase: string, ips: string[]): NonNullable<RawPod['status']> {
  const [first] = ips;
  if (first === undefined) return { phase };
  return { phase, podIP: first, podIPs: ips.map((ip) => ({ ip })) };
}

function isInside(cidr: string, address: string): boolean {
  return blockHolds(cidr, parseAddress(address));
}
