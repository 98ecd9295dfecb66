// time limit: 7200 s
// Pods that come and go while plugins and the daemon are killed, at full length.

import { suite } from 'uvu';
import { testNeeding } from '../support/needs.ts';
import { runKills } from './support/kills.ts';

const test = suite('cni/kills.slow');
const SEED = 2;
const CYCLES = 10_000;

testNeeding('tun', test, `${CYCLES} pods, killed plugins and daemons, nothing left`, async () => {
  console.log(`seed ${SEED}: ${JSON.stringify(await runKills(SEED, CYCLES))}`);
});

test.run();
