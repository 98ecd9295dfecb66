// One of the workers of lock.test.ts: opens flows, uses them and ends them again and again, each
// packet through processBatch(). Packets are made beforehand, so that most of the time is the
// core's.

import { parentPort, workerData } from 'node:worker_threads';
import {
  DESCRIPTOR_INPUT, DESCRIPTOR_LENGTH, DESCRIPTOR_REASON, DESCRIPTOR_START,
} from '../../wasm/abi/layout.ts';
import { REASON_NAMES } from '../../engine/counters.ts';
import { Core } from '../../engine/core.ts';
import { placePacket } from '../support/core.ts';
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
const SIGNALS = [TCP.syn, TCP.syn | TCP.ack, TCP.ack, TCP.ack, TCP.ack, TCP.fin | TCP.ack, TCP.rst];

function makePackets({ device, ports }: LockData, random: Random): Ready[] {
  return Array.from({ length: PACKETS }, () => {
    const sourcePort = 1024 + random.below(ports);
    const flow = { source: '10.1.0.2', destination: '10.1.0.3', sourcePort };
    const isReply = random.below(2) === 1;
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
      const reason = core.bytes[core.descriptorAddress(slot) + DESCRIPTOR_REASON] ?? 0;
      reasons[reason] = (reasons[reason] ?? 0) + 1;
    }
  }
  return Object.fromEntries([...reasons].map((count, reason): [string, number] =>
    [REASON_NAMES[reason] ?? '', count]).filter(([, count]) => count > 0));
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
