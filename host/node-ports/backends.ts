// Which backend a new connection or session gets. Ready ones take turns; where none is left of
// them, distant ones serve, and then draining ones. Unready ones keep what they have
// (docs/SERVICES.md).

import type { Backend } from '../../engine/model.ts';

const MS_PER_SECOND = 1000;
/** States of backends that may be asked, the best first. */
const ABLE: readonly Backend['state'][] = ['ready', 'distant', 'draining'];

/** What a backend is known by. */
export function backendKey({ address, port }: { address: string; port: number }): string {
  return `${address} ${port}`;
}

export class Backends {
  readonly #affinityLimit: number;
  #backends = new Map<string, Backend>();
  /** By state, in the order of ABLE. */
  #able: Backend[][] = [];
  #affinityMs = 0;
  #turn = 0;
  /** By client, the longest unused first. */
  readonly #affinities = new Map<string, { key: string; untilMs: number }>();

  constructor(affinityLimit: number) {
    this.#affinityLimit = affinityLimit;
  }

  /** Makes these all there are. */
  set(backends: Backend[], affinitySeconds: number): void {
    this.#backends = new Map(backends.map((backend) => [backendKey(backend), backend]));
    const all = [...this.#backends.values()];
    this.#able = ABLE.map((wanted) => all.filter(({ state }) => state === wanted));
    this.#affinityMs = affinitySeconds * MS_PER_SECOND;
    if (affinitySeconds === 0) this.#affinities.clear();
  }

  /** True while a backend is there, in whatever state. */
  has(key: string): boolean {
    return this.#backends.has(key);
  }

  /** A backend that was not tried yet; null where there is none. */
  pick(client: string, tried: ReadonlySet<string>, nowMs: number): Backend | null {
    const rest = this.#able.map((backends) => untried(backends, tried));
    const able = rest.find((backends) => backends.length > 0) ?? [];
    const backend = this.#kept(client, able, nowMs) ?? this.#next(able);
    if (backend !== null && this.#affinityMs > 0) {
      this.#remember(client, backendKey(backend), nowMs);
    }
    return backend;
  }

  /** The backend that a client had, where it may have it again. */
  #kept(client: string, able: readonly Backend[], nowMs: number): Backend | null {
    const known = this.#affinities.get(client);
    if (known === undefined || known.untilMs <= nowMs) return null;
    return able.find((backend) => backendKey(backend) === known.key) ?? null;
  }

  #next(able: readonly Backend[]): Backend | null {
    const turn = this.#turn;
    this.#turn = (turn + 1) % Number.MAX_SAFE_INTEGER;
    return able[turn % able.length] ?? null;
  }

  #remember(client: string, key: string, nowMs: number): void {
    this.#affinities.delete(client);
    this.#affinities.set(client, { key, untilMs: nowMs + this.#affinityMs });
    if (this.#affinities.size <= this.#affinityLimit) return;
    for (const longestUnused of this.#affinities.keys()) {
      this.#affinities.delete(longestUnused);
      return;
    }
  }
}

function untried(backends: readonly Backend[], tried: ReadonlySet<string>): readonly Backend[] {
  if (tried.size === 0) return backends;
  return backends.filter((backend) => !tried.has(backendKey(backend)));
}
