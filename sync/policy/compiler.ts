// The policy compiler: Kubernetes objects in, what the core needs to judge packets out, and after
// each commit only what has changed. docs/POLICY.md says what it all means.
//
//     upsert(), remove()      note what an object touches: groups of pods, addresses, endpoints
//     commit()                works out what that changes, and returns it
//
// A commit finds, in this order: the rule sets of local pods whose policies have changed, and with
// them what rules need to know about addresses; the traits of groups and nodes; the identities of
// addresses; entries of identities that are new, in every rule set that the host knows, those that
// go with this change included, since they are in force until it is applied in full.
//
// A pod's traffic with itself and with its own node is not looked at here: the core lets it pass.

import type { EndpointPolicy, PolicyChange } from '../../engine/model.ts';
import type { Entry } from '../objects.ts';
import { Addresses, areAt } from './addresses.ts';
import { emptyChange, inParts, isEmptyChange } from './change.ts';
import { each, withOne } from './few.ts';
import { Identities } from './identities.ts';
import { Inventory, groupText } from './inventory.ts';
import type { Group, NodeFacts, PodFacts } from './inventory.ts';
import { Policies } from './policies.ts';
import { RuleNames } from './rule-names.ts';
import { RuleSets } from './rule-sets.ts';
import type { PodSelector } from './selector-index.ts';
import { labelHandles, matches } from './selector.ts';
import { NO_TRAITS, Needs, TraitSets } from './traits.ts';
import { packUid, unpackUid } from './uid.ts';
import type { Need, Trait } from './traits.ts';

export interface CompilerOptions {
  /** The node whose pods get rule sets; null for the pods of all nodes. */
  local: string | null;
  /** Reads the annotation `net.beta.kubernetes.io/network-policy` of namespaces. */
  legacyAnnotation?: boolean;
}

type PodEntry = Extract<Entry, { kind: 'Pod' }>;
type NodeEntry = Extract<Entry, { kind: 'Node' }>;

export interface CompilerCounts {
  identities: number;
  ruleSets: number;
}

export class PolicyCompiler {
  readonly #options: CompilerOptions;
  readonly #sets = new TraitSets();
  readonly #needs = new Needs();
  readonly #names = new RuleNames();
  readonly #inventory = new Inventory();
  readonly #policies = new Policies();
  readonly #addresses = new Addresses(this.#sets);
  readonly #ruleSets = new RuleSets(this.#needs, this.#names);
  readonly #identities = new Identities(() => this.#ruleSets.identityNumbers());
  readonly #unmatchedNodes = new Set<NodeFacts>();
  readonly #endpoints = new Set<PodFacts>();
  readonly #goneEndpoints = new Set<string>();
  /** What the host was told of local pods. */
  readonly #told = new Map<string, EndpointPolicy>();

  constructor(options: CompilerOptions) {
    this.#options = options;
  }

