// How long containerd takes for a pod's sandbox by our plugin, beside one by the CNI project's
// bridge and host-local: the same runtime, the same image, in interleaved rounds. What comes out is
// printed, not judged: on a busy machine it says how busy that is.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { installPlugin } from '../../cni/install.ts';
import { Bed } from '../../cli/demo/bed.ts';
import { median, summarise } from '../../bench/report.ts';
import { until } from '../support/until.ts';
import { needs, testNeeding } from '../support/needs.ts';
import { ROOT } from '../support/source.ts';
import { Containerd, OTHER, missingTool, pluginFolder } from './support/containerd.ts';
import { Runtime } from './support/runtime.ts';

const test = suite('cni/sandbox.slow');
const ROUNDS = 21;
const NAME = 'sandboxes by our plugin, and by bridge';

function writeStock(runtime: Runtime, folder: string, dataDir: string): void {
  for (const name of ['bridge', 'host-local']) runtime.link(name, join(pluginFolder(), name));
  const ipam = { type: 'host-local', ranges: [[{ subnet: '10.99.0.0/24' }]], dataDir,
    routes: [{ dst: '0.0.0.0/0' }] };
  writeFileSync(join(folder, '10-stock.conflist'), JSON.stringify({
    cniVersion: '1.0.0', name: 'stock',
    plugins: [{ type: 'bridge', bridge: 'cni0', isGateway: true, ipMasq: false, ipam }],
  }));
}

/** Starts and ends a sandbox. Returns how long the start took, in milliseconds. */
async function startMs({ cri }: Containerd, name: string, handler: string): Promise<number> {
  const beginMs = performance.now();
  const id = await cri.run({ name, namespace: 'shop', uid: `uid-${name}` }, handler);
  const ms = performance.now() - beginMs;
  await cri.stop(id);
  await cri.remove(id);
  return ms;
}

async function compare(containerd: Containerd): Promise<void> {
  const times = { ours: [] as number[], theirs: [] as number[] };
  for (let round = 0; round <= ROUNDS; round += 1) {
    const ours = await startMs(containerd, 'web', '');
    const theirs = await startMs(containerd, 'db', OTHER);
    if (round === 0) continue;
    times.ours.push(ours);
    times.theirs.push(theirs);
  }
  const ratio = summarise(times.ours.map((ms, index) => ms / (times.theirs[index] ?? NaN)));
  console.log(`sandbox/bridge ${JSON.stringify(ratio)}, `
    + `${median(times.ours).toFixed(0)} and ${median(times.theirs).toFixed(0)} ms`);
  assert.ok(ratio.median > 0);
}

async function scenario(): Promise<void> {
  const bed = await Bed.create();
  let containerd: Containerd | null = null;
  try {
    const runtime = await Runtime.add(bed);
    runtime.writeObjects([runtime.podObject('web')]);
    await runtime.culvert.start();
    containerd = await Containerd.start(bed, runtime);
    writeStock(runtime, containerd.otherDirectory, join(bed.folder, 'host-local'));
    installPlugin({
      binDirectory: runtime.binDirectory, configDirectory: containerd.configDirectory,
      networkName: 'culvert', runtimeDirectory: runtime.culvert.runtimeDirectory, portmap: false,
    }, { bundle: join(ROOT, 'dist/cni/culvert.cjs'), packageFolder: ROOT, node: process.execPath });
    const { cri } = containerd;
    await until('containerd to read the network', () => cri.condition('NetworkReady'));
    await compare(containerd);
  } catch (error) {
    console.log(containerd?.log().split('\n').slice(-20).join('\n'));
    throw error;
  } finally {
    await containerd?.close();
    await bed.close();
  }
}

const missing = missingTool() ?? (needs.bridge ? null : 'a kernel with bridges is needed');
testNeeding('tun', test, NAME, scenario, missing);

test.run();
