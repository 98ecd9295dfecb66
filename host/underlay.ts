// The underlay: which local addresses, which MTU, and the descriptors for the worker.

import {
  addressFamily, hostPrefix, prefixKey, prefixText, type Family,
} from '../engine/address.ts';
import type { TunnelNeed } from '../engine/tunnel-needs.ts';
import { SystemError } from '../ffi/errno.ts';
import { closeFd } from '../ffi/file.ts';
import type { Links } from '../ffi/netlink.ts';
import { openUdpSocket, receiveBufferBytes } from '../ffi/socket.ts';
import { IPV4_MTU_MIN, type HostConfig } from './config.ts';
import type { Handover } from './handover.ts';
import {
  RECEIVE_BUFFER_BYTES,
  SENDER_RECEIVE_BUFFER_BYTES,
  SEND_BUFFER_BYTES,
} from './limits.ts';
import type { Tier } from './tier.ts';
import { TunnelTap } from './tunnel-tap.ts';
import {
  closeTunnelSockets, KEPT_TUNNEL_PREFIX, openReceivers, openTunnelSockets,
  type TunnelSockets,
} from './underlay-tunnels.ts';

const DEFAULT_MTU = 1500;
const KEPT_PREFIX = 'udp.';

/** Where tunnels start from. */
interface UnderlayPlace {
  interface: string;
  mtu: number;
  addresses: Partial<Record<Family, string>>;
  /** What is on the link with these addresses, as their own prefixes say. */
  prefixes: Partial<Record<Family, string>>;
}

/** One family's sockets. */
export interface UnderlaySockets {
  family: Family;
  address: string;
  /** One for each worker. */
  receivers: number[];
  senders: number[];
  /** Those of other tunnels than the cluster's VXLAN. */
  tunnels: TunnelSockets[];
}

/** What tunnels start from, and what they leave and arrive by. */
export class Underlay {
  readonly interface: string;
  mtu: number;
  readonly addresses: Partial<Record<Family, string>>;
  readonly prefixes: Partial<Record<Family, string>>;
  readonly sockets: UnderlaySockets[] = [];
  tap: TunnelTap | null = null;
  readonly #options: SocketOptions;

  private constructor(place: UnderlayPlace, options: SocketOptions) {
    this.interface = place.interface;
    this.mtu = place.mtu;
    this.addresses = place.addresses;
    this.prefixes = place.prefixes;
    this.#options = options;
  }

  /** Opens what the configuration and the tier ask for, or nothing. Sockets that an earlier daemon
   * has left are taken: what has come for them meanwhile is in their queues. */
  static async open(
    links: Links, config: HostConfig, tier: Tier, workers: number, handover: Handover,
  ): Promise<Underlay> {
    const options = { ...config.underlay, workers, joins: tier.joins, handover };
    const underlay = new Underlay(await findPlace(links, config.underlay), options);
    try {
      const known = Object.values(underlay.addresses)
        .map((address) => `${keptName(address, options)}.`);
      // What is bound elsewhere, or has other options, would be in the way.
      for (const name of handover.offered(KEPT_PREFIX)) {
        if (!known.some((prefix) => name.startsWith(prefix))) handover.refuse(name);
      }
      const ours = Object.values(underlay.addresses).map((address) =>
        `${KEPT_TUNNEL_PREFIX}${address.replaceAll(':', '_')}.`);
      for (const name of handover.offered(KEPT_TUNNEL_PREFIX)) {
        if (!ours.some((prefix) => name.startsWith(prefix))) handover.refuse(name);
      }
      for (const family of ['IPv4', 'IPv6'] as const) {
        const address = underlay.addresses[family];
        if (address !== undefined) underlay.sockets.push(openSockets(family, address, options));
      }
      if (tier.name === 'T3') {
        const families = underlay.sockets.map(({ family }) => family);
        underlay.tap = await TunnelTap.open(links, config.dataPlane.tunnelDevice, families);
      }
      return underlay;
    } catch (error) {
      underlay.close();
      throw await explained(error, links);
    }
  }

