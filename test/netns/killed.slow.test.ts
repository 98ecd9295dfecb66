// time limit: 900 s
// The daemon is killed a hundred times under load: killed.test.ts at full length.

import { suite } from 'uvu';
import { testNeeding } from '../support/needs.ts';
import { Random } from '../support/random.ts';
import { openBed } from './support/forge-scene.ts';
import { checkKilled, checkReady, KilledScene, printKilled } from './support/killed.ts';

const test = suite('netns/killed.slow');
const KILLS = 100;
const SEED = 100;

testNeeding('tun', test, `${KILLS} kills under load`, async () => {
  const bed = await openBed();
  try {
    const scene = await KilledScene.make(bed);
    const report = await scene.run(KILLS, new Random(SEED));
    printKilled(report);
    checkKilled(report);
    checkReady(report);
  } finally {
    await bed.close();
  }
});

test.run();
