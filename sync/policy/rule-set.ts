// Rule sets: all policies about some pods in one direction, merged into a program for each identity
// that they tell apart.

import type { Program, RuleSet as RuleSetMessage } from '../../engine/model.ts';
import type { NamedPort } from '../objects.ts';
import { BOUNDARY_LIMIT, answerOf, denial, isolation, layOut } from './program.ts';
import type { Layer } from './program.ts';
import type { NumberedRule, RuleNames } from './rule-names.ts';
import { TIER_ADMIN, TIER_NETWORK_POLICY } from './rules.ts';
import type { Direction, Part, Peer, PortName } from './rules.ts';
import { getOrMake } from './selector-index.ts';
import { portKey } from './traits.ts';
import type { Identity } from './identities.ts';
import type { Group } from './inventory.ts';
import type { Need, Needs, Trait } from './traits.ts';

/** A policy's part in one direction; equal parts of one policy have one version. */
export interface VersionedPart extends Part {
  title: string;
  tier: number;
  priority: number;
  version: number;
}

/** A rule of any policy, in the order in which it counts. `names` are ports of the destination,
 * which differ from pod to pod. */
interface PlacedRule extends Layer {
  names: readonly PortName[];
}

export class RuleSet {
  readonly number: number;
  readonly key: string;
  readonly needs = new Set<Need>();
  /** Groups of pods that it is for. */
  readonly users = new Set<Group>();
  /** A program was larger than the core takes, and denies everything instead. */
  isOverfull = false;
  readonly ruleNames: NumberedRule[] = [];
  readonly #rules: PlacedRule[] = [];
  /** Rules that count for everybody, and those that count for who meets a need. */
  readonly #always: number[] = [];
  readonly #byNeed = new Map<Need, number[]>();
  readonly #programs: Program[] = [];
  readonly #programsByText = new Map<string, number>();
  readonly #programsByMatch = new Map<string, number>();
  readonly #fallback: number;
  /** The host's entries: identities with their programs. Those of identities that are no more stay
   * until it is sent again. */
  readonly #entries = new Map<number, number>();

  /** `ports` are those of the pods it is for; `parts` stand in the order in which they count. */
  constructor(
    number: number, key: string, direction: Direction, parts: readonly VersionedPart[],
    ports: readonly NamedPort[], needs: Needs, names: RuleNames,
  ) {
    this.number = number;
    this.key = key;
    const first = parts.find(({ isolates }) => isolates);
    for (const tier of [...new Set(parts.map((part) => part.tier))].sort()) {
      for (const part of parts) {
        if (part.tier === tier) this.#addRules(part, direction, ports, needs, names);
      }
      if (tier !== TIER_NETWORK_POLICY || first === undefined) continue;
      const named = this.#name(names, first.title, `isolates ${direction}`);
      this.#always.push(this.#rules.length);
      this.#rules.push({ ...isolation(named.number), names: [] });
    }
    for (const need of this.needs) need.ruleSets.add(this);
    this.#fallback = this.#programOf([]);
  }

  get entryCount(): number {
    return this.#entries.size;
  }

  get identityNumbers(): Iterable<number> {
    return this.#entries.keys();
  }

