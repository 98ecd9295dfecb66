// Damage to a state on disk, and what becomes of it.

import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import type { Log } from '../../../engine/log.ts';
import type { Delta, Snapshot } from '../../../engine/model.ts';
import { deltaFrame, readRecalled, snapshotFrames } from '../../../host/journal.ts';
import { LastState } from '../../../host/last-state.ts';
import { clusterNode } from '../../netns/support/forge-cluster.ts';
import type { Random } from '../../support/random.ts';

const LOCAL = 'node-1';
const silent: Log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

/** The last revision of what is on disk; null for nothing that can be used. It only looks: recall()
 * would take what is being written out of the writer's hands. */
export function revisionOnDisk(folder: string): number | null {
  const file = join(folder, 'cluster');
  if (!existsSync(file)) return null;
  const { deltas, snapshot } = readRecalled(readFileSync(file), LOCAL);
  return deltas.at(-1)?.to ?? snapshot.revision;
}

/** Flips bits of a file, one at a time, and reads it. Fails for a state that never was. */
export function damagedOutcomes(
  folder: string, flips: number, random: Random,
): { used: number; setAside: number } {
  const snapshot: Snapshot = {
    revision: 1, local: LOCAL, nodes: [clusterNode(1), clusterNode(2)], pods: [],
  };
  const deltas = [2, 3].map((to): Delta => ({
    from: to - 1, to, nodes: [clusterNode(to)], removedNodes: [], pods: [], removedPods: [],
  }));
  const changes = deltas.map((delta) => deltaFrame(delta).bytes);
  const whole = Buffer.concat([...snapshotFrames(snapshot), ...changes]);
  const file = join(folder, 'cluster');
  const outcomes = { used: 0, setAside: 0 };
  for (let flip = 0; flip < flips; flip += 1) {
    const damaged = Buffer.from(whole);
    const at = random.below(damaged.length);
    damaged[at] = (damaged[at] ?? 0) ^ (1 << random.below(8));
    writeFileSync(file, damaged);
    const state = new LastState({ folder, local: LOCAL, log: silent });
    const found = state.recall()?.recalled ?? null;
    if (found === null) {
      assert.not.ok(existsSync(file));
      assert.is(state.problems().length, 1);
      outcomes.setAside += 1;
    } else {
      assert.equal(found.snapshot, snapshot);
      assert.equal(found.deltas, deltas.slice(0, found.deltas.length));
      assert.equal(readFileSync(file), damaged);
      outcomes.used += 1;
    }
  }
  return outcomes;
}
