// The one definition of what travels between sidecar, CNI plugin, command line and host: plain
// data. `frame.ts` is the codec that carries it. Addresses, prefixes and MACs are text in their
// canonical forms (RFC 5952 for IPv6); sizes are bytes.

import * as v from 'valibot';
import { isAddress, isMac, isPrefix } from './address.ts';

const Address = v.pipe(v.string(), v.check(isAddress, 'not an IP address'));
const Prefix = v.pipe(v.string(), v.check(isPrefix, 'not a prefix in CIDR form'));
const Mac = v.pipe(v.string(), v.check(isMac, 'not a unicast MAC address'));
const Name = v.pipe(v.string(), v.minLength(1), v.maxLength(253));
const Port = v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(65535));

/** One way to reach a cluster node: an encapsulation and where its packets go (a dual-stack flannel
 * node has two, one per address family). Pod packets of `family` take it. */
export const TunnelSchema = v.strictObject({
  family: v.picklist(['IPv4', 'IPv6']),
  kind: v.picklist(['vxlan']),
  remote: Address,
  port: Port,
  vni: v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(0xffffff)),
  mac: Mac,
});
export type Tunnel = v.InferOutput<typeof TunnelSchema>;

/** A node of the cluster as the sidecar describes it, our own included. */
export const ClusterNodeSchema = v.strictObject({
  name: Name,
  podCidrs: v.pipe(v.array(Prefix), v.maxLength(16)),
  addresses: v.pipe(v.array(Address), v.maxLength(64)),
  tunnels: v.pipe(v.array(TunnelSchema), v.maxLength(2)),
});
export type ClusterNode = v.InferOutput<typeof ClusterNodeSchema>;

/** A port of the node that leads to one of a pod's. `hostIP` is the node's address to listen at;
 * empty, or unspecified (0.0.0.0, ::), stands for all that node ports are served at. */
export const HostPortSchema = v.strictObject({
  protocol: v.picklist(['TCP', 'UDP', 'SCTP']),
  hostPort: Port,
  containerPort: Port,
  hostIP: v.union([v.literal(''), Address]),
});
export type HostPort = v.InferOutput<typeof HostPortSchema>;

/** A pod that runs on this node, as the cluster describes it. */
export const PodSchema = v.strictObject({
  namespace: Name,
  name: Name,
  uid: v.pipe(v.string(), v.maxLength(128)),
  addresses: v.pipe(v.array(Address), v.maxLength(16)),
  hostPorts: v.exactOptional(v.pipe(v.array(HostPortSchema), v.maxLength(128))),
});
export type Pod = v.InferOutput<typeof PodSchema>;

// Policy, as the core sees it: docs/POLICY.md. Numbers are the sidecar's; it does not give one a
// new meaning while anything uses it.

const Number32 = v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(0xffffffff));
const IdentityNumber = v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(0xfffff));
const RuleNumber = v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(0xffffff));

/** Boundaries of a program: [key, answer], ascending, the first key 0. */
export const ProgramSchema = v.pipe(
  v.array(v.tuple([Number32, Number32])), v.minLength(1), v.maxLength(4096));
export type Program = v.InferOutput<typeof ProgramSchema>;

/** A pod's effective policy in one direction. `number` is 1 or more; 0 allows everything.
 * `fallback` and the entries' second members are indexes of `programs`. */
export const RuleSetSchema = v.strictObject({
  number: Number32,
  programs: v.pipe(v.array(ProgramSchema), v.minLength(1)),
  fallback: Number32,
  entries: v.array(v.tuple([IdentityNumber, Number32])),
});
export type RuleSet = v.InferOutput<typeof RuleSetSchema>;

/** A local pod's two rule sets. */
export const EndpointPolicySchema = v.strictObject({
  namespace: Name,
  name: Name,
  uid: v.pipe(v.string(), v.maxLength(128)),
  ingress: Number32,
  egress: Number32,
});
export type EndpointPolicy = v.InferOutput<typeof EndpointPolicySchema>;

