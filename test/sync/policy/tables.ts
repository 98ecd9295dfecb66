// A plain reading of the compiled tables: what the core would answer, by going through lists. It
// applies changes as a host does, and refuses those that a host could not apply.

import { addressBytes, addressFamily, addressText, prefixHolds } from '../../../engine/address.ts';
import type { EndpointPolicy, PolicyChange, RuleSet } from '../../../engine/model.ts';
import { emptyChange } from '../../../sync/policy/change.ts';
import { project } from '../../../sync/objects.ts';
import type { Entry } from '../../../sync/objects.ts';

export type Word = 'allow' | 'deny';

export interface EndVerdict {
  word: Word;
  /** `NetworkPolicy shop/web`, null where no policy decided. */
  policy: string | null;
  rule: string | null;
}

export const PROTOCOLS = { ICMP: 1, TCP: 6, UDP: 17, SCTP: 132, ICMPv6: 58 } as const;
export type ProtocolName = keyof typeof PROTOCOLS;

const ALLOWED: EndVerdict = { word: 'allow', policy: null, rule: null };

export class Tables {
  readonly identities = new Map<string, number>();
  readonly ruleSets = new Map<number, RuleSet>();
  readonly endpoints = new Map<string, EndpointPolicy>();
  readonly rules = new Map<number, { policy: string; rule: string }>();
  #found = new Map<string, number>();

  /** Applies several changes that were joined: they may remove what came and went among them. */
  applyJoined(change: PolicyChange): void {
    const { removedRuleSets, removedRules, removedEndpoints, identities } = change;
    const added = new Set(change.ruleSets.map(({ number }) => number));
    this.apply({
      ...change,
      identities: identities.filter(([prefix, number]) =>
        number !== 0 || this.identities.has(prefix)),
      removedRuleSets: removedRuleSets.filter((number) =>
        added.has(number) || this.ruleSets.has(number)),
      removedRules: removedRules.filter((number) => this.rules.has(number)),
      removedEndpoints: removedEndpoints.filter(({ namespace, name }) =>
        this.endpoints.has(`${namespace}/${name}`)),
    });
  }

  /** Applies a change, as docs/POLICY.md orders it. Between its steps `between` is called. */
  apply(change: PolicyChange, between: (step: string) => void = () => {}): void {
    for (const { number, policy, rule } of change.rules) this.rules.set(number, { policy, rule });
    for (const ruleSet of change.ruleSets) this.#enter(ruleSet);
    between('rule sets');
    for (const [prefix, identity] of change.identities) {
      if (identity !== 0) this.identities.set(prefix, identity);
      else if (!this.identities.delete(prefix)) throw new Error(`${prefix} is not there`);
    }
    this.#found = new Map();
    between('identities');
    for (const endpoint of change.endpoints) {
      this.endpoints.set(`${endpoint.namespace}/${endpoint.name}`, endpoint);
    }
    for (const { namespace, name } of change.removedEndpoints) {
      if (!this.endpoints.delete(`${namespace}/${name}`)) throw new Error(`${name} is not there`);
    }
    between('endpoints');
    for (const number of change.removedRuleSets) {
      if (!this.ruleSets.delete(number)) throw new Error(`rule set ${number} is not there`);
    }
    for (const number of change.removedRules) {
      if (!this.rules.delete(number)) throw new Error(`rule ${number} is not there`);
    }
    this.#check();
  }

  /** The state as a change from nothing. */
  state(): PolicyChange {
    return {
      ...emptyChange(),
      identities: [...this.identities],
      ruleSets: [...this.ruleSets.values()],
      endpoints: [...this.endpoints.values()],
      rules: [...this.rules].map(([number, name]) => ({ number, ...name })),
    };
  }

  /** The identity by the longest prefix that matches. */
  identityOf(address: string): number {
    const known = this.#found.get(address);
    if (known !== undefined) return known;
    let best = -1;
    let identity = 0;
    for (const [prefix, number] of this.identities) {
      const length = Number(prefix.split('/')[1]);
      if (length > best && prefixHolds(prefix, address)) [best, identity] = [length, number];
    }
    this.#found.set(address, identity);
    return identity;
  }

  /** What an endpoint's rule set says about an address. */
  ask(
    endpoint: string, direction: 'ingress' | 'egress', address: string, protocol: ProtocolName,
    port: number,
  ): EndVerdict {
    const policy = this.endpoints.get(endpoint);
    if (policy === undefined) throw new Error(`${endpoint} is no endpoint`);
    if (policy[direction] === 0) return ALLOWED;
    const ruleSet = this.ruleSets.get(policy[direction]);
    if (ruleSet === undefined) throw new Error(`rule set ${policy[direction]} is not there`);
    const identity = this.identityOf(address);
    const entry = ruleSet.entries.find(([number]) => number === identity);
    const program = ruleSet.programs[entry?.[1] ?? ruleSet.fallback] ?? [];
    const icmp = protocol === 'ICMP' && addressFamily(address) === 'IPv6' ? 'ICMPv6' : protocol;
    const key = (PROTOCOLS[icmp] << 16) | port;
    const answer = program.findLast(([start]) => start <= key)?.[1] ?? -1;
    const name = this.rules.get(Math.floor(answer / 256));
    return {
      word: (answer & 1) === 1 ? 'allow' : 'deny',
      policy: name?.policy ?? null, rule: name?.rule ?? null,
    };
  }

