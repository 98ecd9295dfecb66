// The cluster object by object: whatever happens in whatever order, and however connections end,
// the host has what a fresh reading of all objects gives, after every step.
//
//   random history --> ClusterState --> Sender ==== sync.sock ==== Intake --> model host
//                                                     cut, restarted, asked for all

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { Log } from '../../engine/log.ts';
import type { ClusterNode, Delta, Pod, Snapshot, SourceHealth } from '../../engine/model.ts';
import { ControlServer } from '../../host/control.ts';
import { Intake } from '../../host/intake.ts';
import type { Entry } from '../../sync/objects.ts';
import { project } from '../../sync/objects.ts';
import { emptyChange } from '../../sync/policy/change.ts';
import { PolicyCompiler } from '../../sync/policy/compiler.ts';
import { policyDigest } from '../../sync/policy/digest.ts';
import { Sender } from '../../sync/send.ts';
import { ClusterState } from '../../sync/state.ts';
import { PLAIN_VIEW, chooseTunnels } from '../../sync/tunnels.ts';
import type { KubeObject } from '../support/cluster-generator.ts';
import { HistoryGenerator } from '../support/history-generator.ts';
import type { Delivery, KubeEvent } from '../support/history-generator.ts';
import { Random } from '../support/random.ts';
import { Tables } from './policy/tables.ts';
import { PATIENCE_MS } from '../support/until.ts';

const root = mkdtempSync(join(tmpdir(), `culvert-state-${process.pid}-`));
const silent: Log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
const LOCAL = 'n0';
const DELIVERIES: readonly Delivery[] = ['plain', 'duplicated', 'reordered', 'lost'];
const HISTORIES = 6;
const STEPS = 30;
let folders = 0;

test.after(() => rmSync(root, { recursive: true }));

/** Holds what a host holds, and can be cut off or started again. */
class ModelHost {
  readonly path: string;
  nodes = new Map<string, ClusterNode>();
  pods = new Map<string, Pod>();
  tables = new Tables();
  endpoints: Pod[] = [];
  health: SourceHealth | null = null;
  revision = 0;
  snapshots = 0;
  deltas = 0;
  faults: string[] = [];
  intake!: Intake;
  #server!: ControlServer;

  constructor() {
    folders += 1;
    this.path = join(root, `${folders}`, 'sync.sock');
  }

  async start(): Promise<void> {
    const intake = new Intake({
      local: LOCAL,
      onSnapshot: (snapshot) => this.#take(snapshot),
      onDelta: (delta) => this.#tryChange(delta),
      endpoints: () => this.endpoints,
      onSource: () => { this.health = intake.health; },
    });
    this.intake = intake;
    this.#server = new ControlServer({
      path: this.path, mode: 0o660, roles: ['sync'], methods: intake.methods(), version: '1',
      log: silent, accept: (party) => intake.refusal(party),
      onOpen: (connection) => intake.opened(connection),
      onClosed: (connection) => intake.closed(connection),
    });
    await this.#server.listen();
  }

  stop(): Promise<void> {
    return this.#server.close();
  }

  /** Ends the connection, or asks for everything. */
  disturb(kind: 'cut' | 'resync'): void {
    if (kind === 'resync') this.#server.broadcast('resync', null);
    else for (const connection of this.#server.connections) connection.close('cut');
  }

  #take({ revision, nodes, pods, policy }: Snapshot): void {
    this.nodes = new Map(nodes.map((node) => [node.name, node]));
    this.pods = new Map(pods.map((pod) => [`${pod.namespace}/${pod.name}`, pod]));
    this.tables = new Tables();
    this.tables.apply(policy ?? emptyChange());
    this.revision = revision;
    this.snapshots += 1;
  }

  /** A change that a host could not apply is a fault, though a snapshot would hide it. */
  #tryChange(delta: Delta): void {
    try {
      this.#change(delta);
    } catch (error) {
      this.faults.push(String(error));
      throw error;
    }
  }

  #change({ to, nodes, removedNodes, pods, removedPods, policy }: Delta): void {
    for (const name of removedNodes) assert.ok(this.nodes.delete(name), name);
    for (const node of nodes) this.nodes.set(node.name, node);
    for (const { namespace, name } of removedPods) this.pods.delete(`${namespace}/${name}`);
    for (const pod of pods) this.pods.set(`${pod.namespace}/${pod.name}`, pod);
    if (policy !== undefined) this.tables.applyJoined(policy);
    this.revision = to;
    this.deltas += 1;
  }
}