/** What a rule number means: the policy as `NetworkPolicy shop/allow-web`, the rule as
 * `ingress[0]`. */
export const RuleNameSchema = v.strictObject({
  number: RuleNumber, policy: v.string(), rule: v.string(),
});
export type RuleName = v.InferOutput<typeof RuleNameSchema>;

/** A change of policy; a snapshot's policy is the change from nothing. `identities` are
 * [prefix, identity], identity 0 removes the prefix. */
export const PolicyChangeSchema = v.strictObject({
  identities: v.array(v.tuple([Prefix, IdentityNumber])),
  ruleSets: v.array(RuleSetSchema),
  removedRuleSets: v.array(Number32),
  endpoints: v.array(EndpointPolicySchema),
  removedEndpoints: v.array(v.strictObject({ namespace: Name, name: Name })),
  rules: v.array(RuleNameSchema),
  removedRules: v.array(RuleNumber),
});
export type PolicyChange = v.InferOutput<typeof PolicyChangeSchema>;

// Services, as the core serves them: docs/SERVICES.md.

/** Who answers in a Service's place. A draining one keeps its flows and gets none but where no
 * other is ready. `local` says that it runs on this node; node ports ask for it. */
export const BackendSchema = v.strictObject({
  address: Address, port: Port, state: v.picklist(['ready', 'draining']),
  local: v.exactOptional(v.boolean()),
});
export type Backend = v.InferOutput<typeof BackendSchema>;

export const ServicePortSchema = v.strictObject({
  name: v.pipe(v.string(), v.maxLength(253)),
  protocol: v.picklist(['TCP', 'UDP', 'SCTP']),
  port: Port,
  /** The port of every node that leads to the backends, too; absent where there is none. */
  nodePort: v.exactOptional(Port),
  backends: v.pipe(v.array(BackendSchema), v.maxLength(10_000)),
});
export type ServicePort = v.InferOutput<typeof ServicePortSchema>;

/** A Service with addresses of its own. Each address is served by the backends of its family.
 * `affinitySeconds` is how long a client keeps its backend, 0 for no longer than a connection;
 * `empty` what its packets get while there is no backend. The last two are for node ports alone:
 * `externalLocal` keeps them to this node's backends, `proxyProtocol` tells backends who the client
 * is (PROXY protocol of HAProxy, by version). */
export const ServiceSchema = v.strictObject({
  namespace: Name,
  name: Name,
  addresses: v.pipe(v.array(Address), v.maxLength(16)),
  ports: v.pipe(v.array(ServicePortSchema), v.maxLength(128)),
  affinitySeconds: v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(86_400)),
  empty: v.picklist(['reject', 'drop']),
  externalLocal: v.exactOptional(v.boolean()),
  proxyProtocol: v.exactOptional(v.picklist(['none', 'v1', 'v2'])),
});
export type Service = v.InferOutput<typeof ServiceSchema>;

export const ServiceNameSchema = v.strictObject({ namespace: Name, name: Name });

/** A change of Services: whole ones, by namespace and name. */
export interface ServiceChange {
  services: Service[];
  removedServices: v.InferOutput<typeof ServiceNameSchema>[];
}

export const RevisionSchema = v.pipe(v.number(), v.safeInteger(), v.minValue(0));

/** Everything the host must know, at one revision. `local` is the name of the node it is for;
 * `policy` is the change from nothing, absent where the sidecar does not do policy, and so are
 * `services`. */
export const SnapshotSchema = v.strictObject({
  revision: RevisionSchema,
  local: Name,
  nodes: v.array(ClusterNodeSchema),
  pods: v.array(PodSchema),
  policy: v.exactOptional(PolicyChangeSchema),
  services: v.exactOptional(v.array(ServiceSchema)),
});
export type Snapshot = v.InferOutput<typeof SnapshotSchema>;

