// What NetworkPolicies and ClusterNetworkPolicies have in common once they are read: who they are
// about, and rules in the order in which they count.

import { PROTOCOL_NUMBERS } from '../fields.ts';
import type { Selector } from './selector.ts';

export type Direction = 'ingress' | 'egress';

/** Tiers in the order in which they decide. */
export const TIER_ADMIN = 0;
export const TIER_NETWORK_POLICY = 1;
export const TIER_BASELINE = 2;

/** Who a rule names: pods of namespaces, nodes' addresses, or a block of addresses. */
export type Peer =
  | { kind: 'pods'; namespaces: Selector; pods: Selector }
  | { kind: 'nodes'; nodes: Selector }
  | { kind: 'block'; cidr: string; except: readonly string[] };

/** A port by the name it has in the destination pod; `protocol` null for any protocol. */
export interface PortName {
  name: string;
  protocol: number | null;
}

/** Keys `protocol << 16 | port` as pairs of first and last, and ports by name. */
export interface Ports {
  ranges: readonly number[];
  names: readonly PortName[];
}

/** `peers` null is everybody, `ports` null everything. `text` names it within its policy. */
export interface Rule {
  text: string;
  action: 'allow' | 'deny' | 'pass';
  peers: readonly Peer[] | null;
  ports: Ports | null;
}

/** A policy in one direction. What it isolates and no rule of its tier allows is denied. */
export interface Part {
  isolates: boolean;
  rules: readonly Rule[];
}

export interface Policy {
  /** How verdicts name it: `NetworkPolicy shop/allow-web`. */
  title: string;
  tier: number;
  priority: number;
  /** Whom it is about. */
  namespaces: Selector;
  pods: Selector;
  /** Null where it says nothing about that direction. */
  ingress: Part | null;
  egress: Part | null;
}

/** The keys of a protocol's ports, from first to last. */
export function portRange(
  protocol: keyof typeof PROTOCOL_NUMBERS, first: number, last: number,
): [number, number] {
  const base = PROTOCOL_NUMBERS[protocol] << 16;
  return [base | first, base | last];
}
