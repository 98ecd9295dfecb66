// What crosses an interface, and packets made by hand.

import { addressFamily } from '../../../engine/address.ts';
import { closeFd } from '../../../ffi/file.ts';
import {
  IPPROTO_RAW, openIpSocket, openPacketSocket, receiveFrame, sendTo,
} from '../../../ffi/raw-socket.ts';
import type { Host } from '../../../cli/demo/bed.ts';
import { PATIENCE_MS } from '../../support/until.ts';

const FRAME_SIZE_MAX = 65_536 + 64;

/** The frames of an interface from now on. One of a TUN has no link header. */
export class Capture {
  readonly #fd: number;
  readonly #buffer = new Uint8Array(FRAME_SIZE_MAX);

  constructor(host: Host, device: string) {
    this.#fd = host.namespace.run(() => openPacketSocket(device));
  }

  /** The next `count` frames that are wanted; throws where they do not come. */
  async take(count: number, isWanted: (frame: Uint8Array) => boolean): Promise<Uint8Array[]> {
    const taken: Uint8Array[] = [];
    const deadline = performance.now() + PATIENCE_MS;
    while (taken.length < count) {
      const received = receiveFrame(this.#fd, this.#buffer, 0);
      if (received !== null) {
        const frame = this.#buffer.slice(0, received.length);
        if (isWanted(frame)) taken.push(frame);
      } else if (performance.now() > deadline) {
        throw new Error(`captured ${taken.length} of ${count} frames`);
      } else {
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
    }
    return taken;
  }

  close(): void {
    closeFd(this.#fd);
  }
}

/** Sends whole IP packets from a namespace, all to one address. */
export function sendPackets(host: Host, destination: string, packets: Uint8Array[]): void {
  host.namespace.run(() => {
    const fd = openIpSocket(addressFamily(destination), IPPROTO_RAW);
    try {
      for (const packet of packets) sendTo(fd, packet, destination);
    } finally {
      closeFd(fd);
    }
  });
}
