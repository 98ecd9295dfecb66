// A node's surroundings, entered twice: into the core through the engine, and into the tables of
// the slow twin, each from the same description.

import * as layout from '../../wasm/abi/layout.ts';
import { addressBytes, addressFamily, hostPrefix, prefixBase, prefixKey } from
  '../../engine/address.ts';
import type { Core } from '../../engine/core.ts';
import { Forwarding, type AttachedEndpoint } from '../../engine/forwarding.ts';
import type { ClusterNode, Service, Tunnel } from '../../engine/model.ts';
import { FLANNEL_VXLAN_PORT } from '../../engine/net-conf.ts';
import { GATEWAY_MAC, type Offloads } from '../../engine/tables/device.ts';
import { PrefixTable } from '../../engine/tables/prefix.ts';
import { ServiceTables } from '../../engine/tables/services.ts';
import { ForwardTwin, type Target, type TwinDevice, type TwinTables } from
  '../reference/forward.ts';
import { RouteList } from '../reference/routes.ts';
import { enclosureSize, type TwinPeer, type TwinTunnel } from '../reference/tunnels.ts';
import { createCore, TEST_LIMITS } from './core.ts';

/** A pod's attachment. `mac` is null for a TUN. */
export interface ScenePod {
  name: string;
  addresses: string[];
  mac: string | null;
}

/** What is entered. `special` routes are not the engine's to make yet: they go in beside it. */
export interface SceneSettings {
  podNetworks: string[];
  underlayMtu: number;
  local: ClusterNode;
  remotes: ClusterNode[];
  pods: ScenePod[];
  special: { prefix: string; kind: 'prohibit' | 'blackhole' | 'deviceless' }[];
  icmpRate: number;
  icmpBurst: number;
  /** What the kernel takes over; nothing where it is absent. */
  offloads?: Offloads;
  /** The twin knows nothing of them: for packets that it is not asked about. */
  services?: Service[];
}

export interface Scene {
  settings: SceneSettings;
  core: Core;
  forwarding: Forwarding;
  endpoints: Map<string, AttachedEndpoint>;
  twin: ForwardTwin;
  /** Targets of the twin by the next hop id that the core has for them. */
  targets: Map<number, Target>;
}

/** A device index that endpoints of a scene never get. */
const NO_DEVICE = TEST_LIMITS.devices - 1;
const FIXED = {
  [layout.NEXT_HOP_NODE]: 'node', [layout.NEXT_HOP_OUTSIDE]: 'outside',
  [layout.NEXT_HOP_UNREACHABLE]: 'unreachable', [layout.NEXT_HOP_PROHIBIT]: 'prohibit',
  [layout.NEXT_HOP_BLACKHOLE]: 'blackhole',
} as const;

/** The underlay's devices, and what each brings. */
const UNDERLAY: [number, TwinTunnel][] = [
  [layout.DEVICE_UNDERLAY_IPV4, { kind: 'vxlan' }],
  [layout.DEVICE_UNDERLAY_IPV6, { kind: 'vxlan' }],
  [layout.DEVICE_GENEVE_IPV4, { kind: 'geneve' }], [layout.DEVICE_GENEVE_IPV6, { kind: 'geneve' }],
  [layout.DEVICE_UDP_IPV4, { kind: 'udp' }], [layout.DEVICE_UDP_IPV6, { kind: 'udp' }],
  [layout.DEVICE_IPIP_IPV4, { kind: 'ipip', version: 4 }],
  [layout.DEVICE_IPIP_IPV6, { kind: 'ipip', version: 4 }],
  [layout.DEVICE_IP6IP_IPV4, { kind: 'ipip', version: 6 }],
  [layout.DEVICE_IP6IP_IPV6, { kind: 'ipip', version: 6 }],
  [layout.DEVICE_VXLAN_IPV4, { kind: 'vxlan' }], [layout.DEVICE_VXLAN_IPV6, { kind: 'vxlan' }],
];
/** By which of them packets for a peer leave: IPv4 and IPv6 packets, over IPv4 and over IPv6. */
const DEVICES = {
  vxlan: [layout.DEVICE_UNDERLAY_IPV4, layout.DEVICE_UNDERLAY_IPV6],
  geneve: [layout.DEVICE_GENEVE_IPV4, layout.DEVICE_GENEVE_IPV6],
  udp: [layout.DEVICE_UDP_IPV4, layout.DEVICE_UDP_IPV6],
  ipip: [layout.DEVICE_IPIP_IPV4, layout.DEVICE_IPIP_IPV6],
  direct: [layout.DEVICE_NODE, layout.DEVICE_NODE],
} as const;
const PORTS = { vxlan: FLANNEL_VXLAN_PORT, geneve: 6081, udp: 8285, ipip: 0, direct: 0 };

