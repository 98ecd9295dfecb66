// What the sidecar tells the host, put together and in order.
//
//     begin(revision, local, counts) -> part* -> commit(revision)      a whole snapshot
//     delta(from, to)                                                  what changed since
//
// States: idle, or assembling one snapshot. Nothing of a snapshot is used before its commit, and
// the revision moves only once the host has taken what it was handed, so a failure anywhere leaves
// the last state in place. Revisions count within one session, which is one run of a sidecar: one
// that connects again may go on from the revision that its session left here (`resume`), any other
// must begin with a whole snapshot; a delta that does not follow is answered with `resync`. Only
// one sidecar is heard at a time.

import * as v from 'valibot';
import { RequestError, method } from '../engine/connection.ts';
import type { Connection, Methods, Party } from '../engine/connection.ts';
import {
  DeltaSchema, ResumeSchema, SnapshotBeginSchema, SnapshotCommitSchema, SnapshotPartSchema,
  SourceHealthSchema,
} from '../engine/model.ts';
import type {
  ClusterNode, Delta, NodeFacts, Pod, PolicyChange, RevisionAnswer, Service, Snapshot,
  SnapshotBegin, SnapshotPart, SourceHealth,
} from '../engine/model.ts';
import { Durations } from './durations.ts';

/** Most nodes of a cluster, and most pods of this node, that a snapshot may announce. */
export const NODE_LIMIT = 16384;
export const POD_LIMIT = 4096;
/** Most Services of a cluster. */
export const SERVICE_LIMIT = 65_536;
/** Most entries of any one kind in a snapshot's policy. */
export const POLICY_LIMIT = 2_000_000;

export interface IntakeOptions {
  /** The name of the node this host runs on. */
  local: string;
  /** Takes a whole state. What it throws goes back to the sidecar, and the old state counts. */
  onSnapshot(snapshot: Snapshot): void | Promise<void>;
  /** Takes a change to the state of the last snapshot or delta, likewise. */
  onDelta(delta: Delta): void | Promise<void>;
  /** True where a whole snapshot is wanted instead of the next delta. */
  wantsSnapshot?(): boolean;
  /** The pods attached to this node. */
  endpoints?(): Pod[];
  /** What the host knows of its node. */
  facts?(): NodeFacts;
  /** Told that a sidecar has come or gone, that its source is in another state, or that its state
   * is in force. */
  onSource?(): void;
  nodeLimit?: number;
  podLimit?: number;
}

/** A snapshot whose commit has not come yet. */
interface Assembly {
  begin: SnapshotBegin;
  nodes: Map<string, ClusterNode>;
  pods: Map<string, Pod>;
  /** All parts' policy behind one another; null while none had any. */
  policy: PolicyChange | null;
  /** By namespace and name; null while no part had any. */
  services: Map<string, Service> | null;
}

export class Intake {
  /** How long it took to put a snapshot or a delta in force. */
  readonly applied = new Durations();
  readonly #options: IntakeOptions;
  #sidecar: Connection | null = null;
  #isFollowing = false;
  #isFollowingNode = false;
  #assembly: Assembly | null = null;
  #revision: number | null = null;
  /** Whose state is in force, and its revision there. */
  #held: { session: string | null; revision: number } | null = null;
  #health: SourceHealth | null = null;
  #queue: Promise<unknown> = Promise.resolve();

  constructor(options: IntakeOptions) {
    this.#options = options;
  }

  /** The last revision the host took from the sidecar that is connected; null for none. */
  get revision(): number | null {
    return this.#revision;
  }

  get isConnected(): boolean {
    return this.#sidecar !== null;
  }

  /** How the source of the sidecar is, or was last; null where none has told. */
  get health(): SourceHealth | null {
    return this.#health;
  }

