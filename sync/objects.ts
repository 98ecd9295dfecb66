// One Kubernetes object at a time: checks the few fields we read and keeps nothing else.
//
// Node, Pod, Namespace and Service of apiVersion v1, EndpointSlice, NetworkPolicy and
// ClusterNetworkPolicy are read, every other kind is ignored. As for the API server, null means
// absent. What other nodes must know about a node stands in its annotations, flannel's or Calico's
// (tunnels.ts).

import * as v from 'valibot';
import { addressBytes, addressText, isAddress } from '../engine/address.ts';
import { HOST_PORT_LIMIT } from '../engine/model.ts';
import type { HostPort, Pod } from '../engine/model.ts';
import { fieldPath, issuePath, issueReason } from '../engine/shape.ts';
import {
  Address, LabelsSchema, Metadata, Name, PROTOCOL_NUMBERS, Port, Prefix, Protocol, compareText,
  isPortName, maybe,
} from './fields.ts';
import type { Labels, Path, Refuse } from './fields.ts';
import type { NodeFields } from './nodes.ts';
import { ClusterPolicySchema, readClusterPolicy } from './policy/cluster-policy.ts';
import { NetworkPolicySchema, readNetworkPolicy } from './policy/network-policy.ts';
import type { Policy } from './policy/rules.ts';
import {
  ServiceObjectSchema, SliceObjectSchema, readService, readSlice,
} from './services/objects.ts';
import type { ServiceFacts, SliceFacts } from './services/objects.ts';
import { READ_ANNOTATIONS, readReachOf } from './tunnels.ts';
import type { Reach } from './tunnels.ts';

/** Where a field stands, as `FILE:LINE`. */
export type Locate = (path: Path) => string;

interface NodeEntry {
  kind: 'Node';
  key: string;
  uid: string;
  place: string;
  created: string;
  node: NodeFields;
  reach: Reach;
  labels: Labels;
  /** Every address of it, those of type InternalIP and the others. */
  addresses: string[];
}

/** A port of a container that has a name. */
export interface NamedPort {
  name: string;
  protocol: number;
  port: number;
}

interface PodEntry {
  kind: 'Pod';
  key: string;
  place: string;
  nodeName: string;
  /** It has an address of its own that is in use: not the node's, and not given up. */
  hasNetwork: boolean;
  isRunning: boolean;
  /** It has given its address up. */
  isFinished: boolean;
  created: string;
  labels: Labels;
  /** Sorted. */
  ports: readonly NamedPort[];
  pod: Pod;
  warnings: readonly string[];
}

interface NamespaceEntry {
  kind: 'Namespace';
  key: string;
  uid: string;
  place: string;
  labels: Labels;
  /** The annotation that was NetworkPolicy before Kubernetes 1.7 isolates its pods. */
  isIsolated: boolean;
}

interface PolicyEntry {
  kind: 'NetworkPolicy' | 'ClusterNetworkPolicy';
  key: string;
  uid: string;
  place: string;
  policy: Policy;
}

interface ServiceEntry {
  kind: 'Service';
  key: string;
  uid: string;
  place: string;
  service: ServiceFacts;
}

interface SliceEntry {
  kind: 'EndpointSlice';
  key: string;
  uid: string;
  place: string;
  slice: SliceFacts;
}

/** What is kept of an object. `key` is unique within its kind, `place` is where it begins. */
export type Entry =
  NodeEntry | PodEntry | NamespaceEntry | PolicyEntry | ServiceEntry | SliceEntry;

/** An object read: what is kept of it, if anything, and what is wrong with it, field by field. */
export interface Projection {
  entry: Entry | null;
  problems: string[];
}

const Header = v.object({ apiVersion: v.string(), kind: v.string() });

const Annotations = v.object(
  Object.fromEntries(READ_ANNOTATIONS.map((name) => [name, maybe(v.string())])),
);

