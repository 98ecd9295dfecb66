// The sidecar's source and state against an API server, with a model of a host at the other end: it
// holds what it was told, and refuses what a host could not apply.
//
//   API server ==== ApiClient, KubernetesSource ---> ClusterState ---> HostModel
//        |                                                                 |  compared
//        +------ all objects, read anew ---> ClusterState ---> HostModel --+

import type { Log } from '../../engine/log.ts';
import type { ClusterNode, Pod, SourceHealth } from '../../engine/model.ts';
import { loadAccess } from '../../sync/kubernetes/access.ts';
import { ApiClient, type ClientOptions } from '../../sync/kubernetes/client.ts';
import { KubernetesSource, type KubernetesOptions } from '../../sync/kubernetes/source.ts';
import type { Timing } from '../../sync/kubernetes/timing.ts';
import { project } from '../../sync/objects.ts';
import { policyDigest } from '../../sync/policy/digest.ts';
import type { Change } from '../../sync/outbox.ts';
import { ClusterState, type StateReceiver } from '../../sync/state.ts';
import { Tables } from '../sync/policy/tables.ts';

export const SILENT: Log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

/** Times of a reflector for tests: a minute is less than a second. */
export const SHORT: Partial<Timing> = {
  backoffFirstMs: 5, backoffCapMs: 40, stableMs: 500, silenceMs: 400, checkMs: 800,
  refusalGraceMs: 400, absenceGraceMs: 60, lossGraceMs: 120, slowRetryMs: 60,
  watchListRetryMs: 2000, shortWatchMs: 5, watchSeconds: 3, pageSize: 7,
};
const POLL_MS = 3;
/** The truth is read anew so often. */
const READ_MS = 100;

/** What a host was told. */
export class HostModel implements StateReceiver {
  readonly isReading = false;
  readonly nodes = new Map<string, ClusterNode>();
  readonly pods = new Map<string, Pod>();
  readonly tables = new Tables();
  health_: SourceHealth | null = null;
  changes = 0;
  /** Changes that a host could not have applied. */
  readonly faults: string[] = [];
  /** Called after each change. */
  onChange: (change: Change) => void = () => {};
  #text: string | null = null;

  tell(change: Change): void {
    this.changes += 1;
    this.#text = null;
    try {
      this.#apply(change);
    } catch (error) {
      this.faults.push(String(error));
    }
    this.onChange(change);
  }

  health(health: SourceHealth): void {
    this.health_ = health;
  }

  #apply({ nodes, removedNodes, pods, removedPods, policy }: Change): void {
    for (const name of removedNodes) {
      if (!this.nodes.delete(name)) throw new Error(`node ${name} is not there`);
    }
    for (const node of nodes) this.nodes.set(node.name, node);
    for (const { namespace, name } of removedPods) {
      if (!this.pods.delete(`${namespace}/${name}`)) throw new Error(`pod ${name} is not there`);
    }
    for (const pod of pods) this.pods.set(`${pod.namespace}/${pod.name}`, pod);
    if (policy !== undefined) this.tables.applyJoined(policy);
  }

  /** Peers with their routes, local pods, and the digest of all rules. */
  text(): string {
    const sorted = (values: Iterable<unknown>): string =>
      [...values].map((value) => JSON.stringify(value)).sort().join('\n');
    this.#text ??= `${sorted(this.nodes.values())}\n--\n${sorted(this.pods.values())}\n--\n`
      + policyDigest(this.tables.state());
    return this.#text;
  }
}

/** What all objects give that are read anew. Objects have kind and apiVersion. */
export function truthOf(objects: readonly object[], local: string): string {
  const host = new HostModel();
  const state = new ClusterState({ local, log: SILENT });
  state.connect(host);
  for (const object of objects) {
    const { entry } = project(object, () => '');
    if (entry !== null) state.upsert(entry);
  }
  state.commit();
  return host.text();
}

export interface FollowerOptions extends Partial<Omit<KubernetesOptions, 'nodeName'>> {
  kubeconfig: string;
  local: string;
  clientOptions?: ClientOptions;
}

/** A sidecar's source that runs. */
export class Follower {
  readonly host = new HostModel();
  readonly source: KubernetesSource;
  readonly client: ApiClient;
  readonly #stop = new AbortController();
  readonly #done: Promise<void>;

  constructor(options: FollowerOptions) {
    const { kubeconfig, local, clientOptions, ...rest } = options;
    const access = loadAccess({ kubeconfig, environment: {} });
    this.client = new ApiClient(access,
      clientOptions ?? { connectTimeoutMs: 5000, headerTimeoutMs: 1000, silenceTimeoutMs: 500 });
    const state = new ClusterState({ local, log: SILENT });
    state.connect(this.host);
    this.source = new KubernetesSource({
      client: this.client, log: SILENT, timing: SHORT, staleAfterMs: 200, ...rest,
      nodeName: local,
    }, state);
    this.#done = this.source.run(this.#stop.signal);
  }

  /** The sum of a counter over all resources. */
  sum(counter: 'relists' | 'lists' | 'watchLists' | 'watches' | 'renewals' | 'checks'): number {
    return this.source.resources.reduce((sum, { counters }) => sum + counters[counter], 0);
  }

  /** Waits until the host has what `truth` gives, and the source says that it is fresh. Rejects
   * with the first difference. Returns how long it took, in ms. */
  async settled(truth: () => string, limitMs: number, mustBeFresh = true): Promise<number> {
    const beganMs = performance.now();
    let want = truth();
    for (let readMs = beganMs; ;) {
      if (performance.now() - readMs > READ_MS) {
        want = truth();
        readMs = performance.now();
      }
      const isFresh = !mustBeFresh || this.host.health_?.fresh === true;
      if (isFresh && this.host.text() === want) return performance.now() - beganMs;
      if (performance.now() - beganMs > limitMs) {
        throw new Error(`after ${limitMs} ms: ${this.#difference(want)}`);
      }
      await new Promise((resolve) => { setTimeout(resolve, POLL_MS); });
    }
  }

  #difference(want: string): string {
    const [a, b] = [want.split('\n'), this.host.text().split('\n')];
    const at = a.findIndex((line, i) => line !== b[i]);
    const states = this.source.resources.map(({ resource, phase, message, resourceVersion }) =>
      `${resource} ${phase} ${resourceVersion ?? ''} ${message}`);
    const health = JSON.stringify(this.host.health_);
    return `fresh gives\n  ${a[at]}\nthe host has\n  ${b[at]}\n${states.join('\n')}\n${health}`;
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#done;
  }
}
