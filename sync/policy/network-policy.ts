// NetworkPolicy, networking.k8s.io/v1: checked as the API server checks it
// (pkg/apis/networking/validation), defaults filled in (pkg/apis/networking/v1/defaults.go).
//
// A rule with a field that we do not know allows nothing: what that field would have asked for
// cannot be told, and the pods stay isolated.

import * as v from 'valibot';
import { isPrefix, prefixHolds, prefixKey, prefixText } from '../../engine/address.ts';
import {
  Metadata, Name, PROTOCOL_NUMBERS, Protocol, compareText, isPortName, maybe, unknownFields,
} from '../fields.ts';
import type { Path, Refuse } from '../fields.ts';
import { TIER_NETWORK_POLICY, portRange } from './rules.ts';
import type { Part, Peer, Policy, PortName, Ports, Rule } from './rules.ts';
import { SelectorSchema, EVERYTHING, isForeign, namespaceNamed, readSelector } from './selector.ts';

const NO_PORT = 'not a port number or the name of a port';

const PortSchema = v.looseObject({
  protocol: maybe(Protocol),
  port: maybe(v.union([v.pipe(v.number(), v.integer(NO_PORT)), v.string()], NO_PORT)),
  endPort: maybe(v.pipe(v.number(), v.integer())),
});
type PortObject = v.InferOutput<typeof PortSchema>;

const BlockSchema = v.looseObject({ cidr: v.string(), except: maybe(v.array(v.string())) });
type BlockObject = v.InferOutput<typeof BlockSchema>;

const PeerSchema = v.looseObject({
  podSelector: maybe(SelectorSchema),
  namespaceSelector: maybe(SelectorSchema),
  ipBlock: maybe(BlockSchema),
});
type PeerObject = v.InferOutput<typeof PeerSchema>;

const RuleSchema = v.looseObject({
  from: maybe(v.array(PeerSchema)),
  to: maybe(v.array(PeerSchema)),
  ports: maybe(v.array(PortSchema)),
});
type RuleObject = v.InferOutput<typeof RuleSchema>;

export const NetworkPolicySchema = v.object({
  metadata: v.object({ ...Metadata, namespace: maybe(Name) }),
  spec: maybe(v.object({
    podSelector: maybe(SelectorSchema),
    policyTypes: maybe(v.pipe(
      v.array(v.picklist(['Ingress', 'Egress'], 'not one of Ingress, Egress')),
      v.maxLength(2, 'more than two'))),
    ingress: maybe(v.array(RuleSchema)),
    egress: maybe(v.array(RuleSchema)),
  })),
});

/** Reads the policy; what is refused makes the outcome void. */
export function readNetworkPolicy(
  { metadata, spec }: v.InferOutput<typeof NetworkPolicySchema>, refuse: Refuse,
): Policy {
  const { name, namespace = 'default' } = metadata;
  const types = spec?.policyTypes?.length ? spec.policyTypes
    : [...(spec?.egress?.length ? ['Egress'] : []), 'Ingress'];
  const pods = spec?.podSelector === undefined ? EVERYTHING
    : readSelector(spec.podSelector, ['spec', 'podSelector'], refuse);
  const ingress = readPart(spec?.ingress ?? [], 'ingress', namespace, refuse);
  const egress = readPart(spec?.egress ?? [], 'egress', namespace, refuse);
  return {
    title: ['NetworkPolicy ', namespace, '/', name].join(''),
    tier: TIER_NETWORK_POLICY,
    priority: 0,
    namespaces: namespaceNamed(namespace),
    pods,
    ingress: types.includes('Ingress') ? ingress : null,
    egress: types.includes('Egress') ? egress : null,
  };
}

function readPart(
  objects: readonly RuleObject[], direction: 'ingress' | 'egress', namespace: string,
  refuse: Refuse,
): Part {
  const rules: Rule[] = [];
  for (const [index, object] of objects.entries()) {
    const path = ['spec', direction, index];
    const field = direction === 'ingress' ? 'from' : 'to';
    const peers = (object[field] ?? []).map((peer, at) =>
      readPeer(peer, namespace, [...path, field, at], refuse));
    const ports = readPorts(object.ports ?? [], [...path, 'ports'], refuse);
    if (isForeignRule(object, field)) continue;
    const text = `${direction}[${index}]`;
    rules.push({ text, action: 'allow', peers: peers.length === 0 ? null : peers, ports });
  }
  return { isolates: true, rules };
}

