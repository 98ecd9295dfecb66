// Slow twin of the core's walk: what happens to a packet between a local device and a peer, told
// once more from the RFCs, without tables to be fast, memory to share or bytes to spare. Where the
// RFCs leave a choice, a comment says that it is ours.

import * as reason from '../../wasm/abi/verdict.ts';
import type { Remote } from '../support/core.ts';
import { PROTOCOL, ETHER_TYPE, concat, ethernet, icmp, icmpv6, internetChecksum, ipv4, ipv6,
  macOf, neighbour, parseArp, parseEthernet, parseIpv4, parseIpv6, read16, read32,
  transportChecksum } from '../support/packets.ts';
import { addressText } from '../../engine/address.ts';
import { carried } from './ecn.ts';
import { RouteList } from './routes.ts';
import { findTransport, type Transport } from './transport.ts';
import { checkVersion, enclosed, isMac, opened, withoutOuter, type TwinPeer, type TwinTunnel } from
  './tunnels.ts';

/** Where a route leads. Two routes lead to the same place when they hold the same object. */
export type Target =
  | { kind: 'peer'; peer: TwinPeer }
  | { kind: 'endpoint'; device: number }
  | { kind: 'node' | 'outside' | 'unreachable' | 'prohibit' | 'blackhole' };

/** A device and the target that leads to it. MACs are those of a TAP: the pod's, and ours. */
export interface TwinDevice {
  kind: 'node' | 'tun' | 'tap' | 'underlay';
  target: Target | null;
  mac?: string;
  gatewayMac?: string;
  /** Of an underlay device. */
  tunnel?: TwinTunnel;
}

export interface TwinTables {
  node: Target;
  nodeDevice: number;
  routes: RouteList<Target>;
  /** Targets of peers by the text of their remote address. */
  remotes: Map<string, Target>;
  devices: Map<number, TwinDevice>;
  /** Source of ICMP errors. */
  ownIpv4: Uint8Array | null;
  ownIpv6: Uint8Array | null;
  icmpRate: number;
  icmpBurst: number;
}

export interface TwinVerdict {
  sent: boolean;
  reason: number;
  output: number;
  bytes: Uint8Array;
  remote: Remote | null;
  /** Names the flow of what goes into a tunnel. */
  flow: string | null;
}

interface Traffic {
  rxPackets: number;
  rxBytes: number;
  txPackets: number;
  txBytes: number;
}

type Direction = 'outbound' | 'inbound';

/** A packet on its way: where it came from, and what is left of it. */
interface Passage {
  direction: Direction;
  origin: Target;
  packet: Uint8Array;
  /** By way of the node's own stack, which has taken a hop off what it forwards. */
  isFromStack?: boolean;
  /** From flannel's udp backend, whose proxies take one off whatever they pass on. */
  isFromProxy?: boolean;
}

const ICMPV4_ERRORS = [3, 4, 5, 11, 12];

export class ForwardTwin {
  readonly tables: TwinTables;
  readonly drops = { outbound: new Map<number, number>(), inbound: new Map<number, number>() };
  readonly events = { icmpSent: 0, icmpSuppressed: 0, neighbourAnswered: 0, outerFragmented: 0,
    segmented: 0, coalesced: 0, unfinished: 0, served: 0,
    resetSent: 0 };
  readonly traffic = new Map<Target, Traffic>();
  #buckets = new Map<Target, { thousandths: number; stampMs: number }>();

  constructor(tables: TwinTables) {
    this.tables = tables;
  }

  /** Decides one packet, as the core's processBatch() would. `source` and `outerTos` are those of
   * the outer packet. */
  decide(
    input: number, packet: Uint8Array, source: Remote | null, nowMs: number, outerTos = 0,
  ): TwinVerdict {
    const device = this.tables.devices.get(input);
    if (device === undefined) return this.#drop('outbound', reason.REASON_DEVICE_UNKNOWN);
    if (device.tunnel !== undefined) {
      return this.#inbound(packet, device.tunnel, source, nowMs, outerTos);
    }
    return this.#outbound(input, device, packet, nowMs);
  }

