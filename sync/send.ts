// The client of sync.sock: brings the host to the state we know, and keeps it there.
//
//   connect --> hello --> resume? --> whole snapshot --> delta, delta, ... --> (anything wrong)
//                            |                             ^                        |
//                            +-- the host has it still ----+      back off <--------+
//
// There is one wanted state and one the host has confirmed. What lies between the two waits in the
// outbox. A connection that ends leaves some doubt: the host may have taken what was sent last, or
// may be another one. So the next connection asks it what it has of our session, and goes on from
// there, or begins with a whole snapshot. So it does after the host refused something.
//
// A snapshot is read from the state while it is sent, part by part. Until then the state must not
// move on: `isReading` says so, and `onRead` that it may again.

import { randomUUID } from 'node:crypto';
import { connect } from 'node:net';
import * as v from 'valibot';
import { RequestError, connectionOver, method } from '../engine/connection.ts';
import type { Connection } from '../engine/connection.ts';
import type { Log } from '../engine/log.ts';
import {
  LocalEndpointsSchema, NodeFactsSchema, PART_LIMIT, RevisionAnswerSchema,
} from '../engine/model.ts';
import type {
  ClusterNode, NodeFacts, Pod, PolicyChange, RevisionAnswer, Service, SourceHealth,
} from '../engine/model.ts';
import { Bell, pause } from './bell.ts';
import { Outbox, isSmall, podWeight } from './outbox.ts';
import type { Change, Step } from './outbox.ts';
import { emptyChange } from './policy/change.ts';

export const BACKOFF_FIRST_MS = 200;
export const BACKOFF_CAP_MS = 10_000;
export const REQUEST_TIMEOUT_MS = 30_000;

export interface SenderOptions {
  socket: string;
  version: string;
  log: Log;
  backoffFirstMs?: number;
  backoffCapMs?: number;
  requestTimeoutMs?: number;
  /** Told of the pods attached to the node: at every new connection, and when they change. */
  onEndpoints?(endpoints: Pod[]): void;
  /** Told what the host knows of its node, likewise. */
  onNode?(facts: NodeFacts): void;
  /** Told that a snapshot has been read, or given up. */
  onRead?(): void;
  /** Told that a snapshot is in force. */
  onWhole?(): void;
  /** 0 to 1, for the jitter. */
  random?(): number;
}

/** All that the host must know. `policy` comes in parts that each fit a frame, made while they are
 * sent; null where there is none. */
export interface Whole {
  local: string;
  nodes: readonly ClusterNode[];
  pods: readonly Pod[];
  policy: Iterable<PolicyChange> | null;
  /** Likewise. */
  services: Iterable<readonly Service[]> | null;
}

export class Sender {
  readonly #options: SenderOptions;
  readonly #bell = new Bell();
  readonly #outbox = new Outbox();
  readonly #session = randomUUID();
  /** Gives the state as it is now; null while there is none. */
  #whole: (() => Whole) | null = null;
  #revision = 0;
  #confirmed: number | null = null;
  /** What the host may have, after a connection ended: nothing else is gone on from. */
  #left: number[] = [];
  /** The revision that a delta on the way leads to. */
  #sent: number | null = null;
  #isReading = false;
  #health: SourceHealth | null = null;
  #toldHealth: SourceHealth | null = null;
  #failures = 0;
  #reported = '';

  constructor(options: SenderOptions) {
    this.#options = options;
  }

  /** The revision the host has confirmed on the connection at hand; null for none. */
  get confirmed(): number | null {
    return this.#confirmed;
  }

  /** True while a snapshot is read from the state. */
  get isReading(): boolean {
    return this.#isReading;
  }

  /** False while nothing but everything will do for the host. */
  get wantsChanges(): boolean {
    return !this.#outbox.isLost;
  }

  /** The state has changed: how, and where all of it can be had. */
  tell(change: Change, whole: () => Whole): void {
    this.#revision += 1;
    this.#whole = whole;
    this.#outbox.add(this.#revision, change);
    this.#bell.ring();
  }

  /** Tells the host how the source is. */
  health(health: SourceHealth): void {
    this.#health = health;
    this.#bell.ring();
  }

