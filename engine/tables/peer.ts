// Peers: records with ready-made headers. A published record is written again in single words only,
// the MTU and the previous record; any other change is a new record, and the old index waits out
// its grace period.

import {
  ETHERNET_DESTINATION,
  ETHERNET_HEADER_SIZE,
  ETHERNET_SOURCE,
  ETHER_TYPE_ETHERNET,
  GENEVE_HEADER_SIZE,
  GENEVE_PROTOCOL,
  GENEVE_VNI,
  VXLAN_FLAGS,
  VXLAN_FLAG_VNI,
  VXLAN_HEADER_SIZE,
  VXLAN_VNI,
} from '../../wasm/abi/headers.ts';
import {
  DIRECTORY_PEERS,
  DIRECTORY_PEER_LIMIT,
  FAMILY_IPV4,
  FAMILY_IPV6,
  PEER_DEVICE,
  PEER_DEVICE_IPV6,
  PEER_HEADER,
  PEER_HEADER_LENGTH,
  PEER_MTU,
  PEER_NEXT_HOP,
  PEER_PREVIOUS,
  PEER_REMOTE,
  PEER_STRIDE,
  PEER_TUNNEL,
  PEER_VNI,
  REMOTE_FAMILY,
  REMOTE_IPV4,
  REMOTE_IPV6,
  REMOTE_PORT,
} from '../../wasm/abi/layout.ts';
import { addressBytes, addressFamily, macBytes } from '../address.ts';
import type { Core } from '../core.ts';
import { TUNNEL_NUMBERS, tunnelDevice, type PeerTunnel } from '../tunnel.ts';
import { IndexPool } from './grace.ts';
import { TableFullError } from './limits.ts';

/** What a peer's record is made of. `ownMac` is our tunnel end's, `mtu` the largest inner packet;
 * `previous` is the record whose packets are taken, too, or -1. */
export interface PeerRecord {
  tunnel: PeerTunnel;
  nextHop: number;
  ownMac: string;
  mtu: number;
  previous?: number;
}

export class PeerTable {
  #core: Core;
  #start: number;
  #pool: IndexPool;

  constructor(core: Core) {
    this.#core = core;
    this.#start = core.directory(DIRECTORY_PEERS);
    this.#pool = new IndexPool(core, 0, core.directory(DIRECTORY_PEER_LIMIT));
  }

  get limit(): number {
    return this.#pool.limit;
  }

  get used(): number {
    return this.#pool.used;
  }

  /** Writes a new record and returns its index, for a next hop to point at. */
  add(peer: PeerRecord): number {
    const index = this.#pool.take();
    if (index < 0) throw new TableFullError('peers', this.limit, `peer ${peer.tunnel.remote}`);
    this.#write(this.#start + (index * PEER_STRIDE), peer);
    return index;
  }

  /** From now on a record's packets are the only ones that are taken. */
  forgetPrevious(index: number): void {
    this.#store(index, PEER_PREVIOUS, 0);
  }

  /** From now on packets are held to this. One that is under way may be held to both. */
  setMtu(index: number, mtu: number): void {
    this.#store(index, PEER_MTU, mtu);
  }

  #store(index: number, field: number, value: number): void {
    const at = this.#start + (index * PEER_STRIDE) + field;
    Atomics.store(new Int32Array(this.#core.memory.buffer), at / 4, value);
  }

  /** Gives a record back. Precondition: no next hop points at it any more. */
  remove(index: number): void {
    this.#pool.retire(index);
  }

  #write(at: number, { tunnel, nextHop, mtu, ownMac, previous = -1 }: PeerRecord): void {
    const { view, bytes } = this.#core;
    bytes.fill(0, at, at + PEER_STRIDE);
    const outer = addressFamily(tunnel.remote);
    view.setUint8(at + PEER_TUNNEL, TUNNEL_NUMBERS[tunnel.kind]);
    view.setUint16(at + PEER_DEVICE, tunnelDevice(tunnel.kind, 'IPv4', outer), true);
    view.setUint16(at + PEER_DEVICE_IPV6, tunnelDevice(tunnel.kind, 'IPv6', outer), true);
    view.setUint32(at + PEER_MTU, mtu, true);
    view.setUint16(at + PEER_NEXT_HOP, nextHop, true);
    if ('vni' in tunnel) view.setUint32(at + PEER_VNI, tunnel.vni, true);
    writeRemote(view, bytes, at + PEER_REMOTE, tunnel.remote, tunnel.port);
    view.setUint8(at + PEER_HEADER_LENGTH, this.#writeHeader(at + PEER_HEADER, tunnel, ownMac));
    const before = previous < 0 ? 0 : this.#start + (previous * PEER_STRIDE);
    view.setUint32(at + PEER_PREVIOUS, before, true);
  }

  /** Writes what lies in front of each packet, but for the type of what follows. Returns how many
   * bytes that is. */
  #writeHeader(header: number, tunnel: PeerTunnel, ownMac: string): number {
    const { view } = this.#core;
    if (tunnel.kind === 'vxlan') {
      view.setUint8(header + VXLAN_FLAGS, VXLAN_FLAG_VNI);
      view.setUint32(header + VXLAN_VNI, tunnel.vni * 256, false);
      return VXLAN_HEADER_SIZE + this.#writeFrame(header + VXLAN_HEADER_SIZE, tunnel.mac, ownMac);
    }
    if (tunnel.kind !== 'geneve') return 0;
    view.setUint32(header + GENEVE_VNI, tunnel.vni * 256, false);
    if (tunnel.mac === null) return GENEVE_HEADER_SIZE;
    view.setUint16(header + GENEVE_PROTOCOL, ETHER_TYPE_ETHERNET, false);
    return GENEVE_HEADER_SIZE + this.#writeFrame(header + GENEVE_HEADER_SIZE, tunnel.mac, ownMac);
  }

  #writeFrame(frame: number, mac: string, ownMac: string): number {
    this.#core.bytes.set(macBytes(mac), frame + ETHERNET_DESTINATION);
    this.#core.bytes.set(macBytes(ownMac), frame + ETHERNET_SOURCE);
    return ETHERNET_HEADER_SIZE;
  }
}

/** Writes the other end of an underlay socket (abi/layout.ts, remote). */
export function writeRemote(
  view: DataView,
  bytes: Uint8Array,
  at: number,
  address: string,
  port: number,
): void {
  const ipv4 = addressFamily(address) === 'IPv4';
  view.setUint16(at + REMOTE_FAMILY, ipv4 ? FAMILY_IPV4 : FAMILY_IPV6, true);
  view.setUint16(at + REMOTE_PORT, port, false);
  bytes.set(addressBytes(address), at + (ipv4 ? REMOTE_IPV4 : REMOTE_IPV6));
}
