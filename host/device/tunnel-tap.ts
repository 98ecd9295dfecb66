// An underlay device with a TAP beside its sockets: whole frames go to the TAP, whose kernel cuts
// them behind the tunnel headers (docs/SUPER-PACKETS.md, T3); all else goes by the sockets, and all
// that arrives comes by them. Nothing is read from the TAP: nothing is routed to it.

import { SEND_FLAG_FRAME } from '../../wasm/abi/layout.ts';
import { VNET_TUNNEL_HEADER_SIZE } from '../../wasm/abi/headers.ts';
import {
  DIRECTION_OUTBOUND,
  REASON_DEVICE_ERROR,
  REASON_DEVICE_FULL,
} from '../../wasm/abi/verdict.ts';
import { ERRNO } from '../../ffi/errno.ts';
import { writevAt } from '../../ffi/file.ts';
import type { Slots } from '../slots.ts';
import type { Device } from './device.ts';
import type { UdpDevice } from './udp.ts';

export class TunnelTapDevice implements Device {
  readonly name: string;
  readonly descriptors: readonly number[];
  readonly isPending = false;
  readonly #inner: UdpDevice;
  readonly #slots: Slots;
  readonly #fd: number;
  readonly #onLost: () => void;
  #isLost = false;

  /** `fd` is the TAP's; it belongs to someone else. `onLost` is told once that its interface was
   * deleted; the device goes on without it. */
  constructor(inner: UdpDevice, slots: Slots, fd: number, onLost: () => void) {
    this.#inner = inner;
    this.#slots = slots;
    this.#fd = fd;
    this.#onLost = onLost;
    this.name = inner.name;
    this.descriptors = inner.descriptors;
  }

  read(first: number, count: number, bytes?: number): number {
    return this.#inner.read(first, count, bytes);
  }

  write(send: number): void {
    const { sends } = this.#slots;
    if ((sends.flags(send) & SEND_FLAG_FRAME) === 0) {
      this.#inner.write(send);
      return;
    }
    // What was sent of the flow before must leave before.
    this.#inner.flushFlow(send);
    const written = writevAt(this.#fd, sends.iovecs(send), sends.pieceCount(send));
    if (written >= 0) return;
    const isFull = written === -ERRNO.EAGAIN || written === -ERRNO.ENOBUFS;
    this.#slots.countDrop(DIRECTION_OUTBOUND, isFull ? REASON_DEVICE_FULL : REASON_DEVICE_ERROR,
      sends.length(send) - VNET_TUNNEL_HEADER_SIZE, sends.packets(send));
    if (written === -ERRNO.EBADFD && !this.#isLost) {
      this.#isLost = true;
      this.#onLost();
    }
  }

  flush(): number {
    return this.#inner.flush();
  }

  close(): void {
    this.#inner.close();
  }
}