  /** Serves the host until the signal aborts. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      try {
        await this.#converse(signal);
      } catch (error) {
        if (error instanceof RequestError) this.#left = [];
        if (!signal.aborted) this.#report(error instanceof Error ? error.message : String(error));
      }
      if (!signal.aborted) await pause(this.#backoffMs(), signal);
    }
  }

  /** One connection, from its beginning to its end. Always throws, but for an abort. */
  async #converse(signal: AbortSignal): Promise<void> {
    const { socket: path, version, onEndpoints, onNode } = this.#options;
    const socket = connect(path);
    const connection = connectionOver(socket, {
      version,
      role: 'sync',
      methods: {
        resync: method(v.unknown(), () => this.#forget()),
        endpoints: method(LocalEndpointsSchema, ({ endpoints }) => onEndpoints?.(endpoints)),
        node: method(NodeFactsSchema, (facts) => onNode?.(facts)),
      },
    });
    const over = connectionSignal(connection, signal);
    try {
      await this.#within('the handshake', connection.opened);
      await this.#follow(connection);
      await this.#resume(connection);
      this.#bell.ring();
      while (!over.aborted) {
        await this.#bell.wait(over);
        while (!over.aborted && !this.#isDone()) await this.#bring(connection);
        if (!over.aborted) await this.#sendHealth(connection);
      }
      const reason = await connection.closed;
      if (reason !== null) throw reason;
    } finally {
      connection.close();
      socket.destroySoon();
      this.#left = [this.#confirmed, this.#sent].filter((revision) => revision !== null);
      this.#confirmed = null;
      this.#sent = null;
      this.#toldHealth = null;
    }
  }

  async #follow(connection: Connection): Promise<void> {
    const { onEndpoints, onNode } = this.#options;
    if (onEndpoints !== undefined) {
      const { endpoints } = await this.#ask(
        connection, 'endpoint.follow', null, LocalEndpointsSchema);
      onEndpoints(endpoints);
    }
    if (onNode !== undefined) {
      onNode(await this.#ask(connection, 'node.follow', null, NodeFactsSchema));
    }
  }

  /** Goes on from what the host has, if it has what we told it before. */
  async #resume(connection: Connection): Promise<void> {
    const left = this.#left;
    this.#left = [];
    if (left.length === 0 || this.#outbox.isLost) return;
    const session = { session: this.#session };
    const { status, revision } = await this.#ask(
      connection, 'resume', session, RevisionAnswerSchema);
    if (status !== 'applied' || revision === null || !left.includes(revision)) return;
    this.#options.log.info({ revision }, 'host still has what it was told');
    this.#confirm(revision);
  }