/** What changed from one revision to the next. Nodes are known by name, pods by namespace/name. */
export const DeltaSchema = v.strictObject({
  from: RevisionSchema,
  to: RevisionSchema,
  nodes: v.array(ClusterNodeSchema),
  removedNodes: v.array(Name),
  pods: v.array(PodSchema),
  removedPods: v.array(v.strictObject({ namespace: Name, name: Name })),
  policy: v.exactOptional(PolicyChangeSchema),
  services: v.exactOptional(v.array(ServiceSchema)),
  removedServices: v.exactOptional(v.array(ServiceNameSchema)),
});
export type Delta = v.InferOutput<typeof DeltaSchema>;

/** A local pod's attachment. `device` is TUN unless the pod needs Ethernet. */
export const EndpointSchema = v.strictObject({
  namespace: Name,
  name: Name,
  uid: v.pipe(v.string(), v.maxLength(128)),
  device: v.picklist(['tun', 'tap']),
  interfaceName: v.pipe(v.string(), v.regex(/^[A-Za-z0-9_.-]{1,15}$/)),
  addresses: v.pipe(v.array(Address), v.minLength(1), v.maxLength(16)),
  mtu: v.pipe(v.number(), v.integer(), v.minValue(576), v.maxValue(65535)),
  netns: v.pipe(v.string(), v.maxLength(4096)),
});
export type Endpoint = v.InferOutput<typeof EndpointSchema>;

/** Where a route leads. `via` names the cluster node of a peer, the pod of an
 * endpoint, or the Service. */
export interface Route {
  prefix: string;
  kind: 'peer' | 'endpoint' | 'node' | 'outside' | 'unreachable' | 'prohibit' | 'blackhole'
    | 'service';
  via: string | null;
}

// ---------------------------------------------------------------------------------------------
// Messages between sidecar and host. A snapshot travels in parts, so that no frame is large:
// `snapshot.begin`, any number of `snapshot.part`, `snapshot.commit`; afterwards `delta`. Each is a
// request: it is answered before the next is sent.

/** Most nodes, and most pods, in one `snapshot.part`: the largest possible fits a frame. */
export const PART_LIMIT = 200;

const Count = v.pipe(v.number(), v.safeInteger(), v.minValue(0));

export const SnapshotBeginSchema = v.strictObject({
  revision: RevisionSchema,
  local: Name,
  counts: v.strictObject({ nodes: Count, pods: Count }),
});
export type SnapshotBegin = v.InferOutput<typeof SnapshotBeginSchema>;

export const SnapshotPartSchema = v.strictObject({
  nodes: v.exactOptional(v.pipe(v.array(ClusterNodeSchema), v.maxLength(PART_LIMIT))),
  pods: v.exactOptional(v.pipe(v.array(PodSchema), v.maxLength(PART_LIMIT))),
  policy: v.exactOptional(PolicyChangeSchema),
  services: v.exactOptional(v.pipe(v.array(ServiceSchema), v.maxLength(PART_LIMIT))),
});
export type SnapshotPart = v.InferOutput<typeof SnapshotPartSchema>;

export const SnapshotCommitSchema = v.strictObject({ revision: RevisionSchema });

/** The answer to `snapshot.commit` and `delta`. `resync` asks for a whole snapshot; `revision` is
 * the one the host has, null for none. */
export const RevisionAnswerSchema = v.strictObject({
  status: v.picklist(['applied', 'resync']),
  revision: v.nullable(RevisionSchema),
});
export type RevisionAnswer = v.InferOutput<typeof RevisionAnswerSchema>;

// What the daemon answers on control.sock.

const Traffic = { rxPackets: Count, rxBytes: Count, txPackets: Count, txBytes: Count };
const Counters = v.record(v.string(), Count);

