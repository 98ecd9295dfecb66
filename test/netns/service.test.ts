// Services where packets flow, without netfilter: real TCP and UDP from a pod and from its node to
// backends of every kind.
//
//   namespace node-1                 hub (router)             namespace node-2
//   culvert run; serves                                       culvert run; knows no Service
//   eth0 192.0.2.1  2001:db8::1 ---- port0   port1 ----       eth0 192.0.2.2  2001:db8::2
//     |                                  |                      |
//     +-- pod-1-10  10.244.1.10          |                      +-- pod-2-10  10.244.2.10
//     +-- pod-1-11  10.244.1.11          |
//                                        +---- node-3: the kernel's VXLAN as flannel has it,
//                                              strict reverse paths (RFC 3704 section 2.2)
//                                              eth0 192.0.2.3  2001:db8::3
//                                                +-- pod-3-10  10.244.3.10
//
// Nodes answer as backends too, at their own addresses. Pods have the IPv6 address
// fd00:10:244:<node>::<pod in hex> too, Services 10.96.0.<n> and fd00:96::<n>.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { AGENT_PORT } from '../../cli/demo/agent.ts';
import type { Bed, Host } from '../../cli/demo/bed.ts';
import { addKernelPod, setUpKernelNode } from '../../cli/demo/kernel-node.ts';
import { testNeeding } from '../support/needs.ts';
import { clusterNode, nodeAddress, podAddress, podAddresses } from './support/forge-cluster.ts';
import { Place, openBed, type Pod } from './support/forge-scene.ts';
import { dropsOf } from './support/lab.ts';
import {
  SERVICE_NETWORKS, ServiceVoice, makeService, serviceAddress,
} from './support/service-scene.ts';
import { TRAFFIC_PORT, Traffic } from './support/traffic.ts';
import { PATIENCE_MS } from '../support/until.ts';

const NODES = [1, 2, 3];
const FAMILIES = ['IPv4', 'IPv6'] as const;
const TIERS = ['T0', 'T1', 'T2'] as const;
const HTTP = 80;
const MAPPINGS = [
  { protocol: 'TCP', port: HTTP, to: TRAFFIC_PORT },
  { protocol: 'TCP', port: AGENT_PORT, to: AGENT_PORT },
  { protocol: 'UDP', port: AGENT_PORT, to: AGENT_PORT },
] as const;
const TRANSFER_BYTES = 8 * 1024 * 1024;
/** Streams that are timed, one past a Service and one by it in each round. */
const ROUNDS = 5;
const ROUND_BYTES = 16 * 1024 * 1024;
/** The last one goes in fragments, of which a small node remembers 256 datagrams. */
const SIZES = [1, 100, 1400, 1472, 5000];

/** A backend: a pod, or a node at its own address. */
interface Target {
  name: string;
  n: number;
  addresses: string[];
}

const nodeTarget = (n: number): Target =>
  ({ name: `node-${n} itself`, n, addresses: FAMILIES.map((family) => nodeAddress(n, family)) });
const podTarget = (n: number, pod: number): Target =>
  ({ name: `pod-${n}-${pod}`, n, addresses: podAddresses(n, pod) });

/** Service `index + 1` has the target at `index` as its one backend. */
const TARGETS = [
  podTarget(1, 11), podTarget(2, 10), podTarget(3, 10), nodeTarget(1), nodeTarget(2), nodeTarget(3),
  podTarget(1, 10),
];
const ITSELF = TARGETS.length;
const MANY = ITSELF + 1;

class Scene {
  readonly bed: Bed;
  readonly one: Place;
  readonly client: Pod;
  readonly voice: ServiceVoice;
  readonly traffic: Traffic;
  readonly servers: Traffic[];

  private constructor(
    bed: Bed, one: Place, client: Pod, voice: ServiceVoice, [traffic, ...servers]: Traffic[],
  ) {
    if (traffic === undefined) throw new Error('the client has no thread');
    this.bed = bed;
    this.one = one;
    this.client = client;
    this.voice = voice;
    this.traffic = traffic;
    this.servers = [traffic, ...servers];
  }

