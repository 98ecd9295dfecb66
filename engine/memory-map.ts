// Lays the tables of linear memory: sizes are chosen by profile at start, addresses go into the
// directory (wasm/abi/layout.ts). Sizes never change while the process lives.

import * as layout from '../wasm/abi/layout.ts';
import {
  FLOW_SIZE,
  FRAGMENT_SIZE,
  VERDICTS_RECORDS,
  VERDICT_SIZE,
} from '../wasm/abi/policy.ts';
import { BACKEND_SIZE, FRONT_COUNTS_SIZE, FRONT_LANES, FRONT_SEEDS } from
  '../wasm/abi/service.ts';
import {
  MODULE_COUNTS_STRIDE,
  MODULE_LISTS,
  MODULE_LIST_SIZE,
  MODULE_PLACES,
  WATCH_LIMIT,
  WATCH_SIZE,
} from '../wasm/abi/module.ts';
import { PREFIX_LEAF_NARROW, PREFIX_LEAF_WIDE } from '../wasm/abi/prefix-table.ts';

/** Limits of one prefix table: prefixes, and nodes and leaves of the lookup structure. */
export interface PrefixLimits {
  prefixes: number;
  nodes: number;
  leaves: number;
}

/** Limits of policy. Flows, fragments and verdicts (these per worker) are powers of two, flows at
 * least 64; `arenaBytes` is for rule sets and programs. */
export interface PolicyLimits {
  identitiesIpv4: PrefixLimits;
  identitiesIpv6: PrefixLimits;
  flows: number;
  fragments: number;
  verdicts: number;
  arenaBytes: number;
}

/** Limits of Services: fronts are addresses with a protocol and a port; a backend counts once for
 * each front that has it. */
export interface ServiceLimits {
  fronts: number;
  backends: number;
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
  policy: PolicyLimits;
  services: ServiceLimits;
}

export type ProfileName = 'small' | 'standard' | 'full';

/** Most endpoints of a node, and with them devices. */
const ENDPOINT_LIMIT = 512;
export const DEVICE_LIMIT = layout.DEVICE_FIRST_ENDPOINT + ENDPOINT_LIMIT;

const STANDARD_ROUTES: PrefixLimits = { prefixes: 32768, nodes: 65536, leaves: 131072 };
const STANDARD_POLICY: PolicyLimits = {
  identitiesIpv4: { prefixes: 131072, nodes: 262144, leaves: 1_048_576 },
  identitiesIpv6: { prefixes: 131072, nodes: 524288, leaves: 1_048_576 },
  flows: 65536, fragments: 1024, verdicts: 4096, arenaBytes: 64 * 1024 * 1024,
};

const STANDARD_SERVICES: ServiceLimits = { fronts: 32768, backends: 262_144 };

/** `small`: a cluster of up to 500 nodes on a small board. `standard`: 5,000 nodes, 100,000 pods.
 * `full`: beside that a full BGP table. Memory is resident only where it is used. */
export const PROFILES: Record<ProfileName, Limits> = {
  small: limitsFor(500, 32, { prefixes: 4096, nodes: 8192, leaves: 16384 }, {
    identitiesIpv4: { prefixes: 16384, nodes: 32768, leaves: 131072 },
    identitiesIpv6: { prefixes: 16384, nodes: 65536, leaves: 131072 },
    flows: 16384, fragments: 256, verdicts: 512, arenaBytes: 8 * 1024 * 1024,
  }, { fronts: 2048, backends: 16384 }),
  standard: limitsFor(5000, 64, STANDARD_ROUTES, STANDARD_POLICY, STANDARD_SERVICES),
  full: {
    ...limitsFor(5000, 64, STANDARD_ROUTES, STANDARD_POLICY, STANDARD_SERVICES),
    routesIpv4: { prefixes: 1_100_000, nodes: 160_000, leaves: 2_000_000 },
    routesIpv6: { prefixes: 220_000, nodes: 500_000, leaves: 1_200_000 },
  },
};

function limitsFor(
  nodes: number,
  slots: number,
  routes: PrefixLimits,
  policy: PolicyLimits,
  services: ServiceLimits,
): Limits {
  const remotes = { prefixes: nodes * 2, nodes: nodes * 4, leaves: nodes * 8 };
  return {
    workers: 1,
    slots,
    nextHops: (nodes * 2) + 1024,
    peers: (nodes * 4) + 64,
    devices: DEVICE_LIMIT,
    routesIpv4: routes,
    routesIpv6: routes,
    remotesIpv4: remotes,
    remotesIpv6: { ...remotes, nodes: nodes * 24 },
    policy,
    services,
  };
}

/** Bytes for fronts with their backends: room for all, and for changes of many at a time. */
function frontArenaBytes({ fronts, backends }: ServiceLimits): number {
  const front = FRONT_SEEDS + (FRONT_LANES * 4);
  return (2 * fronts * front) + (Math.ceil(backends * 1.25) * (BACKEND_SIZE + 4));
}

/** Buckets of fronts, a power of two. */
function bucketCount({ fronts }: ServiceLimits): number {
  return 2 ** Math.ceil(Math.log2(Math.max(fronts, 1)));
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
  identitiesIpv4: number;
  identitiesIpv6: number;
  arena: number;
  fragments: number;
  verdicts: number;
  dropped: number;
  frontBuckets: number;
  frontCounts: number;
  frontArena: number;
  moduleLists: number;
  moduleCounts: number;
  watches: number;
  sends: number;
  pieces: number;
  headers: number;
  senderPorts: number;
  kept: number;
  turns: number;
  flows: number;
  descriptors: number;
  slots: number;
  size: number;
}