  /** Enters an identity. True where the host's answers for its number were others. */
  enter({ number, traits }: Identity): boolean {
    const program = this.#programOf(traits.traits);
    const before = this.#entries.get(number) ?? this.#fallback;
    if (program === this.#fallback) this.#entries.delete(number);
    else this.#entries.set(number, program);
    return before !== program;
  }

  /** Whether it has an entry for the identity. */
  names({ number }: Identity): boolean {
    return this.#entries.has(number);
  }

  /** Says about an identity what it says about another. */
  inherit(number: number, from: number): void {
    const program = this.#entries.get(from) ?? this.#fallback;
    if (program === this.#fallback) this.#entries.delete(number);
    else this.#entries.set(number, program);
  }

  /** Whether it says the same about two identities. */
  agrees(a: number, b: number): boolean {
    return (this.#entries.get(a) ?? this.#fallback) === (this.#entries.get(b) ?? this.#fallback);
  }

  /** Enters every identity that it can tell from others: by its needs, which are few, since the
   * traits of an identity are many. A state stands for the traits met so far; each is numbered by
   * the one before it and the trait that led there. */
  enterAll(): void {
    const states = new Map<Identity, number>();
    const traits = [...this.needs].flatMap((need) => [...need.traits.values()]);
    const next = new Map<number, number>();
    const met: (readonly Trait[])[] = [[]];
    for (const [index, trait] of traits.entries()) {
      for (const identity of trait.identities) {
        const state = states.get(identity) ?? 0;
        const number = getOrMake(next, (state * traits.length) + index, () =>
          met.push([...met[state] ?? [], trait]) - 1);
        states.set(identity, number);
      }
    }
    const programs = new Map<number, number>();
    for (const [{ number }, state] of states) {
      const program = getOrMake(programs, state, () => this.#programOf(met[state] ?? []));
      if (program !== this.#fallback) this.#entries.set(number, program);
    }
  }

  /** Forgets identities that are no more. Precondition: the host is sent it anew. */
  prune(isLive: (identity: number) => boolean): void {
    for (const identity of this.#entries.keys()) {
      if (!isLive(identity)) this.#entries.delete(identity);
    }
  }

  release(needs: Needs, names: RuleNames): void {
    for (const need of this.needs) needs.release(need, this);
    for (const named of this.ruleNames) names.release(named);
  }

  /** What the host is told of it, without entries of identities that are no more. */
  message(isLive: (identity: number) => boolean): RuleSetMessage {
    const programs: Program[] = [];
    const indexes = new Map<number, number>();
    const indexOf = (program: number): number => getOrMake(indexes, program, () => {
      programs.push(this.#programs[program] ?? denial(0));
      return programs.length - 1;
    });
    const fallback = indexOf(this.#fallback);
    const entries: [number, number][] = [];
    for (const [identity, program] of this.#entries) {
      if (isLive(identity)) entries.push([identity, indexOf(program)]);
    }
    return { number: this.number, programs, fallback, entries };
  }

  #name(names: RuleNames, policy: string, rule: string): NumberedRule {
    const named = names.acquire(policy, rule);
    this.ruleNames.push(named);
    return named;
  }

  #addRules(
    part: VersionedPart, direction: Direction, ports: readonly NamedPort[], needs: Needs,
    names: RuleNames,
  ): void {
    for (const { text, action, peers, ports: asked } of part.rules) {
      const resolved = direction === 'ingress' ? resolveNames(asked?.names ?? [], ports) : [];
      const ranges = asked === null ? null : [...asked.ranges, ...resolved];
      const portNames = direction === 'egress' ? asked?.names ?? [] : [];
      if (ranges?.length === 0 && portNames.length === 0) continue;
      const named = this.#name(names, part.title, text);
      const answer = answerOf(named.number, action === 'allow', part.tier === TIER_ADMIN);
      const index = this.#rules.length;
      this.#rules.push({
        tier: part.tier, isPass: action === 'pass', ranges, names: portNames, answer,
      });
      for (const name of portNames) this.needs.add(needs.forPort(name));
      this.#addPeers(index, peers, needs);
    }
  }

  #addPeers(rule: number, peers: readonly Peer[] | null, needs: Needs): void {
    if (peers === null) this.#always.push(rule);
    for (const peer of peers ?? []) {
      const need = needs.forPeer(peer);
      this.needs.add(need);
      getOrMake(this.#byNeed, need, () => []).push(rule);
    }
  }

  /** The program for who has these traits, as an index. */
  #programOf(traits: readonly Trait[]): number {
    const matched = new Set(this.#always);
    const ports: Trait[] = [];
    for (const trait of traits) {
      for (const rule of this.#byNeed.get(trait.need) ?? []) matched.add(rule);
      if (trait.need.peer === null && this.needs.has(trait.need)) ports.push(trait);
    }
    const rules = [...matched].sort((a, b) => a - b);
    const key = `${rules.join()} ${ports.map(({ id }) => id).join()}`;
    return getOrMake(this.#programsByMatch, key, () => this.#makeProgram(rules, ports));
  }

  #makeProgram(rules: readonly number[], ports: readonly Trait[]): number {
    const layers = rules.flatMap((index) => {
      const rule = this.#rules[index];
      if (rule === undefined || rule.names.length === 0) return rule ?? [];
      const ranges = [...rule.ranges ?? [], ...portRanges(rule.names, ports)];
      return { ...rule, ranges };
    });
    let program = layOut(layers);
    if (program.length > BOUNDARY_LIMIT) {
      this.isOverfull = true;
      program = denial(this.ruleNames[0]?.number ?? 0);
    }
    return getOrMake(this.#programsByText, program.join(), () => {
      this.#programs.push(program);
      return this.#programs.length - 1;
    });
  }
}

/** The keys of the pods' own ports that have one of these names. */
function resolveNames(names: readonly PortName[], ports: readonly NamedPort[]): number[] {
  return names.flatMap(({ name, protocol }) => ports
    .filter((port) => port.name === name && (protocol ?? port.protocol) === port.protocol)
    .flatMap((port) => [portKey(port.protocol, port.port), portKey(port.protocol, port.port)]));
}

/** The keys of the destination's ports that have one of these names. */
function portRanges(names: readonly PortName[], ports: readonly Trait[]): number[] {
  return names.flatMap(({ name, protocol }) => ports
    .filter(({ need, portKey: key }) =>
      need.portName === name && (protocol ?? key >>> 16) === key >>> 16)
    .flatMap(({ portKey: key }) => [key, key]));
}

/** What pods of a direction share a rule set by; the numbers of the parts' versions, and what the
 * names of ports mean for them. */
export function ruleSetKey(
  direction: Direction, parts: readonly VersionedPart[], ports: readonly NamedPort[],
): string {
  const versions = parts.map(({ version }) => version).join();
  if (direction === 'egress') return `egress ${versions}`;
  const used = new Set(parts.flatMap(({ rules }) =>
    rules.flatMap((rule) => (rule.ports?.names ?? []).map(({ name }) => name))));
  const meant = ports.filter(({ name }) => used.has(name))
    .map(({ name, protocol, port }) => `${name} ${protocol} ${port}`);
  return `ingress ${versions} ${meant.join()}`;
}

