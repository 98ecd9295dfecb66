// Slow twin of the tunnels: what lies between an outer header and a packet, kind by kind, told once
// more from the RFCs.

import * as reason from '../../wasm/abi/verdict.ts';
import type { Remote } from '../support/core.ts';
import { ETHER_TYPE, ethernet, geneve, macOf, parseEthernet, parseGeneve, parseVxlan, vxlan } from
  '../support/packets.ts';

export type TwinKind = 'vxlan' | 'geneve' | 'ipip' | 'udp' | 'direct';

/** A way to a remote node. `devices` are those that send IPv4 and IPv6 packets; `mac` is null where
 * there is no Ethernet header. */
export interface TwinPeer {
  kind: TwinKind;
  remote: Remote;
  devices: { IPv4: number; IPv6: number };
  vni: number;
  mac: string | null;
  ownMac: string;
  mtu: number;
}

/** What an underlay device brings: a kind of tunnel, and the one version of IP in it, if it has. */
export interface TwinTunnel {
  kind: TwinKind;
  version?: 4 | 6;
}

const BROADCAST = 'ff:ff:ff:ff:ff:ff';

/** What is left behind the outer header that a raw socket of IPv4 gives (raw(7)); null where that
 * is not whole. */
export function withoutOuter(received: Uint8Array, source: Remote | null): Uint8Array | null {
  if (source === null || source.address.includes(':')) return received;
  if (received.length < 20) return null;
  const size = ((received[0] ?? 0) & 0x0f) * 4;
  return size < 20 || size > received.length ? null : received.subarray(size);
}

/** The packet in a datagram of a peer, or why it is none. */
export function opened(
  datagram: Uint8Array, peer: TwinPeer, { kind, version }: TwinTunnel,
): Uint8Array | number {
  if (peer.kind !== kind) return reason.REASON_WRONG_TUNNEL;
  if (kind === 'vxlan') return openedVxlan(datagram, peer);
  if (kind === 'geneve') return openedGeneve(datagram, peer);
  if (kind === 'udp') return datagram;
  if (datagram.length === 0) return reason.REASON_TOO_SHORT;
  // Whatever is no IPv4 is for the check of the packet, where an IPv6 one is expected.
  const isIpv4 = (datagram[0] ?? 0) >> 4 === 4;
  return isIpv4 === (version === 4) ? datagram : reason.REASON_IP_VERSION;
}

/** The rules of the kernel's vxlan device, stricter than RFC 7348 section 5 on reserved bits. */
function openedVxlan(datagram: Uint8Array, peer: TwinPeer): Uint8Array | number {
  if (datagram.length < 22) return reason.REASON_TOO_SHORT;
  const header = parseVxlan(datagram);
  if (header.flags !== 0x08 || header.reserved !== 0 || header.reservedLast !== 0) {
    return reason.REASON_TUNNEL_HEADER;
  }
  return header.vni === peer.vni ? openedFrame(header.frame, peer) : reason.REASON_WRONG_VNI;
}

/** RFC 8926 section 3.4: reserved bits are ignored, options may be skipped unless they are
 * critical. A control packet is not for a pod. */
function openedGeneve(datagram: Uint8Array, peer: TwinPeer): Uint8Array | number {
  if (datagram.length < 8) return reason.REASON_TOO_SHORT;
  const header = parseGeneve(datagram);
  if (header.version !== 0 || header.isControl) return reason.REASON_TUNNEL_HEADER;
  if (header.isCritical) return reason.REASON_TUNNEL_OPTION;
  if (header.vni !== peer.vni) return reason.REASON_WRONG_VNI;
  const payload = datagram.subarray(header.size);
  if (peer.mac !== null) {
    if (header.protocol !== ETHER_TYPE.ethernet) return reason.REASON_ETHER_TYPE;
    return datagram.length < header.size + 14
      ? reason.REASON_TOO_SHORT
      : openedFrame(payload, peer);
  }
  const isIp = header.protocol === ETHER_TYPE.ipv4 || header.protocol === ETHER_TYPE.ipv6;
  if (!isIp) return reason.REASON_ETHER_TYPE;
  if (datagram.length <= header.size) return reason.REASON_TOO_SHORT;
  return checkVersion(header.protocol, payload) ?? payload;
}

function openedFrame(bytes: Uint8Array, peer: TwinPeer): Uint8Array | number {
  const frame = parseEthernet(bytes);
  const toUs = isMac(frame.destination, peer.ownMac) || isMac(frame.destination, BROADCAST);
  if (!toUs) return reason.REASON_WRONG_MAC;
  if (isMac(frame.source, peer.ownMac)) return reason.REASON_OWN_MAC;
  if (frame.payload.length === 0) return reason.REASON_TOO_SHORT;
  return checkVersion(frame.type, frame.payload) ?? frame.payload;
}

/** Does the EtherType say what the version nibble says? The reason why not, or null. */
export function checkVersion(type: number, packet: Uint8Array): number | null {
  if (type !== ETHER_TYPE.ipv4 && type !== ETHER_TYPE.ipv6) return reason.REASON_ETHER_TYPE;
  const version = (packet[0] ?? 0) >> 4;
  return version === (type === ETHER_TYPE.ipv4 ? 4 : 6) ? null : reason.REASON_IP_VERSION;
}

/** What the core puts into a datagram for a peer. */
export function enclosed(packet: Uint8Array, peer: TwinPeer): Uint8Array {
  const type = (packet[0] ?? 0) >> 4 === 4 ? ETHER_TYPE.ipv4 : ETHER_TYPE.ipv6;
  const framed = (): Uint8Array =>
    ethernet({ destination: peer.mac ?? '', source: peer.ownMac, type }, packet);
  if (peer.kind === 'vxlan') return vxlan({ vni: peer.vni }, framed());
  if (peer.kind !== 'geneve') return packet;
  return peer.mac === null
    ? geneve({ vni: peer.vni, protocol: type }, packet)
    : geneve({ vni: peer.vni, protocol: ETHER_TYPE.ethernet }, framed());
}

export function isMac(bytes: Uint8Array, text = ''): boolean {
  const mac = macOf(text);
  return bytes.length === mac.length && bytes.every((byte, index) => byte === mac[index]);
}

/** Bytes in front of a packet for a peer, without the outer IP header. */
export function enclosureSize({ kind, mac }: Pick<TwinPeer, 'kind' | 'mac'>): number {
  if (kind === 'vxlan') return 8 + 8 + 14;
  if (kind === 'geneve') return 8 + 8 + (mac === null ? 0 : 14);
  return kind === 'udp' ? 8 : 0;
}