  #isDone(): boolean {
    return this.#whole === null || this.#revision === this.#confirmed;
  }

  #forget(): void {
    this.#confirmed = null;
    this.#outbox.lose();
    this.#bell.ring();
  }

  /** Takes the host a step on, or to everything. */
  async #bring(connection: Connection): Promise<void> {
    const from = this.#confirmed;
    const step = from === null ? null : this.#outbox.next();
    if (from === null || step === null || !isSmall(step.change)) {
      return this.#sendSnapshot(connection);
    }
    await this.#sendDelta(connection, from, step);
  }

  async #sendDelta(connection: Connection, from: number, step: Step): Promise<void> {
    const { revision: to, change } = step;
    this.#sent = to;
    const answer = await this.#ask(
      connection, 'delta', { from, to, ...change }, RevisionAnswerSchema);
    this.#sent = null;
    if (answer.status === 'resync') {
      this.#options.log.info({ host: answer.revision, from }, 'host asks for all');
      this.#forget();
      return;
    }
    // A host that asked for all meanwhile is not to be taken at its word about less.
    if (this.#confirmed === from) this.#taken(to, answer);
  }

  async #sendSnapshot(connection: Connection): Promise<void> {
    if (this.#whole === null) return;
    const revision = this.#revision;
    this.#confirmed = null;
    const startMs = performance.now();
    this.#isReading = true;
    this.#outbox.begin();
    try {
      await this.#sendParts(connection, revision, this.#whole());
      this.#sent = revision;
    } finally {
      if (this.#sent === null) this.#outbox.lose();
      this.#isReading = false;
      this.#options.onRead?.();
    }
    const commit = { revision };
    const answer = await this.#ask(connection, 'snapshot.commit', commit, RevisionAnswerSchema);
    this.#sent = null;
    if (this.#outbox.isLost) return;
    this.#taken(revision, answer);
    const ms = Math.round(performance.now() - startMs);
    this.#options.log.info({ revision, ms }, 'host is up to date');
    this.#options.onWhole?.();
  }

  async #sendParts(connection: Connection, revision: number, whole: Whole): Promise<void> {
    const { local, nodes, pods } = whole;
    const counts = { nodes: nodes.length, pods: pods.length };
    const begin = { revision, local, counts, session: this.#session };
    await this.#ask(connection, 'snapshot.begin', begin, v.null());
    // The next part is made while the host reads this one.
    let answered: Promise<unknown> = Promise.resolve();
    for (const part of partsOf(whole)) {
      const answer = this.#ask(connection, 'snapshot.part', part, v.null());
      answer.catch(() => {});
      await answered;
      answered = answer;
    }
    await answered;
  }

  /** Takes the host's word for having a revision. */
  #taken(sent: number, { status, revision }: RevisionAnswer): void {
    if (status !== 'applied' || revision !== sent) {
      throw new Error(`the host has revision ${revision} after it was sent ${sent}`);
    }
    this.#confirm(sent);
    this.#options.log.debug({ revision }, 'host has the change');
  }

  #confirm(revision: number): void {
    this.#confirmed = revision;
    this.#outbox.confirm(revision);
    this.#failures = 0;
    this.#reported = '';
  }

  async #sendHealth(connection: Connection): Promise<void> {
    const health = this.#health;
    if (health === null || health === this.#toldHealth) return;
    await this.#ask(connection, 'source.health', health, v.null());
    this.#toldHealth = health;
  }

  #ask<S extends v.GenericSchema>(
    connection: Connection, name: string, params: unknown, result: S,
  ): Promise<v.InferOutput<S>> {
    return this.#within(name, connection.request(name, params, result));
  }

  async #within<T>(what: string, work: Promise<T>): Promise<T> {
    const timeoutMs = this.#options.requestTimeoutMs ?? REQUEST_TIMEOUT_MS;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      const error = new Error(`${what}: no answer in ${timeoutMs} ms`);
      timer = setTimeout(() => reject(error), timeoutMs);
    });
    try {
      return await Promise.race([work, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Doubles up to the cap; half of it is chance, so that restarted nodes do not move in step. */
  #backoffMs(): number {
    const { backoffFirstMs = BACKOFF_FIRST_MS, backoffCapMs = BACKOFF_CAP_MS } = this.#options;
    const random = this.#options.random ?? Math.random;
    const whole = Math.min(backoffFirstMs * (2 ** Math.min(this.#failures, 16)), backoffCapMs);
    this.#failures += 1;
    return (whole / 2) + ((whole / 2) * random());
  }

  /** Says the same thing once, not at every attempt. */
  #report(message: string): void {
    const { log, socket } = this.#options;
    if (message === this.#reported) log.debug({ socket, error: message }, 'still not connected');
    else log.warn({ socket, error: message }, 'not connected to the host; trying again');
    this.#reported = message;
  }
}

/** Aborts with the connection's end, and ends the connection when the outer signal aborts. */
function connectionSignal(connection: Connection, outer: AbortSignal): AbortSignal {
  const inner = new AbortController();
  const stop = (): void => connection.close();
  outer.addEventListener('abort', stop);
  connection.closed.finally(() => {
    outer.removeEventListener('abort', stop);
    inner.abort();
  });
  return inner.signal;
}

function* partsOf({ nodes, pods, policy, services }: Whole): Generator<object> {
  for (const some of pieces(nodes)) yield { nodes: some };
  for (const some of pieces(pods, (pod) => podWeight([pod]))) yield { pods: some };
  for (const some of policy ?? []) yield { policy: some };
  // A state of policy that says nothing is a state too.
  if (policy !== null) yield { policy: emptyChange() };
  for (const some of services ?? []) yield { services: some };
}

/** Items in their order, in parts of PART_LIMIT in weight at most. */
function* pieces<T>(items: readonly T[], weigh = (_: T): number => 1): Generator<readonly T[]> {
  let part: T[] = [];
  let room = PART_LIMIT;
  for (const item of items) {
    const weight = weigh(item);
    if (weight > room) {
      yield part;
      part = [];
      room = PART_LIMIT;
    }
    part.push(item);
    room -= weight;
  }
  if (part.length > 0) yield part;
}
