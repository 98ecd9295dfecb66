// The flannel profile: has our Node say what flannel's nodes must know of it, and keeps it so.
//
//   net-conf.json, the host's facts, our Node -----> what must stand on the Node
//                                                        |  differs from what stands there
//                                                        v
//                                            PATCH nodes/NAME/status, its answer is the Node
//
// Theory of operation. One turn at a time, rung by whatever is new, and now and then by itself: it
// works out the lease, compares and writes what is missing. The MAC of a VTEP is the one that we
// wrote, else the one that stands there, else one made of the Node's uid. Nothing is written before
// the Node has its pod networks, since flannel reads these only where the annotations change. A
// rival (rival.ts) ends the writing; what stands on the Node then stays.

import type { Log } from '../../engine/log.ts';
import { Bell, pause } from '../bell.ts';
import {
  FAMILIES, heededLease, leaseAnnotations, madeMac, missingFrom, nodePatch, publicAddress,
  readOwnNode, standingMac,
} from './annotations.ts';
import type { Annotations, Lease, OwnNode } from './annotations.ts';
import { compareWithHost, followNetConf, leasedCidrs } from './net-conf.ts';
import type { HostFacts, NetConfReader, NetConfSource, ObjectReader } from './net-conf.ts';
import type { NetConf } from '../../engine/net-conf.ts';
import { addressFamily } from '../../engine/address.ts';
import { Handwriting, rivalDevice, rivalPod } from './rival.ts';

/** How often it looks again though nothing was told. */
export const RECHECK_MS = 30_000;
/** A cloud may think otherwise of the condition, again and again; it is not cleared more often. */
const CONDITION_PERIOD_MS = 300_000;
export const RETRY_FIRST_MS = 1000;
export const RETRY_CAP_MS = 60_000;
/** How long the watch may lag behind the answer to a patch. */
const LAG_MS = 10_000;
const MERGE_PATCH = 'application/strategic-merge-patch+json';

/** What is asked of the API server. A failure has the HTTP status as `status`, and perhaps
 * `retryAfterMs`. */
export interface NodeClient extends ObjectReader {
  patch(path: string, change: unknown, contentType: string, signal: AbortSignal): Promise<unknown>;
}

export interface FlannelProfileOptions {
  client: NodeClient;
  nodeName: string;
  netConf: NetConfSource;
  log: Log;
  /** Told of all that is wrong now, whenever it changes; of nothing once all is well. */
  onProblems?(problems: string[]): void;
  recheckMs?: number;
  retryFirstMs?: number;
  rivalWaitMs?: number;
  /** Looks for a device of flannel's. */
  findDevice?(): string | null;
}

/** What was written last, and what of it the API server has confirmed. */
interface Confirmed {
  uid: string;
  lease: Lease;
  annotations: Annotations;
}

export class FlannelProfile implements NetConfReader {
  readonly #options: FlannelProfileOptions;
  readonly #bell = new Bell();
  readonly #handwriting: Handwriting;
  #facts: HostFacts | null = null;
  #node: OwnNode | null = null;
  #conf: NetConf | null = null;
  #confProblem = '';
  #confirmed: Confirmed | null = null;
  #patched = { version: 0, atMs: -Infinity };
  #failures = 0;
  /** A pod of flannel's that runs here; undefined before we have looked. */
  #rivalPod: string | null | undefined = undefined;
  #notBeforeMs = 0;
  /** Before then the condition NetworkUnavailable is left alone. */
  #conditionAtMs = -Infinity;
  #problems: string[] = [];
  #told = '';

  constructor(options: FlannelProfileOptions) {
    this.#options = options;
    this.#handwriting = new Handwriting(options.rivalWaitMs);
  }

  /** What the host is set up with. */
  facts(facts: HostFacts): void {
    this.#facts = facts;
    this.#bell.ring();
  }

