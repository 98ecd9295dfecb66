// The plugin as Debian's containerd calls it for the kubelet's words (CRI): pods by real sandboxes.
//
//   namespace node-1: culvert run, culvert sync (a file), containerd
//     +-- pod web: a sandbox of containerd's, eth0 by the installed plugin

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { join } from 'node:path';
import { installPlugin } from '../../cni/install.ts';
import { askAll } from '../../cli/client.ts';
import { Bed } from '../../cli/demo/bed.ts';
import { EndpointReportSchema } from '../../engine/model.ts';
import { PATIENCE_MS, until } from '../support/until.ts';
import { testNeeding } from '../support/needs.ts';
import { ROOT } from '../support/source.ts';
import { Containerd, missingTool } from './support/containerd.ts';
import { Runtime } from './support/runtime.ts';

const test = suite('cni/containerd');
const NAME = 'containerd finds the installed network, starts pods, refuses closed ones, ends them';

async function scenario(): Promise<void> {
  const bed = await Bed.create();
  let containerd: Containerd | null = null;
  try {
    const runtime = await Runtime.add(bed, ['--cni-policy-wait-seconds', '1']);
    runtime.writeObjects([runtime.podObject('web'), runtime.podObject('db')]);
    await runtime.culvert.start();
    containerd = await Containerd.start(bed, runtime);
    await drive(runtime, containerd);
  } catch (error) {
    console.log(containerd?.log().split('\n').slice(-20).join('\n'));
    throw error;
  } finally {
    await containerd?.close();
    await bed.close();
  }
}

async function endpoints({ culvert }: Runtime): Promise<{ name: string; addresses: string[] }[]> {
  const list = await askAll(culvert.runtimeDirectory, 'endpoint.list', EndpointReportSchema);
  return list.map(({ namespace, name, addresses, state }) =>
    ({ name: `${namespace}/${name} ${state}`, addresses }));
}

async function drive(runtime: Runtime, { cri, configDirectory }: Containerd): Promise<void> {
  assert.not.ok(await cri.condition('NetworkReady'), 'no network is installed yet');
  installPlugin({
    binDirectory: runtime.binDirectory, configDirectory, networkName: 'culvert',
    runtimeDirectory: runtime.culvert.runtimeDirectory, portmap: false,
  }, { bundle: join(ROOT, 'dist/cni/culvert.cjs'), packageFolder: ROOT, node: process.execPath });
  await until('containerd to read the network', () => cri.condition('NetworkReady'));

  const web = await cri.run({ name: 'web', namespace: 'shop', uid: 'uid-web' });
  const addresses = await cri.addresses(web);
  assert.equal(await endpoints(runtime), [{ name: 'shop/web ready', addresses }]);
  for (const address of addresses) {
    const answer = await runtime.node.host.agent.ask(
      { verb: 'ping', address, size: 56, timeoutMs: PATIENCE_MS });
    assert.ok(answer.ok, `the node reaches ${address}: ${answer.detail}`);
  }
  const stranger = { name: 'stranger', namespace: 'shop', uid: 'uid-stranger' };
  const message = await cri.run(stranger).then(() => '', (error: Error) => error.message);
  assert.match(message, /rule sets of pod shop\/stranger are not known/);
  const db = await cri.run({ name: 'db', namespace: 'shop', uid: 'uid-db' });
  assert.is((await endpoints(runtime)).length, 2);
  for (const id of [web, db]) {
    await cri.stop(id);
    await cri.remove(id);
  }
  assert.equal(await endpoints(runtime), []);
}

testNeeding('tun', test, NAME, scenario, missingTool());

test.run();
