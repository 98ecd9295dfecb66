// A cluster by numbers, and its Kubernetes objects as flannel annotates them. Node n has
//
//   192.0.2.n  2001:db8::n       on the underlay
//   10.244.n.0/24  fd00:10:244:n::/64       for its pods, the one with the number p being
//   10.244.n.p  fd00:10:244:n::p

import { renameSync, writeFileSync } from 'node:fs';
import type { Family } from '../../../engine/address.ts';
import type { ClusterNode } from '../../../engine/model.ts';
import type { VxlanNode } from '../../support/cluster.ts';

export const POD_NETWORKS = ['10.244.0.0/16', 'fd00:10:244::/48'];
export const VXLAN_PORT = 8472;
export const VNI = 1;

/** Address of node `n` on the underlay. */
export function nodeAddress(n: number, family: Family): string {
  return family === 'IPv4' ? `192.0.2.${n}` : `2001:db8::${n.toString(16)}`;
}

/** Address of a pod of node `n`; pod 0 is the base address, which is the node's own. */
export function podAddress(n: number, pod: number, family: Family): string {
  if (family === 'IPv4') return `10.244.${n}.${pod}`;
  return `fd00:10:244:${n.toString(16)}::${pod === 0 ? '' : pod.toString(16)}`;
}

/** Both addresses of a pod. */
export function podAddresses(n: number, pod: number): string[] {
  return [podAddress(n, pod, 'IPv4'), podAddress(n, pod, 'IPv6')];
}

/** MAC of a node's VTEP; one for each family, as flannel has it. */
export function vtepMac(n: number, family: Family): string {
  const number = n.toString(16).padStart(2, '0');
  return `02:c0:00:00:${number}:0${family === 'IPv4' ? 4 : 6}`;
}

export function clusterNode(n: number): VxlanNode {
  return {
    name: `node-${n}`,
    podCidrs: [`${podAddress(n, 0, 'IPv4')}/24`, `${podAddress(n, 0, 'IPv6')}/64`],
    addresses: [nodeAddress(n, 'IPv4'), nodeAddress(n, 'IPv6')],
    tunnels: (['IPv4', 'IPv6'] as const).map((family) => ({
      family, kind: 'vxlan', remote: nodeAddress(n, family), port: VXLAN_PORT, vni: VNI,
      mac: vtepMac(n, family),
    })),
  };
}

/** The Node object that an API server would give. */
export function nodeObject({ name, podCidrs, addresses, tunnels }: ClusterNode): object {
  const prefix = 'flannel.alpha.coreos.com';
  const annotations: Record<string, string> = {
    [`${prefix}/kube-subnet-manager`]: 'true', [`${prefix}/backend-type`]: 'vxlan',
  };
  for (const tunnel of tunnels) {
    if (tunnel.kind !== 'vxlan') continue;
    const { family, remote, vni, mac } = tunnel;
    const isIpv4 = family === 'IPv4';
    annotations[`${prefix}/${isIpv4 ? 'backend-data' : 'backend-v6-data'}`] =
      JSON.stringify({ VNI: vni, VtepMAC: mac });
    annotations[`${prefix}/${isIpv4 ? 'public-ip' : 'public-ipv6'}`] = remote;
  }
  return {
    apiVersion: 'v1',
    kind: 'Node',
    metadata: { name, annotations },
    spec: { podCIDR: podCidrs[0], podCIDRs: podCidrs },
    status: { addresses: addresses.map((address) => ({ type: 'InternalIP', address })) },
  };
}

/** Numbers of the pods that each written node has. */
const POD_NUMBERS = [10, 11, 12, 13];

/** Name of a pod of node `n`. */
export function podName(n: number, pod: number): string {
  return `pod-${n}-${pod}`;
}

function podObject(nodeName: string, pod: number): object {
  const n = Number(nodeName.replace('node-', ''));
  const name = podName(n, pod);
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { namespace: 'test', name, uid: `uid-${name}`, labels: { name } },
    spec: { nodeName },
    status: { phase: 'Running', podIPs: podAddresses(n, pod).map((ip) => ({ ip })) },
  };
}

/** Puts a text in the place of a file in one step, as a ConfigMap's mount does. */
export function replaceFile(file: string, text: string): void {
  writeFileSync(`${file}.new`, text);
  renameSync(`${file}.new`, file);
}

/** Writes the objects of nodes and of their pods, and further ones, to a file. Returns the text.
 * Each pod has its name as a label. */
export function writeCluster(file: string, nodes: ClusterNode[], others: object[] = []): string {
  const objects = [...nodes.flatMap((node) =>
    [nodeObject(node), ...POD_NUMBERS.map((pod) => podObject(node.name, pod))]), ...others];
  const text = objects.map((object) => `${JSON.stringify(object, null, 2)}\n`).join('---\n');
  replaceFile(file, text);
  return text;
}
