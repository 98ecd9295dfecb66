// What a daemon does with that which an earlier one has left: cluster, policy and pods as they were
// last known. Whatever cannot be used is told to the operator, and the daemon goes on without.

import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { Core } from '../engine/core.ts';
import { recoverTurn } from '../engine/tables/kept.ts';
import type { Log } from '../engine/log.ts';
import type { Limits } from '../engine/memory-map.ts';
import type { Attachment, Delta, LossReason, Snapshot } from '../engine/model.ts';
import {
  DEVICE_FIRST_ENDPOINT, DEVICE_NODE, DIRECTORY_WORKER_COUNT,
} from '../wasm/abi/layout.ts';
import { endpointOf } from './attachments.ts';
import { monotonicClock } from './clock.ts';
import type { HostConfig } from './config.ts';
import type { Endpoints } from './endpoints.ts';
import { enterGiven } from './given.ts';
import { KEPT_FOLDER, type Handover, type PodRecord } from './handover.ts';
import { Journal, deltaFrame, snapshotFrames, type Recalled } from './journal.ts';
import { keepFlows } from './kept-flows.ts';
import { LastState } from './last-state.ts';
import { applyLive } from './reload.ts';
import { Slots } from './slots.ts';
import type { DeviceSpec } from './worker.ts';

const FLOWS = 'flows';

/** What was found of an earlier daemon. */
export interface Recovered {
  /** Connections; null where there was no table, or none that could be used. */
  flows: number | null;
  pods: number;
  /** Packets that it had in its hands. */
  packets: number;
  /** Pods whose devices were of no use any more. */
  lostPods: number;
  /** Why, each reason once. */
  lostBecause: LossReason[];
  /** The cluster as it was last known is in force until a sidecar says more. */
  isClusterKnown: boolean;
}

export function nothingRecovered(): Recovered {
  return { flows: null, pods: 0, packets: 0, lostPods: 0, lostBecause: [], isClusterKnown: false };
}

/** Makes the core. It has no flows yet. */
export function makeCore(
  module: WebAssembly.Module, limits: Limits, config: HostConfig,
): Core {
  const core = Core.create(module, limits, randomBytes(4).readUInt32LE());
  applyLive(core, config);
  return core;
}

/** Gives the core the flows that an earlier daemon has left, and has them kept. Precondition: no
 * worker turns, of that daemon neither. */
export function takeFlows(
  core: Core, handover: Handover, recovered: Recovered, log: Log,
): void {
  const held = handover.take(FLOWS);
  const { fd, adopted } = keepFlows(core, held, monotonicClock()());
  // A new file may have the number that the one of no use had.
  if (adopted === null) handover.keep(FLOWS, fd);
  recovered.flows = adopted;
  if (held >= 0 && adopted === null) {
    log.warn({}, 'connections are judged anew: '
      + 'the flow table is of another build, profile or number of workers');
  }
}

/** The cluster as it was last told, in files: for the next daemon of this boot, where anything is
 * left to one, and for the next boot. What goes wrong with them is told, and costs no more than
 * what a next daemon would have known. */
export class LastKnown {
  readonly #journal: Journal | null;
  readonly #disk: LastState | null;
  readonly #local: string;
  readonly #log: Log;

  constructor({ handover, runtimeDirectory, stateDirectory, nodeName }: HostConfig, log: Log) {
    this.#journal = handover.enabled ? new Journal(join(runtimeDirectory, KEPT_FOLDER)) : null;
    this.#disk = stateDirectory === '' ? null
      : new LastState({ folder: stateDirectory, local: nodeName, log });
    this.#local = nodeName;
    this.#log = log;
  }

  /** True once a snapshot should take the place of what was written. */
  get isLong(): boolean {
    return this.#journal?.isLong === true || this.#disk?.isLong === true;
  }

  /** What the operator should know of the files, one line each. */
  problems(): string[] {
    return this.#disk?.problems() ?? [];
  }

  /** Puts into force what an earlier daemon was last told. Gives the time until which that was
   * told (Unix time), null where it was nothing. */
  async recall(
    applySnapshot: (snapshot: Snapshot) => Promise<void>,
    applyDelta: (delta: Delta) => Promise<void>,
  ): Promise<number | null> {
    const apply = async ({ snapshot, deltas }: Recalled): Promise<void> => {
      await applySnapshot(snapshot);
      for (const delta of deltas) await applyDelta(delta);
    };
    try {
      const recalled = this.#journal?.recall(this.#local) ?? null;
      if (recalled !== null) {
        await apply(recalled);
        return Date.now();
      }
    } catch (error) {
      const { message } = error as Error;
      this.#log.error({ error: message }, 'the last known state of the cluster is not in force');
      this.#journal?.clear();
    }
    const kept = this.#disk?.recall() ?? null;
    if (kept === null) return null;
    try {
      await apply(kept.recalled);
      return kept.savedMs;
    } catch (error) {
      this.#disk?.setAside((error as Error).message);
      return null;
    }
  }

