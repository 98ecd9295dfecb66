// Raw sockets: ICMP, any IP protocol, ready-made IP packets, and whole frames of an interface.
//
// For the IPIP tunnel, and for tests and the demo, which ping, forge and capture packets. These
// calls are not the data path: they throw a SystemError when the kernel refuses.

import {
  AF_INET, AF_INET6, readSocketAddress, SOCKADDR_SIZE_MAX, writeSocketAddress,
  type IpFamily, type SocketAddress,
} from './address.ts';
import { check, ERRNO, type Remedies } from './errno.ts';
import { closeFd } from './file.ts';
import { interfaceIndex } from './interface.ts';
import * as libc from './libc.ts';
import { addressOf, NativeBlock } from './memory.ts';
import { POLLIN, waitFor } from './poll.ts';
import {
  clearDontFragment, getOption, IPPROTO_IP, IPPROTO_IPV6, openSocket, receiveTos, setOption,
  setReceiveBuffer, setSendBuffer, SOCK_RAW,
} from './socket.ts';

const AF_PACKET = 17;
const ETH_P_ALL = 0x0003;
const IPPROTO_ICMP = 1;
const IPPROTO_ICMPV6 = 58;
/** Protocol of a socket whose packets bring their own IP header. It receives nothing. */
export const IPPROTO_RAW = 255;
const IP_TTL = 2;
const IPV6_UNICAST_HOPS = 16;
const MSG_TRUNC = 0x20;
const SOCKADDR_LL_SIZE = 20;
const SOCKADDR_LL_PKTTYPE = 10;
const PACKET_OUTGOING = 4;
const SOL_PACKET = 263;
const PACKET_STATISTICS = 6;
const TPACKET_STATS_SIZE = 8;
const TPACKET_STATS_DROPS = 4;

const REMEDIES: Remedies = { EPERM: 'CAP_NET_RAW is needed' };

const name = new NativeBlock(SOCKADDR_SIZE_MAX);
const nameSize = new NativeBlock(4);

/** A received datagram; `length` exceeds the buffer when it was cut. */
export interface Received extends SocketAddress {
  length: number;
}

/**
 * Opens a non-blocking raw socket for one IP protocol number. What it receives begins with the
 * IP header on IPv4, and after it on IPv6. With IPPROTO_RAW, what it sends brings its own header.
 */
export function openIpSocket(family: IpFamily, protocol: number): number {
  const number = family === 'IPv6' ? AF_INET6 : AF_INET;
  return openSocket(number, SOCK_RAW, protocol, `${family} protocol ${protocol}`, REMEDIES);
}

/** Where a socket of IP in IP is bound, and how much it may queue. */
export interface TunnelSocketOptions {
  family: IpFamily;
  /** Our own address: of packets for others it gets none. */
  address: string;
  /** What it carries: 4 for IPv4, 41 for IPv6. */
  protocol: number;
  receiveBufferBytes: number;
  sendBufferBytes: number;
}

/**
/** Opens a raw socket for IP in IP. The kernel makes the outer header of what it sends, with DF
 * clear, and puts fragments together before it gives it a packet; as long as it is open nobody is
 * told that the protocol is unreachable. Each packet arrives with its TOS or traffic class. / */
export function openTunnelSocket(options: TunnelSocketOptions): number {
  const { family, address, protocol } = options;
  const fd = openIpSocket(family, protocol);
  try {
    clearDontFragment(fd, family);
    setReceiveBuffer(fd, options.receiveBufferBytes);
    setSendBuffer(fd, options.sendBufferBytes);
    receiveTos(fd, family);
    const size = writeSocketAddress(name.bytes, address, 0);
    const result = libc.result(libc.bind(fd, name.address, size));
    check(result, 'bind', `${address} protocol ${protocol}`);
    return fd;
  } catch (error) {
    closeFd(fd);
    throw error;
  }
}

/** Opens a raw ICMP or ICMPv6 socket. The kernel fills in the checksum of ICMPv6 only. */
export function openIcmpSocket(family: IpFamily): number {
  return openIpSocket(family, family === 'IPv6' ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
}

/** Sets the TTL, or hop limit, of what a socket sends. */
export function setTtl(fd: number, family: IpFamily, ttl: number): void {
  if (family === 'IPv6') setOption(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS, ttl, 'IPV6_UNICAST_HOPS');
  else setOption(fd, IPPROTO_IP, IP_TTL, ttl, 'IP_TTL');
}

/** Sends one datagram, or one packet of a raw socket (then `port` is 0). */
export function sendTo(fd: number, bytes: Uint8Array, address: string, port = 0): void {
  const size = writeSocketAddress(name.bytes, address, port);
  const sent = libc.sendto(fd, addressOf(bytes), bytes.length, 0, name.address, size);
  check(libc.result(sent), 'sendto', address, REMEDIES);
}

/**
 * Receives one datagram, waiting at most `timeoutMs`; null after that. The wait blocks this
 * thread, its event loop included.
 */
export function receiveFrom(fd: number, buffer: Uint8Array, timeoutMs: number): Received | null {
  const length = receive(fd, buffer, timeoutMs);
  return length === null ? null : { length, ...readSocketAddress(name.bytes) };
}

/**
 * Captures all frames of an interface, in both directions. A TUN has no link header: its frames
 * begin with the IP header. Frames of a sender with offloads on are longer than the MTU. Null
 * stands for all interfaces of the namespace, those to come included.
 */
export function openPacketSocket(interfaceName: string | null): number {
  const index = interfaceName === null ? 0 : interfaceIndex(interfaceName);
  // Protocol 0 receives nothing, so that no frame of another interface slips in before bind().
  const fd = openSocket(AF_PACKET, SOCK_RAW, 0, interfaceName ?? 'every interface', REMEDIES);
  const local = new NativeBlock(SOCKADDR_LL_SIZE);
  local.view.setUint16(0, AF_PACKET, true);
  local.view.setUint16(2, ETH_P_ALL, false);
  local.setInt(4, index);
  const result = libc.result(libc.bind(fd, local.address, SOCKADDR_LL_SIZE));
  if (result < 0) closeFd(fd);
  check(result, 'bind', `packet socket of ${interfaceName}`);
  return fd;
}

/** Frames that a packet socket had no room for since this was last asked. */
export function lostFrames(fd: number): number {
  const statistics = new NativeBlock(TPACKET_STATS_SIZE);
  getOption(fd, SOL_PACKET, PACKET_STATISTICS, statistics, 'PACKET_STATISTICS');
  return statistics.getInt(TPACKET_STATS_DROPS);
}

/** Receives one frame of a packet socket; null after `timeoutMs`. Blocks like receiveFrom(). */
export function receiveFrame(
  fd: number, buffer: Uint8Array, timeoutMs: number,
): { length: number; outgoing: boolean } | null {
  const length = receive(fd, buffer, timeoutMs);
  if (length === null) return null;
  return { length, outgoing: name.bytes[SOCKADDR_LL_PKTTYPE] === PACKET_OUTGOING };
}

/** Leaves the sender in `name`. */
function receive(fd: number, buffer: Uint8Array, timeoutMs: number): number | null {
  const ready = check(waitFor(fd, POLLIN, timeoutMs), 'poll', `descriptor ${fd}`);
  if (ready === 0) return null;
  nameSize.setInt(0, SOCKADDR_SIZE_MAX);
  const length = libc.result(libc.recvfrom(
    fd, addressOf(buffer), buffer.length, MSG_TRUNC, name.address, nameSize.address));
  if (length === -ERRNO.EAGAIN) return null;
  return check(length, 'recvfrom', `descriptor ${fd}`);
}
