// What the peers' tunnels need of this node, kept as the cluster changes: sockets of kinds that
// some peer speaks, opened when the first one does; routes of the node's own stack to peers that
// need no tunnel; and the end of the time in which a peer that has changed its kind may still use
// the old one.

import { addressFamily, type Family } from '../engine/address.ts';
import type { Forwarding } from '../engine/forwarding.ts';
import type { Log } from '../engine/log.ts';
import { directRoutes, tunnelNeeds, type DirectRoute } from '../engine/tunnel-needs.ts';
import type { Links } from '../ffi/netlink.ts';
import type { HostConfig } from './config.ts';
import { DirectRouting } from './direct-routing.ts';
import type { Underlay } from './underlay.ts';

/** How long packets of a peer's former kind of tunnel are taken after the last change: longer than
 * the cluster needs to tell all nodes, and than what is under way needs to arrive. */
const SWITCH_MS = 30_000;

export interface PeerTunnelsOptions {
  forwarding: Forwarding;
  underlay: Underlay;
  links: Links;
  log: Log;
  config: HostConfig;
  /** Uses the underlay's sockets as they are now. */
  onOpened(): Promise<void>;
}

export class PeerTunnels {
  readonly #options: PeerTunnelsOptions;
  readonly #direct: DirectRouting;
  #problems: string[] = [];
  #timer: NodeJS.Timeout | null = null;

  constructor(options: PeerTunnelsOptions) {
    this.#options = options;
    const { links, underlay, config: { device } } = options;
    this.#direct = new DirectRouting(links, underlay.interface, device.name);
  }

  /** What is missing for some peer, and why. */
  problems(): string[] {
    return [...this.#problems, ...this.#direct.problems];
  }

  /** Has what the peers need as they are now. */
  async apply(): Promise<void> {
    const { forwarding, onOpened } = this.#options;
    const hasOpened = this.#open();
    await this.#direct.set(this.#routes());
    if (hasOpened) await onOpened();
    if (forwarding.isSwitching) this.#endSwitchesLater();
  }

  /** Takes the routes back. */
  async close(): Promise<void> {
    if (this.#timer !== null) clearTimeout(this.#timer);
    await this.#direct.set([]);
  }

  #open(): boolean {
    const { forwarding, underlay, config: { underlay: { port } } } = this.#options;
    let hasOpened = false;
    const problems: string[] = [];
    for (const need of tunnelNeeds(forwarding.peers.values(), port)) {
      try {
        if (underlay.openTunnel(need)) hasOpened = true;
      } catch (error) {
        problems.push(`tunnels of kind ${need.kind}: ${(error as Error).message}`);
      }
    }
    this.#problems = problems;
    return hasOpened;
  }

  #routes(): DirectRoute[] {
    const { forwarding, underlay } = this.#options;
    const hasFamily = (family: Family): boolean => underlay.addresses[family] !== undefined;
    return directRoutes(forwarding.peers.values(), forwarding.nodes)
      .filter(({ via }) => hasFamily(addressFamily(via)));
  }

  #endSwitchesLater(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#timer = null;
      const { forwarding, log } = this.#options;
      forwarding.endSwitches();
      this.#direct.set(this.#routes()).catch((error: Error) =>
        log.warn({ error: error.message }, 'cannot take back routes to peers'));
    }, SWITCH_MS).unref();
  }
}
