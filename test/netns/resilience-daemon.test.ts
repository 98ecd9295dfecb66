// The daemon's own life: refused where it has no place, ended cleanly or by SIGKILL, started again.
//
//   namespace node-3                 hub (router)             namespace node-2
//   culvert run, culvert sync,                                culvert run, culvert sync
//   again and again
//   eth0 192.0.2.3  2001:db8::3 ---- port1   port0 ---- eth0 192.0.2.2  2001:db8::2
//     |                                                         |
//     +-- pods 10.244.3.x  fd00:10:244:3::x                     +-- pod-2-10  10.244.2.10
//                                                                             fd00:10:244:2::a

import { spawnSync } from 'node:child_process';
import { chownSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { stopDaemon, type Bed } from '../../cli/demo/bed.ts';
import { EXIT_FAILED, EXIT_NO_PERMISSION, EXIT_OK } from '../../cli/exit.ts';
import { printSkip, testNeeding } from '../support/needs.ts';
import { until } from '../support/until.ts';
import { POD_NETWORKS, podAddress } from './support/forge-cluster.ts';
import {
  CLI, Place, interfaceNames, kill, logLines, mustReach, openBed, reaches, runToEnd, type Pod,
} from './support/forge-scene.ts';

const NODES = [2, 3];
const NOBODY = '65534';

interface Scene {
  bed: Bed;
  place: Place;
  remote: Pod;
}

const test = suite('netns/resilience-daemon');
let scene: Scene | null = null;

async function theScene(): Promise<Scene> {
  if (scene !== null) return scene;
  const bed = await openBed();
  try {
    const other = await Place.add(bed, 2, NODES);
    const place = await Place.add(bed, 3, NODES);
    await other.culvert.start();
    scene = { bed, place, remote: await other.addPod(10) };
    return scene;
  } catch (error) {
    await bed.close();
    throw error;
  }
}

test.after(async () => scene?.bed.close());

/** Adds a test during which a daemon and a sidecar run on node-3, with these flags. */
function scenario(
  name: string, flags: string[], body: (scene: Scene) => Promise<void>,
): void {
  testNeeding('tun', test, name, async () => {
    const all = await theScene();
    const { culvert } = all.place;
    culvert.options.extra = flags;
    try {
      await culvert.start();
      await body(all);
    } finally {
      if (culvert.sidecar !== null) await stopDaemon(culvert.sidecar);
      if (culvert.daemon !== null) await stopDaemon(culvert.daemon);
    }
  });
}

function runFlags(runtimeDirectory: string): string[] {
  return [
    'run', '--node-name', 'node-3', '--underlay-interface', 'eth0', '--memory', 'small',
    '--pod-networks', POD_NETWORKS.join(','), '--runtime-directory', runtimeDirectory,
  ];
}

const socketFiles = (directory: string): string[] =>
  readdirSync(directory).filter((name) => name.includes('.sock'));

scenario('a second daemon is refused and the first goes on', [], async ({ place, remote }) => {
  const pod = await place.addPod(10);
  const same = runToEnd(place.host, runFlags(place.culvert.runtimeDirectory));
  assert.is(same.code, EXIT_FAILED, same.output);
  assert.match(same.output, /start daemon: another one holds .*culvert\.lock/);
  const other = join(place.bed.folder, 'second');
  const elsewhere = runToEnd(place.host, runFlags(other));
  assert.is(elsewhere.code, EXIT_FAILED, elsewhere.output);
  assert.match(elsewhere.output, /:8472: EADDRINUSE; another process/);
  assert.equal(socketFiles(other), []);
  assert.is((await place.culvert.status()).sync.connected, true);
  await mustReach(pod.host, remote.addresses);
});

scenario('SIGTERM leaves no interface, no socket, no route', [], async ({ place, remote }) => {
  const { host } = place;
  const pod = await place.addPod(11);
  await mustReach(pod.host, remote.addresses);
  assert.ok((await interfaceNames(host)).includes('culvert0'));
  assert.is(socketFiles(place.culvert.runtimeDirectory).length, 2);
  assert.is(await kill(place.daemon, 'SIGTERM'), EXIT_OK);
  assert.equal((await interfaceNames(host)).sort(), ['eth0', 'lo']);
  assert.equal(await interfaceNames(pod.host), ['lo']);
  assert.equal(socketFiles(place.culvert.runtimeDirectory), []);
  const devices = (await host.links.routes()).map(({ device }) => device);
  assert.not.ok(devices.includes('culvert0'));
  assert.equal(logLines(place.daemon, 0, '"level":"error"'), []);
});

scenario('a kept interface stays and the next daemon takes it', ['--device-keep', 'true'],
  async ({ place, remote }) => {
    const { host, culvert } = place;
    const state = async (): Promise<unknown> => ({
      index: await host.links.linkIndex('culvert0'),
      addresses: (await host.links.addresses('culvert0')).sort(),
      routes: (await host.links.routes()).filter(({ device }) => device === 'culvert0')
        .map(({ prefix }) => prefix).sort(),
    });
    await mustReach(host, remote.addresses);
    const before = await state();
    for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
      await kill(place.daemon, signal);
      assert.equal(await state(), before, signal);
      await stopDaemon(place.sidecar);
      await culvert.start();
      assert.equal(await state(), before, signal);
      await mustReach(host, remote.addresses);
      const pod = await place.addPod(12);
      await mustReach(pod.host, remote.addresses);
    }
    await kill(place.daemon, 'SIGTERM');
    await host.links.removeLink('culvert0');
  });