function isForeignRule(object: RuleObject, field: 'from' | 'to'): boolean {
  return unknownFields(object, [field, 'ports']).length > 0
    || (object.ports ?? []).some((port) =>
      unknownFields(port, ['protocol', 'port', 'endPort']).length > 0)
    || (object[field] ?? []).some((peer) =>
      unknownFields(peer, ['podSelector', 'namespaceSelector', 'ipBlock']).length > 0
      || unknownFields(peer.ipBlock ?? {}, ['cidr', 'except']).length > 0
      || isForeign(peer.podSelector) || isForeign(peer.namespaceSelector));
}

function readPeer(
  { podSelector, namespaceSelector, ipBlock }: PeerObject, namespace: string, path: Path,
  refuse: Refuse,
): Peer {
  const pods = readSelector(podSelector, [...path, 'podSelector'], refuse);
  const namespaces = namespaceSelector === undefined ? namespaceNamed(namespace)
    : readSelector(namespaceSelector, [...path, 'namespaceSelector'], refuse);
  if (ipBlock === undefined) {
    if (podSelector === undefined && namespaceSelector === undefined) {
      refuse(path, 'names no peer: podSelector, namespaceSelector or ipBlock is needed');
    }
    return { kind: 'pods', namespaces, pods };
  }
  if (podSelector !== undefined || namespaceSelector !== undefined) {
    refuse(path, 'ipBlock and selectors exclude each other');
  }
  return readBlock(ipBlock, [...path, 'ipBlock'], refuse);
}

function readBlock({ cidr, except = [] }: BlockObject, path: Path, refuse: Refuse): Peer {
  const whole = readCidr(cidr, [...path, 'cidr'], refuse);
  const holes = except.map((text, index) => {
    const at = [...path, 'except', index];
    const hole = readCidr(text, at, refuse);
    if (whole !== null && hole !== null && !isInside(hole, whole)) {
      refuse(at, `not within ${cidr}, or all of it`);
    }
    return hole;
  });
  const texts = new Set(holes.filter((hole) => hole !== null));
  return { kind: 'block', cidr: whole ?? '', except: [...texts].sort(compareText) };
}

/** The prefix in canonical form. Zeros before an octet are decimal, as they always were to Go. */
function readCidr(text: string, path: Path, refuse: Refuse): string | null {
  const plain = text.includes(':') ? text : text.replace(/\b0+(?=\d)/g, '');
  if (isPrefix(plain)) return prefixText(prefixKey(plain));
  refuse(path, 'not a prefix in CIDR form');
  return null;
}

function isInside(inner: string, outer: string): boolean {
  const [address = '', length] = inner.split('/');
  return prefixHolds(outer, address) && Number(length) > Number(outer.split('/')[1]);
}

/** Null for every port and every protocol. */
function readPorts(objects: readonly PortObject[], path: Path, refuse: Refuse): Ports | null {
  if (objects.length === 0) return null;
  const ranges: number[] = [];
  const names: PortName[] = [];
  for (const [index, { protocol = 'TCP', port, endPort }] of objects.entries()) {
    checkPort(port, endPort, [...path, index], refuse);
    if (typeof port === 'string') names.push({ name: port, protocol: PROTOCOL_NUMBERS[protocol] });
    else ranges.push(...portRange(protocol, port ?? 0, endPort ?? port ?? 0xffff));
  }
  return { ranges, names };
}

function checkPort(
  port: number | string | undefined, endPort: number | undefined, path: Path, refuse: Refuse,
): void {
  const isPort = (value: number): boolean => value >= 1 && value <= 0xffff;
  if (typeof port === 'number' && !isPort(port)) {
    refuse([...path, 'port'], 'not between 1 and 65535');
  }
  if (typeof port === 'string' && !isPortName(port)) {
    refuse([...path, 'port'], 'not the name of a port: lower case, with a letter, 15 at most');
  }
  if (endPort === undefined) return;
  const at = [...path, 'endPort'];
  if (typeof port !== 'number') return refuse(at, 'needs a port that is a number');
  if (!isPort(endPort)) refuse(at, 'not between 1 and 65535');
  if (endPort < port) refuse(at, `less than port, which is ${port}`);
}
