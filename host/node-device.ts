// The node's own TUN: the way between the node's stack and the pod network. It has the base address
// of our pod network, as flannel's device does, so that the node's packets to pods carry it.

import { prefixBase, hostPrefix } from '../engine/address.ts';
import { closeFd } from '../ffi/file.ts';
import { Links, type Route } from '../ffi/netlink.ts';
import { setPersist } from '../ffi/tun.ts';
import type { Handover } from './handover.ts';
import { GUARD_METRIC, TUN_QUEUE_LENGTH } from './limits.ts';
import { openOffloaded, setOffloads, type Tier } from './tier.ts';

export interface NodeDeviceOptions {
  name: string;
  mtu: number;
  /** Leaves the interface, its addresses and routes in place at the end. */
  keep: boolean;
  podNetworks: string[];
  tier: Tier;
  handover: Handover;
}

export class NodeDevice {
  readonly options: NodeDeviceOptions;
  /** Our pod networks, as last configured. */
  podCidrs: string[] = [];
  readonly #links: Links;
  #fd = -1;

  constructor(links: Links, options: NodeDeviceOptions) {
    this.#links = links;
    this.options = options;
  }

  get descriptor(): number {
    return this.#fd;
  }

  /** Base addresses that the interface has. */
  get addresses(): string[] {
    return this.podCidrs.map(prefixBase);
  }

  /** Makes the interface, or attaches to one that was kept, and brings it up. */
  async open(): Promise<void> {
    const { name, mtu, handover } = this.options;
    await this.#guard();
    this.#fd = this.#takeOrMake();
    handover.keep(this.#keptAs, this.#fd);
    try {
      await this.#links.setLink(name, { linkLocalIpv6: false });
      await this.#links.setLink(name, { mtu, queueLength: TUN_QUEUE_LENGTH, up: true });
    } catch (error) {
      this.abandon();
      throw error;
    }
  }

  /** Gives the interface the base addresses of our pod networks and routes the cluster's to it. */
  async configure(podCidrs: string[]): Promise<void> {
    const { name, podNetworks } = this.options;
    const wanted = podCidrs.map(prefixBase).map(hostPrefix);
    const present = await this.#links.addresses(name);
    for (const address of present.filter((text) => !wanted.includes(text))) {
      await this.#links.removeAddress(name, address);
    }
    for (const address of wanted.filter((text) => !present.includes(text))) {
      await this.#links.addAddress(name, address);
    }
    this.podCidrs = podCidrs;
    for (const prefix of podNetworks) {
      const isIpv6 = prefix.includes(':');
      const source = this.addresses.find((address) => address.includes(':') === isIpv6);
      if (source !== undefined) {
        await this.#links.addRoute({ prefix, device: name, source, replace: true });
      }
    }
  }

  /** Makes the interface again after somebody deleted it. */
  async reopen(): Promise<void> {
    this.abandon();
    await this.open();
    await this.configure(this.podCidrs);
  }

  /** Closes the descriptor; an interface that is not kept ends with it. */
  abandon(): void {
    if (this.#fd < 0) return;
    this.options.handover.forget(this.#keptAs);
    closeFd(this.#fd);
    this.#fd = -1;
  }

  /** Ends the interface and its guard, unless they are to be kept. */
  async close(): Promise<void> {
    if (this.#fd >= 0 && !this.options.keep) setPersist(this.#fd, false);
    this.abandon();
    if (this.options.keep) return;
    for (const prefix of this.options.podNetworks) {
      await this.#links.removeRoute(guardRoute(prefix)).catch(() => {});
    }
  }

  /** Leaves everything as it is, for the next daemon. */
  leave(): void {
    if (this.#fd >= 0) closeFd(this.#fd);
    this.#fd = -1;
  }

  get #keptAs(): string {
    return `tun.${this.options.name}`;
  }

  /** Routes that take over when the interface's own go with it: without them packets to pods would
   * leave by the default route, as they are. Nothing but a clean end removes them. */
  async #guard(): Promise<void> {
    for (const prefix of this.options.podNetworks) {
      await this.#links.addRoute({ ...guardRoute(prefix), replace: true });
    }
  }

  #takeOrMake(): number {
    const { name, keep, tier, handover } = this.options;
    const held = handover.take(this.#keptAs);
    if (held >= 0 && setOffloads(held, tier)) return held;
    if (held >= 0) {
      handover.forget(this.#keptAs);
      closeFd(held);
    }
    return openOffloaded({ name, kind: 'tun', persist: keep }, tier).fd;
  }
}

function guardRoute(prefix: string): Route {
  return { prefix, kind: 'blackhole', metric: GUARD_METRIC };
}
