// rtnetlink messages for links (interfaces): make, change, list, remove. linux/if_link.h.

import { AF_INET6, parseIp } from './address.ts';
import { formatMac, parseMac } from './interface.ts';
import {
  MessageBuilder, NLM_F_CREATE, NLM_F_EXCL, parseNested, textOf, u32Of,
  type NetlinkConnection, type NetlinkObject,
} from './netlink-connection.ts';

const RTM_NEWLINK = 16;
const RTM_DELLINK = 17;
const RTM_GETLINK = 18;

const IFINFO_SIZE = 16;
const IFINFO_INDEX = 4;
const IFINFO_FLAGS = 8;
const IFINFO_CHANGE = 12;
const IFF_UP = 0x1;
const IFF_LOWER_UP = 0x1_0000;

const IFLA_ADDRESS = 1;
const IFLA_IFNAME = 3;
const IFLA_MTU = 4;
const IFLA_MASTER = 10;
const IFLA_TXQLEN = 13;
const IFLA_LINKINFO = 18;
const IFLA_AF_SPEC = 26;
const IFLA_NET_NS_FD = 28;
const IFLA_INFO_KIND = 1;
const IFLA_INFO_DATA = 2;
const VETH_INFO_PEER = 1;
const IFLA_VXLAN_ID = 1;
const IFLA_VXLAN_LINK = 3;
const IFLA_VXLAN_LOCAL = 4;
const IFLA_VXLAN_LEARNING = 7;
const IFLA_VXLAN_PORT = 15;
const IFLA_VXLAN_LOCAL6 = 17;
const IFLA_INET6_ADDR_GEN_MODE = 8;
const ADDR_GEN_MODE_EUI64 = 0;
const ADDR_GEN_MODE_NONE = 1;

/** One interface. */
export interface Link {
  index: number;
  name: string;
  /** Kind of a virtual interface (`veth`, `tun`, `vxlan`, `bridge`), or empty. */
  kind: string;
  mac: string;
  mtu: number;
  queueLength: number;
  up: boolean;
  /** Has a carrier. */
  running: boolean;
  /** Index of the bridge it is a port of, or 0. */
  masterIndex: number;
}

/** What may be changed of an interface; what is absent stays. */
export interface LinkChange {
  up?: boolean;
  mtu?: number;
  mac?: string;
  newName?: string;
  /** Moves the interface into the namespace of this descriptor. */
  namespaceFd?: number;
  /** Bridge to become a port of; null to leave it. */
  master?: string | null;
  queueLength?: number;
  /** false: the kernel gives it no link-local IPv6 address (addr_gen_mode none). */
  linkLocalIpv6?: boolean;
}

/** A kernel VXLAN device as flannel configures it: no learning, no remote of its own. */
export interface VxlanOptions {
  name: string;
  vni: number;
  port: number;
  /** Outer source address. */
  local: string;
  /** Underlay interface; it limits the MTU. */
  device?: string;
  mtu: number;
  mac: string;
  /** The device never learns peers from packets; it only says so. */
  learning?: false;
}

export async function getLink(connection: NetlinkConnection, name: string): Promise<Link> {
  const message = new MessageBuilder(ifinfo(0)).text(IFLA_IFNAME, name);
  return parseLink(await connection.get(RTM_GETLINK, message, IFINFO_SIZE, 'link get', name));
}

export async function dumpLinks(connection: NetlinkConnection): Promise<Link[]> {
  const message = new MessageBuilder(ifinfo(0));
  return (await connection.dump(RTM_GETLINK, message, IFINFO_SIZE, 'link list')).map(parseLink);
}

export async function removeLink(connection: NetlinkConnection, name: string): Promise<void> {
  const message = new MessageBuilder(ifinfo(0)).text(IFLA_IFNAME, name);
  await connection.change(RTM_DELLINK, message, 0, 'link remove', name);
}

export async function addVeth(
  connection: NetlinkConnection, name: string, peerName: string, peerNamespaceFd?: number,
): Promise<void> {
  const message = new MessageBuilder(ifinfo(0)).text(IFLA_IFNAME, name);
  linkInfo(message, 'veth', () => message.nest(VETH_INFO_PEER, () => {
    message.text(IFLA_IFNAME, peerName);
    if (peerNamespaceFd !== undefined) message.u32(IFLA_NET_NS_FD, peerNamespaceFd);
  }, ifinfo(0)));
  await create(connection, message, 'link add veth', name);
}