  #outbound(input: number, device: TwinDevice, received: Uint8Array, nowMs: number): TwinVerdict {
    let packet = received;
    if (device.kind === 'tap') {
      const frame = this.#receiveFrame(input, device, received);
      if ('sent' in frame) return frame;
      packet = frame.packet;
    }
    const fault = checkPacket(packet);
    if (fault !== reason.REASON_NONE) return this.#drop('outbound', fault);
    packet = packet.subarray(0, totalLength(packet));
    const owner = this.tables.routes.find(sourceOf(packet));
    const owns = device.kind === 'node'
      ? owner?.kind === 'node' || owner?.kind === 'outside'
      : owner !== undefined && owner === device.target;
    // What a peer on our link sends without a tunnel comes by way of the node's own stack.
    if (device.kind === 'node' && owner?.kind === 'peer') {
      return owner.peer.kind === 'direct'
        ? this.#forward({ direction: 'inbound', origin: owner, packet, isFromStack: true }, nowMs)
        : this.#drop('inbound', reason.REASON_WRONG_TUNNEL);
    }
    if (!owns) return this.#drop('outbound', reason.REASON_SPOOFED_SOURCE);
    const origin = device.target ?? this.tables.node;
    const isFromStack = device.kind === 'node';
    return this.#forward({ direction: 'outbound', origin, packet, isFromStack }, nowMs);
  }

  /** Ethernet of a TAP: the pod's only neighbour is us, and we answer for everybody else. */
  #receiveFrame(
    input: number, device: TwinDevice, received: Uint8Array,
  ): TwinVerdict | { packet: Uint8Array } {
    if (received.length <= 14) return this.#drop('outbound', reason.REASON_TOO_SHORT);
    const frame = parseEthernet(received);
    const toGroup = ((frame.destination[0] ?? 0) & 1) === 1;
    if (!toGroup && !isMac(frame.destination, device.gatewayMac)) {
      return this.#drop('outbound', reason.REASON_WRONG_MAC);
    }
    const { type, payload } = frame;
    if (type === ETHER_TYPE.arp) {
      return this.#answer(input, device, type, this.#arp(device, payload));
    }
    if (type !== ETHER_TYPE.ipv4 && type !== ETHER_TYPE.ipv6) {
      return this.#drop('outbound', reason.REASON_ETHER_TYPE);
    }
    if (type === ETHER_TYPE.ipv6 && isSolicitation(payload)) {
      return this.#answer(input, device, type, this.#advertisement(device, payload));
    }
    // RFC 1812 section 5.3.4: what came as a link-layer broadcast or multicast is not forwarded.
    if (toGroup) return this.#drop('outbound', reason.REASON_MULTICAST);
    const mismatch = checkVersion(type, payload);
    return mismatch === null ? { packet: payload } : this.#drop('outbound', mismatch);
  }

  #answer(input: number, device: TwinDevice, type: number, answer: Uint8Array | null): TwinVerdict {
    if (answer === null) return this.#drop('outbound', reason.REASON_NEIGHBOUR);
    this.events.neighbourAnswered += 1;
    return send(input, toFrame(device, type, answer));
  }

  /** RFC 826; no answer to a probe (RFC 5227 section 2.1), which has no sender address. */
  #arp(device: TwinDevice, packet: Uint8Array): Uint8Array | null {
    if (packet.length < 28) return null;
    const asked = parseArp(packet);
    const isRequest = asked.hardwareType === 1 && asked.protocolType === ETHER_TYPE.ipv4
      && asked.hardwareSize === 6 && asked.protocolSize === 4 && asked.operation === 1;
    if (!isRequest || !this.#isOwn(device, asked.senderAddress)) return null;
    if (this.#isOwn(device, asked.targetAddress)) return null;
    const own = macOf(device.gatewayMac ?? '');
    return concat(packet.subarray(0, 6), [0, 2], own, asked.targetAddress,
      asked.senderMac, asked.senderAddress);
  }

  /** RFC 4861 section 7.2.4; no answer to duplicate address detection, RFC 4862 section 5.4. */
  #advertisement(device: TwinDevice, packet: Uint8Array): Uint8Array | null {
    const { source } = parseIpv6(packet);
    const target = packet.slice(48, 64);
    if (!isLinkLocal(source) && !this.#isOwn(device, source)) return null;
    if (this.#isOwn(device, target)) return null;
    const mac = device.gatewayMac ?? null;
    // Router, solicited and override flags: our choice of all three.
    return neighbour({ source: target, destination: source, type: 136, flags: 0xe0, target, mac });
  }

  #isOwn(device: TwinDevice, address: Uint8Array): boolean {
    const owner = this.tables.routes.find(address);
    return owner !== undefined && owner === device.target;
  }

  #inbound(
    received: Uint8Array, tunnel: TwinTunnel, source: Remote | null, nowMs: number,
    outerTos: number,
  ): TwinVerdict {
    const datagram = tunnel.kind === 'ipip' ? withoutOuter(received, source) : received;
    if (datagram === null) return this.#drop('inbound', reason.REASON_TOO_SHORT);
    const origin = source === null ? undefined : this.tables.remotes.get(source.address);
    if (origin?.kind !== 'peer') return this.#drop('inbound', reason.REASON_UNKNOWN_PEER);
    let packet = opened(datagram, origin.peer, tunnel);
    if (typeof packet === 'number') return this.#drop('inbound', packet);
    const packetFault = checkPacket(packet);
    if (packetFault !== reason.REASON_NONE) return this.#drop('inbound', packetFault);
    packet = packet.subarray(0, totalLength(packet));
    if (this.tables.routes.find(sourceOf(packet)) !== origin) {
      return this.#drop('inbound', reason.REASON_FOREIGN_SOURCE);
    }
    const marked = carried(packet, outerTos);
    if (marked === null) return this.#drop('inbound', reason.REASON_CONGESTION);
    const isFromProxy = tunnel.kind === 'udp';
    return this.#forward({ direction: 'inbound', origin, packet: marked, isFromProxy }, nowMs);
  }

  /** RFC 1812 section 5.2.1: route, then hop limit, then size, then out. */
  #forward(passage: Passage, nowMs: number): TwinVerdict {
    const { direction, origin, packet } = passage;
    const target = this.tables.routes.find(destinationOf(packet));
    this.#countTraffic(origin, 'rx', packet.length);
    const { isFromStack = false, isFromProxy = false } = passage;
    const fromNode = origin === this.tables.node;
    // Another node's traffic is never sent on: full mesh, as flannel has it.
    if (direction === 'inbound' && (target?.kind === 'peer' || target?.kind === 'outside')) {
      return this.#drop(direction, reason.REASON_NOT_LOCAL);
    }
    if (target?.kind === 'peer') {
      const { kind } = target.peer;
      const costsHop = kind === 'udp' || (kind !== 'direct' && !isFromStack);
      if (costsHop && hopLimit(packet) <= 1) {
        return this.#reject(passage, reason.REASON_HOP_LIMIT, 0, nowMs);
      }
      if (packet.length > target.peer.mtu) {
        const { mtu } = target.peer;
        if (!mayBeFragmentedOutside(packet)) {
          return this.#reject(passage, reason.REASON_TOO_BIG, mtu, nowMs);
        }
        this.events.outerFragmented += 1;
      }
      return this.#encapsulate(target, costsHop ? withHopSpent(packet) : packet);
    }
    if (target?.kind === 'endpoint') {
      if (!isFromStack && hopLimit(packet) <= 1) {
        return this.#reject(passage, reason.REASON_HOP_LIMIT, 0, nowMs);
      }
      return this.#deliver(direction, target, isFromStack ? packet : withHopSpent(packet));
    }
    if ((target?.kind === 'node' || target?.kind === 'outside') && !fromNode) {
      if (isFromProxy && hopLimit(packet) <= 1) {
        return this.#reject(passage, reason.REASON_HOP_LIMIT, 0, nowMs);
      }
      return this.#deliver(direction, target, isFromProxy ? withHopSpent(packet) : packet);
    }
    if (target?.kind === 'prohibit') {
      return this.#reject(passage, reason.REASON_PROHIBITED, 0, nowMs);
    }
    if (target?.kind === 'blackhole') return this.#drop(direction, reason.REASON_BLACKHOLE);
    return this.#reject(passage, reason.REASON_NO_ROUTE, 0, nowMs);
  }

  #encapsulate(target: Target & { kind: 'peer' }, packet: Uint8Array): TwinVerdict {
    const { peer } = target;
    this.#countTraffic(target, 'tx', packet.length);
    const bytes = enclosed(packet, peer);
    // The node's own stack knows the way to a peer that needs no tunnel.
    if (peer.kind === 'direct') return send(this.tables.nodeDevice, bytes);
    return {
      ...send(isIpv4(packet) ? peer.devices.IPv4 : peer.devices.IPv6, bytes),
      remote: peer.remote,
      flow: flowOf(packet),
    };
  }

  #deliver(direction: Direction, target: Target, packet: Uint8Array): TwinVerdict {
    const index = target.kind === 'endpoint' ? target.device : this.tables.nodeDevice;
    const device = this.tables.devices.get(index);
    if (device === undefined) return this.#drop(direction, reason.REASON_DEVICE_UNKNOWN);
    this.#countTraffic(target, 'tx', packet.length);
    const type = isIpv4(packet) ? ETHER_TYPE.ipv4 : ETHER_TYPE.ipv6;
    return send(index, device.kind === 'tap' ? toFrame(device, type, packet) : packet);
  }

  /** Drops the packet and sends its origin the ICMP error that is due, if one is. */
  #reject(passage: Passage, why: number, mtu: number, nowMs: number): TwinVerdict {
    const { direction, origin, packet } = passage;
    const dropped = this.#drop(direction, why);
    const own = isIpv4(packet) ? this.tables.ownIpv4 : this.tables.ownIpv6;
    // The node would take its own address for a martian; there the destination itself complains.
    const source = passage.isFromStack === true ? destinationOf(packet) : own;
    if (source === null || !mayBeAnswered(packet) || !this.#takeToken(origin, nowMs)) {
      this.events.icmpSuppressed += 1;
      return dropped;
    }
    this.events.icmpSent += 1;
    const error = isIpv4(packet)
      ? icmpError(packet, source, why, mtu, origin.kind === 'peer')
      : icmpv6Error(packet, source, why, mtu, origin.kind === 'peer');
    const answer = origin.kind === 'peer'
      ? this.#encapsulate(origin, error)
      : this.#deliver(direction, origin, error);
    return answer.sent ? { ...answer, reason: why } : answer;
  }

  /** RFC 1812 section 4.3.2.8: a token bucket for each origin, in thousandths. It was empty at
   * time 0. */
  #takeToken(origin: Target, nowMs: number): boolean {
    const bucket = this.#buckets.get(origin) ?? { thousandths: 0, stampMs: 0 };
    this.#buckets.set(origin, bucket);
    const elapsed = (nowMs - bucket.stampMs) >>> 0;
    const full = this.tables.icmpBurst * 1000;
    bucket.thousandths = Math.min(bucket.thousandths + (elapsed * this.tables.icmpRate), full);
    bucket.stampMs = nowMs;
    if (bucket.thousandths < 1000) return false;
    bucket.thousandths -= 1000;
    return true;
  }

  #drop(direction: Direction, why: number): TwinVerdict {
    const drops = this.drops[direction];
    drops.set(why, (drops.get(why) ?? 0) + 1);
    return {
      sent: false, reason: why, output: 0, bytes: new Uint8Array(0), remote: null, flow: null,
    };
  }

  #countTraffic(target: Target, way: 'rx' | 'tx', bytes: number): void {
    const traffic = this.traffic.get(target)
      ?? { rxPackets: 0, rxBytes: 0, txPackets: 0, txBytes: 0 };
    this.traffic.set(target, traffic);
    traffic[`${way}Packets`] += 1;
    traffic[`${way}Bytes`] += bytes;
  }
}

