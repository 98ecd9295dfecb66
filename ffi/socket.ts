// UDP sockets of the underlay, and what may be asked of any socket.
//
// Outer packets leave with DF clear, as a kernel tunnel device sends them, so the kernel fragments
// a datagram that is larger than the link. Of IPv4 it goes by the link alone (IP_PMTUDISC_OMIT):
// what it has been told of a path anybody may have made up, and routers fragment. Of IPv6 it goes
// by the path (IPV6_PMTUDISC_DONT), since nobody else fragments. The socket is created in the
// network namespace of the calling thread and stays there.

import {
  AF_INET, AF_INET6, readSocketAddress, SOCKADDR_SIZE_MAX, writeSocketAddress, type IpFamily,
} from './address.ts';
import { check, ERRNO, SystemError, type Remedies } from './errno.ts';
import { closeFd } from './file.ts';
import * as libc from './libc.ts';
import { NativeBlock } from './memory.ts';
import { MessageVector } from './message-vector.ts';

export const SOCK_DGRAM = 2;
export const SOCK_RAW = 3;
export const SOCK_NONBLOCK_CLOEXEC = 0o2004000;

export const IPPROTO_IP = 0;
export const IPPROTO_UDP = 17;
export const IPPROTO_IPV6 = 41;

const SOL_SOCKET = 1;
const SO_REUSEADDR = 2;
const SO_SNDBUF = 7;
const SO_RCVBUF = 8;
const SO_REUSEPORT = 15;
const SO_PEERCRED = 17;
const SO_SNDBUFFORCE = 32;
const SO_RCVBUFFORCE = 33;
const IP_MTU_DISCOVER = 10;
const IP_RECVTOS = 13;
const IPV6_MTU_DISCOVER = 23;
const IPV6_V6ONLY = 26;
const IPV6_RECVTCLASS = 66;
const PMTUDISC_DONT = 0;
const PMTUDISC_OMIT = 5;
const UDP_SEGMENT = 103;
const UDP_GRO = 104;
const UCRED_SIZE = 12;

/** Most datagrams of one message: what two generations of kernels take, less the one that their
 * count of the UDP header costs (udp_send_skb() of net/ipv4/udp.c). */
const LEAST_SEGMENT_LIMIT = 63;
const SEGMENT_LIMITS = [127, LEAST_SEGMENT_LIMIT];
const PROBE_ADDRESS = '127.0.0.1';
const PROBE_SEGMENT_SIZE = 64;
const PROBE_BUFFER_BYTES = 65536;
/** What a kernel that cannot cut a message answers. Others, as where the loopback interface was
 * never up, say nothing about it. */
const CANNOT_CUT: number[] = [ERRNO.EINVAL, ERRNO.EIO, ERRNO.EMSGSIZE];

const BIND_REMEDIES: Remedies = {
  EADDRINUSE: 'another process, or a kernel tunnel device, has the port',
  EADDRNOTAVAIL: 'the address is not one of this network namespace',
  EACCES: 'ports below 1024 need CAP_NET_BIND_SERVICE',
};

/** Where a UDP socket is bound and how much it may queue. */
export interface UdpOptions {
  family: IpFamily;
  /** Local address; `0.0.0.0` or `::` for all. */
  address: string;
  /** Local port; 0 lets the kernel choose. */
  port: number;
  receiveBufferBytes: number;
  sendBufferBytes: number;
  reuseAddress?: boolean;
  /** Joins the sockets of that address that shareAddress() was called for. */
  joinsGroup?: boolean;
}

/** Who is at the other end of a unix socket. */
export interface PeerCredentials {
  pid: number;
  uid: number;
  gid: number;
}

