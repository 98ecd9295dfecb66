// A cluster of numbered nodes for the tests of engine/forwarding.ts, and what becomes of packets in
// it, in a few words.

import * as layout from '../../wasm/abi/layout.ts';
import { PREFIX_USAGE_LEAVES, PREFIX_USAGE_NODES, PREFIX_USAGE_RETIRED } from
  '../../wasm/abi/prefix-table.ts';
import { REASON_NAMES } from '../../engine/counters.ts';
import type { Core } from '../../engine/core.ts';
import { Forwarding, type ForwardingOptions } from '../../engine/forwarding.ts';
import type { Limits } from '../../engine/memory-map.ts';
import type { ClusterNode, Delta, VxlanTunnel } from '../../engine/model.ts';
import { createCore, processOne, TEST_LIMITS, type Verdict } from './core.ts';
import { ethernet, ipv4, ipv6, parseVxlan, toHex, vxlan } from './packets.ts';

export const POD = '10.1.0.5';
export const POD_6 = 'fd00:1::5';

/** A node that all its peers reach by VXLAN. */
export type VxlanNode = ClusterNode & { tunnels: VxlanTunnel[] };

/** Node i: 10.1.i.0/24 and fd00:1:0:i::/64, 192.0.2.i and 2001:db8::i, VTEPs 0e:…:04:i and 06:i. */
export function makeNode(index: number, changes: Partial<VxlanNode> = {}): VxlanNode {
  const hex = index.toString(16);
  return {
    name: `node-${index}`,
    podCidrs: [`10.1.${index}.0/24`, `fd00:1:0:${hex}::/64`],
    addresses: [`192.0.2.${index}`, `2001:db8::${hex}`],
    tunnels: [makeTunnel('IPv4', index), makeTunnel('IPv6', index)],
    ...changes,
  };
}

export function makeTunnel(family: 'IPv4' | 'IPv6', index: number): VxlanTunnel {
  const ipv4 = family === 'IPv4';
  const hex = index.toString(16);
  const mac = `0e:00:00:00:0${ipv4 ? 4 : 6}:${hex.padStart(2, '0')}`;
  const remote = ipv4 ? `192.0.2.${index}` : `2001:db8::${hex}`;
  return { family, kind: 'vxlan', remote, port: 8472, vni: 1, mac };
}

export const LOCAL = makeNode(0, {
  podCidrs: ['10.1.0.0/24', 'fd00:1::/64'], addresses: ['192.0.2.100', '2001:db8::100'],
});

/** A core and an empty cluster around node-0. */
export function setUp(
  limits: Partial<Limits> = {}, options: Partial<ForwardingOptions> = {},
): { core: Core; forwarding: Forwarding } {
  const all = { ...TEST_LIMITS, ...limits };
  const core = createCore(all);
  const forwarding = new Forwarding(core, all, {
    nodeName: 'node-0', podNetworks: ['10.1.0.0/16', 'fd00:1::/32'], underlayMtu: 1500,
    defaultMac: { IPv4: '02:00:00:00:00:04', IPv6: '02:00:00:00:00:06' },
    ...options,
  });
  return { core, forwarding };
}

export function apply(forwarding: Forwarding, nodes: ClusterNode[]): void {
  forwarding.applySnapshot({ revision: 1, local: 'node-0', nodes, pods: [] });
}

export function change(
  forwarding: Forwarding, nodes: ClusterNode[], removedNodes: string[] = [],
): void {
  const delta: Delta = { from: 1, to: 2, nodes, removedNodes, pods: [], removedPods: [] };
  forwarding.applyDelta(delta);
}

/** Where a pod's packet goes: `remote:port mac vni`, the name of a reason, or `device N`. */
export function send(core: Core, device: number, destination: string): string {
  const packet = destination.includes(':')
    ? ipv6({ source: POD_6, destination, nextHeader: 59 }, new Uint8Array(0))
    : ipv4({ source: POD, destination, protocol: 17 }, new Uint8Array(8));
  return describe(core, processOne(core, packet, device));
}

/** The same of a verdict. */
export function describe(core: Core, { sent, reason, output, bytes, remote }: Verdict): string {
  if (!sent || reason !== 0) return REASON_NAMES[reason] ?? '';
  const kind = core.view.getUint8(
    core.directory(layout.DIRECTORY_DEVICES) + (output * layout.DEVICE_STRIDE));
  if (kind !== layout.DEVICE_KIND_UNDERLAY) return `device ${output}`;
  const { vni, frame } = parseVxlan(bytes);
  return `${remote.address}:${remote.port} ${toHex(frame.subarray(5, 6))} ${vni}`;
}

/** What becomes of a packet from `remote` for our pod. */
export function receive(core: Core, remote: string, source: string, vni = 1): string {
  const inner = ipv4({ source, destination: POD, protocol: 17 }, new Uint8Array(8));
  const frame = ethernet(
    { destination: '0e:00:00:00:04:00', source: '0e:00:00:00:04:99', type: 0x0800 }, inner);
  const input = layout.DEVICE_UNDERLAY_IPV4;
  return describe(core, processOne(core, vxlan({ vni }, frame), input,
    { address: remote, port: 1234 }));
}

/** How full each table is, inside of the prefix tables included. */
export function usage(core: Core, forwarding: Forwarding): unknown {
  const fields = [layout.DIRECTORY_ROUTES_IPV4, layout.DIRECTORY_ROUTES_IPV6,
    layout.DIRECTORY_REMOTES_IPV4, layout.DIRECTORY_REMOTES_IPV6];
  const inside = fields.map((field) => {
    core.exports.prefixReclaim(core.directory(field));
    return [PREFIX_USAGE_NODES, PREFIX_USAGE_LEAVES, PREFIX_USAGE_RETIRED].map((what) =>
      core.exports.prefixUsage(core.directory(field), what));
  });
  return [forwarding.tables(), inside];
}
