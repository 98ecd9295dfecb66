// While one thread forwards, another moves the route to and fro and gives the peers new addresses,
// MACs and VNIs. Each packet must go to the old place or the new one, as a whole, and none may be
// dropped.

import { Worker } from 'node:worker_threads';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { Core } from '../../engine/core.ts';
import { TableFullError } from '../../engine/tables/limits.ts';
import { LOCAL, POD, apply, change, makeNode, makeTunnel, setUp } from '../support/cluster.ts';
import { coreModule } from '../support/core.ts';
import { ipv4 } from '../support/packets.ts';
import type { RaceData } from './forwarding-worker.ts';

/** The race goes on until both threads have done so much. */
const ROUNDS = 3000;
const TURNS = 3000;

/** Runs `step` again and again beside a worker that forwards; returns what the worker saw. */
async function race(
  core: Core, device: number, step: (round: number) => void,
): Promise<Record<string, number>> {
  const packet = ipv4({ source: POD, destination: '10.1.1.9', protocol: 17 }, new Uint8Array(8));
  const words = new Int32Array(new SharedArrayBuffer(8));
  const data: RaceData = { module: coreModule(), memory: core.memory, device, packet, race: words };
  const worker = new Worker(new URL('./forwarding-worker.js', import.meta.url),
    { workerData: data });
  const messages = new Promise<Record<string, number>>((done, fail) => {
    worker.on('error', fail);
    worker.on('message', (message: 'ready' | Record<string, number>) => {
      if (message !== 'ready') done(message);
    });
  });
  await new Promise((done) => worker.once('message', done));
  let rounds = 0;
  try {
    for (; rounds < ROUNDS || Atomics.load(words, 1) < TURNS; rounds += 1) step(rounds);
    Atomics.store(words, 0, 1);
    return await messages;
  } finally {
    await worker.terminate();
  }
}

test('a packet of a moved route goes to the old node or to the new one', async () => {
  const { core, forwarding } = setUp();
  apply(forwarding, [LOCAL, makeNode(1), makeNode(2)]);
  const { device } = forwarding.attachEndpoint('a/b', [POD], null);
  const [without1, with1] = [makeNode(1, { podCidrs: [] }), makeNode(1)];
  const with2 = makeNode(2, { podCidrs: ['10.1.1.0/24', '10.1.2.0/24'] });
  const seen = await race(core, device, (round) => {
    if (round % 2 === 0) change(forwarding, [without1, with2]);
    else change(forwarding, [makeNode(2), with1]);
  });
  assert.equal(Object.keys(seen).sort(), ['192.0.2.1:8472 01 1', '192.0.2.2:8472 02 1']);
  assert.equal(forwarding.problems(), []);
});

test('a packet to a peer that changes has all of the old headers or all of the new', async () => {
  const { core, forwarding } = setUp();
  const node = (index: number, version: number) => makeNode(index, { tunnels: [{
    ...makeTunnel('IPv4', index), remote: `203.0.113.${(index * 100) + version}`,
    mac: `0e:00:00:00:00:0${version}`, vni: version, port: 1000 + version,
  }] });
  apply(forwarding, [LOCAL, node(1, 0), node(2, 0)]);
  const { device } = forwarding.attachEndpoint('a/b', [POD], null);
  const seen = await race(core, device, (round) =>
    change(forwarding, [node(1, round % 5), node(2, (round + 1) % 5)]));
  const expected = [0, 1, 2, 3, 4].map((version) =>
    `203.0.113.${100 + version}:${1000 + version} 0${version} ${version}`);
  assert.equal(Object.keys(seen).sort(), expected);
});

test('endpoints that come and go beside it do not disturb a flow', async () => {
  const { core, forwarding } = setUp();
  apply(forwarding, [LOCAL, makeNode(1)]);
  const { device } = forwarding.attachEndpoint('a/b', [POD], null);
  const seen = await race(core, device, (round) => {
    try {
      const address = `10.1.0.${20 + (round % 200)}`;
      forwarding.detachEndpoint(forwarding.attachEndpoint(`a/${round}`, [address], null));
    } catch (error) {
      // The worker may be stopped within a turn; until it goes on, indexes cannot be used again.
      if (!(error instanceof TableFullError)) throw error;
    }
  });
  assert.equal(Object.keys(seen), ['192.0.2.1:8472 01 1']);
});

test.run();
