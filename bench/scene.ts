// A node in the middle of a cluster, for benches: local pods on TUNs, and 256 peers over VXLAN.
//
//   local pod e        10.64.0.0 + 256 + e      fd00:64:: + 256 + e
//   remote pod e       10.128.(e % 256).(e / 256 + 1), likewise fd00:128:0:(e % 256)::(e / 256 + 1)
//   VTEP of peer p     172.16.1.p
//
// Addresses are arithmetic, so that whoever writes packets needs no table that takes up cache.

import { readFileSync } from 'node:fs';
import { DEVICE_FIRST_ENDPOINT } from '../wasm/abi/layout.ts';
import { Core } from '../engine/core.ts';
import { Forwarding } from '../engine/forwarding.ts';
import { PROFILES, type Limits, type PolicyLimits, type ServiceLimits } from
  '../engine/memory-map.ts';
import type { ClusterNode, Tunnel } from '../engine/model.ts';

export const PEERS = 256;
export const VNI = 1;
/** Packets in a batch, as the loop takes them from devices. */
export const BATCH = 64;
/** Most pods on either side: the third and fourth byte of an address tell them apart. */
export const PODS_MAX = 60_000;
export const OWN_MAC = '02:00:00:00:00:01';
const CORE = new URL('../wasm/core.wasm', import.meta.url);
const FLOW_SEED = 20_260_101;

export interface SceneSettings {
  pods: number;
  families: ('IPv4' | 'IPv6')[];
  /** Room for more routes of each family. */
  routes?: number;
  policy?: Partial<PolicyLimits>;
  services?: ServiceLimits;
}

export interface Scene {
  core: Core;
  forwarding: Forwarding;
  limits: Limits;
}

let compiled: WebAssembly.Module | undefined;

export function coreModule(): WebAssembly.Module {
  compiled ??= new WebAssembly.Module(readFileSync(CORE));
  return compiled;
}

/** Makes a core that knows the peers and has every pod attached. */
export function makeScene(settings: SceneSettings): Scene {
  const { pods, families } = settings;
  if (pods > PODS_MAX) throw new Error(`${pods} pods, there is room for ${PODS_MAX}`);
  const limits = sceneLimits(settings);
  const core = Core.create(coreModule(), limits, FLOW_SEED);
  const forwarding = new Forwarding(core, limits, {
    nodeName: 'here', podNetworks: ['10.0.0.0/8', 'fd00::/16'], underlayMtu: 1500,
    defaultMac: { IPv4: OWN_MAC, IPv6: OWN_MAC },
  });
  const remotes = Array.from({ length: PEERS }, (_, peer) => remoteNode(peer));
  forwarding.applySnapshot(
    { revision: 1, local: 'here', nodes: [localNode(), ...remotes], pods: [] });
  for (let pod = 0; pod < pods; pod += 1) {
    const addresses = families.map((family) => localAddress(family, pod));
    const { device } = forwarding.attachEndpoint(`bench/pod-${pod}`, addresses, null);
    if (device !== deviceOf(pod)) throw new Error(`pod ${pod} is on device ${device}`);
  }
  const problems = forwarding.problems();
  if (problems.length > 0) throw new Error(`bench scene: ${problems.join('; ')}`);
  return { core, forwarding, limits };
}

/** The device of a local pod. */
export function deviceOf(pod: number): number {
  return DEVICE_FIRST_ENDPOINT + pod;
}

export function localAddress(family: 'IPv4' | 'IPv6', pod: number): string {
  const number = pod + 256;
  if (family === 'IPv6') return `fd00:64::${number.toString(16)}`;
  return `10.64.${number >>> 8}.${number & 255}`;
}

export function remoteAddress(family: 'IPv4' | 'IPv6', pod: number): string {
  const [peer, host] = [pod & 255, (pod >>> 8) + 1];
  if (family === 'IPv4') return `10.128.${peer}.${host}`;
  return peer === 0
    ? `fd00:128::${host.toString(16)}`
    : `fd00:128:0:${peer.toString(16)}::${host.toString(16)}`;
}

function sceneLimits({ pods, routes: more, policy, services }: SceneSettings): Limits {
  const { standard } = PROFILES;
  const prefixes = pods + (more ?? 0) + 2048;
  const routes = { prefixes, nodes: prefixes * 8, leaves: (prefixes * 8) + 65536 };
  return {
    ...standard,
    workers: 1,
    slots: BATCH,
    nextHops: pods + PEERS + 64,
    devices: pods + DEVICE_FIRST_ENDPOINT,
    routesIpv4: routes,
    routesIpv6: routes,
    policy: { ...standard.policy, ...policy },
    services: services ?? { fronts: 0, backends: 0 },
  };
}

function localNode(): ClusterNode {
  return {
    name: 'here', podCidrs: ['10.64.0.0/16', 'fd00:64::/64'], addresses: ['172.16.0.1'],
    tunnels: tunnels('172.16.0.1', OWN_MAC),
  };
}

function remoteNode(peer: number): ClusterNode {
  const sixth = peer === 0 ? 'fd00:128::/64' : `fd00:128:0:${peer.toString(16)}::/64`;
  return {
    name: `node-${peer}`,
    podCidrs: [`10.128.${peer}.0/24`, sixth],
    addresses: [`172.16.1.${peer}`],
    tunnels: tunnels(`172.16.1.${peer}`, `02:00:00:00:01:${peer.toString(16).padStart(2, '0')}`),
  };
}

/** Both families over one VTEP. */
function tunnels(remote: string, mac: string): Tunnel[] {
  return (['IPv4', 'IPv6'] as const).map((family) =>
    ({ family, kind: 'vxlan', remote, port: 8472, vni: VNI, mac }));
}
