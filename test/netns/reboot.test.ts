// A node that boots while nobody is there to ask: what it was last told, on disk, is in force
// before the first pod comes back, and pods come back as those they were.
//
//   namespace node-1                       hub            namespace node-2
//   culvert run, --state-directory                        culvert run, culvert sync
//   pods by CNI: web, db (only web may                    pod-2-10
//   talk to it)
//
// A boot is a new runtime directory, no holder, no sidecar and new namespaces of pods.

import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { stopDaemon, type Bed, type Host } from '../../cli/demo/bed.ts';
import { Runtime, podArgs } from '../cni/support/runtime.ts';
import { testNeeding } from '../support/needs.ts';
import { clusterNode, nodeObject, podAddress } from './support/forge-cluster.ts';
import { CLI, Place, mustReach, openBed, reaches, type Pod } from './support/forge-scene.ts';

const test = suite('netns/reboot');

const ONLY_WEB = {
  apiVersion: 'networking.k8s.io/v1', kind: 'NetworkPolicy',
  metadata: { namespace: 'shop', name: 'only-web' },
  spec: {
    podSelector: { matchLabels: { app: 'db' } },
    ingress: [{ from: [{ podSelector: { matchLabels: { app: 'web' } } }] }],
  },
};

/** A pod of node 1 in the sandbox that it has now. */
interface Attached {
  host: Host;
  addresses: string[];
}

class Scene {
  readonly bed: Bed;
  readonly runtime: Runtime;
  readonly remote: Pod;
  readonly stateDirectory: string;
  #sandboxes = 0;

  private constructor(bed: Bed, runtime: Runtime, remote: Pod, stateDirectory: string) {
    this.bed = bed;
    this.runtime = runtime;
    this.remote = remote;
    this.stateDirectory = stateDirectory;
  }

  static async make(): Promise<Scene> {
    const bed = await openBed();
    const stateDirectory = join(bed.folder, 'state');
    const runtime = await Runtime.add(bed, [
      '--state-directory', stateDirectory, '--handover-enabled', 'false',
      '--cni-policy-wait-seconds', '5',
    ]);
    runtime.nodeFields = nodeObject(clusterNode(1));
    runtime.writeObjects([
      nodeObject(clusterNode(2)), ONLY_WEB,
      ...['web', 'db'].map((app) => runtime.podObject(app, { app })),
    ]);
    await runtime.culvert.start();
    const other = await Place.add(bed, 2, [1, 2]);
    await other.culvert.start();
    return new Scene(bed, runtime, await other.addPod(10), stateDirectory);
  }

  /** Attaches a pod by the plugin, in a new sandbox. */
  async attach(name: string, uid = `uid-${name}`): Promise<Attached> {
    this.#sandboxes += 1;
    const host = this.bed.addHost(`${name}-${this.#sandboxes}`);
    const container = this.runtime.container(host, name, `sandbox-${this.#sandboxes}`);
    const { status, result } = await this.runtime.call(
      'ADD', { ...container, args: podArgs(name, uid) });
    assert.is(status, 0, JSON.stringify(result));
    await host.agent.ask({ verb: 'serve' });
    const addresses = (result.ips ?? []).map(({ address }) => address.split('/')[0] ?? '');
    return { host, addresses };
  }

  /** Ends everything that a boot ends, and starts the daemon alone. Returns how long it took. */
  async reboot(between: () => void = () => {}): Promise<number> {
    const { culvert } = this.runtime;
    if (culvert.sidecar !== null) await stopDaemon(culvert.sidecar);
    if (culvert.daemon !== null) await stopDaemon(culvert.daemon);
    for (const name of readdirSync(culvert.runtimeDirectory)) {
      rmSync(join(culvert.runtimeDirectory, name), { recursive: true });
    }
    between();
    const startMs = performance.now();
    await culvert.startDaemon();
    return performance.now() - startMs;
  }

  /** What `culvert status` prints. */
  statusText(): string {
    const { runtimeDirectory } = this.runtime.culvert;
    const { status, stdout } = spawnSync(process.execPath,
      [CLI, 'status', '--runtime-directory', runtimeDirectory], { encoding: 'utf8' });
    assert.is(status, 0);
    return stdout;
  }
}

let scene: Scene | null = null;

test.after(async () => scene?.bed.close());

testNeeding('tun', test, 'all is in force, and pods are who they were', async () => {
  scene = await Scene.make();
  const { runtime: { culvert }, remote } = scene;
  const [web, db] = [await scene.attach('web'), await scene.attach('db')];
  await mustReach(web.host, [...remote.addresses, ...db.addresses]);
  assert.not.ok(await reaches(remote.host, db.addresses[0] ?? ''));

  const bootMs = await scene.reboot();
  const status = await culvert.status();
  console.log(`\nin force ${bootMs.toFixed(0)} ms after the daemon was started`);
  assert.equal([status.nodes, status.pods, status.policy.known], [2, 2, true]);
  assert.is(status.sync.connected, false);
  assert.ok(Date.parse(status.sync.staleSince ?? '') > Date.now() - 120_000);
  assert.match(scene.statusText(), /^Sync: +Degraded +stale since 20\S+Z; no sidecar connected/m);

  // In the other order, one of them without its uid: each gets what the cluster knows it by.
  const [dbAgain, webAgain] = [await scene.attach('db', ''), await scene.attach('web')];
  assert.equal(dbAgain.addresses, db.addresses);
  assert.equal(webAgain.addresses, web.addresses);
  await mustReach(webAgain.host, [...remote.addresses, ...dbAgain.addresses]);
  await mustReach(remote.host, webAgain.addresses.slice(0, 1));
  assert.not.ok(await reaches(remote.host, dbAgain.addresses[0] ?? ''));
});

testNeeding('tun', test, 'a sidecar that comes back makes it fresh again', async () => {
  if (scene === null) return;
  const { culvert } = scene.runtime;
  await culvert.startSidecar();
  // Its source comes after its first snapshot.
  await culvert.waitFor(({ sync }) => sync.staleSince === null && sync.source === 'file');
  assert.match(scene.statusText(), /^Sync: +Ok +revision \d+, 2 nodes, 2 pods here$/m);
});

testNeeding('tun', test, 'a damaged state is set aside', async () => {
  if (scene === null) return;
  const { stateDirectory, runtime: { culvert } } = scene;
  const file = join(stateDirectory, 'cluster');
  await scene.reboot(() => {
    const bytes = readFileSync(file);
    bytes[100] = (bytes[100] ?? 0) ^ 1;
    writeFileSync(file, bytes);
  });
  const status = await culvert.status();
  assert.is(status.policy.known, false);
  assert.is(status.nodes, 0);
  assert.match(status.sync.problems.join('\n'), /set aside as .*cluster\.corrupt-1/);
  assert.match(scene.statusText(), /^Problem: .*cluster\.corrupt-1/m);
  assert.not.ok(existsSync(file));
  await culvert.startSidecar();
  await culvert.waitFor(({ sync, nodes }) => sync.staleSince === null && nodes === 2);
  await mustReach(scene.remote.host, [podAddress(1, 0, 'IPv4')]);
});

test.run();
