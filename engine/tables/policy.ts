// Policy as the core judges by it: identities of addresses, rule sets, and which two a pod has.
//
// Theory of operation (docs/POLICY.md, "Publishing a change"). A change is checked, then everything
// it needs is written where nothing leads to it yet. Addresses and endpoints' words are published
// in the order that policy-moves.ts finds, the epoch is raised, and what nothing leads to any more
// is given back after a grace period. Where memory does not suffice, all is put back as it was.

import {
  DEVICE_CLOSED,
  DEVICE_EGRESS,
  DEVICE_INGRESS,
  DEVICE_STRIDE,
  DIRECTORY_DEVICES,
  DIRECTORY_IDENTITIES_IPV4,
  DIRECTORY_IDENTITIES_IPV6,
  DIRECTORY_POLICY_EPOCH,
  DIRECTORY_START,
} from '../../wasm/abi/layout.ts';
import { ANSWER_RULE_SHIFT, IDENTITY_MAX, PROGRAM_KEY_PROTOCOL_SHIFT } from
  '../../wasm/abi/policy.ts';
import { addressFamily, prefixKey } from '../address.ts';
import type { Core } from '../core.ts';
import { readFlowFill } from '../counters.ts';
import type { PolicyLimits } from '../memory-map.ts';
import type { PolicyChange, RuleName, RuleSet } from '../model.ts';
import { PolicyBlocks } from './policy-blocks.ts';
import { digestPolicy } from './policy-digest.ts';
import {
  findMoves,
  planTransition,
  type IdentityTables,
  type RuleSetPair,
  type Step,
  type Transition,
} from './policy-moves.ts';
import { changeTo, enterFirst } from './policy-whole.ts';
import { PrefixTable } from './prefix.ts';

/** The device of a local pod, null while it is not attached. */
export type DeviceOf = (namespace: string, name: string, uid: string) => number | null;

/** A pod and its rule sets; `device` is -1 while it is not attached. */
interface PolicyEndpoint {
  namespace: string;
  name: string;
  uid: string;
  ingress: number;
  egress: number;
  device: number;
}

/** Endpoints that a change adds or replaces, by name; null for those it removes. */
type EndpointPatch = Map<string, PolicyEndpoint | null>;

/** One word of a device's record and what it leads to, before and after a change. */
interface WordChange extends RuleSetPair {
  word: number;
}

export class PolicyTables {
  readonly blocks: PolicyBlocks;
  readonly identities: IdentityTables;
  #core: Core;
  #words: Int32Array;
  #ruleSets = new Map<number, number>();
  #endpoints = new Map<string, PolicyEndpoint>();
  /** Names of the endpoints that have each rule set, so that no change looks at all endpoints. */
  #holders = new Map<number, Set<string>>();
  #attached = new Map<number, { namespace: string; name: string; uid: string }>();
  #rules = new Map<number, RuleName>();
  /** Prefixes that have each identity. */
  #uses = new Uint32Array(IDENTITY_MAX + 1);

  constructor(core: Core, limits: PolicyLimits) {
    this.#core = core;
    this.#words = new Int32Array(core.memory.buffer);
    this.blocks = new PolicyBlocks(core);
    this.identities = {
      IPv4: new PrefixTable(core, 'IPv4 identities', DIRECTORY_IDENTITIES_IPV4,
        limits.identitiesIpv4.prefixes),
      IPv6: new PrefixTable(core, 'IPv6 identities', DIRECTORY_IDENTITIES_IPV6,
        limits.identitiesIpv6.prefixes),
    };
  }

