// Tiers: how much of a packet's way the kernel takes over (docs/SUPER-PACKETS.md). What the kernel
// offers is found by trying it, never by its version; what is missing is said by name.

import { COALESCE_TCP, COALESCE_UDP } from '../wasm/abi/layout.ts';
import { VNET_HEADER_SIZE } from '../wasm/abi/headers.ts';
import { probeSegmentLimit, probeUdpGro } from '../ffi/socket.ts';
import { closeFd } from '../ffi/file.ts';
import {
  openTun, probeOffloads, setTunOffload, setVnetHeaderSize, TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6,
  TUN_F_USO4, TUN_F_USO6, tunDevice, type TunOffloads, type TunOptions,
} from '../ffi/tun.ts';
import { TIERS, type TierName } from './tier-names.ts';

export { TIERS, type TierName };

/** What the kernel can do for us. */
export interface KernelOffers {
  tun: TunOffloads;
  /** Datagrams that it cuts one message into; 1 where it cuts none. */
  segmentLimit: number;
  /** It joins datagrams that arrive. */
  joins: boolean;
}

/** A tier as it is used. */
export interface Tier {
  name: TierName;
  /** Bytes of vnet header before each packet of a TUN or TAP. */
  vnetSize: number;
  /** TUN_F_* that those devices announce. */
  offloads: number;
  segmentLimit: number;
  joins: boolean;
  /** COALESCE_*: what is joined again of what comes from peers. */
  coalesce: number;
  /** Why it is not a better tier, or not all of this one. */
  limits: string[];
}

/** A tier that was asked for and cannot be had; the message names what is missing. */
export class TierError extends Error {
  override name = 'TierError';
}

const TSO = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;

/** Tries everything. Throws where there is no TUN at all. */
export function probeKernel(): KernelOffers {
  return { tun: probeOffloads(), segmentLimit: probeSegmentLimit(), joins: probeUdpGro() };
}

/** What a tier needs that the kernel does not offer. */
export function missingFor(tier: TierName, { tun }: KernelOffers): string[] {
  const rank = TIERS.indexOf(tier);
  const needs: [least: number, isThere: boolean, name: string][] = [
    [1, tun.vnetHeader, 'IFF_VNET_HDR of TUN devices'],
    [1, tun.tso4 && tun.tso6, 'TSO of TUN devices (TUN_F_TSO4, TUN_F_TSO6)'],
    [2, tun.uso4 && tun.uso6, 'USO of TUN devices (TUN_F_USO4, TUN_F_USO6; Linux 6.2 has it)'],
    [3, tun.udpTunnelGso, 'tunnel GSO of TAP devices (TUN_F_UDP_TUNNEL_GSO; Linux 6.17 has it)'],
  ];
  return needs.filter(([least, isThere]) => least <= rank && !isThere).map(([, , name]) => name);
}

/** The tier that was asked for, or the best that needs nothing set up. Throws a TierError where the
 * kernel lacks something for it. */
export function chooseTier(wanted: TierName | 'auto', offers: KernelOffers): Tier {
  if (wanted !== 'auto') {
    const missing = missingFor(wanted, offers);
    if (missing.length === 0) return describe(wanted, offers);
    throw new TierError(`data plane tier ${wanted}: the kernel lacks ${missing.join(', ')}`);
  }
  const best = (['T2', 'T1'] as const).find((name) => missingFor(name, offers).length === 0);
  return describe(best ?? 'T0', offers);
}

/** Opens a TUN or TAP with the offloads of a tier, and a descriptor for each queue. */
export function openOffloaded(
  options: Pick<TunOptions, 'name' | 'kind' | 'persist'>, tier: Tier, queues: number,
): { fds: number[]; name: string } {
  const fds: number[] = [];
  let { name } = options;
  try {
    while (fds.length < queues) {
      const queue = openQueue({ ...options, name, multiQueue: queues > 1 }, tier);
      fds.push(queue.fd);
      name = queue.name;
    }
  } catch (error) {
    for (const fd of fds) closeFd(fd);
    throw error;
  }
  return { fds, name };
}

/** Opens one queue, the first of which makes the device. One that was kept may have had other
 * offloads. */
function openQueue(
  options: TunOptions, tier: Tier,
): { fd: number; name: string } {
  const opened = openTun({ ...options, vnetHeader: tier.vnetSize > 0 });
  const { fd, name } = opened;
  if (setOffloads(fd, tier)) return opened;
  closeFd(fd);
  throw new TierError(`data plane tier ${tier.name}: ${name} refuses its offloads`);
}

/** Gives a TUN or TAP that is open already the offloads of a tier. False where it was deleted, or
 * was made without a vnet header and needs one, or the other way round. */
export function setOffloads(fd: number, { vnetSize, offloads }: Tier): boolean {
  const device = tunDevice(fd);
  if (device === null || device.vnetHeader !== (vnetSize > 0)) return false;
  return (vnetSize === 0 || setVnetHeaderSize(fd, vnetSize)) && setTunOffload(fd, offloads);
}

function describe(name: TierName, offers: KernelOffers): Tier {
  const next = TIERS[TIERS.indexOf(name) + 1];
  const lacking = next === undefined ? [] : missingFor(next, offers);
  const limits = lacking.map((what) => `not ${next}: the kernel lacks ${what}`);
  if (name === 'T0') {
    return { name, vnetSize: 0, offloads: 0, segmentLimit: 1, joins: false, coalesce: 0, limits };
  }
  // Each of these is a gain by itself, and the rest of the tier works without it.
  if (offers.segmentLimit === 1) limits.push('datagrams leave one by one: no UDP_SEGMENT');
  if (!offers.joins) limits.push('datagrams arrive one by one: no UDP_GRO');
  const isUdpToo = name !== 'T1';
  return {
    name,
    vnetSize: VNET_HEADER_SIZE,
    offloads: isUdpToo ? TSO | TUN_F_USO4 | TUN_F_USO6 : TSO,
    segmentLimit: offers.segmentLimit,
    joins: offers.joins,
    coalesce: isUdpToo ? COALESCE_TCP | COALESCE_UDP : COALESCE_TCP,
    limits,
  };
}
