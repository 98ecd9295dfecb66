// The kinds of Services that clusters have, one by one: as objects in a file, through the sidecar,
// by programs in pods and on nodes. A real DNS server answers at one of them.
//
//   namespace node-1                 hub (router)             namespace node-2
//   culvert run, culvert sync                                 culvert run, culvert sync
//   eth0 192.0.2.1  2001:db8::1 ---- port0   port1 ---- eth0 192.0.2.2  2001:db8::2
//     |                                  |                      |
//     +-- pod-1-10, pod-1-11             |                      +-- pod-2-10, pod-2-11
//                                        |
//                                        +---- node-3: the kernel's VXLAN as flannel has it, strict
//                                              reverse paths (RFC 3704 section 2.2); its address is
//                                              a backend: 192.0.2.3  2001:db8::3
//
// Pods are 10.244.<node>.<pod> and fd00:10:244:<node>::<pod in hex>, Services 10.96.0.<n> and
// fd00:96::<n>. Those with the number 10 are clients and backends, those with 11 backends.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { setUpKernelNode } from '../../cli/demo/kernel-node.ts';
import type { Family } from '../../engine/address.ts';
import { printSkip, testNeeding } from '../support/needs.ts';
import { findTool, toolReason } from '../support/tools.ts';
import { clusterNode, nodeAddress, podAddress, podAddresses } from './support/forge-cluster.ts';
import {
  DRAINING, FAMILIES, KubeScene, serviceObject, sliceObjects, type EndpointObject, type PortObject,
} from './support/kube-scene.ts';
import { dropsOf } from './support/lab.ts';
import { Lines, type Greeting } from './support/lines.ts';
import { serviceAddress } from './support/service-scene.ts';
import { PATIENCE_MS, until } from '../support/until.ts';

const test = suite('netns/service-kinds');
/** So many connections leave one of two backends out less than once in 100,000 times. */
const MANY = 20;
const AFFINITY_SECONDS = 1;
const LONG_AFFINITY_SECONDS = 60;
const AFFINITY_PAUSE_MS = 1300;
const DNS = 53;
const DNS_TARGET = 5353;
const QUESTIONS = [['UDP', 'A'], ['UDP', 'AAAA'], ['TCP', 'A'], ['TCP', 'AAAA']] as const;
const NAME = 'web.test.svc.cluster.local';

const PODS: [number, number][] = [[1, 10], [1, 11], [2, 10], [2, 11]];
const BACKENDS: EndpointObject[] = PODS.map(([node, pod]) => ({ node, pod }));
const POD_CLIENTS = ['pod-1-10', 'pod-2-10'];
const CLIENTS = [...POD_CLIENTS, 'node-1', 'node-2'];
/** Every pod serves TCP at both, and UDP at the first. */
const SERVED = { first: 8001, second: 8002 } as const;
const WEB = 80;
const ADMIN = 81;

const tcp = (port: number, name = 'web'): PortObject => ({ name, protocol: 'TCP', port });
const udp = (port: number, name = 'udp'): PortObject => ({ name, protocol: 'UDP', port });

/** Service `n` with TCP and UDP at port 80, and its backends. */
function webObjects(n: number, endpoints: EndpointObject[], spec: object = {}): object[] {
  return [
    serviceObject('web', n, [tcp(WEB), udp(WEB)], spec),
    ...sliceObjects('web', [tcp(SERVED.first), udp(SERVED.first)], endpoints),
  ];
}

class Scene {
  readonly kube: KubeScene;
  readonly #lines = new Map<string, Lines>();

  private constructor(kube: KubeScene) {
    this.kube = kube;
  }

  static async create(): Promise<Scene> {
    const scene = new Scene(await KubeScene.create([1, 2, 3], 2));
    try {
      await scene.kube.addPods(PODS);
      await scene.#addKernelNode();
      for (const [n, pod] of PODS) await scene.#serve(`pod-${n}-${pod}`, podAddresses(n, pod));
      return scene;
    } catch (error) {
      await scene.close();
      throw error;
    }
  }

  /** The thread of a pod, or of a node by `node-<n>`. */
  at(name: string): Lines {
    const known = this.#lines.get(name);
    if (known !== undefined) return known;
    const n = /^node-(\d+)$/.exec(name)?.[1];
    const host = n === undefined ? this.kube.host(name) : this.kube.place(Number(n)).host;
    const lines = new Lines(host);
    this.#lines.set(name, lines);
    return lines;
  }

