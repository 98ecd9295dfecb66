// Devices as the core knows them: by index, with what it needs to judge and address their packets.

import {
  DEVICE_CLOSED,
  DEVICE_EGRESS,
  DEVICE_FIRST_ENDPOINT,
  DEVICE_GATEWAY_MAC,
  DEVICE_GENEVE_IPV4,
  DEVICE_GENEVE_IPV6,
  DEVICE_INGRESS,
  DEVICE_IP6IP_IPV4,
  DEVICE_IP6IP_IPV6,
  DEVICE_IPIP_IPV4,
  DEVICE_IPIP_IPV6,
  DEVICE_KIND,
  DEVICE_KIND_NODE,
  DEVICE_KIND_NONE,
  DEVICE_KIND_TAP,
  DEVICE_KIND_TUN,
  DEVICE_KIND_UNDERLAY,
  DEVICE_MAC,
  DEVICE_NEXT_HOP,
  DEVICE_NODE,
  DEVICE_STRIDE,
  DEVICE_TUNNEL,
  DEVICE_UDP_IPV4,
  DEVICE_UDP_IPV6,
  DEVICE_UNDERLAY_IPV4,
  DEVICE_UNDERLAY_IPV6,
  DEVICE_VNET_SIZE,
  DEVICE_VXLAN_IPV4,
  DEVICE_VXLAN_IPV6,
  DIRECTORY_COALESCE,
  DIRECTORY_DEVICES,
  DIRECTORY_DEVICE_LIMIT,
  DIRECTORY_SEGMENT_LIMIT,
  DIRECTORY_SENDER_COUNT,
  DIRECTORY_SENDER_PORTS,
  DIRECTORY_START,
  DIRECTORY_UNDERLAY_IPV4,
  DIRECTORY_UNDERLAY_IPV6,
  NEXT_HOP_NODE,
  SENDER_LIMIT,
  TUNNEL_GENEVE,
  TUNNEL_IPIP,
  TUNNEL_UDP,
  TUNNEL_VXLAN,
} from '../../wasm/abi/layout.ts';
import { VNET_TUNNEL_HEADER_SIZE } from '../../wasm/abi/headers.ts';
import { addressBytes, macBytes, type Family } from '../address.ts';
import type { Core } from '../core.ts';
import { IndexPool } from './grace.ts';
import { TableFullError } from './limits.ts';

/** Our side of every TAP: locally administered, the same everywhere, since no two ever meet. */
export const GATEWAY_MAC = '02:63:75:6c:76:74';

/** What the kernel takes over of packets (docs/SUPER-PACKETS.md). */
export interface Offloads {
  /** Bytes of vnet header before each packet of a TUN or TAP; 0 for none. */
  vnetSize: number;
  /** Datagrams that it cuts one send into; 1: none. */
  segmentLimit: number;
  /** COALESCE_*: which packets of peers are joined again. */
  coalesce: number;
}

/** The underlay's devices, and what comes by each. */
const UNDERLAY: readonly (readonly [index: number, tunnel: number])[] = [
  [DEVICE_UNDERLAY_IPV4, TUNNEL_VXLAN], [DEVICE_UNDERLAY_IPV6, TUNNEL_VXLAN],
  [DEVICE_GENEVE_IPV4, TUNNEL_GENEVE], [DEVICE_GENEVE_IPV6, TUNNEL_GENEVE],
  [DEVICE_UDP_IPV4, TUNNEL_UDP], [DEVICE_UDP_IPV6, TUNNEL_UDP],
  [DEVICE_IPIP_IPV4, TUNNEL_IPIP], [DEVICE_IPIP_IPV6, TUNNEL_IPIP],
  [DEVICE_IP6IP_IPV4, TUNNEL_IPIP], [DEVICE_IP6IP_IPV6, TUNNEL_IPIP],
  [DEVICE_VXLAN_IPV4, TUNNEL_VXLAN], [DEVICE_VXLAN_IPV6, TUNNEL_VXLAN],
];

/** Those whose super-packets the kernel can cut behind the tunnel headers, by outer family. */
export const CUT_BY_KERNEL: Readonly<Record<Family, readonly number[]>> = {
  IPv4: [DEVICE_UNDERLAY_IPV4, DEVICE_GENEVE_IPV4, DEVICE_UDP_IPV4],
  IPv6: [DEVICE_UNDERLAY_IPV6, DEVICE_GENEVE_IPV6, DEVICE_UDP_IPV6],
};

export class DeviceTable {
  /** True where endpoints wait for their policy: no traffic until it is known. */
  closedAtStart = false;
  #core: Core;
  #start: number;
  #pool: IndexPool;
  #vnetSize = 0;

