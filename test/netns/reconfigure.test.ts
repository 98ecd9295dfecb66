// 1,000 reconfigurations of a running daemon under traffic: 500 times the cluster changes, 500
// times a pod comes or goes. Nothing of it may be left, and nobody who stays may notice.
//
//   namespace node-1                 hub (router)             namespace node-2
//   culvert run; the test is                                  culvert run, culvert sync
//   its sidecar, on sync.sock
//   eth0 192.0.2.1  2001:db8::1 ---- port0   port1 ---- eth0 192.0.2.2  2001:db8::2
//     |                                                         |
//     +-- pod-1-10  10.244.1.10  fd00:10:244:1::a   stays       +-- pod-2-10  10.244.2.10
//     +-- pod-1-11  10.244.1.11  fd00:10:244:1::b   stays           fd00:10:244:2::a   stays
//     +-- four namespaces whose pods come and go
//
// Streams of datagrams and TCP records: pod-1-10 to pod-2-10, pod-1-11 to pod-1-10. Nodes from 10
// on are only told of. TX checksum offload is off on every veth (cli/demo/bed.ts).

import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import * as v from 'valibot';
import { ask, askAll } from '../../cli/client.ts';
import type { Bed, Host } from '../../cli/demo/bed.ts';
import { VERSION } from '../../cli/version.ts';
import { RouteReportSchema, type ClusterNode, type Pod as ClusterPod } from '../../engine/model.ts';
import { SYNC_SOCKET } from '../../host/main.ts';
import { Sender } from '../../sync/send.ts';
import type { VxlanNode } from '../support/cluster.ts';
import { ContentFeed } from '../support/content-feed.ts';
import type { Content } from '../../sync/translate.ts';
import { testNeeding } from '../support/needs.ts';
import { Random } from '../support/random.ts';
import { until } from '../support/until.ts';
import { clusterNode, podAddress, podAddresses } from './support/forge-cluster.ts';
import {
  Place, descriptorsAre, logLines, mustReach, openBed, residentKib, settledDescriptors,
  settledTables, type Pod,
} from './support/forge-scene.ts';
import { Stream } from './support/forge-stream.ts';

/** At each step the cluster changes, and a pod comes or goes. */
const STEPS = 500;
const RECONNECT_EVERY = 50;
/** Every so many changes, more nodes come or go than one delta holds. */
const CROWD_EVERY = 60;
const CROWD = 250;
/** From half-way on. A leak of 64 KiB for each reconfiguration exceeds it. What the collector lets
 * stand does not: some 20 MiB, and none any more later on. */
const GROWTH_LIMIT_KIB = 40 * 1024;
/** The test's sidecar says nothing of policy. */
const OPEN = ['--policy-unknown-pods', 'open'];
const SILENT = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

const test = suite('netns/reconfigure');

/** A sidecar whose words are the test's. It can be replaced, as one that was restarted. */
class Sidecar {
  readonly #socket: string;
  #sender!: Sender;
  #feed!: ContentFeed;
  #stop = new AbortController();
  #running: Promise<void> = Promise.resolve();
  #revision = 0;

  constructor(socket: string) {
    this.#socket = socket;
    this.#start();
  }

  /** Brings the daemon to a state. */
  async bring(content: Content): Promise<void> {
    if (this.#feed.update(content)) this.#revision += 1;
    const wanted = this.#revision;
    await until(`revision ${wanted}`, () => this.#sender.confirmed === wanted);
  }

  async restart(): Promise<void> {
    await this.stop();
    this.#start();
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#running;
  }

  #start(): void {
    this.#stop = new AbortController();
    this.#revision = 0;
    this.#sender = new Sender({
      socket: this.#socket, version: VERSION, log: SILENT, backoffFirstMs: 10,
    });
    this.#feed = new ContentFeed(this.#sender);
    this.#running = this.#sender.run(this.#stop.signal);
  }
}

