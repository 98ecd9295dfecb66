// A random history, step by step, through a compiler and a core that are told of changes only,
// beside a twin and a compiler that see each state afresh.

import { addressBook } from '../../cli/policy/objects.ts';
import { BATCH, FLOW_ENTRIES, NodeBed, RING_RECORDS } from '../../cli/policy/bed.ts';
import type { AddressBook, BedPlan, PlacedFlow } from '../../cli/policy/ends.ts';
import type { Limits } from '../../engine/memory-map.ts';
import type { PolicyChange } from '../../engine/model.ts';
import { PolicyTables } from '../../engine/tables/policy.ts';
import { PolicyCompiler } from '../../sync/policy/compiler.ts';
import { PolicyTwin, type TwinFlow } from '../reference/policy.ts';
import type { KubeObject } from './cluster-generator.ts';
import { coreModule, createCore } from './core.ts';
import { FlowGenerator } from './flow-generator.ts';
import { HistoryGenerator, type Delivery, type KubeEvent } from './history-generator.ts';
import { compareFlow, withId, type Comparison } from './policy-compare.ts';
import { policyDigest } from './policy-digest.ts';
import { entriesOf } from './policy-entries.ts';
import { Random } from './random.ts';

const DELIVERIES: readonly Delivery[] = ['plain', 'duplicated', 'reordered', 'lost'];
const PREFIXES = { prefixes: 512, nodes: 16384, leaves: 32768 };
const LIMITS: Limits = {
  workers: 1, slots: BATCH, nextHops: 128, peers: 64, devices: 128,
  routesIpv4: PREFIXES, routesIpv6: PREFIXES, remotesIpv4: PREFIXES, remotesIpv6: PREFIXES,
  policy: {
    identitiesIpv4: PREFIXES, identitiesIpv6: PREFIXES, flows: FLOW_ENTRIES, fragments: 64,
    verdicts: RING_RECORDS, arenaBytes: 1024 * 1024,
  },
  services: { fronts: 0, backends: 0 },
};
/** A fresh core takes its time: the digest of the core's own tables is compared this often. */
const CORE_DIGEST_STEPS = 5;
/** The node whose core lives through the history. */
const NODE = 'n0';

/** Plays a history of `steps` steps and compares after each: verdicts of `flows` random flows with
 * the twin's, and the digest of what the core has been told with that of a fresh load. */
export function playHistory(seed: number, steps: number, flows: number, sum: Comparison): void {
  const player = new HistoryPlayer(seed, sum);
  for (let step = 0; step <= steps; step += 1) player.compare(step, flows);
}

class HistoryPlayer {
  #history: HistoryGenerator;
  #random: Random;
  #seed: number;
  #sum: Comparison;
  #bed = new NodeBed(coreModule(), NODE, LIMITS);
  #tables = new PolicyTables(this.#bed.core, LIMITS.policy);
  #attached = new Set<string>();
  #compiler = new PolicyCompiler({ local: NODE });
  /** What the host holds, put together from the changes it was told. */
  #held = new HeldPolicy();

  constructor(seed: number, sum: Comparison) {
    this.#seed = seed;
    this.#sum = sum;
    this.#random = new Random(seed);
    this.#history = new HistoryGenerator(this.#random);
    this.#compiler.replace(entriesOf(this.#history.cluster.list()));
  }

  /** Plays the next step, then compares. */
  compare(step: number, count: number): void {
    const delivery = this.#random.pick(DELIVERIES);
    if (step > 0) this.#deliver(this.#history.step(), delivery);
    const change = this.#compiler.commit();
    const objects = this.#history.cluster.list();
    const entries = entriesOf(objects);
    const book = addressBook(entries);
    const where = `seed ${this.#seed}, step ${step} (${delivery})`;
    this.#apply(book, change);
    this.#compareDigest(step, where, objects);
    this.#compareFlows(where, objects, book, count);
  }

  #deliver(events: KubeEvent[], delivery: Delivery): void {
    for (const { type, object } of this.#history.deliver(events, delivery)) {
      const [entry] = entriesOf([object]);
      if (entry === undefined) throw new Error('an event of no object');
      if (type === 'DELETED') this.#compiler.remove(entry.kind, entry.key);
      else this.#compiler.upsert(entry);
      // Where commits fall between events must not matter.
      if (this.#random.oneIn(4)) this.#commitBetween();
    }
    if (delivery === 'lost') {
      this.#compiler.replace(entriesOf(this.#history.cluster.list()));
    }
  }

