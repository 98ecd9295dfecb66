// Several data workers: the two directions of a connection may come to different ones, and yet
// replies pass, what is denied stays denied, and datagrams of a flow stay in order. One that
// crashes does not stop the other.
//
//   namespace node-1                 hub (router)             namespace node-2
//   culvert run, two workers                                  culvert run, one worker
//   eth0 192.0.2.1  2001:db8::1 ---- port0   port1 ---- eth0 192.0.2.2  2001:db8::2
//     |                                  |     |                |
//     +-- pod-1-10  10.244.1.10          |     |                +-- pod-2-10  10.244.2.10
//         fd00:10:244:1::a               |     |                    fd00:10:244:2::a
//                                        |     +-- node-4: culvert run, two workers that crash
//                                        +-- node-3: kernel VXLAN, pod-3-10
//
// Identities are the pods' node numbers.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Bed, Host } from '../../cli/demo/bed.ts';
import { addKernelPod, setUpKernelNode } from '../../cli/demo/kernel-node.ts';
import type { Family } from '../../engine/address.ts';
import type { StatusReport } from '../../engine/model.ts';
import { testNeeding } from '../support/needs.ts';
import { clusterNode, nodeAddress, podAddress, podAddresses } from './support/forge-cluster.ts';
import { Place, mustReach, openBed } from './support/forge-scene.ts';
import { Voice, allowing, identify, podPolicy } from './support/policy-scene.ts';
import { Traffic } from './support/traffic.ts';

const NODES = [1, 2, 3, 4];
const CULVERT = 2;
const KERNEL = 3;
const PEERS = [[CULVERT, 'a Culvert node'], [KERNEL, 'a kernel VXLAN node']] as const;
const FAMILIES = ['IPv4', 'IPv6'] as const;
const WORKERS = ['--data-plane-workers', '2'];
/** Connections at a time, so many that both workers get some. */
const STREAMS = 12;
const STREAM_BYTES = 2 << 20;
const TRAINS = 12;
const TRAIN_DATAGRAMS = 600;
const TIMEOUT_MS = 60_000;
const BLOCKED_MS = 400;
/** Datagrams after which a worker crashes: so many that it works for a while, and so few that the
 * pauses before another one grow to what can be observed. */
const CRASH_AFTER = 4000;
const CRASHES = 10;
const POLL_MS = 20;

interface Scene {
  bed: Bed;
  one: Place;
  voices: Voice[];
  /** The pods by the numbers of their nodes, and what they send. */
  pods: Map<number, Host>;
  traffic: Map<number, Traffic>;
}

const test = suite('netns/workers');
let scene: Scene | null = null;

async function makeScene(bed: Bed): Promise<Scene> {
  const [one, two] = [await Place.add(bed, 1, NODES, WORKERS), await Place.add(bed, 2, NODES)];
  await Promise.all([one.culvert.startDaemon(), two.culvert.startDaemon()]);
  const voices = [await Voice.start(one, NODES), await Voice.start(two, NODES)];
  const self = clusterNode(KERNEL);
  const node = await bed.addNode(self.name, {
    ipv4: nodeAddress(KERNEL, 'IPv4'), ipv6: nodeAddress(KERNEL, 'IPv6'),
  });
  await setUpKernelNode(node, self, NODES.filter((n) => n !== KERNEL).map(clusterNode));
  const pods = new Map([
    [1, (await one.addPod(10)).host], [2, (await two.addPod(10)).host],
    [KERNEL, await addKernelPod(bed, node, 'pod-3-10', podAddresses(KERNEL, 10))],
  ]);
  const traffic = new Map<number, Traffic>();
  for (const [n, host] of pods) {
    traffic.set(n, await Traffic.start(host));
    await host.agent.ask({ verb: 'serve' });
  }
  const [voice, other] = voices;
  await other?.say({ endpoints: [podPolicy(2, 10, 0, 0)] });
  // The pod of node-1 may begin connections, and nobody else may.
  await voice?.say({
    identities: [...identify(1, 10, 1), ...identify(2, 10, 2), ...identify(KERNEL, 10, 3)],
    ruleSets: [allowing(1, []), allowing(2, [{ identity: 2 }, { identity: 3 }])],
    endpoints: [podPolicy(1, 10, 1, 2)],
  });
  return { bed, one, voices, pods, traffic };
}

async function theScene(): Promise<Scene> {
  if (scene !== null) return scene;
  const bed = await openBed();
  try {
    scene = await makeScene(bed);
    return scene;
  } catch (error) {
    await bed.close();
    throw error;
  }
}

test.after(async () => {
  for (const traffic of scene?.traffic.values() ?? []) await traffic.close();
  for (const voice of scene?.voices ?? []) voice.close();
  await scene?.bed.close();
});

function of<T>(map: Map<number, T>, n: number): T {
  const found = map.get(n);
  if (found === undefined) throw new Error(`node ${n} has none`);
  return found;
}

/** TCP of many connections at a time, begun by the pod of `from`, data each way. */
async function streams({ traffic }: Scene, from: number, to: number): Promise<void> {
  const address = (at: number): string =>
    podAddress(to, 10, FAMILIES[at % FAMILIES.length] ?? 'IPv4');
  const answers = await Promise.all(Array.from({ length: STREAMS }, (_, at) =>
    of(traffic, from)[at % 4 < 2 ? 'send' : 'fetch'](address(at), STREAM_BYTES, TIMEOUT_MS)));
  assert.ok(answers.every(({ same, bytes }) => same && bytes === STREAM_BYTES),
    `${from} to ${to}: ${JSON.stringify(answers)}`);
}

