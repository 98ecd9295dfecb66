// One Kubernetes object at a time: checks the few fields we read and keeps nothing else.
//
// Node, Pod and Namespace of apiVersion v1 are read, every other kind is ignored. As for the API
// server, null means absent. What flannel's other nodes must know about a node stands in its
// annotations (prefix flannel.alpha.coreos.com/): backend-type, backend-data and public-ip for
// IPv4, backend-v6-data and public-ipv6 for IPv6, all void unless kube-subnet-manager is "true".

import * as v from 'valibot';
import {
  addressBytes, addressFamily, addressText, isAddress, isMac, isPrefix, macBytes, macText,
  prefixKey, prefixText,
} from '../engine/address.ts';
import type { Family } from '../engine/address.ts';
import type { ClusterNode, Pod, Tunnel } from '../engine/model.ts';
import { fieldPath, issuePath, issueReason } from '../engine/shape.ts';

/** flannel's VXLAN port: what the kernel takes when none is given. */
export const FLANNEL_VXLAN_PORT = 8472;

const PREFIX = 'flannel.alpha.coreos.com/';
const MANAGED = `${PREFIX}kube-subnet-manager`;
const BACKEND_TYPE = `${PREFIX}backend-type`;

type Path = readonly (string | number)[];

/** Where a field stands, as `FILE:LINE`. */
export type Locate = (path: Path) => string;

interface NodeEntry {
  kind: 'Node';
  key: string;
  place: string;
  created: string;
  node: ClusterNode;
  warnings: string[];
}

interface PodEntry {
  kind: 'Pod';
  key: string;
  place: string;
  nodeName: string;
  /** It has an address of its own that is in use: not the node's, and not given up. */
  hasNetwork: boolean;
  pod: Pod;
}

interface NamespaceEntry {
  kind: 'Namespace';
  key: string;
  place: string;
}

/** What is kept of an object. `key` is unique within its kind, `place` is where it begins. */
export type Entry = NodeEntry | PodEntry | NamespaceEntry;

/** An object read: what is kept of it, if anything, and what is wrong with it, field by field. */
export interface Projection {
  entry: Entry | null;
  problems: string[];
}

/** A field that may be missing, or null, which is the same. */
function maybe<S extends v.GenericSchema>(schema: S) {
  return v.pipe(v.nullish(schema), v.transform((value) => value ?? undefined));
}

const NAME = /^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$/;
const Name = v.pipe(v.string(), v.maxLength(253), v.regex(NAME, 'not a Kubernetes name'));
const Address = v.pipe(
  v.string(),
  v.check(isAddress, 'not an IP address'),
  v.transform((text) => addressText(addressBytes(text))),
);
const Prefix = v.pipe(
  v.string(),
  v.check(isPrefix, 'not a prefix in CIDR form'),
  v.transform((text) => prefixText(prefixKey(text))),
);
const Header = v.object({ apiVersion: v.string(), kind: v.string() });
const Metadata = {
  name: Name,
  uid: maybe(v.pipe(v.string(), v.maxLength(128))),
  creationTimestamp: maybe(v.pipe(v.string(), v.isoTimestamp('not a time'))),
};

const ANNOTATIONS = {
  managed: MANAGED,
  type: BACKEND_TYPE,
  data4: `${PREFIX}backend-data`,
  ip4: `${PREFIX}public-ip`,
  data6: `${PREFIX}backend-v6-data`,
  ip6: `${PREFIX}public-ipv6`,
} as const;
const Annotations = v.object(
  Object.fromEntries(Object.values(ANNOTATIONS).map((name) => [name, maybe(v.string())])),
);