/** Places the tables one behind the other. `prefixTableSize` is the core's own answer. */
export function layMemory(
  limits: Limits,
  prefixTableSize: (limits: PrefixLimits, leafSize: number) => number,
): MemoryMap {
  const { policy } = limits;
  let next = layout.TABLES_START;
  const place = (size: number): number => {
    const start = next;
    next = align(start + size, 64);
    return start;
  };
  const routes = (table: PrefixLimits): number => place(prefixTableSize(table, PREFIX_LEAF_NARROW));
  const identities = (table: PrefixLimits): number =>
    place(prefixTableSize(table, PREFIX_LEAF_WIDE));
  const beginKept = (): number => {
    next = align(next, layout.KEPT_GRANULE);
    return place(layout.KEPT_HEADER_SIZE);
  };
  const perWorker = (size: number): number => place(limits.workers * size);
  const map = {
    nextHops: place(limits.nextHops * layout.NEXT_HOP_STRIDE),
    peers: place(limits.peers * layout.PEER_STRIDE),
    devices: place(limits.devices * layout.DEVICE_STRIDE),
    statistics: perWorker(limits.nextHops * layout.STATISTICS_STRIDE),
    routesIpv4: routes(limits.routesIpv4),
    routesIpv6: routes(limits.routesIpv6),
    remotesIpv4: routes(limits.remotesIpv4),
    remotesIpv6: routes(limits.remotesIpv6),
    identitiesIpv4: identities(policy.identitiesIpv4),
    identitiesIpv6: identities(policy.identitiesIpv6),
    arena: place(policy.arenaBytes),
    fragments: place(policy.fragments * FRAGMENT_SIZE),
    verdicts: perWorker(VERDICTS_RECORDS + (policy.verdicts * VERDICT_SIZE)),
    dropped: perWorker(layout.DROPPED_RECORDS + (layout.DROPPED_LIMIT * layout.DROPPED_SIZE)),
    frontBuckets: place(bucketCount(limits.services) * 4),
    frontCounts: perWorker(limits.services.fronts * FRONT_COUNTS_SIZE),
    frontArena: place(frontArenaBytes(limits.services)),
    moduleLists: place(MODULE_LISTS * MODULE_LIST_SIZE),
    moduleCounts: perWorker(MODULE_PLACES * MODULE_COUNTS_STRIDE),
    watches: place(WATCH_LIMIT * WATCH_SIZE),
    sends: perWorker(layout.SEND_LIMIT * layout.SEND_STRIDE),
    pieces: perWorker(layout.PIECE_LIMIT * layout.PIECE_SIZE),
    headers: perWorker(layout.HEADER_LIMIT * layout.HEADER_STRIDE),
    senderPorts: place(2 * layout.SENDER_LIMIT * 2),
    kept: beginKept(),
    turns: perWorker(turnRecordSize(limits.slots)),
    flows: place(policy.flows * (FLOW_SIZE + 1)),
    descriptors: perWorker(limits.slots * layout.DESCRIPTOR_STRIDE),
    slots: perWorker(limits.slots * layout.SLOT_STRIDE),
    size: 0,
  };
  map.size = align(next, layout.KEPT_GRANULE);
  return map;
}

/** Bytes of the turn record of a worker with so many slots. */
export function turnRecordSize(slots: number): number {
  return layout.TURN_SLOTS + (slots * (layout.TURN_SLOT_STRIDE + layout.TURN_ARRIVAL_SIZE));
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
    [layout.DIRECTORY_IDENTITIES_IPV4, map.identitiesIpv4],
    [layout.DIRECTORY_IDENTITIES_IPV6, map.identitiesIpv6],
    [layout.DIRECTORY_FLOWS, map.flows],
    [layout.DIRECTORY_FLOW_COUNT, limits.policy.flows],
    [layout.DIRECTORY_VERDICTS, map.verdicts],
    [layout.DIRECTORY_VERDICT_LIMIT, limits.policy.verdicts],
    [layout.DIRECTORY_FRAGMENTS, map.fragments],
    [layout.DIRECTORY_FRAGMENT_LIMIT, limits.policy.fragments],
    [layout.DIRECTORY_SENDS, map.sends],
    [layout.DIRECTORY_PIECES, map.pieces],
    [layout.DIRECTORY_HEADERS, map.headers],
    [layout.DIRECTORY_SENDER_PORTS, map.senderPorts],
    [layout.DIRECTORY_POINTER_SIZE, 8],
    [layout.DIRECTORY_SEGMENT_LIMIT, 1],
    [layout.DIRECTORY_POLICY_ARENA, map.arena],
    [layout.DIRECTORY_POLICY_ARENA_SIZE, limits.policy.arenaBytes],
    [layout.DIRECTORY_FRONT_LIMIT, limits.services.fronts],
    [layout.DIRECTORY_FRONT_BUCKETS, map.frontBuckets],
    [layout.DIRECTORY_FRONT_BUCKET_COUNT, bucketCount(limits.services)],
    [layout.DIRECTORY_FRONT_COUNTS, map.frontCounts],
    [layout.DIRECTORY_FRONT_ARENA, map.frontArena],
    [layout.DIRECTORY_FRONT_ARENA_SIZE, frontArenaBytes(limits.services)],
    [layout.DIRECTORY_MODULE_LISTS, map.moduleLists],
    [layout.DIRECTORY_MODULE_COUNTS, map.moduleCounts],
    [layout.DIRECTORY_WATCHES, map.watches],
    [layout.DIRECTORY_DROPPED, map.dropped],
    [layout.DIRECTORY_KEPT, map.kept],
    [layout.DIRECTORY_MAGIC_FIELD, layout.DIRECTORY_MAGIC],
  ];
  for (const [field, value] of fields) {
    view.setUint32(layout.DIRECTORY_START + field, value, true);
  }
}

function align(value: number, to: number): number {
  return Math.ceil(value / to) * to;
}
