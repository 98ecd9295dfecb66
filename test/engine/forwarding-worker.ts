// The data side of forwarding-race.test.ts: sends packets to one address without end over the
// shared memory and counts, for each remote and headers together, how many went there.

import { parentPort, workerData } from 'node:worker_threads';
import { Core } from '../../engine/core.ts';
import { describe } from '../support/cluster.ts';
import { placePacket, readVerdict } from '../support/core.ts';

export interface RaceData {
  module: WebAssembly.Module;
  memory: WebAssembly.Memory;
  device: number;
  packet: Uint8Array;
  /** Two words: 0 while the worker is to run, and how many turns it has done. */
  race: Int32Array;
}

const BATCH = 16;
const { module, memory, device, packet, race } = workerData as RaceData;
const core = Core.attach(module, memory);
const seen: Record<string, number> = {};

parentPort?.postMessage('ready');
while (Atomics.load(race, 0) === 0) {
  for (let slot = 0; slot < BATCH; slot += 1) placePacket(core, slot, packet, device);
  core.exports.processBatch(0, BATCH, 1);
  for (let slot = 0; slot < BATCH; slot += 1) {
    const place = describe(core, readVerdict(core, slot));
    seen[place] = (seen[place] ?? 0) + 1;
  }
  Atomics.add(race, 1, 1);
}
parentPort?.postMessage(seen);