/** UDP flows, one after the other, each in order and whole. */
async function trains({ traffic }: Scene, from: number, to: number, base: number): Promise<void> {
  for (let at = 0; at < TRAINS; at += 1) {
    const stream = base + at;
    const unanswered = await of(traffic, from).train({
      address: podAddress(to, 10, FAMILIES[at % FAMILIES.length] ?? 'IPv4'), stream, first: 0,
      size: 1200, count: TRAIN_DATAGRAMS, segmented: at % 4 < 2, tos: 0,
    });
    const answers = await of(traffic, to).streams();
    const { received = 0, late = 0, damaged = 0 } =
      answers.find((answer) => answer.stream === stream) ?? {};
    assert.equal({ unanswered, received, late, damaged },
      { unanswered: 0, received: TRAIN_DATAGRAMS, late: 0, damaged: 0 }, `${from} to ${to}`);
  }
}

/** No connection of another pod to the one of node-1 comes to be. */
async function mustStayOut({ pods }: Scene, from: number): Promise<void> {
  await Promise.all(FAMILIES.flatMap((family: Family) => (['tcp', 'udp'] as const).map(
    async (verb) => {
      const address = podAddress(1, 10, family);
      const { ok, detail } = await of(pods, from).agent.ask(verb === 'tcp'
        ? { verb, address, timeoutMs: BLOCKED_MS }
        : { verb, address, size: 64, timeoutMs: BLOCKED_MS });
      assert.not(ok, `${from} to ${address} by ${verb}`);
      assert.is(detail, 'no answer in time');
    })));
}

/** Packets that each worker has taken. */
function takenBy({ dataPlane }: StatusReport): number[] {
  return dataPlane.workers.map(({ rxPackets }) => rxPackets);
}

for (const [peer, name] of PEERS) {
  testNeeding('vxlan', test, `replies of ${name} pass, its own connections do not`, async () => {
    const all = await theScene();
    const before = takenBy(await all.one.culvert.status());
    assert.is(before.length, 2);
    await Promise.all([streams(all, 1, peer), mustStayOut(all, peer)]);
    await trains(all, 1, peer, peer * 1000);
    await mustStayOut(all, peer);
    const status = await all.one.culvert.status();
    const taken = takenBy(status).map((count, worker) => count - (before[worker] ?? 0));
    console.log(`packets by worker: ${taken.join(', ')}`);
    assert.ok(taken.every((count) => count > 500), taken.join(', '));
    assert.is(status.dataPlane.crashes, 0);
  });
}

for (const [peer, name] of PEERS) {
  testNeeding('vxlan', test, `what ${name} begins passes once it is allowed`, async () => {
    const all = await theScene();
    await all.voices[0]?.say({
      ruleSets: [allowing(3, [{ identity: 2 }, { identity: 3 }])],
      endpoints: [podPolicy(1, 10, 3, 2)],
    });
    await Promise.all([streams(all, peer, 1), streams(all, 1, peer)]);
    await trains(all, peer, 1, peer * 2000);
    const { tables, drops } = await all.one.culvert.status();
    assert.is(drops.inbound.fragmentUnknown, 0);
    assert.ok((tables.find((table) => table.name === 'flows')?.used ?? 0) >= STREAMS * 2);
  });
}

testNeeding('vxlan', test, 'fragments find the verdict of their first', async () => {
  const all = await theScene();
  for (const family of FAMILIES) {
    for (const peer of [CULVERT, KERNEL]) {
      const answer = await of(all.pods, 1).agent.ask({
        verb: 'sizes', address: podAddress(peer, 10, family), sizes: [3000, 9000, 20_000, 60_000],
        timeoutMs: TIMEOUT_MS,
      });
      assert.ok(answer.ok, answer.detail);
    }
  }
});

/** Waits until one worker is seen to take packets while the other is being replaced. */
async function seeOneWithoutOther(place: Place): Promise<void> {
  const deadline = performance.now() + TIMEOUT_MS;
  let last = await place.culvert.status();
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    const now = await place.culvert.status();
    const down = now.dataPlane.workers.map(({ running, crashes }, worker) =>
      !running && crashes === last.dataPlane.workers[worker]?.crashes);
    const grown = takenBy(now).map((count, worker) => count > (takenBy(last)[worker] ?? 0));
    if ((down[0] === true && grown[1] === true) || (down[1] === true && grown[0] === true)) return;
    if (performance.now() > deadline) throw new Error('never one worker without the other');
    last = now;
  }
}

testNeeding('vxlan', test, 'a worker that crashes does not stop the other', async () => {
  const all = await theScene();
  const place = await Place.add(all.bed, 4, NODES,
    [...WORKERS, '--debug-fault-crash-after', `${CRASH_AFTER}`]);
  await place.culvert.start();
  const { host } = await place.addPod(10);
  const traffic = await Traffic.start(host);
  const address = podAddress(CULVERT, 10, 'IPv4');
  let isEnding = false;
  const sending = Promise.all(Array.from({ length: STREAMS }, async () => {
    while (!isEnding) {
      const { same } = await traffic.send(address, STREAM_BYTES, TIMEOUT_MS);
      assert.ok(same);
    }
  }));
  try {
    await seeOneWithoutOther(place);
    await place.culvert.waitFor(({ dataPlane }) => dataPlane.crashes >= CRASHES);
  } finally {
    isEnding = true;
    await sending;
    await traffic.close();
  }
  await place.culvert.waitFor(({ dataPlane: { running } }) => running);
  await mustReach(host, podAddresses(CULVERT, 10));
});

test.run();
