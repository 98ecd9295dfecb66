// The source `kubernetes`: all resources of an API server, followed side by side, and delivered as
// one state that changes.
//
// The first state waits until every resource has been read, or is known to be out of reach: pods
// without policies, or policies without pods, would let through what must not pass. After that each
// change counts as soon as it comes. Whatever goes wrong with a resource, what it said last stays.

import type { Log } from '../../engine/log.ts';
import { PROBLEM_LIMIT } from '../../engine/model.ts';
import type { ResourceCounts } from '../../engine/model.ts';
import type { ClusterSink } from '../state.ts';
import type { ApiClient } from './client.ts';
import { Projector } from './projector.ts';
import { Reflector } from './reflector.ts';
import type { ReflectorCounters, ResourceState } from './reflector.ts';
import { RESOURCES } from './resources.ts';
import type { Resource } from './resources.ts';
import type { Timing } from './timing.ts';

/** How long a resource may be out of sight before the operator hears of it. */
export const STALE_AFTER_MS = 5000;
/** How often the host is told what was counted. */
const COUNT_PAUSE_MS = 10_000;

export interface KubernetesOptions {
  client: ApiClient;
  /** The node this sidecar is for. */
  nodeName: string;
  log: Log;
  /** Told of our Node whenever it has changed, as the server has it; null when it is gone. */
  onOwnNode?(object: object | null): void;
  resources?: readonly Resource[];
  timing?: Partial<Timing>;
  staleAfterMs?: number;
  /** 0 to 1, for the jitter. */
  random?(): number;
}

/** One resource as it is followed now. */
export interface FollowedResource extends ResourceState {
  counters: ReflectorCounters;
  objects: number;
  /** Bytes held to know the objects. */
  bytes: number;
}

/** Follows the cluster until the signal aborts. */
export async function runKubernetes(
  options: KubernetesOptions, sink: ClusterSink, signal: AbortSignal,
): Promise<void> {
  await new KubernetesSource(options, sink).run(signal);
}

/** A resource, who follows it and who reads its objects. */
interface Followed {
  resource: Resource;
  reflector: Reflector;
  projector: Projector;
}

export class KubernetesSource {
  readonly #options: KubernetesOptions;
  readonly #sink: ClusterSink;
  readonly #followed: readonly Followed[];
  /** Before it began nothing was fresh; afterwards it counts no more. */
  #startedAtMs = Date.now();
  #hasBegun = false;
  #timer: NodeJS.Timeout | undefined;
  #logged = new Set<string>();
  #toldHealth = '';
  /** As it was a while ago: it changes with every event, and is told more seldom. */
  #counted: ResourceCounts[] = [];

  constructor(options: KubernetesOptions, sink: ClusterSink) {
    this.#options = options;
    this.#sink = sink;
    this.#followed = (options.resources ?? RESOURCES).map((resource) => this.#follow(resource));
  }