  #enter(ruleSet: RuleSet): void {
    const entries = new Map(ruleSet.entries);
    if (entries.size !== ruleSet.entries.length) throw new Error('an identity stands twice');
    for (const program of ruleSet.programs) {
      if (program[0]?.[0] !== 0) throw new Error('a program does not begin at 0');
      const isAscending = program.every(([key], at) =>
        at === 0 || (program[at - 1]?.[0] ?? 0) < key);
      if (!isAscending) throw new Error('a program is not in order');
    }
    this.ruleSets.set(ruleSet.number, ruleSet);
  }

  /** Nothing refers to what is not there, and nothing is kept that nobody refers to. */
  #check(): void {
    const used = new Set([...this.endpoints.values()].flatMap(({ ingress, egress }) =>
      [ingress, egress]).filter((number) => number !== 0));
    for (const number of used) {
      if (!this.ruleSets.has(number)) throw new Error(`rule set ${number} is not there`);
    }
    if (used.size !== this.ruleSets.size) throw new Error('a rule set has no endpoint');
    for (const { programs } of this.ruleSets.values()) {
      for (const [, answer] of programs.flat()) {
        const rule = Math.floor(answer / 256);
        if (rule !== 0 && !this.rules.has(rule)) throw new Error(`rule ${rule} has no name`);
      }
    }
  }
}

/** The entries of objects, which must all be right. */
export function readEntries(objects: readonly unknown[]): Entry[] {
  return objects.flatMap((object) => {
    const { entry, problems } = project(object, () => 'test:1');
    if (problems.length > 0) throw new Error(problems.join('\n'));
    return entry ?? [];
  });
}

export type End = { pod: string } | { ip: string } | { node: string };

export interface Flow {
  src: End;
  dst: End;
  protocol: ProtocolName;
  port?: number;
  family?: 'IPv4' | 'IPv6';
}

export interface Verdict {
  verdict: Word;
  egress: Word;
  ingress: Word;
  policy: string | null;
}

interface Place {
  address: string;
  /** The pod and the nodes that have the address. */
  pod: string | null;
  nodes: string[];
}

/** Judges flows as the cluster's cores would: each end by its tables, a pod's traffic with itself
 * and with its own node always allowed. */
export class Cluster {
  readonly #tables: Tables;
  readonly #addresses = new Map<string, string[]>();
  readonly #pods = new Map<string, { key: string; node: string }>();
  readonly #nodes = new Map<string, string[]>();

  constructor(tables: Tables, entries: readonly Entry[]) {
    this.#tables = tables;
    for (const entry of entries) {
      if (entry.kind === 'Node') {
        this.#addresses.set(`node ${entry.key}`, entry.addresses);
        for (const address of entry.addresses) {
          this.#nodes.set(address, [...this.#nodes.get(address) ?? [], entry.key]);
        }
      }
      if (entry.kind !== 'Pod') continue;
      this.#addresses.set(`pod ${entry.key}`, entry.pod.addresses);
      if (!entry.hasNetwork) continue;
      for (const address of entry.pod.addresses) {
        this.#pods.set(address, { key: entry.key, node: entry.nodeName });
      }
    }
  }

  judge(flow: Flow): Verdict {
    const [source, destination] = this.#places(flow);
    const port = flow.protocol === 'ICMP' ? 0 : flow.port ?? 0;
    const egress = this.#judgeEnd(source, destination, 'egress', flow.protocol, port);
    const ingress = this.#judgeEnd(destination, source, 'ingress', flow.protocol, port);
    const verdict = egress.word === 'allow' && ingress.word === 'allow' ? 'allow' : 'deny';
    const decisive = egress.word === 'deny' ? egress.policy
      : ingress.word === 'deny' ? ingress.policy : ingress.policy ?? egress.policy;
    return { verdict, egress: egress.word, ingress: ingress.word, policy: decisive };
  }

  #judgeEnd(
    own: Place, peer: Place, direction: 'ingress' | 'egress', protocol: ProtocolName, port: number,
  ): EndVerdict {
    if (own.pod === null || own.pod === peer.pod) return ALLOWED;
    const { node } = this.#pods.get(own.address) ?? { node: '' };
    if (peer.nodes.includes(node)) return ALLOWED;
    return this.#tables.ask(own.pod, direction, peer.address, protocol, port);
  }

  #places({ src, dst, family }: Flow): [Place, Place] {
    const families = family === undefined ? ['IPv4', 'IPv6'] : [family];
    for (const wanted of families) {
      const pick = (end: End): string | undefined =>
        this.#addressesOf(end).find((address) => addressFamily(address) === wanted);
      const [from, to] = [pick(src), pick(dst)];
      if (from !== undefined && to !== undefined) return [this.#place(from), this.#place(to)];
    }
    throw new Error('no address of one family at both ends');
  }

  #addressesOf(end: End): string[] {
    if ('ip' in end) return [addressText(addressBytes(end.ip))];
    const key = 'pod' in end ? `pod ${end.pod}` : `node ${end.node}`;
    return this.#addresses.get(key) ?? [];
  }

  #place(address: string): Place {
    return {
      address, pod: this.#pods.get(address)?.key ?? null, nodes: this.#nodes.get(address) ?? [],
    };
  }
}