const BASE: Content = { local: 'node-1', nodes: [clusterNode(1), clusterNode(2)], pods: [] };

/** A node as it might be: with other prefixes, addresses or tunnels than last time. */
function randomNode(n: number, random: Random): VxlanNode {
  const node = clusterNode(n);
  if (random.oneIn(3)) {
    node.podCidrs.push(`10.245.${n}.0/24`, `10.245.${random.between(10, 40)}.0/26`);
  }
  if (random.oneIn(4)) node.podCidrs = [`10.244.${random.between(10, 40)}.0/24`];
  if (random.oneIn(4)) node.addresses.push(`192.0.2.${random.between(100, 120)}`);
  for (const tunnel of node.tunnels) {
    if (random.oneIn(3) && tunnel.family === 'IPv4') {
      tunnel.remote = `192.0.2.${random.between(100, 250)}`;
    }
    if (random.oneIn(3)) tunnel.mac = `02:c1:00:00:${random.between(10, 99)}:04`;
  }
  if (random.oneIn(5)) node.tunnels.pop();
  return node;
}

function crowd(): ClusterNode[] {
  return Array.from({ length: CROWD }, (_, at) => ({
    name: `crowd-${at}`,
    podCidrs: [`10.246.${at}.0/24`, `fd00:10:246:${at.toString(16)}::/64`],
    addresses: [`198.18.0.${at}`],
    tunnels: [{
      family: 'IPv4', kind: 'vxlan', remote: `198.18.0.${at}`, port: 8472, vni: 1,
      mac: `02:c2:00:00:00:${at.toString(16).padStart(2, '0')}`,
    }],
  }));
}

/** What the cluster is after one more change. Nodes 1 and 2 stay as they are, but for one more
 * prefix of node 1 that comes and goes. */
function nextContent(content: Content, change: number, random: Random): Content {
  const nodes = new Map(content.nodes.map((node) => [node.name, node]));
  const pods = new Map(content.pods.map((pod) => [pod.name, pod]));
  for (let count = random.between(1, 5); count > 0; count -= 1) {
    const n = random.between(10, 40);
    if (nodes.has(`node-${n}`) && random.oneIn(2)) nodes.delete(`node-${n}`);
    else nodes.set(`node-${n}`, randomNode(n, random));
  }
  if (random.oneIn(10)) {
    const own = clusterNode(1);
    if (random.oneIn(2)) own.podCidrs.push('10.244.201.0/24');
    nodes.set(own.name, own);
  }
  if (change % CROWD_EVERY === 0) {
    const isThere = nodes.has('crowd-0');
    for (const node of crowd()) {
      if (isThere) nodes.delete(node.name);
      else nodes.set(node.name, node);
    }
  }
  const name = `p${random.below(20)}`;
  if (pods.has(name) && random.oneIn(2)) pods.delete(name);
  else pods.set(name, randomPod(name, random));
  return { local: 'node-1', nodes: [...nodes.values()], pods: [...pods.values()] };
}

function randomPod(name: string, random: Random): ClusterPod {
  const uid = `uid-${random.below(1000)}`;
  return { namespace: 'test', name, uid, addresses: podAddresses(1, random.between(100, 200)) };
}

interface Scene {
  one: Place;
  sidecar: Sidecar;
  pods: Pod[];
  guests: Host[];
}

async function build(bed: Bed, streams: Stream[]): Promise<Scene> {
  const [one, two] = [await Place.add(bed, 1, [1, 2], OPEN), await Place.add(bed, 2, [1, 2])];
  await Promise.all([one.culvert.startDaemon(), two.culvert.start()]);
  const sidecar = new Sidecar(join(one.culvert.runtimeDirectory, SYNC_SOCKET));
  await sidecar.bring(BASE);
  const pods = [await one.addPod(10), await one.addPod(11), await two.addPod(10)];
  const [first, second, remote] = pods as [Pod, Pod, Pod];
  streams.push(
    await Stream.start(first.host, remote.host, podAddress(2, 10, 'IPv4')),
    await Stream.start(second.host, first.host, podAddress(1, 10, 'IPv6')),
  );
  const guests = Array.from({ length: 4 }, (_, at) => bed.addHost(`guest-${at}`));
  return { one, sidecar, pods, guests };
}

