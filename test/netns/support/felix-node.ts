// A node with ordinary kernel devices, set up as Felix does it (felix/vxlanfdb/vxlan_fdb.go,
// felix/dataplane/linux/vxlan_mgr.go): VXLAN with VNI 4096 to port 4789, and, where the pool says
// CrossSubnet, plain routes to nodes of its link. What it knows of another node it reads on that
// node's Node, and nowhere else.

import { createHash } from 'node:crypto';
import { hostPrefix, type Family } from '../../../engine/address.ts';
import type { LabNode } from '../../../cli/demo/bed.ts';
import type { KubeObject } from '../../support/api-server/resources.ts';
import { FAMILIES, podCidrsOf, remotesOf } from './tunnel-lab.ts';

const PREFIX = 'projectcalico.org/';
const NAMES = {
  IPv4: { device: 'vxlan.calico', mac: 'VXLANTunnelMACAddr', suffix: '' },
  IPv6: { device: 'vxlan-v6.calico', mac: 'VXLANTunnelMACAddrV6', suffix: '-v6' },
} as const;
const VNI = 4096;
const PORT = 4789;
const MTU = { IPv4: 1450, IPv6: 1430 };

/** What Felix takes from a Node: where packets go, the tunnel's address, the VTEP's MAC. */
export interface FelixVtep {
  address: string;
  tunnel: string;
  mac: string;
}

/** vtepMACForHost and hasVTEPInfo of felix/calc/vxlan_resolver.go; null for a node that is no VTEP.
 */
export function felixVtep({ metadata }: KubeObject, family: Family): FelixVtep | null {
  const value = (name: string): string => metadata.annotations?.[PREFIX + name] ?? '';
  const [address = ''] = value(`${family}Address`).split('/');
  const tunnel = value(`${family}VXLANTunnelAddr`);
  if (address === '' || tunnel === '') return null;
  const { mac, suffix } = NAMES[family];
  const digest = createHash('sha1').update(metadata.name + suffix).digest('hex');
  const made = `66${digest.slice(0, 10)}`.match(/../g)?.join(':') ?? '';
  return { address, tunnel, mac: value(mac) || made };
}

/** What calico-node has written on the Node of such a node. */
export function felixAnnotations(number: number): Record<string, string> {
  const { IPv4, IPv6 } = remotesOf(number);
  return {
    [`${PREFIX}IPv4Address`]: `${IPv4}/24`,
    [`${PREFIX}IPv4VXLANTunnelAddr`]: `10.244.${number}.1`,
    [`${PREFIX}IPv6Address`]: `${IPv6}/64`,
    [`${PREFIX}IPv6VXLANTunnelAddr`]: `fd00:10:244:${number}::1`,
  };
}

/** Makes the tunnel devices of node `number`, whose Node is `own`. */
export async function setUpFelix({ host }: LabNode, own: KubeObject): Promise<void> {
  const { links } = host;
  for (const family of FAMILIES) {
    const vtep = felixVtep(own, family);
    if (vtep === null) continue;
    const name = NAMES[family].device;
    await links.addVxlan({
      name, vni: VNI, port: PORT, local: vtep.address, device: 'eth0', mtu: MTU[family],
      mac: vtep.mac, learning: false,
    });
    await links.setLink(name, { linkLocalIpv6: false });
    await links.setLink(name, { up: true });
    await links.addAddress(name, hostPrefix(vtep.tunnel));
  }
}

/** Learns of another node: ARP entry, FDB entry, then the route of its pods. Throws where the Node
 * says too little for a route. */
export async function addFelixPeer(
  { host: { links } }: LabNode, node: KubeObject, number: number,
): Promise<void> {
  for (const family of FAMILIES) {
    const vtep = felixVtep(node, family);
    if (vtep === null) throw new Error(`${node.metadata.name} is no ${family} VTEP`);
    const { device } = NAMES[family];
    await links.addNeighbour({ device, address: vtep.tunnel, mac: vtep.mac });
    await links.addFdb({ device, mac: vtep.mac, remote: vtep.address });
    await links.addRoute({
      prefix: podCidrsOf(number)[family], device, via: vtep.tunnel, onlink: true,
    });
  }
}