  constructor(core: Core) {
    this.#core = core;
    this.#start = core.directory(DIRECTORY_DEVICES);
    const limit = core.directory(DIRECTORY_DEVICE_LIMIT);
    this.#pool = new IndexPool(core, DEVICE_FIRST_ENDPOINT, limit);
    this.#write(DEVICE_NODE, DEVICE_KIND_NODE, NEXT_HOP_NODE);
    for (const [index, tunnel] of UNDERLAY) {
      core.view.setUint8(this.#start + (index * DEVICE_STRIDE) + DEVICE_TUNNEL, tunnel);
      this.#write(index, DEVICE_KIND_UNDERLAY, 0);
    }
  }

  /** Says what the kernel takes over. Before endpoints are added: they are made alike. */
  setOffloads({ vnetSize, segmentLimit, coalesce }: Offloads): void {
    this.#vnetSize = vnetSize;
    this.#core.setDirectory(DIRECTORY_SEGMENT_LIMIT, segmentLimit);
    this.#core.setDirectory(DIRECTORY_COALESCE, coalesce);
    this.#write(DEVICE_NODE, DEVICE_KIND_NODE, NEXT_HOP_NODE, vnetSize);
  }

  /** Enters where a family's tunnels start from: address, and ports of the sending sockets. */
  setSenders(family: Family, address: string, ports: readonly number[]): void {
    const core = this.#core;
    const isIpv4 = family === 'IPv4';
    const field = isIpv4 ? DIRECTORY_UNDERLAY_IPV4 : DIRECTORY_UNDERLAY_IPV6;
    core.bytes.set(addressBytes(address), DIRECTORY_START + field);
    const first = core.directory(DIRECTORY_SENDER_PORTS) + (isIpv4 ? 0 : 2 * SENDER_LIMIT);
    ports.forEach((port, sender) => core.view.setUint16(first + (2 * sender), port, true));
    core.setDirectory(DIRECTORY_SENDER_COUNT, ports.length);
  }

  /** Lets super-packets leave by a TAP of this node's, the one end of which has `mac`. */
  setTunnelTap(family: Family, mac: string): void {
    for (const index of CUT_BY_KERNEL[family]) {
      this.#setMacs(index, mac);
      this.#write(index, DEVICE_KIND_UNDERLAY, 0, VNET_TUNNEL_HEADER_SIZE);
    }
  }

  /** Lets them leave in packets again. */
  clearTunnelTap(family: Family): void {
    for (const index of CUT_BY_KERNEL[family]) this.#write(index, DEVICE_KIND_UNDERLAY, 0);
  }

  /** Endpoints, not counting the node's own devices. */
  get limit(): number {
    return this.#pool.limit - DEVICE_FIRST_ENDPOINT;
  }

  get used(): number {
    return this.#pool.used;
  }

  /** Enters an endpoint's device. `mac` is the pod's side of a TAP, null for a TUN. */
  addEndpoint(nextHop: number, mac: string | null, object: string): number {
    const index = this.#pool.take();
    if (index < 0) throw new TableFullError('devices', this.limit, object);
    const at = this.#start + (index * DEVICE_STRIDE);
    this.#core.view.setUint32(at + DEVICE_INGRESS, 0, true);
    this.#core.view.setUint32(at + DEVICE_EGRESS, 0, true);
    this.#core.view.setUint32(at + DEVICE_CLOSED, this.closedAtStart ? 1 : 0, true);
    if (mac !== null) this.#setMacs(index, mac);
    const kind = mac === null ? DEVICE_KIND_TUN : DEVICE_KIND_TAP;
    this.#write(index, kind, nextHop, this.#vnetSize);
    return index;
  }

  /** Takes an endpoint's device out; packets from or for it are dropped from now on. */
  removeEndpoint(index: number): void {
    this.#write(index, DEVICE_KIND_NONE, 0);
    this.#pool.retire(index);
  }

  #setMacs(index: number, mac: string): void {
    const at = this.#start + (index * DEVICE_STRIDE);
    this.#core.bytes.set(macBytes(mac), at + DEVICE_MAC);
    this.#core.bytes.set(macBytes(GATEWAY_MAC), at + DEVICE_GATEWAY_MAC);
  }

  /** Kind, header size and next hop share one word, so that no packet sees half of them. */
  #write(index: number, kind: number, nextHop: number, vnetSize = 0): void {
    const at = this.#start + (index * DEVICE_STRIDE);
    const word = (kind << (DEVICE_KIND * 8)) | (vnetSize << (DEVICE_VNET_SIZE * 8))
      | (nextHop << (DEVICE_NEXT_HOP * 8));
    Atomics.store(new Int32Array(this.#core.memory.buffer), at / 4, word);
  }
}
