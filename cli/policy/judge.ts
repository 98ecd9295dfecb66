// Verdicts on flows: each flow's first packet goes through the cores of the nodes where its ends
// are, one node after the other, and what the two say is put together.

import { hostPrefix } from '../../engine/address.ts';
import type { PolicyChange, RuleName } from '../../engine/model.ts';
import { moduleOf } from '../../engine/modules.ts';
import { PolicyTables } from '../../engine/tables/policy.ts';
import type { Entry } from '../../sync/objects.ts';
import { BATCH, FLOW_ENTRIES, NodeBed, RING_RECORDS, type BedVerdict, type EndVerdict } from
  './bed.ts';
import { compileCluster, type CompileOptions } from './compile.ts';
import { FlowFault, type AddressBook, type BedPlan, type PlacedFlow } from './ends.ts';
import type { Flow } from './flows.ts';
import { limitsFor } from './limits.ts';
import type { OfflineModules } from './modules.ts';
import { addressBook } from './objects.ts';

export type Word = 'allow' | 'deny';

/** What `policy test` prints for a flow. */
export interface FlowResult {
  id: string;
  verdict: Word;
  egress: Word;
  ingress: Word;
  policy: string | null;
}

/** What one end's policy said, and which rule of which policy; null where none decided. */
export interface EndResult {
  verdict: Word;
  rule: RuleName | null;
  /** The module that decided instead of a policy; null where none did. */
  module: string | null;
  /** False where there is no pod whose policy would count, or where policy has no say. */
  isPoliced: boolean;
}

/** A flow's verdict with its reasons. */
export interface Judgement {
  flow: PlacedFlow;
  verdict: Word;
  egress: EndResult;
  ingress: EndResult;
}

/** A flow that cannot be answered; the message names its place in the list and the field. */
export class FlowProblem extends Error {
  readonly reason: string;
  /** Where the field is in the file of flows. */
  readonly path: (string | number)[];

  constructor(index: number, flow: Flow, field: string, reason: string) {
    super(`flows[${index}].${field}: ${reason} (flow ${JSON.stringify(flow.id)})`);
    this.reason = reason;
    this.path = ['flows', index, ...field.split('.')];
  }
}

/** Tells how many packets of all have been judged. */
export type Progress = (done: number, all: number) => void;

/** Modules that go into each node's core. */
export type InstalledModules = Pick<OfflineModules, 'install' | 'nameOf'>;

export interface JudgeOptions extends CompileOptions {
  progress?: Progress;
  /** Places of the flows in the list that problems speak of; their own unless said. */
  places?: readonly number[];
  modules?: InstalledModules | null;
}

const UNASKED: EndResult = { verdict: 'allow', rule: null, module: null, isPoliced: false };

/** Judges flows over a cluster of objects, in order. Throws FlowProblem for one that has no first
 * packet. */
export function judgeFlows(
  module: WebAssembly.Module, entries: readonly Entry[], flows: readonly Flow[],
  { progress = () => undefined, places = [], modules = null, ...options }: JudgeOptions,
): Judgement[] {
  const book = addressBook(entries);
  const placed = flows.map((flow, index) => placeFlow(book, flow, places[index] ?? index));
  const judgements = placed.map((flow): Judgement =>
    ({ flow, verdict: 'allow', egress: UNASKED, ingress: UNASKED }));
  const work = workByNode(placed);
  const all = [...work.values()].reduce((sum, indexes) => sum + indexes.length, 0);
  if (all === 0) return judgements;
  const change = compileCluster(entries, options);
  let done = 0;
  for (const [nodeName, indexes] of work) {
    const own = indexes.map((index) => placed[index]).filter((flow) => flow !== undefined);
    const node = makeNode(module, nodeName, book, own, change);
    modules?.install(node.bed, node.tables, book.podsOf(nodeName));
    const explain = explainer(node.tables, modules);
    for (let first = 0; first < own.length; first += PROGRESS_STEP) {
      const part = own.slice(first, first + PROGRESS_STEP);
      for (const [at, verdict] of node.bed.judge(part).entries()) {
        const index = indexes[first + at] ?? 0;
        const judgement = judgements[index];
        if (judgement === undefined) continue;
        enter(judgement, places[index] ?? index, verdict, explain);
      }
      done += part.length;
      progress(done, all);
    }
  }
  return judgements;
}

const PROGRESS_STEP = BATCH * 16;

/** The line of `policy test` for a judgement: who denied, egress before ingress; else who allowed,
 * the destination's end before the source's. */
export function resultOf({ flow, verdict, egress, ingress }: Judgement): FlowResult {
  const deciding = egress.verdict === 'deny' ? egress
    : ingress.verdict === 'deny' || deciderOf(ingress) !== null ? ingress : egress;
  return {
    id: flow.flow.id, verdict, egress: egress.verdict, ingress: ingress.verdict,
    policy: deciderOf(deciding),
  };
}

