// All ports that the proxy has: opens them, tries again what cannot be had, lets end what is under
// way when a port goes.
//
//     put -> waiting <-> open -> closed, draining -> gone
//
// A port without a backend is closed, so that clients are refused by the kernel: TCP by a reset,
// UDP by ICMP port unreachable.

import { type Front, type Shared, zeroCounters } from './front.ts';
import { PROXY_LIMITS, type ProxyLimits } from './limits.ts';
import type { Listener } from './plan.ts';
import { TcpFront } from './tcp.ts';
import { UdpFront } from './udp.ts';

/** One port, its state, and why it is not open where it should be. */
interface Place {
  key: string;
  front: Front;
  state: 'closed' | 'opening' | 'open' | 'waiting';
  problem: string | null;
  waitMs: number;
  timer: NodeJS.Timeout | null;
}

export class PortProxy {
  readonly shared: Shared;
  readonly #places = new Map<string, Place>();
  readonly #keysOf = new Map<string, Set<string>>();
  readonly #draining = new Map<Front, NodeJS.Timeout>();

  constructor(limits: ProxyLimits = PROXY_LIMITS) {
    this.shared = { limits, counters: zeroCounters(), used: { connections: 0, sessions: 0 } };
  }

  /** Makes `listeners` all that an owner has. */
  put(owner: string, listeners: readonly Listener[]): void {
    const keys = new Set<string>();
    const before = this.#keysOf.get(owner) ?? new Set();
    const wanted = new Map(listeners.map((listener) => [keyOf(listener), listener]));
    for (const key of before) {
      if (!wanted.has(key)) this.#drop(key);
    }
    for (const [key, listener] of wanted) {
      keys.add(key);
      this.#place(key, listener);
    }
    if (keys.size > 0) this.#keysOf.set(owner, keys);
    else this.#keysOf.delete(owner);
  }

  /** Why ports are not open that should be. */
  problems(): string[] {
    return [...this.#places.values()].flatMap(({ problem }) => problem ?? []);
  }

  /** How many ports are open. */
  get openCount(): number {
    return [...this.#places.values()].filter(({ state }) => state === 'open').length;
  }

  /** Ends everything at once. */
  close(): void {
    for (const owner of [...this.#keysOf.keys()]) this.put(owner, []);
    for (const [front, timer] of this.#draining) {
      clearTimeout(timer);
      front.end();
    }
    this.#draining.clear();
  }

  #place(key: string, listener: Listener): void {
    const known = this.#places.get(key);
    if (known === undefined) {
      const front = listener.protocol === 'TCP'
        ? new TcpFront(listener, this.shared)
        : new UdpFront(listener, this.shared);
      const place: Place = { key, front, state: 'closed', problem: null, waitMs: 0, timer: null };
      this.#places.set(key, place);
      this.#settle(place);
    } else {
      known.front.update(listener);
      this.#settle(known);
    }
  }

  /** Opens or closes a port by whether there is anyone to ask. */
  #settle(place: Place): void {
    const isWanted = place.front.listener.backends.some(({ state }) => state !== 'unready');
    if (isWanted && place.state === 'closed') {
      place.waitMs = this.shared.limits.retryFirstMs;
      void this.#open(place);
    } else if (!isWanted && place.state !== 'closed') this.#close(place);
  }

  #close(place: Place): void {
    if (place.timer !== null) clearTimeout(place.timer);
    if (place.state === 'open') place.front.close();
    Object.assign(place, { state: 'closed', problem: null, timer: null });
  }

  async #open(place: Place): Promise<void> {
    place.state = 'opening';
    const { front } = place;
    try {
      await front.open((error) => this.#lost(place, error));
      // It may have become unwanted meanwhile.
      if (place.state !== 'opening') return front.close();
      Object.assign(place, { state: 'open', problem: null, waitMs: 0 });
    } catch (error) {
      if (place.state === 'opening') this.#retry(place, error as NodeJS.ErrnoException);
    }
  }

  #lost(place: Place, error: NodeJS.ErrnoException): void {
    if (place.state !== 'open') return;
    place.front.close();
    this.#retry(place, error);
  }

  #retry(place: Place, { code = 'failed' }: NodeJS.ErrnoException): void {
    const { limits, counters } = this.shared;
    place.state = 'waiting';
    place.problem = `${place.key}: ${code}${this.#reason(place, code)}`;
    counters.portsRetried += 1;
    place.timer = setTimeout(() => {
      place.timer = null;
      void this.#open(place);
    }, place.waitMs);
    place.waitMs = Math.min(Math.max(place.waitMs, limits.retryFirstMs) * 2, limits.retryMs);
  }

  #reason({ front: { listener } }: Place, code: string): string {
    if (code === 'EACCES') return '; CAP_NET_BIND_SERVICE is needed for ports below 1024';
    if (code === 'EADDRNOTAVAIL') return '; the node has no such address';
    if (code !== 'EADDRINUSE') return '';
    const holder = [...this.#places.values()].find(({ state, front: { listener: other } }) =>
      state === 'open' && other.protocol === listener.protocol
        && other.address === listener.address && other.port === listener.port);
    return `; the port is in use by ${holder?.front.listener.owner ?? 'another program'}`;
  }

  /** Takes a port out; what is under way there has a while to end. */
  #drop(key: string): void {
    const place = this.#places.get(key);
    if (place === undefined) return;
    this.#places.delete(key);
    this.#close(place);
    const { front } = place;
    if (front.busy === 0) return;
    this.#draining.set(front, setTimeout(() => {
      this.#draining.delete(front);
      front.end();
    }, this.shared.limits.drainMs));
  }
}

/** What a port is known by; problems begin with it. */
function keyOf({ owner, protocol, address, port }: Listener): string {
  const at = address.includes(':') ? `[${address}]` : address;
  return `${owner}: port ${at}:${port}/${protocol}`;
}
