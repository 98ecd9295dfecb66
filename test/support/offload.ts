// Super-packets through the core: devices with vnet headers, and the outbox read back.

import * as layout from '../../wasm/abi/layout.ts';
import type { Core } from '../../engine/core.ts';
import { Sends } from '../../host/sends.ts';
import { POINTER_SIZE } from '../../ffi/memory.ts';
import { placePacket } from './core.ts';
import { internetChecksum, parseIpv4, word16 } from './packets.ts';

const BASE = 0x1_2345_6000;

/** What the core wants written. */
export interface Send {
  device: number;
  pieces: number;
  bytes: Uint8Array;
  /** `bytes`, cut as the kernel cuts them. */
  datagrams: Uint8Array[];
  packets: number;
  segmentSize: number;
  flags: number;
  tos: number;
  flowHash: number;
  peer: number;
}

/** Sets how many bytes of vnet header a device has. */
export function setVnetSize(core: Core, device: number, size = 10): void {
  const devices = core.directory(layout.DIRECTORY_DEVICES);
  core.bytes[devices + (device * layout.DEVICE_STRIDE) + layout.DEVICE_VNET_SIZE] = size;
}

/** Tells the core of a process whose pointers are like ours, but not from where. */
export function setPointers(core: Core, segmentLimit: number): void {
  core.setDirectory(layout.DIRECTORY_POINTER_SIZE, POINTER_SIZE);
  core.setDirectory(layout.DIRECTORY_BASE, BASE % 0x1_0000_0000);
  core.setDirectory(layout.DIRECTORY_BASE + 4, Math.floor(BASE / 0x1_0000_0000));
  core.setDirectory(layout.DIRECTORY_SEGMENT_LIMIT, segmentLimit);
}

/** Puts a packet, or frame, into a slot, and the vnet header in front. */
export function placeBehind(
  core: Core, slot: number, header: Uint8Array, packet: Uint8Array, input: number,
): void {
  placePacket(core, slot, packet, input);
  core.bytes.set(header, core.packetAddress(slot) - header.length);
}

/** All sends of the outbox. */
export function readOutbox(core: Core): Send[] {
  const sends = new Sends(core, 0, BASE);
  return Array.from({ length: sends.count }, (_, send) => {
    const bytes = sends.copy(send);
    const segmentSize = sends.segmentSize(send);
    const at = core.directory(layout.DIRECTORY_SENDS) + (send * layout.SEND_STRIDE);
    return {
      device: sends.device(send), pieces: sends.pieceCount(send), bytes, segmentSize,
      datagrams: cutBytes(bytes, segmentSize), packets: sends.packets(send),
      flags: sends.flags(send), tos: sends.tos(send), flowHash: sends.flowHash(send),
      peer: core.view.getUint32(at + layout.SEND_PEER, true),
    };
  });
}

function cutBytes(bytes: Uint8Array, size: number): Uint8Array[] {
  if (size === 0) return [bytes];
  return Array.from({ length: Math.ceil(bytes.length / size) }, (_, index) =>
    bytes.subarray(index * size, (index + 1) * size));
}

/** Runs slots through the core, in as many calls as it takes. Returns the sends of each call. */
export function runBatches(core: Core, count: number, nowMs = 1_000_000): Send[][] {
  const calls: Send[][] = [];
  for (let done = 0; done < count;) {
    const now = core.exports.processBatch(done, count - done, nowMs);
    if (now === 0) throw new Error(`slot ${done} does not fit an empty outbox`);
    calls.push(readOutbox(core));
    done += now;
  }
  return calls;
}

/** Runs one packet behind a vnet header through the core. */
export function runOne(
  core: Core, header: Uint8Array, packet: Uint8Array, input: number, nowMs = 1_000_000,
): Send[] {
  placeBehind(core, 0, header, packet, input);
  return runBatches(core, 1, nowMs).flat();
}

/** The packet with one hop less. */
export function withHopSpent(packet: Uint8Array): Uint8Array {
  const spent = packet.slice();
  if ((packet[0] ?? 0) >> 4 === 6) {
    spent[7] = (packet[7] ?? 0) - 1;
    return spent;
  }
  const header = spent.subarray(0, parseIpv4(packet).headerSize);
  header[8] = (packet[8] ?? 0) - 1;
  header.set([0, 0], 10);
  header.set(word16(internetChecksum(header)), 10);
  return spent;
}

/** The packet inside a tunnel's datagram. */
export function innerOf(datagram: Uint8Array): Uint8Array {
  return datagram.subarray(layout.PEER_HEADER_SIZE);
}
