// time limit: 600 s
// A thousand cycles of faults, side by side on the three versions of the server. What a cycle is
// stands in test/support/api-server/fault-cycles.ts.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { FAULTS, playCycles } from '../../support/api-server/fault-cycles.ts';
import type { ServerVersion } from '../../support/api-server/resources.ts';

const test = suite('a thousand faults');
const VERSIONS: readonly ServerVersion[] = ['1.36', '1.36-etcd3.4', '1.20'];
const CYCLES_EACH = 342;
const FIRST_SEED = 100;

test(`${VERSIONS.length} x ${CYCLES_EACH} cycles end where a fresh reading does`, async () => {
  const reports = await Promise.all(VERSIONS.map((version, i) =>
    playCycles(version, CYCLES_EACH, FIRST_SEED + i)));
  for (const [i, { byFault, changes, relists, requests }] of reports.entries()) {
    assert.is(byFault.size, Object.keys(FAULTS).length);
    console.log(`\n${VERSIONS[i]}: ${changes} changes, ${relists} lists anew, `
      + `${requests} requests`);
    for (const [name, { count, worstMs }] of byFault) {
      console.log(`  ${name.padEnd(36)} ${count} times, at most ${worstMs.toFixed(0)} ms`);
    }
  }
});

test.run();
