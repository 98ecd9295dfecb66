// Damaged super-packets, vnet headers and joined datagrams through the core: a bounded run of the
// offload fuzzer at each kind of kernel. The long run is offload.slow.test.ts.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { OffloadFuzzer } from './offload-fuzzer.ts';

const SEED = 6040;
const BATCHES = 40_000;

for (const [name, options] of [
  ['where the kernel cuts trains', { segmentLimit: 64, frames: false }],
  ['where it cuts none', { segmentLimit: 1, frames: false }],
  ['where it takes whole frames', { segmentLimit: 127, frames: true }],
] as const) {
  test(`damaged super-packets neither trap nor write astray nor get lost, ${name}`, () => {
    const report = new OffloadFuzzer({ seed: SEED, ...options }).run(BATCHES);
    const { batches, packets, sent, dropped, segmented, coalesced } = report;
    console.log(`fuzz, ${name}: ${batches} turns, ${packets} packets, ${sent} sent, `
      + `${dropped} dropped; ${segmented} cut, ${coalesced} joined`);
    assert.ok(sent > packets / 10, 'many packets got through');
    assert.ok(dropped > packets / 20, 'many packets did not');
    assert.ok(options.frames || segmented > 100, 'some were cut');
    assert.ok(coalesced > 100, 'some were joined');
  });
}

test.run();
