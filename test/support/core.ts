// The built core for tests: packets go into slots, processBatch() runs, verdicts come out.

import { readFileSync } from 'node:fs';
import * as layout from '../../wasm/abi/layout.ts';
import { VERDICT_SEND } from '../../wasm/abi/verdict.ts';
import { addressText } from '../../engine/address.ts';
import { Core } from '../../engine/core.ts';
import type { Limits } from '../../engine/memory-map.ts';
import { writeRemote } from '../../engine/tables/peer.ts';

const CORE = new URL('../../wasm/core.wasm', import.meta.url);
const PREFIXES = { prefixes: 512, nodes: 4096, leaves: 8192 };

/** Limits of a memory that is made quickly: what tests need and little more. */
export const TEST_LIMITS: Limits = {
  workers: 1,
  slots: 64,
  nextHops: 256,
  peers: 128,
  devices: 64,
  routesIpv4: PREFIXES,
  routesIpv6: PREFIXES,
  remotesIpv4: PREFIXES,
  remotesIpv6: PREFIXES,
  policy: {
    identitiesIpv4: PREFIXES, identitiesIpv6: PREFIXES,
    flows: 65536, fragments: 256, verdicts: 256, arenaBytes: 1024 * 1024,
  },
  services: { fronts: 128, backends: 2048 },
};

/** The other end of an underlay socket. */
export interface Remote {
  address: string;
  port: number;
}

/** What the core says about a packet. `bytes` are those of the slot afterwards; `remote` and
 * `flowHash` mean something for an underlay output only. */
export interface Verdict {
  sent: boolean;
  reason: number;
  output: number;
  start: number;
  bytes: Uint8Array;
  remote: Remote;
  flowHash: number;
}

let compiled: WebAssembly.Module | undefined;

/** The built core, compiled once for each process. */
export function coreModule(): WebAssembly.Module {
  compiled ??= new WebAssembly.Module(readFileSync(CORE));
  return compiled;
}

export function createCore(limits: Limits = TEST_LIMITS): Core {
  return Core.create(coreModule(), limits);
}

/** Puts a packet where devices read to. What is not packet in the slot's first and last bytes and
 * around the packet becomes 0xa5, so that an unwritten byte of an answer shows. */
export function placePacket(
  core: Core, slot: number, packet: Uint8Array, input: number, source?: Remote,
): void {
  const start = core.packetAddress(slot);
  core.bytes.fill(0xa5, start - layout.PACKET_HEADROOM, start);
  core.bytes.set(packet, start);
  const end = start + packet.length;
  core.bytes.fill(0xa5, end, Math.min(end + 1500, slotEnd(core, slot)));
  const descriptor = core.descriptorAddress(slot);
  core.bytes.fill(0xa5, descriptor, descriptor + layout.DESCRIPTOR_STRIDE);
  core.view.setUint16(descriptor + layout.DESCRIPTOR_SEGMENT_SIZE, 0, true);
  core.bytes[descriptor + layout.DESCRIPTOR_OUTER_TOS] = 0;
  core.view.setUint32(descriptor + layout.DESCRIPTOR_START, start, true);
  core.view.setUint32(descriptor + layout.DESCRIPTOR_LENGTH, packet.length, true);
  core.view.setUint16(descriptor + layout.DESCRIPTOR_INPUT, input, true);
  if (source === undefined) return;
  const at = descriptor + layout.DESCRIPTOR_SOURCE;
  writeRemote(core.view, core.bytes, at, source.address, source.port);
}

/** First byte of a slot, and the first one after it. */
export function slotStart(core: Core, slot: number): number {
  return core.packetAddress(slot) - layout.PACKET_HEADROOM;
}

export function slotEnd(core: Core, slot: number): number {
  return slotStart(core, slot) + layout.SLOT_STRIDE;
}

export function readVerdict(core: Core, slot: number): Verdict {
  const descriptor = core.descriptorAddress(slot);
  const { view } = core;
  const start = view.getUint32(descriptor + layout.DESCRIPTOR_START, true);
  const length = view.getUint32(descriptor + layout.DESCRIPTOR_LENGTH, true);
  const output = view.getUint16(descriptor + layout.DESCRIPTOR_OUTPUT, true);
  const sent = view.getUint8(descriptor + layout.DESCRIPTOR_VERDICT) === VERDICT_SEND;
  const toUnderlay = sent && isUnderlay(output);
  const send = sendAt(core, sendOf(core, slot));
  return {
    sent,
    reason: view.getUint8(descriptor + layout.DESCRIPTOR_REASON),
    output,
    start,
    bytes: core.bytes.slice(start, start + length),
    remote: toUnderlay ? readRemote(core, send + layout.SEND_REMOTE) : { address: '', port: 0 },
    flowHash: toUnderlay ? view.getUint32(send + layout.SEND_FLOW_HASH, true) : 0,
  };
}

/** True of a device that sends to peers. */
export function isUnderlay(index: number): boolean {
  return index !== layout.DEVICE_NODE && index < layout.DEVICE_FIRST_ENDPOINT;
}

/** Address of a send of worker 0's outbox. */
export function sendAt(core: Core, index: number): number {
  return core.directory(layout.DIRECTORY_SENDS) + (index * layout.SEND_STRIDE);
}

/** Index of the first send of what is in a slot; 0 where there is none. Without offloads the last
 * of a packet's first two pieces lies in its slot. */
function sendOf(core: Core, slot: number): number {
  const { view } = core;
  const count = view.getUint32(layout.WORKERS_START + layout.WORKER_SENDS, true);
  for (let index = 0; index < count; index += 1) {
    const send = sendAt(core, index);
    const last = Math.min(view.getUint32(send + layout.SEND_PIECE_COUNT, true), 2) - 1;
    const piece = view.getUint32(send + layout.SEND_PIECES, true) + (last * layout.PIECE_SIZE);
    const start = Number(view.getBigUint64(piece, true));
    if (start >= slotStart(core, slot) && start < slotEnd(core, slot)) return index;
  }
  return 0;
}

export function readRemote(core: Core, at: number): Remote {
  const family = core.view.getUint16(at + layout.REMOTE_FAMILY, true);
  const ipv4 = family === layout.FAMILY_IPV4;
  const address = at + (ipv4 ? layout.REMOTE_IPV4 : layout.REMOTE_IPV6);
  return {
    address: addressText(core.bytes.slice(address, address + (ipv4 ? 4 : 16))),
    port: core.view.getUint16(at + layout.REMOTE_PORT, false),
  };
}

/** Runs one packet through the core. */
export function processOne(
  core: Core, packet: Uint8Array, input: number, source?: Remote, nowMs = 1_000_000,
): Verdict {
  placePacket(core, 0, packet, input, source);
  core.exports.processBatch(0, 1, nowMs);
  return readVerdict(core, 0);
}
