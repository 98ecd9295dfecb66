// The client of sync.sock: brings the host to the state we know, and keeps it there.
//
//   connect --> hello --> whole snapshot --> delta, delta, ... --> (anything wrong) --> back off
//
// There is one wanted state and one the host has confirmed on this connection. Changes that come
// while the host is busy merge into the next delta, but for those of policy, which go one by one
// while they are few. Whatever goes wrong ends the connection: a new one begins with a whole
// snapshot, so that no doubt about the host's state outlives it.

import { connect } from 'node:net';
import * as v from 'valibot';
import { connectionOver, method } from '../engine/connection.ts';
import type { Connection } from '../engine/connection.ts';
import type { Log } from '../engine/log.ts';
import { LocalEndpointsSchema, PART_LIMIT, RevisionAnswerSchema } from '../engine/model.ts';
import type { Pod, PolicyChange, RevisionAnswer } from '../engine/model.ts';
import { Bell, pause } from './bell.ts';
import { emptyChange, isSmallChange, joinChanges, partsOf } from './policy/change.ts';
import { difference } from './translate.ts';
import type { Change, Content } from './translate.ts';

export const BACKOFF_FIRST_MS = 200;
export const BACKOFF_CAP_MS = 10_000;
export const REQUEST_TIMEOUT_MS = 30_000;
/** So many changes of policy may wait to be sent one by one; of more all go in one. */
const SINGLE_CHANGES = 16;
/** So many may wait at all; then the host gets everything anew. */
const WAITING_CHANGES = 1000;

export interface SenderOptions {
  socket: string;
  version: string;
  log: Log;
  backoffFirstMs?: number;
  backoffCapMs?: number;
  requestTimeoutMs?: number;
  /** Told of the pods attached to the node: at every new connection, and when they change. */
  onEndpoints?(endpoints: Pod[]): void;
  /** 0 to 1, for the jitter. */
  random?(): number;
}

/** Policy beside the content: what has changed since the update before, and all of it. */
export interface PolicyState {
  change: PolicyChange | null;
  whole(): PolicyChange;
}

/** A state and its number. `change` is what its policy changed in the one before, null for nothing;
 * `whole` gives the policy as it is now, and is only called for the newest state. */
interface Numbered {
  revision: number;
  content: Content;
  change: PolicyChange | null;
  whole: (() => PolicyChange) | null;
}

/** A change of policy on the way; the state that it leads to where it may travel alone. */
interface PolicyStep {
  revision: number;
  change: PolicyChange;
  state: Numbered | null;
}

export class Sender {
  readonly #options: SenderOptions;
  readonly #bell = new Bell();
  #wanted: Numbered | null = null;
  /** Changes of policy since the last snapshot that the host has not confirmed, oldest first; null
   * where nothing but a snapshot will do. */
  #changes: PolicyStep[] | null = null;
  #confirmed: Numbered | null = null;
  #failures = 0;
  #reported = '';

  constructor(options: SenderOptions) {
    this.#options = options;
  }

  /** The revision the host has confirmed on the connection at hand; null for none. */
  get confirmed(): number | null {
    return this.#confirmed?.revision ?? null;
  }

  /** Sets the state the host shall have. False where that is what was wanted already. */
  update(content: Content, policy?: PolicyState): boolean {
    const previous = this.#wanted;
    const change = policy?.change ?? null;
    if (change === null && previous?.content.local === content.local
      && difference(previous.content, content) === null) return false;
    const revision = (previous?.revision ?? 0) + 1;
    this.#wanted = { revision, content, change, whole: policy?.whole ?? null };
    if (change !== null && this.#changes !== null) {
      const state = this.#changes.length < SINGLE_CHANGES ? this.#wanted : null;
      this.#changes.push({ revision, change, state });
      if (this.#changes.length > WAITING_CHANGES) this.#changes = null;
    }
    this.#bell.ring();
    return true;
  }

  /** Serves the host until the signal aborts. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      try {
        await this.#session(signal);
      } catch (error) {
        if (!signal.aborted) this.#report(error instanceof Error ? error.message : String(error));
      }
      if (!signal.aborted) await pause(this.#backoffMs(), signal);
    }
  }

  /** One connection, from its beginning to its end. Always throws, but for an abort. */
  async #session(signal: AbortSignal): Promise<void> {
    const { socket: path, version, onEndpoints } = this.#options;
    const socket = connect(path);
    const connection = connectionOver(socket, {
      version,
      role: 'sync',
      methods: {
        resync: method(v.unknown(), () => this.#forget()),
        endpoints: method(LocalEndpointsSchema, ({ endpoints }) => onEndpoints?.(endpoints)),
      },
    });
    const over = connectionSignal(connection, signal);
    try {
      await this.#within('the handshake', connection.opened);
      if (onEndpoints !== undefined) await this.#follow(connection, onEndpoints);
      this.#confirmed = null;
      this.#bell.ring();
      while (!over.aborted) {
        await this.#bell.wait(over);
        while (!over.aborted && !this.#isDone()) await this.#bring(connection);
      }
      const reason = await connection.closed;
      if (reason !== null) throw reason;
    } finally {
      connection.close();
      socket.destroySoon();
      this.#confirmed = null;
      this.#changes = null;
    }
  }

  async #follow(connection: Connection, tell: (endpoints: Pod[]) => void): Promise<void> {
    const { endpoints } = await this.#ask(
      connection, 'endpoint.follow', null, LocalEndpointsSchema);
    tell(endpoints);
  }

