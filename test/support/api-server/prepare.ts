// What a server does to an object before it stores it: defaults, normal forms, refusals. The two
// versions differ here, and so does what a policy means afterwards.

import { isIPv4, isIPv6 } from 'node:net';
import type { Fields, KubeObject, ResourceType } from './resources.ts';
import { Refusal, invalid, type Cause } from './status.ts';
import type { Store } from './store.ts';

interface Port extends Fields {
  port?: unknown;
  endPort?: number;
}

interface IpBlock {
  cidr: string;
  except?: string[];
}

interface Peer extends Fields {
  ipBlock?: IpBlock;
}

interface PolicyRule extends Fields {
  ports?: Port[];
}

const ZONE = 'topology.kubernetes.io/zone';

/** A copy as it is stored. Throws a refusal. */
export function prepare(store: Store, type: ResourceType, given: KubeObject): KubeObject {
  if (type.plural === 'pods') return preparePod(store, structuredClone(given));
  if (type.plural === 'networkpolicies') {
    return preparePolicy(store.serverVersion === '1.20', structuredClone(given));
  }
  if (type.plural === 'clusternetworkpolicies') checkClusterPolicy(given);
  return given;
}

/** podIPs and podIP agree, and 1.36 puts the node's zone on the pod. */
function preparePod(store: Store, pod: KubeObject): KubeObject {
  const status = pod['status'] as { podIP?: string; podIPs?: { ip: string }[] } | undefined;
  if (status?.podIPs !== undefined && status.podIPs.length > 0) {
    const { podIPs } = status;
    const [first] = podIPs;
    status.podIP ??= first?.ip ?? '';
    const families = new Set(podIPs.map(({ ip }) => isIPv4(ip)));
    if (families.size !== podIPs.length) status.podIPs = [{ ip: status.podIP }];
    else if (first?.ip !== status.podIP) status.podIPs = [{ ip: status.podIP }];
  } else if (status?.podIP !== undefined && status.podIP !== '') {
    status.podIPs = [{ ip: status.podIP }];
  }
  const nodeName = (pod['spec'] as { nodeName?: string } | undefined)?.nodeName;
  if (store.serverVersion !== '1.20' && nodeName !== undefined) {
    const zone = store.collection('nodes').get(nodeName)?.metadata.labels?.[ZONE];
    if (zone !== undefined) {
      pod.metadata.labels = { ...pod.metadata.labels, [ZONE]: zone };
    }
  }
  return pod;
}

/** Left-out policyTypes are filled in, empty rule lists disappear, and 1.20 drops endPort. */
function preparePolicy(isOld: boolean, policy: KubeObject): KubeObject {
  const spec = (policy['spec'] ?? {}) as Fields;
  const rules = ['ingress', 'egress'].flatMap((direction) => {
    const list = spec[direction];
    if (Array.isArray(list) && list.length === 0) delete spec[direction];
    return (Array.isArray(list) ? list as PolicyRule[] : [])
      .map((rule, i) => ({ rule, path: `spec.${direction}[${i}]`, direction }));
  });
  if (spec['policyTypes'] === undefined) {
    spec['policyTypes'] = spec['egress'] === undefined ? ['Ingress'] : ['Ingress', 'Egress'];
  }
  const causes: Cause[] = [];
  for (const { rule, path, direction } of rules) {
    for (const [i, port] of (rule.ports ?? []).entries()) {
      if (isOld) delete port.endPort;
      else causes.push(...checkPort(port, `${path}.ports[${i}]`));
    }
    const field = direction === 'ingress' ? 'from' : 'to';
    const peers = (rule[field] as Peer[] | undefined) ?? [];
    for (const [i, peer] of peers.entries()) {
      causes.push(...checkPeer(peer, `${path}.${field}[${i}]`, isOld));
    }
  }
  if (causes.length > 0) {
    throw new Refusal(invalid('NetworkPolicy', 'networking.k8s.io', policy.metadata.name, causes));
  }
  policy['spec'] = spec;
  return policy;
}

