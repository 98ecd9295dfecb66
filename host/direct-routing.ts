// Routes of the node's own stack to pods of peers on our link, which are reached without a tunnel
// (docs/decisions/direct-routing.md). What the core has for such a peer it gives to the node's own
// device, whose packets the stack forwards by these routes; what the peer sends comes by the
// underlay's interface, and the stack forwards it to the node's device.

import { addressFamily, type Family } from '../engine/address.ts';
import type { DirectRoute } from '../engine/tunnel-needs.ts';
import { SystemError } from '../ffi/errno.ts';
import type { Links } from '../ffi/netlink.ts';
import { readSysctl, writeSysctl } from '../ffi/netns.ts';

export class DirectRouting {
  readonly #links: Links;
  /** The underlay's interface, and the node's own device. */
  readonly #interfaces: readonly [underlay: string, device: string];
  /** Next hops by prefix, as they are in the kernel. */
  readonly #present = new Map<string, string>();
  /** Families whose packets the stack forwards. */
  readonly #forwarded = new Set<Family>();
  problems: string[] = [];

  constructor(links: Links, underlay: string, device: string) {
    this.#links = links;
    this.#interfaces = [underlay, device];
  }

  /** Makes these the routes there are. What fails is a problem, and is tried again the next time.
   * */
  async set(routes: readonly DirectRoute[]): Promise<void> {
    const problems: string[] = [];
    const wanted = new Map(routes.map(({ prefix, via }) => [prefix, via]));
    const attempt = async (work: () => Promise<void>): Promise<void> => {
      try {
        await work();
      } catch (error) {
        problems.push(`direct routing: ${(error as Error).message}`);
      }
    };
    for (const family of ['IPv4', 'IPv6'] as const) {
      const isNeeded = [...wanted.keys()].some((prefix) => addressFamily(prefix) === family);
      if (isNeeded) await attempt(async () => this.#forward(family));
    }
    for (const [prefix, via] of wanted) {
      if (this.#present.get(prefix) !== via) await attempt(() => this.#add(prefix, via));
    }
    for (const prefix of [...this.#present.keys()].filter((one) => !wanted.has(one))) {
      await attempt(() => this.#remove(prefix));
    }
    this.problems = problems;
  }

  async #add(prefix: string, via: string): Promise<void> {
    const [device] = this.#interfaces;
    await this.#links.addRoute({ prefix, device, via, replace: true });
    this.#present.set(prefix, via);
  }

  async #remove(prefix: string): Promise<void> {
    const [device] = this.#interfaces;
    this.#present.delete(prefix);
    await this.#links.removeRoute({ prefix, device });
  }

  /** Lets the stack forward between the two interfaces: IPv4 asks the one that a packet comes by,
   * IPv6 the whole node, or, since Linux 6.17, likewise. */
  #forward(family: Family): void {
    if (this.#forwarded.has(family)) return;
    for (const name of this.#interfaces) {
      if (family === 'IPv4') writeSysctl(`net/ipv4/conf/${name}/forwarding`, 1);
      else forwardIpv6(name);
    }
    this.#forwarded.add(family);
  }
}

function forwardIpv6(name: string): void {
  if (readSysctl('net.ipv6.conf.all.forwarding') === '1') return;
  try {
    writeSysctl(`net/ipv6/conf/${name}/force_forwarding`, 1);
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
    throw new Error(`${error.message}; net.ipv6.conf.all.forwarding is not 1`, { cause: error });
  }
}
