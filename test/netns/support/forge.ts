// A VXLAN peer made by hand: every field of every header may be wrong. It sends from UDP sockets of
// its namespace or, with an outer header of its own, from any address; and it reads what is sent to
// it as a flannel peer would, with exact checks of what must be exact (RFC 7348 section 5).

import type { Family } from '../../../engine/address.ts';
import { closeFd } from '../../../ffi/file.ts';
import {
  IPPROTO_RAW, openIpSocket, openPacketSocket, receiveFrame, receiveFrom, sendTo,
} from '../../../ffi/raw-socket.ts';
import { openUdpSocket } from '../../../ffi/socket.ts';
import type { Host } from '../../../cli/demo/bed.ts';
import {
  ETHER_TYPE, PROTOCOL, ethernet, icmp, icmpv6, ipv4, ipv6, macOf, parseEthernet, parseIpv4,
  parseIpv6, parseVxlan, read16, toHex, udp, vxlan,
} from '../../support/packets.ts';
import { VNI, VXLAN_PORT } from './forge-cluster.ts';
import { until } from '../../support/until.ts';

const BUFFER_BYTES = 1024 * 1024;
const MARK = 0x4356;

/** An end of a tunnel. */
export interface Vtep {
  address: string;
  mac: string;
}

/** One way of the tunnel; `family` is that of inner and outer packets alike. */
export interface Side {
  family: Family;
  own: Vtep;
  remote: Vtep;
}

/** What a test wants another way than it should be. */
export interface Forgery {
  destinationMac?: string;
  sourceMac?: string;
  etherType?: number;
  vni?: number;
  flags?: number;
  reserved?: number;
  reservedLast?: number;
}

/** An echo request or reply, with the addresses it had. */
export interface Echo {
  isReply: boolean;
  number: number;
  source: string;
  destination: string;
}

/** An echo request as an IP packet; `number` tells it from all others. */
export function echoRequest(
  source: string, destination: string, number: number, size = 56,
): Uint8Array {
  const rest = ((MARK * 0x10000) + (number & 0xffff)) >>> 0;
  const payload = new Uint8Array(size).fill(0x63);
  if (!source.includes(':')) {
    return ipv4({ source, destination, protocol: PROTOCOL.icmp }, icmp(8, 0, rest, payload));
  }
  const message = icmpv6({ source, destination, type: 128, rest }, payload);
  return ipv6({ source, destination, nextHeader: PROTOCOL.icmpv6 }, message);
}

/** Reads an echo made here, or its reply, out of a whole packet or its first fragment. */
export function readEcho(packet: Uint8Array): Echo | null {
  const isIpv4 = (packet[0] ?? 0) >> 4 === 4;
  const { source, destination } = isIpv4 ? parseIpv4(packet) : parseIpv6(packet);
  let message: Uint8Array;
  if (isIpv4) {
    const { protocol, offset, headerSize } = parseIpv4(packet);
    if (protocol !== PROTOCOL.icmp || offset !== 0) return null;
    message = packet.subarray(headerSize);
  } else {
    const isFragment = packet[6] === PROTOCOL.fragment;
    if (isFragment && (read16(packet, 42) >>> 3) !== 0) return null;
    if ((isFragment ? packet[40] : packet[6]) !== PROTOCOL.icmpv6) return null;
    message = packet.subarray(isFragment ? 48 : 40);
  }
  const type = message[0] ?? 0;
  const [request, reply] = isIpv4 ? [8, 0] : [128, 129];
  if ((type !== request && type !== reply) || read16(message, 4) !== MARK) return null;
  return {
    isReply: type === reply, number: read16(message, 6), source: toHex(source),
    destination: toHex(destination),
  };
}

/** A VXLAN datagram's payload, right but for what the forgery says. */
export function encapsulate(side: Side, inner: Uint8Array, forgery: Forgery = {}): Uint8Array {
  const isIpv4 = (inner[0] ?? 0) >> 4 === 4;
  const frame = ethernet({
    destination: forgery.destinationMac ?? side.remote.mac,
    source: forgery.sourceMac ?? side.own.mac,
    type: forgery.etherType ?? (isIpv4 ? ETHER_TYPE.ipv4 : ETHER_TYPE.ipv6),
  }, inner);
  const { vni = VNI, flags = 0x08, reserved = 0, reservedLast = 0 } = forgery;
  return vxlan({ vni, flags, reserved, reservedLast }, frame);
}

/** The forging peer of one family. */
export class Forge {
  /** Echoes that came to our VTEP in tunnel packets that are right in every field. */
  readonly echoes: Echo[] = [];
  /** What came and was not right: nothing ever should. */
  readonly faults: string[] = [];
  readonly side: Side;
  /** The VTEP's socket, one with another port, and one without a header. */
  readonly #vtep: number;
  readonly #other: number;
  readonly #raw: number;
  readonly #buffer = new Uint8Array(65536);

  constructor(host: Host, side: Side) {
    this.side = side;
    const { family, own: { address } } = side;
    const sizes = { receiveBufferBytes: BUFFER_BYTES, sendBufferBytes: BUFFER_BYTES };
    const open = (port: number): number =>
      host.namespace.run(() => openUdpSocket({ family, address, port, ...sizes }));
    this.#vtep = open(VXLAN_PORT);
    this.#other = open(0);
    this.#raw = host.namespace.run(() => openIpSocket(family, IPPROTO_RAW));
  }