  /** Puts a change into force. Throws TableFullError where it does not fit, and an Error where it
   * contradicts itself or what is in force; then nothing has changed. */
  apply(change: PolicyChange, deviceOf: DeviceOf = () => null): void {
    this.#check(change);
    const added = this.#addRuleSets(change.ruleSets);
    const block = (number: number): number => added.get(number) ?? this.#ruleSets.get(number) ?? 0;
    const patch = this.#nextEndpoints(change, deviceOf);
    const touched = this.#touchedEndpoints(patch, added);
    try {
      this.#publish(change, this.#changeWords(touched, block), () => {
        const others = [...this.#endpoints.values()].filter((endpoint) =>
          !patch.has(nameOf(endpoint)) && !touched.includes(endpoint));
        return this.#changeWords(others, block);
      });
    } catch (error) {
      for (const fresh of added.values()) this.blocks.cancel(fresh);
      throw error;
    }
    this.#enterEndpoints(patch);
    for (const endpoint of touched) this.#open(endpoint, block);
    this.#raiseEpoch();
    this.#giveBack(change, added);
    for (const rule of change.rules) this.#rules.set(rule.number, rule);
    for (const number of change.removedRules) this.#rules.delete(number);
  }

  /** Tells of a pod's device. It opens once the pod's rule sets are known, which this answers. */
  attach(device: number, namespace: string, name: string, uid: string): boolean {
    this.#attached.set(device, { namespace, name, uid });
    const endpoint = this.#endpoints.get(`${namespace}/${name}`);
    const isKnown = endpoint !== undefined && isSamePod(endpoint.uid, uid);
    if (isKnown) {
      endpoint.device = device;
      this.#open(endpoint, (number) => this.ruleSet(number));
    } else this.#close(device);
    this.#raiseEpoch();
    return isKnown;
  }

  /** Closes a device that its pod is losing. */
  detach(device: number): void {
    this.#attached.delete(device);
    for (const endpoint of this.#endpoints.values()) {
      if (endpoint.device === device) endpoint.device = -1;
    }
    this.#close(device);
    this.#raiseEpoch();
  }

  /** True where a device's packets are judged by rule sets, not all dropped. */
  isOpen(device: number): boolean {
    return !this.#isClosed(device);
  }

  /** Makes `whole`, a change from nothing, all there is: after a sidecar has started anew its
   * numbers may mean something else than before. Fails as apply() does. */
  replace(whole: PolicyChange): void {
    this.apply(changeTo(whole, {
      prefixes: [...this.identities.IPv4.prefixes(), ...this.identities.IPv6.prefixes()],
      ruleSets: this.#ruleSets.keys(),
      endpoints: this.#endpoints.values(),
      rules: this.#rules.keys(),
    }));
  }

  /** What the rule of an answer is called; null where no policy has decided. */
  explain(answer: number): RuleName | null {
    return this.#rules.get(answer >>> ANSWER_RULE_SHIFT) ?? null;
  }

  /** The names of all rules in force, by number. */
  rules(): RuleName[] {
    return [...this.#rules.values()].sort((a, b) => a.number - b.number);
  }

  /** What the core answers to a pod's packet from or to an address; undefined if no such pod. */
  answer(
    endpoint: { namespace: string; name: string },
    direction: 'ingress' | 'egress',
    address: string,
    protocol: number,
    port: number,
  ): number | undefined {
    const known = this.#endpoints.get(`${endpoint.namespace}/${endpoint.name}`);
    if (known === undefined) return undefined;
    const identity = this.identities[addressFamily(address)].find(address);
    const key = ((protocol << PROGRAM_KEY_PROTOCOL_SHIFT) | port) >>> 0;
    const block = this.#ruleSets.get(known[direction]) ?? 0;
    return this.#core.exports.policyAnswer(block, identity, key) >>> 0;
  }

  /** Equal for states of policy that answer alike, whatever numbers they go by. */
  digest(): string {
    const pods = this.endpoints().map(({ namespace, name, uid, ingress, egress }) => ({
      name: `${namespace}/${name} ${uid}`,
      ingress: this.ruleSet(ingress), egress: this.ruleSet(egress),
    }));
    return digestPolicy(pods, this.identities, this.blocks, (answer) => this.explain(answer));
  }

  /** The pods whose rule sets are known. */
  endpoints(): Readonly<PolicyEndpoint>[] {
    return [...this.#endpoints.values()];
  }

  /** Address of a rule set's block, 0 for rule set 0 and those not there. */
  ruleSet(number: number): number {
    return this.#ruleSets.get(number) ?? 0;
  }

  get ruleSetCount(): number {
    return this.#ruleSets.size;
  }

  /** Tables and their fill, for `culvert status`. */
  tables(): { name: string; used: number; limit: number }[] {
    const { IPv4, IPv6 } = this.identities;
    const { arena } = this.blocks;
    return [
      ...[IPv4, IPv6].map(({ name, count, limit }) => ({ name, used: count, limit })),
      { name: 'policy arena', used: arena.used, limit: arena.limit },
      { name: 'flows', ...readFlowFill(this.#core) },
    ];
  }

  /** Refuses a change that contradicts itself or what is in force. */
  #check(change: PolicyChange): void {
    const added = new Set<number>();
    for (const ruleSet of change.ruleSets) {
      checkRuleSet(ruleSet);
      added.add(ruleSet.number);
    }
    const removed = new Set(change.removedRuleSets);
    const refuse = (name: string, number: number): never => {
      throw new Error(`apply policy: ${name} has rule set ${number}, which is not there`);
    };
    for (const endpoint of change.endpoints) {
      for (const number of [endpoint.ingress, endpoint.egress]) {
        const isThere = !removed.has(number) && (added.has(number) || this.#ruleSets.has(number));
        if (number !== 0 && !isThere) refuse(nameOf(endpoint), number);
      }
    }
    if (removed.size === 0) return;
    const changed = new Set([...change.endpoints, ...change.removedEndpoints].map(nameOf));
    for (const number of removed) {
      for (const name of this.#holders.get(number) ?? []) {
        if (!changed.has(name)) refuse(name, number);
      }
    }
  }

  /** Blocks of the rule sets that are new or not what they were. */
  #addRuleSets(ruleSets: RuleSet[]): Map<number, number> {
    const added = new Map<number, number>();
    try {
      for (const ruleSet of ruleSets) {
        const block = this.blocks.add(ruleSet);
        const before = this.#ruleSets.get(ruleSet.number);
        if (before === undefined || !this.blocks.same(before, block)) {
          added.set(ruleSet.number, block);
        } else this.blocks.cancel(block);
      }
    } catch (error) {
      for (const block of added.values()) this.blocks.cancel(block);
      throw error;
    }
    return added;
  }

  #nextEndpoints(change: PolicyChange, deviceOf: DeviceOf): EndpointPatch {
    const patch: EndpointPatch = new Map();
    for (const endpoint of change.removedEndpoints) patch.set(nameOf(endpoint), null);
    for (const endpoint of change.endpoints) {
      const { namespace, name, uid } = endpoint;
      const device = this.#attachedDevice(namespace, name, uid) ?? deviceOf(namespace, name, uid);
      if (device !== null) this.#attached.set(device, { namespace, name, uid });
      patch.set(nameOf(endpoint), { ...endpoint, device: device ?? -1 });
    }
    return patch;
  }

  /** Endpoints as they will be, of those that change or whose rule sets do. */
  #touchedEndpoints(patch: EndpointPatch, added: Map<number, number>): PolicyEndpoint[] {
    const touched = new Set<PolicyEndpoint>();
    for (const endpoint of patch.values()) if (endpoint !== null) touched.add(endpoint);
    for (const number of added.keys()) {
      for (const name of this.#holders.get(number) ?? []) {
        const endpoint = this.#endpoints.get(name);
        if (endpoint !== undefined && !patch.has(name)) touched.add(endpoint);
      }
    }
    return [...touched];
  }

  /** Enters changed endpoints; closes devices that they leave. */
  #enterEndpoints(patch: EndpointPatch): void {
    for (const [name, next] of patch) {
      const before = this.#endpoints.get(name);
      if (before !== undefined) {
        for (const number of [before.ingress, before.egress]) this.#forgetHolder(number, name);
        if (before.device >= 0 && before.device !== next?.device) this.#close(before.device);
        this.#endpoints.delete(name);
      }
      if (next === null) continue;
      this.#endpoints.set(name, next);
      for (const number of [next.ingress, next.egress]) {
        const holders = this.#holders.get(number) ?? new Set();
        this.#holders.set(number, holders.add(name));
      }
    }
  }

  #forgetHolder(number: number, name: string): void {
    const holders = this.#holders.get(number);
    holders?.delete(name);
    if (holders?.size === 0) this.#holders.delete(number);
  }

  #attachedDevice(namespace: string, name: string, uid: string): number | null {
    for (const [device, pod] of this.#attached) {
      const isNamedSo = pod.name === name && pod.namespace === namespace;
      if (isNamedSo && isSamePod(pod.uid, uid)) return device;
    }
    return null;
  }

  /** The words of devices that are open before and after, with what they lead to. */
  #changeWords(endpoints: PolicyEndpoint[], block: (number: number) => number): WordChange[] {
    const words: WordChange[] = [];
    for (const { device, ingress, egress } of endpoints) {
      if (device < 0 || this.#isClosed(device)) continue;
      for (const [field, number] of [[DEVICE_INGRESS, ingress], [DEVICE_EGRESS, egress]] as const) {
        const word = this.#wordOf(device, field);
        words.push({ word, before: this.#load(word), after: block(number) });
      }
    }
    return words;
  }

  /** Moves addresses and changes words. `others` are words that stay: where addresses make detours,
   * their rule sets are copied, too. Undoes what it did when it throws. */
  #publish(change: PolicyChange, changing: WordChange[], others: () => WordChange[]): void {
    if (this.#isBlank()) {
      enterFirst(this.identities, change.identities, (had, value) => this.#countUse(had, value));
      this.#storeWords(changing, (word) => word.after);
      return;
    }
    const { moves, nested } = findMoves(this.identities, change.identities
      .map(([prefix, identity]) => ({ key: prefixKey(prefix), identity })));
    const plan = planTransition(moves, nested, distinct(changing),
      (ruleSet, identity) => this.blocks.program(ruleSet, identity),
      (identity) => identity !== 0 && this.#uses[identity] === 0);
    const words = plan.all ? [...changing, ...others()] : changing;
    const undo: (() => void)[] = [];
    const before = new Map<number, number>();
    const after = new Map<number, number>();
    try {
      this.#copyRuleSets(plan, words, before, after);
      const known = (word: WordChange): number => before.get(word.before) ?? word.before;
      undo.push(() => this.#storeWords(words, (word) => word.before));
      if (before.size > 0) this.#storeWords(words, known);
      for (const step of plan.early) undo.push(this.#step(step));
      this.#storeWords(words, (word) => after.get(word.after) ?? word.after);
      undo.push(() => this.#storeWords(words, known));
      for (const step of plan.late) undo.push(this.#step(step));
      if (after.size > 0) this.#storeWords(words, (word) => word.after);
    } catch (error) {
      // A new epoch first: within one, no word goes back to what it was (wasm/policy/judge.ts).
      if (undo.length > 0) this.#raiseEpoch();
      for (const step of undo.reverse()) step();
      throw error;
    } finally {
      this.blocks.release([], [...before.values(), ...after.values()]);
    }
    for (const { had, value } of moves) this.#countUse(had, value);
  }

  /** True where no packet's verdict depends on its addresses. */
  #isBlank(): boolean {
    const { IPv4, IPv6 } = this.identities;
    return this.#ruleSets.size === 0 && IPv4.count === 0 && IPv6.count === 0;
  }

  #countUse(had: number, value: number): void {
    if (had !== 0) this.#uses[had] = (this.#uses[had] ?? 0) - 1;
    if (value !== 0) this.#uses[value] = (this.#uses[value] ?? 0) + 1;
  }

  /** Writes copies of rule sets that know the identities of the transition. */
  #copyRuleSets(
    plan: Transition,
    words: WordChange[],
    before: Map<number, number>,
    after: Map<number, number>,
  ): void {
    const copy = (copies: Map<number, number>, block: number, more: Map<number, number>): void => {
      if (block === 0 || more.size === 0 || copies.has(block)) return;
      const programs = [...more].map(([identity, standsFor]): [number, number] =>
        [identity, this.blocks.program(block, standsFor)]);
      copies.set(block, this.blocks.extend(block, new Map(programs)));
    };
    for (const word of words) {
      if (word.before === word.after && !plan.all) continue;
      copy(before, word.before, plan.before);
      copy(after, word.after, plan.after);
    }
  }

  /** Changes a prefix's identity. Returns how to undo it. */
  #step({ key, value }: Step): () => void {
    const table = this.identities[key.family];
    const had = table.get(key);
    if (value === 0) table.remove(key);
    else table.insert(key, value);
    return () => {
      if (had === 0) table.remove(key);
      else table.insert(key, had);
    };
  }

  /** Opens the device of an endpoint, whose rule sets are known. */
  #open({ device, ingress, egress }: PolicyEndpoint, block: (number: number) => number): void {
    if (device < 0) return;
    this.#store(this.#wordOf(device, DEVICE_INGRESS), block(ingress));
    this.#store(this.#wordOf(device, DEVICE_EGRESS), block(egress));
    this.#store(this.#wordOf(device, DEVICE_CLOSED), 0);
  }

  #close(device: number): void {
    this.#store(this.#wordOf(device, DEVICE_CLOSED), 1);
    this.#store(this.#wordOf(device, DEVICE_INGRESS), 0);
    this.#store(this.#wordOf(device, DEVICE_EGRESS), 0);
  }

  /** Gives back what the change has replaced or removed. Precondition: nothing leads to it. */
  #giveBack(change: PolicyChange, added: Map<number, number>): void {
    const gone: number[] = [];
    for (const number of [...added.keys(), ...change.removedRuleSets]) {
      const block = this.#ruleSets.get(number);
      if (block !== undefined) gone.push(block);
      this.#ruleSets.delete(number);
    }
    for (const [number, block] of added) {
      if (change.removedRuleSets.includes(number)) gone.push(block);
      else this.#ruleSets.set(number, block);
    }
    this.blocks.release(gone, []);
  }

  #raiseEpoch(): void {
    Atomics.add(this.#words, (DIRECTORY_START + DIRECTORY_POLICY_EPOCH) / 4, 1);
  }

  #isClosed(device: number): boolean {
    return this.#load(this.#wordOf(device, DEVICE_CLOSED)) !== 0;
  }

  #wordOf(device: number, field: number): number {
    const devices = this.#core.directory(DIRECTORY_DEVICES);
    return (devices + (device * DEVICE_STRIDE) + field) / 4;
  }

  #load(word: number): number {
    return Atomics.load(this.#words, word) >>> 0;
  }

  #store(word: number, value: number): void {
    Atomics.store(this.#words, word, value);
  }

  #storeWords(words: WordChange[], value: (word: WordChange) => number): void {
    for (const word of words) this.#store(word.word, value(word));
  }
}

