// The data side of delta.bench.ts: forwards the mix and one packet of each probe's flow, batch by
// batch, and notes when a probe's verdict has changed.

import { parentPort, workerData } from 'node:worker_threads';
import { DESCRIPTOR_REASON } from '../wasm/abi/layout.ts';
import { REASON_NONE } from '../wasm/abi/verdict.ts';
import { Core } from '../engine/core.ts';
import { ACK, Feed } from './feed.ts';
import { Mix } from './mix.ts';
import { servicePort } from './policy-scene.ts';
import { BATCH } from './scene.ts';

export interface DeltaWorkerData {
  module: WebAssembly.Module;
  memory: WebAssembly.Memory;
  pods: number;
  policies: number;
  probePort: number;
  /** The remote pod of the first probe. */
  firstRemote: number;
  /** STOP, READY and TURNS. */
  control: Int32Array;
  /** When the change with this number showed, by process.hrtime.bigint(); 0 before. */
  seen: BigInt64Array;
}

export const STOP = 0;
export const READY = 1;
export const TURNS = 2;
const PROBE_SOURCE_PORT = 50_000;
/** How long the worker waits for more packets, in place of poll(). */
const PAUSE_MS = 0.05;

function main(data: DeltaWorkerData): void {
  const { pods, policies, control, seen } = data;
  const core = Core.attach(data.module, data.memory);
  const feed = new Feed(core);
  const mix = new Mix(core, {
    pods, family: 4, way: 'any', first: 0, portOf: (pod) => servicePort(pod, policies),
  });
  mix.establish();
  const reasons = Array.from({ length: BATCH }, (_, probe) =>
    core.descriptorAddress(probe) + DESCRIPTOR_REASON);
  const changes = new Int32Array(BATCH);
  const denied = new Int32Array(BATCH);
  Atomics.store(control, READY, 1);
  Atomics.notify(control, READY);
  while (Atomics.load(control, STOP) === 0) {
    mix.turn();
    for (let probe = 0; probe < BATCH; probe += 1) {
      feed.putIpv4(probe, probe, true, data.firstRemote + probe, false,
        PROBE_SOURCE_PORT, data.probePort, ACK);
    }
    mix.process();
    const now = process.hrtime.bigint();
    for (let probe = 0; probe < BATCH; probe += 1) {
      const isDenied = Number(core.bytes[reasons[probe] ?? 0] !== REASON_NONE);
      if (isDenied === denied[probe]) continue;
      denied[probe] = isDenied;
      const change = ((changes[probe] ?? 0) * BATCH) + probe;
      changes[probe] = (changes[probe] ?? 0) + 1;
      if (change < seen.length) Atomics.store(seen, change, now);
    }
    Atomics.add(control, TURNS, 1);
    Atomics.wait(control, STOP, 0, PAUSE_MS);
  }
}

const port = parentPort;
if (port !== null) {
  main(workerData as DeltaWorkerData);
  port.postMessage('done');
}