  /** Our Node, as the API server has it now; null where it has none. */
  node(object: object | null): void {
    const node = object === null ? null : this.#read(object);
    if (node !== null && this.#isStale(node)) return;
    this.#take(node);
    this.#bell.ring();
  }

  netConf(conf: NetConf): void {
    this.#conf = conf;
    this.#confProblem = '';
    this.#bell.ring();
  }

  netConfProblem(problem: string): void {
    this.#confProblem = problem;
    this.#bell.ring();
  }

  /** Works until the signal aborts. */
  async run(signal: AbortSignal): Promise<void> {
    const reading = followNetConf(this.#options.netConf, this, signal);
    while (!signal.aborted) {
      try {
        await this.#turn(signal);
        this.#failures = 0;
        this.#tell(null);
        await this.#bell.wait(signal, this.#options.recheckMs ?? RECHECK_MS);
        await pause(Math.max(this.#notBeforeMs - performance.now(), 0), signal);
      } catch (error) {
        if (signal.aborted) break;
        this.#tell(explain(error, this.#options.nodeName));
        await pause(this.#retryMs(error), signal);
      }
    }
    await reading;
  }

  /** Brings the Node to what it must be. Throws what the API server refuses. */
  async #turn(signal: AbortSignal): Promise<void> {
    const problems: string[] = [];
    this.#problems = problems;
    const plan = this.#plan(problems);
    const rival = plan === null ? null : await this.#findRival(signal);
    if (rival !== null) problems.push(rival);
    if (plan === null || rival !== null) return;
    const { node, lease } = plan;
    const wanted = leaseAnnotations(lease);
    const missing = missingFrom(node.annotations, wanted);
    const isUpDue = !node.isNetworkUp && performance.now() >= this.#conditionAtMs;
    if (Object.keys(missing).length > 0 || isUpDue) {
      // An answer that is lost may have been a yes: the MACs stay what they are from here on.
      this.#confirmed = { uid: node.uid, lease, annotations: {} };
      await this.#write(missing, isUpDue, signal);
    }
    this.#confirmed = { uid: node.uid, lease, annotations: wanted };
  }

  /** The lease to write, or null where it cannot be known; what is wrong goes to the problems. */
  #plan(problems: string[]): { node: OwnNode; lease: Lease } | null {
    const [facts, node, conf] = [this.#facts, this.#node, this.#conf];
    if (this.#confProblem !== '') problems.push(this.#confProblem);
    if (facts === null || node === null || conf === null) return null;
    problems.push(...compareWithHost(conf, facts));
    const { problem } = leasedCidrs(conf, node.podCidrs);
    if (problem !== null) problems.push(problem);
    // A host of another network or port would promise peers what it cannot keep.
    const isSpoken = conf.port === facts.port
      && conf.podNetworks.every((prefix) => facts.podNetworks.includes(prefix));
    if (problem !== null || !isSpoken) return null;
    const lease = heededLease(node.annotations, this.#lease(facts, node, conf, problems), node.uid);
    return Object.keys(lease).length === 0 ? null : { node, lease };
  }

  #lease(facts: HostFacts, node: OwnNode, conf: NetConf, problems: string[]): Lease {
    const before = this.#confirmed?.uid === node.uid ? this.#confirmed.lease : {};
    const lease: Lease = {};
    for (const family of FAMILIES) {
      if (!conf.podNetworks.some((prefix) => addressFamily(prefix) === family)) continue;
      const own = facts.underlay.filter((item) => item.family === family)
        .map(({ address }) => address);
      const { address, problem } = publicAddress(node.annotations, family, own);
      if (problem !== null) problems.push(problem);
      if (address === null) continue;
      const mac = before[family]?.mac ?? standingMac(node.annotations, family)
        ?? madeMac(node.uid, family);
      lease[family] = { vni: conf.vni, mac, address };
    }
    return lease;
  }

  /** Why another is to be left alone on this node, or null. */
  async #findRival(signal: AbortSignal): Promise<string | null> {
    const { findDevice = rivalDevice, client, nodeName } = this.#options;
    const device = findDevice();
    if (device !== null) return device;
    if (this.#rivalPod === undefined || this.#rivalPod !== null) {
      this.#rivalPod = await rivalPod(client, nodeName, signal);
    }
    return this.#rivalPod ?? this.#handwriting.rival;
  }

  async #write(annotations: Annotations, isUpDue: boolean, signal: AbortSignal): Promise<void> {
    const { client, nodeName, log } = this.#options;
    const upSince = isUpDue ? new Date().toISOString().replace(/\.\d+Z$/, 'Z') : null;
    const path = `/api/v1/nodes/${nodeName}/status`;
    const answer = await client.patch(path, nodePatch(annotations, upSince), MERGE_PATCH, signal);
    if (isUpDue) this.#conditionAtMs = performance.now() + CONDITION_PERIOD_MS;
    const written = readOwnNode(answer);
    const version = Number(written.resourceVersion);
    this.#patched = { version, atMs: performance.now() };
    // The watch may have been quicker, and have brought a newer one.
    if (!(Number(this.#node?.resourceVersion) > version)) this.#node = written;
    log.info({ node: nodeName, annotations }, 'our Node says what flannel\'s nodes must know');
  }

  /** A Node that cannot be read is as good as none. */
  #read(object: object): OwnNode | null {
    try {
      return readOwnNode(object);
    } catch (error) {
      this.#options.log.error({ error: (error as Error).message }, 'our Node is not understood');
      return null;
    }
  }

  /** Notes a new state of our Node, and whether others have changed what we wrote. */
  #take(node: OwnNode | null): void {
    this.#node = node;
    const confirmed = this.#confirmed;
    if (confirmed === null || node === null) return;
    if (node.uid !== confirmed.uid) {
      this.#handwriting.forget();
      this.#confirmed = null;
      this.#conditionAtMs = -Infinity;
      return;
    }
    const changed = Object.keys(missingFrom(node.annotations, confirmed.annotations));
    if (changed.length === 0) return;
    // Until the next turn has written, another change of theirs is the same one.
    this.#confirmed = { ...confirmed, annotations: {} };
    this.#rivalPod = undefined;
    this.#notBeforeMs = performance.now() + this.#handwriting.changed(performance.now());
    this.#options.log.warn({ annotations: changed }, 'somebody else has changed our Node');
  }

  /** True for a state from before our last patch that the watch brings after it. */
  #isStale({ resourceVersion }: OwnNode): boolean {
    const { version, atMs } = this.#patched;
    return performance.now() - atMs < LAG_MS && Number(resourceVersion) < version;
  }

  #retryMs(error: unknown): number {
    const { retryFirstMs = RETRY_FIRST_MS } = this.#options;
    const asked: unknown = Reflect.get(Object(error), 'retryAfterMs');
    const whole = Math.min(retryFirstMs * (2 ** Math.min(this.#failures, 16)), RETRY_CAP_MS);
    this.#failures += 1;
    return Math.max(whole * (0.5 + (Math.random() / 2)), typeof asked === 'number' ? asked : 0);
  }

  /** Tells of a failure, if there is one, and of what else is wrong; of the same once. */
  #tell(failure: string | null): void {
    const all = failure === null ? this.#problems : [failure, ...this.#problems];
    const text = all.join('\n');
    if (text === this.#told) return;
    this.#told = text;
    for (const problem of all) this.#options.log.warn({}, `flannel: ${problem}`);
    this.#options.onProblems?.(all.map((problem) => `flannel: ${problem}`));
  }
}

/** A failed patch, in the operator's words. */
function explain(error: unknown, nodeName: string): string {
  const status: unknown = Reflect.get(Object(error), 'status');
  const reason = error instanceof Error ? error.message : String(error);
  if (status === 403) {
    return 'forbidden: verb patch, resource nodes/status: '
      + 'flannel\'s nodes do not learn of this one';
  }
  if (status === 404) return `Node ${nodeName} does not exist: is the node name right?`;
  return `cannot write to Node ${nodeName}: ${reason}`;
}
