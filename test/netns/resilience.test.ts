// What breaks is mended, or waits to be, and the rest goes on: workers, sidecars, devices, links,
// control connections and the cluster's objects are spoiled while packets flow.
//
//   namespace node-1                 hub (router)             namespace node-2
//   culvert run, culvert sync                                 culvert run, culvert sync
//   eth0 192.0.2.1  2001:db8::1 ---- port0   port1 ---- eth0 192.0.2.2  2001:db8::2
//     |                                                         |
//     +-- pod-1-10  10.244.1.10  fd00:10:244:1::a               +-- pod-2-10  10.244.2.10
//     +-- pod-1-11  10.244.1.11  fd00:10:244:1::b                             fd00:10:244:2::a
//
// node-3 comes for one test; node-9 and node-99 are only told of. TX checksum offload is off on
// every veth (cli/demo/bed.ts).

import { connect } from 'node:net';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import * as v from 'valibot';
import { ask, askAll, openConnection } from '../../cli/client.ts';
import { stopDaemon, type Bed } from '../../cli/demo/bed.ts';
import { FRAME_LIMIT, FrameReader, encodeFrame } from '../../engine/frame.ts';
import {
  EndpointReportSchema, RouteReportSchema, StatusReportSchema,
} from '../../engine/model.ts';
import { CONTROL_SOCKET, SYNC_SOCKET } from '../../host/main.ts';
import { testNeeding } from '../support/needs.ts';
import { ipv4 } from '../support/packets.ts';
import { Random } from '../support/random.ts';
import { Tap } from './support/forge.ts';
import { until } from '../support/until.ts';
import {
  clusterNode, nodeAddress, podAddress, replaceFile,
} from './support/forge-cluster.ts';
import {
  Place, descriptorsAre, kill, logLines, mustReach, openBed, processorTicks, reaches,
  settledDescriptors, settledTables, type Pod,
} from './support/forge-scene.ts';
import { Stream } from './support/forge-stream.ts';

const NODES = [1, 2, 3];
/** More than a device needs to come back, less than a loop that logs would write. */
const LOG_LIMIT = 10;
const TICK_MS = 10;

interface Scene {
  bed: Bed;
  one: Place;
  two: Place;
  first: Pod;
  second: Pod;
  remote: Pod;
  /** Between first and remote, from the first test to the last. */
  stream: Stream;
}

const test = suite('netns/resilience');
let scene: Scene | null = null;

async function theScene(): Promise<Scene> {
  if (scene !== null) return scene;
  const bed = await openBed();
  try {
    const [one, two] = [await Place.add(bed, 1, NODES), await Place.add(bed, 2, NODES)];
    await Promise.all([one.culvert.start(), two.culvert.start()]);
    const [first, second, remote] = [
      await one.addPod(10), await one.addPod(11), await two.addPod(10),
    ];
    const stream = await Stream.start(first.host, remote.host, podAddress(2, 10, 'IPv4'));
    scene = { bed, one, two, first, second, remote, stream };
    return scene;
  } catch (error) {
    await bed.close();
    throw error;
  }
}

test.after(async () => {
  await scene?.stream.close();
  await scene?.bed.close();
});

/** Adds a test that has the scene, and after which the stream must still go on. */
function scenario(name: string, body: (scene: Scene) => Promise<void>): void {
  testNeeding('tun', test, name, async () => {
    const all = await theScene();
    await body(all);
    await all.stream.goesOn();
    for (const { daemon } of [all.one, all.two]) assert.is(daemon.process.exitCode, null);
  });
}

const settle = (one: Place): Promise<number> => settledDescriptors(one.daemon);

async function endpointState({ culvert }: Place, name: string): Promise<string | undefined> {
  const all = await askAll(culvert.runtimeDirectory, 'endpoint.list', EndpointReportSchema);
  return all.find((endpoint) => endpoint.name === name)?.state;
}

scenario('a data worker that crashes is replaced, time and again', async ({ bed, remote }) => {
  const place = await Place.add(bed, 3, NODES, ['--debug-fault-crash-after', '300']);
  await place.culvert.start();
  const pod = await place.addPod(10);
  const descriptors = await settle(place);
  const stream = await Stream.start(pod.host, remote.host, podAddress(2, 10, 'IPv4'));
  try {
    await place.culvert.waitFor(({ dataPlane }) => dataPlane.crashes >= 3);
    await stream.goesOn();
    const { dataPlane } = await place.culvert.waitFor(({ dataPlane: { running } }) => running);
    await mustReach(pod.host, remote.addresses);
    await descriptorsAre(place.daemon, descriptors);
    const crashes = logLines(place.daemon, 0, 'data worker crashed');
    assert.ok(crashes.length >= dataPlane.crashes);
    assert.ok(crashes.every((line) => line.includes('crash at packet 300')
      && line.includes('"level":"error"')), crashes[0]);
    assert.ok(logLines(place.daemon, 0, 'starting another data worker').length >= 3);
  } finally {
    await stream.close();
    await Promise.all([stopDaemon(place.sidecar), stopDaemon(place.daemon)]);
  }
});

