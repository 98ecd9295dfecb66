// What the peers' tunnels need of this node, kept as the cluster changes: sockets of kinds that
// some peer speaks, opened when the first one does; routes of the node's own stack to peers that
// need no tunnel; and the end of the time in which a peer that has changed its kind may still use
// the old one.

import { addressFamily } from '../engine/address.ts';
import type { Forwarding } from '../engine/forwarding.ts';
import type { Log } from '../engine/log.ts';
import type { ClusterNode } from '../engine/model.ts';
import {
  directRoutes, directRoutesOf, tunnelNeeds, type DirectRoute, type TunnelNeed,
} from '../engine/tunnel-needs.ts';
import type { Links } from '../ffi/netlink.ts';
import type { HostConfig } from './config.ts';
import { DirectRouting } from './direct-routing.ts';
import type { Underlay } from './underlay.ts';

/** How long packets of a peer's former kind of tunnel are taken after the last change: longer than
 * the cluster needs to tell all nodes, and than what is under way needs to arrive. */
const SWITCH_MS = 30_000;
/** How often routes are looked after: as often as flannel's host-gw does it. */
const CHECK_MS = 10_000;

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
  /** Sockets that could not be opened, and why, by their devices. */
  readonly #failed = new Map<number, { need: TunnelNeed; reason: string }>();
  #timer: NodeJS.Timeout | null = null;
  #check: NodeJS.Timeout | null = null;

  constructor(options: PeerTunnelsOptions) {
    this.#options = options;
    const { links, underlay, config: { device } } = options;
    this.#direct = new DirectRouting(links, underlay.interface, device.name);
  }

  /** What is missing for some peer, and why. */
  problems(): string[] {
    const failed = [...this.#failed.values()].map(({ need: { kind }, reason }) =>
      `tunnels of kind ${kind}: ${reason}`);
    return [...failed, ...this.#direct.problems];
  }

  /** Has what nodes need that are about to be peers, so that their packets find it. Our own speaks
   * the kinds that others send to it. */
  async prepare(nodes: readonly ClusterNode[]): Promise<void> {
    const { config: { underlay: { port }, nodeName }, onOpened } = this.#options;
    const isOpened = this.#open(tunnelNeeds(nodes, port));
    const others = nodes.filter(({ name }) => name !== nodeName);
    const coming = directRoutesOf(others, port).filter((route) => this.#isOurs(route));
    const present = this.#routes().filter(({ prefix }) =>
      !coming.some((route) => route.prefix === prefix));
    if (coming.length > 0) await this.#direct.set([...present, ...coming]);
    if (isOpened) await onOpened();
  }

  /** Has what the peers need as they are now, and no more. */
  async apply(): Promise<void> {
    const { forwarding } = this.#options;
    await this.#direct.set(this.#routes());
    if (forwarding.isSwitching) this.#endSwitchesLater();
    this.#check ??= setInterval(() => this.#try(() => this.#lookAfter()), CHECK_MS).unref();
  }

  /** Looks no longer. The routes stay, for the next daemon, or are taken back. */
  async close(isKept: boolean): Promise<void> {
    if (this.#timer !== null) clearTimeout(this.#timer);
    if (this.#check !== null) clearInterval(this.#check);
    if (!isKept) await this.#direct.set([]);
  }

  /** Opens what is not open. What fails is a problem, and is tried again. */
  #open(needs: TunnelNeed[]): boolean {
    let hasOpened = false;
    for (const need of needs) {
      try {
        if (this.#options.underlay.openTunnel(need)) hasOpened = true;
        this.#failed.delete(need.device);
      } catch (error) {
        this.#failed.set(need.device, { need, reason: (error as Error).message });
      }
    }
    return hasOpened;
  }

  #routes(): DirectRoute[] {
    const { forwarding } = this.#options;
    return directRoutes(forwarding.peers.values(), forwarding.nodes)
      .filter((route) => this.#isOurs(route));
  }

  /** True where we have an address of the next hop's family. */
  #isOurs({ via }: DirectRoute): boolean {
    return this.#options.underlay.addresses[addressFamily(via)] !== undefined;
  }

  #endSwitchesLater(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#timer = null;
      this.#options.forwarding.endSwitches();
      this.#try(() => this.#direct.set(this.#routes()));
    }, SWITCH_MS).unref();
  }

  async #lookAfter(): Promise<void> {
    await this.#direct.check();
    const failed = [...this.#failed.values()].map(({ need }) => need);
    if (this.#open(failed)) await this.#options.onOpened();
  }

  #try(work: () => Promise<void>): void {
    work().catch((error: Error) =>
      this.#options.log.warn({ error: error.message }, 'cannot look after what tunnels need'));
  }
}