  static async create(tier: string): Promise<Scene> {
    const bed = await openBed();
    try {
      const flags = ['--policy-unknown-pods', 'open', '--data-plane-tier', tier];
      const networks = ['--service-networks', SERVICE_NETWORKS.join(',')];
      const one = await Place.add(bed, 1, NODES, [...flags, ...networks]);
      const two = await Place.add(bed, 2, NODES, flags);
      await Promise.all([one.culvert.startDaemon(), two.culvert.startDaemon()]);
      const services = TARGETS.map(({ addresses }, index) =>
        makeService(index + 1, [...MAPPINGS], addresses));
      const voice = await ServiceVoice.start(one, NODES, services);
      await ServiceVoice.start(two, NODES, []);
      const client = await one.addPod(10);
      const pods = [client, await one.addPod(11), await two.addPod(10)].map(({ host }) => host);
      const three = await bed.addNode('node-3', {
        ipv4: nodeAddress(3, 'IPv4'), ipv6: nodeAddress(3, 'IPv6'),
      });
      three.host.sysctl({
        'net.ipv4.conf.all.rp_filter': 1, 'net.ipv4.conf.default.rp_filter': 1,
      });
      await setUpKernelNode(three, clusterNode(3), [1, 2].map(clusterNode));
      pods.push(await addKernelPod(bed, three, 'pod-3-10', podAddresses(3, 10)));
      const nodes = [one.host, two.host, three.host];
      for (const host of pods) await host.agent.ask({ verb: 'serve' });
      for (const [index, host] of nodes.entries()) {
        await host.agent.ask({ verb: 'serve', addresses: nodeTarget(index + 1).addresses });
      }
      const threads: Traffic[] = [];
      for (const host of [...pods, ...nodes]) threads.push(await Traffic.start(host));
      return new Scene(bed, one, client, voice, threads);
    } catch (error) {
      await bed.close();
      throw error;
    }
  }

  async close(): Promise<void> {
    for (const one of this.servers) await one.close();
    this.voice.close();
    await this.bed.close();
  }
}

/** Streams of both directions, to a port of the Service that its backends do not have. */
async function transfer(traffic: Traffic, address: string, what: string): Promise<void> {
  for (const verb of ['send', 'fetch'] as const) {
    const { same, bytes } = await traffic[verb](address, TRANSFER_BYTES, PATIENCE_MS, HTTP);
    assert.ok(same && bytes === TRANSFER_BYTES, `${what}: ${verb}: ${bytes} bytes`);
  }
}

async function ask(
  { agent }: Host, verb: 'tcp' | 'udp', address: string,
): Promise<{ ok: boolean; from: string; detail: string }> {
  return agent.ask(verb === 'tcp'
    ? { verb, address, timeoutMs: PATIENCE_MS }
    : { verb, address, size: 100, timeoutMs: PATIENCE_MS });
}

