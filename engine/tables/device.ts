// Devices as the core knows them: by index, with what it needs to judge and address their packets.

import {
  DEVICE_CLOSED,
  DEVICE_EGRESS,
  DEVICE_FIRST_ENDPOINT,
  DEVICE_GATEWAY_MAC,
  DEVICE_INGRESS,
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
  DEVICE_UNDERLAY_IPV4,
  DEVICE_UNDERLAY_IPV6,
  DIRECTORY_DEVICES,
  DIRECTORY_DEVICE_LIMIT,
  NEXT_HOP_NODE,
} from '../../wasm/abi/layout.ts';
import { macBytes } from '../address.ts';
import type { Core } from '../core.ts';
import { IndexPool } from './grace.ts';
import { TableFullError } from './limits.ts';

/** Our side of every TAP: locally administered, the same everywhere, since no two ever meet. */
export const GATEWAY_MAC = '02:63:75:6c:76:74';

export class DeviceTable {
  /** True where endpoints wait for their policy: no traffic until it is known. */
  closedAtStart = false;
  #core: Core;
  #start: number;
  #pool: IndexPool;

  constructor(core: Core) {
    this.#core = core;
    this.#start = core.directory(DIRECTORY_DEVICES);
    const limit = core.directory(DIRECTORY_DEVICE_LIMIT);
    this.#pool = new IndexPool(core, DEVICE_FIRST_ENDPOINT, limit);
    this.#write(DEVICE_NODE, DEVICE_KIND_NODE, NEXT_HOP_NODE);
    this.#write(DEVICE_UNDERLAY_IPV4, DEVICE_KIND_UNDERLAY, 0);
    this.#write(DEVICE_UNDERLAY_IPV6, DEVICE_KIND_UNDERLAY, 0);
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
    if (mac !== null) {
      this.#core.bytes.set(macBytes(mac), at + DEVICE_MAC);
      this.#core.bytes.set(macBytes(GATEWAY_MAC), at + DEVICE_GATEWAY_MAC);
    }
    this.#write(index, mac === null ? DEVICE_KIND_TUN : DEVICE_KIND_TAP, nextHop);
    return index;
  }

  /** Takes an endpoint's device out; packets from or for it are dropped from now on. */
  removeEndpoint(index: number): void {
    this.#write(index, DEVICE_KIND_NONE, 0);
    this.#pool.retire(index);
  }

  /** Kind and next hop share one word, so that no packet sees half of them. */
  #write(index: number, kind: number, nextHop: number): void {
    const at = this.#start + (index * DEVICE_STRIDE);
    const word = (kind << (DEVICE_KIND * 8)) | (nextHop << (DEVICE_NEXT_HOP * 8));
    Atomics.store(new Int32Array(this.#core.memory.buffer), at / 4, word);
  }
}
