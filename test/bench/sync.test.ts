// `bench sync`, run with a tiny cluster: that everybody takes part and the report is what it should
// be; never how fast or how large anything is.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { runSyncBench, syncText } from '../../bench/sync.ts';
import { testNeeding } from '../support/needs.ts';

const test = suite('bench/sync');
const SIZE = { pods: 400, nodes: 20, policies: 40, namespaces: 10 };
const CHANGES = 5;

testNeeding('tun', test, 'a tiny cluster gives every figure', async () => {
  const said: string[] = [];
  const report = await runSyncBench({
    size: SIZE, changes: CHANGES, restMs: 0, rivalFolder: null, say: (text) => said.push(text),
  });
  assert.equal(Object.keys(report),
    ['machine', 'size', 'sidecar', 'host', 'snapshotMs', 'changes', 'informers']);
  assert.equal(said, ['the cluster is being served', '20 nodes and 20 pods of ours are in force']);
  const { sidecar, host, snapshotMs, changes } = report;
  for (const figure of [
    ...Object.values(sidecar), ...Object.values(host), snapshotMs, ...Object.values(changes),
  ]) {
    assert.ok(figure > 0, JSON.stringify(report));
  }
  assert.is(changes.count, CHANGES);
  assert.match(syncText(report), /^sidecar +\d+ MiB peak, \d+ MiB steady, /m);
});

test.run();
