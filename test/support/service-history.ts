// Random histories of Services: Services of every type and their slices come, change and go; slices
// hand endpoints over to one another, name other Services, have no lists at all; our node moves to
// another zone.

import type { Random } from './random.ts';

export interface KubeObject {
  apiVersion: string;
  kind: 'Node' | 'Service' | 'EndpointSlice';
  metadata: {
    name: string; namespace?: string; uid: string; labels?: Record<string, string>;
    annotations?: { 'culvert.net/proxy-protocol'?: 'v1' | 'v2' };
  };
  [field: string]: unknown;
}

export interface ServiceEvent {
  type: 'SET' | 'GONE';
  object: KubeObject;
}

const NAMES = ['web', 'db', 'dns', 'queue'];
const NAMESPACES = ['shop', 'data'];
export const NODES = ['n0', 'n1', 'n2'];
const TYPES = ['ClusterIP', 'NodePort', 'LoadBalancer'];
const ZONES = ['z0', 'z1'];
const PORTS = [
  { name: 'http', port: 80 }, { name: 'dns', protocol: 'UDP', port: 53 }, { port: 443 },
  { name: 'dns', protocol: 'TCP', port: 53 }, { name: 'sip', protocol: 'SCTP', port: 5060 },
];

export class ServiceHistory {
  readonly random: Random;
  readonly objects = new Map<string, KubeObject>();
  #serial = 0;

  constructor(random: Random) {
    this.random = random;
    for (const name of NODES) this.objects.set(`Node ${name}`, this.#node(name));
  }

  list(): KubeObject[] {
    return [...this.objects.values()];
  }

  /** Changes one object. */
  step(): ServiceEvent {
    const { random } = this;
    const present = this.list().filter(({ kind }) => kind !== 'Node');
    if (present.length > 0 && random.oneIn(4)) return this.#remove(random.pick(present));
    if (random.oneIn(12)) return this.#set(this.#node(random.pick(NODES)));
    return this.#set(random.oneIn(3) ? this.#service() : this.#slice());
  }

  #set(object: KubeObject): ServiceEvent {
    this.objects.set(keyOf(object), object);
    return { type: 'SET', object };
  }

  #remove(object: KubeObject): ServiceEvent {
    this.objects.delete(keyOf(object));
    return { type: 'GONE', object };
  }

  #metadata(name: string, labels?: Record<string, string>): KubeObject['metadata'] {
    this.#serial += 1;
    const namespace = this.random.pick(NAMESPACES);
    return { name, namespace, uid: `uid-${this.#serial}`, ...(labels && { labels }) };
  }

  #node(name: string): KubeObject {
    const labels = this.random.oneIn(4) ? undefined
      : { 'topology.kubernetes.io/zone': this.random.pick(ZONES) };
    return {
      apiVersion: 'v1', kind: 'Node',
      metadata: { name, uid: `uid-${name}`, ...(labels && { labels }) },
    };
  }

  #service(): KubeObject {
    const { random } = this;
    const name = random.pick(NAMES);
    const at = NAMES.indexOf(name) + 1;
    const clusterIPs = random.oneIn(6) ? ['None']
      : [`10.96.0.${at}`, `fd00:96::${at}`].slice(random.below(2), 1 + random.below(2))
        .concat(random.oneIn(2) ? [`10.96.1.${at}`] : []).slice(0, 2);
    const annotations = random.oneIn(4)
      ? { 'culvert.net/proxy-protocol': random.pick(['v1', 'v2'] as const) } : {};
    return {
      apiVersion: 'v1', kind: 'Service', metadata: { ...this.#metadata(name), annotations },
      spec: {
        type: random.oneIn(8) ? 'ExternalName' : random.pick(TYPES),
        clusterIPs: clusterIPs.length === 0 ? ['None'] : clusterIPs,
        ports: PORTS.filter(() => random.oneIn(2)).map((port) => (random.oneIn(3) ? port
          : { ...port, nodePort: 30_000 + port.port })),
        externalTrafficPolicy: random.oneIn(3) ? 'Local' : 'Cluster',
        ...random.oneIn(4) ? { sessionAffinity: 'ClientIP' } : {},
        ...random.oneIn(2)
          ? { sessionAffinityConfig: { clientIP: { timeoutSeconds: 1 + random.below(100) } } } : {},
        internalTrafficPolicy: random.oneIn(4) ? 'Local' : 'Cluster',
        ...random.oneIn(6) ? { publishNotReadyAddresses: true } : {},
      },
    };
  }

  #slice(): KubeObject {
    const { random } = this;
    const isOld = random.oneIn(4);
    const family = random.pick(['IPv4', 'IPv4', 'IPv6', 'FQDN']);
    const owner = random.oneIn(10) ? undefined
      : { 'kubernetes.io/service-name': random.pick(NAMES) };
    const hinting = random.below(4);
    const count = random.below(5);
    return {
      apiVersion: isOld ? 'discovery.k8s.io/v1beta1' : 'discovery.k8s.io/v1',
      kind: 'EndpointSlice',
      metadata: this.#metadata(`slice-${random.below(6)}`, owner),
      addressType: family,
      ports: random.oneIn(10) ? null : PORTS.filter(() => !random.oneIn(3))
        .map((port, index) => ({ ...port, port: 8000 + index })),
      endpoints: random.oneIn(10) ? null
        : Array.from({ length: count }, () => this.#endpoint(family, isOld, hinting)),
    };
  }

  #endpoint(family: string, isOld: boolean, hinting: number): object {
    const { random } = this;
    const at = random.below(8);
    const node = random.pick(NODES);
    const yesOrNo = (): boolean | null => random.pick([true, true, false, null]);
    const hints = {
      ...hinting === 1 ? { forZones: [{ name: random.pick(ZONES) }] } : {},
      ...hinting === 2 ? { forNodes: [{ name: random.pick(NODES) }] } : {},
    };
    const addresses = {
      IPv4: [`10.244.0.${at}`], IPv6: [`fd00:10:244::${at + 1}`], FQDN: [`host-${at}.example`],
    };
    return {
      addresses: addresses[family as keyof typeof addresses],
      conditions: { ready: yesOrNo(), serving: yesOrNo(), terminating: yesOrNo() },
      ...isOld ? { topology: { 'kubernetes.io/hostname': node } } : { nodeName: node },
      ...hinting > 0 && !random.oneIn(8) ? { hints } : {},
    };
  }
}

export function keyOf({ kind, metadata: { namespace, name } }: KubeObject): string {
  return kind === 'Node' ? `${kind} ${name}` : `${kind} ${namespace ?? 'default'}/${name}`;
}