  async close(): Promise<void> {
    for (const lines of this.#lines.values()) await lines.close();
    await this.kube.bed.close();
  }

  async #serve(name: string, addresses: string[]): Promise<void> {
    const lines = this.at(name);
    for (const port of Object.values(SERVED)) await lines.serve(name, port);
    for (const address of addresses) await lines.serveDatagrams(name, address, SERVED.first);
  }

  async #addKernelNode(): Promise<void> {
    const addresses = FAMILIES.map((family) => nodeAddress(3, family));
    const [ipv4 = '', ipv6 = ''] = addresses;
    const node = await this.kube.bed.addNode('node-3', { ipv4, ipv6 });
    node.host.sysctl({
      'net.ipv4.conf.all.rp_filter': 1, 'net.ipv4.conf.default.rp_filter': 1,
    });
    await setUpKernelNode(node, clusterNode(3), [1, 2].map(clusterNode));
    this.#lines.set('node-3', new Lines(node.host));
    await this.#serve('node-3', addresses);
  }
}

/** Several connections at a time; fails where one does. */
function ask(lines: Lines, address: string, count: number, port = WEB): Promise<Greeting[]> {
  return Promise.all(Array.from({ length: count }, () => lines.who(address, port, PATIENCE_MS)));
}

const names = (greetings: Greeting[]): string[] =>
  [...new Set(greetings.map(({ by }) => by))].sort();

/** What was wrong, as the kernel calls it. */
const fault = (promise: Promise<unknown>): Promise<string> =>
  promise.then(() => 'an answer', (error: Error) => error.message);

/** The address that a client has towards pods; null for a node, which has several. */
function ownAddress(name: string, family: Family): string | null {
  const [, n, pod] = /^pod-(\d+)-(\d+)$/.exec(name) ?? [];
  return n === undefined ? null : podAddress(Number(n), Number(pod), family);
}

let made: Scene | null = null;
test.after(() => made?.close());

function testScene(name: string, body: (scene: Scene) => Promise<void>): void {
  testNeeding('vxlan', test, name, async () => {
    made ??= await Scene.create();
    await body(made);
  });
}

testScene('a name of a port stands for another number in each slice', async (scene) => {
  const { first, second } = SERVED;
  await scene.kube.say(
    serviceObject('web', 1, [tcp(WEB), tcp(ADMIN, 'admin')]),
    ...sliceObjects('web', [tcp(first), tcp(second, 'admin')], [{ node: 1, pod: 11 }], '-a'),
    ...sliceObjects('web', [tcp(first, 'admin'), tcp(second)], [{ node: 2, pod: 11 }], '-b'));
  for (const family of FAMILIES) {
    const address = serviceAddress(1, family);
    for (const client of CLIENTS) {
      for (const [port, wanted] of [[WEB, [first, second]], [ADMIN, [second, first]]] as const) {
        const greetings = await ask(scene.at(client), address, MANY, port);
        const answers = greetings.map((greeting) => `${greeting.by} ${greeting.port}`);
        assert.equal([...new Set(answers)].sort(),
          [`pod-1-11 ${wanted[0]}`, `pod-2-11 ${wanted[1]}`], `${client}: ${port}`);
      }
    }
  }
});

testScene('a datagram is answered from the address that was asked', async (scene) => {
  await scene.kube.say(...webObjects(2, [{ node: 1, pod: 11 }, { node: 2, pod: 11 }]));
  for (const family of FAMILIES) {
    const address = serviceAddress(2, family);
    for (const client of CLIENTS) {
      const found = new Set<string>();
      const echoes = await Promise.all(Array.from({ length: MANY }, () =>
        scene.at(client).datagram(address, WEB, PATIENCE_MS)));
      for (const { by, seen, from, fromPort } of echoes) {
        assert.equal([from, fromPort], [address, WEB]);
        assert.is(seen, ownAddress(client, family) ?? seen);
        found.add(by);
      }
      assert.equal([...found].sort(), ['pod-1-11', 'pod-2-11']);
    }
  }
});

testScene('a node\'s own address is a backend, behind strict reverse paths', async (scene) => {
  await scene.kube.say(...webObjects(3, [{ node: 3 }]));
  for (const family of FAMILIES) {
    const address = serviceAddress(3, family);
    for (const client of CLIENTS) {
      const [greeting] = await ask(scene.at(client), address, 1);
      assert.equal([greeting?.by, greeting?.port], ['node-3', SERVED.first]);
      assert.is(greeting?.seen, ownAddress(client, family) ?? greeting?.seen, 'the client itself');
      const { by, from } = await scene.at(client).datagram(address, WEB, PATIENCE_MS);
      assert.equal([by, from], ['node-3', address]);
    }
  }
});