function send(output: number, bytes: Uint8Array): TwinVerdict {
  return { sent: true, reason: reason.REASON_NONE, output, bytes, remote: null, flow: null };
}

function toFrame(device: TwinDevice, type: number, packet: Uint8Array): Uint8Array {
  const { mac = '', gatewayMac = '' } = device;
  return ethernet({ destination: mac, source: gatewayMac, type }, packet);
}

function isIpv4(packet: Uint8Array): boolean {
  return (packet[0] ?? 0) >> 4 === 4;
}

function sourceOf(packet: Uint8Array): Uint8Array {
  return (isIpv4(packet) ? parseIpv4(packet) : parseIpv6(packet)).source;
}

function destinationOf(packet: Uint8Array): Uint8Array {
  return (isIpv4(packet) ? parseIpv4(packet) : parseIpv6(packet)).destination;
}

function totalLength(packet: Uint8Array): number {
  return isIpv4(packet) ? read16(packet, 2) : 40 + read16(packet, 4);
}

function hopLimit(packet: Uint8Array): number {
  return packet[isIpv4(packet) ? 8 : 7] ?? 0;
}

/** One hop less; the whole header checksum is computed anew. */
function withHopSpent(packet: Uint8Array): Uint8Array {
  const spent = packet.slice();
  if (!isIpv4(packet)) {
    spent[7] = hopLimit(packet) - 1;
    return spent;
  }
  const header = spent.subarray(0, parseIpv4(packet).headerSize);
  header[8] = hopLimit(packet) - 1;
  header.set([0, 0], 10);
  const sum = internetChecksum(header);
  header.set([sum >> 8, sum & 0xff], 10);
  return spent;
}

