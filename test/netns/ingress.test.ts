// Proxies as clusters have them, unchanged from Debian: an nginx as ingress in a pod, which leads
// hosts and paths to Services, and a haproxy beside a program in its pod. Backends see the proxy's
// pod, so policy admits the proxy and nobody else; the proxy sees the client.
//
//   namespace node-1                 hub (router)             namespace node-2
//   culvert run, culvert sync                                 culvert run, culvert sync
//   eth0 192.0.2.1  2001:db8::1 ---- port0   port1 ---- eth0 192.0.2.2  2001:db8::2
//     |                                                         |
//     +-- pod-1-10  nginx                                       +-- pod-2-10  backend of s1
//     +-- pod-1-11  client                                      +-- pod-2-11  backend of s2
//     +-- pod-1-12  backend of s1                               +-- pod-2-12  client
//                                                               +-- pod-2-13  haproxy, its program
//
//   outside the cluster: 192.0.2.9  2001:db8::9, by a node port with the PROXY protocol
//
// Pods are 10.244.<node>.<pod> and fd00:10:244:<node>::<pod in hex>.

import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Family } from '../../engine/address.ts';
import { printSkip, testNeeding } from '../support/needs.ts';
import { findTool, toolReason } from '../support/tools.ts';
import { nodeAddress, podAddress } from './support/forge-cluster.ts';
import {
  DRAINING, FAMILIES, KubeScene, admitting, serviceObject, sliceObjects, type EndpointObject,
  type PortObject,
} from './support/kube-scene.ts';
import { dropsOf } from './support/lab.ts';
import {
  PLAIN_PORT, PROGRAM_PORT, TLS_FOLDER, TLS_PORT, TOLD_PORT, WAY_OUT_PORT, haproxyCommand,
  nginxCommand,
} from './support/proxies.ts';
import { serviceAddress } from './support/service-scene.ts';
import { Web, type WebAnswer } from './support/web.ts';
import { PATIENCE_MS } from '../support/until.ts';

const test = suite('netns/ingress');
/** How long what policy drops is waited for. */
const SILENCE_MS = 700;
/** So many requests leave one of two backends out less than once in a million times. */
const MANY = 24;
const OK = 200;
const NOT_FOUND = 404;
const UNAVAILABLE = 503;

/** Whoever is in no cluster. */
const OUTSIDE = 'outside';
const OUTSIDE_NUMBER = 9;
const INGRESS = 'pod-1-10';
const SIDECAR = 'pod-2-13';
const CLIENTS: [string, number, number][] = [['pod-1-11', 1, 11], ['pod-2-12', 2, 12]];
const NUMBER = { ingress: 1, outside: 2, s1: 11, s2: 12, program: 13 } as const;
const S1_BACKENDS = ['pod-1-12', 'pod-2-10'];
const S2_BACKENDS = ['pod-2-11'];
const SERVED_AT = { s1: 8081, s2: 9090 } as const;
const PORT = { s1: 4200, s2: 8080, plain: 80, tls: 443, program: 80, node: 30_443 } as const;
const S1_ENDPOINTS: EndpointObject[] = [{ node: 1, pod: 12 }, { node: 2, pod: 10 }];

const tcp = (port: number, name = 'http'): PortObject => ({ name, protocol: 'TCP', port });