/** The policy or module that decided at an end; null where none did. */
function deciderOf({ module, rule }: EndResult): string | null {
  return module === null ? rule?.policy ?? null : `module ${module}`;
}

function placeFlow(book: AddressBook, flow: Flow, index: number): PlacedFlow {
  try {
    return book.place(flow);
  } catch (error) {
    if (!(error instanceof FlowFault)) throw error;
    throw new FlowProblem(index, flow, error.field, error.message);
  }
}

/** Flows by the nodes that enforce an end of theirs, as indexes. */
function workByNode(placed: readonly PlacedFlow[]): Map<string, number[]> {
  const work = new Map<string, number[]>();
  for (const [index, { source, destination }] of placed.entries()) {
    const nodes = new Set([source.pod?.nodeName, destination.pod?.nodeName]);
    for (const node of nodes) {
      if (node === undefined) continue;
      const indexes = work.get(node) ?? [];
      indexes.push(index);
      work.set(node, indexes);
    }
  }
  return work;
}

/** A node's core with the policy of its pods, and with routes for the flows it is to judge. */
function makeNode(
  module: WebAssembly.Module, nodeName: string, book: AddressBook,
  flows: readonly PlacedFlow[], change: PolicyChange,
): { bed: NodeBed; tables: PolicyTables } {
  const plan = book.planFor(nodeName, flows);
  const addresses = new Set(flows.flatMap(({ source, destination }) =>
    [source.address, destination.address]));
  const policy = whatCounts(change, plan, [...addresses]);
  const limits = limitsFor({
    pods: plan.pods.length, peers: plan.others.length, change: policy,
    addresses: [plan, ...plan.others, ...plan.pods].flatMap(({ addresses }) => addresses),
    slots: BATCH, flows: FLOW_ENTRIES, verdicts: RING_RECORDS,
  });
  const bed = new NodeBed(module, nodeName, limits);
  bed.update(plan);
  const tables = new PolicyTables(bed.core, limits.policy);
  tables.apply(policy, (namespace, name) =>
    bed.endpoints.get(`${namespace}/${name}`)?.device ?? null);
  return { bed, tables };
}

/** The part of a change that packets between these addresses can meet: the pods' rule sets, without
 * the prefixes and identities of single addresses that no packet carries. */
function whatCounts(
  change: PolicyChange, { pods }: BedPlan, addresses: readonly string[],
): PolicyChange {
  const hosts = new Set(addresses.map(hostPrefix));
  const identities = change.identities.filter(([prefix]) =>
    !isHostPrefix(prefix) || hosts.has(prefix));
  const met = new Set(identities.map(([, identity]) => identity));
  const keys = new Set(pods.map(({ key }) => key));
  const endpoints = change.endpoints.filter(({ namespace, name }) =>
    keys.has(`${namespace}/${name}`));
  const used = new Set(endpoints.flatMap(({ ingress, egress }) => [ingress, egress]));
  const ruleSets = change.ruleSets.filter(({ number }) => used.has(number)).map((ruleSet) =>
    ({ ...ruleSet, entries: ruleSet.entries.filter(([identity]) => met.has(identity)) }));
  return { ...change, identities, endpoints, ruleSets };
}

function isHostPrefix(prefix: string): boolean {
  return prefix.endsWith('/128') || (prefix.endsWith('/32') && !prefix.includes(':'));
}

type Explainer = (end: EndVerdict) => Pick<EndResult, 'rule' | 'module'>;

/** Who decided, by name. */
function explainer(tables: PolicyTables, modules: InstalledModules | null): Explainer {
  return ({ answer }) => {
    const place = moduleOf(answer);
    return place < 0 || modules === null
      ? { rule: tables.explain(answer), module: null }
      : { rule: null, module: modules.nameOf(place) };
  };
}

/** Adds what a node's core said about a flow. */
function enter(
  judgement: Judgement, index: number, { egress, ingress, dropped }: BedVerdict,
  explain: Explainer,
): void {
  const isDenied = egress?.allowed === false || ingress?.allowed === false;
  if (dropped !== '' && !isDenied) {
    const { flow } = judgement.flow;
    throw new FlowProblem(index, flow, 'src', `no node lets such a packet pass: ${dropped}`);
  }
  const result = (end: EndVerdict): EndResult =>
    ({ verdict: end.allowed ? 'allow' : 'deny', ...explain(end), isPoliced: true });
  if (egress !== null) judgement.egress = result(egress);
  if (ingress !== null) judgement.ingress = result(ingress);
  if (isDenied) judgement.verdict = 'deny';
}
