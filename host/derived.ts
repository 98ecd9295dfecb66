// What follows from the configuration and from the underlay that was found.

import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { addressFamily, type Family } from '../engine/address.ts';
import type { Core } from '../engine/core.ts';
import type { Forwarding, ForwardingOptions } from '../engine/forwarding.ts';
import type { Log } from '../engine/log.ts';
import { PROFILES, type Limits } from '../engine/memory-map.ts';
import type { DeviceTable } from '../engine/tables/device.ts';
import type { PolicyTables } from '../engine/tables/policy.ts';
import { ServiceTables } from '../engine/tables/services.ts';
import { SystemError } from '../ffi/errno.ts';
import { lockFile } from '../ffi/file.ts';
import { localPort } from '../ffi/socket.ts';
import {
  IPV6_MINIMUM_MTU, VXLAN_OVERHEAD_IPV4, VXLAN_OVERHEAD_IPV6,
} from '../wasm/abi/headers.ts';
import { DIRECTORY_TAKE_UNFINISHED, WORKER_LIMIT } from '../wasm/abi/layout.ts';
import type { HostConfig } from './config.ts';
import { workerCount } from './data-plane.ts';
import { diskFiles } from './durable.ts';
import type { Endpoints } from './endpoints.ts';
import type { HandoverOptions } from './handover.ts';
import { Ipam } from './ipam.ts';
import type { ModuleEndpoint } from './modules/load.ts';
import { ModuleStore } from './modules/store.ts';
import { NodePorts } from './node-ports.ts';
import { ServiceGate } from './service-gate.ts';
import type { Tier } from './tier.ts';
import type { TunnelTap } from './tunnel-tap.ts';
import type { Underlay } from './underlay.ts';

const ADDRESSES_FOLDER = 'addresses';
const MODULES_FOLDER = 'modules';
const BOOT_ID = '/proc/sys/kernel/random/boot_id';
/** The sidecar's user must get through; each socket has a mode of its own. */
export const RUNTIME_DIRECTORY_MODE = 0o755;
const LOCK_FILE = 'culvert.lock';

/** Another daemon has this runtime directory. */
export class SecondInstanceError extends Error {
  override name = 'SecondInstanceError';
}

/** VTEP MACs for a node that the cluster has not given any: stable, locally administered. */
export function defaultMacs(nodeName: string): Record<Family, string> {
  return { IPv4: defaultMac(nodeName, 'IPv4'), IPv6: defaultMac(nodeName, 'IPv6') };
}

function defaultMac(nodeName: string, family: Family): string {
  const digest = createHash('sha256').update(`${nodeName}/${family}`).digest();
  digest[0] = ((digest[0] ?? 0) & 0xfe) | 0x02;
  return [...digest.subarray(0, 6)].map((byte) => byte.toString(16).padStart(2, '0')).join(':');
}

/** What linear memory has room for. `left` is the number of queues of the devices that an earlier
 * daemon has left, 0 for none: as many workers can read them, and no other number. */
export function memoryLimits({ memory, dataPlane }: HostConfig, left: number): Limits {
  const wanted = dataPlane.workers === 0 ? Math.min(left, WORKER_LIMIT) : dataPlane.workers;
  return { ...PROFILES[memory], workers: workerCount(wanted) };
}

/** What the node's routes lead to us, and what of it is nowhere leads to nobody. */
export function overlayNetworks({ podNetworks, serviceNetworks }: HostConfig): string[] {
  return [...podNetworks, ...serviceNetworks];
}

/** What the tables need to know beside the cluster. */
export function forwardingOptions(config: HostConfig, underlayMtu: number): ForwardingOptions {
  const { nodeName, subnetEnv } = config;
  return {
    nodeName,
    podNetworks: overlayNetworks(config),
    hasNodePods: subnetEnv !== '',
    underlayMtu,
    tunnelPort: config.underlay.port,
    defaultMac: defaultMacs(nodeName),
  };
}

/** What of us is left to the next daemon, and how. */
export function handoverOptions(
  { runtimeDirectory, handover: { enabled, awaySeconds } }: HostConfig,
): Omit<HandoverOptions, 'log' | 'store'> {
  return { runtimeDirectory, isEnabled: enabled, awayMs: awaySeconds * 1000 };
}

/** The MTU of pods and of the node's device: what every tunnel over the underlay's link takes.
 * Where that is less than IPv6 needs of an interface, and pods have IPv6, tunnels go in
 * fragments. */