for (const tier of TIERS) {
  const test = suite(`netns/service, ${tier}`);
  let made: Scene | null = null;
  const scene = async (): Promise<Scene> => {
    made ??= await Scene.create(tier);
    return made;
  };
  test.after(() => made?.close());

  for (const family of FAMILIES) {
    for (const [index, { name, addresses }] of TARGETS.entries()) {
      testNeeding('vxlan', test, `${family}: from a pod by a Service to ${name}`, async () => {
        const { client, traffic } = await scene();
        const address = serviceAddress(index + 1, family);
        const { ok, from, detail } = await ask(client.host, 'tcp', address);
        assert.ok(ok, detail);
        // Only who is its own backend sees the Service's address (docs/SERVICES.md).
        const seen = addresses[0] === client.addresses[0] ? address : podAddress(1, 10, family);
        assert.is(from, seen, 'the source that the backend sees');
        await transfer(traffic, address, name);
        const sizes = await client.host.agent.ask(
          { verb: 'sizes', address, sizes: SIZES, timeoutMs: PATIENCE_MS });
        assert.ok(sizes.ok, `UDP, also in fragments: ${sizes.detail}`);
      });
    }

    testNeeding('vxlan', test, `${family}: from the node to every backend`, async () => {
      const { one } = await scene();
      for (const [index, { name }] of TARGETS.entries()) {
        for (const verb of ['tcp', 'udp'] as const) {
          const { ok, detail } = await ask(one.host, verb, serviceAddress(index + 1, family));
          assert.ok(ok, `${name}: ${verb}: ${detail}`);
        }
      }
    });

    testNeeding('vxlan', test, `${family}: flows spread; without backends all is refused`,
      async () => {
        const { client, voice } = await scene();
        const address = serviceAddress(MANY, family);
        const all = TARGETS.slice(0, 3).flatMap((target) => target.addresses);
        await voice.say([makeService(MANY, [...MAPPINGS], all)]);
        for (let count = 0; count < 20; count += 1) {
          const { ok, detail } = await ask(client.host, 'tcp', address);
          assert.ok(ok, detail);
        }
        await voice.say([makeService(MANY, [...MAPPINGS], [])]);
        assert.match((await ask(client.host, 'tcp', address)).detail, /ECONNREFUSED/);
        await voice.say([], [{ namespace: 'test', name: `service-${MANY}` }]);
        const { detail } = await ask(client.host, 'tcp', address);
        assert.match(detail, /ENETUNREACH|EHOSTUNREACH/);
      });

    testNeeding('vxlan', test, `${family}: a stream whose backend leaves is reset`, async () => {
      const { traffic, voice } = await scene();
      const address = serviceAddress(MANY, family);
      const [here, there] = [podTarget(2, 10).addresses, podTarget(3, 10).addresses];
      await voice.say([makeService(MANY, [...MAPPINGS], here)]);
      const before = await traffic.counters();
      const stream = traffic.send(address, 4096 * TRANSFER_BYTES, PATIENCE_MS, HTTP)
        .then(() => 'it went on', (error: Error) => error.message);
      await traffic.untilUnderWay(before);
      await voice.say([makeService(MANY, [...MAPPINGS], there)]);
      assert.match(await stream, /ECONNRESET|EPIPE/);
      await transfer(traffic, address, 'the new backend');
    });
  }

  testNeeding('vxlan', test, 'a stream by a Service beside one past it', async () => {
    const { traffic } = await scene();
    const ratios: number[] = [];
    for (let round = 0; round < ROUNDS; round += 1) {
      const times: number[] = [];
      for (const [address, port] of [
        [podAddress(2, 10, 'IPv4'), TRAFFIC_PORT], [serviceAddress(2, 'IPv4'), HTTP],
      ] as const) {
        const { same, elapsedMs } = await traffic.send(address, ROUND_BYTES, PATIENCE_MS, port);
        assert.ok(same);
        times.push(elapsedMs);
      }
      ratios.push((times[0] ?? 0) / (times[1] ?? 1));
    }
    ratios.sort((a, b) => a - b);
    console.log(`${tier}: throughput by a Service to that past it: `
      + `${ratios.map((ratio) => ratio.toFixed(2)).join(' ')}`);
  });

  testNeeding('vxlan', test, 'nothing else was dropped, and no checksum was wrong', async () => {
    const { one, servers } = await scene();
    const status = await one.culvert.status();
    const meant = /service(Gone|Empty)|noRoute|flowTableFull/;
    assert.equal(dropsOf(status).filter((drop) => !meant.test(drop)), []);
    assert.is(status.dataPlane.crashes, 0);
    for (const server of servers) {
      const counters = await server.counters();
      for (const name of ['TcpInCsumErrors', 'UdpInCsumErrors', 'Udp6InCsumErrors']) {
        assert.is(counters[name] ?? 0, 0, name);
      }
    }
  });

  test.run();
}
