// The underlay: which local addresses, which MTU, and the descriptors for the worker.

import { addressFamily, type Family } from '../engine/address.ts';
import { closeFd } from '../ffi/file.ts';
import type { Links } from '../ffi/netlink.ts';
import {
  joinDatagrams, openUdpSocket, receiveBufferBytes, receiveTos, shareAddress,
} from '../ffi/socket.ts';
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
  /** One for each worker. */
  receivers: number[];
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
    links: Links, config: HostConfig, tier: Tier, workers: number, handover: Handover,
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
        const sockets: UnderlaySockets = { family, address, receivers: [], senders: [] };
        underlay.sockets.push(sockets);
        const opener = { sockets, handover, prefix: keptAs(address) };
        openReceivers(opener, config.underlay.port, tier, workers);
        openSenders(opener, config.underlay.sendSockets);
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
    for (const { receivers, senders } of this.sockets) {
      for (const fd of [...receivers, ...senders]) closeFd(fd);
    }
    this.tap?.close();
  }
}

/** Where the sockets of an address are opened, and what their names begin with at the keeper. */
interface Opener {
  sockets: UnderlaySockets;
  handover: Handover;
  prefix: string;
}

/** Opens a socket for each worker, or takes those that were left. The first is alone until it is
 * bound, so that a port that is in use is noticed. */
function openReceivers(
  { sockets: { family, address, receivers }, handover, prefix }: Opener,
  port: number, tier: Tier, workers: number,
): void {
  const keptAs = `${prefix}receiver`;
  receivers.push(...handover.takeAll(keptAs, workers));
  if (receivers.length > 0) return;
  while (receivers.length < workers) {
    const receiver = openUdpSocket({
      family, address, port,
      receiveBufferBytes: RECEIVE_BUFFER_BYTES, sendBufferBytes: SEND_BUFFER_BYTES,
      joinsGroup: receivers.length > 0,
    });
    receivers.push(receiver);
    if (workers > 1) shareAddress(receiver);
    receiveTos(receiver, family);
    if (tier.joins) joinDatagrams(receiver);
  }
  handover.keepAll(keptAs, receivers);
}

/** Opens the sockets that all workers send by, or takes those that were left. */
function openSenders(
  { sockets: { family, address, senders }, handover, prefix }: Opener, count: number,
): void {
  while (senders.length < count) {
    const keptAs = `${prefix}sender-${senders.length}`;
    const left = handover.take(keptAs);
    const sender = left >= 0 ? left : openUdpSocket({
      family, address, port: 0,
      receiveBufferBytes: SENDER_RECEIVE_BUFFER_BYTES, sendBufferBytes: SEND_BUFFER_BYTES,
    });
    senders.push(sender);
    if (left < 0) handover.keep(keptAs, sender);
  }
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