const NodeSchema = v.object({
  metadata: v.object({ ...Metadata, annotations: maybe(Annotations) }),
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

const PodObjectSchema = v.object({
  metadata: v.object({ ...Metadata, namespace: maybe(Name) }),
  spec: maybe(v.object({ nodeName: maybe(v.string()), hostNetwork: maybe(v.boolean()) })),
  status: maybe(v.object({
    phase: maybe(v.string()),
    podIP: maybe(v.union([v.literal(''), Address], 'not an IP address')),
    podIPs: maybe(v.pipe(v.array(v.object({ ip: Address })), v.maxLength(16))),
  })),
});

const NamespaceSchema = v.object({ metadata: v.object(Metadata) });

const BackendData = v.nullable(v.object({
  VNI: v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(0xffffff)),
  VtepMAC: v.pipe(
    v.string(),
    v.check(isMac, 'not a unicast MAC address'),
    v.transform((text) => macText(macBytes(text))),
  ),
}));

/** Reads one object. Objects of a kind we do not read give nothing and are never wrong. */
export function project(object: unknown, locate: Locate): Projection {
  const header = v.safeParse(Header, object);
  if (!header.success) return { entry: null, problems: describe('object', header.issues, locate) };
  if (header.output.apiVersion !== 'v1') return { entry: null, problems: [] };
  switch (header.output.kind) {
    case 'Node': return read(NodeSchema, 'Node', object, locate, nodeEntry);
    case 'Pod': return read(PodObjectSchema, 'Pod', object, locate, podEntry);
    case 'Namespace': return read(NamespaceSchema, 'Namespace', object, locate, namespaceEntry);
    default: return { entry: null, problems: [] };
  }
}

type Refuse = (path: Path, reason: string) => void;

function read<S extends v.GenericSchema>(
  schema: S, kind: string, object: unknown, locate: Locate,
  make: (object: v.InferOutput<S>, place: string, refuse: Refuse) => Entry,
): Projection {
  const title = `${kind} ${nameOf(object)}`;
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
function nameOf(object: unknown): string {
  const Named = v.object({ metadata: v.object({ name: v.string() }) });
  const parsed = v.safeParse(Named, object);
  return parsed.success ? parsed.output.metadata.name.slice(0, 253) : '(without a name)';
}

function nodeEntry(object: v.InferOutput<typeof NodeSchema>, place: string, refuse: Refuse): Entry {
  const { metadata, spec, status } = object;
  const warnings: string[] = [];
  const single = spec?.podCIDR ? [spec.podCIDR] : [];
  const podCidrs = unique(spec?.podCIDRs?.length ? spec.podCIDRs : single);
  const internal = (status?.addresses ?? []).filter(({ type }) => type === 'InternalIP');
  const addresses = unique(internal.map(({ address }) => address));
  const tunnels = flannelTunnels(metadata.annotations ?? {}, refuse, (text) => {
    warnings.push(`Node ${metadata.name}: ${text}`);
  });
  const node = { name: metadata.name, podCidrs, addresses, tunnels };
  const created = metadata.creationTimestamp ?? '';
  return { kind: 'Node', key: metadata.name, place, created, node, warnings };
}

type AnnotationValues = Readonly<Record<string, string | undefined>>;

/** A node of flannel's kube subnet manager, as its peers see it. */
function flannelTunnels(
  values: AnnotationValues, refuse: Refuse, warn: (text: string) => void,
): Tunnel[] {
  if (values[MANAGED] !== 'true') return [];
  const type = values[BACKEND_TYPE] ?? '';
  if (type !== 'vxlan') {
    warn(`flannel backend type ${type || 'udp or none'} is not spoken here: no tunnel`);
    return [];
  }
  const { data4, ip4, data6, ip6 } = ANNOTATIONS;
  return [
    vxlanTunnel('IPv4', values, { data: data4, ip: ip4 }, refuse, warn),
    vxlanTunnel('IPv6', values, { data: data6, ip: ip6 }, refuse, warn),
  ].filter((tunnel) => tunnel !== null);
}

function vxlanTunnel(
  family: Family, values: AnnotationValues, names: { data: string; ip: string },
  refuse: Refuse, warn: (text: string) => void,
): Tunnel | null {
  const data = backendData(values[names.data], names.data, refuse);
  const remote = values[names.ip] || null;
  if (data === null && remote === null) return null;
  if (data === null || remote === null) {
    const [has, lacks] = data === null ? [names.ip, names.data] : [names.data, names.ip];
    warn(`${has} without ${lacks}: no ${family} tunnel`);
    return null;
  }
  if (!isAddress(remote) || addressFamily(remote) !== family) {
    refuse(['metadata', 'annotations', names.ip], `not an ${family} address`);
    return null;
  }
  return {
    family,
    kind: 'vxlan',
    remote: addressText(addressBytes(remote)),
    port: FLANNEL_VXLAN_PORT,
    vni: data.VNI,
    mac: data.VtepMAC,
  };
}

function backendData(
  text: string | undefined, name: string, refuse: Refuse,
): v.InferOutput<typeof BackendData> {
  if (text === undefined || text === '') return null;
  const path = ['metadata', 'annotations', name];
  try {
    const parsed = v.safeParse(BackendData, JSON.parse(text));
    if (parsed.success) return parsed.output;
    for (const issue of parsed.issues) {
      const reason = [fieldPath(issuePath(issue)), issueReason(issue)];
      refuse(path, reason.filter((part) => part !== '').join(': '));
    }
  } catch {
    refuse(path, 'not JSON');
  }
  return null;
}

function podEntry(object: v.InferOutput<typeof PodObjectSchema>, place: string): Entry {
  const { metadata, spec, status } = object;
  const { namespace = 'default', name, uid = '' } = metadata;
  const single = status?.podIP ? [status.podIP] : [];
  const listed = (status?.podIPs ?? []).map(({ ip }) => ip);
  const finished = status?.phase === 'Succeeded' || status?.phase === 'Failed';
  return {
    kind: 'Pod',
    key: `${namespace}/${name}`,
    place,
    nodeName: spec?.nodeName ?? '',
    hasNetwork: !finished && spec?.hostNetwork !== true,
    pod: { namespace, name, uid, addresses: unique(listed.length > 0 ? listed : single) },
  };
}

function namespaceEntry(object: v.InferOutput<typeof NamespaceSchema>, place: string): Entry {
  return { kind: 'Namespace', key: object.metadata.name, place };
}

function unique(values: readonly string[]): string[] {
  return [...new Set(values)];
}