const NodeSchema = v.object({
  metadata: v.object({
    ...Metadata, labels: maybe(LabelsSchema), annotations: maybe(Annotations),
  }),
  spec: maybe(v.object({
    podCIDR: maybe(v.union([v.literal(''), Prefix], 'not a prefix in CIDR form')),
    podCIDRs: maybe(v.pipe(v.array(Prefix), v.maxLength(16))),
  })),
  status: maybe(v.object({
    addresses: maybe(v.pipe(v.array(v.variant('type', [
      v.object({ type: v.literal('InternalIP'), address: Address }),
      v.object({ type: v.pipe(v.string(), v.notValue('InternalIP')), address: v.string() }),
    ])), v.maxLength(64))),
  })),
});

const ContainerSchema = v.object({
  restartPolicy: maybe(v.string()),
  ports: maybe(v.array(v.object({
    name: maybe(v.pipe(v.string(),
      v.check((name) => name === '' || isPortName(name), 'not the name of a port'))),
    containerPort: Port,
    protocol: maybe(Protocol),
    hostPort: maybe(v.union([v.literal(0), Port], 'not between 1 and 65535')),
    hostIP: maybe(v.union([v.literal(''), Address], 'not an IP address')),
  }))),
});

const PodObjectSchema = v.object({
  metadata: v.object({ ...Metadata, namespace: maybe(Name), labels: maybe(LabelsSchema) }),
  spec: maybe(v.object({
    nodeName: maybe(v.string()),
    hostNetwork: maybe(v.boolean()),
    containers: maybe(v.array(ContainerSchema)),
    initContainers: maybe(v.array(ContainerSchema)),
  })),
  status: maybe(v.object({
    phase: maybe(v.string()),
    podIP: maybe(v.union([v.literal(''), Address], 'not an IP address')),
    podIPs: maybe(v.pipe(v.array(v.object({ ip: Address })), v.maxLength(16))),
  })),
});

const ISOLATION = 'net.beta.kubernetes.io/network-policy';
const NamespaceSchema = v.object({
  metadata: v.object({
    ...Metadata,
    labels: maybe(LabelsSchema),
    annotations: maybe(v.object({ [ISOLATION]: maybe(v.string()) })),
  }),
});

/** Reads one object. Objects of a kind we do not read give nothing and are never wrong. */
export function project(object: unknown, locate: Locate): Projection {
  const header = v.safeParse(Header, object);
  if (!header.success) return { entry: null, problems: describe('object', header.issues, locate) };
  switch (`${header.output.apiVersion} ${header.output.kind}`) {
    case 'v1 Node': return read(NodeSchema, 'Node', object, locate, nodeEntry);
    case 'v1 Pod': return read(PodObjectSchema, 'Pod', object, locate, podEntry);
    case 'v1 Namespace': return read(NamespaceSchema, 'Namespace', object, locate, namespaceEntry);
    case 'networking.k8s.io/v1 NetworkPolicy':
      return read(NetworkPolicySchema, 'NetworkPolicy', object, locate, networkPolicyEntry);
    case 'policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy':
      return read(ClusterPolicySchema, 'ClusterNetworkPolicy', object, locate, clusterPolicyEntry);
    case 'v1 Service': return read(ServiceObjectSchema, 'Service', object, locate, serviceEntry);
    case 'discovery.k8s.io/v1 EndpointSlice':
    case 'discovery.k8s.io/v1beta1 EndpointSlice':
      return read(SliceObjectSchema, 'EndpointSlice', object, locate, sliceEntry);
    default: return { entry: null, problems: [] };
  }
}

/** Kinds whose names are told with the namespace. */
const NAMESPACED = ['NetworkPolicy', 'Service', 'EndpointSlice'];

function read<S extends v.GenericSchema>(
  schema: S, kind: string, object: unknown, locate: Locate,
  make: (object: v.InferOutput<S>, place: string, refuse: Refuse) => Entry,
): Projection {
  const title = `${kind} ${nameOf(object, NAMESPACED.includes(kind))}`;
  const parsed = v.safeParse(schema, object);
  if (!parsed.success) return { entry: null, problems: describe(title, parsed.issues, locate) };
  const problems: string[] = [];
  const entry = make(parsed.output, locate([]), (path, reason) => {
    problems.push(problemText(locate(path), title, path, reason));
  });
  return problems.length === 0 ? { entry, problems } : { entry: null, problems };
}

