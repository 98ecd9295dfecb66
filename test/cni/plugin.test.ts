// The plugin as a runtime calls it, against a real daemon and sidecar.
//
//   namespace node-1                         the runtime is the test; the plugin runs in node-1
//   culvert run, culvert sync (a file)
//     |
//     +-- pods web, db, ... : a namespace each, eth0 by the plugin

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { ask, askAll } from '../../cli/client.ts';
import { Bed, stopDaemon, type Host } from '../../cli/demo/bed.ts';
import { leaveNote } from '../../cni/note.ts';
import { CONNECTION_LIMIT } from '../../host/control.ts';
import { CONTROL_SOCKET } from '../../host/main.ts';
import {
  CniStatusAnswerSchema, EndpointReportSchema, RouteReportSchema,
} from '../../engine/model.ts';
import { testNeeding } from '../support/needs.ts';
import { NETWORK, Runtime, podArgs, type Answer, type CniResult, type Container } from
  './support/runtime.ts';
import { PATIENCE_MS } from '../support/until.ts';

const test = suite('cni/plugin');
const PODS = ['web', 'db', 'cache'];
const BLOCKED_MS = 400;

interface Scene {
  bed: Bed;
  runtime: Runtime;
}
let scene: Scene | null = null;

async function theScene(): Promise<Scene> {
  if (scene !== null) return scene;
  const bed = await Bed.create();
  try {
    const runtime = await Runtime.add(bed, ['--cni-policy-wait-seconds', '1']);
    runtime.writeObjects(PODS.map((name) => runtime.podObject(name, { app: name })));
    await runtime.culvert.start();
    scene = { bed, runtime };
    return scene;
  } catch (error) {
    await bed.close();
    throw error;
  }
}

test.after(async () => {
  await scene?.bed.close();
});

function scenario(name: string, body: (scene: Scene) => Promise<void>): void {
  testNeeding('tun', test, name, async () => body(await theScene()));
}

/** Attaches a pod in a new namespace, calls `body`, and takes the pod off. */
async function withPod(
  { bed, runtime }: Scene, name: string,
  body: (pod: Container, host: Host, added: CniResult) => Promise<void>,
  call = {},
): Promise<void> {
  const host = bed.addHost(name);
  const pod = runtime.container(host, name);
  const added = expectOk(await runtime.call('ADD', pod, call));
  try {
    await body(pod, host, added);
  } finally {
    expectOk(await runtime.call('DEL', pod, call));
  }
}

function expectOk({ status, result }: Answer): CniResult {
  assert.is(status, 0, JSON.stringify(result));
  return result;
}

