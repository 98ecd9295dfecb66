// A hundred times one version of a module for another, under load: support/module-swap.ts. A
// thousand times is module-swap.slow.test.ts.

import { suite } from 'uvu';
import { testNeeding } from '../support/needs.ts';
import { findTool, toolReason } from '../support/tools.ts';
import { checkSwaps, swapUnderLoad } from './support/module-swap.ts';

const test = suite('netns/module-swap');
const SWAPS = 100;
const iperf3 = findTool('iperf3');

for (const workers of ['1', '2']) {
  testNeeding('tun', test, `${SWAPS} swaps, workers: ${workers}`, async () => {
    const flags = ['--data-plane-workers', workers];
    checkSwaps(await swapUnderLoad(iperf3 ?? '', SWAPS, flags));
  }, iperf3 === null ? toolReason('iperf3') : null);
}

test.run();
