// The whole walk of a packet, without policy: from a pod to a peer and from a peer to a pod. All
// packets are of the mix's established flows, whole batches through processBatch().

import { FLOW_TABLE, Mix, type Way } from './mix.ts';
import { measure, type Effort, type Measured, type Subject } from './rounds.ts';
import { BATCH, makeScene } from './scene.ts';

const PODS = 512;
const PORT = 8080;

export function pipelineBench(effort: Effort): Measured {
  const subjects: Subject[] = [];
  for (const way of ['outbound', 'inbound'] as const) {
    for (const family of [4, 6] as const) subjects.push(...pipeline(way, family));
  }
  return measure('pipeline', subjects, [], effort);
}

/** The pipeline, and what its input costs. */
function pipeline(way: Way, family: 4 | 6): Subject[] {
  const { core } = makeScene({
    pods: PODS, families: [family === 4 ? 'IPv4' : 'IPv6'], policy: { flows: FLOW_TABLE },
  });
  const mix = new Mix(core, { pods: PODS, family, way, first: 0, portOf: () => PORT });
  mix.establish();
  const name = `${way}/ipv${family}`;
  return [
    {
      name: `${name}/input`,
      hidden: true,
      opsPerRun: BATCH,
      run: () => mix.fill(),
      hash: () => '',
    },
    {
      name,
      opsPerRun: BATCH,
      run: () => mix.turn(),
      hash: () => mix.hash(),
      check: () => mix.expectNoDrops(),
      without: `${name}/input`,
    },
  ];
}