  /** Why another sidecar is refused now, or null. For ControlServer's `accept`. */
  refusal(party: Party): string | null {
    if (party.role !== 'sync' || this.#sidecar === null) return null;
    return 'another sidecar is connected';
  }

  /** For ControlServer's `onOpen`. */
  opened(connection: Connection): void {
    if (connection.party?.role !== 'sync') return;
    if (this.#sidecar !== null) return connection.close('another sidecar is connected');
    this.#sidecar = connection;
    this.#isFollowing = false;
    this.#isFollowingNode = false;
    this.#assembly = null;
    this.#revision = null;
    this.#options.onSource?.();
  }

  /** For ControlServer's `onClosed`. What was committed stays; what was not is forgotten. */
  closed(connection: Connection): void {
    if (this.#sidecar !== connection) return;
    this.#sidecar = null;
    this.#assembly = null;
    this.#revision = null;
    this.#options.onSource?.();
  }

  /** Tells the sidecar, if it wants to know, of the pods attached to this node. */
  tellEndpoints(): void {
    if (this.#isFollowing) this.#sidecar?.notify('endpoints', this.#localEndpoints());
  }

  /** Tells the sidecar, if it wants to know, what the host knows of its node. */
  tellNode(): void {
    if (this.#isFollowingNode) this.#sidecar?.notify('node', this.#facts());
  }

  #facts(): NodeFacts {
    const facts = this.#options.facts?.();
    if (facts === undefined) throw new RequestError('unknown', 'this host knows nothing of it');
    return facts;
  }

  #localEndpoints(): { endpoints: Pod[] } {
    return { endpoints: this.#options.endpoints?.() ?? [] };
  }

  /** The methods of sync.sock. */
  methods(): Methods {
    return {
      'endpoint.follow': method(v.null(), (_, from) => this.#inOrder(from, () => {
        this.#isFollowing = true;
        return this.#localEndpoints();
      })),
      'node.follow': method(v.null(), (_, from) => this.#inOrder(from, () => {
        const facts = this.#facts();
        this.#isFollowingNode = true;
        return facts;
      })),
      'source.health': method(SourceHealthSchema, (health, from) =>
        this.#inOrder(from, () => this.#takeHealth(health))),
      resume: method(ResumeSchema, ({ session }, from) =>
        this.#inOrder(from, () => this.#resume(session))),
      'snapshot.begin': method(SnapshotBeginSchema, (begin, from) =>
        this.#inOrder(from, () => this.#begin(begin))),
      'snapshot.part': method(SnapshotPartSchema, (part, from) =>
        this.#inOrder(from, () => this.#part(part))),
      'snapshot.commit': method(SnapshotCommitSchema, ({ revision }, from) =>
        this.#inOrder(from, () => this.#commit(from, revision))),
      delta: method(DeltaSchema, (delta, from) =>
        this.#inOrder(from, () => this.#delta(from, delta))),
    };
  }

  /** One message after the other, however long the host takes for each. */
  #inOrder<T>(from: Connection, work: () => T | Promise<T>): Promise<T> {
    const result = this.#queue.then(() => {
      if (this.#sidecar !== from) throw new RequestError('refused', 'not the sidecar in charge');
      return work();
    });
    this.#queue = result.catch(() => {});
    return result;
  }

  #takeHealth(health: SourceHealth): null {
    this.#health = health;
    this.#options.onSource?.();
    return null;
  }

  #resume(session: string): RevisionAnswer {
    const held = this.#held;
    if (held === null || held.session !== session) return { status: 'resync', revision: null };
    this.#revision = held.revision;
    this.#options.onSource?.();
    return { status: 'applied', revision: held.revision };
  }

  #begin(begin: SnapshotBegin): null {
    const { local, nodeLimit = NODE_LIMIT, podLimit = POD_LIMIT } = this.#options;
    this.#assembly = null;
    if (begin.local !== local) {
      throw new RequestError('wrong-node', `a snapshot for ${begin.local}, this is ${local}`);
    }
    checkRoom('nodes', begin.counts.nodes, nodeLimit);
    checkRoom('pods', begin.counts.pods, podLimit);
    this.#assembly = { begin, nodes: new Map(), pods: new Map(), policy: null, services: null };
    return null;
  }

  #part({ nodes = [], pods = [], policy, services }: SnapshotPart): null {
    const assembly = this.#assembly;
    if (assembly === null) throw new RequestError('out-of-order', 'no snapshot has begun');
    try {
      for (const node of nodes) addNew(assembly.nodes, node.name, node, 'node');
      for (const pod of pods) addNew(assembly.pods, `${pod.namespace}/${pod.name}`, pod, 'pod');
      if (policy !== undefined) assembly.policy = appended(assembly.policy, policy);
      if (services !== undefined) assembly.services = withNew(assembly.services, services);
      checkRoom('nodes of this snapshot', assembly.nodes.size, assembly.begin.counts.nodes);
      checkRoom('pods of this snapshot', assembly.pods.size, assembly.begin.counts.pods);
    } catch (error) {
      this.#assembly = null;
      throw error;
    }
    return null;
  }