/** Opens and binds a UDP socket. Returns its non-blocking descriptor. */
export function openUdpSocket(options: UdpOptions): number {
  const isV6 = options.family === 'IPv6';
  const object = `${isV6 ? `[${options.address}]` : options.address}:${options.port}`;
  const fd = openSocket(isV6 ? AF_INET6 : AF_INET, SOCK_DGRAM, IPPROTO_UDP, object);
  try {
    if (options.reuseAddress === true) setOption(fd, SOL_SOCKET, SO_REUSEADDR, 1, 'SO_REUSEADDR');
    if (options.joinsGroup === true) shareAddress(fd);
    if (isV6) setOption(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1, 'IPV6_V6ONLY');
    clearDontFragment(fd, options.family);
    setReceiveBuffer(fd, options.receiveBufferBytes);
    setSendBuffer(fd, options.sendBufferBytes);
    const name = new NativeBlock(SOCKADDR_SIZE_MAX);
    const size = writeSocketAddress(name.bytes, options.address, options.port);
    check(libc.result(libc.bind(fd, name.address, size)), 'bind', object, BIND_REMEDIES);
  } catch (error) {
    closeFd(fd);
    throw error;
  }
  return fd;
}

/** Lets further sockets of this user be bound to the socket's address: each flow of datagrams keeps
 * to one of them. Of a socket that is bound already, so that its address was nobody's before. */
export function shareAddress(fd: number): void {
  setOption(fd, SOL_SOCKET, SO_REUSEPORT, 1, 'SO_REUSEPORT');
}

/** Local port of a bound socket. */
export function localPort(fd: number): number {
  const name = new NativeBlock(SOCKADDR_SIZE_MAX);
  const size = new NativeBlock(4);
  size.setInt(0, SOCKADDR_SIZE_MAX);
  const result = libc.result(libc.getsockname(fd, name.address, size.address));
  check(result, 'getsockname', `descriptor ${fd}`);
  return readSocketAddress(name.bytes).port;
}

/** Lets several datagrams of a flow arrive as one; false where the kernel cannot join them. */
export function joinDatagrams(fd: number): boolean {
  return trySetOption(fd, IPPROTO_UDP, UDP_GRO, 1) === 0;
}

/** Lets each datagram arrive with its TOS or traffic class. */
export function receiveTos(fd: number, family: IpFamily): void {
  if (family === 'IPv6') setOption(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1, 'IPV6_RECVTCLASS');
  else setOption(fd, IPPROTO_IP, IP_RECVTOS, 1, 'IP_RECVTOS');
}

/** Tells whether the kernel hands several datagrams of a flow over as one (UDP_GRO). */
export function probeUdpGro(): boolean {
  const fd = openSocket(AF_INET, SOCK_DGRAM, IPPROTO_UDP, 'probe');
  const joins = joinDatagrams(fd);
  closeFd(fd);
  return joins;
}

/**
 * How many datagrams the kernel cuts one message into (UDP_SEGMENT), found by sending some to
 * ourselves: 1 where it cuts none. Where nothing can be sent, the least that any kernel takes that
 * knows the option: one that cuts no more would refuse what the better one takes.
 */
export function probeSegmentLimit(): number {
  const bare = openSocket(AF_INET, SOCK_DGRAM, IPPROTO_UDP, 'probe');
  const isKnown = trySetOption(bare, IPPROTO_UDP, UDP_SEGMENT, PROBE_SEGMENT_SIZE) === 0;
  closeFd(bare);
  if (!isKnown) return 1;
  try {
    for (const count of SEGMENT_LIMITS) {
      const error = sendToSelf(count);
      if (error === 0) return count;
      if (!CANNOT_CUT.includes(error)) return LEAST_SEGMENT_LIMIT;
    }
    return 1;
  } catch (error) {
    if (error instanceof SystemError && error.errno === ERRNO.EADDRNOTAVAIL) {
      return LEAST_SEGMENT_LIMIT;
    }
    throw error;
  }
}