testScene('a pod is one of its own backends', async (scene) => {
  await scene.kube.say(...webObjects(4, [{ node: 1, pod: 10 }, { node: 2, pod: 10 }]));
  for (const family of FAMILIES) {
    const address = serviceAddress(4, family);
    for (const client of POD_CLIENTS) {
      const lines = scene.at(client);
      const echoes = await Promise.all(Array.from({ length: MANY }, () =>
        lines.datagram(address, WEB, PATIENCE_MS)));
      const greetings = await ask(lines, address, MANY);
      for (const { by, seen } of [...greetings, ...echoes]) {
        // Nobody takes a packet from himself (docs/SERVICES.md, "The one exception").
        assert.is(seen, by === client ? address : ownAddress(client, family), `${client} at ${by}`);
      }
      assert.equal([names(greetings), names(echoes)], [POD_CLIENTS, POD_CLIENTS]);
    }
  }
});

testScene('a Service of one family has no address of the other', async (scene) => {
  const families = ['IPv6'] as const;
  await scene.kube.say(
    serviceObject('web', 5, [tcp(WEB)], {}, families),
    ...sliceObjects('web', [tcp(SERVED.first)], BACKENDS));
  for (const client of CLIENTS) {
    const greetings = await ask(scene.at(client), serviceAddress(5, 'IPv6'), MANY);
    assert.ok(names(greetings).length > 1);
    const answer = await fault(ask(scene.at(client), serviceAddress(5, 'IPv4'), 1));
    assert.match(answer, /ENETUNREACH|EHOSTUNREACH/, client);
  }
});

testScene('without a backend it refuses at once, until there is one', async (scene) => {
  const unready = { node: 1, pod: 11, conditions: { ready: false } };
  for (const endpoints of [[], [unready]]) {
    await scene.kube.say(...webObjects(6, endpoints));
    for (const family of FAMILIES) {
      for (const client of CLIENTS) {
        const refused = await fault(ask(scene.at(client), serviceAddress(6, family), 1));
        assert.match(refused, /ECONNREFUSED/, `${client} ${family}`);
      }
    }
  }
  await scene.kube.say(...webObjects(6, [{ node: 1, pod: 11 }]));
  for (const family of FAMILIES) {
    for (const client of CLIENTS) {
      const greetings = await ask(scene.at(client), serviceAddress(6, family), 1);
      assert.equal(names(greetings), ['pod-1-11']);
      const refused = await fault(ask(scene.at(client), serviceAddress(6, family), 1, ADMIN));
      assert.match(refused, /ECONNREFUSED/, 'a port that the Service does not have');
    }
  }
});

testScene('a client keeps its backend, also when others come, and not for ever', async (scene) => {
  const say = (endpoints: EndpointObject[], timeoutSeconds: number): Promise<void> =>
    scene.kube.say(...webObjects(7, endpoints, {
      sessionAffinity: 'ClientIP', sessionAffinityConfig: { clientIP: { timeoutSeconds } },
    }));
  const clients = CLIENTS.flatMap((client) => FAMILIES.map((family) =>
    ({ lines: scene.at(client), address: serviceAddress(7, family) })));
  const backends = async (count: number): Promise<string[]> => Promise.all(
    clients.map(async ({ lines, address }) => {
      const [by, ...others] = names(await ask(lines, address, count));
      assert.equal(others, [], 'one for all connections');
      return by ?? '';
    }));
  await say(BACKENDS.slice(0, 1), LONG_AFFINITY_SECONDS);
  const first = await backends(1);
  await say(BACKENDS, LONG_AFFINITY_SECONDS);
  assert.equal(await backends(MANY), first, 'others have come');
  await say(BACKENDS, AFFINITY_SECONDS);
  await backends(1);
  await new Promise((resolve) => setTimeout(resolve, AFFINITY_PAUSE_MS));
  // Eight choices among four backends: all the first one once in 65,536 times.
  const late = await backends(MANY);
  assert.ok(late.some((by, at) => by !== first[at]), 'who was silent chooses anew');
  await say(BACKENDS.filter(({ node, pod }) => `pod-${node}-${pod}` !== late[0]),
    LONG_AFFINITY_SECONDS);
  const [other] = await backends(MANY);
  assert.ok(other !== late[0], 'the one that it had is gone');
});

