// Routes of the node's own stack to pods of peers on our link, which are reached without a tunnel
// (docs/decisions/direct-routing.md). What the core has for such a peer it gives to the node's own
// device, whose packets the stack forwards by these routes; what the peer sends comes by the
// underlay's interface, and the stack forwards it to the node's device.
//
// The kernel's table is what there is: a link that goes down, or an address that is taken away,
// takes routes with it, and an earlier daemon may have left some. So routes have a mark of ours
// (rtm_protocol), and what has it is compared with what is wanted.

import { addressFamily, type Family } from '../engine/address.ts';
import type { DirectRoute } from '../engine/tunnel-needs.ts';
import { SystemError } from '../ffi/errno.ts';
import type { Links, Route } from '../ffi/netlink.ts';
import { readSysctl, writeSysctl } from '../ffi/netns.ts';

/** Who made a route: a number that no routing daemon has (linux/rtnetlink.h, RTPROT_*). */
const PROTOCOL = 67;

export class DirectRouting {
  readonly #links: Links;
  readonly #underlay: string;
  /** The node's own device. */
  readonly #device: string;
  #wanted: readonly DirectRoute[] = [];
  /** Whether there may be routes of ours: at first of an earlier daemon's. */
  #hasRoutes = true;
  problems: string[] = [];

  constructor(links: Links, underlay: string, device: string) {
    this.#links = links;
    this.#underlay = underlay;
    this.#device = device;
  }

  /** Makes these the routes of ours. Those of others stay, and are in the way. What fails is a
   * problem, and is tried again by check(). */
  async set(routes: readonly DirectRoute[]): Promise<void> {
    this.#wanted = routes;
    await this.check();
  }

  /** Makes good what has become of the routes, and of forwarding. */
  async check(): Promise<void> {
    const problems: string[] = [];
    const attempt = async (work: () => void | Promise<void>): Promise<void> => {
      try {
        await work();
      } catch (error) {
        problems.push(`direct routing: ${(error as Error).message}`);
      }
    };
    for (const family of ['IPv4', 'IPv6'] as const) {
      const isNeeded = this.#wanted.some(({ prefix }) => addressFamily(prefix) === family);
      if (isNeeded) await attempt(() => this.#forward(family));
    }
    const present = this.#hasRoutes || this.#wanted.length > 0 ? await this.#present() : [];
    for (const route of present) {
      const isWanted = this.#wanted.some((wanted) => isSame(wanted, route));
      if (!isWanted) await attempt(() => this.#links.removeRoute(route));
    }
    for (const { prefix, via } of this.#wanted) {
      if (present.some((route) => isSame({ prefix, via }, route))) continue;
      const device = this.#underlay;
      await attempt(() =>
        this.#links.addRoute({ prefix, device, via, protocol: PROTOCOL }));
    }
    this.#hasRoutes = this.#wanted.length > 0;
    this.problems = problems;
  }

  async #present(): Promise<Route[]> {
    const routes = await this.#links.routes();
    return routes.filter(({ protocol }) => protocol === PROTOCOL);
  }

  /** Lets the stack forward between the two interfaces: IPv4 asks the one that a packet comes by,
   * IPv6 the whole node, or, since Linux 6.17, likewise. */
  #forward(family: Family): void {
    for (const name of [this.#underlay, this.#device]) {
      if (family === 'IPv4') forwardIpv4(name);
      else forwardIpv6(name);
    }
  }
}

function isSame(wanted: DirectRoute, { prefix, via }: Route): boolean {
  return wanted.prefix === prefix && wanted.via === via;
}

function forwardIpv4(name: string): void {
  const setting = `net/ipv4/conf/${name}/forwarding`;
  if (readSysctl(setting) !== '1') writeSysctl(setting, 1);
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