function checkPacket(packet: Uint8Array): number {
  if (packet.length === 0) return reason.REASON_TOO_SHORT;
  const version = (packet[0] ?? 0) >> 4;
  if (version === 4) return checkIpv4(packet);
  return version === 6 ? checkIpv6(packet) : reason.REASON_IP_VERSION;
}

/** RFC 1812 section 5.2.2, in its order, then options and addresses. */
function checkIpv4(packet: Uint8Array): number {
  if (packet.length < 20) return reason.REASON_TOO_SHORT;
  const header = parseIpv4(packet);
  if (header.headerSize < 20 || header.headerSize > header.totalLength) {
    return reason.REASON_HEADER_LENGTH;
  }
  if (header.totalLength > packet.length) return reason.REASON_TOO_SHORT;
  if (internetChecksum(packet.subarray(0, header.headerSize)) !== 0) {
    return reason.REASON_HEADER_CHECKSUM;
  }
  if (hasSourceRoute(header.options)) return reason.REASON_SOURCE_ROUTE;
  const [to, from] = [header.destination, header.source].map((bytes) => read32(bytes, 0));
  const isGroup = (address = 0): boolean =>
    (address >= 0xe0000000 && address < 0xf0000000) || address === 0xffffffff;
  const isThisHost = (address = 0): boolean => [0, 127].includes(Math.floor(address / 2 ** 24));
  if (isGroup(to)) return reason.REASON_MULTICAST;
  if (isGroup(from) || isThisHost(from)) return reason.REASON_MARTIAN_SOURCE;
  return isThisHost(to) ? reason.REASON_MARTIAN_DESTINATION : reason.REASON_NONE;
}

