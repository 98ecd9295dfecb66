// The whole walk of a packet, without policy: from a pod to a peer and from a peer to a pod. All
// packets are of the mix's established flows, whole batches through processBatch(). From a pod to a
// peer the walk is taken in C as well, on the same slots and tables.

import type { Core } from '../engine/core.ts';
import type { NativeLibrary } from '../ffi/library.ts';
import { addressOf } from '../ffi/memory.ts';
import { FLOW_TABLE, Mix, type MixSettings, type Way } from './mix.ts';
import { loadNative } from './native.ts';
import { measure, type Effort, type Measured, type RatioSpec, type Subject } from './rounds.ts';
import { BATCH, makeScene } from './scene.ts';

const PODS = 512;
const PORT = 8080;
const RATIOS: RatioSpec[] = [
  { name: 'outbound/native', cost: 'outbound/ipv4/native', to: 'outbound/ipv4' },
  { name: 'outbound6/native', cost: 'outbound/ipv6/native', to: 'outbound/ipv6' },
];

export function pipelineBench(effort: Effort): Measured {
  const subjects: Subject[] = [];
  const library = loadNative(['outbound.c'], effort.say);
  for (const way of ['outbound', 'inbound'] as const) {
    const twin = way === 'outbound' ? library : null;
    for (const family of [4, 6] as const) subjects.push(...pipeline(way, family, twin));
  }
  return measure('pipeline', subjects, library === null ? [] : RATIOS, effort);
}

/** The pipeline, its twin where there is one, and what the input of both costs. */
function pipeline(way: Way, family: 4 | 6, library: NativeLibrary | null): Subject[] {
  const { core } = makeScene({
    pods: PODS, families: [family === 4 ? 'IPv4' : 'IPv6'], policy: { flows: FLOW_TABLE },
  });
  const settings = { pods: PODS, family, way, first: 0, portOf: () => PORT };
  const mix = new Mix(core, settings);
  mix.establish();
  const name = `${way}/ipv${family}`;
  const input = `${name}/input`;
  const ours = [
    { name: input, hidden: true, opsPerRun: BATCH, run: () => mix.fill(), hash: () => '' },
    turns(name, mix, input),
  ];
  if (library === null) return ours;
  const twin = new Mix(core, { ...settings, process: twinOf(core, library) });
  return [...ours, { ...turns(`${name}/native`, twin, input), sameAs: name }];
}

function turns(name: string, mix: Mix, input: string): Subject {
  return {
    name,
    opsPerRun: BATCH,
    run: () => mix.turn(),
    hash: () => mix.hash(),
    check: () => mix.expectNoDrops(),
    without: input,
  };
}

function twinOf(core: Core, library: NativeLibrary): NonNullable<MixSettings['process']> {
  const processBatch = library.define('process_batch', ['address', 'int', 'int', 'int']);
  const memory = addressOf(core.bytes);
  return (first, count, nowMs) => processBatch(memory, first, count, nowMs);
}