export async function addVxlan(
  connection: NetlinkConnection, options: VxlanOptions,
): Promise<void> {
  const { name, device } = options;
  const deviceIndex = device === undefined ? 0 : (await getLink(connection, device)).index;
  const local = parseIp(options.local);
  const message = new MessageBuilder(ifinfo(0))
    .text(IFLA_IFNAME, name).u32(IFLA_MTU, options.mtu)
    .bytes(IFLA_ADDRESS, parseMac(options.mac));
  linkInfo(message, 'vxlan', () => {
    message.u32(IFLA_VXLAN_ID, options.vni).u8(IFLA_VXLAN_LEARNING, 0)
      .port(IFLA_VXLAN_PORT, options.port)
      .bytes(local.length === 16 ? IFLA_VXLAN_LOCAL6 : IFLA_VXLAN_LOCAL, local);
    if (deviceIndex !== 0) message.u32(IFLA_VXLAN_LINK, deviceIndex);
  });
  await create(connection, message, 'link add vxlan', name);
}

/** Makes an interface of a kind that needs no data, such as `bridge` or `dummy`. */
export async function addPlainLink(
  connection: NetlinkConnection, kind: string, name: string,
): Promise<void> {
  const message = new MessageBuilder(ifinfo(0)).text(IFLA_IFNAME, name);
  linkInfo(message, kind, () => {});
  await create(connection, message, `link add ${kind}`, name);
}

/**
 * Applies all changes in one message, for the kernel renames and moves before it sets up. Address
 * generation goes ahead in its own: the kernel would set up first and generate an address.
 */
export async function setLink(
  connection: NetlinkConnection, name: string, change: LinkChange,
): Promise<void> {
  const { index } = await getLink(connection, name);
  if (change.linkLocalIpv6 !== undefined) {
    await setAddressGeneration(connection, name, index, change.linkLocalIpv6);
  }
  const message = new MessageBuilder(ifinfo(index, change.up));
  if (change.mtu !== undefined) message.u32(IFLA_MTU, change.mtu);
  if (change.mac !== undefined) message.bytes(IFLA_ADDRESS, parseMac(change.mac));
  if (change.newName !== undefined) message.text(IFLA_IFNAME, change.newName);
  if (change.namespaceFd !== undefined) message.u32(IFLA_NET_NS_FD, change.namespaceFd);
  if (change.queueLength !== undefined) message.u32(IFLA_TXQLEN, change.queueLength);
  if (change.master !== undefined) {
    const master = change.master === null ? 0 : (await getLink(connection, change.master)).index;
    message.u32(IFLA_MASTER, master);
  }
  await connection.change(RTM_NEWLINK, message, 0, 'link set', name);
}

async function setAddressGeneration(
  connection: NetlinkConnection, name: string, index: number, on: boolean,
): Promise<void> {
  const mode = on ? ADDR_GEN_MODE_EUI64 : ADDR_GEN_MODE_NONE;
  const message = new MessageBuilder(ifinfo(index));
  message.nest(IFLA_AF_SPEC, () => message.nest(AF_INET6, () => {
    message.u8(IFLA_INET6_ADDR_GEN_MODE, mode);
  }));
  await connection.change(RTM_NEWLINK, message, 0, 'link set addrgenmode', name);
}

async function create(
  connection: NetlinkConnection, message: MessageBuilder, operation: string, name: string,
): Promise<void> {
  await connection.change(RTM_NEWLINK, message, NLM_F_CREATE | NLM_F_EXCL, operation, name);
}

function linkInfo(message: MessageBuilder, kind: string, fillData: () => void): void {
  message.nest(IFLA_LINKINFO, () => {
    message.text(IFLA_INFO_KIND, kind).nest(IFLA_INFO_DATA, fillData);
  });
}

/** struct ifinfomsg. */
function ifinfo(index: number, up?: boolean): Buffer {
  const header = Buffer.alloc(IFINFO_SIZE);
  header.writeInt32LE(index, IFINFO_INDEX);
  if (up !== undefined) {
    header.writeUInt32LE(up ? IFF_UP : 0, IFINFO_FLAGS);
    header.writeUInt32LE(IFF_UP, IFINFO_CHANGE);
  }
  return header;
}

function parseLink({ header, attributes }: NetlinkObject): Link {
  const info = attributes.get(IFLA_LINKINFO);
  const kind = info === undefined ? undefined : textOf(parseNested(info).get(IFLA_INFO_KIND));
  const flags = header.readUInt32LE(IFINFO_FLAGS);
  return {
    index: header.readInt32LE(IFINFO_INDEX),
    name: textOf(attributes.get(IFLA_IFNAME)) ?? '',
    kind: kind ?? '',
    mac: formatMac(attributes.get(IFLA_ADDRESS) ?? Buffer.alloc(0)),
    mtu: u32Of(attributes.get(IFLA_MTU)) ?? 0,
    queueLength: u32Of(attributes.get(IFLA_TXQLEN)) ?? 0,
    up: (flags & IFF_UP) !== 0,
    running: (flags & IFF_LOWER_UP) !== 0,
    masterIndex: u32Of(attributes.get(IFLA_MASTER)) ?? 0,
  };
}
