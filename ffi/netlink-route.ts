// rtnetlink messages for addresses, routes, neighbours and forwarding entries, IPv4 and IPv6.
// linux/if_addr.h, linux/rtnetlink.h, linux/neighbour.h.

import { AF_INET, AF_INET6, familyOf, formatIp, parseIp } from './address.ts';
import { parseMac } from './interface.ts';
import {
  MessageBuilder, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, u32Of,
  type NetlinkConnection, type NetlinkObject,
} from './netlink-connection.ts';

const RTM_NEWADDR = 20;
const RTM_DELADDR = 21;
const RTM_GETADDR = 22;
const RTM_NEWROUTE = 24;
const RTM_DELROUTE = 25;
const RTM_GETROUTE = 26;
const RTM_NEWNEIGH = 28;
const RTM_DELNEIGH = 29;

const IFADDR_SIZE = 8;
const IFA_ADDRESS = 1;
const IFA_LOCAL = 2;
const IFA_FLAGS = 8;
const IFA_F_NODAD = 0x02;

const RTMSG_SIZE = 12;
const RTA_DST = 1;
const RTA_OIF = 4;
const RTA_GATEWAY = 5;
const RTA_PRIORITY = 6;
const RTA_PREFSRC = 7;
const RTA_TABLE = 15;
const RTPROT_STATIC = 4;
const RTNH_F_ONLINK = 4;
const RT_SCOPE_UNIVERSE = 0;
const RT_SCOPE_LINK = 253;
const RT_SCOPE_NOWHERE = 255;
const RTM_F_CLONED = 0x200;
/** The routing table that `ip route` shows. */
export const MAIN_TABLE = 254;

const NDMSG_SIZE = 12;
const NDA_DST = 1;
const NDA_LLADDR = 2;
const NUD_PERMANENT = 0x80;
const NTF_SELF = 0x02;
const AF_BRIDGE = 7;

const ROUTE_KINDS = { unicast: 1, local: 2, blackhole: 6, unreachable: 7, prohibit: 8 } as const;

/** What a route does with a packet. */
export type RouteKind = keyof typeof ROUTE_KINDS;

/** One route. To remove it, give what tells it from others: prefix, and metric or device. */
export interface Route {
  /** `10.244.0.0/16`, `fd00::/64`; the default route is `0.0.0.0/0` or `::/0`. */
  prefix: string;
  device?: string;
  via?: string;
  /** Preferred source address of packets that the node itself sends. */
  source?: string;
  /** Takes the next hop as reachable on the device, though no address there covers it. */
  onlink?: boolean;
  kind?: RouteKind;
  metric?: number;
  table?: number;
  /** Who made it (`rtm_protocol`); 4, static, unless said. */
  protocol?: number;
  /** Takes the place of a route of the same prefix and metric instead of failing with EEXIST. */
  replace?: boolean;
}

/** A permanent neighbour entry: the device reaches `address` at `mac`. */
export interface Neighbour {
  device: string;
  address: string;
  mac: string;
}

/** A forwarding entry of a VXLAN device: `mac` is behind the outer address `remote`. */
export interface FdbEntry {
  device: string;
  mac: string;
  remote: string;
}

/** Splits `10.0.0.0/8` into bytes, length and family; anything else throws. */
export function parsePrefix(text: string): { ip: Uint8Array; length: number; family: number } {
  const [address = '', lengthText = ''] = text.split('/');
  const ip = parseIp(address);
  const length = Number(lengthText);
  if (!/^\d+$/.test(lengthText) || length > ip.length * 8) {
    throw new TypeError(`${text} is not a prefix like 10.244.0.0/16 or fd00::/64`);
  }
  return { ip, length, family: familyOf(address) };
}

/** Adds or removes an address; an IPv6 one is usable at once (no duplicate address detection). */
export async function changeAddress(
  connection: NetlinkConnection, add: boolean, device: string, index: number, address: string,
): Promise<void> {
  const { ip, length, family } = parsePrefix(address);
  const header = Buffer.alloc(IFADDR_SIZE);
  header[0] = family;
  header[1] = length;
  header.writeUInt32LE(index, 4);
  const message = new MessageBuilder(header).bytes(IFA_LOCAL, ip).bytes(IFA_ADDRESS, ip);
  if (family === AF_INET6) message.u32(IFA_FLAGS, IFA_F_NODAD);
  const type = add ? RTM_NEWADDR : RTM_DELADDR;
  const flags = add ? NLM_F_CREATE | NLM_F_EXCL : 0;
  const operation = `address ${add ? 'add' : 'remove'} ${address}`;
  await connection.change(type, message, flags, operation, device);
}

/** Addresses of an interface, as `a.b.c.d/length`. */
export async function dumpAddresses(
  connection: NetlinkConnection, index: number,
): Promise<string[]> {
  const message = new MessageBuilder(Buffer.alloc(IFADDR_SIZE));
  const all = await connection.dump(RTM_GETADDR, message, IFADDR_SIZE, 'address list');
  return all.filter(({ header }) => header.readUInt32LE(4) === index).map(parseAddress);
}

/** Adds or removes a route. `deviceIndex` is 0 for none. */
export async function changeRoute(
  connection: NetlinkConnection, add: boolean, route: Route, deviceIndex: number,
): Promise<void> {
  const { ip, length, family } = parsePrefix(route.prefix);
  const header = routeHeader(route, family, length, add);
  const message = new MessageBuilder(header).u32(RTA_TABLE, route.table ?? MAIN_TABLE);
  if (length > 0) message.bytes(RTA_DST, ip);
  if (deviceIndex !== 0) message.u32(RTA_OIF, deviceIndex);
  if (route.via !== undefined) message.bytes(RTA_GATEWAY, parseIp(route.via));
  if (route.source !== undefined) message.bytes(RTA_PREFSRC, parseIp(route.source));
  if (route.metric !== undefined) message.u32(RTA_PRIORITY, route.metric);
  const type = add ? RTM_NEWROUTE : RTM_DELROUTE;
  const addFlags = NLM_F_CREATE | (route.replace === true ? NLM_F_REPLACE : NLM_F_EXCL);
  const operation = add ? 'route add' : 'route remove';
  await connection.change(type, message, add ? addFlags : 0, operation, route.prefix);
}

