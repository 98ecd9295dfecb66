// How a Node of flannel is reached: what its annotations say, and which tunnel that is to us. Pure.
//
// In a cluster of flannel all nodes have one backend type, and take no note of nodes of another
// (pkg/backend/vxlan, RouteNetwork); so do we, where the cluster's is known. `public-ip` is where
// packets go. Type vxlan with DirectRouting, and ipip with it, send packets as they are to nodes
// that no router is before (pkg/ip, DirectRouting); host-gw knows no others.

import * as v from 'valibot';
import {
  addressBytes, addressFamily, addressText, isAddress, isMac, macBytes, macText, prefixHolds,
} from '../../engine/address.ts';
import type { Family } from '../../engine/address.ts';
import { FLANNEL_TYPES } from '../../engine/net-conf.ts';
import type { FlannelType } from '../../engine/net-conf.ts';
import type { Alternative, Tunnel } from '../../engine/model.ts';
import { fieldPath, issuePath, issueReason } from '../../engine/shape.ts';
import type { Refuse } from '../fields.ts';
import { BACKEND_TYPE, FAMILIES, MANAGED, NAMES } from './annotations.ts';

export type AnnotationValues = Readonly<Record<string, string | undefined>>;

/** The annotations that are read of every Node. */
export const FLANNEL_ANNOTATIONS: readonly string[] = [
  MANAGED, BACKEND_TYPE,
  ...FAMILIES.flatMap((family) => [NAMES[family].data, NAMES[family].address]),
];

/** A VTEP, as `backend-data` has it. */
interface Vtep {
  VNI: number;
  VtepMAC: string;
}

/** One family of a node: where packets go, either null where nothing is said of it. */
interface PeerEnd {
  address: string | null;
  vtep: Vtep | null;
}

/** What a node's annotations say. `type` is as they have it: empty for udp. */
export interface PeerLease extends Record<Family, PeerEnd> {
  type: string;
}

/** What we know of the cluster beside its Nodes. */
export interface FlannelView {
  /** The cluster's type, null where it is not known: each node is reached as it says. */
  type: FlannelType | null;
  /** The port of udp; null for the usual one. */
  port: number | null;
  isDirectRouting: boolean;
}

const BackendData = v.nullable(v.object({
  VNI: v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(0xffffff)),
  VtepMAC: v.pipe(
    v.string(),
    v.check(isMac, 'not a unicast MAC address'),
    v.transform((text) => macText(macBytes(text))),
  ),
}));

/** Reads a node of flannel's kube subnet manager; null for a node that is none. */
export function readLease(values: AnnotationValues, refuse: Refuse): PeerLease | null {
  if (values[MANAGED] !== 'true') return null;
  const type = values[BACKEND_TYPE] ?? '';
  const end = (family: Family): PeerEnd => ({
    address: publicIp(values, family, refuse),
    vtep: type === 'vxlan' ? backendData(values, family, refuse) : null,
  });
  return { type, IPv4: end('IPv4'), IPv6: end('IPv6') };
}

function publicIp(values: AnnotationValues, family: Family, refuse: Refuse): string | null {
  const name = NAMES[family].address;
  const text = values[name] ?? '';
  if (text === '') return null;
  if (isAddress(text) && addressFamily(text) === family) return addressText(addressBytes(text));
  refuse(['metadata', 'annotations', name], `not an ${family} address`);
  return null;
}

function backendData(values: AnnotationValues, family: Family, refuse: Refuse): Vtep | null {
  const name = NAMES[family].data;
  const text = values[name] ?? '';
  if (text === '') return null;
  const path = ['metadata', 'annotations', name];
  try {
    const parsed = v.safeParse(BackendData, JSON.parse(text));
    if (parsed.success) return parsed.output;
    for (const issue of parsed.issues) {
      const reason = [fieldPath(issuePath(issue)), issueReason(issue)];
      refuse(path, reason.filter((part) => part !== '').join(': '));
    }
  } catch {
    refuse(path, 'not JSON');
  }
  return null;
}

/** The tunnels to a node. `links` are the prefixes of our own links; null where these are not
 * known, or do not matter: what is said is believed then. */
export function flannelTunnels(
  lease: PeerLease, view: FlannelView, links: readonly string[] | null,
  warn: (text: string) => void,
): Tunnel[] {
  const type = FLANNEL_TYPES.find((name) => name === (lease.type || 'udp'));
  if (type === undefined) {
    warn(`flannel backend type ${lease.type} is not spoken here: no tunnel`);
    return [];
  }
  if (view.type !== null && view.type !== type) {
    warn(`flannel backend type ${type}, and the cluster's is ${view.type}: no tunnel`);
    return [];
  }
  const families = type === 'vxlan' || type === 'host-gw' ? FAMILIES : ['IPv4'] as const;
  return families.flatMap((family) => tunnelOf({ type, family, end: lease[family] }, view, links,
    (text) => warn(`${text}: no ${family} tunnel`)) ?? []);
}

interface Wanted {
  type: FlannelType;
  family: Family;
  end: PeerEnd;
}

function tunnelOf(
  { type, family, end: { address, vtep } }: Wanted, view: FlannelView,
  links: readonly string[] | null, warn: (text: string) => void,
): Tunnel | null {
  const { data, address: name } = NAMES[family];
  if (address === null) {
    if (vtep !== null) warn(`${data} without ${name}`);
    return null;
  }
  const link = links?.find((prefix) =>
    addressFamily(prefix) === family && prefixHolds(prefix, address));
  const base = { family, remote: address };
  if (type === 'host-gw') {
    const isReachable = links === null || link !== undefined;
    if (!isReachable) warn(`type host-gw, and ${address} is not on our link`);
    const on = link === undefined ? '' : `, on our link ${link}`;
    return isReachable ? { ...base, kind: 'direct', why: `type host-gw${on}` } : null;
  }
  if (type === 'vxlan' && vtep === null) {
    warn(`${name} without ${data}`);
    return null;
  }
  const tunnel = encapsulation(type, vtep, view);
  if (!view.isDirectRouting || links === null) return { ...base, ...tunnel, why: `type ${type}` };
  // Who is on whose link the other end may see otherwise.
  if (link === undefined) {
    return { ...base, ...tunnel, why: `type ${type}, not on our link`, alternative: DIRECT };
  }
  const why = `DirectRouting of net-conf.json, on our link ${link}`;
  return { ...base, ...DIRECT, why, alternative: tunnel };
}

const DIRECT = { kind: 'direct' } as const;

/** What is in front of packets that need it. */
function encapsulation(
  type: Exclude<FlannelType, 'host-gw'>, vtep: Vtep | null, { port }: FlannelView,
): Alternative {
  if (type === 'ipip') return { kind: 'ipip' };
  if (vtep !== null) return { kind: 'vxlan', vni: vtep.VNI, mac: vtep.VtepMAC };
  return { kind: 'udp', ...(port === null ? {} : { port }) };
}