function describe(
  title: string, issues: readonly v.BaseIssue<unknown>[], locate: Locate,
): string[] {
  return issues.map((issue) => {
    const path = issuePath(issue);
    return problemText(locate(path), title, path, issueReason(issue));
  });
}

function problemText(place: string, title: string, path: Path, reason: string): string {
  return [place, title, fieldPath(path), reason].filter((part) => part !== '').join(': ');
}

/** The name for messages, where there is one that can be shown. */
function nameOf(object: unknown, hasNamespace: boolean): string {
  const Named = v.object({
    metadata: v.object({ name: v.string(), namespace: v.optional(v.unknown()) }),
  });
  const parsed = v.safeParse(Named, object);
  if (!parsed.success) return '(without a name)';
  const { name, namespace } = parsed.output.metadata;
  const prefix = typeof namespace === 'string' ? namespace : 'default';
  return (hasNamespace ? `${prefix}/${name}` : name).slice(0, 253);
}

function nodeEntry(object: v.InferOutput<typeof NodeSchema>, place: string, refuse: Refuse): Entry {
  const { metadata, spec, status } = object;
  const single = spec?.podCIDR ? [spec.podCIDR] : [];
  const podCidrs = unique(spec?.podCIDRs?.length ? spec.podCIDRs : single);
  const internal = (status?.addresses ?? []).filter(({ type }) => type === 'InternalIP');
  const addresses = unique(internal.map(({ address }) => address));
  const reach = readReachOf(metadata.name, metadata.annotations ?? {}, refuse);
  const node = { name: metadata.name, podCidrs, addresses };
  const created = metadata.creationTimestamp ?? '';
  const all = (status?.addresses ?? []).map(({ address }) => address).filter(isAddress);
  return {
    kind: 'Node', key: metadata.name, uid: metadata.uid ?? '', place, created, node, reach,
    labels: metadata.labels ?? [],
    addresses: unique(all.map((address) => addressText(addressBytes(address)))),
  };
}

function podEntry(object: v.InferOutput<typeof PodObjectSchema>, place: string): Entry {
  const { metadata, spec, status } = object;
  const { namespace = 'default', name, uid = '' } = metadata;
  const single = status?.podIP ? [status.podIP] : [];
  const listed = (status?.podIPs ?? []).map(({ ip }) => ip);
  const phase = status?.phase ?? '';
  const isFinished = phase === 'Succeeded' || phase === 'Failed';
  const hasNetwork = !isFinished && spec?.hostNetwork !== true;
  const { kept, warnings } = hostPorts(spec ?? {}, [namespace, name].join('/'));
  const addresses = unique(listed.length > 0 ? listed : single);
  return {
    kind: 'Pod',
    // A text put together by join() is one piece; a template's refers to its parts.
    key: [namespace, name].join('/'),
    place,
    nodeName: spec?.nodeName ?? '',
    hasNetwork,
    isRunning: phase === 'Running',
    isFinished,
    created: metadata.creationTimestamp ?? '',
    labels: metadata.labels ?? [],
    ports: namedPorts(spec ?? {}),
    // Where the pod's network is the node's, its ports are there already.
    pod: {
      namespace, name, uid, addresses,
      ...hasNetwork && kept.length > 0 ? { hostPorts: kept } : {},
    },
    warnings: hasNetwork ? warnings : [],
  };
}

type Containers = Pick<
  NonNullable<v.InferOutput<typeof PodObjectSchema>['spec']>, 'containers' | 'initContainers'>;

type ContainerPort = NonNullable<v.InferOutput<typeof ContainerSchema>['ports']>[number];

/** The ports of all containers that run beside each other: init containers that are restarted
 * always do, too. */