  async #commit(from: Connection, revision: number): Promise<RevisionAnswer> {
    const assembly = this.#assembly;
    this.#assembly = null;
    if (assembly === null || assembly.begin.revision !== revision) {
      throw new RequestError('out-of-order', `snapshot ${revision} has not begun`);
    }
    const { begin, nodes, pods, policy, services } = assembly;
    if (nodes.size !== begin.counts.nodes || pods.size !== begin.counts.pods) {
      const found = `${nodes.size} nodes and ${pods.size} pods`;
      const expected = `${begin.counts.nodes} and ${begin.counts.pods}`;
      throw new RequestError('incomplete', `snapshot ${revision} has ${found}, not ${expected}`);
    }
    const content = {
      nodes: [...nodes.values()], pods: [...pods.values()], ...(policy === null ? {} : { policy }),
      ...(services === null ? {} : { services: [...services.values()] }),
    };
    this.#held = null;
    const startMs = performance.now();
    await this.#options.onSnapshot({ revision, local: begin.local, ...content });
    this.applied.note(startMs);
    this.#held = { session: begin.session ?? null, revision };
    return this.#advance(from, revision);
  }

  async #delta(from: Connection, delta: Delta): Promise<RevisionAnswer> {
    const isWanted = this.#options.wantsSnapshot?.() !== true;
    if (this.#revision === null || delta.from !== this.#revision || !isWanted) {
      return { status: 'resync', revision: this.#revision };
    }
    if (delta.to <= delta.from) {
      throw new RequestError('invalid', `delta.to: ${delta.to} does not follow ${delta.from}`);
    }
    const startMs = performance.now();
    await this.#options.onDelta(delta);
    this.applied.note(startMs);
    if (this.#held !== null) this.#held.revision = delta.to;
    return this.#advance(from, delta.to);
  }

  /** The sidecar may have gone while the host was busy; its revision then counts no more. */
  #advance(from: Connection, revision: number): RevisionAnswer {
    if (this.#sidecar === from) this.#revision = revision;
    this.#options.onSource?.();
    return { status: 'applied', revision };
  }
}

function appended(before: PolicyChange | null, part: PolicyChange): PolicyChange {
  if (before === null) return part;
  const lists = Object.entries(part) as [keyof PolicyChange, unknown[]][];
  for (const [kind, items] of lists) {
    const list = before[kind] as unknown[];
    checkRoom(`${kind} of this snapshot`, list.length + items.length, POLICY_LIMIT);
    for (const item of items) list.push(item);
  }
  return before;
}

function withNew(before: Map<string, Service> | null, part: Service[]): Map<string, Service> {
  const all = before ?? new Map<string, Service>();
  for (const one of part) addNew(all, `${one.namespace}/${one.name}`, one, 'service');
  checkRoom('services of this snapshot', all.size, SERVICE_LIMIT);
  return all;
}

function checkRoom(what: string, count: number, limit: number): void {
  if (count <= limit) return;
  throw new RequestError('full', `${count} ${what}, the limit is ${limit}`);
}

function addNew<T>(into: Map<string, T>, key: string, value: T, what: string): void {
  if (into.has(key)) throw new RequestError('invalid', `${what} ${key} comes twice`);
  into.set(key, value);
}