/** All objects; the endpoints of s1 are what changes. */
function objects(s1: EndpointObject[] = S1_ENDPOINTS): object[] {
  return [
    serviceObject('ingress', NUMBER.ingress, [tcp(PORT.plain), tcp(PORT.tls, 'https')]),
    ...sliceObjects('ingress', [tcp(PLAIN_PORT), tcp(TLS_PORT, 'https')], [{ node: 1, pod: 10 }]),
    serviceObject('outside', NUMBER.outside, [{ ...tcp(PORT.tls, 'told'), nodePort: PORT.node }],
      { type: 'NodePort' }, FAMILIES, { 'culvert.net/proxy-protocol': 'v2' }),
    ...sliceObjects('outside', [tcp(TOLD_PORT, 'told')], [{ node: 1, pod: 10 }]),
    serviceObject('s1', NUMBER.s1, [tcp(PORT.s1)]),
    ...sliceObjects('s1', [tcp(SERVED_AT.s1)], s1),
    serviceObject('s2', NUMBER.s2, [tcp(PORT.s2)]),
    ...sliceObjects('s2', [tcp(SERVED_AT.s2)], [{ node: 2, pod: 11 }]),
    serviceObject('program', NUMBER.program, [tcp(PORT.program)]),
    ...sliceObjects('program', [tcp(PLAIN_PORT)], [{ node: 2, pod: 13 }]),
    ...S1_BACKENDS.map((name) => admitting(name, [INGRESS])),
    ...S2_BACKENDS.map((name) => admitting(name, [INGRESS, SIDECAR])),
  ];
}

/** The proxies reach s1 by IPv4 and s2 by IPv6, whatever their clients have. */
const S1 = { address: serviceAddress(NUMBER.s1, 'IPv4'), port: PORT.s1 };
const S2 = { address: serviceAddress(NUMBER.s2, 'IPv6'), port: PORT.s2 };

class Scene {
  readonly kube: KubeScene;
  readonly #webs = new Map<string, Web>();

  private constructor(kube: KubeScene) {
    this.kube = kube;
  }

  static async create(nginx: string, haproxy: string): Promise<Scene> {
    const scene = new Scene(
      await KubeScene.create([1, 2], 2, ['--node-ports-enabled', 'true']));
    try {
      const { kube } = scene;
      const outside = await kube.bed.addNode(OUTSIDE, {
        ipv4: nodeAddress(OUTSIDE_NUMBER, 'IPv4'), ipv6: nodeAddress(OUTSIDE_NUMBER, 'IPv6'),
      });
      scene.#webs.set(OUTSIDE, new Web(outside.host));
      await kube.addPods([[1, 10], [1, 11], [1, 12], [2, 10], [2, 11], [2, 12], [2, 13]]);
      for (const name of S1_BACKENDS) await scene.web(name).serve(name, SERVED_AT.s1);
      for (const name of S2_BACKENDS) await scene.web(name).serve(name, SERVED_AT.s2);
      await scene.web(SIDECAR).serve('program', PROGRAM_PORT, '127.0.0.1');
      await kube.say(...objects());
      const ingress = nginxCommand(nginx, scene.#folder('nginx'), [
        { name: 'foo.bar.com', paths: [['/foo', S1], ['/bar', S2], ['/', S1]] },
        { name: 'bar.foo.com', paths: [['/', S2]] },
      ]);
      await kube.start(kube.host(INGRESS), ingress.command, ingress.readyText);
      const sidecar = haproxyCommand(haproxy, scene.#folder('haproxy'), [['/foo', S1], ['/', S2]]);
      await kube.start(kube.host(SIDECAR), sidecar.command, sidecar.readyText);
      return scene;
    } catch (error) {
      await scene.close();
      throw error;
    }
  }

  /** The thread of a pod, or of a node by `node-<n>`. */
  web(name: string): Web {
    const known = this.#webs.get(name);
    if (known !== undefined) return known;
    const n = /^node-(\d+)$/.exec(name)?.[1];
    const host = n === undefined ? this.kube.host(name) : this.kube.place(Number(n)).host;
    const web = new Web(host);
    this.#webs.set(name, web);
    return web;
  }

  async close(): Promise<void> {
    for (const web of this.#webs.values()) await web.close();
    await this.kube.bed.close();
  }

  #folder(name: string): string {
    const path = join(this.kube.bed.folder, name);
    mkdirSync(path);
    return path;
  }
}