/** Lists come in pages, so that each fits a frame; `from` counts entries. */
export const PageQuerySchema = v.strictObject({ from: Count });
export const PAGE_LIMIT = 1000;

/** A page of a list; `next` is where the next one starts, null after the last. */
export const pageOf = <S extends v.GenericSchema>(entry: S) =>
  v.strictObject({ entries: v.array(entry), next: v.nullable(Count) });

/** `endpoint.remove`. */
export const EndpointNameSchema = v.strictObject({ namespace: Name, name: Name });

/** `route.get`. */
export const RouteQuerySchema = v.strictObject({ address: Address });

/** A remote node's tunnel, with what went through it. */
export const PeerReportSchema = v.strictObject({
  ...TunnelSchema.entries,
  node: Name,
  podCidrs: v.array(Prefix),
  mtu: Count,
  ...Traffic,
});
export type PeerReport = v.InferOutput<typeof PeerReportSchema>;

export const RouteReportSchema = v.strictObject({
  prefix: Prefix,
  kind: v.picklist(
    ['peer', 'endpoint', 'node', 'outside', 'unreachable', 'prohibit', 'blackhole', 'service']),
  via: v.nullable(v.string()),
});

export const EndpointReportSchema = v.strictObject({
  namespace: Name,
  name: Name,
  uid: v.string(),
  device: v.string(),
  kind: v.picklist(['tun', 'tap']),
  addresses: v.array(Address),
  state: v.picklist(['pending', 'closed', 'ready', 'lost']),
  ...Traffic,
});

/** `status`. Drops are packets by reason, for each direction. */
export const StatusReportSchema = v.strictObject({
  version: v.string(),
  nodeName: Name,
  pid: Count,
  uptimeSeconds: Count,
  device: v.strictObject({
    name: v.string(), mtu: Count, addresses: v.array(Address), state: v.picklist(['ready', 'lost']),
  }),
  underlay: v.strictObject({
    interface: v.string(), addresses: v.array(Address), port: Port, mtu: Count,
  }),
  dataPlane: v.strictObject({
    running: v.boolean(), tier: v.string(), crashes: Count, memoryBytes: Count,
    workers: v.array(v.strictObject({
      running: v.boolean(), crashes: Count, rxPackets: Count, rxBytes: Count,
    })),
  }),
  sync: v.strictObject({
    connected: v.boolean(), revision: v.nullable(RevisionSchema), problems: v.array(v.string()),
  }),
  policy: v.strictObject({ known: v.boolean(), endpoints: Count, ruleSets: Count }),
  nodes: Count,
  pods: Count,
  endpoints: Count,
  traffic: v.strictObject({ node: v.strictObject(Traffic) }),
  drops: v.strictObject({ outbound: Counters, inbound: Counters }),
  events: Counters,
  control: Counters,
  nodePorts: Counters,
  tables: v.array(v.strictObject({ name: v.string(), used: Count, limit: Count })),
});
export type StatusReport = v.InferOutput<typeof StatusReportSchema>;

/** A judgement, as `culvert observe` shows it. Ports are 0 where the protocol has none. */
export const VerdictReportSchema = v.strictObject({
  time: v.string(),
  direction: v.picklist(['ingress', 'egress']),
  allowed: v.boolean(),
  source: Address,
  sourcePod: v.nullable(v.string()),
  sourceIdentity: Count,
  sourcePort: Count,
  destination: Address,
  destinationPod: v.nullable(v.string()),
  destinationIdentity: Count,
  destinationPort: Count,
  protocol: Count,
  tcpFlags: Count,
  policy: v.nullable(v.string()),
  rule: v.nullable(v.string()),
});
export type VerdictReport = v.InferOutput<typeof VerdictReportSchema>;

/** `verdicts`, a notification to those who follow; `lost` were overwritten before being read. */
export const VerdictsSchema = v.strictObject({
  verdicts: v.array(VerdictReportSchema), lost: Count,
});
