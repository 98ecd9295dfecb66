// What the peers' tunnels need of the host: sockets for what they bring, and routes of the node's
// own for what goes without a tunnel.

import { DEVICE_VXLAN_IPV4, DEVICE_VXLAN_IPV6 } from '../wasm/abi/layout.ts';
import { addressFamily, type Family } from './address.ts';
import type { Peer } from './forwarding.ts';
import type { ClusterNode } from './model.ts';
import { groupTunnels, tunnelDevice, withPort, type PeerTunnel } from './tunnel.ts';

/** A socket that some peer's packets come to: of UDP with a port, or of IP with the protocol number
 * of what it carries, which the device tells. */
export interface TunnelNeed {
  device: number;
  kind: Exclude<PeerTunnel['kind'], 'direct'>;
  /** Of the outer addresses. */
  family: Family;
  /** 0 where the kind has none. */
  port: number;
}

/** A route of the node's own stack: what is for `prefix` goes to `via`, on the underlay's link. */
export interface DirectRoute {
  prefix: string;
  via: string;
}

/** Sockets that nodes' tunnels need beside those of VXLAN at the cluster's port, each once. Of two
 * ports for one device the first has it. */
export function tunnelNeeds(nodes: Iterable<ClusterNode>, vxlanPort: number): TunnelNeed[] {
  const needs = new Map<number, TunnelNeed>();
  for (const { tunnels } of nodes) {
    for (const [tunnel, families] of groupTunnels(tunnels, vxlanPort)) {
      for (const need of allNeedsOf(tunnel, families, vxlanPort)) {
        if (!needs.has(need.device)) needs.set(need.device, need);
      }
    }
  }
  return [...needs.values()];
}

/** What a tunnel needs, and what the other end may choose in its place. */
function allNeedsOf(tunnel: PeerTunnel, families: Family[], vxlanPort: number): TunnelNeed[] {
  const { family, remote, alternative } = tunnel;
  const others = alternative === undefined ? [] : [{ family, remote, ...alternative }];
  return [tunnel, ...others.map((other) => withPort(other, vxlanPort))]
    .flatMap((one) => needsOf(one, families, vxlanPort));
}

function needsOf(tunnel: PeerTunnel, families: Family[], vxlanPort: number): TunnelNeed[] {
  const { kind, port } = tunnel;
  const family = addressFamily(tunnel.remote);
  if (kind === 'direct' || (kind === 'vxlan' && port === vxlanPort)) return [];
  if (kind === 'vxlan') {
    const device = family === 'IPv4' ? DEVICE_VXLAN_IPV4 : DEVICE_VXLAN_IPV6;
    return [{ device, kind, family, port }];
  }
  return families.map((inner) =>
    ({ device: tunnelDevice(kind, inner, family), kind, family, port }));
}

/** Routes to the pods of nodes that need no tunnel. */
export function directRoutesOf(nodes: Iterable<ClusterNode>, vxlanPort: number): DirectRoute[] {
  return [...nodes].flatMap(({ tunnels, podCidrs }) =>
    groupTunnels(tunnels, vxlanPort).flatMap(([{ kind, remote }, families]) =>
      kind !== 'direct' ? [] : podCidrs.filter((prefix) => families.includes(addressFamily(prefix)))
        .map((prefix) => ({ prefix, via: remote }))));
}

/** Routes to the pods of peers that need no tunnel, or needed none until lately. */
export function directRoutes(
  peers: Iterable<Peer>, nodes: ReadonlyMap<string, ClusterNode>,
): DirectRoute[] {
  const routes: DirectRoute[] = [];
  for (const { node, tunnel, previous, families } of peers) {
    const former = previous?.isLasting === false ? previous.tunnel : null;
    const direct = [tunnel, former].find((one) => one?.kind === 'direct');
    if (direct === undefined) continue;
    for (const prefix of nodes.get(node)?.podCidrs ?? []) {
      if (families.includes(addressFamily(prefix))) routes.push({ prefix, via: direct.remote });
    }
  }
  return routes;
}
