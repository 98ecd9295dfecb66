// The one definition of what travels between sidecar, CNI plugin, command line and host: plain
// data. `frame.ts` is the codec that carries it. Addresses, prefixes and MACs are text in their
// canonical forms (RFC 5952 for IPv6); sizes are bytes.

import * as v from 'valibot';
import { Address, Count, Mac, Name, Port, Prefix } from './fields.ts';
import { ModuleStateSchema } from './model-modules.ts';
import { ServiceNameSchema, ServiceSchema } from './service.ts';

export * from './model-source.ts';
export * from './service.ts';

const Vni = v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(0xffffff));
/** Longest reason that is told of a tunnel. */
export const WHY_LIMIT = 160;
/** What each kind of tunnel needs. Where no port is said, it is the cluster's, which the host's
 * configuration has. Geneve without a MAC carries IP packets, with one Ethernet frames. What is
 * `direct` goes to its remote, on our link, as it is. */
const KINDS = {
  vxlan: { kind: v.literal('vxlan'), port: v.exactOptional(Port), vni: Vni, mac: Mac },
  geneve: {
    kind: v.literal('geneve'), port: v.exactOptional(Port), vni: Vni, mac: v.nullable(Mac),
  },
  ipip: { kind: v.literal('ipip') },
  udp: { kind: v.literal('udp'), port: v.exactOptional(Port) },
  direct: { kind: v.literal('direct') },
};

/** A kind with what it needs. */
export const AlternativeSchema = v.variant('kind', [
  v.strictObject(KINDS.vxlan), v.strictObject(KINDS.geneve), v.strictObject(KINDS.ipip),
  v.strictObject(KINDS.udp), v.strictObject(KINDS.direct),
]);
export type Alternative = v.InferOutput<typeof AlternativeSchema>;

/** What all tunnels have. `why` tells the operator why it is this one; `alternative` is what the
 * other end may choose in its place, for the same packets, and is taken from it too. */
const TunnelBase = {
  family: v.picklist(['IPv4', 'IPv6']),
  remote: Address,
  why: v.exactOptional(v.pipe(v.string(), v.maxLength(WHY_LIMIT))),
  alternative: v.exactOptional(AlternativeSchema),
};

/** One way to reach a cluster node: an encapsulation, or none, and where its packets go (a
 * dual-stack flannel node has two, one per address family). Pod packets of `family` take it. */
export const TunnelSchema = v.variant('kind', [
  v.strictObject({ ...TunnelBase, ...KINDS.vxlan }),
  v.strictObject({ ...TunnelBase, ...KINDS.geneve }),
  v.strictObject({ ...TunnelBase, ...KINDS.ipip }),
  v.strictObject({ ...TunnelBase, ...KINDS.udp }),
  v.strictObject({ ...TunnelBase, ...KINDS.direct }),
]);
export type Tunnel = v.InferOutput<typeof TunnelSchema>;
export type VxlanTunnel = Extract<Tunnel, { kind: 'vxlan' }>;

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

/** Most host ports of a pod. */
export const HOST_PORT_LIMIT = 128;

