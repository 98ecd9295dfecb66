// A node that knows nothing of Culvert: the kernel's own VXLAN devices, set up as flannel's vxlan
// backend sets them up (flannel pkg/backend/vxlan), and pods on veths.

import { addressFamily, hostPrefix, prefixBase, type Family } from '../../engine/address.ts';
import type { ClusterNode, VxlanTunnel } from '../../engine/model.ts';
import { FLANNEL_VXLAN_PORT } from '../../engine/net-conf.ts';
import type { Bed, Host, LabNode } from './bed.ts';

/** Devices and their MTUs by the family that carries them. */
const DEVICE = { IPv4: 'flannel.1', IPv6: 'flannel-v6.1' };
const MTU = { IPv4: 1450, IPv6: 1430 };
/** Gateways of the pods, on every veth. */
const GATEWAY = { IPv4: '169.254.1.1', IPv6: 'fe80::1' };

/** Makes the VXLAN devices of a node and the entries that lead to the others. */
export async function setUpKernelNode(
  node: LabNode,
  self: ClusterNode,
  others: ClusterNode[],
): Promise<void> {
  node.host.sysctl({ 'net.ipv4.ip_forward': 1, 'net.ipv6.conf.all.forwarding': 1 });
  const made = new Set<string>();
  for (const tunnel of vxlanTunnels(self)) {
    const name = DEVICE[addressFamily(tunnel.remote)];
    if (!made.has(name)) await addDevice(node, tunnel);
    made.add(name);
    for (const base of basesOf(self, tunnel.family)) await node.host.links.addAddress(name, base);
    for (const other of others) await addPeer(node, other, tunnel.family);
  }
}

async function addDevice({ host }: LabNode, tunnel: VxlanTunnel): Promise<void> {
  const carrier = addressFamily(tunnel.remote);
  const name = DEVICE[carrier];
  await host.links.addVxlan({
    name,
    vni: tunnel.vni,
    port: tunnel.port ?? FLANNEL_VXLAN_PORT,
    local: tunnel.remote,
    device: 'eth0',
    mtu: MTU[carrier],
    mac: tunnel.mac,
    learning: false,
  });
  await host.links.setLink(name, { linkLocalIpv6: false });
  await host.links.setLink(name, { up: true });
}

/** Neighbour, forwarding entry, route: in flannel's order. */
export async function addPeer(
  { host }: LabNode,
  other: ClusterNode,
  family: Family,
): Promise<void> {
  const tunnel = vxlanTunnels(other).find((candidate) => candidate.family === family);
  if (tunnel === undefined) return;
  const device = DEVICE[addressFamily(tunnel.remote)];
  for (const prefix of other.podCidrs.filter((cidr) => addressFamily(cidr) === family)) {
    const via = prefixBase(prefix);
    await host.links.addNeighbour({ device, address: via, mac: tunnel.mac });
    await host.links.addFdb({ device, mac: tunnel.mac, remote: tunnel.remote });
    await host.links.addRoute({ prefix, device, via, onlink: true });
  }
}

function vxlanTunnels({ tunnels }: ClusterNode): VxlanTunnel[] {
  return tunnels.filter((tunnel) => tunnel.kind === 'vxlan');
}

function basesOf(node: ClusterNode, family: Family): string[] {
  return node.podCidrs.filter((cidr) => addressFamily(cidr) === family)
    .map((cidr) => hostPrefix(prefixBase(cidr)));
}

/** Adds a pod on a veth, routed as the CNI plugin `ptp` does it. */
export async function addKernelPod(
  bed: Bed,
  node: LabNode,
  name: string,
  addresses: string[],
): Promise<Host> {
  const pod = bed.addHost(name);
  const device = `veth${Math.abs(hash(name)) % 100000}`;
  await node.host.links.addVeth(device, 'eth0', pod.namespace.fd);
  for (const [links, end] of [[node.host.links, device], [pod.links, 'eth0']] as const) {
    await links.setLink(end, { mtu: MTU.IPv4, linkLocalIpv6: false });
    await links.setLink(end, { up: true });
  }
  await pod.links.addAddress('eth0', 'fe80::2/64');
  for (const address of addresses) {
    const family = addressFamily(address);
    const gateway = GATEWAY[family];
    const onDevice = family === 'IPv4' ? hostPrefix(gateway) : `${gateway}/64`;
    await node.host.links.addAddress(device, onDevice);
    await node.host.links.addRoute({ prefix: hostPrefix(address), device });
    await pod.links.addAddress('eth0', hostPrefix(address));
    const prefix = family === 'IPv4' ? '0.0.0.0/0' : '::/0';
    await pod.links.addRoute({ prefix, device: 'eth0', via: gateway, onlink: true });
  }
  return pod;
}

function hash(text: string): number {
  return [...text].reduce((sum, letter) => ((sum * 31) + letter.charCodeAt(0)) | 0, 7);
}
