// flannel's configuration of a cluster, `net-conf.json`, as far as a node needs it.
//
// flannel reads it with Go's encoding/json: keys in any case, null as if absent. Defaults are those
// of flannel's pkg/subnet/config.go and pkg/backend/vxlan: IPv4 on, IPv6 off, VNI 1, port 0 for the
// kernel's 8472, the link's own MTU. A file without `Backend` means the type `udp` there, whatever
// its documentation says.

import * as v from 'valibot';
import { addressFamily, isPrefix, prefixKey, prefixText, type Family } from './address.ts';
import { fieldPath, issuePath, issueReason } from './shape.ts';

/** The port of VXLAN where none is given: the Linux kernel's, older than RFC 7348's 4789. */
export const FLANNEL_VXLAN_PORT = 8472;
/** The port of flannel's type `udp` (pkg/backend/udp). */
export const FLANNEL_UDP_PORT = 8285;
const FLANNEL_VNI = 1;

/** Backend types that are spoken here. `host-gw` sends packets of pods as they are, to nodes of the
 * same link; `udp` puts them into datagrams as they are. */
export const FLANNEL_TYPES = ['vxlan', 'host-gw', 'ipip', 'udp'] as const;
export type FlannelType = (typeof FLANNEL_TYPES)[number];
/** These carry IPv4 alone: flannel gives them no address of the other family. */
const IPV4_ONLY: readonly FlannelType[] = ['ipip', 'udp'];

export interface NetConf {
  /** The network of all pods for each family in use, IPv4 first. */
  podNetworks: string[];
  type: FlannelType;
  vni: number;
  /** That of the type's datagrams; 0 where it has none. */
  port: number;
  /** MTU of the links that carry the tunnels; 0 for each link's own. */
  linkMtu: number;
  /** Nodes of one link send packets of pods to each other without a tunnel. */
  isDirectRouting: boolean;
}

/** A net-conf.json that cannot be used; the message names file, field and cause. */
export class NetConfError extends Error {
  override name = 'NetConfError';
}

/** A field that is absent or null, which is the same to Go. */
const optional = <S extends v.GenericSchema>(schema: S) => v.optional(v.nullable(schema));
const integer = (most: number) =>
  optional(v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(most)));
const prefix = optional(v.pipe(v.string(), v.check(isPrefix, 'not a prefix in CIDR form')));

/** Keys in lower case. */
const Schema = v.object({
  network: prefix,
  ipv6network: prefix,
  enableipv4: optional(v.boolean()),
  enableipv6: optional(v.boolean()),
  'backend': optional(v.object({
    type: optional(v.string()),
    vni: integer(0xffffff),
    port: integer(65535),
    mtu: integer(65535),
    gbp: optional(v.boolean()),
    directrouting: optional(v.boolean()),
  })),
});
type Fields = v.InferOutput<typeof Schema>;

/** The fields as flannel spells them, for errors. */
const SPELLING = [
  'Network', 'IPv6Network', 'EnableIPv4', 'EnableIPv6', 'Backend', 'Type', 'VNI', 'Port', 'MTU',
  'GBP', 'DirectRouting',
];

/** Reads the text; `place` names it in errors. Throws NetConfError. */
export function parseNetConf(text: string, place: string): NetConf {
  const fail = (field: string, reason: string): never => {
    throw new NetConfError([place, field, reason].filter((part) => part !== '').join(': '));
  };
  let value: unknown = null;
  try {
    value = JSON.parse(text);
  } catch {
    fail('', 'not JSON');
  }
  const parsed = v.safeParse(Schema, lowerKeys(value, fail), { abortEarly: true });
  if (parsed.success) return netConf(parsed.output, fail);
  const [issue] = parsed.issues;
  const path = issuePath(issue).map((key) => SPELLING.find((name) => isSameKey(name, key)) ?? key);
  return fail(fieldPath(path), issueReason(issue));
}

/** What a file without `Backend` means. */
const ABSENT_TYPE = 'udp';

type Fail = (field: string, reason: string) => never;

function netConf(fields: Fields, fail: Fail): NetConf {
  const { enableipv4, enableipv6, 'backend': given } = fields;
  const tunnel: NonNullable<Fields['backend']> = given ?? { type: ABSENT_TYPE };
  const type = FLANNEL_TYPES.find((name) => name === tunnel.type?.toLowerCase())
    ?? fail('Backend.Type',
      `${tunnel.type || 'none'} is not spoken here; ${FLANNEL_TYPES.join(', ')} are`);
  if (tunnel.gbp === true) fail('Backend.GBP', 'group policy in VXLAN headers is not spoken here');
  if (IPV4_ONLY.includes(type) && (enableipv6 ?? false)) {
    fail('EnableIPv6', `true, and type ${type} carries IPv4 alone`);
  }
  const podNetworks = [
    ...((enableipv4 ?? true) ? [network(fields.network, 'IPv4', 'Network', fail)] : []),
    ...((enableipv6 ?? false) ? [network(fields.ipv6network, 'IPv6', 'IPv6Network', fail)] : []),
  ];
  if (podNetworks.length === 0) fail('EnableIPv4', 'false, and EnableIPv6 is not true');
  return {
    podNetworks,
    type,
    vni: tunnel.vni ?? FLANNEL_VNI,
    port: portOf(type, tunnel.port ?? 0),
    linkMtu: tunnel.mtu ?? 0,
    isDirectRouting: type === 'host-gw' || (tunnel.directrouting ?? false),
  };
}

function portOf(type: FlannelType, given: number): number {
  if (type === 'udp') return given || FLANNEL_UDP_PORT;
  return type === 'vxlan' ? given || FLANNEL_VXLAN_PORT : 0;
}

/** A network with its host bits cleared, as Go's net.ParseCIDR gives it. */
function network(
  text: string | null | undefined, family: Family, name: string, fail: Fail,
): string {
  const given = text ?? fail(name, `missing, and Enable${family} is on`);
  if (addressFamily(given) !== family) fail(name, `not an ${family} prefix`);
  return prefixText(prefixKey(given));
}

/** The value with all keys in lower case. Which of two spellings of a key counts would depend on
 * their order. */
function lowerKeys(value: unknown, fail: Fail): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value;
  const lower = new Map<string, unknown>();
  for (const [key, field] of Object.entries(value)) {
    const name = key.toLowerCase();
    if (lower.has(name)) fail(key, 'stands twice, in two spellings');
    lower.set(name, lowerKeys(field, fail));
  }
  return Object.fromEntries(lower);
}

function isSameKey(name: string, key: string | number): boolean {
  return name.toLowerCase() === key;
}
