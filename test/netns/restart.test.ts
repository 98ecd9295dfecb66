// time limit: 300 s
// A planned restart under load: another daemon takes over from one that runs, and no packet is
// lost. One that cannot take over leaves everything as it was.
//
//   namespace node-3                    hub (router)           namespace node-2
//   culvert run, restarted                                     culvert run, culvert sync
//   culvert sync
//   eth0 192.0.2.3 ----------------------------------------- eth0 192.0.2.2
//     |                                                          |
//     +-- pod-3-10  <---------- datagrams both ways ---------->  pod-2-10

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Bed } from '../../cli/demo/bed.ts';
import { EXIT_FAILED, EXIT_OK } from '../../cli/exit.ts';
import { PACKAGE_FOLDER } from '../../cli/version.ts';
import type { StatusReport } from '../../engine/model.ts';
import { testNeeding } from '../support/needs.ts';
import { POD_NETWORKS, podAddress } from './support/forge-cluster.ts';
import { mustReach, openBed, Place, type Pod } from './support/forge-scene.ts';
import { until } from '../support/until.ts';
import { Paced } from './support/paced.ts';

const test = suite('netns/restart');
const CLI = join(PACKAGE_FOLDER, 'dist', 'cli', 'culvert.js');
const NODES = [2, 3];
const OUT_PORT = 7001;
const IN_PORT = 7002;
const PER_SECOND = 1000;
/** A device's queue is full in a tenth of a second, in which a busy machine may not run us. */
const MANY_PER_SECOND = 10_000;
const TIMES = 3;
const SETTLE_MS = 500;
/** Longer than a turn and the words of two processes take. */
const SILENCE_MS = 100;

let bed: Bed | null = null;
let scene: Promise<Scene> | null = null;

interface Scene {
  place: Place;
  own: Pod;
  remote: Pod;
  config: string;
}

function theScene(): Promise<Scene> {
  scene ??= makeScene();
  return scene;
}

async function makeScene(): Promise<Scene> {
  bed = await openBed();
  const other = await Place.add(bed, 2, NODES);
  const place = await Place.add(bed, 3, NODES);
  await other.culvert.start();
  const { culvert } = place;
  const config = join(bed.folder, 'config.json');
  writeConfig(place, config, {});
  // It is to outlive the process that is started here.
  culvert.daemon = await bed.start(place.host,
    [process.execPath, CLI, 'run', '--config', config], '"msg":"ready"');
  await culvert.startSidecar();
  await culvert.waitFor(({ sync, nodes }) => sync.revision !== null && nodes > 1);
  const [own, remote] = [await place.addPod(10), await other.addPod(10)];
  await mustReach(own.host, remote.addresses);
  return { place, own, remote, config };
}

function writeConfig({ culvert }: Place, file: string, further: object): void {
  writeFileSync(file, JSON.stringify({
    nodeName: culvert.options.name, podNetworks: POD_NETWORKS, memory: 'small',
    runtimeDirectory: culvert.runtimeDirectory, stateDirectory: '', http: { port: null },
    underlay: { interface: 'eth0' }, handover: { enabled: true, awaySeconds: 30 }, ...further,
  }));
}

async function restart({ culvert }: Place): Promise<{ code: number; said: string }> {
  const child = spawn(process.execPath,
    [CLI, 'restart', '--runtime-directory', culvert.runtimeDirectory],
    { stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => { said += chunk.toString(); });
  }
  const [code] = await once(child, 'close') as [number];
  return { code, said };
}

test.after(async () => {
  const made = await scene?.catch(() => null);
  const status = await made?.place.culvert.status().catch(() => null);
  if (status) {
    process.kill(status.pid, 'SIGTERM');
    await until('its end', () => !existsSync(`/proc/${status.pid}`));
  }
  await bed?.close();
});

/** What became of packets while something was done. */
interface Account {
  lost: number;
  silenceMs: number;
}

interface Restarted extends Account {
  after: StatusReport;
}

function pause(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
}

/** True of a machine that loses packets, or does not run us for a while, by itself. */
function isBusy({ lost, silenceMs }: Account): boolean {
  return lost > 0 || silenceMs > SILENCE_MS / 2;
}

