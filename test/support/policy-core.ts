// A node with policy for tests: cores with local pods, rule sets written as lists of rules, packets
// between addresses, and what the core answered.

import * as layout from '../../wasm/abi/layout.ts';
import { REASON_NONE } from '../../wasm/abi/verdict.ts';
import { REASON_NAMES } from '../../engine/counters.ts';
import type { Core } from '../../engine/core.ts';
import { Forwarding, type AttachedEndpoint } from '../../engine/forwarding.ts';
import type { Limits, PolicyLimits } from '../../engine/memory-map.ts';
import type { PolicyChange, Program, RuleSet } from '../../engine/model.ts';
import { PolicyTables } from '../../engine/tables/policy.ts';
import type { VxlanNode } from './cluster.ts';
import { createCore, placePacket, readVerdict, TEST_LIMITS, type Verdict } from './core.ts';
import {
  ethernet, ETHER_TYPE, icmp, icmpv6, ipv4, ipv6, macOf, PROTOCOL, tcp, udp, vxlan,
} from './packets.ts';

export const NOTHING: PolicyChange = {
  identities: [], ruleSets: [], removedRuleSets: [], endpoints: [], removedEndpoints: [],
  rules: [], removedRules: [],
};

/** A change that does only this. */
export function change(part: Partial<PolicyChange>): PolicyChange {
  return { ...NOTHING, ...part };
}

/** Allows a protocol's ports from first to last, or all of it. */
export interface Allowed {
  protocol: number;
  first?: number;
  last?: number;
}

/** The program that allows just these, by one rule. */
export function program(allowed: Allowed[] | 'all' | 'none', rule = 0): Program {
  if (allowed === 'all') return [[0, (rule << 8) | 1]];
  const yes = new Set<number>([0]);
  const inside = (key: number): boolean => allowed !== 'none'
    && allowed.some(({ protocol, first = 0, last = 65535 }) =>
      key >= (protocol * 65536) + first && key <= (protocol * 65536) + last);
  for (const { protocol, first = 0, last = 65535 } of allowed === 'none' ? [] : allowed) {
    yes.add((protocol * 65536) + first).add((protocol * 65536) + last + 1);
  }
  return [...yes].sort((a, b) => a - b)
    .map((key) => [key, inside(key) ? ((rule << 8) | 1) >>> 0 : 0]);
}

/** A rule set: a program for each identity named, and one for all others. */
export function ruleSet(
  number: number, fallback: Program, entries: [number, Program][] = [],
): RuleSet {
  const programs = [fallback, ...entries.map(([, own]) => own)];
  return {
    number, programs, fallback: 0,
    entries: entries.map(([identity], index) => [identity, index + 1]),
  };
}

export const DENY_ALL = program('none');
export const ALLOW_ALL = program('all');

/** Node `index` of a cluster: pods 10.1.index.0/24 and fd00:1:0:index::/64. */
export function clusterNode(index: number): VxlanNode {
  const remote = `192.168.0.${10 + index}`;
  const mac = `0e:00:00:00:00:${(16 + index).toString(16)}`;
  return {
    name: `node-${index}`,
    podCidrs: [`10.1.${index}.0/24`, `fd00:1:0:${index}::/64`],
    addresses: [remote, `2001:db8::${10 + index}`],
    tunnels: (['IPv4', 'IPv6'] as const).map((family) =>
      ({ family, kind: 'vxlan', remote, port: 8472, vni: 1, mac })),
  };
}

/** One packet's fate: `pass`, or the name of the reason it was dropped for. */
export type Fate = string;

export interface Flow {
  source: string;
  destination: string;
  sourcePort?: number;
  destinationPort?: number;
}

/** A node's core with its tables, at the virtual time `nowMs`. */
export class PolicyBed {
  readonly core: Core;
  readonly forwarding: Forwarding;
  readonly policy: PolicyTables;
  readonly pods = new Map<string, AttachedEndpoint>();
  readonly index: number;
  nowMs = 1_000_000;

  constructor(pods: Record<string, string[]>, settings: {
    index?: number; policy?: Partial<PolicyLimits>; limits?: Partial<Limits>;
  } = {}) {
    this.index = settings.index ?? 0;
    const policy = { ...TEST_LIMITS.policy, ...settings.policy };
    const limits = { ...TEST_LIMITS, ...settings.limits, policy };
    this.core = createCore(limits);
    this.forwarding = new Forwarding(this.core, limits, {
      nodeName: `node-${this.index}`, podNetworks: ['10.1.0.0/16', 'fd00:1::/32'],
      underlayMtu: 1500,
      defaultMac: { IPv4: '02:00:00:00:00:04', IPv6: '02:00:00:00:00:06' },
    });
    this.forwarding.applySnapshot({
      revision: 1, local: `node-${this.index}`, nodes: [0, 1, 2].map(clusterNode), pods: [],
    });
    const problems = this.forwarding.problems();
    if (problems.length > 0) throw new Error(problems.join('\n'));
    this.core.setDirectory(layout.DIRECTORY_ICMP_RATE, 100_000);
    this.core.setDirectory(layout.DIRECTORY_ICMP_BURST, 1000);
    this.policy = new PolicyTables(this.core, policy);
    for (const [name, addresses] of Object.entries(pods)) {
      this.pods.set(name, this.forwarding.attachEndpoint(name, addresses, null));
    }
  }