  /** Opens sockets of another address where the interface has lost one that is in use, for one
   * family at a time. What was in use until now is returned, to be closed with release() once
   * nothing uses it; null for nothing. An address that the operator has named stays, and so does
   * one that has no successor. */
  async follow(links: Links): Promise<UnderlaySockets | null> {
    if (this.#options.addresses.length > 0) return null;
    const assigned = await links.addresses(this.interface);
    const present = usable(assigned);
    for (const [at, old] of this.sockets.entries()) {
      const next = present.find((address) => addressFamily(address) === old.family);
      if (next === undefined || present.includes(old.address)) continue;
      this.sockets[at] = this.#openNext(old, next);
      this.addresses[old.family] = next;
      this.prefixes[old.family] = linkPrefix(next, assigned);
      return old;
    }
    return null;
  }

  /** Goes by the interface's MTU as it is now, unless the operator has named one, or it is too
   * little. False: it is what it was. */
  async followMtu(links: Links): Promise<boolean> {
    if (this.interface === '' || this.#options.mtu !== 0) return false;
    const { mtu } = await links.link(this.interface);
    if (mtu === this.mtu || mtu < IPV4_MTU_MIN) return false;
    this.mtu = mtu;
    return true;
  }

  /** Closes what follow() has left. */
  release(left: UnderlaySockets): void {
    this.#options.handover.forgetAll(keptName(left.address, this.#options));
    closeSockets(left, this.#options.handover);
  }

  /** Opens sockets of a tunnel; false where they are open already, or we have no address of the
   * family. */
  openTunnel(need: TunnelNeed): boolean {
    const sockets = this.sockets.find(({ family }) => family === need.family);
    if (sockets === undefined) return false;
    const { tunnels, address, senders } = sockets;
    if (tunnels.some(({ need: { device } }) => device === need.device)) return false;
    tunnels.push(openTunnelSockets(need, address, senders, this.#options));
    return true;
  }

  /** What is less than it could be, and why. */
  get limits(): string[] {
    const [receiver] = this.sockets.flatMap(({ receivers }) => receivers);
    const limits = [...this.tap?.limits ?? []];
    // The kernel tells twice what it was asked for, its own needs included: socket(7).
    const wanted = RECEIVE_BUFFER_BYTES;
    const granted = receiver === undefined ? wanted : receiveBufferBytes(receiver) / 2;
    if (granted < wanted) {
      limits.push(`receive queue of ${granted} bytes in place of ${wanted}: net.core.rmem_max`);
    }
    return limits;
  }

  close(): void {
    for (const sockets of this.sockets) closeSockets(sockets);
    this.tap?.close();
  }

  /** Opens sockets of an address; where that fails nothing of them is kept, or they would be in the
   * way of the next attempt. */
  #openNext({ family, tunnels }: UnderlaySockets, address: string): UnderlaySockets {
    try {
      const sockets = openSockets(family, address, this.#options);
      try {
        for (const { need } of tunnels) {
          sockets.tunnels.push(openTunnelSockets(need, address, sockets.senders, this.#options));
        }
      } catch (error) {
        closeSockets(sockets, this.#options.handover);
        throw error;
      }
      return sockets;
    } catch (error) {
      this.#options.handover.forgetAll(keptName(address, this.#options));
      throw error;
    }
  }
}

/** What sockets of the underlay are like. */
interface SocketOptions {
  addresses: readonly string[];
  mtu: number;
  port: number;
  sendSockets: number;
  /** Receiving sockets of each address. */
  workers: number;
  /** They get datagrams of a flow joined. */
  joins: boolean;
  handover: Handover;
}

/** Opens an address's sockets, or takes those that were left. */
function openSockets(family: Family, address: string, options: SocketOptions): UnderlaySockets {
  const sockets: UnderlaySockets = { family, address, receivers: [], senders: [], tunnels: [] };
  try {
    const keptAs = `${keptName(address, options)}.receiver`;
    sockets.receivers = openReceivers({ family, address, port: options.port, keptAs }, options);
    openSenders(sockets, options);
    return sockets;
  } catch (error) {
    closeSockets(sockets);
    throw error;
  }
}

/** `handover` is to keep nothing of other tunnels', where it is given. */
function closeSockets(
  { address, receivers, senders, tunnels }: UnderlaySockets, handover?: Handover,
): void {
  for (const sockets of tunnels) closeTunnelSockets(sockets, address, handover);
  for (const fd of [...receivers, ...senders]) closeFd(fd);
}

/** Opens the sockets that all workers send by, or takes those that were left. */
function openSenders({ family, address, senders }: UnderlaySockets, options: SocketOptions): void {
  const { sendSockets, handover } = options;
  while (senders.length < sendSockets) {
    const keptAs = `${keptName(address, options)}.sender-${senders.length}`;
    const left = handover.take(keptAs);
    const sender = left >= 0 ? left : openUdpSocket({
      family, address, port: 0,
      receiveBufferBytes: SENDER_RECEIVE_BUFFER_BYTES, sendBufferBytes: SEND_BUFFER_BYTES,
    });
    senders.push(sender);
    if (left < 0) handover.keep(keptAs, sender);
  }
}

/** What an address's sockets are kept under, each with a name after a dot; a keeper's names have
 * no colon. */
function keptName(address: string, { port, joins }: SocketOptions): string {
  return `${KEPT_PREFIX}${address.replaceAll(':', '_')}.${port}.${joins ? 'joined' : 'single'}`;
}

/** Names the kernel device that has the port, where it is one of flannel's. */
async function explained(error: unknown, links: Links): Promise<unknown> {
  if (!(error instanceof SystemError) || error.code !== 'EADDRINUSE') return error;
  const device = (await links.list()).find(({ name }) => name.startsWith('flannel'));
  if (device === undefined) return error;
  const { name } = device;
  return new Error(`${error.message}: ${name} has it. flanneld runs on this node, or has left it: `
    + `keep flanneld off this node, then remove the device (ip link delete ${name})`,
  { cause: error });
}

/** Finds the addresses and the MTU that the configuration means. */
async function findPlace(links: Links, config: HostConfig['underlay']): Promise<UnderlayPlace> {
  const name = config.interface !== ''
    ? config.interface
    : await interfaceOf(links, config.addresses[0] ?? '');
  const assigned = name === '' ? [] : await links.addresses(name);
  const given = config.addresses.length > 0 ? config.addresses : usable(assigned);
  if (given.length === 0) throw new Error(`find underlay: ${name} has no usable address`);
  const addresses: Partial<Record<Family, string>> = {};
  const prefixes: Partial<Record<Family, string>> = {};
  for (const address of given) {
    addresses[addressFamily(address)] ??= address;
    prefixes[addressFamily(address)] ??= linkPrefix(address, assigned);
  }
  const linkMtu = name === '' ? DEFAULT_MTU : (await links.link(name)).mtu;
  return { interface: name, mtu: config.mtu === 0 ? linkMtu : config.mtu, addresses, prefixes };
}

/** The prefix that an interface has an address in; of an address that it does not have, no more
 * than itself. */
function linkPrefix(address: string, assigned: readonly string[]): string {
  const found = assigned.find((text) => text.split('/')[0] === address);
  return prefixText(prefixKey(found ?? hostPrefix(address)));
}

/** The interface that has an address; empty where none has. */
async function interfaceOf(links: Links, address: string): Promise<string> {
  for (const { name } of await links.list()) {
    const addresses = await links.addresses(name);
    if (addresses.some((text) => text.split('/')[0] === address)) return name;
  }
  return '';
}

function usable(addresses: string[]): string[] {
  return addresses.map((text) => text.split('/')[0] ?? '')
    .filter((text) => !/^(fe[89ab]|169\.254\.)/i.test(text));
}