/** Does something under load. */
async function under(
  { own, remote }: Scene, perSecond: number, work: () => Promise<void>,
): Promise<Account> {
  const ends = [
    { from: own, to: remote, address: podAddress(2, 10, 'IPv4'), port: OUT_PORT },
    { from: remote, to: own, address: podAddress(3, 10, 'IPv6'), port: IN_PORT },
  ];
  const flows = await Promise.all(ends.map(async ({ from, to, address, port }) => ({
    listener: await Paced.listener(to.host, address, port),
    sender: await Paced.sender(from.host, address, port, perSecond),
  })));
  const account = { lost: 0, silenceMs: 0 };
  try {
    await pause();
    await work();
    await pause();
    for (const { sender, listener } of flows) {
      const { sent } = await sender.stop();
      await pause();
      const { arrived, duplicates, longestGapMs } = await listener.report();
      console.log(`${perSecond}/s: ${sent} sent, ${sent - arrived} lost, ${duplicates} twice, `
        + `longest silence ${longestGapMs.toFixed(1)} ms`);
      assert.ok(sent > 0);
      account.lost += sent - arrived;
      account.silenceMs = Math.max(account.silenceMs, longestGapMs);
    }
  } finally {
    for (const { sender, listener } of flows) {
      await sender.close();
      await listener.close();
    }
  }
  return account;
}

/** Restarts under load, and waits for the other daemon's sidecar and this one's end. */
async function restarted(all: Scene, perSecond: number): Promise<Restarted> {
  const { culvert } = all.place;
  const before = await culvert.status();
  const account = await under(all, perSecond, async () => {
    const { code, said } = await restart(all.place);
    assert.is(code, EXIT_OK, said);
  });
  const after = await culvert.waitFor(({ sync }) => sync.connected);
  assert.is.not(after.pid, before.pid);
  assert.is(after.handover.pods, 1);
  assert.ok((after.handover.flows ?? 0) > 0);
  await until('its end', () => !existsSync(`/proc/${before.pid}`));
  return { ...account, after };
}

testNeeding('tun', test, `nothing of ${PER_SECOND} packets a second is lost`, async () => {
  const all = await theScene();
  const idle = await under(all, PER_SECOND, pause);
  const accounts: Account[] = [];
  for (let time = 0; time < TIMES; time += 1) accounts.push(await restarted(all, PER_SECOND));
  assert.equal(accounts.map(({ lost }) => lost), accounts.map(() => 0));
  const silences = accounts.map(({ silenceMs }) => silenceMs);
  assert.ok(isBusy(idle) || Math.min(...silences) < SILENCE_MS, silences.join());
});

testNeeding('tun', test, `nor of ${MANY_PER_SECOND}, where the machine runs us`, async () => {
  const all = await theScene();
  const idle = await under(all, MANY_PER_SECOND, pause);
  const accounts: Account[] = [];
  for (let time = 0; time < TIMES; time += 1) accounts.push(await restarted(all, MANY_PER_SECOND));
  const lost = accounts.map((account) => account.lost);
  assert.ok(isBusy(idle) || Math.min(...lost) === 0, lost.join());
});

testNeeding('tun', test, 'one that cannot take over leaves all as it was', async () => {
  const all = await theScene();
  const { place: { culvert }, config } = all;
  const before = await culvert.status();
  const { lost } = await under(all, PER_SECOND, async () => {
    // Two processes cannot have devices of the same name.
    writeConfig(all.place, config, { dataPlane: { workers: 2 } });
    const { code, said } = await restart(all.place);
    assert.is(code, EXIT_FAILED, said);
    writeFileSync(config, '{ "icmp": 7 }');
    const other = await restart(all.place);
    assert.is(other.code, EXIT_FAILED, other.said);
    writeConfig(all.place, config, {});
  });
  assert.is(lost, 0);
  const after = await culvert.waitFor(({ sync }) => sync.connected);
  assert.is(after.pid, before.pid);
  // Nor has it taken anything of the pods' away.
  const { handover } = (await restarted(all, PER_SECOND)).after;
  assert.equal([handover.pods, handover.lostPods], [1, 0]);
});

test.run();
