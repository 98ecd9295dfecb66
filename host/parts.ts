// What a daemon is made of before it knows the cluster: the lock, what an earlier daemon has left,
// memory, threads, sockets.

import { readFileSync } from 'node:fs';
import type { Core } from '../engine/core.ts';
import type { Log } from '../engine/log.ts';
import type { Limits } from '../engine/memory-map.ts';
import { closeFd } from '../ffi/file.ts';
import { Links } from '../ffi/netlink.ts';
import type { HostConfig } from './config.ts';
import { DataPlane, type DataPlaneOptions } from './data-plane.ts';
import { handoverOptions, lockRuntimeDirectory, memoryLimits } from './derived.ts';
import { Handover } from './handover.ts';
import { keptDevice } from './node-device.ts';
import type { Predecessor } from './predecessor.ts';
import { makeCore } from './recovery.ts';
import type { StartTimes } from './start-times.ts';
import { LOCK_NAME } from './succession-words.ts';
import type { SystemdStore } from './systemd-store.ts';
import { chooseTier, probeKernel, type Tier } from './tier.ts';
import { Underlay } from './underlay.ts';
import { warmUp } from './warm-up.ts';

export interface HostOptions {
  config: HostConfig;
  log: Log;
  version: string;
  /** The core's WebAssembly module. */
  corePath: string;
  /** Where systemd runs us and keeps descriptors for us. */
  store?: SystemdStore | null;
  /** The daemon that we take over from while it runs. */
  predecessor?: Predecessor | null;
  /** Starts another daemon that takes over from this one. Rejects where that cannot be. */
  restart?(): Promise<void>;
  times: StartTimes;
}

/** What a daemon is made of and must close in the end. */
export interface HostParts {
  lock: number;
  links: Links;
  handover: Handover;
  /** An earlier daemon has left something. */
  isLeft: boolean;
  tier: Tier;
  underlay: Underlay;
  limits: Limits;
  core: Core;
  dataPlane: DataPlane;
  /** Resolves when the core's code is warm. */
  warm: Promise<void>;
}

export type Hooks = Pick<DataPlaneOptions, 'onLost' | 'onTapLost' | 'onModule' | 'onStuck'>;

/** Opens all of it, or rejects with what is missing; then nothing is left behind. A daemon that
 * cannot start leaves what it has found to one that can. */
export async function openParts(options: HostOptions, hooks: Hooks): Promise<HostParts> {
  const { config, log, times, predecessor = null } = options;
  const module = new WebAssembly.Module(readFileSync(options.corePath));
  times.mark('core');
  const { lock, handover } = await takeOver(options);
  times.mark('holder');
  const isLeft = handover.offered('').length > 0;
  const links = new Links();
  let dataPlane: DataPlane | null = null;
  let underlay: Underlay | null = null;
  try {
    const tier = chooseTier(config.dataPlane.tier, probeKernel());
    times.mark('tier');
    const queues = handover.offered(`${keptDevice(config.device.name)}.`).length;
    const limits = memoryLimits(config, queues);
    const core = makeCore(module, limits, config);
    // The workers' threads start while all else is made ready.
    dataPlane = new DataPlane({ core, module, log, isHeld: true, ...hooks });
    // Packets that have waited long enough are not kept waiting for that.
    const warm = isLeft ? Promise.resolve() : warmUp(module, tier);
    times.mark('memory');
    if (predecessor === null) await handover.ensure();
    underlay = await Underlay.open(links, config, tier, limits.workers, handover);
    times.mark('underlay');
    return { lock, links, handover, isLeft, tier, underlay, limits, core, dataPlane, warm };
  } catch (error) {
    await dataPlane?.stop();
    underlay?.close();
    handover.end(isLeft);
    links.close();
    closeFd(lock);
    throw error;
  }
}

/** The lock, and what an earlier daemon has left, or one that still runs gives. */
async function takeOver(
  { config, log, store = null, predecessor = null }: HostOptions,
): Promise<{ lock: number; handover: Handover }> {
  const { runtimeDirectory } = config;
  const options = { ...handoverOptions(config), log, store };
  if (predecessor === null) {
    const lock = lockRuntimeDirectory(runtimeDirectory);
    return { lock, handover: await Handover.begin(options) };
  }
  const given = await predecessor.take(runtimeDirectory);
  // A descriptor of the same open file: the lock is held as long as anybody has one.
  const lock = given.get(LOCK_NAME) ?? lockRuntimeDirectory(runtimeDirectory);
  given.delete(LOCK_NAME);
  return { lock, handover: Handover.succeed(options, given) };
}
