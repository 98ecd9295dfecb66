// Links: interfaces, addresses, routes and neighbours by name, through rtnetlink.
//
// An instance works in the network namespace its thread was in when it was made:
// `const links = namespace.run(() => new Links())`. Its promises may be awaited anywhere. Every
// refusal of the kernel is a SystemError.

import * as link from './netlink-link.ts';
import type { Link, LinkChange, VxlanOptions } from './netlink-link.ts';
import { NetlinkConnection } from './netlink-connection.ts';
import * as route from './netlink-route.ts';
import type { FdbEntry, Neighbour, Route } from './netlink-route.ts';

export type { Link, LinkChange, VxlanOptions } from './netlink-link.ts';
export { MAIN_TABLE, parsePrefix } from './netlink-route.ts';
export type { FdbEntry, Neighbour, Route, RouteKind } from './netlink-route.ts';

/** The network configuration of one namespace. Close it when done: it holds a descriptor. */
export class Links {
  readonly #connection = new NetlinkConnection();

  /** Index of an interface; ENODEV when there is none. */
  async linkIndex(name: string): Promise<number> {
    return (await this.link(name)).index;
  }

  /** One interface; ENODEV when there is none. */
  link(name: string): Promise<Link> {
    return link.getLink(this.#connection, name);
  }

  /** All interfaces of the namespace. */
  list(): Promise<Link[]> {
    return link.dumpLinks(this.#connection);
  }

  /** Makes a veth pair, its other end in another namespace if one is given. */
  addVeth(name: string, peerName: string, peerNamespaceFd?: number): Promise<void> {
    return link.addVeth(this.#connection, name, peerName, peerNamespaceFd);
  }

  /** Makes a kernel VXLAN device; EOPNOTSUPP where the kernel has no vxlan. */
  addVxlan(options: VxlanOptions): Promise<void> {
    return link.addVxlan(this.#connection, options);
  }

  /** Makes a bridge; EOPNOTSUPP where the kernel has none. */
  addBridge(name: string): Promise<void> {
    return link.addPlainLink(this.#connection, 'bridge', name);
  }

  /** Makes a dummy interface; EOPNOTSUPP where the kernel has none. */
  addDummy(name: string): Promise<void> {
    return link.addPlainLink(this.#connection, 'dummy', name);
  }

  removeLink(name: string): Promise<void> {
    return link.removeLink(this.#connection, name);
  }

  /** Changes an interface. After a move it is out of this instance's sight. */
  setLink(name: string, change: LinkChange): Promise<void> {
    return link.setLink(this.#connection, name, change);
  }

  /** Adds an address, `10.0.0.1/24` or `fd00::1/64`, usable at once. */
  async addAddress(name: string, address: string): Promise<void> {
    const index = await this.linkIndex(name);
    await route.changeAddress(this.#connection, true, name, index, address);
  }

  async removeAddress(name: string, address: string): Promise<void> {
    const index = await this.linkIndex(name);
    await route.changeAddress(this.#connection, false, name, index, address);
  }

  /** Addresses of an interface, both families. */
  async addresses(name: string): Promise<string[]> {
    return route.dumpAddresses(this.#connection, await this.linkIndex(name));
  }

  async addRoute(added: Route): Promise<void> {
    const index = await this.#optionalIndex(added.device);
    await route.changeRoute(this.#connection, true, added, index);
  }

  /** Removes the first route that matches what is given; ESRCH when none does. */
  async removeRoute(removed: Route): Promise<void> {
    const index = await this.#optionalIndex(removed.device);
    await route.changeRoute(this.#connection, false, removed, index);
  }

  /** Routes of a table, both families. */
  async routes(table: number = route.MAIN_TABLE): Promise<Route[]> {
    const names = new Map((await this.list()).map(({ index, name }) => [index, name]));
    return route.dumpRoutes(this.#connection, table, (index) => names.get(index) ?? `${index}`);
  }

  async addNeighbour(entry: Neighbour): Promise<void> {
    const index = await this.linkIndex(entry.device);
    await route.changeNeighbour(this.#connection, true, entry, index);
  }

  async removeNeighbour(entry: Neighbour): Promise<void> {
    const index = await this.linkIndex(entry.device);
    await route.changeNeighbour(this.#connection, false, entry, index);
  }

  async addFdb(entry: FdbEntry): Promise<void> {
    const index = await this.linkIndex(entry.device);
    await route.changeFdb(this.#connection, true, entry, index);
  }

  async removeFdb(entry: FdbEntry): Promise<void> {
    const index = await this.linkIndex(entry.device);
    await route.changeFdb(this.#connection, false, entry, index);
  }

  /** Closes the descriptor. */
  close(): void {
    this.#connection.close();
  }

  async #optionalIndex(device: string | undefined): Promise<number> {
    return device === undefined ? 0 : this.linkIndex(device);
  }
}