scenario('forwarding goes on without a sidecar, and a new one brings all', async (all) => {
  const { one, stream } = all;
  await kill(one.sidecar, 'SIGKILL');
  await one.culvert.waitFor(({ sync }) => !sync.connected && sync.revision === null);
  await stream.goesOn(50);
  await mustReach(all.first.host, [...all.second.addresses, ...all.remote.addresses]);
  one.write([...NODES, 9].map(clusterNode));
  await one.culvert.startSidecar();
  await one.culvert.waitFor(({ sync, nodes }) => sync.connected && nodes === 4);
  const route = (): Promise<v.InferOutput<typeof RouteReportSchema> | null> =>
    ask(one.culvert.runtimeDirectory, 'route.get', { address: podAddress(9, 1, 'IPv4') },
      v.nullable(RouteReportSchema));
  assert.is((await route())?.via, 'node-9');
  one.write(NODES.map(clusterNode));
  await one.culvert.waitFor(({ nodes }) => nodes === 3);
  assert.is((await route())?.kind, 'unreachable');
});

scenario('a second sidecar is refused while there is a first, then heard', async ({ one }) => {
  const { sidecar, culvert } = one;
  await culvert.startSidecar();
  const second = one.sidecar;
  await until('refusal', () => second.log().includes('refused: another sidecar is connected'));
  const before = await culvert.status();
  assert.ok(before.sync.connected);
  await kill(sidecar, 'SIGKILL');
  await until('the second', () => second.log().includes('host is up to date'));
  const after = await culvert.waitFor(({ sync }) => sync.connected && sync.revision !== null);
  assert.is(after.nodes, before.nodes);
  assert.equal(settledTables(after), settledTables(before));
});

scenario('the node\'s device comes back as it was', async ({ one, first, second, remote }) => {
  const { links } = one.host;
  const state = async () => ({
    addresses: (await links.addresses('culvert0')).sort(),
    routes: (await links.routes()).filter(({ device }) => device === 'culvert0')
      .map(({ prefix, source }) => `${prefix} ${source ?? ''}`).sort(),
    link: { ...await links.link('culvert0'), index: 0 },
  });
  const before = await state();
  assert.ok(before.addresses.length === 2 && before.routes.length >= 2);
  const descriptors = await settle(one);
  for (let round = 0; round < 5; round += 1) {
    const from = one.daemon.log().length;
    await links.removeLink('culvert0');
    await until('the device', () => logLines(one.daemon, from, 'device is back').length > 0);
    assert.equal(await state(), before);
    await mustReach(one.host, [...first.addresses, ...second.addresses, ...remote.addresses]);
    await mustReach(first.host, [podAddress(1, 0, 'IPv4'), podAddress(1, 0, 'IPv6')]);
    const lines = logLines(one.daemon, from);
    assert.ok(lines.length <= LOG_LIMIT, lines.join('\n'));
    assert.is(logLines(one.daemon, from, 'deleted under us').length, 1);
  }
  await one.culvert.waitFor(({ device }) => device.state === 'ready');
  await descriptorsAre(one.daemon, descriptors);
});

scenario('a pod whose device is deleted is lost, and can be added again', async (all) => {
  const { one, first, second, remote, stream } = all;
  const descriptors = await settle(one);
  for (let round = 0; round < 3; round += 1) {
    const from = one.daemon.log().length;
    await second.host.links.removeLink('eth0');
    await until('lost', async () => await endpointState(one, second.name) === 'lost');
    await stream.goesOn();
    await mustReach(first.host, remote.addresses);
    const lines = logLines(one.daemon, from);
    assert.ok(lines.length <= LOG_LIMIT, lines.join('\n'));
    assert.match(lines.join('\n'), `test/${second.name}`);
    await ask(one.culvert.runtimeDirectory, 'endpoint.add', {
      namespace: 'test', name: second.name, uid: `uid-${second.name}`, device: 'tun',
      interfaceName: 'eth0', addresses: second.addresses, mtu: 1430,
      netns: second.host.namespace.path,
    }, v.unknown());
    assert.is(await endpointState(one, second.name), 'ready');
    await mustReach(first.host, second.addresses);
    await mustReach(second.host, remote.addresses);
  }
  await descriptorsAre(one.daemon, descriptors);
});

