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
  /** Queues to open, one for each worker. */
  queues: number;
  handover: Handover;
}

export class NodeDevice {
  readonly options: NodeDeviceOptions;
  /** Our pod networks, as last configured. */
  podCidrs: string[] = [];
  /** True where it is the one that an earlier daemon had, with what waits in its queues. */
  isLeft = false;
  readonly #links: Links;
  #fds: number[] = [];

  constructor(links: Links, options: NodeDeviceOptions) {
    this.#links = links;
    this.options = options;
  }

  /** One for each queue. */
  get descriptors(): number[] {
    return this.#fds;
  }

  /** Base addresses that the interface has. */
  get addresses(): string[] {
    return this.podCidrs.map(prefixBase);
  }

  /** Makes the interface, or attaches to one that was kept, and brings it up. */
  async open(): Promise<void> {
    const { name, mtu } = this.options;
    await this.#guard();
    this.#fds = this.#takeOrMake();
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

  /** Gives the interface another MTU, now and whenever it is made again. */
  async setMtu(mtu: number): Promise<void> {
    this.options.mtu = mtu;
    await this.#links.setLink(this.options.name, { mtu });
  }

  /** Makes the interface again after somebody deleted it. */
  async reopen(): Promise<void> {
    this.abandon();
    await this.open();
    await this.configure(this.podCidrs);
  }

  /** Closes the descriptors; an interface that is not kept ends with them. */
  abandon(): void {
    if (this.#fds.length === 0) return;
    this.options.handover.forgetAll(this.#keptAs);
    this.leave();
  }

  /** Ends the interface and its guard, unless they are to be kept. */
  async close(): Promise<void> {
    const [fd] = this.#fds;
    if (fd !== undefined && !this.options.keep) setPersist(fd, false);
    this.abandon();
    if (this.options.keep) return;
    for (const prefix of this.options.podNetworks) {
      await this.#links.removeRoute(guardRoute(prefix)).catch(() => {});
    }
  }

  /** Leaves everything as it is, for the next daemon. */
  leave(): void {
    for (const fd of this.#fds) closeFd(fd);
    this.#fds = [];
  }

  get #keptAs(): string {
    return keptDevice(this.options.name);
  }

  /** Routes that take over when the interface's own go with it: without them packets to pods would
   * leave by the default route, as they are. Nothing but a clean end removes them. */
  async #guard(): Promise<void> {
    for (const prefix of this.options.podNetworks) {
      await this.#links.addRoute({ ...guardRoute(prefix), replace: true });
    }
  }

  #takeOrMake(): number[] {
    const { name, keep, tier, queues, handover } = this.options;
    const held = handover.takeAll(this.#keptAs, queues);
    this.isLeft = held.length > 0 && held.every((fd) => setOffloads(fd, tier));
    if (this.isLeft) return held;
    if (held.length > 0) handover.forgetAll(this.#keptAs);
    for (const fd of held) closeFd(fd);
    const { fds } = openOffloaded({ name, kind: 'tun', persist: keep }, tier, queues);
    handover.keepAll(this.#keptAs, fds);
    return fds;
  }
}

/** What the node's own device of this name is kept under. */
export function keptDevice(name: string): string {
  return `tun.${name}`;
}

function guardRoute(prefix: string): Route {
  return { prefix, kind: 'blackhole', metric: GUARD_METRIC };
}
