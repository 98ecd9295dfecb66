// One of the workers of lock.test.ts: opens flows, uses them and ends them again and again, each
// packet through processBatch(). Packets are made beforehand, so that most of the time is the
// core's.

import { parentPort, workerData } from 'node:worker_threads';
import {
  DESCRIPTOR_INPUT, DESCRIPTOR_LENGTH, DESCRIPTOR_REASON, DESCRIPTOR_START, DESCRIPTOR_VERDICT,
} from '../../wasm/abi/layout.ts';
import { VERDICT_SEND } from '../../wasm/abi/verdict.ts';
import { REASON_NAMES } from '../../engine/counters.ts';
import { Core } from '../../engine/core.ts';
import { attachEvaluate } from '../../engine/modules.ts';
import { placePacket } from '../support/core.ts';
import { guardBatches, moduleOfFunction, VERDICT } from '../support/modules.ts';
import { internetChecksum, toHex } from '../support/packets.ts';
import { back, TCP, tcpPacket } from '../support/policy-core.ts';
import { Random } from '../support/random.ts';

export interface LockData {
  module: WebAssembly.Module;
  memory: WebAssembly.Memory;
  worker: number;
  slots: number;
  /** Of the first pod; the second's is the next. */
  device: number;
  /** The first pod's ports, the same for all workers. */
  ports: number;
  turns: number;
  /** How far the clock goes on in each turn. */
  stepMs: number;
  /** A Service that leads to the second pod: where there is one, packets go by it, and past it. */
  front: string | null;
  /** The module at place 0 passes all flows, but fails at one call in this many; 0: no module. */
  failsAt: number;
  /** One word: workers that have yet to come before all begin. */
  gate: Int32Array;
}

/** How many packets were dropped for each reason; `none` passed. */
export type LockReport = Record<string, number>;

interface Ready {
  bytes: Uint8Array;
  device: number;
}

const PACKETS = 8192;
const IPV4_HEADER = 20;
const IPV4_TO = 16;
const SIGNALS = [TCP.syn, TCP.syn | TCP.ack, TCP.ack, TCP.ack, TCP.ack, TCP.fin | TCP.ack, TCP.rst];

function makePackets({ device, ports, front }: LockData, random: Random): Ready[] {
  return Array.from({ length: PACKETS }, () => {
    const sourcePort = 1024 + random.below(ports);
    const isReply = random.below(2) === 1;
    const destination = front !== null && !isReply && !random.oneIn(8) ? front : '10.1.0.3';
    const flow = { source: '10.1.0.2', destination, sourcePort };
    const signal = SIGNALS[random.below(SIGNALS.length)] ?? TCP.ack;
    const bytes = tcpPacket(isReply ? back(flow) : flow, signal);
    return { bytes, device: device + Number(isReply) };
  });
}

function run(data: LockData): LockReport {
  const { worker, slots, turns, stepMs, gate } = data;
  const core = Core.attach(data.module, data.memory);
  const random = new Random(worker + 1);
  const packets = makePackets(data, random);
  const first = worker * slots;
  if (data.failsAt > 0) failAt(core, random, data.failsAt);
  for (let slot = first; slot < first + slots; slot += 1) {
    placePacket(core, slot, new Uint8Array(1), data.device);
  }
  const reasons = new Uint32Array(REASON_NAMES.length);
  Atomics.sub(gate, 0, 1);
  while (Atomics.load(gate, 0) > 0);
  for (let turn = 0; turn < turns; turn += 1) {
    for (let slot = first; slot < first + slots; slot += 1) {
      put(core, slot, packets[random.below(PACKETS)]);
    }
    core.exports.processBatch(first, slots, turn * stepMs);
    for (let slot = first; slot < first + slots; slot += 1) {
      if (data.front !== null) checkHeader(core, slot);
      const reason = core.bytes[core.descriptorAddress(slot) + DESCRIPTOR_REASON] ?? 0;
      reasons[reason] = (reasons[reason] ?? 0) + 1;
    }
  }
  return Object.fromEntries([...reasons].map((count, reason): [string, number] =>
    [REASON_NAMES[reason] ?? '', count]).filter(([, count]) => count > 0));
}

function failAt(core: Core, random: Random, often: number): void {
  guardBatches(core, () => undefined);
  attachEvaluate(core, 0, moduleOfFunction(() => {
    if (random.oneIn(often)) throw new Error('fails');
    return VERDICT.pass;
  }));
}

/** What leaves has a right header, and is for nobody who does not exist. */
function checkHeader(core: Core, slot: number): void {
  const descriptor = core.descriptorAddress(slot);
  if (core.bytes[descriptor + DESCRIPTOR_VERDICT] !== VERDICT_SEND) return;
  const start = core.view.getUint32(descriptor + DESCRIPTOR_START, true);
  const header = core.bytes.slice(start, start + IPV4_HEADER);
  if (internetChecksum(header) !== 0) throw new Error(`wrong checksum: ${toHex(header)}`);
  if (header[IPV4_TO + 1] !== 1) throw new Error(`for a Service: ${toHex(header)}`);
}

function put(core: Core, slot: number, packet: Ready | undefined): void {
  if (packet === undefined) return;
  const descriptor = core.descriptorAddress(slot);
  const start = core.packetAddress(slot);
  core.bytes.set(packet.bytes, start);
  core.view.setUint32(descriptor + DESCRIPTOR_START, start, true);
  core.view.setUint32(descriptor + DESCRIPTOR_LENGTH, packet.bytes.length, true);
  core.view.setUint16(descriptor + DESCRIPTOR_INPUT, packet.device, true);
}

parentPort?.postMessage(run(workerData as LockData));