/** Options 131 and 137, RFC 791 section 3.1. */
function hasSourceRoute(options: Uint8Array): boolean {
  for (let rest = options; rest.length > 0;) {
    const [type = 0, size = 0] = rest;
    if (type === 131 || type === 137) return true;
    if (type === 0 || (type !== 1 && size < 2)) return false;
    rest = rest.subarray(type === 1 ? 1 : size);
  }
  return false;
}

function checkIpv6(packet: Uint8Array): number {
  if (packet.length < 40 || packet.length < totalLength(packet)) return reason.REASON_TOO_SHORT;
  if (findTransport(packet).sourceRouted) return reason.REASON_SOURCE_ROUTE;
  const { source, destination } = parseIpv6(packet);
  if (destination[0] === 0xff) return reason.REASON_MULTICAST;
  if (source[0] === 0xff || isThisHost6(source)) return reason.REASON_MARTIAN_SOURCE;
  if (isThisHost6(destination)) return reason.REASON_MARTIAN_DESTINATION;
  const local = isLinkLocal(source) || isLinkLocal(destination);
  return local ? reason.REASON_LINK_LOCAL : reason.REASON_NONE;
}

/** ::, ::1 and ::ffff:0:0/96, RFC 4291 sections 2.5.2, 2.5.3 and 2.5.5.2. */
function isThisHost6(address: Uint8Array): boolean {
  if (address.subarray(0, 10).some((byte) => byte !== 0)) return false;
  const [middle, last] = [read16(address, 10), read32(address, 12)];
  return middle === 0xffff || (middle === 0 && last <= 1);
}

function isLinkLocal(address: Uint8Array): boolean {
  return address[0] === 0xfe && ((address[1] ?? 0) & 0xc0) === 0x80;
}

