// Policy from end to end: a NetworkPolicy is written to a file, and packets of real pods feel it.
//
//   namespace node-1                 hub (router)             namespace node-2
//   culvert run, culvert sync                                 culvert run, culvert sync
//   eth0 192.0.2.1  2001:db8::1 ---- port0   port1 ---- eth0 192.0.2.2  2001:db8::2
//     |                                                         |
//     +-- pod-1-10  10.244.1.10  fd00:10:244:1::a               +-- pod-2-10  10.244.2.10
//     +-- pod-1-11  10.244.1.11  fd00:10:244:1::b                             fd00:10:244:2::a

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { askAll } from '../../cli/client.ts';
import { EndpointReportSchema } from '../../engine/model.ts';
import { testNeeding } from '../support/needs.ts';
import { until } from '../support/until.ts';
import { clusterNode, podAddress } from './support/forge-cluster.ts';
import { Place, mustReach, openBed } from './support/forge-scene.ts';
import { Stream } from './support/forge-stream.ts';

const test = suite('netns/policy-objects');
const NODES = [1, 2].map(clusterNode);

/** Ingress of pod-1-10, from pods with one of the names. */
function policy(...friends: string[]): object {
  const podSelector = { matchExpressions: [{ key: 'name', operator: 'In', values: friends }] };
  return {
    apiVersion: 'networking.k8s.io/v1',
    kind: 'NetworkPolicy',
    metadata: { name: 'friends', namespace: 'test' },
    spec: {
      podSelector: { matchLabels: { name: 'pod-1-10' } },
      ingress: friends.length === 0 ? [] : [{ from: [{ podSelector }] }],
    },
  };
}

/** Writes objects for a node and waits until they are in force there. */
async function enforce({ culvert }: Place, write: () => void): Promise<void> {
  const { sync: { revision } } = await culvert.status();
  write();
  await culvert.waitFor(({ sync }) => sync.revision !== null && sync.revision !== revision);
}

const QUIET_ROUNDS = 5;

/** True where nothing comes back while some more is said. */
async function isCut(stream: Stream): Promise<boolean> {
  const before = await stream.report();
  await stream.speaks(10);
  const after = await stream.report();
  return before.echoed === after.echoed && before.returned === after.returned;
}

async function assertCut(streams: Stream[]): Promise<void> {
  for (const stream of streams) {
    // What was on its way still arrives, on a busy machine bit by bit.
    let quiet = 0;
    await until('nothing to come any more', async () => {
      quiet = await isCut(stream) ? quiet + 1 : 0;
      return quiet >= QUIET_ROUNDS;
    });
  }
}

testNeeding('tun', test, 'a NetworkPolicy opens, cuts and lets go', async () => {
  const bed = await openBed();
  const streams: Stream[] = [];
  try {
    const [one, two] = [await Place.add(bed, 1, [1, 2]), await Place.add(bed, 2, [1, 2])];
    await Promise.all([one.culvert.start(), two.culvert.start()]);
    const server = await one.addPod(10);
    const [second, remote] = [await one.addPod(11), await two.addPod(10)];
    const write = (...objects: object[]): Promise<void> =>
      enforce(one, () => one.write(NODES, objects));
    streams.push(
      await Stream.start(second.host, server.host, podAddress(1, 10, 'IPv6')),
      await Stream.start(remote.host, server.host, podAddress(1, 10, 'IPv4')),
    );
    const [near, far] = streams as [Stream, Stream];
    await write(policy('pod-1-11', 'pod-2-10'));
    for (const stream of streams) await stream.goesOn();
    await write(policy('pod-2-10'));
    await assertCut([near]);
    await far.goesOn();
    await write(policy());
    await assertCut(streams);
    await mustReach(one.host, server.addresses);
    await write();
    for (const stream of streams) {
      await stream.goesOn();
      assert.is((await stream.report()).fault, '');
    }
  } finally {
    for (const stream of streams) await stream.close();
    await bed.close();
  }
});

testNeeding('tun', test, 'a pod is closed until the cluster knows it', async () => {
  const bed = await openBed();
  try {
    const one = await Place.add(bed, 1, [2]);
    await one.culvert.start();
    const pod = await one.addPod(10);
    const state = async (): Promise<string | undefined> => {
      const { runtimeDirectory } = one.culvert;
      const [only] = await askAll(runtimeDirectory, 'endpoint.list', EndpointReportSchema);
      return only?.state;
    };
    assert.is(await state(), 'closed');
    const { ok } = await one.host.agent.ask({
      verb: 'ping', address: podAddress(1, 10, 'IPv4'), size: 8, timeoutMs: 300,
    });
    assert.not(ok, 'its own node neither');
    await enforce(one, () => one.write(NODES));
    await until('the pod', async () => await state() === 'ready');
    await mustReach(one.host, pod.addresses);
  } finally {
    await bed.close();
  }
});

test.run();
