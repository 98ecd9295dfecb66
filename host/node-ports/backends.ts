// Which backend a new connection or session gets. Ready ones take turns; draining ones serve where
// none is ready, as for clients within the cluster (docs/SERVICES.md).

import type { Backend } from '../../engine/model.ts';

const MS_PER_SECOND = 1000;

/** What a backend is known by. */
export function backendKey({ address, port }: { address: string; port: number }): string {
  return `${address} ${port}`;
}

export class Backends {
  readonly #affinityLimit: number;
  #backends = new Map<string, Backend>();
  #affinityMs = 0;
  #turn = 0;
  /** By client, the longest unused first. */
  readonly #affinities = new Map<string, { key: string; untilMs: number }>();

  constructor(affinityLimit: number) {
    this.#affinityLimit = affinityLimit;
  }

  get count(): number {
    return this.#backends.size;
  }

  /** Makes these all there are. */
  set(backends: Backend[], affinitySeconds: number): void {
    this.#backends = new Map(backends.map((backend) => [backendKey(backend), backend]));
    this.#affinityMs = affinitySeconds * MS_PER_SECOND;
    if (affinitySeconds === 0) this.#affinities.clear();
  }

  /** True while a backend is there, ready or draining. */
  has(key: string): boolean {
    return this.#backends.has(key);
  }

  /** A backend that was not tried yet; null where there is none. */
  pick(client: string, tried: ReadonlySet<string>, nowMs: number): Backend | null {
    const left = [...this.#backends].filter(([key]) => !tried.has(key));
    const ready = left.filter(([, { state }]) => state === 'ready');
    const able = ready.length > 0 ? ready : left;
    const known = this.#affinities.get(client);
    const kept = known !== undefined && known.untilMs > nowMs
      ? able.find(([key]) => key === known.key)
      : undefined;
    const [key, backend] = kept ?? able[this.#turn % able.length] ?? ['', null];
    if (kept === undefined) this.#turn = (this.#turn + 1) & 0x7fffffff;
    if (backend !== null && this.#affinityMs > 0) this.#remember(client, key, nowMs);
    return backend;
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
