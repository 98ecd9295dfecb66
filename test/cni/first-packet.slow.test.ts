// time limit: 1800 s
// A thousand pods that send from their first microsecond on (support/first-packet.ts).

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { testNeeding } from '../support/needs.ts';
import { runFirstPackets } from './support/first-packet.ts';

const test = suite('cni/first-packet slow');
const PODS = 1000;
const BATCH = 100;

const NAME = 'a thousand pods: nothing that policy denies, ever; the rest soon';
testNeeding('tun', test, NAME, async () => {
  const counts = await runFirstPackets(PODS, BATCH);
  assert.is(counts.pods, PODS);
  console.log(JSON.stringify(counts));
});

test.run();
