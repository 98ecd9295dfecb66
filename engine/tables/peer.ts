// Peers: records with ready-made headers. A published record is never written again; a change is a
// new record, and the old index waits out its grace period.

import {
  ETHERNET_DESTINATION,
  ETHERNET_SOURCE,
  VXLAN_FLAGS,
  VXLAN_FLAG_VNI,
  VXLAN_HEADER_SIZE,
  VXLAN_VNI,
} from '../../wasm/abi/headers.ts';
import {
  DEVICE_UNDERLAY_IPV4,
  DEVICE_UNDERLAY_IPV6,
  DIRECTORY_PEERS,
  DIRECTORY_PEER_LIMIT,
  FAMILY_IPV4,
  FAMILY_IPV6,
  PEER_DEVICE,
  PEER_HEADER,
  PEER_MTU,
  PEER_NEXT_HOP,
  PEER_REMOTE,
  PEER_STRIDE,
  PEER_TUNNEL,
  PEER_VNI,
  REMOTE_FAMILY,
  REMOTE_IPV4,
  REMOTE_IPV6,
  REMOTE_PORT,
  TUNNEL_VXLAN,
} from '../../wasm/abi/layout.ts';
import { addressBytes, addressFamily, macBytes } from '../address.ts';
import type { Core } from '../core.ts';
import type { VxlanTunnel } from '../model.ts';
import { IndexPool } from './grace.ts';
import { TableFullError } from './limits.ts';

/** What a peer's record is made of. `ownMac` is our VTEP's, `mtu` the largest inner packet. */
export interface PeerRecord {
  tunnel: VxlanTunnel & { port: number };
  nextHop: number;
  ownMac: string;
  mtu: number;
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

  /** Gives a record back. Precondition: no next hop points at it any more. */
  remove(index: number): void {
    this.#pool.retire(index);
  }

  #write(at: number, peer: PeerRecord): void {
    const { view, bytes } = this.#core;
    bytes.fill(0, at, at + PEER_STRIDE);
    const outerIpv4 = addressFamily(peer.tunnel.remote) === 'IPv4';
    view.setUint8(at + PEER_TUNNEL, TUNNEL_VXLAN);
    view.setUint16(at + PEER_DEVICE, outerIpv4 ? DEVICE_UNDERLAY_IPV4 : DEVICE_UNDERLAY_IPV6, true);
    view.setUint32(at + PEER_MTU, peer.mtu, true);
    view.setUint16(at + PEER_NEXT_HOP, peer.nextHop, true);
    view.setUint32(at + PEER_VNI, peer.tunnel.vni, true);
    writeRemote(view, bytes, at + PEER_REMOTE, peer.tunnel.remote, peer.tunnel.port);
    const header = at + PEER_HEADER;
    view.setUint8(header + VXLAN_FLAGS, VXLAN_FLAG_VNI);
    view.setUint32(header + VXLAN_VNI, peer.tunnel.vni * 256, false);
    const frame = header + VXLAN_HEADER_SIZE;
    bytes.set(macBytes(peer.tunnel.mac), frame + ETHERNET_DESTINATION);
    bytes.set(macBytes(peer.ownMac), frame + ETHERNET_SOURCE);
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