/** Sends ourselves a message to be cut into so many datagrams. Returns an errno, or 0. */
function sendToSelf(count: number): number {
  const fd = openUdpSocket({
    family: 'IPv4', address: PROBE_ADDRESS, port: 0,
    receiveBufferBytes: PROBE_BUFFER_BYTES, sendBufferBytes: PROBE_BUFFER_BYTES,
  });
  const block = new NativeBlock(SOCKADDR_SIZE_MAX + (count * PROBE_SEGMENT_SIZE));
  const nameSize = writeSocketAddress(block.bytes, PROBE_ADDRESS, localPort(fd));
  const message = new MessageVector(1);
  message.set(0, block.address + SOCKADDR_SIZE_MAX, count * PROBE_SEGMENT_SIZE, block.address,
    nameSize);
  message.setControl(0, AF_INET, PROBE_SEGMENT_SIZE, 0);
  const sent = message.send(fd, 0, 1);
  closeFd(fd);
  return sent === 1 ? 0 : -sent;
}

/** Process, user and group that connected the other end of a unix socket. */
export function peerCredentials(fd: number): PeerCredentials {
  const credentials = new NativeBlock(UCRED_SIZE);
  getOption(fd, SOL_SOCKET, SO_PEERCRED, credentials, 'SO_PEERCRED');
  return {
    pid: credentials.getInt(0), uid: credentials.getInt(4) >>> 0, gid: credentials.getInt(8) >>> 0,
  };
}

/** Size of the receive queue that the kernel granted; it counts its own overhead too. */
export function receiveBufferBytes(fd: number): number {
  const value = new NativeBlock(4);
  getOption(fd, SOL_SOCKET, SO_RCVBUF, value, 'SO_RCVBUF');
  return value.getInt(0);
}

/** Opens a non-blocking socket that a child process does not inherit. */
export function openSocket(
  family: number, type: number, protocol: number, object: string, remedies: Remedies = {},
): number {
  const fd = libc.result(libc.socket(family, type | SOCK_NONBLOCK_CLOEXEC, protocol));
  return check(fd, 'socket', object, { EAFNOSUPPORT: 'the kernel lacks it', ...remedies });
}

/** Sets an integer socket option. */
export function setOption(
  fd: number, level: number, option: number, value: number, name: string,
): void {
  check(trySetOption(fd, level, option, value), `setsockopt(${name})`, `descriptor ${fd}`);
}

function trySetOption(fd: number, level: number, option: number, value: number): number {
  const block = new NativeBlock(4);
  block.setInt(0, value);
  return libc.result(libc.setsockopt(fd, level, option, block.address, 4));
}

/** Reads a socket option. */
export function getOption(
  fd: number, level: number, option: number, target: NativeBlock, name: string,
): void {
  const size = new NativeBlock(4);
  size.setInt(0, target.bytes.length);
  const result = libc.getsockopt(fd, level, option, target.address, size.address);
  check(libc.result(result), `getsockopt(${name})`, `descriptor ${fd}`);
}

/** Lets the kernel fragment what is larger than the link, and others on the way what is larger than
 * theirs. */
export function clearDontFragment(fd: number, family: IpFamily): void {
  if (family === 'IPv6') {
    setOption(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_DONT, 'IPV6_MTU_DISCOVER');
  } else {
    setOption(fd, IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_OMIT, 'IP_MTU_DISCOVER');
  }
}

/** Sets how much a socket may have queued for us, beyond the system's limit where we may. */
export function setReceiveBuffer(fd: number, sizeBytes: number): void {
  setBuffer(fd, SO_RCVBUFFORCE, SO_RCVBUF, sizeBytes, 'SO_RCVBUF');
}

/** Likewise for what waits to be sent. */
export function setSendBuffer(fd: number, sizeBytes: number): void {
  setBuffer(fd, SO_SNDBUFFORCE, SO_SNDBUF, sizeBytes, 'SO_SNDBUF');
}

/** The forced option needs CAP_NET_ADMIN; the plain one is held to net.core.*mem_max. */
function setBuffer(
  fd: number, forced: number, plain: number, sizeBytes: number, name: string,
): void {
  if (trySetOption(fd, SOL_SOCKET, forced, sizeBytes) < 0) {
    setOption(fd, SOL_SOCKET, plain, sizeBytes, name);
  }
}
