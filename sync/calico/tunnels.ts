// How a Node of Calico is reached: its annotations, and what the pool of its pod network asks for.
// Pure.
//
// Felix does the same for its own routes (felix/calc/l3_route_resolver.go): encapsulated Always, or
// where the mode is CrossSubnet and the node's address is not in the prefix of our own; by VXLAN to
// nodes that are VTEPs, by IPIP to all that have an IPv4 address.

import { addressFamily, prefixHolds } from '../../engine/address.ts';
import type { Family } from '../../engine/address.ts';
import type { Alternative, Tunnel } from '../../engine/model.ts';
import { CALICO_PORT, CALICO_VNI, FAMILIES, NAMES } from './annotations.ts';
import type { CalicoEnd, CalicoReach } from './annotations.ts';
import { modeOf } from './pools.ts';
import type { CalicoMode, CalicoView } from './pools.ts';

/** The tunnels to a node with these pod networks. `links` are the prefixes of our own
 * links; null where these are not known, or do not matter: what is said is believed then. */
export function calicoTunnels(
  reach: CalicoReach, podCidrs: readonly string[], view: CalicoView,
  links: readonly string[] | null, warn: (text: string) => void,
): Tunnel[] {
  return FAMILIES.flatMap((family) => {
    const end = reach[family];
    const podCidr = podCidrs.find((prefix) => addressFamily(prefix) === family);
    if (end === undefined || podCidr === undefined) return [];
    const found = modeOf(view, podCidr) ?? { mode: annotatedMode(end), by: 'annotations' };
    const wanted = { family, end, ...found };
    return tunnelOf(wanted, links, (text) => warn(`${text}: no ${family} tunnel`)) ?? [];
  });
}

/** Where nobody says how the cluster does it: by what devices a node has. */
function annotatedMode({ vxlan, ipip }: CalicoEnd): CalicoMode {
  if (vxlan !== null) return 'vxlan';
  return ipip === null ? 'none' : 'ipip';
}

interface Wanted {
  family: Family;
  end: CalicoEnd;
  mode: CalicoMode;
  by: string;
}

function tunnelOf(
  { family, end, mode, by }: Wanted, links: readonly string[] | null,
  warn: (text: string) => void,
): Tunnel | null {
  const base = { family, remote: end.address };
  const link = links?.find((prefix) => prefixHolds(prefix, end.address));
  const on = link === undefined ? '' : `, on our link ${link}`;
  if (mode === 'none') {
    if (links === null || link !== undefined) {
      return { ...base, ...DIRECT, why: `no encapsulation, of ${by}${on}` };
    }
    warn(`no encapsulation, of ${by}, and ${end.address} is not on our link`);
    return null;
  }
  const isCross = mode.endsWith('-cross-subnet') && links !== null;
  const isNear = isCross && link !== undefined;
  const tunnel = encapsulation({ family, end, mode, by }, isNear ? () => {} : warn);
  if (isNear) {
    const why = `CrossSubnet, of ${by}${on}`;
    return { ...base, ...DIRECT, why, ...(tunnel === null ? {} : { alternative: tunnel }) };
  }
  if (tunnel === null) return null;
  const why = `${mode}, of ${by}`;
  // Who is on whose link the other end may see otherwise: it goes by its own prefix.
  return isCross ? { ...base, ...tunnel, why: `${why}, not on our link`, alternative: DIRECT }
    : { ...base, ...tunnel, why };
}

const DIRECT = { kind: 'direct' } as const;

/** What is in front of packets that need it; null where the node does not have it. */
function encapsulation(
  { family, end, mode, by }: Wanted, warn: (text: string) => void,
): Alternative | null {
  if (mode.startsWith('ipip')) {
    if (family === 'IPv4') return { kind: 'ipip' };
    warn(`${mode}, of ${by}, which carries IPv4 alone`);
    return null;
  }
  if (end.vxlan === null) {
    warn(`${mode}, of ${by}, without ${NAMES[family].vxlan}`);
    return null;
  }
  return { kind: 'vxlan', port: CALICO_PORT, vni: CALICO_VNI, mac: end.mac };
}

/** Addresses that a node's own packets come from beside those of its pod networks: its tunnel
 * devices', where another IPAM has given them. */
export function tunnelAddresses(reach: CalicoReach, podCidrs: readonly string[]): string[] {
  return FAMILIES.flatMap((family) => [reach[family]?.vxlan, reach[family]?.ipip])
    .filter((address) => typeof address === 'string')
    .filter((address) => !podCidrs.some((prefix) => prefixHolds(prefix, address)));
}
