// Sockets that probe paths: what they send has DF set, whatever the kernel thinks that the path
// takes (IP_PMTUDISC_PROBE), and what routers say of it comes back by the error queue
// (IP_RECVERR, ip(7), ipv6(7)). The kernel gives a socket only errors that quote its own address
// and port.

import { readSocketAddress, SOCKADDR_SIZE_MAX, type IpFamily } from './address.ts';
import { ERRNO, SystemError } from './errno.ts';
import { closeFd } from './file.ts';
import { addressOf } from './memory.ts';
import { MessageVector, type ExtendedError } from './message-vector.ts';
import { sendTo } from './raw-socket.ts';
import { IPPROTO_IP, IPPROTO_IPV6, openUdpSocket, setOption } from './socket.ts';

const IP_MTU_DISCOVER = 10;
const IP_RECVERR = 11;
const IPV6_MTU_DISCOVER = 23;
const IPV6_RECVERR = 25;
const IPV6_DONTFRAG = 62;
const PMTUDISC_PROBE = 3;
const MSG_ERRQUEUE = 0x2000;
const SO_EE_ORIGIN_LOCAL = 1;
const SO_EE_ORIGIN_ICMP = 2;
const SO_EE_ORIGIN_ICMP6 = 3;
const ICMP_UNREACHABLE = 3;
const ICMP_FRAGMENTATION_NEEDED = 4;
const ICMPV6_PACKET_TOO_BIG = 2;
const BUFFER_BYTES = 256 * 1024;
/** Errors that are read at once. */
const AT_ONCE = 32;

/** What somebody says of a probe: that it was too large for a link of `mtu`. `quote` is what it
 * quotes of the probe's payload, as far as asked for. */
export interface TooBig {
  remote: string;
  mtu: number;
  /** Our own kernel says so, of its own link. */
  isLocal: boolean;
  quote: Uint8Array;
}

/** Opens a non-blocking socket for probes from an address. */
export function openProbeSocket(family: IpFamily, address: string): number {
  const buffers = { receiveBufferBytes: BUFFER_BYTES, sendBufferBytes: BUFFER_BYTES };
  const fd = openUdpSocket({ family, address, port: 0, ...buffers });
  try {
    if (family === 'IPv6') {
      setOption(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_PROBE, 'IPV6_MTU_DISCOVER');
      setOption(fd, IPPROTO_IPV6, IPV6_DONTFRAG, 1, 'IPV6_DONTFRAG');
      setOption(fd, IPPROTO_IPV6, IPV6_RECVERR, 1, 'IPV6_RECVERR');
    } else {
      setOption(fd, IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_PROBE, 'IP_MTU_DISCOVER');
      setOption(fd, IPPROTO_IP, IP_RECVERR, 1, 'IP_RECVERR');
    }
  } catch (error) {
    closeFd(fd);
    throw error;
  }
  return fd;
}

/** Sends a probe. False: it did not leave; readTooBig() knows why where its own link is too small
 * for it. */
export function sendProbe(fd: number, payload: Uint8Array, address: string, port: number): boolean {
  // An error about an earlier datagram that has come meanwhile ends one call, and is over then.
  return trySend(fd, payload, address, port) || trySend(fd, payload, address, port);
}

function trySend(fd: number, payload: Uint8Array, address: string, port: number): boolean {
  try {
    sendTo(fd, payload, address, port);
    return true;
  } catch (error) {
    if (error instanceof SystemError) return false;
    throw error;
  }
}

/** Reads what has come about packets that were too large, with up to `quoteBytes` of each. What
 * else there is in the queue is passed over. */
export function readTooBig(fd: number, quoteBytes: number): TooBig[] {
  const found: TooBig[] = [];
  const names = new Uint8Array(AT_ONCE * SOCKADDR_SIZE_MAX);
  const quotes = new Uint8Array(AT_ONCE * quoteBytes);
  const messages = new MessageVector(AT_ONCE);
  for (let came = AT_ONCE; came === AT_ONCE;) {
    for (let index = 0; index < AT_ONCE; index += 1) {
      messages.set(index, addressOf(quotes) + (index * quoteBytes), quoteBytes,
        addressOf(names) + (index * SOCKADDR_SIZE_MAX), SOCKADDR_SIZE_MAX);
    }
    came = messages.receive(fd, 0, AT_ONCE, MSG_ERRQUEUE);
    for (let index = 0; index < came; index += 1) {
      const error = messages.extendedError(index);
      if (error === null || !isTooBig(error)) continue;
      const quote = quotes.slice(index * quoteBytes, (index * quoteBytes) + messages.length(index));
      const name = names.subarray(index * SOCKADDR_SIZE_MAX, (index + 1) * SOCKADDR_SIZE_MAX);
      const isLocal = error.origin === SO_EE_ORIGIN_LOCAL;
      found.push({ remote: readSocketAddress(name).address, mtu: error.info, isLocal, quote });
    }
  }
  return found;
}

function isTooBig({ errno, origin, type, code }: ExtendedError): boolean {
  if (origin === SO_EE_ORIGIN_LOCAL) return errno === ERRNO.EMSGSIZE;
  return origin === SO_EE_ORIGIN_ICMP6
    ? type === ICMPV6_PACKET_TOO_BIG
    : origin === SO_EE_ORIGIN_ICMP && type === ICMP_UNREACHABLE
      && code === ICMP_FRAGMENTATION_NEEDED;
}
