// The node's own TUN: the way between the node's stack and the pod network. It has the base address
// of our pod network, as flannel's device does, so that the node's packets to pods carry it.

import { prefixBase, hostPrefix } from '../engine/address.ts';
import { closeFd } from '../ffi/file.ts';
import { Links } from '../ffi/netlink.ts';
import { setPersist } from '../ffi/tun.ts';
import { TUN_QUEUE_LENGTH } from './limits.ts';
import { openOffloaded, type Tier } from './tier.ts';

export interface NodeDeviceOptions {
  name: string;
  mtu: number;
  /** Leaves the interface, its addresses and routes in place at the end. */
  keep: boolean;
  podNetworks: string[];
  tier: Tier;
  /** Queues to open, one for each worker. */
  queues: number;
}

export class NodeDevice {
  readonly options: NodeDeviceOptions;
  /** Our pod networks, as last configured. */
  podCidrs: string[] = [];
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
    const { name, mtu, keep, tier, queues } = this.options;
    this.#fds = openOffloaded({ name, kind: 'tun', persist: keep }, tier, queues).fds;
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

  /** Closes the descriptors; an interface that is not kept ends with them. */
  abandon(): void {
    for (const fd of this.#fds) closeFd(fd);
    this.#fds = [];
  }

  /** Ends the interface, unless it is to be kept. */
  close(): void {
    const [fd] = this.#fds;
    if (fd !== undefined && !this.options.keep) setPersist(fd, false);
    this.abandon();
  }
}
