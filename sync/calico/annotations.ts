// What Calico's nodes must read on our Node, and what we read on theirs. Pure.
//
// Names and forms are those of libcalico-go/lib/backend/k8s/resources/node.go. `IPv4Address` has
// the length of the link's prefix, by which CrossSubnet tells who is on the same link. A node is a
// VTEP where it has its address and a tunnel address; the VTEP's MAC is an annotation's, or made of
// the node's name (felix/calc/vxlan_resolver.go). With addresses from spec.podCIDRs (host-local,
// USE_POD_CIDR) Calico makes the routes of these, and asks nothing more of a node.

import { createHash } from 'node:crypto';
import {
  addressBytes, addressFamily, addressText, isAddress, isMac, isPrefix, macBytes, macText,
  prefixBase,
} from '../../engine/address.ts';
import type { Family } from '../../engine/address.ts';
import { sortedAnnotations, type Annotations, type UpCondition } from '../own-node.ts';

/** What all of Calico's annotations begin with. */
export const PREFIX = 'projectcalico.org/';

/** What calico-node says once a node's network is up. */
export const CALICO_IS_UP: UpCondition = {
  reason: 'CalicoIsUp', message: 'Calico is running on this node',
};

/** Calico's VXLAN: felix/config/config_params.go. */
export const CALICO_VNI = 4096;
export const CALICO_PORT = 4789;

export const FAMILIES = ['IPv4', 'IPv6'] as const;

/** Names of a family's annotations. IPIP there is of IPv4 alone. */
export const NAMES = {
  IPv4: {
    address: `${PREFIX}IPv4Address`,
    vxlan: `${PREFIX}IPv4VXLANTunnelAddr`,
    mac: `${PREFIX}VXLANTunnelMACAddr`,
    ipip: `${PREFIX}IPv4IPIPTunnelAddr`,
  },
  IPv6: {
    address: `${PREFIX}IPv6Address`,
    vxlan: `${PREFIX}IPv6VXLANTunnelAddr`,
    mac: `${PREFIX}VXLANTunnelMACAddrV6`,
    ipip: null,
  },
} as const;

/** The annotations that are read of every Node. */
export const CALICO_ANNOTATIONS: readonly string[] = FAMILIES.flatMap((family) =>
  Object.values(NAMES[family]).filter((name) => name !== null));

/** One family of a node. `vxlan` and `ipip` are the addresses of its tunnel devices, by which it
 * says that it has them; null for none. */
export interface CalicoEnd {
  address: string;
  vxlan: string | null;
  mac: string;
  ipip: string | null;
}

export type CalicoReach = Partial<Record<Family, CalicoEnd>>;

/** Reads a node of Calico's; null for a node that is none. What Calico cannot read it takes for
 * absent, and so do we. */
export function readReach(
  nodeName: string, values: Readonly<Record<string, string | undefined>>,
): CalicoReach | null {
  const reach: CalicoReach = {};
  for (const family of FAMILIES) {
    const names = NAMES[family];
    const address = addressOf(values[names.address], family);
    if (address === null) continue;
    const mac = values[names.mac] ?? '';
    reach[family] = {
      address,
      vxlan: addressOf(values[names.vxlan], family),
      mac: isMac(mac) ? macText(macBytes(mac)) : vtepMac(nodeName, family),
      ipip: names.ipip === null ? null : addressOf(values[names.ipip], family),
    };
  }
  return Object.keys(reach).length === 0 ? null : reach;
}

/** An address, with or without the length of its prefix. */
function addressOf(text: string | undefined, family: Family): string | null {
  if (text === undefined || !(isPrefix(text) || isAddress(text))) return null;
  const address = text.split('/')[0] ?? '';
  return addressFamily(address) === family ? addressText(addressBytes(address)) : null;
}

/** The MAC of a VTEP without an annotation: 0x66, and what SHA-1 makes of the name. */
export function vtepMac(nodeName: string, family: Family): string {
  const text = family === 'IPv4' ? nodeName : `${nodeName}-v6`;
  const digest = createHash('sha1').update(text).digest();
  return macText(Uint8Array.from([0x66, ...digest.subarray(0, 5)]));
}

/** One family of our own node: its address, the prefix of its link, its pod network, and which
 * tunnel devices it is to have. */
export interface OwnEnd {
  address: string;
  link: string;
  podCidr: string;
  hasVxlan: boolean;
  hasIpip: boolean;
}

/** The annotations of our Node, sorted by name. A tunnel's address is the base of our pod network:
 * no pod has it, and what the node itself sends comes from there. */
export function nodeAnnotations(ends: Partial<Record<Family, OwnEnd>>): Annotations {
  const all: [string, string][] = [];
  for (const family of FAMILIES) {
    const end = ends[family];
    if (end === undefined) continue;
    const { address, vxlan, ipip } = NAMES[family];
    const base = prefixBase(end.podCidr);
    all.push([address, `${end.address}/${end.link.split('/')[1] ?? ''}`]);
    if (end.hasVxlan) all.push([vxlan, base]);
    if (end.hasIpip && ipip !== null) all.push([ipip, base]);
  }
  return sortedAnnotations(all);
}
