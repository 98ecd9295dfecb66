// The underlay's sockets: which local addresses, which MTU, and the descriptors for the worker.

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

const DEFAULT_MTU = 1500;

/** Where tunnels start from. */
export interface UnderlayAddresses {
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

/** Finds the addresses and the MTU that the configuration means. */
export async function findUnderlay(
  links: Links,
  config: HostConfig['underlay'],
): Promise<UnderlayAddresses> {
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

/** Opens one receiving and several sending sockets per family, or takes those that an earlier
 * daemon has left: what has come for them meanwhile is in their queues. */
export function openUnderlay(
  underlay: UnderlayAddresses,
  config: HostConfig['underlay'],
  tier: Tier,
  handover: Handover,
): UnderlaySockets[] {
  const opened: UnderlaySockets[] = [];
  const prefix = (address: string): string =>
    `udp.${address.replaceAll(':', '_')}.${config.port}.${tier.joins ? 'joined' : 'single'}.`;
  const known = Object.values(underlay.addresses).map(prefix);
  for (const name of handover.offered('udp.')) {
    if (!known.some((start) => name.startsWith(start))) handover.refuse(name);
  }
  try {
    for (const family of ['IPv4', 'IPv6'] as const) {
      const address = underlay.addresses[family];
      if (address === undefined) continue;
      const open = (name: string, port: number, receiveBufferBytes: number): number => {
        const left = handover.take(prefix(address) + name);
        if (left >= 0) return left;
        const fd = openUdpSocket({
          family, address, port, receiveBufferBytes, sendBufferBytes: SEND_BUFFER_BYTES,
        });
        handover.keep(prefix(address) + name, fd);
        return fd;
      };
      const sockets: UnderlaySockets = { family, address, receiver: -1, senders: [] };
      opened.push(sockets);
      sockets.receiver = open('receiver', config.port, RECEIVE_BUFFER_BYTES);
      receiveTos(sockets.receiver, family);
      if (tier.joins) joinDatagrams(sockets.receiver);
      for (let count = 0; count < config.sendSockets; count += 1) {
        sockets.senders.push(open(`sender-${count}`, 0, SENDER_RECEIVE_BUFFER_BYTES));
      }
    }
    return opened;
  } catch (error) {
    closeUnderlay(opened);
    throw error;
  }
}

export function closeUnderlay(opened: UnderlaySockets[]): void {
  for (const { receiver, senders } of opened) {
    for (const fd of [receiver, ...senders]) {
      if (fd >= 0) closeFd(fd);
    }
  }
}
