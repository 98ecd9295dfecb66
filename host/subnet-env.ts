// The file by which flannel's daemon tells flannel's CNI plugin of this node's pod network. With it
// that plugin, or bridge and host-local, attach pods to the node's own stack, which our node device
// connects with the others. Such pods are under no policy of ours.

import { readFileSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { prefixHolds, prefixBase, type Family, addressFamily } from '../engine/address.ts';
import type { Log } from '../engine/log.ts';
import type { HostConfig } from './config.ts';
import { diskFiles, replaceFile } from './durable.ts';
import type { NodeDevice } from './node-device.ts';

export interface SubnetEnv {
  /** Networks of all pods of the cluster, and of this node. */
  podNetworks: readonly string[];
  podCidrs: readonly string[];
  mtu: number;
}

/** The file's text, as flannel v0.2x writes it (pkg/subnet/subnet.go, WriteSubnetFile): the address
 * in a SUBNET is the bridge's, the one after the network's own. */
export function subnetEnvText({ podNetworks, podCidrs, mtu }: SubnetEnv): string {
  const lines: string[] = [];
  for (const [family, infix] of [['IPv4', ''], ['IPv6', 'IPV6_']] as const) {
    const subnet = firstOf(podCidrs, family);
    if (subnet === undefined) continue;
    const network = podNetworks.find((prefix) =>
      addressFamily(prefix) === family && prefixHolds(prefix, prefixBase(subnet)));
    if (network !== undefined) lines.push(`FLANNEL_${infix}NETWORK=${network}`);
    lines.push(`FLANNEL_${infix}SUBNET=${gateway(subnet)}/${subnet.split('/')[1] ?? ''}`);
  }
  return [...lines, `FLANNEL_MTU=${mtu}`, 'FLANNEL_IPMASQ=false', ''].join('\n');
}

/** Tells flannel's plugin of the node's networks, where the configuration wants that. */
export function tellSubnet(
  { subnetEnv, podNetworks }: HostConfig,
  { podCidrs, options: { mtu } }: Pick<NodeDevice, 'podCidrs' | 'options'>, log: Log,
): void {
  if (subnetEnv === '' || podCidrs.length === 0) return;
  if (isForeign(subnetEnv)) {
    log.warn({ file: subnetEnv },
      'subnet.env is a flanneld\'s: one runs on this node, or did since the node started');
  }
  try {
    writeSubnetEnv(subnetEnv, { podNetworks, podCidrs, mtu });
  } catch (error) {
    log.error({ file: subnetEnv, error: (error as Error).message }, 'cannot write subnet.env');
  }
}

/** Whether a flanneld has written the file: as its manifests start it, it masquerades, which we
 * never say. */
export function isForeign(path: string): boolean {
  try {
    return readFileSync(path, 'utf8').includes('FLANNEL_IPMASQ=true');
  } catch {
    return false;
  }
}

/** Writes the file in one step. Throws what the file system refuses. */
export function writeSubnetEnv(path: string, env: SubnetEnv): void {
  const text = new TextEncoder().encode(subnetEnvText(env));
  replaceFile(diskFiles(dirname(path)), basename(path), text);
}

function firstOf(prefixes: readonly string[], family: Family): string | undefined {
  return prefixes.find((prefix) => addressFamily(prefix) === family);
}

/** The address after the network's own, whose last bits are zero. */
function gateway(subnet: string): string {
  const base = prefixBase(subnet);
  if (base.includes(':')) return base.endsWith('::') ? `${base}1` : base.replace(/0$/, '1');
  return base.replace(/\d+$/, (last) => `${Number(last) + 1}`);
}
