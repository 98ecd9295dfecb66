// How a Node of Calico is reached: its annotations, and what the pool of its pod network asks for.
// Pure.
//
// Felix does the same for its own routes (felix/calc/l3_route_resolver.go): encapsulated Always, or
// where the mode is CrossSubnet and the node's address is not in the prefix of our own; by VXLAN to
// nodes that are VTEPs, by IPIP to all that have an IPv4 address.

import { addressFamily, prefixHolds } from '../../engine/address.ts';
import type { Family } from '../../engine/address.ts';
import type { Tunnel } from '../../engine/model.ts';
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
  const isCross = mode.endsWith('-cross-subnet');
  if (isCross ? link !== undefined : mode === 'none' && (links === null || link !== undefined)) {
    const name = isCross ? 'CrossSubnet' : 'no encapsulation';
    const on = link === undefined ? '' : `, on our link ${link}`;
    return { ...base, kind: 'direct', why: `${name}, of ${by}${on}` };
  }
  const isFar = isCross && links !== null;
  const why = isFar ? `${mode}, of ${by}, not on our link` : `${mode}, of ${by}`;
  if (mode === 'none') {
    warn(`no encapsulation, of ${by}, and ${end.address} is not on our link`);
    return null;
  }
  if (mode.startsWith('ipip')) {
    if (family === 'IPv4') return { ...base, kind: 'ipip', why };
    warn(`${mode}, of ${by}, which carries IPv4 alone`);
    return null;
  }
  if (end.vxlan === null) {
    warn(`${mode}, of ${by}, without ${NAMES[family].vxlan}`);
    return null;
  }
  return { ...base, kind: 'vxlan', port: CALICO_PORT, vni: CALICO_VNI, mac: end.mac, why };
}

/** Addresses that a node's own packets come from beside those of its pod networks: its tunnel
 * devices', where another IPAM has given them. */
export function tunnelAddresses(reach: CalicoReach, podCidrs: readonly string[]): string[] {
  return FAMILIES.flatMap((family) => [reach[family]?.vxlan, reach[family]?.ipip])
    .filter((address) => typeof address === 'string')
    .filter((address) => !podCidrs.some((prefix) => prefixHolds(prefix, address)));
}
