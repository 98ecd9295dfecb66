// Whole frames for the kernel to cut, tier T3, made from named fields: outer headers as the node's
// own sockets would have them, and the vnet header with both checksums left to do
// (`linux/virtio_net.h`, virtio_net_hdr_v1_hash_tunnel).

import { addressFamily } from '../../engine/address.ts';
import { gsoTypeOf, takeApart } from '../reference/offload.ts';
import type { Remote } from './core.ts';
import { ETHER_TYPE, PROTOCOL, addressOf, concat, ethernet, internetChecksum, ipv4, ipv6, word16,
  word32 } from './packets.ts';
import { VNET_FLAG, vnet } from './vnet.ts';

const TUNNEL_SIZE = 22;
const VNET_TUNNEL_SIZE = 24;
const TYPE = { IPv4: 0x20, IPv6: 0x40 };
const OUTER_SIZE = { IPv4: 20, IPv6: 40 };
/** One more than what sockets send: the node's stack takes one off. */
const TTL = 65;

export interface FrameFields {
  source: string;
  sourcePort: number;
  remote: Remote;
  /** MACs of the TAP, and ours. */
  mac: string;
  gatewayMac: string;
  flowHash: number;
  tos: number;
  gsoSize: number;
  ecn: boolean;
}

/** The frame that carries `payload`: VXLAN and Ethernet headers and an unfinished super-packet. */
export function frame(fields: FrameFields, payload: Uint8Array): Uint8Array {
  const { source, remote, tos } = fields;
  const family = addressFamily(source);
  const udp = concat(word16(fields.sourcePort), word16(remote.port), word16(8 + payload.length),
    [0, 0], payload);
  udp.set(word16(0xffff - pseudo(source, remote.address, udp.length)), 6);
  const addresses = { source, destination: remote.address };
  const outer = family === 'IPv4'
    ? ipv4({ ...addresses, protocol: PROTOCOL.udp, ttl: TTL, tos,
      identification: identification(fields) }, udp)
    : ipv6({ ...addresses, nextHeader: PROTOCOL.udp, hopLimit: TTL, trafficClass: tos }, udp);
  const type = family === 'IPv4' ? ETHER_TYPE.ipv4 : ETHER_TYPE.ipv6;
  const whole = ethernet({ destination: fields.mac, source: fields.gatewayMac, type }, outer);
  return concat(header(fields, payload.subarray(TUNNEL_SIZE)), whole);
}

/** Ours to choose: a number that belongs to the flow, here two bytes of its hash. */
function identification({ flowHash }: FrameFields): number {
  return ((flowHash & 0xff) << 8) | ((flowHash >>> 8) & 0xff);
}

/** Sum of a pseudo-header for a length, complemented as checksums are. */
function pseudo(source: string, destination: string, length: number): number {
  const rest = Uint8Array.from([...word32(length), 0, 0, 0, PROTOCOL.udp]);
  return internetChecksum(addressOf(source), addressOf(destination), rest);
}

/** Offsets count from the frame's first byte. */
function header({ source, gsoSize, ecn }: FrameFields, packet: Uint8Array): Uint8Array {
  const family = addressFamily(source);
  const { ip, transport } = takeApart(packet);
  const outerUdp = 14 + OUTER_SIZE[family];
  const inner = outerUdp + 8 + TUNNEL_SIZE;
  const gsoType = gsoTypeOf(packet) | TYPE[family] | (ecn ? 0x80 : 0);
  const bytes = vnet({
    flags: VNET_FLAG.needsChecksum | VNET_FLAG.tunnelChecksum, gsoType, gsoSize,
    headerLength: inner + ip.length + transport.length, checksumStart: inner + ip.length,
    checksumOffset: (gsoTypeOf(packet) & 7) === 5 ? 6 : 16,
  }, VNET_TUNNEL_SIZE);
  bytes.set([outerUdp, 0, inner, 0], 20);
  return bytes;
}
