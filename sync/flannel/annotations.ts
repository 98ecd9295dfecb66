// What flannel's nodes must read on our Node to take it for one of their own: its lease, as
// annotations. Pure.
//
// The form is flannel's own (pkg/subnet/kube, pkg/backend/vxlan): `backend-data` is what Go's
// json.Marshal makes of a struct, without a space and with VtepMAC last, since flannel itself reads
// the MAC back by cutting the text. A family that is not in use has no annotations.

import { createHash } from 'node:crypto';
import * as v from 'valibot';
import {
  addressBytes, addressFamily, addressText, isAddress, isMac, isPrefix, macBytes, macText,
  prefixKey, prefixText,
} from '../../engine/address.ts';
import type { Family } from '../../engine/address.ts';
import { parseShape } from '../../engine/shape.ts';
import { maybe } from '../fields.ts';

const PREFIX = 'flannel.alpha.coreos.com/';
export const MANAGED = `${PREFIX}kube-subnet-manager`;
export const BACKEND_TYPE = `${PREFIX}backend-type`;

export const FAMILIES = ['IPv4', 'IPv6'] as const;

/** Names of a family's annotations: what the node writes, and what its operator may. */
export const NAMES = {
  IPv4: {
    data: `${PREFIX}backend-data`,
    address: `${PREFIX}public-ip`,
    overwrite: `${PREFIX}public-ip-overwrite`,
    pick: `${PREFIX}node-public-ip`,
  },
  IPv6: {
    data: `${PREFIX}backend-v6-data`,
    address: `${PREFIX}public-ipv6`,
    overwrite: `${PREFIX}public-ipv6-overwrite`,
    pick: `${PREFIX}node-public-ipv6`,
  },
} as const;

/** A node's VTEP of one family. `address` is where peers send to. */
export interface Vtep {
  vni: number;
  mac: string;
  address: string;
}

/** What a node promises its peers. */
export type Lease = Partial<Record<Family, Vtep>>;

export type Annotations = Readonly<Record<string, string>>;

/** What we read of our own Node. `annotations` are those of flannel, whoever wrote them. */
export interface OwnNode {
  uid: string;
  resourceVersion: string;
  podCidrs: string[];
  annotations: Annotations;
  /** The condition NetworkUnavailable says that pods can run here. */
  isNetworkUp: boolean;
}

/** The type of the condition that flannel clears. */
const NETWORK_UNAVAILABLE = 'NetworkUnavailable';

const NodeSchema = v.object({
  metadata: v.object({
    uid: maybe(v.string()),
    resourceVersion: maybe(v.string()),
    annotations: maybe(v.record(v.string(), v.unknown())),
  }),
  spec: maybe(v.object({
    podCIDR: maybe(v.string()), podCIDRs: maybe(v.array(v.string())),
  })),
  status: maybe(v.object({
    conditions: maybe(v.array(v.object({ type: v.string(), status: v.string() }))),
  })),
});

/** Reads a Node. Throws ShapeError for what is none. */
export function readOwnNode(object: unknown): OwnNode {
  const { metadata, spec, status } = parseShape(NodeSchema, object, 'our Node');
  const single = spec?.podCIDR ? [spec.podCIDR] : [];
  const podCidrs = (spec?.podCIDRs?.length ? spec.podCIDRs : single)
    .filter(isPrefix).map((text) => prefixText(prefixKey(text)));
  const annotations = Object.entries(metadata.annotations ?? {})
    .filter((entry): entry is [string, string] =>
      entry[0].startsWith(PREFIX) && typeof entry[1] === 'string');
  return {
    uid: metadata.uid ?? '',
    resourceVersion: metadata.resourceVersion ?? '',
    podCidrs,
    annotations: Object.fromEntries(annotations),
    isNetworkUp: (status?.conditions ?? []).some((condition) =>
      condition.type === NETWORK_UNAVAILABLE && condition.status === 'False'),
  };
}

/** The annotations of a lease, sorted by name as Go sorts them. */
export function leaseAnnotations(lease: Lease): Annotations {
  const all: [string, string][] = [[MANAGED, 'true'], [BACKEND_TYPE, 'vxlan']];
  for (const family of FAMILIES) {
    const vtep = lease[family];
    if (vtep === undefined) continue;
    all.push([NAMES[family].data, backendData(vtep)], [NAMES[family].address, vtep.address]);
  }
  return Object.fromEntries(all.sort(([a], [b]) => (a < b ? -1 : 1)));
}