/** RFC 4861 section 7.1.1. */
function isSolicitation(packet: Uint8Array): boolean {
  if (packet.length < 40 || packet.length < totalLength(packet)) return false;
  const header = parseIpv6(packet);
  const message = packet.subarray(40, totalLength(packet));
  return header.version === 6 && header.nextHeader === PROTOCOL.icmpv6
    && message.length >= 24 && message[0] === 135
    && message[1] === 0 && header.hopLimit === 255 && message[8] !== 0xff
    && transportChecksum(header.source, header.destination, PROTOCOL.icmpv6, message) === 0;
}

/** IPv4 without DF may go in outer fragments; IPv6 must where the path takes less than 1,280. */
function mayBeFragmentedOutside(packet: Uint8Array): boolean {
  return isIpv4(packet) ? !parseIpv4(packet).dontFragment : packet.length <= 1280;
}

/** RFC 1812 section 4.3.2.7, RFC 4443 section 2.4(e). A packet whose upper layer is out of sight
 * might be an ICMP error and gets no answer. */
function mayBeAnswered(packet: Uint8Array): boolean {
  const found = findTransport(packet);
  if (found.outOfSight) return false;
  if (found.protocol !== (isIpv4(packet) ? PROTOCOL.icmp : PROTOCOL.icmpv6)) return true;
  if (packet.length - found.offset < 8) return false;
  const type = packet[found.offset] ?? 0;
  return isIpv4(packet) ? !ICMPV4_ERRORS.includes(type) : type >= 128 && type !== 137;
}

function icmpError(
  packet: Uint8Array, source: Uint8Array, why: number, mtu: number, fromPeer: boolean,
): Uint8Array {
  // RFC 1812 section 4.3.2.3: as much as fits 576 bytes.
  const quote = packet.subarray(0, 576 - 28);
  const destination = sourceOf(packet);
  const messages = new Map([
    [reason.REASON_HOP_LIMIT, icmp(11, 0, 0, quote)],
    [reason.REASON_TOO_BIG, icmp(3, 4, mtu, quote)],
    [reason.REASON_PROHIBITED, icmp(3, 13, 0, quote)],
    [reason.REASON_NO_ROUTE, icmp(3, fromPeer ? 1 : 0, 0, quote)],
  ]);
  // TOS as RFC 1812 section 4.3.2.5 has it. DF, since RFC 6864 section 4.1 then frees us from
  // choosing identifications.
  return ipv4(
    { source, destination, protocol: PROTOCOL.icmp, tos: 0xc0, dontFragment: true },
    messages.get(why) ?? quote);
}

function icmpv6Error(
  packet: Uint8Array, source: Uint8Array, why: number, mtu: number, fromPeer: boolean,
): Uint8Array {
  // RFC 4443 section 2.4(c): as much as fits 1,280 bytes.
  const quote = packet.subarray(0, 1280 - 48);
  const destination = sourceOf(packet);
  const forms = new Map([
    [reason.REASON_HOP_LIMIT, { type: 3, code: 0, rest: 0 }],
    [reason.REASON_TOO_BIG, { type: 2, code: 0, rest: Math.max(mtu, 1280) }],
    [reason.REASON_PROHIBITED, { type: 1, code: 1, rest: 0 }],
    [reason.REASON_NO_ROUTE, { type: 1, code: fromPeer ? 3 : 0, rest: 0 }],
  ]);
  const form = forms.get(why) ?? { type: 0 };
  const message = icmpv6({ source, destination, ...form }, quote);
  return ipv6({ source, destination, nextHeader: PROTOCOL.icmpv6 }, message);
}

/** Names a flow: addresses, protocol and ports. Fragments of a datagram have no ports to show, so
 * those that have any are left out with the protocol. */
function flowOf(packet: Uint8Array): string {
  const found: Transport = findTransport(packet);
  const name = [addressText(sourceOf(packet)), addressText(destinationOf(packet))];
  if (found.fragment) return name.join(' ');
  const hasPorts = !found.outOfSight && [PROTOCOL.tcp, PROTOCOL.udp, PROTOCOL.sctp]
    .some((protocol) => protocol === found.protocol) && packet.length >= found.offset + 4;
  const ports = hasPorts ? read32(packet, found.offset) : 0;
  return [...name, found.protocol, ports].join(' ');
}