  #isDone(): boolean {
    return this.#wanted === null || this.#wanted.revision === this.#confirmed?.revision;
  }

  #forget(): void {
    this.#confirmed = null;
    this.#bell.ring();
  }

  /** Takes the host from what it has confirmed to what is wanted now. */
  async #bring(connection: Connection): Promise<void> {
    const wanted = this.#wanted;
    if (wanted === null) return;
    const from = this.#confirmed;
    const changes = this.#changes?.filter((item) => item.revision > (from?.revision ?? 0)) ?? null;
    if (from === null || changes === null) return this.#sendSnapshot(connection, wanted);
    this.#changes = changes;
    const next = nextState(changes, wanted);
    const { revision, change: policy } = next;
    const change = difference(from.content, next.content) ?? NOTHING;
    if (!isSmall(change) || (policy !== null && !isSmallChange(policy))) {
      return this.#sendSnapshot(connection, wanted);
    }
    const delta = {
      from: from.revision, to: revision, ...change, ...(policy === null ? {} : { policy }),
    };
    const answer = await this.#ask(connection, 'delta', delta, RevisionAnswerSchema);
    if (answer.status === 'resync') {
      this.#options.log.info({ host: answer.revision, from: from.revision }, 'host asks for all');
      this.#confirmed = null;
      return;
    }
    this.#confirm(next, answer);
  }

  async #sendSnapshot(connection: Connection, wanted: Numbered): Promise<void> {
    const { revision, content: { local, nodes, pods } } = wanted;
    const policy = wanted.whole?.() ?? null;
    this.#changes = [];
    const counts = { nodes: nodes.length, pods: pods.length };
    await this.#ask(connection, 'snapshot.begin', { revision, local, counts }, v.null());
    for (const part of pieces(nodes)) {
      await this.#ask(connection, 'snapshot.part', { nodes: part }, v.null());
    }
    for (const part of pieces(pods)) {
      await this.#ask(connection, 'snapshot.part', { pods: part }, v.null());
    }
    for (const part of policy === null ? [] : [...partsOf(policy), emptyChange()]) {
      await this.#ask(connection, 'snapshot.part', { policy: part }, v.null());
    }
    const commit = { revision };
    const answer = await this.#ask(connection, 'snapshot.commit', commit, RevisionAnswerSchema);
    this.#confirm(wanted, answer);
  }

  #confirm(sent: Numbered, { status, revision }: RevisionAnswer): void {
    if (status !== 'applied' || revision !== sent.revision) {
      throw new Error(`the host has revision ${revision} after it was sent ${sent.revision}`);
    }
    this.#confirmed = sent;
    this.#failures = 0;
    this.#reported = '';
    const { nodes, pods } = sent.content;
    const counts = { nodes: nodes.length, pods: pods.length };
    this.#options.log.info({ revision, ...counts }, 'host is up to date');
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

/** The state to bring the host to next, with the change of policy that leads to it. While changes
 * of policy are few each goes alone: one object's change is safe at every moment of its
 * application, several in one only at its end. */
function nextState(changes: readonly PolicyStep[], wanted: Numbered): Numbered {
  const [first, ...later] = changes;
  if (first === undefined) return { ...wanted, change: null };
  if (first.state !== null && later.length < SINGLE_CHANGES) return first.state;
  const change = later.reduce((sum, item) => joinChanges(sum, item.change), first.change);
  return { ...wanted, change };
}

/** A change of policy alone. */
const NOTHING: Change = { nodes: [], removedNodes: [], pods: [], removedPods: [] };

/** Whether a change fits one frame whatever its names and addresses are. */
function isSmall({ nodes, pods, removedNodes, removedPods }: Change): boolean {
  const changes = [nodes, pods, removedNodes, removedPods];
  return changes.reduce((sum, { length }) => sum + length, 0) <= PART_LIMIT;
}

function* pieces<T>(items: readonly T[]): Generator<readonly T[]> {
  for (let at = 0; at < items.length; at += PART_LIMIT) yield items.slice(at, at + PART_LIMIT);
}