function allPorts({ containers = [], initContainers = [] }: Containers): ContainerPort[] {
  const sidecars = initContainers.filter(({ restartPolicy }) => restartPolicy === 'Always');
  return [...containers, ...sidecars].flatMap((container) => container.ports ?? []);
}

/** The ports of the node that a pod asks for, each once, as many as travel. */
function hostPorts(
  containers: Containers, key: string,
): { kept: HostPort[]; warnings: string[] } {
  const ports = new Map<string, HostPort>();
  for (const item of allPorts(containers)) {
    const { containerPort, protocol = 'TCP', hostPort = 0, hostIP = '' } = item;
    const at = `${protocol} ${hostPort} ${hostIP}`;
    if (hostPort === 0 || ports.has(at)) continue;
    ports.set(at, { protocol, hostPort, containerPort, hostIP });
  }
  const all = [...ports.values()];
  return {
    kept: all.slice(0, HOST_PORT_LIMIT),
    warnings: all.length <= HOST_PORT_LIMIT ? [] : [
      `Pod ${key}: ${all.length} host ports, the limit is ${HOST_PORT_LIMIT}: the others lead `
        + 'nowhere'],
  };
}

function namedPorts(containers: Containers): NamedPort[] {
  const ports = new Map<string, NamedPort>();
  for (const item of allPorts(containers)) {
    if (!item.name) continue;
    const protocol = PROTOCOL_NUMBERS[item.protocol ?? 'TCP'];
    const port = { name: item.name, protocol, port: item.containerPort };
    ports.set(`${port.name} ${protocol} ${port.port}`, port);
  }
  return [...ports].sort(([a], [b]) => compareText(a, b)).map(([, port]) => port);
}

function namespaceEntry(
  { metadata }: v.InferOutput<typeof NamespaceSchema>, place: string,
): Entry {
  const { name, uid = '', labels = [], annotations } = metadata;
  const isIsolated = isIsolation(annotations?.[ISOLATION]);
  return { kind: 'Namespace', key: name, uid, place, labels, isIsolated };
}

/** `{"ingress": {"isolation": "DefaultDeny"}}`; what cannot be read isolates too. */
function isIsolation(text: string | undefined): boolean {
  if (text === undefined) return false;
  const Isolation = v.object({ ingress: maybe(v.object({ isolation: maybe(v.string()) })) });
  try {
    const parsed = v.safeParse(Isolation, JSON.parse(text));
    return !parsed.success || parsed.output.ingress?.isolation === 'DefaultDeny';
  } catch {
    return true;
  }
}

function networkPolicyEntry(
  object: v.InferOutput<typeof NetworkPolicySchema>, place: string, refuse: Refuse,
): Entry {
  const { namespace = 'default', name, uid = '' } = object.metadata;
  const policy = readNetworkPolicy(object, refuse);
  return { kind: 'NetworkPolicy', key: [namespace, name].join('/'), uid, place, policy };
}

function clusterPolicyEntry(
  object: v.InferOutput<typeof ClusterPolicySchema>, place: string, refuse: Refuse,
): Entry {
  const { name, uid = '' } = object.metadata;
  const policy = readClusterPolicy(object, refuse);
  return { kind: 'ClusterNetworkPolicy', key: name, uid, place, policy };
}

function serviceEntry(
  object: v.InferOutput<typeof ServiceObjectSchema>, place: string, refuse: Refuse,
): Entry {
  const { namespace = 'default', name, uid = '' } = object.metadata;
  const service = readService(object, refuse);
  return { kind: 'Service', key: [namespace, name].join('/'), uid, place, service };
}

function sliceEntry(
  object: v.InferOutput<typeof SliceObjectSchema>, place: string, refuse: Refuse,
): Entry {
  const { namespace = 'default', name, uid = '' } = object.metadata;
  const slice = readSlice(object, refuse);
  return { kind: 'EndpointSlice', key: [namespace, name].join('/'), uid, place, slice };
}

function unique(values: readonly string[]): string[] {
  return [...new Set(values)];
}
