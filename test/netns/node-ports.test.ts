// Node ports and host ports where packets flow: a client outside the cluster, and a pod, ask a node
// for what pods of that node and of another one answer.
//
//   namespace node-1                hub (router)                  namespace node-2
//   culvert run; node ports         port0   port1   port2         culvert run
//   eth0 192.0.2.1  2001:db8::1 ------+       |       |           eth0 192.0.2.2  2001:db8::2
//     +-- pod-1-10  10.244.1.10               +-------|------------/  +-- pod-2-10  10.244.2.10
//                                                     |
//                                     node-3, outside the cluster: 192.0.2.3  2001:db8::3

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { AGENT_PORT } from '../../cli/demo/agent.ts';
import type { Bed, Host } from '../../cli/demo/bed.ts';
import type { Service, StatusReport } from '../../engine/model.ts';
import { testNeeding } from '../support/needs.ts';
import { nodeAddress, podAddress, podAddresses } from './support/forge-cluster.ts';
import { Place, openBed, type Pod } from './support/forge-scene.ts';
import { ServiceVoice, makeService } from './support/service-scene.ts';
import { PATIENCE_MS } from '../support/until.ts';

const NODES = [1, 2];
const FAMILIES = ['IPv4', 'IPv6'] as const;

interface Scene {
  bed: Bed;
  one: Place;
  pod: Pod;
  outside: Host;
  voice: ServiceVoice;
}

const test = suite('netns/node-ports');
let made: Scene | null = null;
test.after(async () => {
  made?.voice.close();
  await made?.bed.close();
});

async function scene(): Promise<Scene> {
  if (made !== null) return made;
  const bed = await openBed();
  try {
    const flags = ['--policy-unknown-pods', 'open'];
    const ports = ['--node-ports-enabled', 'true', '--node-ports-range', '1024-32767'];
    const one = await Place.add(bed, 1, NODES, [...flags, ...ports]);
    const two = await Place.add(bed, 2, NODES, flags);
    await Promise.all([one.culvert.startDaemon(), two.culvert.startDaemon()]);
    const voice = await ServiceVoice.start(one, NODES, []);
    await ServiceVoice.start(two, NODES, []);
    const pod = await one.addPod(10);
    const there = await two.addPod(10);
    for (const { host } of [pod, there]) await host.agent.ask({ verb: 'serve' });
    const outside = await bed.addNode('node-3', {
      ipv4: nodeAddress(3, 'IPv4'), ipv6: nodeAddress(3, 'IPv6'),
    });
    made = { bed, one, pod, outside: outside.host, voice };
    return made;
  } catch (error) {
    await bed.close();
    throw error;
  }
}

/** A Service with the pods of some nodes as backends, by the node's port that agents ask. */
function nodePortService(nodes: number[], more: Partial<Service> = {}): Service {
  const mappings = (['TCP', 'UDP'] as const).map((protocol) =>
    ({ protocol, port: 80, to: AGENT_PORT }));
  const service = makeService(1, mappings, nodes.flatMap((n) => podAddresses(n, 10)), more);
  const here = podAddresses(1, 10);
  for (const port of service.ports) {
    port.nodePort = AGENT_PORT;
    for (const backend of port.backends) backend.local = here.includes(backend.address);
  }
  return service;
}

/** Asks until there is an answer, or a refusal where that is `wanted`: the proxy opens and closes
 * its ports a little later than it is told of them. */
async function becomes(
  { agent }: Host, verb: 'tcp' | 'udp', address: string, wanted: 'answered' | 'refused',
): Promise<{ ok: boolean; from: string; detail: string }> {
  const endMs = performance.now() + PATIENCE_MS;
  for (;;) {
    const answer = await agent.ask(verb === 'tcp'
      ? { verb, address, timeoutMs: PATIENCE_MS }
      : { verb, address, size: 100, timeoutMs: PATIENCE_MS });
    const isRefused = answer.detail.includes('ECONNREFUSED');
    const isWanted = wanted === 'answered' ? answer.ok : isRefused;
    if (isWanted || performance.now() > endMs) return answer;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

for (const family of FAMILIES) {
  for (const n of NODES) {
    testNeeding('tun', test, `${family}: from outside and from a pod to node ${n}'s pod`,
      async () => {
        const { outside, pod, voice } = await scene();
        await voice.say([nodePortService([n])]);
        const address = nodeAddress(1, family);
        for (const host of [outside, pod.host]) {
          for (const verb of ['tcp', 'udp'] as const) {
            const { ok, detail, from } = await becomes(host, verb, address, 'answered');
            assert.ok(ok, `${verb}: ${detail}`);
            if (verb === 'tcp') assert.is(from, podAddress(1, 0, family), 'the node asks');
          }
        }
      });
  }

  testNeeding('tun', test, `${family}: local only, and nobody here: refused`, async () => {
    const { outside, voice } = await scene();
    const address = nodeAddress(1, family);
    await voice.say([nodePortService([1, 2], { externalLocal: true })]);
    assert.ok((await becomes(outside, 'tcp', address, 'answered')).ok);
    await voice.say([nodePortService([2], { externalLocal: true })]);
    const { detail } = await becomes(outside, 'tcp', address, 'refused');
    assert.match(detail, /ECONNREFUSED/);
    await voice.say([], [{ namespace: 'test', name: 'service-1' }]);
  });
}

testNeeding('tun', test, 'the daemon tells of its ports, and of those it cannot have', async () => {
  const { one, voice } = await scene();
  const status = async (isSo: (now: StatusReport) => boolean): Promise<StatusReport> => {
    const endMs = performance.now() + PATIENCE_MS;
    for (;;) {
      const now = await one.culvert.status();
      if (isSo(now) || performance.now() > endMs) return now;
    }
  };
  const { nodePorts, tables } = await status((now) => (now.nodePorts.connectionsOpened ?? 0) > 0);
  assert.ok((nodePorts.connectionsOpened ?? 0) > 0);
  assert.ok((nodePorts.sessionsOpened ?? 0) > 0);
  assert.ok(tables.some(({ name }) => name === 'node port connections'));
  await one.host.agent.ask({ verb: 'serve', addresses: [nodeAddress(1, 'IPv4')] });
  await voice.say([nodePortService([1])]);
  const { sync: { problems } } = await status((now) => now.sync.problems.length === 3);
  assert.is(problems.length, 3, 'TCP of both families, UDP of the one that the agent serves');
  for (const problem of problems) {
    assert.match(problem, /^service test\/service-1: port .*:8080\/(TCP|UDP): EADDRINUSE; /);
    assert.match(problem, /the port is in use by another program$/);
  }
});

test.run();
