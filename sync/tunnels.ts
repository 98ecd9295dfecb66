// Which tunnels lead to a node: what its annotations offer, and what is known of the cluster. Pure.

import type { Tunnel } from '../engine/model.ts';
import type { Refuse } from './fields.ts';
import { CALICO_ANNOTATIONS, readReach } from './calico/annotations.ts';
import type { CalicoReach } from './calico/annotations.ts';
import type { CalicoView } from './calico/pools.ts';
import { calicoTunnels, tunnelAddresses } from './calico/tunnels.ts';
import { FLANNEL_ANNOTATIONS, flannelTunnels, readLease } from './flannel/lease.ts';
import type { AnnotationValues, FlannelView, PeerLease } from './flannel/lease.ts';

/** The annotations of a Node that are read. */
export const READ_ANNOTATIONS: readonly string[] = [...FLANNEL_ANNOTATIONS, ...CALICO_ANNOTATIONS];

/** How a node says that it can be reached. */
export interface Reach {
  flannel: PeerLease | null;
  calico: CalicoReach | null;
}

/** What is known of the cluster: by whose annotations its nodes are reached, null for those that
 * are not heeded, and the prefixes of our links, null before the host has told them. */
export interface ClusterView {
  flannel: FlannelView | null;
  calico: CalicoView | null;
  links: readonly string[] | null;
}

/** Where nothing is known, every node is reached as it says, by flannel's words before Calico's. */
export const PLAIN_VIEW: ClusterView = {
  flannel: { type: null, port: null, isDirectRouting: false },
  calico: { mode: null, pools: [] },
  links: null,
};

/** What of a node depends on the view. */
export interface Choice {
  tunnels: Tunnel[];
  /** Of the node, beside those that Kubernetes knows. */
  addresses: string[];
  warnings: string[];
}

export function readReachOf(
  nodeName: string, values: AnnotationValues, refuse: Refuse,
): Reach {
  return { flannel: readLease(values, refuse), calico: readReach(nodeName, values) };
}

/** The tunnels to a node; those of our own node are how others reach it. */
export function chooseTunnels(
  { name, podCidrs }: { name: string; podCidrs: readonly string[] }, { flannel, calico }: Reach,
  view: ClusterView, isLocal: boolean,
): Choice {
  const warnings: string[] = [];
  const warn = (text: string): void => { warnings.push(`Node ${name}: ${text}`); };
  const links = isLocal ? null : view.links;
  if (flannel !== null && view.flannel !== null) {
    return {
      tunnels: flannelTunnels(flannel, view.flannel, links, warn), addresses: [], warnings,
    };
  }
  if (calico === null || view.calico === null) return { tunnels: [], addresses: [], warnings };
  return {
    tunnels: calicoTunnels(calico, podCidrs, view.calico, links, warn),
    addresses: tunnelAddresses(calico, podCidrs),
    warnings,
  };
}