/** Asks the ingress, by TLS or without. */
function visit(
  web: Web, family: Family, isTls: boolean, host: string, path: string,
): Promise<WebAnswer> {
  const address = serviceAddress(NUMBER.ingress, family);
  const question = { address, path, host, timeoutMs: PATIENCE_MS };
  if (!isTls) return web.get({ ...question, port: PORT.plain });
  const authority = readFileSync(join(TLS_FOLDER, `${host}.pem`), 'utf8');
  return web.get({ ...question, port: PORT.tls, authority });
}

/** Where the ingress leads a request, and the family by which it goes there. */
const RULES: [host: string, path: string, backends: string[], family: Family][] = [
  ['foo.bar.com', '/foo', S1_BACKENDS, 'IPv4'],
  ['foo.bar.com', '/foo/deeper?x=1', S1_BACKENDS, 'IPv4'],
  ['foo.bar.com', '/bar', S2_BACKENDS, 'IPv6'],
  ['foo.bar.com', '/', S1_BACKENDS, 'IPv4'],
  ['bar.foo.com', '/', S2_BACKENDS, 'IPv6'],
  ['bar.foo.com', '/foo', S2_BACKENDS, 'IPv6'],
];

let made: Scene | null = null;
test.after(() => made?.close());

const [nginx, haproxy] = ['nginx', 'haproxy'].map(findTool);

/** Adds a case, or skips it by name where a proxy is missing. */
function testScene(name: string, body: (scene: Scene) => Promise<void>): void {
  if (typeof nginx !== 'string' || typeof haproxy !== 'string') {
    printSkip(name, toolReason(nginx === null ? 'nginx' : 'haproxy'));
    test.skip(name);
    return;
  }
  testNeeding('tun', test, name, async () => {
    made ??= await Scene.create(nginx, haproxy);
    await body(made);
  });
}

for (const family of FAMILIES) {
  for (const isTls of [false, true]) {
    testScene(`${family}: hosts and paths lead to Services${isTls ? ', by TLS' : ''}`,
      async (scene) => {
        for (const [name, n, pod] of CLIENTS) {
          for (const [host, path, backends, onward] of RULES) {
            const what = `${name}: ${host}${path}`;
            const { status, sight } = await visit(scene.web(name), family, isTls, host, path);
            assert.is(status, OK, what);
            assert.ok(backends.includes(sight?.by ?? ''), `${what}: ${sight?.by}`);
            assert.is(sight?.seen, podAddress(1, 10, onward), `${what}: the ingress pod's address`);
            assert.is(sight?.forwarded, podAddress(n, pod, family), `${what}: the client's`);
            assert.equal([sight?.host, sight?.path], [host, path]);
          }
        }
        for (const node of ['node-1', 'node-2']) {
          const { sight } = await visit(scene.web(node), family, isTls, 'bar.foo.com', '/');
          assert.is(sight?.by, S2_BACKENDS[0], node);
        }
      });
  }
}

testScene('from outside by every node, and the ingress is told who asks', async (scene) => {
  for (const family of FAMILIES) {
    for (const n of [1, 2]) {
      for (const [host, path, backends] of RULES) {
        const authority = readFileSync(join(TLS_FOLDER, `${host}.pem`), 'utf8');
        const { status, sight } = await scene.web(OUTSIDE).get({
          address: nodeAddress(n, family), port: PORT.node, path, host, authority,
          timeoutMs: PATIENCE_MS,
        });
        assert.is(status, OK, `node ${n}: ${host}${path}`);
        assert.ok(backends.includes(sight?.by ?? ''));
        assert.is(sight?.forwarded, nodeAddress(OUTSIDE_NUMBER, family));
      }
    }
  }
});

testScene('the ingress finds all backends of a Service', async (scene) => {
  const web = scene.web('pod-2-12');
  const answers = await Promise.all(Array.from({ length: MANY }, () =>
    visit(web, 'IPv4', true, 'foo.bar.com', '/foo')));
  const found = new Set(answers.map(({ sight }) => sight?.by));
  assert.equal([...found].sort(), S1_BACKENDS);
});

