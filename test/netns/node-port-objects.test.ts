// Node ports and host ports from end to end: objects are written to a file, and a client outside
// the cluster feels it.
//
//   namespace node-1                hub (router)                  namespace node-2
//   culvert run, culvert sync       port0   port1   port2         culvert run, culvert sync
//   eth0 192.0.2.1  2001:db8::1 ------+       |       |           eth0 192.0.2.2  2001:db8::2
//     +-- pod-1-10  10.244.1.10               +-------|------------/  +-- pod-2-10  10.244.2.10
//     +-- pod-1-20  10.244.1.20                       |
//         with a host port            node-3, outside the cluster: 192.0.2.3  2001:db8::3

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { AGENT_PORT } from '../../cli/demo/agent.ts';
import type { Host } from '../../cli/demo/bed.ts';
import { testNeeding } from '../support/needs.ts';
import { nodeAddress } from './support/forge-cluster.ts';
import {
  FAMILIES, KubeScene, serviceObject, sliceObjects, type EndpointObject, type PortObject,
} from './support/kube-scene.ts';
import { PATIENCE_MS } from '../support/until.ts';

const test = suite('netns/node-port-objects');
const NODES = [1, 2];
/** How long what is to be silent is waited for. */
const SILENCE_MS = 500;
const HERE = { node: 1, pod: 10 };
const THERE = { node: 2, pod: 10 };
const PORTS = (['TCP', 'UDP'] as const).map((protocol): PortObject & { nodePort: number } =>
  ({ name: protocol.toLowerCase(), protocol, port: 80, nodePort: AGENT_PORT }));
const TARGETS = PORTS.map(({ name, protocol }): PortObject =>
  ({ name, protocol, port: AGENT_PORT }));

interface Scene {
  kube: KubeScene;
  outside: Host;
}
let made: Scene | null = null;
test.after(async () => {
  await made?.kube.bed.close();
});

async function theScene(): Promise<Scene> {
  if (made !== null) return made;
  const kube = await KubeScene.create(NODES, NODES.length, [
    '--node-ports-enabled', 'true', '--node-ports-range', '1024-32767',
  ]);
  const { host: outside } = await kube.bed.addNode('node-3', {
    ipv4: nodeAddress(3, 'IPv4'), ipv6: nodeAddress(3, 'IPv6'),
  });
  made = { kube, outside };
  await kube.addPods([[1, 10], [1, 20], [2, 10]]);
  for (const name of ['pod-1-10', 'pod-1-20', 'pod-2-10']) {
    await kube.host(name).agent.ask({ verb: 'serve' });
  }
  return made;
}

function testScene(name: string, body: (scene: Scene) => Promise<void>): void {
  testNeeding('tun', test, name, async () => body(await theScene()));
}

function web(endpoints: EndpointObject[], spec: object = {}): object[] {
  const outside = { type: 'NodePort', ...spec };
  return [serviceObject('web', 80, PORTS, outside), ...sliceObjects('web', TARGETS, endpoints)];
}

/** A pod with its port as one of node 1. */
function podWithHostPort(): object {
  const ports = (['TCP', 'UDP'] as const).map((protocol) =>
    ({ protocol, containerPort: AGENT_PORT, hostPort: AGENT_PORT }));
  return {
    apiVersion: 'v1', kind: 'Pod', metadata: { name: 'pod-1-20', namespace: 'test' },
    spec: { nodeName: 'node-1', containers: [{ ports }] }, status: { phase: 'Running' },
  };
}

/** What the node's port says in the end: the proxy is told of a port a little later than the host.
 * Of UDP the agent hears no refusals, only silence. */
async function becomes(
  { outside: { agent } }: Scene, n: number, wanted: 'answered' | 'refused',
): Promise<void> {
  for (const family of FAMILIES) {
    for (const verb of ['tcp', 'udp'] as const) {
      const address = nodeAddress(n, family);
      const endMs = performance.now() + PATIENCE_MS;
      for (;;) {
        const { ok, detail } = await agent.ask(verb === 'tcp'
          ? { verb, address, timeoutMs: PATIENCE_MS }
          : { verb, address, size: 100, timeoutMs: SILENCE_MS });
        const isRefused = verb === 'tcp' ? detail.includes('ECONNREFUSED') : !ok;
        if (wanted === 'answered' ? ok : isRefused) break;
        assert.ok(performance.now() < endMs, `${verb} to ${address} is not ${wanted}: ${detail}`);
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
    }
  }
}

testScene('a node port is at every node, wherever the backend is', async (scene) => {
  await scene.kube.say(...web([HERE]));
  for (const n of NODES) await becomes(scene, n, 'answered');
  await scene.kube.say(...web([HERE], { type: 'ClusterIP' }));
  for (const n of NODES) await becomes(scene, n, 'refused');
});

testScene('a policy of Local for clients from outside closes the port elsewhere', async (scene) => {
  await scene.kube.say(...web([THERE], { externalTrafficPolicy: 'Local' }));
  await becomes(scene, 2, 'answered');
  await becomes(scene, 1, 'refused');
  await scene.kube.say(...web([HERE, THERE], { externalTrafficPolicy: 'Local' }));
  for (const n of NODES) await becomes(scene, n, 'answered');
});

testScene('one for clients within does not', async (scene) => {
  await scene.kube.say(...web([THERE], { internalTrafficPolicy: 'Local' }));
  for (const n of NODES) await becomes(scene, n, 'answered');
});

testScene('a Service that nobody answers for is refused, and one that is gone', async (scene) => {
  const unready = { ...HERE, conditions: { ready: false } };
  await scene.kube.say(...web([unready]));
  for (const n of NODES) await becomes(scene, n, 'refused');
  await scene.kube.say(...web([HERE]));
  await becomes(scene, 1, 'answered');
  await scene.kube.say();
  for (const n of NODES) await becomes(scene, n, 'refused');
});

testScene('a pod\'s host port is at its node', async (scene) => {
  await scene.kube.say(podWithHostPort());
  await becomes(scene, 1, 'answered');
  await becomes(scene, 2, 'refused');
  await scene.kube.say();
  await becomes(scene, 1, 'refused');
});

test.run();