  /** Makes a snapshot that is in force all there is. */
  replace(snapshot: Snapshot): void {
    this.#write(() => {
      if (this.#journal === null && this.#disk === null) return;
      const frames = snapshotFrames(snapshot);
      this.#disk?.replace(frames);
      this.#journal?.replace(frames);
    });
  }

  /** Adds a change that is in force. */
  append(delta: Delta): void {
    this.#write(() => {
      if (this.#journal === null && this.#disk === null) return;
      const frame = deltaFrame(delta);
      this.#disk?.append(frame);
      this.#journal?.append(frame);
    });
  }

  /** Leaves nothing to a next daemon of this boot. */
  clear(): void {
    this.#journal?.clear();
  }

  /** Resolves when all is written. */
  async settle(): Promise<void> {
    await this.#disk?.settle();
  }

  async close(): Promise<void> {
    this.#journal?.close();
    await this.#disk?.close();
  }

  /** What cannot be written must not come back in part. */
  #write(work: () => void): void {
    try {
      work();
    } catch (error) {
      this.#log.error({ error: (error as Error).message }, 'cannot keep the cluster\'s state');
      this.clear();
    }
  }
}

/** What workers are to read, and what the devices' indexes have become, -1 for one of no use. */
export interface RestoredPods {
  specs: DeviceSpec[];
  indexes: Map<number, number>;
  /** Records of those that have another index now, by the names they are kept under. */
  moved: Map<string, PodRecord>;
}

/** Has the packets that an earlier daemon had in its hands go through the core once more. Those of
 * devices that were made anew are dropped: they are as another tier has them. Then the devices'
 * records say which indexes a next daemon will find. Precondition: pods are as they will be. */
export function recoverPackets(
  core: Core, isNodeDeviceLeft: boolean, pods: RestoredPods, recovered: Recovered,
  handover: Pick<Handover, 'writePod'>,
): void {
  if (recovered.flows !== null) recoverTurns(core, isNodeDeviceLeft, pods, recovered);
  for (const [name, record] of pods.moved) handover.writePod(name, record);
}

function recoverTurns(
  core: Core, isNodeDeviceLeft: boolean, { indexes, specs }: RestoredPods, recovered: Recovered,
): void {
  const deviceOf = (index: number): number => {
    if (index === DEVICE_NODE && !isNodeDeviceLeft) return -1;
    return index < DEVICE_FIRST_ENDPOINT ? index : indexes.get(index) ?? -1;
  };
  const taps = new Set(specs.filter(({ kind }) => kind === 'tap').map(({ index }) => index));
  for (let worker = 0; worker < core.directory(DIRECTORY_WORKER_COUNT); worker += 1) {
    enterGiven(new Slots(core, worker), (index) => taps.has(deviceOf(index)));
    recovered.packets += recoverTurn(core, worker, deviceOf);
  }
}

/** Goes on with the pods whose devices were left. `ready` are those that the CNI plugin's caller
 * was told of: of the others that it asked for, nothing may stay. */
export async function restorePods(
  handover: Handover, endpoints: Endpoints, ready: Attachment[], recovered: Recovered, log: Log,
): Promise<RestoredPods> {
  const specs: DeviceSpec[] = [];
  const indexes = new Map<number, number>();
  const moved = new Map<string, PodRecord>();
  const lost = new Set<LossReason>();
  const attached = new Set(ready.map(({ pod }) => `${pod.namespace}/${pod.name} ${pod.uid}`));
  for (const { name, record } of handover.pods()) {
    const { namespace, name: pod, uid } = record.endpoint;
    if (record.isCni && !attached.has(`${namespace}/${pod} ${uid}`)) {
      handover.removePod(name);
      continue;
    }
    try {
      const restored = await endpoints.restore(record);
      const isLost = typeof restored === 'string';
      indexes.set(record.index, isLost ? -1 : restored.index);
      if (!isLost) {
        specs.push(restored);
        const { index } = restored;
        if (index !== record.index) moved.set(name, { ...record, index });
        continue;
      }
      recovered.lostPods += 1;
      lost.add(restored);
      log.warn({ namespace, pod, reason: restored }, 'a pod has lost its device');
    } catch (error) {
      const { message } = error as Error;
      log.error({ namespace, pod, error: message }, 'cannot go on with a pod');
      await endpoints.remove(namespace, pod);
      recovered.lostPods += 1;
    }
  }
  for (const attachment of ready) {
    const endpoint = endpointOf(attachment);
    if (endpoints.find(endpoint.namespace, endpoint.name) !== null) continue;
    endpoints.enterLost(endpoint);
    recovered.lostPods += 1;
    lost.add('ended');
  }
  recovered.lostBecause = [...lost];
  recovered.pods = specs.length;
  return { specs, indexes, moved };
}