export function makeScene(settings: SceneSettings, limits = TEST_LIMITS): Scene {
  const core = createCore(limits);
  const forwarding = new Forwarding(core, limits, {
    nodeName: settings.local.name,
    podNetworks: settings.podNetworks,
    underlayMtu: settings.underlayMtu,
    defaultMac: { IPv4: '02:00:00:00:00:04', IPv6: '02:00:00:00:00:06' },
  });
  if (settings.offloads !== undefined) forwarding.devices.setOffloads(settings.offloads);
  core.setDirectory(layout.DIRECTORY_ICMP_RATE, settings.icmpRate);
  core.setDirectory(layout.DIRECTORY_ICMP_BURST, settings.icmpBurst);
  forwarding.applySnapshot({
    revision: 1, local: settings.local.name, nodes: [settings.local, ...settings.remotes], pods: [],
  });
  const problems = forwarding.problems();
  if (problems.length > 0) throw new Error(problems.join('\n'));
  const endpoints = new Map(settings.pods.map((pod) =>
    [pod.name, forwarding.attachEndpoint(pod.name, pod.addresses, pod.mac)]));
  const deviceless = forwarding.nextHops.allocate('deviceless');
  forwarding.nextHops.publish(deviceless, layout.NEXT_HOP_KIND_ENDPOINT, NO_DEVICE);
  for (const { prefix, kind } of settings.special) {
    insertRoute(core, prefix, {
      prohibit: layout.NEXT_HOP_PROHIBIT, blackhole: layout.NEXT_HOP_BLACKHOLE, deviceless,
    }[kind]);
  }
  new ServiceTables(core, limits.services, (name, addresses) =>
    forwarding.claimService(name, addresses)).replace(settings.services ?? []);
  return { settings, core, forwarding, endpoints, ...makeTwin(settings, forwarding, endpoints) };
}

/** Enters a route beside the engine. */
function insertRoute(core: Core, prefix: string, nextHop: number): void {
  const field = addressFamily(prefix) === 'IPv4'
    ? layout.DIRECTORY_ROUTES_IPV4
    : layout.DIRECTORY_ROUTES_IPV6;
  new PrefixTable(core, 'test', field, 0).insert(prefixKey(prefix), nextHop);
}

