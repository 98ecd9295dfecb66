// Whatever goes wrong between the sidecar and the API server: afterwards the host has what a fresh
// reading of all objects gives, with no peer, route or rule too many. Half-open connections are
// noticed by a deadline of our own. Every fault there is, on each version of the server.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { Churn, LOCAL } from '../../support/api-server/churn.ts';
import { FAULTS, playCycles } from '../../support/api-server/fault-cycles.ts';
import type { ServerVersion } from '../../support/api-server/resources.ts';
import { READER_RULES, TestApiServer } from '../../support/api-server/server.ts';
import { Follower, SHORT, truthOf } from '../../support/follower.ts';
import { Random } from '../../support/random.ts';
import { PATIENCE_MS } from '../../support/until.ts';

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


/** A server with a random cluster, and a follower that has read it; all ends with the test. */
async function withCluster(work: (world: {
  server: TestApiServer; churn: Churn; follower: Follower; truth: () => string;
}) => Promise<void>, seed: number, isUp = true): Promise<void> {
  const server = new TestApiServer();
  server.grant('engine', READER_RULES);
  server.defineClusterNetworkPolicy();
  const churn = new Churn(server, new Random(seed));
  await server.start();
  const follower = new Follower({ kubeconfig: server.kubeconfig(), local: LOCAL });
  const truth = (): string => truthOf(churn.objects(), LOCAL);
  if (!isUp) await server.kill();
  try {
    if (isUp) await follower.settled(truth, PATIENCE_MS);
    await work({ server, churn, follower, truth });
    assert.equal(follower.host.faults, []);
  } finally {
    await follower.stop();
    await server.close();
  }
}

/** Waits for a moment of the sidecar's. */
async function until(what: string, isSo: () => boolean): Promise<number> {
  const beganMs = performance.now();
  while (!isSo()) {
    if (performance.now() - beganMs > PATIENCE_MS) throw new Error(`waited in vain for ${what}`);
    await new Promise((resolve) => { setTimeout(resolve, 2); });
  }
  return performance.now() - beganMs;
}

test('half-open connections are noticed by the deadline, and nothing is read anew', () =>
  withCluster(async ({ server, churn, follower, truth }) => {
    const relists = follower.sum('relists');
    for (let round = 0; round < 5; round += 1) {
      server.freeze();
      server.thaw();
      churn.step();
      const tookMs = await follower.settled(truth, PATIENCE_MS);
      assert.ok(tookMs < 2 * (SHORT.silenceMs ?? 0), `noticed after ${tookMs} ms`);
    }
    assert.ok(follower.sum('renewals') >= 5);
    assert.is(follower.sum('relists'), relists);
  }, 21));

test('what comes before an ERROR in one piece counts, with nothing after it', () =>
  withCluster(async ({ server, churn, follower, truth }) => {
    for (const code of [410, 500, 504]) {
      // A watch from before the change gets the change and the error together.
      server.faults.add({ errorCode: code, afterEvents: 1,
        match: { resource: 'nodes', verb: 'watch' } });
      await server.kill();
      server.patch('nodes', 'n1', { spec: { podCIDRs: [`10.245.${code % 256}.0/24`] } });
      await server.start();
      await follower.settled(truth, PATIENCE_MS);
    }
    churn.step();
    await follower.settled(truth, PATIENCE_MS);
  }, 22));

test('a server that is away at the start is waited for, gently', () =>
  withCluster(async ({ server, follower, truth }) => {
    await until('a problem', () => (follower.host.health_?.problems.length ?? 0) > 0);
    assert.is(follower.host.health_?.fresh, false);
    assert.is(follower.host.changes, 0, 'nothing was told');
    await server.start();
    await follower.settled(truth, PATIENCE_MS);
  }, 23, false));

test('while the server is away the host keeps what it has, and hears since when', () =>
  withCluster(async ({ server, churn, follower, truth }) => {
    const before = follower.host.text();
    const sinceMs = Date.now();
    await server.kill();
    await until('staleness', () => follower.host.health_?.fresh === false);
    assert.ok((follower.host.health_?.staleSinceMs ?? 0) >= sinceMs - 1);
    assert.is(follower.host.text(), before);
    churn.step();
    await server.start();
    await follower.settled(truth, PATIENCE_MS);
    assert.is(follower.sum('relists'), 0, 'the watches went on where they were');
  }, 24));

test.run();
