// A daemon of two workers is killed under load: each queue and each socket outlives it, and so does
// the one table of flows, whoever had its lock. A daemon with another number of workers, or of a
// tier that the devices were not made for, starts anew and says so. support/killed.ts draws the
// nodes.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Bed, Host } from '../../cli/demo/bed.ts';
import type { LossReason } from '../../engine/model.ts';
import { testNeeding } from '../support/needs.ts';
import { Random } from '../support/random.ts';
import { podAddress, podAddresses } from './support/forge-cluster.ts';
import { kill, logLines, mustReach, openBed } from './support/forge-scene.ts';
import { AWAY_FLAGS, checkKilled, KilledScene, printKilled } from './support/killed.ts';
import { PATIENCE_MS } from '../support/until.ts';

const test = suite('netns/killed-workers');
const KILLS = 8;
const SEED = 77;
/** Exchanges from ports that the kernel chooses: so many that each queue gets some. */
const EXCHANGES = 20;
/** Flags of the daemon, which the tests change. */
const flags = [...AWAY_FLAGS, '--data-plane-workers', '2', '--data-plane-tier', 'auto'];
let scene: KilledScene | null = null;
let bed: Bed | null = null;

async function theScene(): Promise<KilledScene> {
  bed ??= await openBed();
  if (scene !== null) return scene;
  scene = await KilledScene.make(bed, flags);
  await scene.pods.remote.host.agent.ask({ verb: 'serve' });
  return scene;
}

test.after(async () => bed?.close());

/** Has the next daemon run with another value of a flag. */
function setFlag(name: string, value: string): void {
  flags[flags.indexOf(name) + 1] = value;
}

/** Datagrams and their answers, each from a port of its own. */
async function exchange(from: Host, addresses: string[]): Promise<void> {
  for (let done = 0; done < EXCHANGES; done += 1) {
    for (const address of addresses) {
      const { ok, detail } = await from.agent.ask({
        verb: 'udp', address, size: 64, timeoutMs: PATIENCE_MS,
      });
      assert.ok(ok, `${from.name} to ${address}: ${detail}`);
    }
  }
}

testNeeding('tun', test, `${KILLS} kills of a daemon with two workers`, async () => {
  const all = await theScene();
  const { place, pods } = all;
  const report = await all.run(KILLS, new Random(SEED));
  printKilled(report);
  checkKilled(report);
  await exchange(pods.own.host, pods.remote.addresses);
  const { dataPlane, handover } = await place.culvert.status();
  const taken = dataPlane.workers.map(({ rxPackets }) => rxPackets);
  console.log(`packets by worker: ${taken.join(', ')}`);
  assert.is(taken.length, 2);
  assert.ok(taken.every((count) => count > 0), taken.join(', '));
  assert.is(handover.pods, 2);
  assert.ok((handover.flows ?? 0) > 0);
  assert.is(handover.lostPods, 0);
});

testNeeding('tun', test, 'a daemon that may choose has as many workers as before', async () => {
  const { place, pods } = await theScene();
  await kill(place.daemon, 'SIGKILL');
  setFlag('--data-plane-workers', '0');
  await place.culvert.startDaemon();
  const { dataPlane, handover } = await place.culvert.status();
  assert.is(dataPlane.workers.length, 2);
  assert.is(handover.pods, 2);
  await exchange(pods.own.host, pods.remote.addresses);
});

/** Kills the daemon, and starts one with another value of a flag that the devices do not fit. */
async function startAnew(name: string, value: string, reason: LossReason): Promise<void> {
  const { place, pods } = await theScene();
  await kill(place.daemon, 'SIGKILL');
  setFlag(name, value);
  await place.culvert.startDaemon();
  const { handover, endpoints } = await place.culvert.status();
  assert.is(handover.pods, 0);
  assert.is(handover.lostPods, 2);
  assert.equal(handover.lostBecause, [reason]);
  assert.is(endpoints, 2, 'lost pods are listed');
  await mustReach(place.host, pods.remote.addresses);
  for (const number of [10, 11]) {
    await place.culvert.removePod('test', pods[number === 10 ? 'own' : 'open'].name);
    const { host } = await place.addPod(number);
    await mustReach(host, podAddresses(2, 10));
  }
}

testNeeding('tun', test, 'a daemon with one worker starts anew', async () => {
  const { place } = await theScene();
  await startAnew('--data-plane-workers', '1', 'workers');
  const { dataPlane, handover } = await place.culvert.status();
  assert.is(dataPlane.workers.length, 1);
  assert.is(handover.flows, null);
  const said = logLines(place.daemon, 0, 'number of workers').join('\n');
  for (const what of ['tun.culvert0', 'receiver', 'pod.', 'judged anew']) assert.match(said, what);
});

testNeeding('tun', test, 'a daemon of another tier starts pods anew, and goes on', async () => {
  const { place, pods } = await theScene();
  await startAnew('--data-plane-tier', 'T0', 'tier');
  assert.ok(((await place.culvert.status()).handover.flows ?? 0) > 0);
  await mustReach(pods.remote.host, [podAddress(3, 11, 'IPv4')]);
});

test.run();