testScene('who is not asked for is refused: other hosts, other certificates', async (scene) => {
  const web = scene.web('pod-1-11');
  assert.is((await visit(web, 'IPv4', false, 'example.org', '/foo')).status, NOT_FOUND);
  const wrong = readFileSync(join(TLS_FOLDER, 'bar.foo.com.pem'), 'utf8');
  const address = serviceAddress(NUMBER.ingress, 'IPv6');
  const answer = await web.get({
    address, port: PORT.tls, path: '/', host: 'foo.bar.com', authority: wrong,
    timeoutMs: PATIENCE_MS,
  }).then(() => 'it was trusted', (error: Error) => error.message);
  assert.match(answer, /self.signed certificate/);
});

testScene('backends admit the ingress, and no client past it', async (scene) => {
  const doors = FAMILIES.flatMap((family) => [
    { address: serviceAddress(NUMBER.s1, family), port: PORT.s1 },
    { address: podAddress(2, 10, family), port: SERVED_AT.s1 },
    { address: serviceAddress(NUMBER.s2, family), port: PORT.s2 },
    { address: podAddress(2, 11, family), port: SERVED_AT.s2 },
  ]);
  await Promise.all(CLIENTS.flatMap(([name]) => doors.map(async (door) => {
    const question = { ...door, path: '/', host: 'foo.bar.com', timeoutMs: SILENCE_MS };
    const answer = await scene.web(name).get(question)
      .then(() => 'an answer', (error: Error) => error.message);
    assert.match(answer, /no answer in time/, `${name} at ${door.address}`);
  })));
});

testScene('backends drain and go, and no request is lost', async (scene) => {
  const web = scene.web('pod-1-11');
  let isOver = false;
  const seen = new Map<string, number>();
  const visitor = async (): Promise<void> => {
    while (!isOver) {
      const { status, sight } = await visit(web, 'IPv4', true, 'foo.bar.com', '/foo');
      assert.is(status, OK);
      seen.set(sight?.by ?? '', (seen.get(sight?.by ?? '') ?? 0) + 1);
    }
  };
  const visitors = Promise.all([visitor(), visitor(), visitor()]);
  const [first, second] = S1_ENDPOINTS as [EndpointObject, EndpointObject];
  for (const endpoints of [
    [{ ...first, conditions: DRAINING }, second], [second], [first, second],
    [first, { ...second, conditions: DRAINING }], [first], [first, second],
  ]) await scene.kube.say(...objects(endpoints));
  isOver = true;
  await visitors;
  assert.equal([...seen.keys()].sort(), S1_BACKENDS);
});

testScene('a sidecar proxy: its program is found, and knows who asks', async (scene) => {
  for (const [name, n, pod] of CLIENTS) {
    for (const family of FAMILIES) {
      const { sight } = await scene.web(name).get({
        address: serviceAddress(NUMBER.program, family), port: PORT.program, path: '/x',
        host: 'program.test', timeoutMs: PATIENCE_MS,
      });
      assert.equal([sight?.by, sight?.seen], ['program', '127.0.0.1'], 'through its proxy');
      assert.is(sight?.forwarded, podAddress(n, pod, family));
    }
  }
});

testScene('a sidecar proxy: what its program asks comes from the pod', async (scene) => {
  const ask = (path: string): Promise<WebAnswer> => scene.web(SIDECAR).get({
    address: '127.0.0.1', port: WAY_OUT_PORT, path, host: 's.test', timeoutMs: PATIENCE_MS,
  });
  const { status, sight } = await ask('/bar');
  assert.is(status, OK);
  assert.equal([sight?.by, sight?.seen], [S2_BACKENDS[0], podAddress(2, 13, 'IPv6')]);
  assert.is((await ask('/foo')).status, UNAVAILABLE, 'policy admits it to s2 alone');
});

testScene('nothing was dropped but by policy', async ({ kube }) => {
  for (const { culvert } of kube.places) {
    const status = await culvert.status();
    assert.equal(dropsOf(status).filter((drop) => !/policy|serviceGone/i.test(drop)), []);
    assert.is(status.dataPlane.crashes, 0);
  }
});

test.run();
