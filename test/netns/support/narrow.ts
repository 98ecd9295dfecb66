// Puts a router between the hub of a bed and a node: what the node's path takes is less than its
// link and everybody else's.
//
//   node 1            hub                    router              node N
//   [ eth0 ]----[ port0  narrow ]----[ narrow  portN-1 ]----[ eth0 ]
//          1500                  mtu                   1500
//
// The hub's end of the narrow link is 198.51.100.3 and fe80::3, the router's 198.51.100.4 and
// fe80::4.

import { hostPrefix } from '../../../engine/address.ts';
import { setTxChecksum } from '../../../ffi/ethtool.ts';
import type { Bed, Host, LabNode } from '../../../cli/demo/bed.ts';

const LINK = 'narrow';
const HUB = ['198.51.100.3', 'fe80::3'] as const;
const ROUTER = ['198.51.100.4', 'fe80::4'] as const;
/** What nodes have as their router (cli/demo/bed.ts). */
const GATEWAY = ['198.51.100.1', 'fe80::1'] as const;

export class NarrowLink {
  readonly router: Host;
  readonly #hub: Host;

  private constructor(hub: Host, router: Host) {
    this.#hub = hub;
    this.router = router;
  }

  /** Moves a node behind a link of this MTU. */
  static async create(bed: Bed, node: LabNode, mtu: number): Promise<NarrowLink> {
    const router = bed.addHost('router');
    router.sysctl({ 'net.ipv4.ip_forward': 1, 'net.ipv6.conf.all.forwarding': 1 });
    const link = new NarrowLink(bed.hub, router);
    await bed.hub.links.addVeth(LINK, LINK, router.namespace.fd);
    await setUp(bed.hub, LINK, HUB);
    await setUp(router, LINK, ROUTER);
    await link.setMtu(mtu);
    const { port, ipv4, ipv6 } = node;
    await bed.hub.links.setLink(port, { namespaceFd: router.namespace.fd });
    await setUp(router, port, GATEWAY);
    for (const [place, address] of [ipv4, ipv6].entries()) {
      const prefix = hostPrefix(address);
      await router.links.addRoute({ prefix, device: port });
      const [back = '', there = ''] = [HUB[place], ROUTER[place]];
      await bed.hub.links.addRoute({ prefix, device: LINK, via: there, onlink: true });
      const all = place === 0 ? '0.0.0.0/0' : '::/0';
      await router.links.addRoute({ prefix: all, device: LINK, via: back, onlink: true });
    }
    return link;
  }

  async setMtu(mtu: number): Promise<void> {
    for (const host of [this.#hub, this.router]) await host.links.setLink(LINK, { mtu });
  }
}

async function setUp(host: Host, device: string, addresses: readonly string[]): Promise<void> {
  await host.links.setLink(device, { linkLocalIpv6: false });
  await host.links.setLink(device, { up: true });
  for (const address of addresses) {
    const isLinkLocal = address.startsWith('fe80:');
    await host.links.addAddress(device, isLinkLocal ? `${address}/64` : hostPrefix(address));
  }
  host.namespace.run(() => setTxChecksum(device, false));
}