/** A pod that runs on this node, as the cluster describes it. */
export const PodSchema = v.strictObject({
  namespace: Name,
  name: Name,
  uid: v.pipe(v.string(), v.maxLength(128)),
  addresses: v.pipe(v.array(Address), v.maxLength(16)),
  hostPorts: v.exactOptional(v.pipe(v.array(HostPortSchema), v.maxLength(HOST_PORT_LIMIT))),
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
// request; they are heard in their order, and answered in it.

/** Most nodes, and most pods, in one `snapshot.part`: the largest possible fits a frame. Pods with
 * many host ports are fewer (sync/outbox.ts). */
export const PART_LIMIT = 200;

/** Names one run of a sidecar: revisions of one session count on over its connections. */
const Session = v.pipe(v.string(), v.minLength(1), v.maxLength(64));

export const SnapshotBeginSchema = v.strictObject({
  revision: RevisionSchema,
  local: Name,
  counts: v.strictObject({ nodes: Count, pods: Count }),
  session: v.exactOptional(Session),
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

/** `resume`: does the host still have what it was told before? The answer is `applied` with the
 * revision that it has, from which deltas go on, or `resync`. */
export const ResumeSchema = v.strictObject({ session: Session });

/** What the cluster may be told of this node: the answer to `node.follow`, and the notification
 * `node` to who has asked that. Who has an address in `prefix` is on our link. `mac` is what the
 * node's tunnels have where the cluster says no other. */
export const NodeFactsSchema = v.strictObject({
  underlay: v.array(v.strictObject({
    family: v.picklist(['IPv4', 'IPv6']), address: Address, prefix: Prefix, mtu: Count,
  })),
  podNetworks: v.array(Prefix),
  port: Port,
  tier: v.string(),
  mac: v.strictObject({ IPv4: Mac, IPv6: Mac }),
  version: v.string(),
});
export type NodeFacts = v.InferOutput<typeof NodeFactsSchema>;

/** The pods attached to this node, with the addresses they were given here: the answer to
 * `endpoint.follow`, and the notification `endpoints` to who has asked that. */
export const LocalEndpointsSchema = v.strictObject({ endpoints: v.array(PodSchema) });

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
  ...TunnelBase,
  kind: v.picklist(['vxlan', 'geneve', 'ipip', 'udp', 'direct']),
  port: v.exactOptional(Port),
  vni: v.exactOptional(Vni),
  mac: v.exactOptional(v.nullable(Mac)),
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

/** Why a pod's device is of no use to the next daemon: it has `ended`, it is of a daemon with
 * another number of `workers`, or of a `tier` with a vnet header where ours has none, or the other
 * way round. */
export const LOSS_REASONS = ['ended', 'workers', 'tier'] as const;
export type LossReason = (typeof LOSS_REASONS)[number];

/** `status`. `sync.staleSince` is the time from which on the state in force may not be that of the
 * cluster any more, null while it is. Drops are packets by reason, for each direction. `handover`
 * is what an earlier daemon has left, `flows` being null where no table could be used, and who
 * keeps things for the next. */
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
  handover: v.strictObject({
    keeper: v.picklist(['holder', 'systemd', 'none']), flows: v.nullable(Count), pods: Count,
    packets: Count, lostPods: Count, lostBecause: v.array(v.picklist(LOSS_REASONS)),
    isClusterKnown: v.boolean(),
  }),
  sync: v.strictObject({
    connected: v.boolean(), revision: v.nullable(RevisionSchema), problems: v.array(v.string()),
    source: v.nullable(v.string()), staleSince: v.nullable(v.string()),
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
  modules: v.array(ModuleStateSchema),
  tables: v.array(v.strictObject({ name: v.string(), used: Count, limit: Count })),
});
export type StatusReport = v.InferOutput<typeof StatusReportSchema>;

/** A judgement, as `culvert observe` shows it. Ports are 0 where the protocol has none; `module` is
 * the one that decided, else policy did. */
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
  module: v.nullable(v.string()),
});
export type VerdictReport = v.InferOutput<typeof VerdictReportSchema>;

/** `verdicts`, a notification to those who follow; `lost` were overwritten before being read. */
export const VerdictsSchema = v.strictObject({
  verdicts: v.array(VerdictReportSchema), lost: Count,
});

// ---------------------------------------------------------------------------------------------
// What the CNI plugin asks of the daemon on control.sock (docs/PODS.md has the whole conversation):
// `cni.add`, then the plugin sets the interface up, then `cni.ready`, `cni.done`; and `cni.del`,
// `cni.check`, `cni.gc`, `cni.status`. Where the connection ends before `cni.done`, the daemon
// takes the pod off again.

const ContainerId = v.pipe(
  v.string(), v.maxLength(128), v.regex(/^[A-Za-z0-9][A-Za-z0-9_.-]*$/, 'not a container id'));
const InterfaceName = v.pipe(
  v.string(), v.regex(/^[A-Za-z0-9_.-]{1,15}$/, 'not an interface name'));
const Path = v.pipe(v.string(), v.maxLength(4096));
const Mtu = v.pipe(v.number(), v.integer(), v.minValue(576), v.maxValue(65535));
/** Most attachments that the runtime may name as valid at once. */
export const VALID_LIMIT = 4096;

/** What tells one attachment from another. */
export const AttachmentKeySchema = v.strictObject({
  containerId: ContainerId, interfaceName: InterfaceName,
});
export type AttachmentKey = v.InferOutput<typeof AttachmentKeySchema>;

/** The pod that an attachment is for. */
export const PodNameSchema = v.strictObject({
  namespace: Name, name: Name, uid: v.pipe(v.string(), v.maxLength(128)),
});
export type PodName = v.InferOutput<typeof PodNameSchema>;

/** `cni.add`. `addresses` are another IPAM plugin's, null for ours to choose; `mtu` null is the
 * overlay's. */
export const CniAddSchema = v.strictObject({
  ...AttachmentKeySchema.entries,
  network: Name,
  netns: Path,
  pod: PodNameSchema,
  mtu: v.nullable(Mtu),
  addresses: v.nullable(v.pipe(v.array(Address), v.minLength(1), v.maxLength(16))),
});
export type CniAdd = v.InferOutput<typeof CniAddSchema>;

/** How a pod's interface is set up inside its namespace. */
export const InterfaceSetUpSchema = v.strictObject({
  name: InterfaceName,
  mtu: Mtu,
  addresses: v.array(Prefix),
  routes: v.array(v.strictObject({ prefix: Prefix, via: v.nullable(Address) })),
  linkLocalIpv6: v.boolean(),
});
export type InterfaceSetUp = v.InferOutput<typeof InterfaceSetUpSchema>;

/** The answer to `cni.add`: the interface as it is now, and as it is to be. */
export const CniAddAnswerSchema = v.strictObject({
  device: InterfaceName, setUp: InterfaceSetUpSchema,
});
export type CniAddAnswer = v.InferOutput<typeof CniAddAnswerSchema>;

/** The answer to `cni.check`: what the interface must be like. */
export const CniCheckAnswerSchema = v.strictObject({ setUp: InterfaceSetUpSchema });

/** What is wrong with a request about an attachment, as the failure's code says. */
export const CNI_FAILURES = {
  tryAgain: 'try-again', attached: 'attached', unknown: 'unknown-container', lost: 'lost',
} as const;

/** Folder, in the runtime directory, of the notes that the plugin leaves while no daemon runs: one
 * file per attachment that has ended, named `CONTAINER_INTERFACE`, holding a frame of its key. */
export const ENDED_FOLDER = 'ended';

/** The name of an attachment's note. */
export function endedFileName({ containerId, interfaceName }: AttachmentKey): string {
  return `${containerId}_${interfaceName}`;
}

/** `cni.gc`: whatever else is attached to the network is left over. */
export const CniGcSchema = v.strictObject({
  network: Name, valid: v.pipe(v.array(AttachmentKeySchema), v.maxLength(VALID_LIMIT)),
});
export type CniGc = v.InferOutput<typeof CniGcSchema>;

/** `cni.status`. `hasOwnIpam` is false where another IPAM plugin gives the addresses. */
export const CniStatusSchema = v.strictObject({ hasOwnIpam: v.boolean() });

/** The answer to `cni.status`: why pods cannot be attached now, or null; and whether the daemon
 * serves the host ports of pods. */
export const CniStatusAnswerSchema = v.strictObject({
  reason: v.nullable(v.string()), hostPorts: v.boolean(),
});

/** A pod's attachment as the daemon keeps it on disk. Only what is `ready` has been promised to the
 * runtime. `boot` names the run of the kernel that it was made in. */
export const AttachmentSchema = v.strictObject({
  ...AttachmentKeySchema.entries,
  network: Name,
  netns: Path,
  pod: PodNameSchema,
  mtu: Mtu,
  addresses: v.pipe(v.array(Address), v.minLength(1), v.maxLength(16)),
  isDelegated: v.boolean(),
  state: v.picklist(['claimed', 'ready']),
  boot: v.pipe(v.string(), v.maxLength(64)),
});
export type Attachment = v.InferOutput<typeof AttachmentSchema>;

/** The file of a pod's addresses: who has them, or since when (Unix time) nobody has. */
export const AddressFileSchema = v.strictObject({
  attachment: v.nullable(AttachmentSchema), releasedMs: Count,
});