export function overlayMtu(
  { mtu, addresses }: Pick<Underlay, 'mtu' | 'addresses'>, { podNetworks }: HostConfig,
): number {
  const taken = mtu - (addresses.IPv6 === undefined ? VXLAN_OVERHEAD_IPV4 : VXLAN_OVERHEAD_IPV6);
  const hasIpv6 = podNetworks.some((prefix) => addressFamily(prefix) === 'IPv6');
  return hasIpv6 ? Math.max(taken, IPV6_MINIMUM_MTU) : taken;
}

/** Tells the core what the kernel takes over. */
export function setOffloads(
  core: Core, devices: DeviceTable, tier: Tier, config: HostConfig,
): void {
  devices.setOffloads(tier);
  core.setDirectory(DIRECTORY_TAKE_UNFINISHED, config.underlay.takeUnfinished ? 1 : 0);
}

/** Lets super-packets leave by the TAP of tier T3, where there is one. What goes over IPv6 is cut
 * in the core while a path takes less than the link. */
export function setTunnelTap(devices: DeviceTable, tap: TunnelTap | null, log: Log): void {
  if (tap === null) return;
  for (const family of tap.families) devices.setTunnelTap(family, tap.mac);
  if (!tap.families.includes('IPv6')) return;
  tap.watch((packets) => {
    devices.clearTunnelTap('IPv6');
    log.warn({ device: tap.name, packets },
      'a path over IPv6 takes less than its link: super-packets are cut here for a while');
  }, () => devices.setTunnelTap('IPv6', tap.mac));
}

/** Tells the core where tunnels start from: addresses, and ports of the sending sockets. */
export function setTunnelStarts(devices: DeviceTable, { sockets }: Underlay): void {
  for (const { family, address, senders } of sockets) {
    devices.setSenders(family, address, senders.map(localPort));
  }
}

/** The tables of Services, whose addresses are routes like any others. */
export function makeServices(
  core: Core, limits: Limits, forwarding: Forwarding, { services }: HostConfig,
): ServiceGate {
  return new ServiceGate(new ServiceTables(core, limits.services, (name, addresses) =>
    forwarding.claimService(name, addresses)), services);
}

/** Where node ports and host ports are: at the addresses that the operator names, or else the
 * underlay's. */
export function nodePortAddresses(
  { nodePorts: { addresses } }: HostConfig, underlay: Pick<Underlay, 'addresses'>,
): string[] {
  return addresses.length > 0 ? addresses : Object.values(underlay.addresses);
}

export function makeNodePorts(
  config: HostConfig, underlay: Pick<Underlay, 'addresses'>, log: Log,
): NodePorts {
  const { enabled, range } = config.nodePorts;
  return new NodePorts({ enabled, addresses: nodePortAddresses(config, underlay), range, log });
}

/** The node's addresses of pods, on disk. */
export function makeIpam({ runtimeDirectory }: HostConfig, log: Log): Ipam {
  return new Ipam({
    files: diskFiles(join(runtimeDirectory, ADDRESSES_FOLDER)),
    log,
    boot: readFileSync(BOOT_ID, 'utf8').trim(),
    nowMs: Date.now,
  });
}

/** Makes the folder of sockets and whatever else is of this daemon only, and locks it. Returns the
 * lock's descriptor. */
export function lockRuntimeDirectory(path: string): number {
  makeRuntimeDirectory(path);
  const lockPath = join(path, LOCK_FILE);
  const lock = lockFile(lockPath);
  if (lock !== null) return lock;
  throw new SecondInstanceError(`start daemon: another one holds ${lockPath}`);
}

function makeRuntimeDirectory(path: string): void {
  try {
    mkdirSync(path, { recursive: true, mode: RUNTIME_DIRECTORY_MODE });
  } catch (error) {
    const { errno } = error as NodeJS.ErrnoException;
    if (errno === undefined) throw error;
    throw new SystemError('mkdir', path, errno, {
      EACCES: 'run as root, or give a directory of yours as --runtime-directory',
    });
  }
}

/** Where modules are kept: on the disk that keeps the cluster's state, else for this boot. */
export function moduleStore({ stateDirectory, runtimeDirectory }: HostConfig): ModuleStore {
  const folder = stateDirectory === '' ? runtimeDirectory : stateDirectory;
  return new ModuleStore(join(folder, MODULES_FOLDER));
}

/** The pods of this node as modules are told of them, each with the identity of its first address:
 * in an order of their own, so that what is the same looks the same. */
export function moduleEndpoints(endpoints: Endpoints, policy: PolicyTables): ModuleEndpoint[] {
  return endpoints.pods().map(({ namespace, name: pod, addresses: [address] }) => {
    const id = address === undefined ? 0
      : policy.identities[addressFamily(address)].find(address);
    return { id, namespace, pod, labels: [] };
  }).sort((a, b) => (`${a.namespace}/${a.pod}` < `${b.namespace}/${b.pod}` ? -1 : 1));
}
