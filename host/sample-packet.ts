// Packets that no pod sent, for warming the core up: TCP and UDP, as a TUN with offloads hands them
// over (linux/virtio_net.h), checksum unfinished, in one packet or one super-packet.

import * as headers from '../wasm/abi/headers.ts';
import { addressBytes, addressFamily } from '../engine/address.ts';

/** What a sample is. */
export interface Sample {
  source: string;
  destination: string;
  protocol: typeof headers.PROTOCOL_TCP | typeof headers.PROTOCOL_UDP;
  payload: number;
  /** Payload of each packet of a super-packet; 0 for a plain packet. */
  segmentSize: number;
}

const HOP_LIMIT = 64;
const TCP_HEADER_WORDS = headers.TCP_HEADER_SIZE / 4;

/** A vnet header and the packet behind it. */
export function samplePacket(sample: Sample): Uint8Array {
  const { source, destination, protocol, payload, segmentSize } = sample;
  const isIpv4 = addressFamily(source) === 'IPv4';
  const isTcp = protocol === headers.PROTOCOL_TCP;
  const ipSize = isIpv4 ? headers.IPV4_HEADER_SIZE : headers.IPV6_HEADER_SIZE;
  const headerSize = isTcp ? headers.TCP_HEADER_SIZE : headers.UDP_HEADER_SIZE;
  const length = headerSize + payload;
  const bytes = new Uint8Array(headers.VNET_HEADER_SIZE + ipSize + length);
  const vnet = new DataView(bytes.buffer, 0, headers.VNET_HEADER_SIZE);
  const packet = bytes.subarray(headers.VNET_HEADER_SIZE);
  const pseudo = [...addressBytes(source), ...addressBytes(destination), 0, protocol,
    length >>> 8, length & 0xff];
  const checksum = isTcp ? headers.TCP_CHECKSUM : headers.UDP_CHECKSUM;
  vnet.setUint8(headers.VNET_FLAGS, headers.VNET_NEEDS_CHECKSUM);
  vnet.setUint8(headers.VNET_GSO_TYPE, segmentSize === 0 ? 0 : gsoType(isTcp, isIpv4));
  vnet.setUint16(headers.VNET_GSO_SIZE, segmentSize, true);
  vnet.setUint16(headers.VNET_CHECKSUM_START, ipSize, true);
  vnet.setUint16(headers.VNET_CHECKSUM_OFFSET, checksum, true);
  writeIp(packet, sample, ipSize + length);
  const transport = new DataView(bytes.buffer, headers.VNET_HEADER_SIZE + ipSize);
  if (isTcp) {
    transport.setUint8(headers.TCP_DATA_OFFSET, TCP_HEADER_WORDS << 4);
    transport.setUint8(headers.TCP_FLAGS, headers.TCP_FLAG_ACK);
  } else {
    transport.setUint16(headers.UDP_LENGTH, length);
  }
  transport.setUint16(checksum, onesSum(pseudo));
  return bytes;
}

function gsoType(isTcp: boolean, isIpv4: boolean): number {
  if (!isTcp) return headers.VNET_GSO_UDP_L4;
  return isIpv4 ? headers.VNET_GSO_TCPV4 : headers.VNET_GSO_TCPV6;
}

function writeIp(packet: Uint8Array, sample: Sample, total: number): void {
  const { source, destination, protocol } = sample;
  const view = new DataView(packet.buffer, packet.byteOffset, packet.length);
  if (addressFamily(source) === 'IPv4') {
    view.setUint8(headers.IPV4_VERSION_IHL, 0x45);
    view.setUint16(headers.IPV4_TOTAL_LENGTH, total);
    view.setUint16(headers.IPV4_FLAGS_OFFSET, headers.IPV4_FLAG_DF);
    view.setUint8(headers.IPV4_TTL, HOP_LIMIT);
    view.setUint8(headers.IPV4_PROTOCOL, protocol);
    packet.set(addressBytes(source), headers.IPV4_SOURCE);
    packet.set(addressBytes(destination), headers.IPV4_DESTINATION);
    const sum = onesSum([...packet.subarray(0, headers.IPV4_HEADER_SIZE)]);
    view.setUint16(headers.IPV4_CHECKSUM, 0xffff - sum);
  } else {
    view.setUint8(headers.IPV6_VERSION_CLASS, 0x60);
    view.setUint16(headers.IPV6_PAYLOAD_LENGTH, total - headers.IPV6_HEADER_SIZE);
    view.setUint8(headers.IPV6_NEXT_HEADER, protocol);
    view.setUint8(headers.IPV6_HOP_LIMIT, HOP_LIMIT);
    packet.set(addressBytes(source), headers.IPV6_SOURCE);
    packet.set(addressBytes(destination), headers.IPV6_DESTINATION);
  }
}

/** One's complement sum, RFC 1071, of an even number of bytes. */
function onesSum(bytes: readonly number[]): number {
  let sum = 0;
  for (let at = 0; at < bytes.length; at += 2) {
    sum += ((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0);
  }
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return sum;
}