scenario('a pod whose namespace is gone is lost, and can be removed', async (all) => {
  const { bed, one, stream } = all;
  const descriptors = await settle(one);
  const { host, name } = await one.addPod(12);
  bed.hosts.splice(bed.hosts.indexOf(host), 1);
  await host.close();
  await until('lost', async () => await endpointState(one, name) === 'lost');
  await stream.goesOn();
  assert.is(await one.culvert.removePod('test', name), true);
  assert.is(await endpointState(one, name), undefined);
  await descriptorsAre(one.daemon, descriptors);
});

scenario('writes to a pod\'s device that is down are counted until it is up', async (all) => {
  const { one, first, second, stream } = all;
  const { links } = second.host;
  const before = (await one.culvert.status()).drops.inbound['deviceError'] ?? 0;
  const from = one.daemon.log().length;
  await links.setLink('eth0', { up: false });
  assert.not(await reaches(all.remote.host, podAddress(1, 11, 'IPv4')));
  await one.culvert.waitFor(({ drops }) => (drops.inbound['deviceError'] ?? 0) > before);
  const started = performance.now();
  const ticks = processorTicks(one.daemon);
  await stream.goesOn(100);
  const busy = (processorTicks(one.daemon) - ticks) * TICK_MS / (performance.now() - started);
  assert.ok(busy < 0.8, `the daemon is busy ${busy} of the time`);
  assert.is(await endpointState(one, second.name), 'ready');
  assert.ok(logLines(one.daemon, from).length <= LOG_LIMIT);
  await links.setLink('eth0', { up: true });
  for (const prefix of ['0.0.0.0/0', '::/0']) {
    await links.addRoute({ prefix, device: 'eth0', replace: true });
  }
  await links.addAddress('eth0', `${podAddress(1, 11, 'IPv6')}/128`).catch(() => {});
  await mustReach(first.host, second.addresses);
});

scenario('sends over a link that is down are counted until it is up', async (all) => {
  const { one, first, remote } = all;
  const { links } = one.host;
  const addresses = await links.addresses('eth0');
  const routes = (await links.routes()).filter(({ device, via }) =>
    device === 'eth0' && via !== undefined);
  const descriptors = await settle(one);
  const from = one.daemon.log().length;
  const before = (await one.culvert.status()).drops.outbound['deviceError'] ?? 0;
  await links.setLink('eth0', { up: false });
  await one.culvert.waitFor(({ drops }) => (drops.outbound['deviceError'] ?? 0) > before + 10);
  await mustReach(first.host, all.second.addresses);
  await mustReach(one.host, first.addresses);
  await links.setLink('eth0', { up: true });
  const present = await links.addresses('eth0');
  for (const address of addresses.filter((text) => !present.includes(text))) {
    await links.addAddress('eth0', address);
  }
  for (const route of routes) await links.addRoute({ ...route, replace: true });
  await mustReach(first.host, remote.addresses);
  await descriptorsAre(one.daemon, descriptors);
  assert.ok(logLines(one.daemon, from).length <= LOG_LIMIT);
});

scenario('a full send buffer is counted and holds up nobody else', async (all) => {
  const { one, first, remote, stream } = all;
  const { links } = one.host;
  // Nobody answers for node-99 on the link: what is sent to it waits for its MAC address, up to
  // the limit below, and is the socket's until then.
  one.host.sysctl({ 'net.ipv4.neigh.eth0.unres_qlen_bytes': 256 * 1024 * 1024 });
  await links.addRoute({ prefix: `${nodeAddress(99, 'IPv4')}/32`, device: 'eth0' });
  one.write([...NODES, 99].map(clusterNode));
  await one.culvert.waitFor(({ nodes }) => nodes === 4);
  const pod = await one.addPod(13, 65535);
  const tap = new Tap(pod.host, 'eth0', 0);
  try {
    const packet = ipv4({
      source: podAddress(1, 13, 'IPv4'), destination: podAddress(99, 1, 'IPv4'), protocol: 253,
    }, new Uint8Array(60_000));
    await until('a full buffer', async () => {
      for (let sent = 0; sent < 50; sent += 1) tap.send(packet);
      return ((await one.culvert.status()).drops.outbound['deviceFull'] ?? 0) > 0;
    });
  } finally {
    tap.close();
  }
  await one.culvert.removePod('test', pod.name);
  one.write(NODES.map(clusterNode));
  await one.culvert.waitFor(({ nodes }) => nodes === 3);
  await links.removeRoute({ prefix: `${nodeAddress(99, 'IPv4')}/32`, device: 'eth0' });
  await stream.goesOn();
  await mustReach(first.host, remote.addresses);
});

