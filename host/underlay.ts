// The underlay: which local addresses, which MTU, and the descriptors for the worker.

import { addressFamily, type Family } from '../engine/address.ts';
import { closeFd } from '../ffi/file.ts';
import type { Links } from '../ffi/netlink.ts';
import { joinDatagrams, openUdpSocket, receiveTos } from '../ffi/socket.ts';
import type { HostConfig } from './config.ts';
import type { Handover } from './handover.ts';
import {
  RECEIVE_BUFFER_BYTES,
  SENDER_RECEIVE_BUFFER_BYTES,
  SEND_BUFFER_BYTES,
} from './limits.ts';
import type { Tier } from './tier.ts';
import { TunnelTap } from './tunnel-tap.ts';

const DEFAULT_MTU = 1500;
const KEPT_PREFIX = 'udp.';

/** Where tunnels start from. */
interface UnderlayPlace {
  interface: string;
  mtu: number;
  addresses: Partial<Record<Family, string>>;
}

/** One family's sockets. */
export interface UnderlaySockets {
  family: Family;
  address: string;
  receiver: number;
  senders: number[];
}

/** What tunnels start from, and what they leave and arrive by. */
export class Underlay {
  readonly interface: string;
  readonly mtu: number;
  readonly addresses: Partial<Record<Family, string>>;
  readonly sockets: UnderlaySockets[] = [];
  tap: TunnelTap | null = null;

  private constructor(place: UnderlayPlace) {
    this.interface = place.interface;
    this.mtu = place.mtu;
    this.addresses = place.addresses;
  }

  /** Opens what the configuration and the tier ask for, or nothing. Sockets that an earlier daemon
   * has left are taken: what has come for them meanwhile is in their queues. */
  static async open(
    links: Links, config: HostConfig, tier: Tier, handover: Handover,
  ): Promise<Underlay> {
    const underlay = new Underlay(await findPlace(links, config.underlay));
    try {
      const keptAs = (address: string): string =>
        keptPrefix(address, config.underlay.port, tier.joins);
      const known = Object.values(underlay.addresses).map(keptAs);
      // What is bound elsewhere, or has other options, would be in the way.
      for (const name of handover.offered(KEPT_PREFIX)) {
        if (!known.some((prefix) => name.startsWith(prefix))) handover.refuse(name);
      }
      for (const family of ['IPv4', 'IPv6'] as const) {
        const address = underlay.addresses[family];
        if (address === undefined) continue;
        const open = opener(family, address, handover, keptAs(address));
        underlay.#openSockets(family, address, config.underlay, tier, open);
      }
      if (tier.name === 'T3') {
        const families = underlay.sockets.map(({ family }) => family);
        underlay.tap = await TunnelTap.open(links, config.dataPlane.tunnelDevice, families);
      }
      return underlay;
    } catch (error) {
      underlay.close();
      throw error;
    }
  }

  close(): void {
    for (const { receiver, senders } of this.sockets) {
      for (const fd of [receiver, ...senders]) {
        if (fd >= 0) closeFd(fd);
      }
    }
    this.tap?.close();
  }

  /** Opens one receiving and several sending sockets. */
  #openSockets(
    family: Family, address: string, config: HostConfig['underlay'], tier: Tier, open: Open,
  ): void {
    const sockets: UnderlaySockets = { family, address, receiver: -1, senders: [] };
    this.sockets.push(sockets);
    sockets.receiver = open('receiver', config.port, RECEIVE_BUFFER_BYTES);
    receiveTos(sockets.receiver, family);
    if (tier.joins) joinDatagrams(sockets.receiver);
    for (let count = 0; count < config.sendSockets; count += 1) {
      sockets.senders.push(open(`sender-${count}`, 0, SENDER_RECEIVE_BUFFER_BYTES));
    }
  }
}

/** Opens a socket that the keeper has under a name of its own, or takes the one it has. */
type Open = (name: string, port: number, receiveBufferBytes: number) => number;

function opener(family: Family, address: string, handover: Handover, prefix: string): Open {
  return (name, port, receiveBufferBytes) => {
    const left = handover.take(prefix + name);
    if (left >= 0) return left;
    const fd = openUdpSocket({
      family, address, port, receiveBufferBytes, sendBufferBytes: SEND_BUFFER_BYTES,
    });
    handover.keep(prefix + name, fd);
    return fd;
  };
}

/** What the names of an address's sockets begin with; a keeper's names have no colon. */
function keptPrefix(address: string, port: number, joins: boolean): string {
  return `${KEPT_PREFIX}${address.replaceAll(':', '_')}.${port}.${joins ? 'joined' : 'single'}.`;
}

/** Finds the addresses and the MTU that the configuration means. */
async function findPlace(links: Links, config: HostConfig['underlay']): Promise<UnderlayPlace> {
  const name = config.interface !== ''
    ? config.interface
    : await interfaceOf(links, config.addresses[0] ?? '');
  const given = config.addresses.length > 0
    ? config.addresses
    : usable(await links.addresses(name));
  if (given.length === 0) throw new Error(`find underlay: ${name} has no usable address`);
  const addresses: Partial<Record<Family, string>> = {};
  for (const address of given) addresses[addressFamily(address)] ??= address;
  const linkMtu = name === '' ? DEFAULT_MTU : (await links.link(name)).mtu;
  return { interface: name, mtu: config.mtu === 0 ? linkMtu : config.mtu, addresses };
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