/** The cluster changes and changes, and ends as it began. Does one change at each call. */
function clusterChanges({ sidecar }: Scene): (step: number) => Promise<void> {
  const random = new Random(7);
  let content = BASE;
  return async (step) => {
    content = step === STEPS - 1 ? BASE : nextContent(content, step, random);
    if (step % RECONNECT_EVERY === 0) await sidecar.restart();
    await sidecar.bring(content);
  };
}

/** Pods come and go in namespaces that stay: one comes, and goes at the next call. */
function podChanges({ one, guests }: Scene): (step: number) => Promise<void> {
  const { runtimeDirectory } = one.culvert;
  return async (step) => {
    const round = step >> 1;
    const guest = guests[round % guests.length];
    const name = `guest-${round}`;
    if (step % 2 === 1) {
      await ask(runtimeDirectory, 'endpoint.remove', { namespace: 'test', name }, v.unknown());
      return;
    }
    await ask(runtimeDirectory, 'endpoint.add', {
      namespace: 'test', name, uid: '', device: round % 3 === 0 ? 'tap' : 'tun', mtu: 1430,
      interfaceName: 'eth0', addresses: podAddresses(1, 20 + (round % 50)),
      netns: guest?.namespace.path ?? '',
    }, v.unknown());
  };
}

testNeeding('tun', test, '1,000 reconfigurations leave nothing and break nothing', async () => {
  const bed = await openBed();
  const streams: Stream[] = [];
  try {
    const scene = await build(bed, streams);
    const { one, sidecar, pods: [first, , remote] } = scene;
    const routes = (): Promise<unknown> =>
      askAll(one.culvert.runtimeDirectory, 'route.list', RouteReportSchema);
    const [before, routesBefore] = [await one.culvert.status(), await routes()];
    const descriptors = await settledDescriptors(one.daemon);
    const [changeCluster, changePods] = [clusterChanges(scene), podChanges(scene)];
    const memory: number[] = [];
    for (let step = 0; step < STEPS; step += 1) {
      await Promise.all([changeCluster(step), changePods(step)]);
      memory.push(residentKib(one.daemon));
    }
    const [start = 0, warm = 0, end = 0] = [memory[0], memory[STEPS / 2], memory.at(-1)];
    const figures = `${start}, ${warm}, ${end} KiB at first, half-way, at last`;
    assert.ok(end <= warm + GROWTH_LIMIT_KIB, `resident memory: ${figures}`);
    await descriptorsAre(one.daemon, descriptors);
    const tables = JSON.stringify(settledTables(before));
    const after = await one.culvert.waitFor((status) =>
      JSON.stringify(settledTables(status)) === tables);
    assert.equal([after.nodes, after.pods, after.endpoints], [2, 0, 2]);
    assert.equal(after.sync.problems, []);
    assert.is(after.dataPlane.crashes, 0);
    assert.equal(after.device, before.device);
    assert.equal(await routes(), routesBefore);
    assert.equal(logLines(one.daemon, 0, '"level":"error"'), []);
    for (const stream of streams) {
      await stream.goesOn();
      const { datagrams, echoed, records, returned, fault } = await stream.stop();
      assert.is(fault, '');
      assert.is(returned, records);
      assert.is(echoed, datagrams);
      assert.ok(datagrams > STEPS);
    }
    if (first !== undefined && remote !== undefined) await mustReach(first.host, remote.addresses);
    await sidecar.stop();
    console.log(`resident memory ${figures}`);
  } finally {
    await Promise.all(streams.map((stream) => stream.close()));
    await bed.close();
  }
});

test.run();
