// time limit: 240 s
// Whatever goes wrong between the sidecar and the API server: afterwards the host has what a fresh
// reading of all objects gives, with no peer, route or rule too many. Half-open connections are
// noticed by a deadline of our own. Every fault there is, on each version of the server.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { FAULTS, playCycles } from '../../support/api-server/fault-cycles.ts';
import type { ServerVersion } from '../../support/api-server/resources.ts';

const test = suite('faults');
const VERSIONS: readonly ServerVersion[] = ['1.36', '1.36-etcd3.4', '1.20'];

for (const [i, version] of VERSIONS.entries()) {
  const cycles = Object.keys(FAULTS).length;
  test(`${cycles} cycles of faults on ${version} end where a fresh reading does`, async () => {
    const report = await playCycles(version, cycles, i + 1);
    assert.is(report.byFault.size, cycles);
    const worst = [...report.byFault].sort(([, a], [, b]) => b.worstMs - a.worstMs).slice(0, 3)
      .map(([name, { worstMs }]) => `${name} ${worstMs.toFixed(0)} ms`);
    console.log(`\n${version}: ${report.changes} changes, ${report.relists} lists anew, `
      + `${report.requests} requests; slowest: ${worst.join(', ')}`);
  });
}

test.run();
