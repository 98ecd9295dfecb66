// ClusterNetworkPolicy, policy.networking.k8s.io/v1alpha2: checked as its CustomResourceDefinition
// checks it (apis/v1alpha2/clusternetworkpolicy_types.go of network-policy-api).
//
// A rule with a field that we do not know fails closed, as the API documentation asks: an Accept
// rule then matches nothing, a Deny or Pass rule denies everything. Domain names are such a field:
// they cannot be told from a packet.

import * as v from 'valibot';
import {
  Metadata, Port, Prefix, maybe, unknownFields,
} from '../fields.ts';
import type { Path, Refuse } from '../fields.ts';
import { TIER_ADMIN, TIER_BASELINE, portRange } from './rules.ts';
import type { Direction, Part, Peer, Policy, PortName, Ports, Rule } from './rules.ts';
import { EVERYTHING, SelectorSchema, isForeign, readSelector } from './selector.ts';

const LIST_LIMIT = 25;
const NAME_LIMIT = 100;
const PORT_LAST = 0xffff;
const TRANSPORTS = ['tcp', 'udp', 'sctp'] as const;

function list<S extends v.GenericSchema>(schema: S) {
  return v.pipe(v.array(schema), v.minLength(1, 'needs at least one item'),
    v.maxLength(LIST_LIMIT, `more than ${LIST_LIMIT} items`));
}

const PodsSchema = v.looseObject({
  namespaceSelector: maybe(SelectorSchema),
  podSelector: SelectorSchema,
});
type PodsObject = v.InferOutput<typeof PodsSchema>;

const SubjectSchema = v.looseObject({
  namespaces: maybe(SelectorSchema),
  pods: maybe(PodsSchema),
});

const PeerSchema = v.looseObject({
  namespaces: maybe(SelectorSchema),
  pods: maybe(PodsSchema),
  nodes: maybe(SelectorSchema),
  networks: maybe(v.pipe(list(v.string()),
    v.check((all) => new Set(all).size === all.length, 'names a network twice'),
    v.array(Prefix))),
});
type PeerObject = v.InferOutput<typeof PeerSchema>;

const TransportSchema = v.looseObject({
  destinationPort: maybe(v.looseObject({
    number: maybe(Port),
    range: maybe(v.object({ start: Port, end: Port })),
  })),
});
type TransportObject = v.InferOutput<typeof TransportSchema>;

const ProtocolSchema = v.looseObject({
  tcp: maybe(TransportSchema),
  udp: maybe(TransportSchema),
  sctp: maybe(TransportSchema),
  destinationNamedPort: maybe(v.string()),
});
type ProtocolObject = v.InferOutput<typeof ProtocolSchema>;

const RuleFields = {
  name: maybe(v.pipe(v.string(),
    v.maxLength(NAME_LIMIT, `longer than ${NAME_LIMIT} characters`))),
  action: v.picklist(['Accept', 'Deny', 'Pass'], 'not one of Accept, Deny, Pass'),
  protocols: maybe(list(ProtocolSchema)),
};
const IngressSchema = v.looseObject({ ...RuleFields, from: list(PeerSchema) });
const EgressSchema = v.looseObject({ ...RuleFields, to: list(PeerSchema) });
type RuleObject = v.InferOutput<v.ObjectSchema<typeof RuleFields, undefined>>;

const Rules = <S extends v.GenericSchema>(schema: S) => maybe(v.pipe(v.array(schema),
  v.maxLength(LIST_LIMIT, `more than ${LIST_LIMIT} rules`)));

export const ClusterPolicySchema = v.object({
  metadata: v.object(Metadata),
  spec: v.object({
    tier: v.picklist(['Admin', 'Baseline'], 'not one of Admin, Baseline'),
    priority: v.pipe(v.number(), v.integer(), v.minValue(0, 'not between 0 and 1000'),
      v.maxValue(1000, 'not between 0 and 1000')),
    subject: SubjectSchema,
    ingress: Rules(IngressSchema),
    egress: Rules(EgressSchema),
  }),
});

/** Reads the policy; what is refused makes the outcome void. */
export function readClusterPolicy(
  { metadata, spec }: v.InferOutput<typeof ClusterPolicySchema>, refuse: Refuse,
): Policy {
  const { namespaces, pods } = spec.subject;
  const path = ['spec', 'subject'];
  if ((namespaces === undefined) === (pods === undefined)) {
    refuse(path, 'needs one of namespaces and pods');
  }
  return {
    title: `ClusterNetworkPolicy ${metadata.name}`,
    tier: spec.tier === 'Admin' ? TIER_ADMIN : TIER_BASELINE,
    priority: spec.priority,
    ...pods === undefined
      ? { namespaces: readSelector(namespaces, [...path, 'namespaces'], refuse), pods: EVERYTHING }
      : readPods(pods, [...path, 'pods'], refuse),
    ingress: readPart('ingress', (spec.ingress ?? []).map((rule) => [rule, rule.from]), refuse),
    egress: readPart('egress', (spec.egress ?? []).map((rule) => [rule, rule.to]), refuse),
  };
}

function readPods(
  { namespaceSelector, podSelector }: PodsObject, path: Path, refuse: Refuse,
): Pick<Policy, 'namespaces' | 'pods'> {
  return {
    namespaces: readSelector(namespaceSelector, [...path, 'namespaceSelector'], refuse),
    pods: readSelector(podSelector, [...path, 'podSelector'], refuse),
  };
}

