// Services from end to end: Service and EndpointSlice objects are written to a file, and packets of
// real pods feel it. A real DNS server answers at a Service of its own.
//
//   namespace node-1                 hub (router)             namespace node-2
//   culvert run, culvert sync                                 culvert run, culvert sync
//   eth0 192.0.2.1  2001:db8::1 ---- port0   port1 ---- eth0 192.0.2.2  2001:db8::2
//     |                                                         |
//     +-- pod-1-10  10.244.1.10   web                           +-- pod-2-10  10.244.2.10   web
//     +-- pod-1-11  10.244.1.11   DNS, client                   +-- pod-2-11  10.244.2.11   client
//
// Pods have the IPv6 address fd00:10:244:<node>::<pod in hex> too, Services 10.96.0.<n> and
// fd00:96::<n>. Node 2 leaves packets without an answer that node 1 refuses.

import { spawnSync } from 'node:child_process';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Bed, Host } from '../../cli/demo/bed.ts';
import { AGENT_PORT } from '../../cli/demo/agent.ts';
import type { ServiceReport, ServiceSummary } from '../../engine/model.ts';
import type { Family } from '../../engine/address.ts';
import { printSkip, testNeeding } from '../support/needs.ts';
import { findTool, toolReason } from '../support/tools.ts';
import { clusterNode, podAddress, podAddresses } from './support/forge-cluster.ts';
import { CLI, Place, openBed, type Pod } from './support/forge-scene.ts';
import {
  FAMILIES, serviceObject, sliceObjects, type EndpointObject, type PortObject,
} from './support/kube-scene.ts';
import { SERVICE_NETWORKS, serviceAddress } from './support/service-scene.ts';
import { TRAFFIC_PORT, Traffic } from './support/traffic.ts';
import { PATIENCE_MS } from '../support/until.ts';

const test = suite('netns/service-objects');
const NODES = [1, 2];
/** How long what is to be silent is waited for. */
const SILENCE_MS = 700;
const CONNECTIONS = 16;
const STREAM_BYTES = 256 * 1024 * 1024;
const WEB = 80;
const DNS = 53;
const DNS_TARGET = 5353;
const MARK = 'mark';
const ZONE = 'svc.cluster.local';
/** Longer than a datagram of DNS without extensions, RFC 1035 section 4.2.1: it comes by TCP. */
const LONG_TEXT = Array.from({ length: 4 }, (_, at) => String(at).repeat(200));

const WEB_PORTS: PortObject[] = [
  { name: 'http', protocol: 'TCP', port: WEB }, { name: 'bulk', protocol: 'TCP', port: 81 },
];
const WEB_TARGETS: PortObject[] = [
  { name: 'bulk', protocol: 'TCP', port: TRAFFIC_PORT },
  { name: 'http', protocol: 'TCP', port: AGENT_PORT },
];
const BOTH: EndpointObject[] = [{ node: 1, pod: 10 }, { node: 2, pod: 10 }];
const DNS_OBJECTS = [
  serviceObject('dns', 10, [
    { name: 'dns', protocol: 'UDP', port: DNS }, { name: 'dns-tcp', protocol: 'TCP', port: DNS },
  ]),
  ...sliceObjects('dns', [
    { name: 'dns', protocol: 'UDP', port: DNS_TARGET },
    { name: 'dns-tcp', protocol: 'TCP', port: DNS_TARGET },
  ], [{ node: 1, pod: 11 }]),
];

function web(endpoints: EndpointObject[], spec: object = {}): object[] {
  return [
    serviceObject('web', 80, WEB_PORTS, spec), ...sliceObjects('web', WEB_TARGETS, endpoints),
  ];
}

class Scene {
  readonly bed: Bed;
  readonly places: [Place, Place];
  readonly pods: Record<string, Pod>;
  readonly #traffic: Traffic[] = [];
  #said = 0;