/** Routes of one table; `nameOf` turns an interface index into its name. */
export async function dumpRoutes(
  connection: NetlinkConnection, table: number, nameOf: (index: number) => string,
): Promise<Route[]> {
  const message = new MessageBuilder(Buffer.alloc(RTMSG_SIZE));
  const all = await connection.dump(RTM_GETROUTE, message, RTMSG_SIZE, 'route list');
  const wanted = all.filter(({ header, attributes }) => {
    const isRoute = header[0] === AF_INET || header[0] === AF_INET6;
    const isCached = (header.readUInt32LE(8) & RTM_F_CLONED) !== 0;
    return isRoute && !isCached && (u32Of(attributes.get(RTA_TABLE)) ?? header[4]) === table;
  });
  return wanted.map((object) => parseRoute(object, nameOf));
}

/** Adds (or replaces) or removes a permanent neighbour entry. */
export async function changeNeighbour(
  connection: NetlinkConnection, add: boolean, entry: Neighbour, deviceIndex: number,
): Promise<void> {
  const header = neighbourHeader(familyOf(entry.address), deviceIndex, 0);
  const message = new MessageBuilder(header)
    .bytes(NDA_DST, parseIp(entry.address)).bytes(NDA_LLADDR, parseMac(entry.mac));
  await changeEntry(connection, add, message, `neighbour ${entry.address}`, entry.device);
}

/** Adds (or replaces) or removes a forwarding entry of a VXLAN device. */
export async function changeFdb(
  connection: NetlinkConnection, add: boolean, entry: FdbEntry, deviceIndex: number,
): Promise<void> {
  const header = neighbourHeader(AF_BRIDGE, deviceIndex, NTF_SELF);
  const message = new MessageBuilder(header)
    .bytes(NDA_LLADDR, parseMac(entry.mac)).bytes(NDA_DST, parseIp(entry.remote));
  await changeEntry(connection, add, message, `fdb ${entry.mac}`, entry.device);
}

async function changeEntry(
  connection: NetlinkConnection, add: boolean, message: MessageBuilder, what: string,
  device: string,
): Promise<void> {
  const type = add ? RTM_NEWNEIGH : RTM_DELNEIGH;
  const flags = add ? NLM_F_CREATE | NLM_F_REPLACE : 0;
  await connection.change(type, message, flags, `${what} ${add ? 'add' : 'remove'}`, device);
}

/** struct rtmsg. A removal leaves scope and kind open unless the caller names them. */
function routeHeader(route: Route, family: number, length: number, add: boolean): Buffer {
  const kind = route.kind ?? (add ? 'unicast' : undefined);
  const isDirect = kind === 'unicast' && route.via === undefined;
  const addScope = isDirect && family === AF_INET ? RT_SCOPE_LINK : RT_SCOPE_UNIVERSE;
  const header = Buffer.alloc(RTMSG_SIZE);
  header[0] = family;
  header[1] = length;
  header[5] = route.protocol ?? (add ? RTPROT_STATIC : 0);
  header[6] = add ? addScope : RT_SCOPE_NOWHERE;
  header[7] = kind === undefined ? 0 : ROUTE_KINDS[kind];
  header.writeUInt32LE(route.onlink === true ? RTNH_F_ONLINK : 0, 8);
  return header;
}

/** struct ndmsg. */
function neighbourHeader(family: number, deviceIndex: number, flags: number): Buffer {
  const header = Buffer.alloc(NDMSG_SIZE);
  header[0] = family;
  header.writeInt32LE(deviceIndex, 4);
  header.writeUInt16LE(NUD_PERMANENT, 8);
  header[10] = flags;
  return header;
}

function parseAddress({ header, attributes }: NetlinkObject): string {
  const ip = attributes.get(IFA_LOCAL) ?? attributes.get(IFA_ADDRESS) ?? Buffer.alloc(4);
  return `${formatIp(ip)}/${header[1]}`;
}

function parseRoute(
  { header, attributes }: NetlinkObject, nameOf: (index: number) => string,
): Route {
  const ip = attributes.get(RTA_DST) ?? Buffer.alloc(header[0] === AF_INET6 ? 16 : 4);
  const device = u32Of(attributes.get(RTA_OIF));
  const via = attributes.get(RTA_GATEWAY);
  const source = attributes.get(RTA_PREFSRC);
  const kind = Object.entries(ROUTE_KINDS).find(([, number]) => number === header[7]);
  return {
    prefix: `${formatIp(ip)}/${header[1]}`,
    ...(device === undefined ? {} : { device: nameOf(device) }),
    ...(via === undefined ? {} : { via: formatIp(via) }),
    ...(source === undefined ? {} : { source: formatIp(source) }),
    ...(kind === undefined ? {} : { kind: kind[0] as RouteKind }),
    onlink: (header.readUInt32LE(8) & RTNH_F_ONLINK) !== 0,
    metric: u32Of(attributes.get(RTA_PRIORITY)) ?? 0,
    table: u32Of(attributes.get(RTA_TABLE)) ?? header[4] ?? 0,
    protocol: header[5] ?? 0,
  };
}
