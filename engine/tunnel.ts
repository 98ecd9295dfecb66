// What each kind of tunnel is to the tables: its number, its port, what it costs of the MTU, and
// the devices that its packets come and go by.

import {
  ETHERNET_HEADER_SIZE, GENEVE_OVERHEAD_IPV4, GENEVE_OVERHEAD_IPV6, GENEVE_PORT,
  IPIP_OVERHEAD_IPV4, IPIP_OVERHEAD_IPV6, UDP_OVERHEAD_IPV4, UDP_OVERHEAD_IPV6,
  VXLAN_OVERHEAD_IPV4, VXLAN_OVERHEAD_IPV6,
} from '../wasm/abi/headers.ts';
import {
  DEVICE_GENEVE_IPV4, DEVICE_GENEVE_IPV6, DEVICE_IP6IP_IPV4, DEVICE_IP6IP_IPV6, DEVICE_IPIP_IPV4,
  DEVICE_IPIP_IPV6, DEVICE_NODE, DEVICE_UDP_IPV4, DEVICE_UDP_IPV6, DEVICE_UNDERLAY_IPV4,
  DEVICE_UNDERLAY_IPV6, TUNNEL_DIRECT, TUNNEL_GENEVE, TUNNEL_IPIP, TUNNEL_UDP, TUNNEL_VXLAN,
} from '../wasm/abi/layout.ts';
import { addressFamily, type Family } from './address.ts';
import type { Tunnel } from './model.ts';
import { FLANNEL_UDP_PORT } from './net-conf.ts';

export type TunnelKind = Tunnel['kind'];

/** A tunnel whose port is known: 0 where its kind has none. */
export type PeerTunnel = Tunnel & { port: number };

export const TUNNEL_NUMBERS: Readonly<Record<TunnelKind, number>> = {
  vxlan: TUNNEL_VXLAN, geneve: TUNNEL_GENEVE, ipip: TUNNEL_IPIP, udp: TUNNEL_UDP,
  direct: TUNNEL_DIRECT,
};

/** Devices by the family of outer addresses. */
type OuterDevices = Readonly<Record<Family, number>>;

/** Devices of each kind, by the family of what they carry, then by that of outer addresses. */
const DEVICES: Readonly<Record<TunnelKind, Readonly<Record<Family, OuterDevices>>>> = {
  vxlan: both({ IPv4: DEVICE_UNDERLAY_IPV4, IPv6: DEVICE_UNDERLAY_IPV6 }),
  geneve: both({ IPv4: DEVICE_GENEVE_IPV4, IPv6: DEVICE_GENEVE_IPV6 }),
  udp: both({ IPv4: DEVICE_UDP_IPV4, IPv6: DEVICE_UDP_IPV6 }),
  ipip: {
    IPv4: { IPv4: DEVICE_IPIP_IPV4, IPv6: DEVICE_IPIP_IPV6 },
    IPv6: { IPv4: DEVICE_IP6IP_IPV4, IPv6: DEVICE_IP6IP_IPV6 },
  },
  direct: both({ IPv4: DEVICE_NODE, IPv6: DEVICE_NODE }),
};

function both(devices: OuterDevices): Record<Family, OuterDevices> {
  return { IPv4: devices, IPv6: devices };
}

/** The device that sends what a tunnel of a kind carries. */
export function tunnelDevice(kind: TunnelKind, inner: Family, outer: Family): number {
  return DEVICES[kind][inner][outer];
}

const OVERHEADS: Readonly<Record<TunnelKind, Readonly<Record<Family, number>>>> = {
  vxlan: { IPv4: VXLAN_OVERHEAD_IPV4, IPv6: VXLAN_OVERHEAD_IPV6 },
  geneve: { IPv4: GENEVE_OVERHEAD_IPV4, IPv6: GENEVE_OVERHEAD_IPV6 },
  udp: { IPv4: UDP_OVERHEAD_IPV4, IPv6: UDP_OVERHEAD_IPV6 },
  ipip: { IPv4: IPIP_OVERHEAD_IPV4, IPv6: IPIP_OVERHEAD_IPV6 },
  direct: { IPv4: 0, IPv6: 0 },
};

/** Bytes that a tunnel takes of the underlay's MTU. */
export function tunnelOverhead(tunnel: Tunnel): number {
  const overhead = OVERHEADS[tunnel.kind][addressFamily(tunnel.remote)];
  const hasFrame = tunnel.kind === 'geneve' && tunnel.mac !== null;
  return hasFrame ? overhead + ETHERNET_HEADER_SIZE : overhead;
}

/** The tunnel with its kind's port where it says none; `vxlanPort` is the cluster's. */
export function withPort(tunnel: Tunnel, vxlanPort: number): PeerTunnel {
  if (tunnel.kind === 'vxlan') return { ...tunnel, port: tunnel.port ?? vxlanPort };
  if (tunnel.kind === 'geneve') return { ...tunnel, port: tunnel.port ?? GENEVE_PORT };
  if (tunnel.kind === 'udp') return { ...tunnel, port: tunnel.port ?? FLANNEL_UDP_PORT };
  return { ...tunnel, port: 0 };
}

/** Tunnels that lead to one and the same end are one peer, which carries both families. Of those
 * that say no port, VXLAN has `vxlanPort`. */
export function groupTunnels(tunnels: Tunnel[], vxlanPort: number): [PeerTunnel, Family[]][] {
  const [first, second] = tunnels.map((tunnel) => withPort(tunnel, vxlanPort));
  if (first === undefined) return [];
  if (second === undefined) return [[first, [first.family]]];
  const isOne = JSON.stringify(end(first)) === JSON.stringify(end(second));
  if (isOne) return [[first, [first.family, second.family]]];
  return [[first, [first.family]], [second, [second.family]]];
}

/** What two tunnels to one end have in common. */
function end(tunnel: PeerTunnel): object {
  return { ...tunnel, family: null, why: null };
}

/** True where packets of the one tunnel are not taken for packets of the other: it is of another
 * kind, or has frames where the other has none. */
export function isOtherKind(one: Tunnel, other: Tunnel): boolean {
  const hasFrames = (tunnel: Tunnel): boolean => 'mac' in tunnel && tunnel.mac !== null;
  return one.kind !== other.kind || hasFrames(one) !== hasFrames(other);
}