scenario('SIGKILL and another start: all is as before', [], async ({ place, remote }) => {
  for (let round = 0; round < 3; round += 1) {
    const pod = await place.addPod(13);
    await mustReach(pod.host, remote.addresses);
    await kill(place.daemon, 'SIGKILL');
    await until('the devices to go', async () =>
      !(await interfaceNames(place.host)).includes('culvert0')
      && !(await interfaceNames(pod.host)).includes('eth0'));
    assert.not(await reaches(remote.host, podAddress(3, 13, 'IPv4')));
    await place.culvert.startDaemon();
    // The sidecar has been trying to connect all the time.
    await place.culvert.waitFor(({ sync, nodes }) => sync.revision !== null && nodes === 2);
    await mustReach(place.host, remote.addresses);
    assert.equal(socketFiles(place.culvert.runtimeDirectory).sort(), ['control.sock', 'sync.sock']);
  }
});

/** Words in front of a command that take something from it, by what is taken. */
const LESS = {
  'CAP_NET_ADMIN': ['setpriv', '--bounding-set', '-net_admin'],
  'all capabilities': ['setpriv', '--reuid', NOBODY, '--regid', NOBODY, '--clear-groups'],
};

function withoutRights(
  name: string, taken: keyof typeof LESS, body: (scene: Scene, less: string[]) => void,
): void {
  const less = LESS[taken];
  const [program = '', ...words] = less;
  if (spawnSync(program, [...words, process.execPath, CLI, '--version']).status === 0) {
    testNeeding('tun', test, name, async () => body(await theScene(), less));
  } else {
    printSkip(name, `${program} is needed, and rights to use it`);
  }
}

withoutRights('without CAP_NET_ADMIN the daemon says so and exits with 77', 'CAP_NET_ADMIN',
  ({ place, bed }, less) => {
    const directory = join(bed.folder, 'less');
    const { code, output } = runToEnd(place.host, runFlags(directory), less);
    assert.is(code, EXIT_NO_PERMISSION, output);
    assert.match(output.trim(),
      /^culvert: ioctl\(TUNSETIFF\) on \S+: EPERM; CAP_NET_ADMIN is needed$/);
    assert.equal(socketFiles(directory), []);
  });

withoutRights('a user without rights is told what to do, and exits with 77', 'all capabilities',
  ({ place }, less) => {
    const directory = mkdtempSync(join(tmpdir(), `culvert-nobody-${process.pid}-`));
    try {
      const refused = runToEnd(place.host, runFlags(join(directory, 'run')), less);
      assert.is(refused.code, EXIT_NO_PERMISSION, refused.output);
      assert.match(refused.output, /^culvert: mkdir on .*: EACCES; run as root, or .*\n$/);
      chownSync(directory, Number(NOBODY), Number(NOBODY));
      const { code, output } = runToEnd(place.host, runFlags(directory), less);
      assert.is(code, EXIT_NO_PERMISSION, output);
      // Which of the two it is depends on the mode of /dev/net/tun.
      assert.match(output, /^culvert: .*: (EACCES; run as root|EPERM; CAP_NET_ADMIN).*\n$/);
      assert.equal(socketFiles(directory), []);
    } finally {
      rmSync(directory, { recursive: true, force: true });
    }
  });

test.run();
