// What follows from the configuration and from the underlay that was found.

import { createHash } from 'node:crypto';
import type { ForwardingOptions } from '../engine/forwarding.ts';
import { VXLAN_OVERHEAD_IPV4, VXLAN_OVERHEAD_IPV6 } from '../wasm/abi/headers.ts';
import type { HostConfig } from './config.ts';
import type { HandoverOptions } from './handover.ts';
import type { Underlay } from './underlay.ts';

/** A VTEP MAC for a node that the cluster has not given one: stable, locally administered. */
export function defaultMac(nodeName: string, family: string): string {
  const digest = createHash('sha256').update(`${nodeName}/${family}`).digest();
  digest[0] = ((digest[0] ?? 0) & 0xfe) | 0x02;
  return [...digest.subarray(0, 6)].map((byte) => byte.toString(16).padStart(2, '0')).join(':');
}

/** What the tables need to know beside the cluster. */
export function forwardingOptions(config: HostConfig, underlayMtu: number): ForwardingOptions {
  const { nodeName, podNetworks, subnetEnv } = config;
  return {
    nodeName,
    podNetworks,
    hasNodePods: subnetEnv !== '',
    underlayMtu,
    defaultMac: { IPv4: defaultMac(nodeName, 'IPv4'), IPv6: defaultMac(nodeName, 'IPv6') },
  };
}

/** What of us is left to the next daemon, and how. */
export function handoverOptions(
  { runtimeDirectory, handover: { enabled, awaySeconds } }: HostConfig,
): Omit<HandoverOptions, 'log' | 'store'> {
  return { runtimeDirectory, isEnabled: enabled, awayMs: awaySeconds * 1000 };
}

/** The MTU that every path of the overlay takes. */
export function overlayMtu({ mtu, addresses }: Pick<Underlay, 'mtu' | 'addresses'>): number {
  return mtu - (addresses.IPv6 === undefined ? VXLAN_OVERHEAD_IPV4 : VXLAN_OVERHEAD_IPV6);
}
