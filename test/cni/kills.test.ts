// Pods that come and go while plugins and the daemon are killed; kills.slow.test.ts has more of it.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { testNeeding } from '../support/needs.ts';
import { runKills } from './support/kills.ts';

const test = suite('cni/kills');
const CYCLES = 250;

testNeeding('tun', test, `${CYCLES} pods, killed plugins and daemons, nothing left`, async () => {
  const counts = await runKills(1, CYCLES);
  console.log(JSON.stringify(counts));
  assert.ok(counts.killedAdds > CYCLES / 20, 'kills meet ADD');
  assert.ok(counts.daemonKills >= 3);
});

test.run();