  #commitBetween(): void {
    const change = this.#compiler.commit();
    if (change !== null) this.#applyPolicy(change);
  }

  #applyPolicy(change: PolicyChange): void {
    this.#tables.apply(change);
    this.#held.apply(change);
  }

  /** Brings the core to the state of the objects, as the host would: policy changes, pods leave,
   * pods come. */
  #apply(book: AddressBook, change: PolicyChange | null): void {
    if (change !== null) this.#applyPolicy(change);
    const plan = wholePlan(book);
    for (const [key, { device }] of this.#bed.leaving(plan)) {
      this.#tables.detach(device);
      this.#attached.delete(key);
    }
    this.#bed.update(plan);
    for (const [key, { device }] of this.#bed.endpoints) {
      const pod = book.pods.get(key);
      if (this.#attached.has(key) || pod === undefined) continue;
      this.#attached.add(key);
      this.#tables.attach(device, pod.namespace, pod.name, pod.uid);
    }
  }

  #compareDigest(step: number, where: string, objects: readonly KubeObject[]): void {
    const fresh = new PolicyCompiler({ local: NODE });
    fresh.replace(entriesOf(objects));
    fresh.commit();
    const wanted = policyDigest(fresh.snapshot(), objects);
    const found = {
      'what the host holds': policyDigest(this.#held.all(), objects),
      'the compiler\'s snapshot': policyDigest(this.#compiler.snapshot(), objects),
    };
    for (const [what, digest] of Object.entries(found)) {
      if (digest === wanted) continue;
      this.#sum.differences.push(`${where}: ${what} is not what a fresh load gives`);
    }
    if (step % CORE_DIGEST_STEPS > 0) return;
    const core = createCore(LIMITS);
    const tables = new PolicyTables(core, LIMITS.policy);
    tables.apply(fresh.snapshot());
    if (tables.digest() === this.#tables.digest()) return;
    this.#sum.differences.push(`${where}: the core's tables are not what a fresh load gives`);
  }

  #compareFlows(
    where: string, objects: readonly KubeObject[], book: AddressBook, count: number,
  ): void {
    const twin = new PolicyTwin(objects);
    const generator = new FlowGenerator(this.#history.cluster);
    const flows: { flow: TwinFlow; placed: PlacedFlow }[] = [];
    for (let tries = 0; tries < count * 4 && flows.length < count; tries += 1) {
      const flow = generator.next();
      const placed = book.place(withId(flow, tries));
      const isOurs = [placed.source, placed.destination].some(({ pod }) => pod?.nodeName === NODE);
      if (isOurs) flows.push({ flow, placed });
    }
    const verdicts = this.#bed.judge(flows.map(({ placed }) => placed));
    for (const [index, { egress, ingress, dropped }] of verdicts.entries()) {
      const { flow, placed } = flows[index] ?? {};
      if (flow === undefined || placed === undefined) continue;
      const expected = twin.judge(flow);
      // The other end is another core's to judge.
      const word = (end: typeof egress): 'allow' | 'deny' =>
        end?.allowed === false ? 'deny' : 'allow';
      const own = (end: 'source' | 'destination'): boolean => placed[end].pod?.nodeName === NODE;
      const ours = {
        egress: own('source') ? expected.egress : 'allow' as const,
        ingress: own('destination') ? expected.ingress : 'allow' as const,
      };
      const verdict = ours.egress === 'deny' || ours.ingress === 'deny' ? 'deny' : 'allow';
      const passes = dropped === '' ? 'allow' : 'deny';
      compareFlow(where, flow,
        { id: '', verdict: passes, egress: word(egress), ingress: word(ingress), policy: null },
        { verdict, ...ours, policy: null }, this.#sum);
    }
  }
}

/** Every pod of the node, and every address of the others. */
function wholePlan(book: AddressBook): BedPlan {
  const pods = book.attached();
  return {
    addresses: book.nodes.get(NODE)?.addresses ?? [],
    pods: pods.filter(({ nodeName }) => nodeName === NODE),
    others: [...book.nodes.values()].filter(({ name }) => name !== NODE).map((node) => ({
      name: node.name,
      addresses: [...node.addresses, ...pods.filter(({ nodeName }) => nodeName === node.name)
        .flatMap(({ addresses }) => addresses)],
    })),
  };
}

/** What a host holds that was told these changes and nothing else. */
class HeldPolicy {
  #identities = new Map<string, number>();
  #ruleSets = new Map<number, PolicyChange['ruleSets'][number]>();
  #endpoints = new Map<string, PolicyChange['endpoints'][number]>();
  #rules = new Map<number, PolicyChange['rules'][number]>();

  apply(change: PolicyChange): void {
    for (const [prefix, identity] of change.identities) {
      if (identity === 0) this.#identities.delete(prefix);
      else this.#identities.set(prefix, identity);
    }
    for (const number of change.removedRuleSets) this.#ruleSets.delete(number);
    for (const ruleSet of change.ruleSets) this.#ruleSets.set(ruleSet.number, ruleSet);
    for (const { namespace, name } of change.removedEndpoints) {
      this.#endpoints.delete(`${namespace}/${name}`);
    }
    for (const endpoint of change.endpoints) {
      this.#endpoints.set(`${endpoint.namespace}/${endpoint.name}`, endpoint);
    }
    for (const number of change.removedRules) this.#rules.delete(number);
    for (const rule of change.rules) this.#rules.set(rule.number, rule);
  }

  /** All of it as the change from nothing. */
  all(): PolicyChange {
    return {
      identities: [...this.#identities], ruleSets: [...this.#ruleSets.values()],
      removedRuleSets: [], endpoints: [...this.#endpoints.values()], removedEndpoints: [],
      rules: [...this.#rules.values()], removedRules: [],
    };
  }
}