  device(pod: string): number {
    const device = this.pods.get(pod)?.device;
    if (device === undefined) throw new Error(`no pod ${pod}`);
    return device;
  }

  /** Puts the pod's two rule sets into force, with whatever else is in the change. */
  isolate(
    pod: string, sets: { ingress?: number; egress?: number }, more: Partial<PolicyChange> = {},
  ): void {
    const endpoint = {
      namespace: 'test', name: pod, uid: `uid-${pod}`,
      ingress: sets.ingress ?? 0, egress: sets.egress ?? 0,
    };
    this.policy.apply(change({ ...more, endpoints: [endpoint, ...more.endpoints ?? []] }),
      (_namespace, name) => this.pods.get(name)?.device ?? null);
  }

  apply(part: Partial<PolicyChange>): void {
    this.policy.apply(change(part), (_namespace, name) => this.pods.get(name)?.device ?? null);
  }

  /** The core's verdict about an IP packet that a pod, or the node, sends. */
  send(from: string | number, packet: Uint8Array): Verdict {
    const device = typeof from === 'number' ? from : this.device(from);
    placePacket(this.core, 0, packet, device);
    this.core.exports.processBatch(0, 1, this.nowMs | 0);
    return readVerdict(this.core, 0);
  }

  /** The same about an IP packet that node `peer` sends us. */
  receive(peer: number, packet: Uint8Array): Verdict {
    const type = (packet[0] ?? 0) >> 4 === 4 ? ETHER_TYPE.ipv4 : ETHER_TYPE.ipv6;
    const tunnel = (index: number): string => clusterNode(index).tunnels[0]?.mac ?? '';
    const frame = ethernet(
      { destination: macOf(tunnel(this.index)), source: macOf(tunnel(peer)), type }, packet);
    const source = { address: `192.168.0.${10 + peer}`, port: 40000 };
    placePacket(this.core, 0, vxlan({ vni: 1 }, frame), layout.DEVICE_UNDERLAY_IPV4, source);
    this.core.exports.processBatch(0, 1, this.nowMs | 0);
    return readVerdict(this.core, 0);
  }

  /** A batch without packets: housekeeping. */
  idle(turns = 1): void {
    for (let turn = 0; turn < turns; turn += 1) {
      this.core.exports.processBatch(0, 0, this.nowMs | 0);
    }
  }

  flowCount(): number {
    return this.core.view.getUint32(layout.WORKERS_START + layout.WORKER_FLOWS, true);
  }
}

export function fateOf(verdict: Verdict): Fate {
  return verdict.reason === REASON_NONE && verdict.sent
    ? 'pass'
    : REASON_NAMES[verdict.reason] ?? '';
}

function ip(flow: Flow, protocol: number, payload: Uint8Array): Uint8Array {
  const { source, destination } = flow;
  return source.includes(':')
    ? ipv6({ source, destination, nextHeader: protocol }, payload)
    : ipv4({ source, destination, protocol }, payload);
}

export const TCP = { fin: 0x01, syn: 0x02, rst: 0x04, psh: 0x08, ack: 0x10 } as const;

function ports(flow: Flow) {
  return {
    ...flow, sourcePort: flow.sourcePort ?? 40000, destinationPort: flow.destinationPort ?? 80,
  };
}

export function tcpPacket(flow: Flow, flags: number, data = 0): Uint8Array {
  return ip(flow, PROTOCOL.tcp, tcp({ ...ports(flow), flags }, new Uint8Array(data)));
}

export function udpPacket(flow: Flow, data = 4): Uint8Array {
  return ip(flow, PROTOCOL.udp, udp(ports(flow), new Uint8Array(data)));
}

/** An echo request, or a reply. */
export function echoPacket(flow: Flow, reply: boolean, identifier = 7): Uint8Array {
  const { source, destination } = flow;
  const rest = identifier * 65536;
  if (!source.includes(':')) return ip(flow, 1, icmp(reply ? 0 : 8, 0, rest, new Uint8Array(8)));
  const message = icmpv6(
    { source, destination, type: reply ? 129 : 128, rest }, new Uint8Array(8));
  return ip(flow, PROTOCOL.icmpv6, message);
}

/** The same flow seen from the other end. */
export function back(flow: Flow): Flow {
  const both = ports(flow);
  return {
    source: flow.destination, destination: flow.source,
    sourcePort: both.destinationPort, destinationPort: both.sourcePort,
  };
}