  /** Sends from the VTEP's address, from its port or from another one. */
  send(payload: Uint8Array, fromVtepPort = false): void {
    const fd = fromVtepPort ? this.#vtep : this.#other;
    sendTo(fd, payload, this.side.remote.address, VXLAN_PORT);
  }

  /** Sends from whatever address. `checksum` 0 stands for none (RFC 768). */
  sendFrom(source: string, payload: Uint8Array, checksum?: 0): void {
    const destination = this.side.remote.address;
    const ports = { sourcePort: 49152, destinationPort: VXLAN_PORT };
    const datagram = udp({ source, destination, ...ports }, payload);
    if (checksum === 0) datagram.set([0, 0], 6);
    const packet = this.side.family === 'IPv4'
      ? ipv4({ source, destination, protocol: PROTOCOL.udp }, datagram)
      : ipv6({ source, destination, nextHeader: PROTOCOL.udp }, datagram);
    sendTo(this.#raw, packet, destination);
  }

  /** Sends a right packet. */
  sendEcho(source: string, destination: string, number: number, size?: number): void {
    this.send(encapsulate(this.side, echoRequest(source, destination, number, size)));
  }

  /** Reads all that has come. */
  drain(): void {
    for (;;) {
      const received = receiveFrom(this.#vtep, this.#buffer, 0);
      if (received === null) return;
      this.#take(this.#buffer.slice(0, received.length), received.address);
    }
  }

  /** Waits for the replies to our requests with these numbers. */
  async replies(numbers: number[]): Promise<void> {
    await until(`replies to ${numbers.join()}`, () => this.#hasAll(true, numbers));
  }

  /** Waits for requests with these numbers. */
  async requests(numbers: number[]): Promise<void> {
    await until(`requests ${numbers.join()}`, () => this.#hasAll(false, numbers));
  }

  close(): void {
    for (const fd of [this.#vtep, this.#other, this.#raw]) closeFd(fd);
  }

  #hasAll(isReply: boolean, numbers: number[]): boolean {
    this.drain();
    const seen = new Set(this.echoes.filter((echo) => echo.isReply === isReply)
      .map(({ number }) => number));
    return numbers.every((number) => seen.has(number));
  }

  #take(payload: Uint8Array, from: string): void {
    const { own, remote } = this.side;
    const { flags, reserved, vni, reservedLast, frame } = parseVxlan(payload);
    const { destination, source, type, payload: inner } = parseEthernet(frame);
    const isIpv4 = (inner[0] ?? 0) >> 4 === 4;
    const isRight = from === remote.address && flags === 0x08 && reserved === 0
      && reservedLast === 0 && vni === VNI && toHex(destination) === toHex(macOf(own.mac))
      && toHex(source) === toHex(macOf(remote.mac))
      && type === (isIpv4 ? ETHER_TYPE.ipv4 : ETHER_TYPE.ipv6);
    if (!isRight) this.faults.push(`from ${from}: ${toHex(payload.subarray(0, 64))}`);
    const echo = readEcho(inner);
    if (isRight && echo !== null) this.echoes.push(echo);
  }
}

/** Sees every packet that reaches an interface, and sends from it whatever the kernel may think. */
export class Tap {
  readonly #capture: number;
  readonly #raw: Record<Family, number>;
  readonly #headerSize: number;
  readonly #buffer = new Uint8Array(65536);
  readonly #numbers: number[] = [];

  /** `headerSize` is that of the link: 0 for a TUN, 14 for a TAP. */
  constructor(host: Host, device: string, headerSize: number) {
    this.#headerSize = headerSize;
    const { namespace } = host;
    this.#capture = namespace.run(() => openPacketSocket(device));
    this.#raw = {
      IPv4: namespace.run(() => openIpSocket('IPv4', IPPROTO_RAW)),
      IPv6: namespace.run(() => openIpSocket('IPv6', IPPROTO_RAW)),
    };
  }

  /** Sends an IP packet as it is. */
  send(packet: Uint8Array): void {
    const isIpv4 = (packet[0] ?? 0) >> 4 === 4;
    const bytes = isIpv4 ? parseIpv4(packet).destination : parseIpv6(packet).destination;
    const text = isIpv4
      ? bytes.join('.')
      : Array.from({ length: 8 }, (_, at) => read16(bytes, at * 2).toString(16)).join(':');
    sendTo(this.#raw[isIpv4 ? 'IPv4' : 'IPv6'], packet, text);
  }

  /** Numbers of the echo requests that have reached the interface so far. */
  arrived(): number[] {
    for (;;) {
      const frame = receiveFrame(this.#capture, this.#buffer, 0);
      if (frame === null) return this.#numbers;
      const echo = readEcho(this.#buffer.subarray(this.#headerSize, frame.length));
      if (echo !== null && !echo.isReply && !frame.outgoing) this.#numbers.push(echo.number);
    }
  }

  close(): void {
    for (const fd of [this.#capture, this.#raw.IPv4, this.#raw.IPv6]) closeFd(fd);
  }
}

/** A packet with a bit of its IPv4 header checksum the other way. */
export function spoilHeaderChecksum(packet: Uint8Array): Uint8Array {
  const spoiled = packet.slice();
  spoiled[10] = (spoiled[10] ?? 0) ^ 0x10;
  return spoiled;
}