function expectError({ status, result }: Answer, code: number, message: RegExp): void {
  assert.is(result.code, code, JSON.stringify(result));
  assert.match(`${result.msg} ${result.details ?? ''}`, message);
  assert.is(status, 1);
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Changes the file of objects and waits until the daemon has heard of it. */
async function writeAndRead(runtime: Runtime, objects: object[]): Promise<void> {
  const { sync: { revision } } = await runtime.culvert.status();
  runtime.writeObjects(objects);
  await runtime.culvert.waitFor(({ sync }) => sync.revision !== revision);
}

function addresses({ ips = [] }: CniResult): string[] {
  return ips.map(({ address }) => address.split('/')[0] ?? '');
}

async function endpoints({ runtime }: Scene): Promise<string[]> {
  const list = await askAll(
    runtime.culvert.runtimeDirectory, 'endpoint.list', EndpointReportSchema);
  return list.map(({ namespace, name, state }) => `${namespace}/${name} ${state}`).sort();
}

/** Files of addresses that somebody has. */
async function heldAddresses({ runtime }: Scene): Promise<number> {
  const routes = await askAll(
    runtime.culvert.runtimeDirectory, 'route.list', RouteReportSchema);
  return routes.filter(({ kind }) => kind === 'endpoint').length;
}

scenario('VERSION, in the version it was asked in', async ({ runtime }) => {
  const supportedVersions = ['0.3.1', '0.4.0', '1.0.0', '1.1.0'];
  assert.equal(expectOk(await runtime.call('VERSION', null, { text: '{"cniVersion":"0.4.0"}' })),
    { cniVersion: '0.4.0', supportedVersions });
  assert.equal(expectOk(await runtime.call('VERSION', null, { text: '' })),
    { cniVersion: '1.1.0', supportedVersions });
});

scenario('ADD gives addresses of both families, routes, loopback; traffic flows', async (all) => {
  await withPod(all, 'web', async (pod, web, added) => {
    assert.is(added.cniVersion, '1.1.0');
    assert.equal(added.interfaces, [{ name: 'eth0', mtu: 1430, sandbox: pod.netns }]);
    assert.equal(added.routes, [{ dst: '0.0.0.0/0' }, { dst: '::/0' }]);
    assert.ok(added.ips?.every(({ interface: index, version }) => index === 0 && !version));
    const [ipv4 = '', ipv6 = ''] = addresses(added);
    assert.match(ipv4, /^10\.244\.1\.\d+$/);
    assert.match(ipv6, /^fd00:10:244:1::/);
    assert.ok((await web.links.link('lo')).up);
    assert.equal(await endpoints(all), ['shop/web ready']);
    await withPod(all, 'db', async (_, db) => {
      await web.agent.ask({ verb: 'serve' });
      for (const address of [ipv4, ipv6]) {
        const answer = await db.agent.ask({ verb: 'tcp', address, timeoutMs: PATIENCE_MS });
        assert.ok(answer.ok, answer.detail);
      }
      const node = await db.agent.ask({
        verb: 'ping', address: '10.244.1.0', size: 56, timeoutMs: PATIENCE_MS });
      assert.ok(node.ok, node.detail);
    });
  });
  assert.equal(await endpoints(all), []);
});

scenario('results of older versions', async (all) => {
  await withPod(all, 'web', async (_, __, added) => {
    assert.is(added.cniVersion, '0.3.1');
    assert.equal(added.ips?.map(({ version }) => version), ['4', '6']);
    assert.is(added.interfaces?.[0]?.mtu, undefined);
  }, { version: '0.3.1' });
  await withPod(all, 'web', async (_, __, added) => {
    assert.equal(added.ips?.map(({ version }) => version), [undefined, undefined]);
  }, { version: '1.0.0' });
});

scenario('in a chain the answer adds to what came before', async (all) => {
  const prevResult = {
    cniVersion: '1.0.0', dns: { nameservers: ['10.96.0.10'] },
    interfaces: [{ name: 'lo', sandbox: '/x' }],
    ips: [{ address: '127.0.0.1/8', interface: 0 }], routes: [{ dst: '192.0.2.0/24' }],
  };
  await withPod(all, 'web', async (pod, _, added) => {
    assert.equal(added.interfaces?.map(({ name }) => name), ['lo', 'eth0']);
    assert.equal(added.ips?.map((ip) => ip.interface), [0, 1, 1]);
    assert.equal(added.routes?.map(({ dst }) => dst), ['192.0.2.0/24', '0.0.0.0/0', '::/0']);
    assert.equal(added.dns, prevResult.dns);
    const check = { version: '1.0.0', config: { prevResult: added } };
    expectOk(await all.runtime.call('CHECK', pod, check));
  }, { version: '1.0.0', config: { prevResult } });
  const host = all.bed.addHost('chained');
  const pod = all.runtime.container(host, 'web');
  const own = { interfaces: [{ name: 'eth0', sandbox: pod.netns }] };
  expectError(await all.runtime.call('ADD', pod, { config: { prevResult: own } }), 7,
    /a plugin before culvert has made eth0/);
});

scenario('what is wrong with a call is told by the specification\'s codes', async (all) => {
  const { runtime, bed } = all;
  const pod = runtime.container(bed.addHost('wrong'), 'web');
  expectError(await runtime.call('ADD', pod, { version: '2.0.0' }), 1, /version 2\.0\.0/);
  expectError(await runtime.call('CHECK', pod, { version: '0.3.1' }), 1, /has no CHECK/);
  expectError(await runtime.call('GC', null, { version: '1.0.0' }), 1, /has no GC/);
  expectError(await runtime.call('ADD', pod, { text: '{"cniVersion":' }), 6, /not a network/);
  expectError(await runtime.call('ADD', pod, { text: '[]' }), 6, /not a network/);
  expectError(await runtime.call('VERSION', null, { text: 'x' }), 6, /not a network/);
  expectError(await runtime.call('ADD', pod, { config: { name: '' } }), 7, /name/);
  expectError(await runtime.call('ADD', pod, { config: { mtu: 'big' } }), 7, /mtu/);
  expectError(await runtime.call('EAT', pod), 4, /CNI_COMMAND EAT/);
  expectError(await runtime.call('ADD', { ...pod, id: '../x' }), 4, /CNI_CONTAINERID/);
  expectError(await runtime.call('ADD', { ...pod, netns: '' }), 4, /CNI_NETNS is not set/);
  expectError(await runtime.call('ADD', { ...pod, interfaceName: '' }), 4, /CNI_IFNAME/);
  expectError(await runtime.call('ADD', { ...pod, args: 'x' }), 4, /CNI_ARGS/);
  expectError(await runtime.call('ADD', { ...pod, netns: '/run/netns/none-such' }), 3,
    /none-such: ENOENT/);
  expectError(await runtime.call('CHECK', pod), 7, /prevResult: missing/);
  expectError(await runtime.call('GC', null), 7, /valid-attachments: missing/);
  const portMappings = [{ hostPort: 8080, containerPort: 80, protocol: 'tcp' }];
  expectError(await runtime.call('ADD', pod, { config: { runtimeConfig: { portMappings } } }), 2,
    /hostPort .* portmap/);
  assert.equal(await endpoints(all), []);
});

scenario('ADD twice is an error that leaves the pod alone; DEL twice is none', async (all) => {
  const { runtime, bed } = all;
  const host = bed.addHost('twice');
  const pod = runtime.container(host, 'web');
  const added = expectOk(await runtime.call('ADD', pod));
  expectError(await runtime.call('ADD', pod), 100, /attached already/);
  expectError(await runtime.call('ADD', { ...pod, interfaceName: 'eth1' }), 100, /one interface/);
  expectOk(await runtime.call('CHECK', pod, { config: { prevResult: added } }));
  expectOk(await runtime.call('DEL', pod, { config: { prevResult: added } }));
  expectOk(await runtime.call('DEL', { ...pod, netns: '', args: '' }));
  assert.is(await heldAddresses(all), 0);
});

scenario('a new sandbox of a pod takes the place of one that was left', async (all) => {
  const { runtime, bed } = all;
  const [old, fresh] = ['old', 'new'].map((id) =>
    runtime.container(bed.addHost(id), 'web', `id-${id}`)) as [Container, Container];
  expectOk(await runtime.call('ADD', old));
  expectOk(await runtime.call('ADD', fresh));
  assert.equal(await endpoints(all), ['shop/web ready']);
  expectOk(await runtime.call('DEL', old));
  assert.equal(await endpoints(all), ['shop/web ready']);
  expectOk(await runtime.call('DEL', fresh));
  assert.equal(await endpoints(all), []);
});

scenario('a pod whose policy is not known fails, and nothing is left of it', async (all) => {
  const { runtime, bed } = all;
  const host = bed.addHost('stranger');
  const pod = runtime.container(host, 'stranger');
  expectError(await runtime.call('ADD', pod), 11,
    /rule sets of pod shop\/stranger are not known after 1 s: the sidecar has not told them yet/);
  const other = { ...runtime.container(host, 'web'), args: podArgs('web', 'another-uid') };
  expectError(await runtime.call('ADD', other), 11, /rule sets of pod shop\/web/);
  assert.equal(await endpoints(all), []);
  assert.is(await heldAddresses(all), 0);
  assert.equal((await host.links.list()).map(({ name }) => name), ['lo']);
});

scenario('CHECK finds a removed route, a wrong address and a deleted interface', async (all) => {
  const { runtime, bed } = all;
  const host = bed.addHost('checked');
  const pod = runtime.container(host, 'web');
  const prevResult = expectOk(await runtime.call('ADD', pod));
  const check = (): Promise<Answer> => runtime.call('CHECK', pod, { config: { prevResult } });
  const [ipv4 = ''] = addresses(prevResult);
  expectOk(await check());
  await host.links.removeRoute({ prefix: '0.0.0.0/0', device: 'eth0' });
  expectError(await check(), 101, /route to 0\.0\.0\.0\/0 on eth0 is missing/);
  await host.links.addRoute({ prefix: '0.0.0.0/0', device: 'eth0' });
  await host.links.removeAddress('eth0', `${ipv4}/32`);
  expectError(await check(), 101, /lacks the address 10\.244\.1/);
  await host.links.addAddress('eth0', `${ipv4}/32`);
  const wrong = structuredClone(prevResult);
  if (wrong.ips?.[0] !== undefined) wrong.ips[0].address = '10.244.1.99/32';
  expectError(await runtime.call('CHECK', pod, { config: { prevResult: wrong } }), 101, /99\/32/);
  await host.links.removeLink('eth0');
  expectError(await check(), 101, /(is gone|no interface eth0)/);
  expectOk(await runtime.call('DEL', pod));
  expectError(await check(), 3, /not attached/);
});

scenario('GC takes off what the runtime does not name', async (all) => {
  const { runtime, bed } = all;
  const pods = PODS.map((name) => runtime.container(bed.addHost(name), name));
  for (const pod of pods) expectOk(await runtime.call('ADD', pod));
  const gc = (named: Container[]): Promise<Answer> => runtime.call('GC', null, { config: {
    'cni.dev/valid-attachments': named.map(({ id, interfaceName }) =>
      ({ containerID: id, ifname: interfaceName })) } });
  expectOk(await gc(pods.slice(0, 2)));
  assert.equal(await endpoints(all), ['shop/db ready', 'shop/web ready']);
  expectOk(await runtime.call('GC', null, { config: { name: 'other',
    'cni.dev/valid-attachments': [] } }));
  assert.equal((await endpoints(all)).length, 2, `${NETWORK} is another network`);
  expectOk(await gc([]));
  assert.equal(await endpoints(all), []);
  for (const pod of pods) expectOk(await runtime.call('DEL', pod));
});

scenario('policy of the file source holds for pods that the plugin attaches', async (all) => {
  const { runtime } = all;
  const objects = PODS.map((name) => runtime.podObject(name, { app: name }));
  runtime.writeObjects([...objects, {
    apiVersion: 'networking.k8s.io/v1', kind: 'NetworkPolicy',
    metadata: { name: 'web-from-db', namespace: 'shop' },
    spec: { podSelector: { matchLabels: { app: 'web' } }, policyTypes: ['Ingress'],
      ingress: [{ from: [{ podSelector: { matchLabels: { app: 'db' } } }] }] },
  }]);
  await runtime.culvert.waitFor(({ policy }) => policy.ruleSets > 0);
  await withPod(all, 'web', (_, web, added) => withPod(all, 'db', (__, db) =>
    withPod(all, 'cache', async (___, cache) => {
      await web.agent.ask({ verb: 'serve' });
      for (const address of addresses(added)) {
        const tcp = { verb: 'tcp', address } as const;
        assert.ok((await db.agent.ask({ ...tcp, timeoutMs: PATIENCE_MS })).ok, 'db may');
        assert.not((await cache.agent.ask({ ...tcp, timeoutMs: BLOCKED_MS })).ok, 'cache may not');
      }
    })));
  runtime.writeObjects(objects);
  await runtime.culvert.waitFor(({ policy }) => policy.ruleSets === 0);
});

scenario('a pod goes by its name where source or runtime does not know its uid', async (all) => {
  const { runtime } = all;
  const objects = PODS.map((name) => runtime.podObject(name, { app: name }));
  const [web, ...others] = structuredClone(objects) as { metadata: { uid?: string } }[];
  delete web?.metadata.uid;
  await writeAndRead(runtime, [web ?? {}, ...others]);
  await withPod(all, 'web', async () => {
    assert.equal(await endpoints(all), ['shop/web ready']);
  });
  await writeAndRead(runtime, objects);
  const host = all.bed.addHost('without-uid');
  const args = 'K8S_POD_NAME=web;K8S_POD_NAMESPACE=shop';
  const pod = { ...runtime.container(host, 'web'), args };
  expectOk(await runtime.call('ADD', pod));
  assert.equal(await endpoints(all), ['shop/web ready']);
  expectOk(await runtime.call('DEL', pod));
});

scenario('another IPAM plugin gives the addresses where ipam.type names one', async (all) => {
  const { runtime, bed } = all;
  const log = join(bed.folder, 'ipam.log');
  const ipam = join(bed.folder, 'ipam.sh');
  writeFileSync(ipam, `#!/bin/sh\necho "$CNI_COMMAND $CNI_CONTAINERID" >> ${log}\n`
    + '[ "$CNI_COMMAND" = ADD ] || exit 0\n'
    + '[ "$CNI_CONTAINERID" = id-db ] && { echo \'{"code":11,"msg":"none left"}\'; exit 1; }\n'
    + 'echo \'{"cniVersion":"1.0.0","ips":[{"address":"10.244.1.77/24"}],'
    + '"dns":{"nameservers":["192.0.2.53"]}}\'\n', { mode: 0o755 });
  runtime.link('test-ipam', ipam);
  const call = { version: '1.0.0', config: { ipam: { type: 'test-ipam' } } };
  await withPod(all, 'web', async (pod, _, added) => {
    assert.equal(added.ips?.map(({ address }) => address), ['10.244.1.77/32']);
    assert.equal(added.dns, { nameservers: ['192.0.2.53'] });
    expectOk(await runtime.call('CHECK', pod,
      { ...call, config: { ...call.config, prevResult: added } }));
    expectError(await runtime.call('ADD', pod, call), 100, /attached already/);
    assert.equal(readFileSync(log, 'utf8').trim().split('\n'), ['ADD id-web', 'CHECK id-web']);
  }, call);
  assert.match(readFileSync(log, 'utf8'), /DEL id-web\n$/);
  const refused = runtime.container(bed.addHost('refused'), 'db');
  expectError(await runtime.call('ADD', refused, call), 11, /test-ipam: none left/);
  const none = { version: '1.0.0', config: { ipam: { type: 'none-such' } } };
  expectError(await runtime.call('ADD', refused, none), 7, /no plugin none-such in CNI_PATH/);
  assert.equal(await endpoints(all), []);
});

scenario('without a daemon: ADD and GC later, STATUS says why, DEL is kept for it', async (all) => {
  const { runtime, bed } = all;
  const host = bed.addHost('orphan');
  const pod = runtime.container(host, 'web');
  expectOk(await runtime.call('STATUS', null));
  const [address] = addresses(expectOk(await runtime.call('ADD', pod)));
  const { culvert } = runtime;
  if (culvert.daemon !== null) await stopDaemon(culvert.daemon);
  expectError(await runtime.call('STATUS', null), 50, /does not answer/);
  expectError(await runtime.call('ADD', runtime.container(host, 'db')), 11, /does not answer/);
  expectError(await runtime.call('GC', null, { config: { 'cni.dev/valid-attachments': [] } }), 11,
    /does not answer/);
  expectOk(await runtime.call('DEL', pod));
  expectOk(await runtime.call('DEL', pod));
  assert.equal((await host.links.list()).map(({ name }) => name), ['lo']);
  const folder = join(culvert.runtimeDirectory, 'ended');
  assert.equal(readdirSync(folder), ['id-web_eth0']);
  await culvert.startDaemon();
  assert.equal(readdirSync(folder), []);
  assert.equal(await endpoints(all), []);
  await culvert.waitFor(({ sync, policy }) => sync.revision !== null && policy.endpoints === 3);
  expectOk(await runtime.call('STATUS', null));
  const again = addresses(expectOk(await runtime.call('ADD', pod)));
  assert.not.equal(again[0], address, 'an address rests before it is given again');
  expectOk(await runtime.call('DEL', pod));
});

scenario('as many guests as the daemon takes; a note that a running one finds', async (all) => {
  const { runtime, bed } = all;
  const pod = runtime.container(bed.addHost('guest'), 'web');
  expectOk(await runtime.call('ADD', pod));
  const sockets = Array.from({ length: CONNECTION_LIMIT }, () =>
    connect(join(runtime.culvert.runtimeDirectory, CONTROL_SOCKET)).on('error', () => {}));
  await pause(100);
  setTimeout(() => { for (const socket of sockets) socket.destroy(); }, BLOCKED_MS);
  expectOk(await runtime.call('STATUS', null));
  leaveNote(runtime.culvert.runtimeDirectory, { containerId: pod.id, interfaceName: 'eth0' });
  assert.equal(await endpoints(all), ['shop/web ready']);
  expectOk(await runtime.call('STATUS', null));
  assert.equal(await endpoints(all), []);
  expectOk(await runtime.call('DEL', pod));
});

scenario('a daemon that was killed goes on with who was attached', async (all) => {
  const { runtime, bed } = all;
  const { culvert } = runtime;
  const pods = ['web', 'db'].map((name) => runtime.container(bed.addHost(name), name));
  const given: CniResult[] = [];
  for (const pod of pods) given.push(expectOk(await runtime.call('ADD', pod)));
  culvert.daemon?.process.kill('SIGKILL');
  await culvert.startDaemon();
  await culvert.waitFor(({ sync, policy }) => sync.revision !== null && policy.endpoints === 3);
  assert.equal(await endpoints(all), ['shop/db ready', 'shop/web ready']);
  for (const [index, pod] of pods.entries()) {
    expectOk(await runtime.call('CHECK', pod, { config: { prevResult: given[index] } }));
  }
  const third = addresses(expectOk(await runtime.call(
    'ADD', runtime.container(bed.addHost('cache'), 'cache'))));
  assert.not.ok(given.some((result) => addresses(result).some((one) => third.includes(one))));
  expectOk(await runtime.call('GC', null, { config: { 'cni.dev/valid-attachments': [] } }));
  assert.equal(await endpoints(all), []);
  for (const pod of pods) expectOk(await runtime.call('DEL', pod));
});

scenario('host ports are the daemon\'s to serve where it does', async ({ runtime, bed }) => {
  const { culvert } = runtime;
  if (culvert.daemon !== null) await stopDaemon(culvert.daemon);
  const { extra = [] } = culvert.options;
  culvert.options.extra = [...extra, '--node-ports-enabled', 'true'];
  await culvert.startDaemon();
  culvert.options.extra = extra;
  await culvert.waitFor(({ sync }) => sync.revision !== null && sync.revision > 0);
  const pod = runtime.container(bed.addHost('mapped'), 'web');
  const portMappings = [{ hostPort: 8080, containerPort: 80, protocol: 'tcp' }];
  expectOk(await runtime.call('ADD', pod, { config: { runtimeConfig: { portMappings } } }));
  expectOk(await runtime.call('DEL', pod));
});

scenario('STATUS says what keeps pods from being attached', async ({ runtime, bed }) => {
  const { culvert } = runtime;
  if (culvert.sidecar !== null) await stopDaemon(culvert.sidecar);
  if (culvert.daemon !== null) await stopDaemon(culvert.daemon);
  rmSync(culvert.runtimeDirectory, { recursive: true, force: true });
  await culvert.startDaemon();
  expectError(await runtime.call('STATUS', null), 50, /pod networks of this node are not known/);
  expectError(await runtime.call('ADD', runtime.container(bed.addHost('early'), 'web')), 11,
    /pod networks of this node are not known/);
  const { reason } = await ask(culvert.runtimeDirectory, 'cni.status', { hasOwnIpam: false },
    CniStatusAnswerSchema);
  assert.match(reason ?? '', /^policy: no sidecar/, 'another IPAM plugin needs no pod networks');
});

test.run();