  get counts(): CompilerCounts {
    return { identities: this.#identities.count, ruleSets: this.#ruleSets.count };
  }

  /** What is not in force as the policies say, one line each. */
  get problems(): string[] {
    return this.#ruleSets.problems();
  }

  /** Takes an object as it is now. */
  upsert(entry: Entry): void {
    switch (entry.kind) {
      case 'Pod': return entry.hasNetwork ? this.#setPod(entry) : this.#removePod(entry.key);
      case 'Node': return this.#setNode(entry);
      case 'Namespace': return this.#inventory.setNamespace(entry.key, entry);
      case 'Service':
      case 'EndpointSlice': return; // policy sees their backends
      default: return this.#touch(this.#policies.set(entry.policy.title, entry.policy));
    }
  }

  /** Takes out an object, known by its key as in `Entry`. */
  remove(kind: Entry['kind'], key: string): void {
    switch (kind) {
      case 'Pod': return this.#removePod(key);
      case 'Node': return this.#removeNode(key);
      case 'Namespace': return this.#inventory.setNamespace(key, null);
      case 'Service':
      case 'EndpointSlice': return;
      default: return this.#touch(this.#policies.set(`${kind} ${key}`, null));
    }
  }

  /** Takes all objects as they are now; those that are not among them are no more. */
  replace(entries: readonly Entry[]): void {
    const there = new Set(entries.map(({ kind, key }) => `${kind} ${key}`));
    const { pods, nodes, namespaces } = this.#inventory;
    const known: [Entry['kind'], string][] = [
      ...[...pods.keys()].map((key): [Entry['kind'], string] => ['Pod', key]),
      ...[...nodes.keys()].map((key): [Entry['kind'], string] => ['Node', key]),
      ...[...namespaces.keys()].map((key): [Entry['kind'], string] => ['Namespace', key]),
    ];
    for (const [kind, key] of known) if (!there.has(`${kind} ${key}`)) this.remove(kind, key);
    for (const title of [...this.#policies.titles()]) {
      if (!there.has(title)) this.#touch(this.#policies.set(title, null));
    }
    for (const entry of entries) this.upsert(entry);
  }

  /** Returns what has changed since the last commit, null for nothing. Where it is not wanted,
   * since all will be sent, it may be incomplete. */
  commit(isWanted = true): PolicyChange | null {
    const change = emptyChange();
    this.#ruleGroups();
    this.#matchPods();
    this.#matchNodes();
    for (const record of this.#identities.takeGuests()) this.#addresses.touched.add(record);
    const created = this.#identities.apply(this.#addresses.plan(), this.#ruleSets.going());
    this.#addresses.tell(change, isWanted);
    this.#ruleSets.tell(created, this.#identities, change);
    this.#tellEndpoints(change);
    this.#ruleSets.settle(change);
    this.#names.tell(change);
    this.#identities.settle();
    this.#needs.settle();
    this.#sets.forget();
    return isEmptyChange(change) ? null : change;
  }

  /** Everything, as the change from nothing. Precondition: all is committed. */
  snapshot(): PolicyChange {
    return {
      ...emptyChange(),
      identities: [...this.#addresses.allTold()],
      ruleSets: [...this.#ruleSets.messages(this.#identities)],
      rules: [...this.#names.allTold()],
      endpoints: this.#endpointsTold(),
    };
  }

  /** The same in parts that each fit a frame, made as they are taken. Objects may change meanwhile,
   * but nothing may be committed. */
  parts(): Iterable<PolicyChange> {
    const endpoints = this.#endpointsTold();
    return this.#makeParts(endpoints);
  }

  * #makeParts(endpoints: PolicyChange['endpoints']): Generator<PolicyChange> {
    yield* inParts('endpoints', endpoints);
    yield* inParts('identities', this.#addresses.allTold());
    yield* inParts('ruleSets', this.#ruleSets.messages(this.#identities));
    yield* inParts('rules', this.#names.allTold());
  }

  /** The uid of a pod that is known; undefined for none. */
  uidOfPod(key: string): string | undefined {
    const uid = this.#inventory.pods.get(key)?.uid;
    return uid === undefined ? undefined : unpackUid(uid);
  }

  #endpointsTold(): PolicyChange['endpoints'] {
    return [...this.#told.values()];
  }

  #setPod(entry: PodEntry): void {
    const { key, labels, ports, isRunning } = entry;
    const { namespace, addresses } = entry.pod;
    const uid = packUid(entry.pod.uid);
    const isLocal = this.#options.local === null || this.#options.local === entry.nodeName;
    const createdMs = Date.parse(entry.created);
    const created = Number.isNaN(createdMs) ? 0 : Math.floor(createdMs / 1000);
    let pod = this.#inventory.pods.get(key);
    if (pod === undefined) {
      const group = this.#inventory.group(namespace, labels, ports);
      pod = { key, uid, created, isRunning, isLocal, group, records: null };
      this.#inventory.pods.set(key, pod);
      this.#inventory.join(group, pod);
      this.#endpoints.add(pod);
    } else if (isLocal !== pod.isLocal || groupText(labels, ports) !== pod.group.text) {
      this.#inventory.leave(pod);
      pod.isLocal = isLocal;
      pod.group = this.#inventory.group(namespace, labels, ports);
      this.#inventory.join(pod.group, pod);
      this.#endpoints.add(pod);
      for (const record of each(pod.records)) this.#addresses.touched.add(record);
    }
    this.#setClaims(pod, addresses, { uid, created, isRunning });
  }

  #setClaims(
    pod: PodFacts, addresses: readonly string[],
    facts: Pick<PodFacts, 'uid' | 'created' | 'isRunning'>,
  ): void {
    if (facts.uid !== pod.uid) this.#endpoints.add(pod);
    const isSame = facts.uid === pod.uid && facts.created === pod.created
      && facts.isRunning === pod.isRunning && areAt(pod.records, addresses);
    if (isSame) return;
    for (const record of each(pod.records)) this.#addresses.giveUp(record, pod);
    Object.assign(pod, facts);
    pod.records = null;
    for (const address of addresses) {
      pod.records = withOne(pod.records, this.#addresses.claim(address, pod));
    }
  }

  #removePod(key: string): void {
    const pod = this.#inventory.pods.get(key);
    if (pod === undefined) return;
    for (const record of each(pod.records)) this.#addresses.giveUp(record, pod);
    this.#inventory.leave(pod);
    this.#inventory.pods.delete(key);
    this.#endpoints.delete(pod);
    if (this.#told.has(key)) this.#goneEndpoints.add(key);
  }

  #setNode({ key, labels, addresses }: NodeEntry): void {
    const known = this.#inventory.nodes.get(key);
    const node = known ?? { name: key, labels: [], addresses: [], records: [], traits: NO_TRAITS };
    this.#inventory.nodes.set(key, node);
    if (addresses.join() !== node.addresses.join()) {
      for (const record of node.records) this.#addresses.giveUpForNode(record, node);
      node.addresses = addresses;
      node.records = addresses.map((address) => this.#addresses.claimForNode(address, node));
    }
    node.labels = labels;
    this.#unmatchedNodes.add(node);
  }

  #removeNode(name: string): void {
    const node = this.#inventory.nodes.get(name);
    if (node === undefined) return;
    for (const record of node.records) this.#addresses.giveUpForNode(record, node);
    this.#inventory.nodes.delete(name);
    this.#unmatchedNodes.delete(node);
  }

  /** Notes the local groups of pods that policies with these selectors are about. */
  #touch(selectors: readonly PodSelector[]): void {
    for (const selector of selectors) {
      for (const group of this.#inventory.selectedLocal(selector)) {
        this.#inventory.unruled.add(group);
      }
    }
  }

  /** Finds the rule sets of groups whose policies may have changed. A namespace with other labels
   * changes both what rules say about its pods and what rules its pods have. So that no packet
   * meets old rules that speak of new labels, rule sets that its pods leave do not change: pods
   * that stay get others like them. */
  #ruleGroups(): void {
    const { unruled, relabelled } = this.#inventory;
    for (const group of unruled) this.#rule(group);
    unruled.clear();
    for (const ruleSet of relabelled ? this.#ruleSets.shared() : []) {
      this.#ruleSets.retire(ruleSet);
      for (const group of [...ruleSet.users]) this.#rule(group);
    }
    this.#inventory.relabelled = false;
  }

  #rule(group: Group): void {
    const before = [group.ingress, group.egress];
    const isLegacy = this.#options.legacyAnnotation === true;
    const { ingress, egress } = group.localCount === 0 ? { ingress: [], egress: [] }
      : this.#policies.about(group, isLegacy);
    group.ingress = this.#ruleSets.acquire('ingress', ingress, group);
    group.egress = this.#ruleSets.acquire('egress', egress, group);
    if (before[0] === group.ingress && before[1] === group.egress) return;
    for (const ruleSet of before) {
      const isKept = ruleSet === group.ingress || ruleSet === group.egress;
      if (ruleSet !== null && !isKept) this.#ruleSets.release(ruleSet, group);
    }
    for (const pod of group.pods) if (pod.isLocal) this.#endpoints.add(pod);
  }

  /** Brings the traits of groups, and blocks, to what is needed now. */
  #matchPods(): void {
    const { unmatched } = this.#inventory;
    for (const need of this.#needs.fresh) this.#meet(need);
    for (const need of this.#needs.takeUnused()) this.#drop(need);
    for (const group of unmatched) {
      if (group.pods.length === 0) {
        this.#inventory.forget(group);
        continue;
      }
      this.#inventory.index(group);
      const { namespace, labels, ports } = group;
      const pod = { labels, handles: labelHandles(labels) };
      this.#setTraits(group, this.#needs.traitsOfPods(namespace, pod, ports));
    }
    unmatched.clear();
  }

  /** Gives a new need's traits to those who have them. Groups that are unmatched come later. */
  #meet(need: Need): void {
    const { peer } = need;
    if (peer === null) {
      for (const group of this.#inventory.withPort(need.portName)) {
        this.#inventory.unmatched.add(group);
      }
    } else if (peer.kind === 'nodes') {
      for (const node of this.#inventory.nodes.values()) this.#unmatchedNodes.add(node);
    } else if (peer.kind === 'block') {
      this.#addresses.addBlock(this.#needs.traitOf(need, 0), peer.cidr, peer.except);
    } else {
      const trait = this.#needs.traitOf(need, 0);
      for (const group of this.#inventory.selected(peer)) {
        if (!this.#inventory.unmatched.has(group)) {
          this.#setTraits(group, [...group.traits.traits, trait]);
        }
      }
    }
  }

  /** Takes an unused need's traits away. */
  #drop(need: Need): void {
    const { peer } = need;
    if (peer === null) {
      for (const group of this.#inventory.withPort(need.portName)) this.#dropTraits(group);
    } else if (peer.kind === 'nodes') {
      for (const node of this.#inventory.nodes.values()) this.#unmatchedNodes.add(node);
    } else if (peer.kind === 'block') {
      this.#addresses.removeBlock(this.#needs.traitOf(need, 0), peer.cidr, peer.except);
    } else {
      for (const group of this.#inventory.selected(peer)) this.#dropTraits(group);
    }
  }

  #dropTraits(group: Group): void {
    if (this.#inventory.unmatched.has(group)) return;
    const traits = this.#sets.withoutDropped(group.traits);
    if (traits !== group.traits) this.#setTraits(group, traits.traits);
  }

  #setTraits(group: Group, traits: readonly Trait[]): void {
    const set = this.#sets.of(traits);
    if (set.key === group.traits.key) return;
    group.traits = set;
    for (const { records } of group.pods) {
      for (const record of each(records)) this.#addresses.touched.add(record);
    }
  }

  #matchNodes(): void {
    for (const node of this.#unmatchedNodes) {
      const traits = this.#sets.of([...this.#needs.nodes]
        .filter(({ peer }) => peer?.kind === 'nodes' && matches(peer.nodes, node.labels))
        .map((need) => this.#needs.traitOf(need, 0)));
      if (traits.key === node.traits.key) continue;
      node.traits = traits;
      for (const record of node.records) this.#addresses.touched.add(record);
    }
    this.#unmatchedNodes.clear();
  }

  #tellEndpoints(change: PolicyChange): void {
    for (const pod of this.#endpoints) {
      const { key, uid, isLocal, group } = pod;
      if (!isLocal) {
        if (this.#told.has(key)) this.#goneEndpoints.add(key);
        continue;
      }
      this.#goneEndpoints.delete(key);
      const next = {
        ...podName(key), uid: unpackUid(uid), ingress: group.ingress?.number ?? 0,
        egress: group.egress?.number ?? 0,
      };
      if (JSON.stringify(next) === JSON.stringify(this.#told.get(key))) continue;
      this.#told.set(key, next);
      change.endpoints.push(next);
    }
    for (const key of this.#goneEndpoints) {
      this.#told.delete(key);
      change.removedEndpoints.push(podName(key));
    }
    this.#endpoints.clear();
    this.#goneEndpoints.clear();
  }
}

function podName(key: string): { namespace: string; name: string } {
  const [namespace = '', name = ''] = key.split('/');
  return { namespace, name };
}
