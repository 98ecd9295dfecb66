// The daemon is killed under load, at instants that a seed chooses, and started again by whoever
// looks after it: nothing leaves outside a tunnel, nothing denied passes, connections live on. The
// holder is killed too, and both. support/killed.ts draws the nodes.

import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Bed } from '../../cli/demo/bed.ts';
import { EXIT_OK } from '../../cli/exit.ts';
import { connectUnix } from '../../ffi/unix-socket.ts';
import { closeFd } from '../../ffi/file.ts';
import { peerCredentials } from '../../ffi/socket.ts';
import { HOLDER_SOCKET, KEPT_FOLDER } from '../../host/handover.ts';
import { GUARD_METRIC } from '../../host/limits.ts';
import { testNeeding } from '../support/needs.ts';
import { Random } from '../support/random.ts';
import { podAddress, podAddresses, podName } from './support/forge-cluster.ts';
import { until } from '../support/until.ts';
import { interfaceNames, kill, logLines, mustReach, openBed, reaches } from
  './support/forge-scene.ts';
import { checkKilled, checkReady, KilledScene, printKilled } from './support/killed.ts';
import { Paced } from './support/paced.ts';

const test = suite('netns/killed');
const KILLS = 20;
const HASTY_KILLS = 8;
const SEED = 4242;
let scene: KilledScene | null = null;
let bed: Bed | null = null;

async function theScene(): Promise<KilledScene> {
  bed ??= await openBed();
  scene ??= await KilledScene.make(bed);
  return scene;
}

test.after(async () => bed?.close());

const holderPath = ({ place }: KilledScene): string =>
  join(place.culvert.runtimeDirectory, HOLDER_SOCKET);

/** The holder's process. Whoever called listen() is at the other end of the socket. */
function holderPid(of: KilledScene): number {
  const fd = connectUnix(holderPath(of));
  if (fd < 0) return 0;
  const { pid } = peerCredentials(fd);
  closeFd(fd);
  return pid;
}

function isRunning(pid: number): boolean {
  const stat = `/proc/${pid}/stat`;
  return existsSync(stat) && !/\) Z /.test(readFileSync(stat, 'utf8'));
}

async function killHolder(of: KilledScene): Promise<void> {
  const pid = holderPid(of);
  assert.ok(pid > 1, 'there is a holder');
  process.kill(pid, 'SIGKILL');
  await until('the end of the holder', () => !isRunning(pid));
}

testNeeding('tun', test, `${KILLS} kills under load`, async () => {
  const report = await (await theScene()).run(KILLS, new Random(SEED));
  printKilled(report);
  checkKilled(report);
  checkReady(report);
});

testNeeding('tun', test, 'kills of a daemon that may not be ready yet', async () => {
  const report = await (await theScene()).run(HASTY_KILLS, new Random(SEED), true);
  printKilled(report);
  checkKilled(report);
});

testNeeding('tun', test, 'a daemon without a sidecar goes on as it was last told', async () => {
  const { place, pods } = await theScene();
  await kill(place.sidecar, 'SIGKILL');
  await kill(place.daemon, 'SIGKILL');
  await place.culvert.startDaemon();
  const status = await place.culvert.status();
  assert.is(status.sync.connected, false);
  assert.is(status.policy.known, true);
  assert.is(status.endpoints, 2);
  await mustReach(pods.own.host, pods.remote.addresses);
  await mustReach(place.host, pods.remote.addresses);
  assert.not(await reaches(pods.denied.host, podAddress(3, 10, 'IPv4')));
  await place.culvert.startSidecar();
  await place.culvert.waitFor(({ sync }) => sync.revision !== null);
});

testNeeding('tun', test, 'a pod with a TAP goes on, too', async () => {
  const { place, pods } = await theScene();
  const addresses = podAddresses(3, 13);
  const name = podName(3, 13);
  const host = await place.culvert.addPod({ namespace: 'test', name, addresses, device: 'tap' });
  await mustReach(host, pods.remote.addresses);
  await kill(place.daemon, 'SIGKILL');
  await place.culvert.startDaemon();
  await mustReach(host, pods.remote.addresses);
  await mustReach(pods.remote.host, addresses);
  await place.culvert.waitFor(({ sync }) => sync.revision !== null);
  await place.culvert.removePod('test', name);
});

testNeeding('tun', test, 'a holder that is killed is replaced, and told everything', async () => {
  const all = await theScene();
  const { place, pods } = all;
  const first = holderPid(all);
  await killHolder(all);
  await until('another holder', () => ![0, first].includes(holderPid(all)));
  await mustReach(pods.own.host, pods.remote.addresses);
  await until('its being told', () => logLines(place.daemon, 0, 'the holder is back').length > 0);
  await kill(place.daemon, 'SIGKILL');
  await place.culvert.startDaemon();
  await mustReach(pods.own.host, pods.remote.addresses);
  assert.is((await place.culvert.status()).endpoints, 2);
});

testNeeding('tun', test, 'a pod that ended while no daemon ran is listed as lost', async () => {
  const { place } = await theScene();
  const pod = await place.addPod(12);
  await kill(place.daemon, 'SIGKILL');
  await pod.host.links.removeLink('eth0');
  await place.culvert.startDaemon();
  await place.culvert.waitFor(({ endpoints }) => endpoints === 3);
  await place.culvert.removePod('test', pod.name);
  const again = await place.addPod(12);
  await mustReach(again.host, podAddresses(2, 10));
  await place.culvert.removePod('test', again.name);
});

testNeeding('tun', test, 'with the holder killed, too, nothing leaves bare', async () => {
  const all = await theScene();
  const { place } = all;
  const link = await Paced.watch(all.bed.hub, place.culvert.node.port);
  const sender = await Paced.sender(place.host, podAddress(2, 10, 'IPv4'), 7010, 500);
  const sender6 = await Paced.sender(place.host, podAddress(2, 10, 'IPv6'), 7010, 500);
  const pid = holderPid(all);
  await kill(place.daemon, 'SIGKILL');
  process.kill(pid, 'SIGKILL');
  await until('the end of the device', async () =>
    !(await interfaceNames(place.host)).includes('culvert0'));
  const guards = (await place.host.links.routes()).filter(({ metric }) => metric === GUARD_METRIC);
  assert.equal(guards.map(({ kind }) => kind), ['blackhole', 'blackhole']);
  const { sent } = await sender.report();
  await until('more packets', async () => (await sender.report()).sent > sent + 300);
  await place.culvert.startDaemon();
  await place.culvert.waitFor(({ sync }) => sync.revision !== null);
  await mustReach(place.host, podAddresses(2, 10));
  const { frames, strays, sample } = await link.stop();
  for (const paced of [sender, sender6, link]) await paced.close();
  assert.ok(frames > 0);
  assert.is(strays, 0, sample);
  assert.is((await place.culvert.status()).endpoints, 2);
  assert.ok(logLines(place.daemon, 0, '"lostPods":2').length > 0);
});

testNeeding('tun', test, 'a clean end leaves nothing', async () => {
  const all = await theScene();
  const { place } = all;
  const pid = holderPid(all);
  assert.is(await kill(place.daemon, 'SIGTERM'), EXIT_OK);
  await until('the end of the holder', () => !isRunning(pid));
  assert.not(existsSync(holderPath(all)));
  assert.not(existsSync(join(place.culvert.runtimeDirectory, KEPT_FOLDER)));
  const routes = await place.host.links.routes();
  assert.equal(routes.filter(({ metric }) => metric === GUARD_METRIC), []);
  assert.equal((await interfaceNames(place.host)).sort(), ['eth0', 'lo']);
});

test.run();