/** Says something to a socket. Resolves with the messages that came until the other side closed. */
function say(path: string, bytes: Uint8Array): Promise<unknown[]> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    const reader = new FrameReader();
    const messages: unknown[] = [];
    socket.on('connect', () => socket.write(bytes));
    socket.on('data', (chunk) => messages.push(...reader.push(chunk)));
    socket.on('error', reject);
    socket.on('close', () => resolve(messages));
  });
}

/** The bytes with one of them changed. */
function flip(bytes: Uint8Array, at: number, by = 0x40): Uint8Array {
  const flipped = bytes.slice();
  flipped[at] = (flipped[at] ?? 0) ^ by;
  return flipped;
}

/** A frame whose header claims a body of so many bytes. */
function claiming(length: number): Uint8Array {
  const frame = encodeFrame(null).slice();
  new DataView(frame.buffer).setUint32(4, length);
  return frame;
}

function badFrames(random: Random): { name: string; bytes: Uint8Array }[] {
  const hello = encodeFrame({ type: 'hello', protocol: 1, role: 'cli', version: 'test' });
  const noise = Uint8Array.from({ length: 64 }, () => random.below(256));
  noise[0] = 0;
  return [
    { name: 'noise', bytes: noise },
    { name: 'over-long', bytes: claiming(FRAME_LIMIT) },
    { name: '4 GiB', bytes: claiming(0xffffffff) },
    { name: 'empty', bytes: claiming(0) },
    { name: 'wrong checksum', bytes: flip(hello, 8) },
    { name: 'not a message', bytes: encodeFrame([1, 2, 3]) },
    { name: 'before hello', bytes: encodeFrame({ type: 'notify', method: 'x', params: null }) },
    ...Array.from({ length: 30 }, (_, at) => ({
      name: `damaged ${at}`, bytes: flip(hello, random.between(8, hello.length - 1), 1 << (at % 8)),
    })),
  ];
}

scenario('bad frames end their connection and change nothing', async ({ one, stream }) => {
  const { runtimeDirectory } = one.culvert;
  const routes = (): Promise<unknown> => askAll(runtimeDirectory, 'route.list', RouteReportSchema);
  const other = await openConnection(join(runtimeDirectory, CONTROL_SOCKET));
  const [before, routesBefore] = [await one.culvert.status(), await routes()];
  const frames = badFrames(new Random(20261101));
  for (const name of [CONTROL_SOCKET, SYNC_SOCKET]) {
    for (const { name: kind, bytes } of frames) {
      const messages = await say(join(runtimeDirectory, name), bytes);
      const last = messages.at(-1) as { type?: string; message?: string } | undefined;
      assert.is(last?.type, 'error', `${name}: ${kind}: ${JSON.stringify(messages)}`);
      assert.ok((last?.message ?? '').length > 0);
    }
  }
  await stream.goesOn();
  const after = await other.request('status', null, StatusReportSchema);
  other.close();
  const count = (after.control['badFrames'] ?? 0) - (before.control['badFrames'] ?? 0);
  assert.is(count, 2 * frames.length);
  assert.equal(after.sync, before.sync);
  assert.equal(settledTables(after), settledTables(before));
  assert.equal(await routes(), routesBefore);
});

scenario('bad objects are named by file, line and field, and not used', async (all) => {
  const { one, stream } = all;
  const before = await one.culvert.status();
  const good = one.write(NODES.map(clusterNode));
  const lineOf = (text: string, part: string): number =>
    text.slice(0, text.indexOf(part)).split('\n').length;
  const broken = good.replace('"10.244.3.0/24"', '"10.244.3.0/33"');
  const unclosed = `${good}---\nkind: Node\nmetadata: {name: [\n`;
  for (const [text, place] of [
    [unclosed, `${one.source}:${unclosed.split('\n').length}`],
    [broken, `${one.source}:${lineOf(broken, '"10.244.3.0/33"')}: Node node-3: spec.podCIDR`],
  ] as const) {
    const from = one.sidecar.log().length;
    replaceFile(one.source, text);
    await until(place, () => logLines(one.sidecar, from, 'the last state stays').length > 0);
    const lines = logLines(one.sidecar, from, '"level":"error"');
    assert.match(lines[0] ?? '', place);
    await stream.goesOn();
    const after = await one.culvert.status();
    assert.equal(after.sync, before.sync);
    assert.equal(settledTables(after), settledTables(before));
  }
  one.write([...NODES, 9].map(clusterNode));
  await one.culvert.waitFor(({ nodes }) => nodes === 4);
  one.write(NODES.map(clusterNode));
  await one.culvert.waitFor(({ nodes }) => nodes === 3);
});

test.run();