/** An object as a server has it: nodes get pod networks, some of them twice, and ages. */
function served(object: KubeObject, random: Random): KubeObject {
  if (object.kind !== 'Node') return object;
  const count = random.between(0, 2);
  const podCIDRs = Array.from({ length: count }, () => `10.244.${random.below(8)}.0/24`);
  const creationTimestamp = `202${random.below(4)}-01-01T00:00:00Z`;
  return {
    ...object, metadata: { ...object.metadata, creationTimestamp }, spec: { podCIDRs },
  } as KubeObject;
}

function idOf({ kind, metadata: { namespace = 'default', name } }: KubeObject): string {
  return `${kind} ${namespace}/${name}`;
}

function entryOf(object: KubeObject): Entry {
  const { entry, problems } = project(object, () => '');
  if (entry === null) throw new Error(problems.join());
  return entry;
}

/** Everything read anew: the slow twin. */
function fresh(entries: readonly Entry[], attached: readonly Pod[]) {
  const nodes = entries.filter((entry) => entry.kind === 'Node')
    .sort((a, b) => (a.created === b.created ? (a.key < b.key ? -1 : 1)
      : (a.created || '~') < (b.created || '~') ? -1 : 1));
  const owned = new Set<string>();
  const content = nodes.map(({ node, reach }) => {
    const podCidrs = node.podCidrs.filter((prefix) => !owned.has(prefix));
    for (const prefix of podCidrs) owned.add(prefix);
    const { tunnels } = chooseTunnels(node, reach, PLAIN_VIEW, node.name === LOCAL);
    return { ...node, podCidrs, tunnels };
  });
  const known = entries.map((entry): Entry => {
    if (entry.kind !== 'Pod' || entry.nodeName !== LOCAL || !entry.hasNetwork) return entry;
    const { namespace, name, uid } = entry.pod;
    const found = attached.find((pod) => pod.namespace === namespace && pod.name === name
      && (pod.uid === uid || pod.uid === '' || uid === ''));
    return found === undefined ? entry : { ...entry, pod: found };
  });
  const pods = known.flatMap((entry) => (entry.kind === 'Pod' && entry.nodeName === LOCAL
    && entry.hasNetwork ? entry.pod : []));
  const compiler = new PolicyCompiler({ local: LOCAL });
  compiler.replace(known);
  compiler.commit();
  return { nodes: content, pods, digest: policyDigest(compiler.snapshot()) };
}

class Play {
  readonly #random: Random;
  readonly #history: HistoryGenerator;
  readonly #objects = new Map<string, KubeObject>();
  readonly #host = new ModelHost();
  readonly #state = new ClusterState({ local: LOCAL, log: silent });
  readonly #stop = new AbortController();
  readonly #removals: KubeObject[] = [];
  #running: Promise<void> = Promise.resolve();

  constructor(seed: number) {
    this.#random = new Random(seed);
    this.#history = new HistoryGenerator(this.#random);
  }

  async run(): Promise<{ snapshots: number; deltas: number }> {
    const sender = new Sender({
      socket: this.#host.path, version: '1', log: silent, backoffFirstMs: 1, backoffCapMs: 2,
      onEndpoints: (endpoints) => this.#state.takeEndpoints(endpoints),
      onRead: () => this.#state.onRead(),
    });
    this.#state.connect(sender);
    await this.#host.start();
    this.#running = sender.run(this.#stop.signal);
    try {
      this.#relist();
      for (let step = 0; step <= STEPS; step += 1) await this.#step(step);
      return this.#host;
    } finally {
      this.#stop.abort();
      await this.#running;
      await this.#host.stop();
    }
  }

