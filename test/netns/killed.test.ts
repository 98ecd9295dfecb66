// time limit: 240 s
// The daemon is killed under load, at instants that a seed chooses, and started again by whoever
// looks after it: nothing leaves outside a tunnel, nothing denied passes, connections live on.
// support/killed.ts draws the nodes.

import { suite } from 'uvu';
import type { Bed } from '../../cli/demo/bed.ts';
import { testNeeding } from '../support/needs.ts';
import { Random } from '../support/random.ts';
import { openBed } from './support/forge-scene.ts';
import { checkKilled, KilledScene, printKilled } from './support/killed.ts';

const test = suite('netns/killed');
const KILLS = 20;
const SEED = 4242;
let bed: Bed | null = null;

test.before(async () => { bed = await openBed(); });
test.after(async () => bed?.close());

testNeeding('tun', test, `${KILLS} kills under load`, async () => {
  const scene = await KilledScene.make(bed as Bed);
  const report = await scene.run(KILLS, new Random(SEED));
  printKilled(report);
  checkKilled(report);
});

test.run();
