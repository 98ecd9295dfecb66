// time limit: 1200 s
// The offload fuzzer at full length, from a new seed each time: a fault names the seed that has it.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { OffloadFuzzer } from './offload-fuzzer.ts';

const LIMIT_MS = 300_000;

for (const options of [
  { segmentLimit: 64, frames: false },
  { segmentLimit: 127, frames: true },
]) {
  test(`damaged super-packets for long, ${JSON.stringify(options)}`, () => {
    const seed = Date.now() % 1_000_000;
    const report = new OffloadFuzzer({ seed, ...options }).run(Infinity, LIMIT_MS);
    console.log(`seed ${seed}: ${JSON.stringify(report)}`);
    assert.ok(report.packets > 1_000_000, 'the run was long enough to mean something');
  });
}

test.run();
