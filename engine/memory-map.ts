// Lays the tables of linear memory: sizes are chosen by profile at start, addresses go into the
// directory (wasm/abi/layout.ts). Sizes never change while the process lives.

import * as layout from '../wasm/abi/layout.ts';

/** Limits of one prefix table: prefixes, and nodes and leaves of the lookup structure. */
export interface PrefixLimits {
  prefixes: number;
  nodes: number;
  leaves: number;
}

/** Every limit that is chosen at start. */
export interface Limits {
  workers: number;
  slots: number;
  nextHops: number;
  peers: number;
  devices: number;
  routesIpv4: PrefixLimits;
  routesIpv6: PrefixLimits;
  remotesIpv4: PrefixLimits;
  remotesIpv6: PrefixLimits;
}

export type ProfileName = 'small' | 'standard' | 'full';

/** `small`: a cluster of up to 500 nodes on a small board. `standard`: 5,000 nodes, 100,000 pods.
 * `full`: beside that a full BGP table. */
export const PROFILES: Record<ProfileName, Limits> = {
  small: limitsFor(500, 32, { prefixes: 4096, nodes: 8192, leaves: 16384 }),
  standard: limitsFor(5000, 64, { prefixes: 32768, nodes: 65536, leaves: 131072 }),
  full: {
    ...limitsFor(5000, 64, { prefixes: 32768, nodes: 65536, leaves: 131072 }),
    routesIpv4: { prefixes: 1_100_000, nodes: 160_000, leaves: 2_000_000 },
    routesIpv6: { prefixes: 220_000, nodes: 500_000, leaves: 1_200_000 },
  },
};

function limitsFor(nodes: number, slots: number, routes: PrefixLimits): Limits {
  const remotes = { prefixes: nodes * 2, nodes: nodes * 4, leaves: nodes * 8 };
  return {
    workers: 1,
    slots,
    nextHops: (nodes * 2) + 1024,
    peers: (nodes * 3) + 64,
    devices: 515,
    routesIpv4: routes,
    routesIpv6: routes,
    remotesIpv4: remotes,
    remotesIpv6: { ...remotes, nodes: nodes * 24 },
  };
}

/** Where each table begins, and how large the memory must be. Bytes. */
export interface MemoryMap {
  nextHops: number;
  peers: number;
  devices: number;
  statistics: number;
  routesIpv4: number;
  routesIpv6: number;
  remotesIpv4: number;
  remotesIpv6: number;
  descriptors: number;
  slots: number;
  size: number;
}

/** Places the tables one behind the other. `prefixTableSize` is the core's own answer. */
export function layMemory(
  limits: Limits,
  prefixTableSize: (limits: PrefixLimits) => number,
): MemoryMap {
  let next = layout.TABLES_START;
  const place = (size: number): number => {
    const start = next;
    next = align(start + size, 64);
    return start;
  };
  const map = {
    nextHops: place(limits.nextHops * layout.NEXT_HOP_STRIDE),
    peers: place(limits.peers * layout.PEER_STRIDE),
    devices: place(limits.devices * layout.DEVICE_STRIDE),
    statistics: place(limits.workers * limits.nextHops * layout.STATISTICS_STRIDE),
    routesIpv4: place(prefixTableSize(limits.routesIpv4)),
    routesIpv6: place(prefixTableSize(limits.routesIpv6)),
    remotesIpv4: place(prefixTableSize(limits.remotesIpv4)),
    remotesIpv6: place(prefixTableSize(limits.remotesIpv6)),
    descriptors: place(limits.workers * limits.slots * layout.DESCRIPTOR_STRIDE),
    slots: place(limits.workers * limits.slots * layout.SLOT_STRIDE),
    size: 0,
  };
  map.size = align(next, 65536);
  return map;
}

/** Writes the directory. The magic comes last: with it the map is valid. */
export function writeDirectory(
  view: DataView,
  map: MemoryMap,
  limits: Limits,
  version: number,
): void {
  const fields: [number, number][] = [
    [layout.DIRECTORY_VERSION, version],
    [layout.DIRECTORY_WORKER_COUNT, limits.workers],
    [layout.DIRECTORY_SLOT_COUNT, limits.slots],
    [layout.DIRECTORY_SLOTS, map.slots],
    [layout.DIRECTORY_DESCRIPTORS, map.descriptors],
    [layout.DIRECTORY_NEXT_HOPS, map.nextHops],
    [layout.DIRECTORY_NEXT_HOP_LIMIT, limits.nextHops],
    [layout.DIRECTORY_PEERS, map.peers],
    [layout.DIRECTORY_PEER_LIMIT, limits.peers],
    [layout.DIRECTORY_DEVICES, map.devices],
    [layout.DIRECTORY_DEVICE_LIMIT, limits.devices],
    [layout.DIRECTORY_STATISTICS, map.statistics],
    [layout.DIRECTORY_ROUTES_IPV4, map.routesIpv4],
    [layout.DIRECTORY_ROUTES_IPV6, map.routesIpv6],
    [layout.DIRECTORY_REMOTES_IPV4, map.remotesIpv4],
    [layout.DIRECTORY_REMOTES_IPV6, map.remotesIpv6],
    [layout.DIRECTORY_MAGIC_FIELD, layout.DIRECTORY_MAGIC],
  ];
  for (const [field, value] of fields) {
    view.setUint32(layout.DIRECTORY_START + field, value, true);
  }
}

function align(value: number, to: number): number {
  return Math.ceil(value / to) * to;
}