function makeTwin(
  settings: SceneSettings, forwarding: Forwarding, endpoints: Map<string, AttachedEndpoint>,
): { twin: ForwardTwin; targets: Map<number, Target> } {
  const targets = new Map<number, Target>(
    Object.entries(FIXED).map(([id, kind]) => [Number(id), { kind }]));
  const fixed = (id: number): Target => targets.get(id) ?? { kind: 'unreachable' };
  const node = fixed(layout.NEXT_HOP_NODE);
  const base = (family: string): Uint8Array | null => {
    const cidr = settings.local.podCidrs.find((prefix) => addressFamily(prefix) === family);
    return cidr === undefined ? null : addressBytes(prefixBase(cidr));
  };
  const tables: TwinTables = {
    node, nodeDevice: layout.DEVICE_NODE, routes: new RouteList(), remotes: new Map(),
    devices: new Map([
      [layout.DEVICE_NODE, { kind: 'node', target: node }],
      ...UNDERLAY.map(([index, tunnel]): [number, TwinDevice] =>
        [index, { kind: 'underlay', target: null, tunnel }]),
    ]),
    ownIpv4: base('IPv4'), ownIpv6: base('IPv6'),
    icmpRate: settings.icmpRate, icmpBurst: settings.icmpBurst,
  };
  addConfiguredRoutes(tables, settings, fixed);
  for (const remote of settings.remotes) {
    // Tunnels that end at one address are one peer.
    const ends = new Map<string, Target>();
    for (const tunnel of remote.tunnels) {
      const target: Target = ends.get(tunnel.remote)
        ?? { kind: 'peer', peer: twinPeer(settings, tunnel) };
      ends.set(tunnel.remote, target);
      addPeer(tables, remote, tunnel, target);
      const id = forwarding.peers.get(`${remote.name}/${tunnel.family}`)?.nextHop;
      if (id !== undefined) targets.set(id, target);
    }
  }
  for (const pod of settings.pods) {
    const { device = 0, nextHop = 0 } = endpoints.get(pod.name) ?? {};
    const target: Target = { kind: 'endpoint', device };
    targets.set(nextHop, target);
    tables.devices.set(device, pod.mac === null
      ? { kind: 'tun', target }
      : { kind: 'tap', target, mac: pod.mac, gatewayMac: GATEWAY_MAC });
    for (const address of pod.addresses) tables.routes.add(hostPrefix(address), target);
  }
  return { twin: new ForwardTwin(tables), targets };
}

function addConfiguredRoutes(
  tables: TwinTables, settings: SceneSettings, fixed: (id: number) => Target,
): void {
  const { routes } = tables;
  const { local } = settings;
  routes.add('0.0.0.0/0', fixed(layout.NEXT_HOP_OUTSIDE));
  routes.add('::/0', fixed(layout.NEXT_HOP_OUTSIDE));
  for (const prefix of [...settings.podNetworks, ...local.podCidrs]) {
    routes.add(prefix, fixed(layout.NEXT_HOP_UNREACHABLE));
  }
  for (const address of [...local.podCidrs.map(prefixBase), ...local.addresses]) {
    routes.add(hostPrefix(address), tables.node);
  }
  for (const { prefix, kind } of settings.special) {
    const id = kind === 'prohibit' ? layout.NEXT_HOP_PROHIBIT : layout.NEXT_HOP_BLACKHOLE;
    routes.add(prefix, kind === 'deviceless' ? { kind: 'endpoint', device: NO_DEVICE } : fixed(id));
  }
}

function twinPeer(settings: SceneSettings, tunnel: Tunnel): TwinPeer {
  const { kind, family, remote: address } = tunnel;
  const over = addressFamily(address) === 'IPv4' ? 0 : 1;
  const own = settings.local.tunnels.find((candidate) => candidate.family === family);
  const ownMac = own !== undefined && 'mac' in own ? own.mac : null;
  const port = 'port' in tunnel ? tunnel.port : undefined;
  const mac = 'mac' in tunnel ? tunnel.mac : null;
  const device = DEVICES[kind][over];
  const ip6ip = [layout.DEVICE_IP6IP_IPV4, layout.DEVICE_IP6IP_IPV6][over];
  const outer = over === 0 ? 20 : 40;
  return {
    kind, mac, remote: { address, port: port ?? PORTS[kind] },
    devices: { IPv4: device, IPv6: kind === 'ipip' ? ip6ip ?? device : device },
    vni: 'vni' in tunnel ? tunnel.vni : 0,
    ownMac: ownMac ?? (family === 'IPv4' ? '02:00:00:00:00:04' : '02:00:00:00:00:06'),
    mtu: settings.underlayMtu - (kind === 'direct' ? 0 : outer + enclosureSize({ kind, mac })),
  };
}

function addPeer(tables: TwinTables, node: ClusterNode, tunnel: Tunnel, target: Target): void {
  const ofFamily = (text: string): boolean => addressFamily(text) === tunnel.family;
  for (const prefix of node.podCidrs.filter(ofFamily)) tables.routes.add(prefix, target);
  for (const address of node.addresses.filter(ofFamily)) {
    tables.routes.add(hostPrefix(address), target);
  }
  tables.remotes.set(tunnel.remote, target);
}