  async #step(step: number): Promise<void> {
    const delivery = this.#random.pick(DELIVERIES);
    await this.#disturb();
    if (step > 0) this.#deliver(this.#history.step(), delivery);
    if (this.#random.oneIn(3)) this.#attach();
    const problems = [`${step}`];
    this.#state.setHealth({ source: 'test', fresh: true, staleSinceMs: null, problems });
    const want = fresh([...this.#objects.values()].map(entryOf), this.#host.endpoints);
    const where = `step ${step} (${delivery})`;
    await this.#until(where, () => this.#difference(want, step) === '');
    assert.equal(this.#host.faults, [], where);
  }

  /** In what the host differs, a word. */
  #difference(want: ReturnType<typeof fresh>, step: number): string {
    const { nodes, pods, tables, health } = this.#host;
    const sorted = (list: Iterable<{ name: string }>): string =>
      [...list].map((item) => JSON.stringify(item)).sort().join('\n');
    if (sorted(nodes.values()) !== sorted(want.nodes)) return 'nodes';
    if (sorted(pods.values()) !== sorted(want.pods)) return 'pods';
    if (policyDigest(tables.state()) !== want.digest) return 'policy';
    return health?.problems[0] === `${step}` ? '' : 'health';
  }

  async #until(what: string, isDone: () => boolean): Promise<void> {
    const deadline = performance.now() + PATIENCE_MS;
    while (!isDone()) {
      if (performance.now() > deadline) throw new Error(`${what}: not what a fresh reading gives`);
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  }

  async #disturb(): Promise<void> {
    if (this.#random.oneIn(8)) this.#host.disturb('resync');
    if (this.#random.oneIn(4)) this.#host.disturb('cut');
    if (this.#random.oneIn(8)) {
      await this.#host.stop();
      await this.#host.start();
    }
  }

  #deliver(events: KubeEvent[], delivery: Delivery): void {
    const all = events.map(({ type, object }) => ({ type, object: served(object, this.#random) }));
    for (const { type, object } of all) {
      const key = idOf(object);
      if (type === 'DELETED') this.#objects.delete(key);
      else this.#objects.set(key, object);
    }
    for (const { type, object } of this.#history.deliver(all, delivery)) {
      const { kind, key } = entryOf(object);
      if (type === 'DELETED') this.#state.remove(kind, key, object.metadata.uid ?? '');
      else this.#state.upsert(entryOf(object));
      if (type === 'DELETED' && object.metadata.uid) this.#removals.push(object);
      if (this.#random.oneIn(3)) this.#state.commit();
    }
    // The end of what has been replaced since is no news, however late it comes.
    for (const object of this.#removals) {
      this.#state.remove(object.kind as Entry['kind'], entryOf(object).key,
        object.metadata.uid ?? '');
    }
    if (delivery === 'lost') this.#relist();
    else this.#state.commit();
  }

  /** All objects again, and the end of those that are no more. */
  #relist(): void {
    if (this.#objects.size === 0) {
      for (const object of this.#history.cluster.list()) {
        this.#objects.set(idOf(object), served(object, this.#random));
      }
    }
    for (const object of this.#removals) {
      const { kind, key } = entryOf(object);
      this.#state.remove(kind, key, object.metadata.uid ?? '');
    }
    const there = new Set([...this.#objects.values()].map(entryOf)
      .map(({ kind, key }) => `${kind} ${key}`));
    for (const id of this.#known) {
      const [kind = '', key = ''] = id.split(' ');
      if (!there.has(id)) this.#state.remove(kind as Entry['kind'], key, '');
    }
    for (const object of this.#objects.values()) this.#state.upsert(entryOf(object));
    this.#known = new Set([...this.#known, ...there]);
    this.#state.commit();
  }

  #known = new Set<string>();

  /** Pods are attached with addresses of their own, some under a uid that nobody else knows. */
  #attach(): void {
    const pods = [...this.#objects.values()].map(entryOf).filter((entry) => entry.kind === 'Pod');
    this.#host.endpoints = pods.filter(() => this.#random.oneIn(2)).map(({ pod }, index) => ({
      ...pod, uid: this.#random.pick([pod.uid, pod.uid, '', 'other']),
      addresses: [`10.244.200.${index + 1}`],
    }));
    this.#host.intake.tellEndpoints();
  }
}

test(`${HISTORIES} histories of ${STEPS} steps end where a fresh reading does`, async () => {
  let [snapshots, deltas] = [0, 0];
  for (let seed = 1; seed <= HISTORIES; seed += 1) {
    const host = await new Play(seed).run().catch((error: Error) => {
      throw new Error(`seed ${seed}, ${error.message}`);
    });
    snapshots += host.snapshots;
    deltas += host.deltas;
  }
  console.log(`\n${snapshots} snapshots, ${deltas} deltas`);
  assert.ok(deltas > HISTORIES * STEPS / 2);
});

test.run();
