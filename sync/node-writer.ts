// Keeps annotations of one author, a profile, on our Node.
//
//   what the author wants of the Node  ----->  what must stand there
//                                                  |  differs from what stands there
//                                                  v
//                                      PATCH nodes/NAME/status, its answer is the Node
//
// Theory of operation. One turn at a time, rung by whatever is new, and now and then by itself: the
// author plans, the writer compares and writes what is missing, and what the API server refuses is
// tried again, ever more slowly. A state of the Node from before the last patch, which the watch
// brings late, is no news. A rival (rival.ts) ends the writing; what stands on the Node then stays.

import type { Log } from '../engine/log.ts';
import { Bell, pause } from './bell.ts';
import { missingFrom, nodePatch, readOwnNode } from './own-node.ts';
import type { Annotations, OwnNode, UpCondition } from './own-node.ts';
import { Handwriting, findRivalPod } from './rival.ts';
import type { RivalSigns } from './rival.ts';

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
export interface ObjectReader {
  get(path: string, query: Record<string, string>, signal: AbortSignal): Promise<unknown>;
}

export interface NodeClient extends ObjectReader {
  patch(path: string, change: unknown, contentType: string, signal: AbortSignal): Promise<unknown>;
}

/** What must stand on a Node. */
export interface Plan {
  annotations: Annotations;
  /** Told that it stands there, or may: an answer that is lost may have been a yes. */
  onWritten(): void;
}

/** Who decides what stands on the Node. */
export interface Author {
  /** As problems name it, and whose nodes read what is written. */
  readonly name: string;
  /** What its annotations begin with. */
  readonly prefix: string;
  readonly up: UpCondition;
  readonly signs: RivalSigns;
  /** What must stand there, or null where it cannot be known or there is no Node; what is wrong
   * goes to the problems. */
  plan(node: OwnNode | null, problems: string[]): Plan | null;
}

export interface NodeWriterOptions {
  client: NodeClient;
  nodeName: string;
  log: Log;
  /** Told of all that is wrong now, whenever it changes; of nothing once all is well. */
  onProblems?(problems: string[]): void;
  recheckMs?: number;
  retryFirstMs?: number;
  rivalWaitMs?: number;
  /** Looks for a device of the rival's. */
  findDevice(): string | null;
}

/** What was written last of the Node with this uid. */
interface Confirmed {
  uid: string;
  annotations: Annotations;
}

export class NodeWriter {
  readonly #author: Author;
  readonly #options: NodeWriterOptions;
  readonly #bell = new Bell();
  readonly #handwriting: Handwriting;
  #node: OwnNode | null = null;
  #confirmed: Confirmed | null = null;
  #patched = { version: 0, atMs: -Infinity };
  #failures = 0;
  /** A pod of the rival's that runs here; undefined before we have looked. */
  #rivalPod: string | null | undefined = undefined;
  #notBeforeMs = 0;
  /** Before then the condition NetworkUnavailable is left alone. */
  #conditionAtMs = -Infinity;
  #problems: string[] = [];
  #told = '';

  constructor(author: Author, options: NodeWriterOptions) {
    this.#author = author;
    this.#options = options;
    this.#handwriting = new Handwriting(author.signs, options.rivalWaitMs);
  }

  /** Something that the plan depends on is new. */
  ring(): void {
    this.#bell.ring();
  }

  /** Our Node, as the API server has it now; null where it has none. */
  node(object: object | null): void {
    const node = object === null ? null : this.#read(object);
    if (node !== null && this.#isStale(node)) return;
    this.#take(node);
    this.#bell.ring();
  }

  /** Works until the signal aborts. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      try {
        await this.#turn(signal);
        this.#failures = 0;
        this.#tell(null);
        await this.#bell.wait(signal, this.#options.recheckMs ?? RECHECK_MS);
        await pause(Math.max(this.#notBeforeMs - performance.now(), 0), signal);
      } catch (error) {
        if (signal.aborted) break;
        this.#tell(this.#explain(error));
        await pause(this.#retryMs(error), signal);
      }
    }
  }

  /** Brings the Node to what it must be. Throws what the API server refuses. */
  async #turn(signal: AbortSignal): Promise<void> {
    const problems: string[] = [];
    this.#problems = problems;
    const node = this.#node;
    const plan = this.#author.plan(node, problems);
    if (plan === null || node === null) return;
    const rival = await this.#findRival(signal);
    if (rival !== null) {
      problems.push(rival);
      return;
    }
    const missing = missingFrom(node.annotations, plan.annotations);
    const isUpDue = !node.isNetworkUp && performance.now() >= this.#conditionAtMs;
    plan.onWritten();
    if (Object.keys(missing).length > 0 || isUpDue) {
      this.#confirmed = { uid: node.uid, annotations: {} };
      await this.#write(missing, isUpDue, signal);
    }
    this.#confirmed = { uid: node.uid, annotations: plan.annotations };
  }

  /** Why another is to be left alone on this node, or null. */
  async #findRival(signal: AbortSignal): Promise<string | null> {
    const { findDevice, client, nodeName } = this.#options;
    const device = findDevice();
    if (device !== null) return device;
    if (this.#rivalPod === undefined || this.#rivalPod !== null) {
      this.#rivalPod = await findRivalPod(this.#author.signs, client, nodeName, signal);
    }
    return this.#rivalPod ?? this.#handwriting.rival;
  }

  async #write(annotations: Annotations, isUpDue: boolean, signal: AbortSignal): Promise<void> {
    const { client, nodeName, log } = this.#options;
    const { name, prefix, up } = this.#author;
    const upSince = isUpDue ? new Date().toISOString().replace(/\.\d+Z$/, 'Z') : null;
    const path = `/api/v1/nodes/${nodeName}/status`;
    const change = nodePatch(annotations, upSince, up);
    const answer = await client.patch(path, change, MERGE_PATCH, signal);
    if (isUpDue) this.#conditionAtMs = performance.now() + CONDITION_PERIOD_MS;
    const written = readOwnNode(answer, prefix);
    const version = Number(written.resourceVersion);
    this.#patched = { version, atMs: performance.now() };
    // The watch may have been quicker, and have brought a newer one.
    if (!(Number(this.#node?.resourceVersion) > version)) this.#node = written;
    log.info({ node: nodeName, annotations }, `our Node says what ${name}'s nodes must know`);
  }

  /** A Node that cannot be read is as good as none. */
  #read(object: object): OwnNode | null {
    try {
      return readOwnNode(object, this.#author.prefix);
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
    const named = all.map((problem) => `${this.#author.name}: ${problem}`);
    for (const problem of named) this.#options.log.warn({}, problem);
    this.#options.onProblems?.(named);
  }

  /** A failed patch, in the operator's words. */
  #explain(error: unknown): string {
    const { nodeName } = this.#options;
    const status: unknown = Reflect.get(Object(error), 'status');
    const reason = error instanceof Error ? error.message : String(error);
    if (status === 403) {
      return 'forbidden: verb patch, resource nodes/status: '
        + `${this.#author.name}'s nodes do not learn of this one`;
    }
    if (status === 404) return `Node ${nodeName} does not exist: is the node name right?`;
    return `cannot write to Node ${nodeName}: ${reason}`;
  }
}
