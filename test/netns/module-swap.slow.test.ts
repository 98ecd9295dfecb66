// time limit: 600 s
// module-swap.test.ts at full length.

import { suite } from 'uvu';
import { testNeeding } from '../support/needs.ts';
import { findTool, toolReason } from '../support/tools.ts';
import { checkSwaps, swapUnderLoad } from './support/module-swap.ts';

const test = suite('netns/module-swap.slow');
const SWAPS = 1000;
const iperf3 = findTool('iperf3');

testNeeding('tun', test, `${SWAPS} swaps under load`, async () => {
  checkSwaps(await swapUnderLoad(iperf3 ?? '', SWAPS));
}, iperf3 === null ? toolReason('iperf3') : null);

test.run();
