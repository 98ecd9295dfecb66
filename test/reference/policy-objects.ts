// Kubernetes objects as the slow policy twin reads them: the fields it looks at, all optional,
// since nothing was checked. Selectors, addresses and CIDR blocks, each as the API documentation
// puts it.

/** metav1.LabelSelector. */
export interface LabelSelector {
  matchLabels?: Record<string, string> | null;
  matchExpressions?: { key: string; operator: string; values?: string[] | null }[] | null;
}

export interface Metadata {
  name: string;
  namespace?: string | null;
  uid?: string;
  labels?: Record<string, string> | null;
  annotations?: Record<string, string> | null;
}

export interface ContainerPort {
  name?: string | null;
  containerPort: number;
  protocol?: string | null;
}

interface Container {
  ports?: ContainerPort[] | null;
  restartPolicy?: string | null;
}

export interface RawPod {
  metadata: Metadata;
  spec?: {
    nodeName?: string | null;
    hostNetwork?: boolean | null;
    containers?: Container[] | null;
    initContainers?: Container[] | null;
  } | null;
  status?: {
    phase?: string | null;
    podIP?: string | null;
    podIPs?: { ip: string }[] | null;
  } | null;
}

export interface RawNode {
  metadata: Metadata;
  status?: { addresses?: { type: string; address: string }[] | null } | null;
}

export interface RawNamespace {
  metadata: Metadata;
}

/** networking.k8s.io/v1 NetworkPolicyPeer. */
export interface Peer {
  podSelector?: LabelSelector | null;
  namespaceSelector?: LabelSelector | null;
  ipBlock?: { cidr: string; except?: string[] | null } | null;
}

export interface PolicyPort {
  protocol?: string | null;
  port?: number | string | null;
  endPort?: number | null;
}

export interface Rule {
  from?: Peer[] | null;
  to?: Peer[] | null;
  ports?: PolicyPort[] | null;
}

export interface RawNetworkPolicy {
  metadata: Metadata;
  spec?: {
    podSelector?: LabelSelector | null;
    ingress?: Rule[] | null;
    egress?: Rule[] | null;
    policyTypes?: string[] | null;
  } | null;
}

export interface NamespacedPod {
  namespaceSelector?: LabelSelector | null;
  podSelector?: LabelSelector | null;
}

/** policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicyEgressPeer, and the ingress one, which has
 * its first two fields. */
export interface ClusterPeer {
  namespaces?: LabelSelector | null;
  pods?: NamespacedPod | null;
  nodes?: LabelSelector | null;
  networks?: string[] | null;
}

interface PortMatch {
  destinationPort?: { number?: number; range?: { start: number; end: number } | null } | null;
}

export interface ClusterProtocol {
  tcp?: PortMatch | null;
  udp?: PortMatch | null;
  sctp?: PortMatch | null;
  destinationNamedPort?: string | null;
}

export interface ClusterRule {
  action: 'Accept' | 'Deny' | 'Pass';
  from?: ClusterPeer[] | null;
  to?: ClusterPeer[] | null;
  protocols?: ClusterProtocol[] | null;
}

export interface RawClusterPolicy {
  metadata: Metadata;
  spec: {
    tier: string;
    priority: number;
    subject: { namespaces?: LabelSelector | null; pods?: NamespacedPod | null };
    ingress?: ClusterRule[] | null;
    egress?: ClusterRule[] | null;
  };
}

/** Every kind the twin reads, by kind. */
export interface Cluster {
  pods: RawPod[];
  nodes: RawNode[];
  namespaces: RawNamespace[];
  networkPolicies: RawNetworkPolicy[];
  clusterPolicies: RawClusterPolicy[];
}

/** Sorts objects by kind, lists unpacked; other kinds are left out. */
export function sortObjects(objects: readonly unknown[]): Cluster {
  const cluster: Cluster = {
    pods: [], nodes: [], namespaces: [], networkPolicies: [], clusterPolicies: [],
  };
  for (const object of objects) addObject(cluster, object);
  return cluster;
}