function nameOf({ namespace, name }: { namespace: string; name: string }): string {
  return `${namespace}/${name}`;
}

/** Pairs of rule sets, each once. */
function distinct(words: RuleSetPair[]): RuleSetPair[] {
  return [...new Map(words.map((word) => [`${word.before} ${word.after}`, word])).values()];
}

/** Refuses a rule set that the core cannot answer from. */
function checkRuleSet({ number, programs, fallback, entries }: RuleSet): void {
  const refuse = (why: string): never => {
    throw new Error(`apply policy: rule set ${number}: ${why}`);
  };
  if (number === 0) refuse('0 is the number of the one that allows everything');
  for (const [index, program] of programs.entries()) {
    if (program[0]?.[0] !== 0) refuse(`program ${index} does not begin at key 0`);
    const ascends = program.every(([key], at) => at === 0 || key > (program[at - 1]?.[0] ?? 0));
    if (!ascends) refuse(`the keys of program ${index} do not ascend`);
  }
  if (fallback >= programs.length) refuse(`fallback ${fallback} is no program`);
  const seen = new Set<number>();
  for (const [identity, program] of entries) {
    if (program >= programs.length) refuse(`identity ${identity}: ${program} is no program`);
    if (seen.has(identity)) refuse(`identity ${identity} has two programs`);
    seen.add(identity);
  }
}

/** Of two pods of one name: where only one side knows a uid, the name decides. */
function isSamePod(first: string, second: string): boolean {
  return first === second || first === '' || second === '';
}
