// The cluster as the sidecar knows it, kept object by object, and what each change of it means for
// the host. A pod's change costs what concerns that pod, however many others there are.
//
// Kept are the nodes, the pods of our node, Services, and what the policy compiler keeps. Objects
// are known by uid: another object of the same name takes an older one's place, and the end of one
// that is not there any more is no news.
//
// While few objects change at a time each is committed alone, since one object's change is safe at
// every moment of its application (docs/POLICY.md); of a whole list, or of many, all at once. While
// a snapshot is read nothing is committed: it waits for onRead().

import type { Log } from '../engine/log.ts';
import { PROBLEM_LIMIT, PROBLEM_TEXT_LIMIT } from '../engine/model.ts';
import type { Pod, SourceHealth } from '../engine/model.ts';
import { compareText } from './fields.ts';
import { withEndpoint } from './local-endpoints.ts';
import { NO_NODE, Nodes } from './nodes.ts';
import type { Entry } from './objects.ts';
import type { Change } from './outbox.ts';
import { PolicyCompiler } from './policy/compiler.ts';
import { getOrMake } from './policy/selector-index.ts';
import type { Whole } from './send.ts';
import { Services } from './services/services.ts';
import { podKey } from './translate.ts';
import type { ClusterView } from './tunnels.ts';

export type { SourceHealth };

type PodEntry = Extract<Entry, { kind: 'Pod' }>;

/** Where a source delivers. */
export interface ClusterSink {
  /** An object as it is now. */
  upsert(entry: Entry): void;
  /** An object is no more; an empty uid stands for whichever is known by that key. */
  remove(kind: Entry['kind'], key: string, uid: string): void;
  /** What was said so far is to count. The first time, it is all there is. */
  commit(): void;
  setHealth(health: SourceHealth): void;
}

/** Where changes go: a Sender. */
export interface StateReceiver {
  /** While it is true, nothing may be committed. */
  readonly isReading: boolean;
  /** While it is false, changes are of no use to it: it will read everything. */
  readonly wantsChanges?: boolean;
  tell(change: Change, whole: () => Whole): void;
  health(health: SourceHealth): void;
}

export interface ClusterStateOptions {
  /** The node that all this is for. */
  local: string;
  log: Log;
  /** Isolates namespaces by the annotation that was NetworkPolicy before Kubernetes 1.7. */
  legacyAnnotation?: boolean;
}

/** So many objects are committed one by one. */
const SINGLE_OBJECTS = 16;

export class ClusterState implements ClusterSink {
  readonly #options: ClusterStateOptions;
  readonly #compiler: PolicyCompiler;
  readonly #nodes: Nodes;
  readonly #services: Services;
  /** Uids of all objects but pods, by kind and key. */
  readonly #uids = new Map<string, Map<string, string>>();
  /** The pods of our node that have a network, as the source has them. */
  readonly #local = new Map<string, PodEntry>();
  /** Those that are attached, as the host has them. */
  readonly #attached = new Map<string, Pod>();
  /** What the host was told of pods. */
  readonly #told = new Map<string, Pod>();
  readonly #touchedPods = new Set<string>();
  /** Changes that are to be committed one by one. */
  #waiting: (() => void)[] = [];
  /** Too many for that: they are with the compiler already. */
  #isMany = true;
  #hasBegun = false;
  #isDue = false;
  #receiver: StateReceiver | null = null;
  #health: SourceHealth | null = null;
  #problems: readonly string[] = [];
  #toldHealth = '';
  #warned = '';

  constructor(options: ClusterStateOptions) {
    const { local, legacyAnnotation = false } = options;
    this.#options = options;
    this.#nodes = new Nodes(local);
    this.#compiler = new PolicyCompiler({ local, legacyAnnotation });
    this.#services = new Services(local);
  }