  private constructor(bed: Bed, places: [Place, Place], pods: Record<string, Pod>) {
    this.bed = bed;
    this.places = places;
    this.pods = pods;
  }

  static async create(): Promise<Scene> {
    const bed = await openBed();
    try {
      const flags = ['--service-networks', SERVICE_NETWORKS.join(',')];
      const one = await Place.add(bed, 1, NODES, flags);
      const two = await Place.add(bed, 2, NODES, [...flags, '--services-empty', 'drop']);
      await Promise.all([one.culvert.start(), two.culvert.start()]);
      const pods: Record<string, Pod> = {};
      for (const place of [one, two]) {
        for (const number of [10, 11]) {
          const pod = await place.addPod(number);
          await pod.host.agent.ask({ verb: 'serve' });
          pods[pod.name] = pod;
        }
      }
      return new Scene(bed, [one, two], pods);
    } catch (error) {
      await bed.close();
      throw error;
    }
  }

  /** Puts objects into force on both nodes. A Service that changes each time tells when. */
  async say(...objects: object[]): Promise<void> {
    this.#said += 1;
    const port = { name: 'mark', protocol: 'TCP', port: this.#said } as const;
    const mark = serviceObject(MARK, 200, [port]);
    for (const place of this.places) {
      const { sync: { revision } } = await place.culvert.status();
      place.write(NODES.map(clusterNode), [mark, ...objects]);
      await place.culvert.waitFor(({ sync }) => sync.revision !== revision);
    }
  }

  host(name: string): Host {
    const pod = this.pods[name];
    if (pod === undefined) throw new Error(`no pod ${name}`);
    return pod.host;
  }

  /** Streams from pod-1-11 to the backends of the web Service, which are there from now on. */
  async traffic(): Promise<Traffic> {
    if (this.#traffic.length === 0) {
      for (const name of ['pod-1-11', 'pod-1-10', 'pod-2-10']) {
        this.#traffic.push(await Traffic.start(this.host(name)));
      }
    }
    const [client] = this.#traffic;
    if (client === undefined) throw new Error('no client');
    return client;
  }

  async close(): Promise<void> {
    for (const one of this.#traffic) await one.close();
    await this.bed.close();
  }

  /** Pods and nodes that ask, with their own addresses; those of nodes are several. */
  clients(): { name: string; host: Host; addresses: string[] }[] {
    return [
      ...['pod-1-11', 'pod-2-11'].map((name) =>
        ({ name, host: this.host(name), addresses: this.pods[name]?.addresses ?? [] })),
      ...this.places.map((place) =>
        ({ name: `node-${place.n}`, host: place.host, addresses: [] })),
    ];
  }
}

/** Who answers each of several connections to the web Service, and whom they saw. */
async function whoAnswers(
  { agent }: Host, address: string, timeoutMs = PATIENCE_MS,
): Promise<{ by: string[]; seen: string[]; faults: string[] }> {
  const answers = await Promise.all(Array.from({ length: CONNECTIONS }, () =>
    agent.ask({ verb: 'who', address, port: WEB, timeoutMs })));
  const good = answers.filter(({ ok }) => ok).map(({ from }) => from.split(' '));
  return {
    by: [...new Set(good.map(([, by = '']) => by))].sort(),
    seen: [...new Set(good.map(([seen = '']) => seen))],
    faults: answers.filter(({ ok }) => !ok).map(({ detail }) => detail),
  };
}

let made: Scene | null = null;
async function scene(): Promise<Scene> {
  made ??= await Scene.create();
  return made;
}
test.after(() => made?.close());

function backendsOf(family: Family): string[] {
  return [podAddress(1, 10, family), podAddress(2, 10, family)];
}

function culvert({ culvert: { runtimeDirectory } }: Place, ...words: string[]): unknown {
  const { status, stdout, stderr } = spawnSync(process.execPath, [
    CLI, ...words, '--runtime-directory', runtimeDirectory, '-o', 'json',
  ], { encoding: 'utf8' });
  assert.is(status, 0, stderr);
  return JSON.parse(stdout);
}

testNeeding('tun', test, 'two ports to two target ports; the client itself is seen', async () => {
  const { say, clients, places, traffic } = bound(await scene());
  await say(...web(BOTH));
  for (const { name, host: client, addresses } of clients()) {
    for (const family of FAMILIES) {
      const { by, seen, faults } = await whoAnswers(client, serviceAddress(80, family));
      assert.equal([by, faults], [backendsOf(family), []], `${name} ${family}`);
      const own = addresses[FAMILIES.indexOf(family)];
      if (own !== undefined) assert.equal(seen, [own]);
    }
  }
  const sent = await (await traffic()).send(serviceAddress(80, 'IPv4'), 1 << 20, PATIENCE_MS, 81);
  assert.ok(sent.same);
  const [place] = places;
  const listed = culvert(place, 'service', 'list') as ServiceSummary[];
  assert.equal(listed.map(({ name, ports }) => [name, ports.map(({ ready }) => ready)]),
    [[MARK, [0]], ['web', [4, 4]]]);
  const got = culvert(place, 'service', 'get', 'test/web') as ServiceReport;
  assert.equal(got.addresses, FAMILIES.map((family) => serviceAddress(80, family)));
  assert.ok(got.opened > 0);
  assert.is(got.refused, 0);
});

testNeeding('tun', test, 'a policy on a backend admits one client, refuses another', async () => {
  const { say, host } = bound(await scene());
  const podSelector = (name: string): object => ({ matchLabels: { name } });
  await say(...web([{ node: 2, pod: 10 }]), {
    apiVersion: 'networking.k8s.io/v1', kind: 'NetworkPolicy',
    metadata: { name: 'friends', namespace: 'test' },
    spec: {
      podSelector: podSelector('pod-2-10'),
      ingress: [{ from: [{ podSelector: podSelector('pod-1-11') }] }],
    },
  });
  for (const family of FAMILIES) {
    const address = serviceAddress(80, family);
    const admitted = await whoAnswers(host('pod-1-11'), address);
    assert.equal([admitted.by, admitted.faults], [[podAddress(2, 10, family)], []]);
    const refused = await whoAnswers(host('pod-2-11'), address, SILENCE_MS);
    assert.equal(refused.by, [], family);
  }
});

testNeeding('tun', test, 'a terminating backend keeps its connections only', async () => {
  const { say, host, traffic } = bound(await scene());
  const conditions = { ready: false, serving: true, terminating: true };
  const going = { node: 2, pod: 10, conditions };
  await say(...web([{ node: 2, pod: 10 }]));
  const address = serviceAddress(80, 'IPv4');
  const sender = await traffic();
  const before = await sender.counters();
  const stream = sender.send(address, STREAM_BYTES, PATIENCE_MS, 81);
  await sender.untilUnderWay(before);
  await say(...web([{ node: 1, pod: 10 }, going]));
  assert.equal((await whoAnswers(host('pod-1-11'), address)).by, [podAddress(1, 10, 'IPv4')]);
  assert.ok((await stream).same, 'it went on to its end');
  await say(...web([going]));
  assert.equal((await whoAnswers(host('pod-1-11'), address)).by, [podAddress(2, 10, 'IPv4')],
    'better than none');
});

testNeeding('tun', test, 'an empty Service refuses, or is silent where it is so set', async () => {
  const { say, host } = bound(await scene());
  const unready = { node: 2, pod: 10, conditions: { ready: false } };
  await say(...web([unready]));
  for (const family of FAMILIES) {
    const address = serviceAddress(80, family);
    const refused = await whoAnswers(host('pod-1-11'), address);
    assert.is(refused.faults.length, CONNECTIONS);
    assert.ok(refused.faults.every((fault) => /ECONNREFUSED/.test(fault)), refused.faults[0]);
    const silent = await whoAnswers(host('pod-2-11'), address, SILENCE_MS);
    assert.ok(silent.faults.every((fault) => /no answer in time/.test(fault)), silent.faults[0]);
  }
});

testNeeding('tun', test, 'a client keeps its backend; Local means this node\'s', async () => {
  const { say, host } = bound(await scene());
  await say(...web(BOTH, { sessionAffinity: 'ClientIP' }));
  for (const family of FAMILIES) {
    const { by, faults } = await whoAnswers(host('pod-1-11'), serviceAddress(80, family));
    assert.equal([by.length, faults], [1, []]);
  }
  await say(...web(BOTH, { internalTrafficPolicy: 'Local' }));
  for (const n of NODES) {
    for (const family of FAMILIES) {
      const { by } = await whoAnswers(host(`pod-${n}-11`), serviceAddress(80, family));
      assert.equal(by, [podAddress(n, 10, family)]);
    }
  }
});

testNeeding('tun', test, 'a pod is its own backend', async () => {
  const { say, host } = bound(await scene());
  await say(...web([{ node: 1, pod: 10 }]));
  for (const family of FAMILIES) {
    const address = serviceAddress(80, family);
    const { by, seen, faults } = await whoAnswers(host('pod-1-10'), address);
    assert.equal([by, seen, faults], [[podAddress(1, 10, family)], [address], []]);
  }
});

const DNS_TEST = 'names lead to the Service, from pods and nodes, by UDP and TCP';
const dnsmasq = findTool('dnsmasq');
if (dnsmasq === null) {
  test.skip(DNS_TEST);
  printSkip(DNS_TEST, toolReason('dnsmasq'));
} else {
  testNeeding('tun', test, DNS_TEST, async () => {
    const { say, clients, host, bed } = bound(await scene());
    await say(...DNS_OBJECTS, ...web(BOTH));
    const addresses = FAMILIES.map((family) => serviceAddress(80, family)).join(',');
    await bed.start(host('pod-1-11'), [
      dnsmasq, '--keep-in-foreground', '--log-facility=-', '--user=root', '--conf-file=/dev/null',
      '--no-resolv', '--no-hosts', `--port=${DNS_TARGET}`, '--pid-file=',
      ...podAddresses(1, 11).map((address) => `--listen-address=${address}`), '--bind-interfaces',
      `--host-record=web.test.${ZONE},${addresses}`, `--local=/${ZONE}/`,
      `--txt-record=long.test.${ZONE},${LONG_TEXT.join(',')}`,
    ], 'started, version');
    for (const { name, host: { agent }, addresses: [own] } of clients()) {
      for (const family of FAMILIES) {
        // A pod that is its own backend is asked above.
        if (own === podAddress(1, 11, 'IPv4')) continue;
        const server = serviceAddress(10, family);
        const ask = (of: string, kind: 'A' | 'AAAA' | 'TXT') =>
          agent.ask({ verb: 'resolve', server, name: `${of}.test.${ZONE}`, kind, timeoutMs: 3000 });
        const { ok, from, detail } = await ask('web', family === 'IPv4' ? 'A' : 'AAAA');
        assert.ok(ok, `${name} ${family}: ${detail}`);
        assert.is(from, serviceAddress(80, family));
        assert.is((await ask('long', 'TXT')).from, LONG_TEXT.join(' '));
        const { by, faults } = await whoAnswers({ agent } as Host, from);
        assert.equal([by, faults], [backendsOf(family), []]);
      }
    }
  });
}

/** The scene with its methods, to be taken apart. */
function bound(made_: Scene) {
  const { bed, places } = made_;
  return {
    bed, places,
    say: (...objects: object[]) => made_.say(...objects),
    host: (name: string) => made_.host(name),
    clients: () => made_.clients(),
    traffic: () => made_.traffic(),
  };
}

test.run();