function wrong(field: string, value: unknown, message: string): Cause {
  return {
    reason: 'FieldValueInvalid', field,
    message: `Invalid value: ${JSON.stringify(value)}: ${message}`,
  };
}

function checkPort({ port, endPort }: Port, path: string): Cause[] {
  if (endPort === undefined || typeof port !== 'number' || endPort >= port) return [];
  return [wrong(`${path}.endPort`, endPort, 'must be greater than or equal to `port`')];
}

function checkPeer(peer: Peer, path: string, isOld: boolean): Cause[] {
  const { ipBlock } = peer;
  if (ipBlock === undefined) return [];
  if (peer['podSelector'] !== undefined || peer['namespaceSelector'] !== undefined) {
    return [{
      reason: 'FieldValueForbidden', field: path,
      message: 'Forbidden: may not specify both ipBlock and another peer',
    }];
  }
  const cidr = parseCidr(ipBlock.cidr);
  const at = `${path}.ipBlock`;
  if (cidr === null) return [wrong(`${at}.cidr`, ipBlock.cidr, 'not a valid CIDR')];
  const causes: Cause[] = [];
  if (!isOld && cidr.hostBits) {
    causes.push(wrong(`${at}.cidr`, ipBlock.cidr,
      'must not have bits set beyond the prefix length'));
  }
  for (const [i, text] of (ipBlock.except ?? []).entries()) {
    const except = parseCidr(text);
    const isInside = except !== null && except.bits > cidr.bits && except.size === cidr.size
      && (except.value >> BigInt(cidr.size - cidr.bits))
        === (cidr.value >> BigInt(cidr.size - cidr.bits));
    if (!isInside) {
      causes.push(wrong(`${at}.except[${i}]`, text, 'must be a strict subset of `cidr`'));
    }
  }
  return causes;
}

function parseCidr(text: string)
  : { value: bigint; bits: number; size: number; hostBits: boolean } | null {
  const [address = '', length = ''] = text.split('/');
  const size = isIPv4(address) ? 32 : 128;
  const bits = Number(length);
  if ((!isIPv4(address) && !isIPv6(address)) || !/^\d+$/.test(length) || bits > size) return null;
  const value = size === 32
    ? address.split('.').reduce((sum, part) => (sum << 8n) | BigInt(part), 0n)
    : ipv6Value(address);
  const hostBits = (value & ((1n << BigInt(size - bits)) - 1n)) !== 0n;
  return { value, bits, size, hostBits };
}

function ipv6Value(address: string): bigint {
  const [head = '', tail] = address.split('::');
  const words = (part: string): string[] => (part === '' ? [] : part.split(':'));
  const last = words(tail ?? '');
  const first = words(head);
  const zeros = tail === undefined ? 0 : 8 - first.length - last.length;
  return [...first, ...Array.from({ length: zeros }, () => '0'), ...last]
    .reduce((sum, word) => (sum << 16n) | BigInt(`0x${word}`), 0n);
}

/** What the CRD's schema says of the two fields that matter to order. */
function checkClusterPolicy(policy: KubeObject): void {
  const spec = (policy['spec'] ?? {}) as { tier?: unknown; priority?: unknown };
  const causes: Cause[] = [];
  if (spec.tier !== 'Admin' && spec.tier !== 'Baseline') {
    causes.push({
      reason: 'FieldValueNotSupported', field: 'spec.tier',
      message: `Unsupported value: ${JSON.stringify(spec.tier)}: supported values: "Admin", `
        + '"Baseline"',
    });
  }
  const { priority } = spec;
  if (typeof priority !== 'number' || priority < 0 || priority > 1000) {
    causes.push(wrong('spec.priority', priority, 'spec.priority in body should be 0 to 1000'));
  }
  if (causes.length === 0) return;
  throw new Refusal(invalid('ClusterNetworkPolicy', 'policy.networking.k8s.io',
    policy.metadata.name, causes));
}