  /** How many nodes there are, and pods of ours. */
  get counts(): { nodes: number; pods: number } {
    return { nodes: this.#nodes.size, pods: this.#local.size };
  }

  /** Says where changes go. To be called before the first commit. */
  connect(receiver: StateReceiver): void {
    this.#receiver = receiver;
  }

  upsert(entry: Entry): void {
    this.#enter(() => this.#set(entry));
  }

  remove(kind: Entry['kind'], key: string, uid: string): void {
    this.#enter(() => this.#unset(kind, key, uid));
  }

  /** What comes until the next commit is one change, however few objects it is about. */
  begin(): void {
    for (const earlier of this.#waiting) earlier();
    this.#waiting = [];
    this.#isMany = true;
  }

  commit(): void {
    this.#hasBegun = true;
    this.#isDue = true;
    this.#commitNow();
  }

  /** A snapshot has been read: what has waited for that is committed. */
  onRead(): void {
    if (this.#isDue) this.#commitNow();
  }

  setHealth(health: SourceHealth): void {
    this.#health = health;
    this.#tellHealth();
  }

  /** Takes what others than the source have to tell the operator. */
  setProblems(problems: readonly string[]): void {
    this.#problems = problems;
    this.#tellHealth();
  }

  /** Takes what is known of the cluster beside its objects. */
  setView(view: ClusterView): void {
    this.#enter(() => this.#nodes.setView(view));
    if (this.#hasBegun) this.commit();
  }

  /** Takes the pods attached to our node, as the host has them. */
  takeEndpoints(endpoints: readonly Pod[]): void {
    const next = new Map(endpoints.map((pod) => [podKey(pod), pod]));
    for (const key of new Set([...this.#attached.keys(), ...next.keys()])) {
      const attached = next.get(key);
      if (JSON.stringify(attached) === JSON.stringify(this.#attached.get(key))) continue;
      if (attached === undefined) this.#attached.delete(key);
      else this.#attached.set(key, attached);
      this.#enter(() => {
        const entry = this.#local.get(key);
        if (entry !== undefined) this.#setPod(entry);
      });
    }
    if (this.#hasBegun) this.commit();
  }

  #enter(work: () => void): void {
    if (this.#isMany) return work();
    this.#waiting.push(work);
    if (this.#waiting.length > SINGLE_OBJECTS) this.begin();
  }

  #commitNow(): void {
    if (this.#receiver?.isReading === true) return;
    this.#isDue = false;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const work of waiting) {
      work();
      this.#publish();
    }
    if (this.#isMany) this.#isMany = !this.#publish();
    this.#tellHealth();
  }

  /** Hands on what has changed. False where there is no state that could be used. */
  #publish(): boolean {
    if (this.#nodes.size === 0) return false;
    const nodes = this.#nodes.take();
    const pods = this.#takePods();
    const isWanted = this.#receiver?.wantsChanges !== false;
    const policy = this.#compiler.commit(isWanted);
    const services = this.#services.take(isWanted);
    const lists = [nodes.nodes, nodes.removedNodes, pods.pods, pods.removedPods];
    if (nodes.nodes.length + nodes.removedNodes.length > 0) this.#warn();
    const isSame = policy === null && services === null;
    if (isSame && lists.every((list) => list.length === 0)) return true;
    const change = { ...nodes, ...pods, ...(policy === null ? {} : { policy }), ...services };
    this.#receiver?.tell(change, () => this.#whole());
    return true;
  }

  #whole(): Whole {
    return {
      local: this.#options.local,
      nodes: this.#nodes.all(),
      pods: [...this.#told].sort(([a], [b]) => compareText(a, b)).map(([, pod]) => pod),
      policy: this.#compiler.parts(),
      services: this.#services.parts(),
    };
  }

  #takePods(): Pick<Change, 'pods' | 'removedPods'> {
    const change: Pick<Change, 'pods' | 'removedPods'> = { pods: [], removedPods: [] };
    for (const key of this.#touchedPods) {
      const before = this.#told.get(key);
      const entry = this.#local.get(key);
      if (entry !== undefined) {
        const { pod } = withEndpoint(entry, this.#attached.get(key));
        if (JSON.stringify(pod) === JSON.stringify(before)) continue;
        this.#told.set(key, pod);
        change.pods.push(pod);
      } else if (before !== undefined) {
        this.#told.delete(key);
        change.removedPods.push({ namespace: before.namespace, name: before.name });
      }
    }
    this.#touchedPods.clear();
    return change;
  }

  #set(entry: Entry): void {
    if (entry.kind === 'Pod') return this.#setPod(entry);
    getOrMake(this.#uids, entry.kind, () => new Map<string, string>()).set(entry.key, entry.uid);
    if (entry.kind === 'Service') return this.#services.setService(entry.key, entry.service);
    if (entry.kind === 'EndpointSlice') return this.#services.setSlice(entry.key, entry.slice);
    if (entry.kind === 'Node') this.#setNode(entry);
    this.#compiler.upsert(entry);
  }

  #setNode(entry: Extract<Entry, { kind: 'Node' }>): void {
    this.#nodes.upsert(entry);
    if (entry.key === this.#options.local) this.#services.setNodeLabels(entry.labels);
  }

  #setPod(entry: PodEntry): void {
    const { key, nodeName, hasNetwork } = entry;
    const isOurs = nodeName === this.#options.local && hasNetwork;
    if (isOurs || this.#local.has(key)) this.#touchedPods.add(key);
    if (isOurs) this.#local.set(key, entry);
    else this.#local.delete(key);
    this.#compiler.upsert(isOurs ? withEndpoint(entry, this.#attached.get(key)) : entry);
  }

  #unset(kind: Entry['kind'], key: string, uid: string): void {
    const known = kind !== 'Pod' ? this.#uids.get(kind)?.get(key)
      : this.#local.get(key)?.pod.uid ?? this.#compiler.uidOfPod(key);
    if (uid !== '' && known !== undefined && known !== '' && known !== uid) return;
    this.#uids.get(kind)?.delete(key);
    if (kind === 'Node') this.#nodes.remove(key);
    if (kind === 'Service') this.#services.removeService(key);
    if (kind === 'EndpointSlice') this.#services.removeSlice(key);
    if (kind === 'Pod' && this.#local.delete(key)) this.#touchedPods.add(key);
    this.#compiler.remove(kind, key);
  }

  /** Says the same once. */
  #warn(): void {
    const { log } = this.#options;
    const warnings = this.#nodes.warnings();
    const text = warnings.join('\n');
    if (text !== this.#warned) for (const warning of warnings) log.warn({}, warning);
    this.#warned = text;
  }

  /** The source's problems and ours, as many as travel. */
  #tellHealth(): void {
    if (this.#health === null) return;
    const lacking = this.#hasBegun && this.#nodes.size === 0 ? [NO_NODE] : [];
    const all = [
      ...this.#health.problems, ...this.#problems, ...lacking, ...this.#compiler.problems,
      ...this.#services.problems,
      ...[...this.#local.values()].flatMap(({ warnings }) => warnings),
    ]
      .map((problem) => problem.slice(0, PROBLEM_TEXT_LIMIT));
    const more = all.length - PROBLEM_LIMIT;
    const problems = more <= 0 ? all
      : [...all.slice(0, PROBLEM_LIMIT - 1), `and ${more + 1} more`];
    const health = { ...this.#health, problems };
    const text = JSON.stringify(health);
    if (text !== this.#toldHealth) this.#receiver?.health(health);
    this.#toldHealth = text;
  }
}
