// A hundred pods that send from their first microsecond on (support/first-packet.ts).

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { testNeeding } from '../support/needs.ts';
import { runFirstPackets } from './support/first-packet.ts';

const test = suite('cni/first-packet');
const PODS = 100;
const BATCH = 50;

const NAME = 'a hundred pods: nothing that policy denies, ever; the rest soon';
testNeeding('tun', test, NAME, async () => {
  const counts = await runFirstPackets(PODS, BATCH);
  assert.is(counts.pods, PODS);
  console.log(JSON.stringify(counts));
});

test.run();