testScene('a rolling update: nobody is refused, and connections end as servers end them',
  async (scene) => {
    const [old, next] = [{ node: 2, pod: 11 }, { node: 1, pod: 11 }];
    const address = serviceAddress(8, 'IPv4');
    await scene.kube.say(...webObjects(8, [old]));
    const client = scene.at('pod-1-10');
    await client.hold(address, WEB, 10, PATIENCE_MS);
    let isOver = false;
    let asked = 0;
    const asking = (async () => {
      while (!isOver) asked += (await ask(client, address, 4)).length;
    })();
    await scene.kube.say(...webObjects(8, [{ ...old, conditions: DRAINING }, next]));
    assert.equal(names(await ask(scene.at('pod-2-10'), address, MANY)), ['pod-1-11']);
    // Now that no node leads new connections to it, it may refuse them.
    await scene.at('pod-2-11').stopListening();
    const before = await client.held();
    assert.equal(names(await ask(client, address, MANY)), ['pod-1-11']);
    await until('them to go on', async () => (await client.held()).every(
      ({ end, echoes }, at) => end !== '' || echoes > (before[at]?.echoes ?? 0)));
    const after = await client.held();
    assert.ok(after.every(({ by, end }) => by === 'pod-2-11' && end === ''), 'they went on');
    await scene.kube.say(...webObjects(8, [next]));
    await until('them to end', async () =>
      (await client.held()).every(({ end }) => end !== ''));
    isOver = true;
    await asking;
    assert.ok(asked > 0);
    const ended = await client.held();
    assert.equal([...new Set(ended.map(({ end }) => end))], ['ECONNRESET'], 'it is gone');
    await client.letGo();
    for (const port of Object.values(SERVED)) await scene.at('pod-2-11').serve('pod-2-11', port);
  });

const DNS_TEST = 'DNS by UDP and TCP, from every pod and node; one server drains';
const dnsmasq = findTool('dnsmasq');
if (dnsmasq === null) {
  test.skip(DNS_TEST);
  printSkip(DNS_TEST, toolReason('dnsmasq'));
} else {
  testScene(DNS_TEST, async (scene) => {
    const answers = { A: serviceAddress(80, 'IPv4'), AAAA: serviceAddress(80, 'IPv6') };
    const dns = (endpoints: EndpointObject[]): object[] => [
      serviceObject('dns', 10, [udp(DNS, 'dns'), tcp(DNS, 'dns-tcp')]),
      ...sliceObjects('dns', [udp(DNS_TARGET, 'dns'), tcp(DNS_TARGET, 'dns-tcp')], endpoints),
    ];
    const [old, next] = [{ node: 2, pod: 11 }, { node: 1, pod: 11 }];
    await scene.kube.say(...dns([old, next]));
    const [server] = await Promise.all(['pod-2-11', 'pod-1-11'].map((name) =>
      scene.kube.start(scene.kube.host(name), [
        dnsmasq, '--keep-in-foreground', '--log-facility=-', '--user=root',
        '--conf-file=/dev/null', '--no-resolv', '--no-hosts', '--pid-file=',
        `--port=${DNS_TARGET}`, `--host-record=${NAME},${Object.values(answers).join(',')}`,
      ], 'started, version')));
    const askAll = async (): Promise<void> => {
      await Promise.all(CLIENTS.flatMap((client) => FAMILIES.flatMap((family) =>
        QUESTIONS.map(async ([protocol, type]) => {
          const address = serviceAddress(10, family);
          const { from, port, addresses } = await scene.at(client).dns({
            address, protocol, type, name: NAME, timeoutMs: PATIENCE_MS,
          });
          assert.equal([from, port, addresses], [address, DNS, [answers[type]]]);
        }))));
    };
    await askAll();
    await scene.kube.say(...dns([{ ...old, conditions: DRAINING }, next]));
    // New questions go to the other one, so that nobody misses it.
    server?.process.kill('SIGTERM');
    for (let round = 0; round < 5; round += 1) await askAll();
  });
}

testScene('nothing was dropped for another reason', async ({ kube }) => {
  for (const { culvert } of kube.places) {
    const status = await culvert.status();
    const meant = /service(Gone|Empty|Port|Session)|noRoute/;
    assert.equal(dropsOf(status).filter((drop) => !meant.test(drop)), []);
    assert.is(status.dataPlane.crashes, 0);
  }
});

test.run();