function addObject(cluster: Cluster, object: unknown): void {
  const { apiVersion, kind, items } = object as {
    apiVersion?: string; kind?: string; items?: unknown[];
  };
  if (Array.isArray(items)) {
    const itemKind = kind?.replace(/List$/, '') || undefined;
    for (const item of items) {
      addObject(cluster, { ...itemKind && { apiVersion, kind: itemKind }, ...item as object });
    }
    return;
  }
  switch (`${apiVersion}/${kind}`) {
    case 'v1/Pod': cluster.pods.push(object as RawPod); break;
    case 'v1/Node': cluster.nodes.push(object as RawNode); break;
    case 'v1/Namespace': cluster.namespaces.push(object as RawNamespace); break;
    case 'networking.k8s.io/v1/NetworkPolicy':
      cluster.networkPolicies.push(object as RawNetworkPolicy);
      break;
    case 'policy.networking.k8s.io/v1alpha2/ClusterNetworkPolicy':
      cluster.clusterPolicies.push(object as RawClusterPolicy);
      break;
    default:
  }
}

export type Labels = Readonly<Record<string, string>>;

/** A label selector over labels (metav1.LabelSelector: "The result of matchLabels and
 * matchExpressions are ANDed. An empty label selector matches all objects."). */
export function selects(selector: LabelSelector, labels: Labels): boolean {
  for (const [key, value] of Object.entries(selector.matchLabels ?? {})) {
    if (!Object.hasOwn(labels, key) || labels[key] !== value) return false;
  }
  return (selector.matchExpressions ?? []).every(({ key, operator, values }) => {
    const has = Object.hasOwn(labels, key);
    const isListed = has && (values ?? []).includes(labels[key] ?? '');
    switch (operator) {
      case 'In': return isListed;
      // "The operator is NotIn and the labels does not have the key or the value is not in the set"
      // (apimachinery pkg/labels/selector.go, Requirement.Matches, rule 4 there).
      case 'NotIn': return !isListed;
      case 'Exists': return has;
      case 'DoesNotExist': return !has;
      default: throw new Error(`selector operator ${operator}`);
    }
  });
}

/** An address as a number, and its width. */
export interface Address {
  bits: 32 | 128;
  value: bigint;
}

const parsed = new Map<string, Address>();

/** Parses dotted-quad IPv4 and IPv6 text (RFC 4291 section 2.2). */
export function parseAddress(text: string): Address {
  const known = parsed.get(text);
  if (known !== undefined) return known;
  const address = text.includes(':') ? parseIpv6(text) : parseIpv4(text);
  parsed.set(text, address);
  return address;
}

function parseIpv4(text: string): Address {
  const value = text.split('.').reduce((sum, part) => (sum << 8n) | BigInt(part), 0n);
  return { bits: 32, value };
}

function parseIpv6(text: string): Address {
  const groups = (part: string): bigint[] => part.split(':').filter(Boolean).flatMap((group) => {
    if (!group.includes('.')) return [BigInt(`0x${group}`)];
    const { value } = parseIpv4(group);
    return [value >> 16n, value & 0xffffn];
  });
  const [head = '', tail] = text.split('::');
  const [left, right] = [groups(head), groups(tail ?? '')];
  const zeros = new Array<bigint>(8 - left.length - right.length).fill(0n);
  const value = [...left, ...zeros, ...right].reduce((sum, group) => (sum << 16n) | group, 0n);
  return { bits: 128, value };
}

/** True where the block holds the address. Bits of the block's address behind its length are of no
 * account, as in RFC 4632 section 3.1. */
export function blockHolds(cidr: string, address: Address): boolean {
  const [base = '', length = ''] = cidr.split('/');
  const { bits, value } = parseAddress(base);
  if (bits !== address.bits) return false;
  const shift = BigInt(bits - Number(length));
  return value >> shift === address.value >> shift;
}