function readPart(
  direction: Direction, objects: readonly [RuleObject, readonly PeerObject[]][], refuse: Refuse,
): Part | null {
  const rules: Rule[] = [];
  for (const [index, [rule, from]] of objects.entries()) {
    const path = ['spec', direction, index];
    const side = direction === 'ingress' ? 'from' : 'to';
    const peers = from.flatMap((peer, at) =>
      readPeer(peer, direction, [...path, side, at], refuse));
    const ports = readProtocols(rule.protocols, [...path, 'protocols'], refuse);
    if (ports !== null && from.some(hasNoPortNames)) refuseNames(rule, path, refuse);
    const text = `${direction}[${index}]${rule.name ? ` ${rule.name}` : ''}`;
    if (!isForeignRule(rule, side, from, direction)) {
      rules.push({ text, action: ACTIONS[rule.action], peers, ports });
    } else if (rule.action !== 'Accept') {
      rules.push({ text, action: 'deny', peers: null, ports: null });
    }
  }
  return rules.length === 0 ? null : { isolates: false, rules };
}

const ACTIONS = { Accept: 'allow', Deny: 'deny', Pass: 'pass' } as const;

/** Peers that are no pods have no names for ports. */
function hasNoPortNames(peer: PeerObject): boolean {
  return Boolean(peer.nodes ?? peer.networks ?? peer['domainNames']);
}

function refuseNames({ protocols = [] }: RuleObject, path: Path, refuse: Refuse): void {
  for (const [index, { destinationNamedPort }] of protocols.entries()) {
    if (destinationNamedPort === undefined) continue;
    refuse([...path, 'protocols', index, 'destinationNamedPort'],
      'nodes, networks and domainNames have no named ports');
  }
}

function knownPeers(direction: Direction): string[] {
  return direction === 'ingress' ? ['namespaces', 'pods']
    : ['namespaces', 'pods', 'nodes', 'networks'];
}

function isForeignRule(
  rule: RuleObject, side: string, peers: readonly PeerObject[], direction: Direction,
): boolean {
  return unknownFields(rule, ['name', 'action', 'protocols', side]).length > 0
    || peers.some((peer) => unknownFields(peer, knownPeers(direction)).length > 0
      || unknownFields(peer.pods ?? {}, ['namespaceSelector', 'podSelector']).length > 0
      || [peer.namespaces, peer.nodes, peer.pods?.namespaceSelector, peer.pods?.podSelector]
        .some(isForeign))
    || (rule.protocols ?? []).some(isForeignProtocol);
}

function isForeignProtocol(protocol: ProtocolObject): boolean {
  return unknownFields(protocol, [...TRANSPORTS, 'destinationNamedPort']).length > 0
    || TRANSPORTS.some((name) => unknownFields(protocol[name] ?? {}, ['destinationPort']).length > 0
      || unknownFields(protocol[name]?.destinationPort ?? {}, ['number', 'range']).length > 0);
}

/** None for a peer that only a newer version would know. */
function readPeer(peer: PeerObject, direction: Direction, path: Path, refuse: Refuse): Peer[] {
  const fields = unknownFields(peer, []);
  if (fields.length !== 1) refuse(path, `needs exactly one field, has ${fields.length}`);
  if (peer.namespaces !== undefined) {
    const namespaces = readSelector(peer.namespaces, [...path, 'namespaces'], refuse);
    return [{ kind: 'pods', namespaces, pods: EVERYTHING }];
  }
  if (peer.pods !== undefined) {
    return [{ kind: 'pods', ...readPods(peer.pods, [...path, 'pods'], refuse) }];
  }
  if (direction === 'ingress') return [];
  if (peer.nodes !== undefined) {
    return [{ kind: 'nodes', nodes: readSelector(peer.nodes, [...path, 'nodes'], refuse) }];
  }
  return (peer.networks ?? []).map((cidr): Peer => ({ kind: 'block', cidr, except: [] }));
}

function readProtocols(
  objects: readonly ProtocolObject[] | undefined, path: Path, refuse: Refuse,
): Ports | null {
  if (objects === undefined) return null;
  const ranges: number[] = [];
  const names: PortName[] = [];
  for (const [index, object] of objects.entries()) {
    const at = [...path, index];
    const fields = unknownFields(object, []);
    if (fields.length !== 1) refuse(at, `needs exactly one field, has ${fields.length}`);
    const { destinationNamedPort: name } = object;
    if (name !== undefined) names.push({ name, protocol: null });
    for (const transport of TRANSPORTS) {
      const match = object[transport];
      if (match !== undefined) ranges.push(...readRange(match, transport, at, refuse));
    }
  }
  return { ranges, names };
}

function readRange(
  match: TransportObject, transport: typeof TRANSPORTS[number], path: Path, refuse: Refuse,
): [number, number] {
  const protocol = ({ tcp: 'TCP', udp: 'UDP', sctp: 'SCTP' } as const)[transport];
  const { destinationPort: port } = match;
  if (unknownFields(match, []).length === 0) refuse([...path, transport], 'is empty');
  if (port === undefined) return portRange(protocol, 0, PORT_LAST);
  const at = [...path, transport, 'destinationPort'];
  const fields = unknownFields(port, []);
  if (fields.length !== 1) refuse(at, `needs one of number and range, has ${fields.length} fields`);
  if (port.range === undefined) return portRange(protocol, port.number ?? 0, port.number ?? 0);
  const { start, end } = port.range;
  if (start >= end) refuse([...at, 'range'], `start is ${start}, not less than end, ${end}`);
  return portRange(protocol, start, end);
}

