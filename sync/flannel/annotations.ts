// What flannel's nodes must read on our Node to take it for one of their own: its lease, as
// annotations. Pure.
//
// The form is flannel's own (pkg/subnet/kube, pkg/backend/*). Of type vxlan, `backend-data` is what
// Go's json.Marshal makes of a struct, without a space and with VtepMAC last, since flannel itself
// reads the MAC back by cutting the text; the other types have none, which Go writes as null. A
// family that is not in use has no annotations.

import { createHash } from 'node:crypto';
import * as v from 'valibot';
import {
  addressBytes, addressFamily, addressText, isAddress, isMac, macBytes, macText,
} from '../../engine/address.ts';
import type { Family } from '../../engine/address.ts';
import type { FlannelType } from '../../engine/net-conf.ts';
import { sortedAnnotations, type Annotations, type UpCondition } from '../own-node.ts';

/** What all of flannel's annotations begin with. */
export const PREFIX = 'flannel.alpha.coreos.com/';
export const MANAGED = `${PREFIX}kube-subnet-manager`;
export const BACKEND_TYPE = `${PREFIX}backend-type`;

/** What flannel says once a node's network is up. */
export const FLANNEL_IS_UP: UpCondition = {
  reason: 'FlannelIsUp', message: 'Flannel is running on this node',
};

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

/** One family of a lease: where peers send to, and the data that its type has. */
export interface LeaseEnd {
  address: string;
  data: string;
}

/** What a node promises its peers. */
export type Lease = { type: FlannelType } & Partial<Record<Family, LeaseEnd>>;

/** Data of a type that has none. Where data must change so that peers take note, the second says
 * as little as the first, and is another text. */
const NO_DATA = ['null', '{}'] as const;

/** A type as flannel writes it: `udp` sets none. */
export function typeText(type: FlannelType): string {
  return type === 'udp' ? '' : type;
}

/** The annotations of a lease, sorted by name as Go sorts them. */
export function leaseAnnotations(lease: Lease): Annotations {
  const all: [string, string][] = [[MANAGED, 'true'], [BACKEND_TYPE, typeText(lease.type)]];
  for (const family of FAMILIES) {
    const end = lease[family];
    if (end === undefined) continue;
    all.push([NAMES[family].data, end.data], [NAMES[family].address, end.address]);
  }
  return sortedAnnotations(all);
}

/** The data of a VTEP. */
export function vtepData(vni: number, mac: string): string {
  return JSON.stringify({ VNI: vni, VtepMAC: mac });
}

/** The lease with as much changed as peers need to take note. In a cluster of two families flannel
 * heeds a change of a Node only where the annotations of both have changed (pkg/subnet/kube,
 * handleUpdateLeaseEvent), so that where one is as it was, its MAC becomes another. */
export function heededLease(present: Annotations, lease: Lease, uid: string): Lease {
  const { IPv4, IPv6 } = lease;
  if (IPv4 === undefined || IPv6 === undefined) return lease;
  const isKept = (family: Family, end: LeaseEnd): boolean =>
    present[BACKEND_TYPE] === typeText(lease.type)
    && present[NAMES[family].data] === end.data
    && present[NAMES[family].address] === end.address;
  const kept = [isKept('IPv4', IPv4), isKept('IPv6', IPv6)];
  if (kept[0] === kept[1]) return lease;
  return kept[0] === true
    ? { ...lease, IPv4: { ...IPv4, data: otherData(IPv4.data, 'IPv4', uid) } }
    : { ...lease, IPv6: { ...IPv6, data: otherData(IPv6.data, 'IPv6', uid) } };
}

/** Data that means the same to peers, in another text. */
function otherData(data: string, family: Family, uid: string): string {
  const vtep = readVtep(data);
  if (vtep === null) return data === NO_DATA[0] ? NO_DATA[1] : NO_DATA[0];
  return vtepData(vtep.VNI, madeMac(uid, family, macText(macBytes(vtep.VtepMAC))));
}

const VtepSchema = v.object({
  VNI: v.optional(v.number(), 0), VtepMAC: v.pipe(v.string(), v.check(isMac)),
});

function readVtep(data: string): v.InferOutput<typeof VtepSchema> | null {
  try {
    const parsed = v.safeParse(VtepSchema, JSON.parse(data));
    return parsed.success ? parsed.output : null;
  } catch {
    return null;
  }
}

/** The MAC that a family's annotation has; null for none that a VTEP can go on with: unicast and
 * locally administered, as flannel makes them (pkg/mac). */
export function standingMac(annotations: Annotations, family: Family): string | null {
  const vtep = readVtep(annotations[NAMES[family].data] ?? '');
  if (vtep === null) return null;
  const bytes = macBytes(vtep.VtepMAC);
  return ((bytes[0] ?? 0) & 0x02) === 0 ? null : macText(bytes);
}

/** The data that a family's annotation has, of a type that has none. */
export function standingNoData(annotations: Annotations, family: Family): string {
  const data = annotations[NAMES[family].data];
  return NO_DATA.find((text) => text === data) ?? NO_DATA[0];
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
