// One of two workers of lock.test.ts: opens flows, uses them and ends them again and again, each
// packet through processBatch(), by a clock that runs so fast that what is not used expires.

import { parentPort, workerData } from 'node:worker_threads';
import { Core } from '../../engine/core.ts';
import { placePacket, readVerdict } from '../support/core.ts';
import { back, fateOf, TCP, tcpPacket } from '../support/policy-core.ts';
import { Random } from '../support/random.ts';

export interface LockData {
  module: WebAssembly.Module;
  memory: WebAssembly.Memory;
  worker: number;
  slots: number;
  device: number;
  /** Both workers' packets are of these ports. */
  ports: number;
  turns: number;
  stepMs: number;
}

/** How many packets there were of each fate. */
export type LockReport = Record<string, number>;

const POD = '10.1.0.2';
const OTHER = '10.1.0.3';
const SIGNALS = [TCP.syn, TCP.syn | TCP.ack, TCP.ack, TCP.ack, TCP.ack, TCP.fin | TCP.ack, TCP.rst];

function run(data: LockData): LockReport {
  const { module, memory, worker, slots, device, ports, turns, stepMs } = data;
  const core = Core.attach(module, memory);
  const random = new Random(worker + 1);
  const first = worker * slots;
  const fates: LockReport = {};
  for (let turn = 0; turn < turns; turn += 1) {
    for (let slot = first; slot < first + slots; slot += 1) {
      const sourcePort = 1024 + random.below(ports);
      const flow = { source: POD, destination: OTHER, sourcePort };
      const reply = random.below(2) === 1;
      const signal = SIGNALS[random.below(SIGNALS.length)] ?? TCP.ack;
      placePacket(core, slot, tcpPacket(reply ? back(flow) : flow, signal), device + Number(reply));
    }
    core.exports.processBatch(first, slots, turn * stepMs);
    for (let slot = first; slot < first + slots; slot += 1) {
      const fate = fateOf(readVerdict(core, slot));
      fates[fate] = (fates[fate] ?? 0) + 1;
    }
  }
  return fates;
}

parentPort?.postMessage(run(workerData as LockData));