  /** All resources, for status and metrics. */
  get resources(): FollowedResource[] {
    return this.#followed.map(({ reflector, projector }) => {
      const { count, bytes } = projector.size;
      return { ...reflector.state, counters: reflector.counters, objects: count, bytes };
    });
  }

  /** Follows the cluster until the signal aborts. */
  async run(signal: AbortSignal): Promise<void> {
    const { client } = this.#options;
    this.#tell();
    const counting = setInterval(() => {
      this.#counted = this.#count();
      this.#tell();
    }, COUNT_PAUSE_MS).unref();
    try {
      await Promise.all(this.#followed.map(({ reflector }) => reflector.run(signal)));
    } finally {
      clearTimeout(this.#timer);
      clearInterval(counting);
      client.close();
    }
  }

  #follow(resource: Resource): Followed {
    const { client, timing = {}, nodeName, onOwnNode, random } = this.#options;
    const isNode = resource.kind === 'Node';
    const projector = new Projector({
      resource,
      sink: this.#sink,
      onFlush: (isChanged) => this.#flush(isChanged),
      ...isNode && onOwnNode !== undefined ? {
        onObject: (key, object) => {
          if (key === nodeName) onOwnNode(object);
        },
      } : {},
    });
    const reflector = new Reflector({
      client, resource, sink: projector, timing,
      onState: () => this.#changeState(),
      ...random === undefined ? {} : { random },
    });
    return { resource, reflector, projector };
  }

  #flush(isChanged: boolean): void {
    if (!this.#hasBegun) return this.#begin();
    if (!isChanged) return;
    this.#sink.commit();
    this.#tell();
  }

  #changeState(): void {
    if (!this.#hasBegun) this.#begin();
    this.#tell();
  }

  /** Delivers the first state once it is whole. */
  #begin(): void {
    const isWhole = this.#followed.every(({ resource, reflector: { state } }) =>
      state.hasSynced || (!resource.isRequired && isOutOfReach(state)));
    if (!isWhole) return;
    this.#hasBegun = true;
    this.#startedAtMs = Infinity;
    this.#options.log.info({
      objects: Object.fromEntries(this.resources.map(({ resource, objects }) =>
        [resource, objects])),
    }, 'the cluster has been read');
    this.#sink.commit();
    this.#tell();
  }

  /** Says how we are, where it is not what was said last. */
  #tell(): void {
    const { staleAfterMs = STALE_AFTER_MS, client: { access: { url } } } = this.#options;
    const stale = this.#followed.filter(isStale);
    const lost = stale.filter(({ reflector: { state } }) =>
      (state.staleForMs ?? 0) >= staleAfterMs);
    clearTimeout(this.#timer);
    if (lost.length < stale.length) {
      this.#timer = setTimeout(() => this.#tell(), staleAfterMs).unref();
    }
    const isFresh = this.#hasBegun && lost.length === 0;
    const problems = [
      ...this.#refusals(), ...failures(lost),
      ...this.#followed.flatMap(({ projector }) => projector.problems),
    ];
    const health = {
      source: `kubernetes ${url.origin}`.slice(0, 64),
      fresh: isFresh,
      staleSinceMs: isFresh ? null : Math.min(this.#startedAtMs, ...lost.map(staleSince)),
      problems: problems.slice(0, PROBLEM_LIMIT),
      resources: this.#counted,
    };
    const text = JSON.stringify(health);
    if (text === this.#toldHealth) return;
    this.#toldHealth = text;
    this.#log(health.problems);
    this.#sink.setHealth(health);
  }

  #count(): ResourceCounts[] {
    return this.#followed.map(
      ({ resource, reflector: { counters: { relists, added, modified, deleted } } }) =>
        ({ resource: resource.plural, relists, added, modified, deleted }));
  }

  /** What the server does not give us, and what that means. */
  #refusals(): string[] {
    return this.#followed.flatMap(({ resource, reflector: { state } }) => {
      const { plural, loss, mayBeAbsent } = resource;
      const { phase, message, hasSynced } = state;
      if (!isOutOfReach(state) || (phase === 'absent' && mayBeAbsent)) return [];
      const effect = hasSynced ? 'what was known last counts, changes are not seen' : loss;
      return [`${plural}: ${phase}: ${message}; ${effect}`];
    });
  }

  #log(problems: readonly string[]): void {
    const { log } = this.#options;
    const next = new Set(problems);
    for (const problem of next) if (!this.#logged.has(problem)) log.warn({}, problem);
    if (next.size === 0 && this.#logged.size > 0) log.info({}, 'the API server serves us again');
    this.#logged = next;
  }
}

/** What fails, with the resources that fail so. */
function failures(lost: readonly Followed[]): string[] {
  const byMessage = new Map<string, string[]>();
  for (const { resource: { plural }, reflector: { state } } of lost) {
    if (state.phase !== 'failing') continue;
    byMessage.set(state.message, [...byMessage.get(state.message) ?? [], plural]);
  }
  return [...byMessage].map(([message, names]) => `${names.join(', ')}: ${message}`);
}

function isOutOfReach({ phase }: ResourceState): boolean {
  return phase === 'forbidden' || phase === 'absent';
}

/** Changes may be missed. Not so where there is nothing to be missed. */
function isStale({ resource, reflector: { state } }: Followed): boolean {
  if (state.staleSinceMs === null || state.phase === 'absent') return false;
  return state.phase !== 'forbidden' || state.hasSynced || resource.isRequired;
}

function staleSince({ reflector: { state } }: Followed): number {
  return state.staleSinceMs ?? Infinity;
}