function backendData({ vni, mac }: Vtep): string {
  return JSON.stringify({ VNI: vni, VtepMAC: mac });
}

/** Those of `wanted` that a node does not have, or has with another value. */
export function missingFrom(present: Annotations, wanted: Annotations): Annotations {
  return Object.fromEntries(
    Object.entries(wanted).filter(([name, value]) => present[name] !== value));
}

/** The body of a strategic merge patch of a Node's status. `upSince`, a time, clears the condition
 * NetworkUnavailable; null leaves it alone. */
export function nodePatch(annotations: Annotations, upSince: string | null): object {
  const condition = upSince === null ? null : {
    type: NETWORK_UNAVAILABLE,
    status: 'False',
    lastHeartbeatTime: upSince,
    lastTransitionTime: upSince,
    reason: 'FlannelIsUp',
    message: 'Flannel is running on this node',
  };
  return {
    ...(Object.keys(annotations).length === 0 ? {} : { metadata: { annotations } }),
    ...(condition === null ? {} : { status: { conditions: [condition] } }),
  };
}

/** The lease with as much changed as peers need to take note. In a cluster of two families flannel
 * heeds a change of a Node only where the annotations of both have changed (pkg/subnet/kube,
 * handleUpdateLeaseEvent), so that where one is as it was, its MAC becomes another. */
export function heededLease(present: Annotations, lease: Lease, uid: string): Lease {
  const { IPv4, IPv6 } = lease;
  if (IPv4 === undefined || IPv6 === undefined) return lease;
  const isKept = (family: Family, vtep: Vtep): boolean => present[BACKEND_TYPE] === 'vxlan'
    && present[NAMES[family].data] === backendData(vtep)
    && present[NAMES[family].address] === vtep.address;
  const kept = [isKept('IPv4', IPv4), isKept('IPv6', IPv6)];
  if (kept[0] === kept[1]) return lease;
  return kept[0] === true
    ? { IPv4: { ...IPv4, mac: madeMac(uid, 'IPv4', IPv4.mac) }, IPv6 }
    : { IPv4, IPv6: { ...IPv6, mac: madeMac(uid, 'IPv6', IPv6.mac) } };
}

/** The MAC that a family's annotation has; null for none that a VTEP can go on with: unicast and
 * locally administered, as flannel makes them (pkg/mac). */
export function standingMac(annotations: Annotations, family: Family): string | null {
  const Data = v.object({ VtepMAC: v.pipe(v.string(), v.check(isMac)) });
  try {
    const parsed = v.safeParse(Data, JSON.parse(annotations[NAMES[family].data] ?? ''));
    if (!parsed.success) return null;
    const bytes = macBytes(parsed.output.VtepMAC);
    return ((bytes[0] ?? 0) & 0x02) === 0 ? null : macText(bytes);
  } catch {
    return null;
  }
}

/** A MAC for a node that has none: the same for as long as the Node lives, whatever is lost on its
 * disk. `instead` is one that it must differ from. */
export function madeMac(uid: string, family: Family, instead = ''): string {
  const digest = createHash('sha256').update(`${uid}/${family}/${instead}`).digest();
  const bytes = Uint8Array.from(digest.subarray(0, 6));
  bytes[0] = ((bytes[0] ?? 0) & 0xfe) | 0x02;
  return macText(bytes);
}

/** Where peers send to, and what is wrong with what the operator asks for. `own` are the addresses
 * that the host tunnels from. */
export function publicAddress(
  annotations: Annotations, family: Family, own: readonly string[],
): { address: string | null; problem: string | null } {
  const { overwrite, pick } = NAMES[family];
  const [first = null] = own;
  const wanted = annotations[overwrite] || annotations[pick] || '';
  if (wanted === '') return { address: first, problem: null };
  const name = annotations[overwrite] ? overwrite : pick;
  const refuse = (reason: string): { address: string | null; problem: string } =>
    ({ address: first, problem: `annotation ${name}: ${wanted} ${reason}: not heeded` });
  if (!isAddress(wanted) || addressFamily(wanted) !== family) {
    return refuse(`is not an ${family} address`);
  }
  const address = addressText(addressBytes(wanted));
  // What is said to peers need not be local; what picks an address must be one to tunnel from.
  if (name === overwrite || own.includes(address)) return { address, problem: null };
  return refuse(`is none that this host tunnels from (${own.join(', ') || 'none'})`);
}
