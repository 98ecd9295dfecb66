// Policy where packets flow: real pods, real TCP and UDP, and a sidecar whose words are the test's.
//
//   namespace node-1                 hub (router)             namespace node-2
//   culvert run; enforces                                     culvert run; answers a denial by
//   eth0 192.0.2.1  2001:db8::1 ---- port0   port1 ----       ICMP; eth0 192.0.2.2  2001:db8::2
//     |                                  |                      |
//     +-- pod-1-10  10.244.1.10          |                      +-- pod-2-10  10.244.2.10
//     +-- pod-1-11  10.244.1.11          +--- node-3: a VTEP made by hand (support/forge.ts)
//
// Pods have the IPv6 address fd00:10:244:<node>::<pod in hex> too. Identities are 10 for pod-1-10,
// 11 for pod-1-11, 20 for pod-2-10. How flows expire is for test/wasm/flow.test.ts, which has the
// clock in its hands.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { askAll } from '../../cli/client.ts';
import { AGENT_PORT, type AgentAnswer } from '../../cli/demo/agent.ts';
import type { Bed, Host } from '../../cli/demo/bed.ts';
import type { Family } from '../../engine/address.ts';
import { EndpointReportSchema, type PolicyChange } from '../../engine/model.ts';
import { FLOW_EXCHANGE_STEPS, FLOW_STEP_SHIFT } from '../../wasm/abi/policy.ts';
import { testNeeding } from '../support/needs.ts';
import { PROTOCOL, ipv4, ipv6, tcp, udp } from '../support/packets.ts';
import { until } from '../support/until.ts';
import { DatagramListener, DatagramSender } from './support/datagrams.ts';
import { Forge, encapsulate, type Side } from './support/forge.ts';
import { nodeAddress, podAddress, podAddresses, vtepMac } from './support/forge-cluster.ts';
import { Place, mustReach, openBed, type Pod } from './support/forge-scene.ts';
import { Stream } from './support/forge-stream.ts';
import {
  TCP, UDP, Voice, allowing, identify, podPolicy, ports, type Permission,
} from './support/policy-scene.ts';

const NODES = [1, 2, 3];
const FAMILIES = ['IPv4', 'IPv6'] as const;
const FIRST = 10;
const SECOND = 11;
const REMOTE = 20;
/** Rule sets in force between tests: no packet may pass that a test has not asked for. */
const NOTHING = 1;
/** Ports of the streams, which are from 9000 on. */
const STREAMS = [ports(TCP, 9000, 9999), ports(UDP, 9000, 9999)];
const SERVED = [ports(TCP, AGENT_PORT), ports(UDP, AGENT_PORT)];
const SERVED_AND_STREAMS = [
  ports(TCP, AGENT_PORT), ports(TCP, 9000, 9999), ports(UDP, AGENT_PORT), ports(UDP, 9000, 9999),
];
const REACH_MS = 8000;
const BLOCKED_MS = 500;
/** Changes of policy under which datagrams flow. */
const CHANGES = 200;
/** More than twice what the flow table of the profile `small` has room for. */
const FLOOD = 40_000;
const FLOODERS = 30;
const TCP_SYN = 2;
const FLOOD_BATCH = 500;
/** Of the table's room, one wave after the other: each flow that is in two of them is established,
 * and only few are not at a time, so that they do not give way to one another. */
const FLOOD_SHARES = [0.75, 0.75, 1, 1, 1.25, 1.25, 1.5];
/** After so long a packet makes a conversation of an exchange by UDP. */
const EXCHANGE_MS = (FLOW_EXCHANGE_STEPS + 1) << FLOW_STEP_SHIFT;

interface Scene {
  bed: Bed;
  one: Place;
  two: Place;
  first: Pod;
  second: Pod;
  remote: Pod;
  /** The sidecars of node-1 and node-2. */
  voices: [Voice, Voice];
}

const test = suite('netns/policy');
let scene: Scene | null = null;

async function theScene(): Promise<Scene> {
  if (scene !== null) return scene;
  const bed = await openBed();
  try {
    const one = await Place.add(bed, 1, NODES);
    const two = await Place.add(bed, 2, NODES, ['--policy-deny-with-icmp', 'true']);
    await Promise.all([one.culvert.startDaemon(), two.culvert.startDaemon()]);
    const voices: Scene['voices'] = [await Voice.start(one, NODES), await Voice.start(two, NODES)];
    const first = await one.addPod(10);
    const [second, remote] = [await one.addPod(11), await two.addPod(10)];
    const hosts = [one.host, two.host, first.host, second.host, remote.host];
    for (const { agent } of hosts) await agent.ask({ verb: 'serve' });
    await voices[0].say({
      identities: [
        ...identify(1, 10, FIRST), ...identify(1, 11, SECOND), ...identify(2, 10, REMOTE),
      ],
      ruleSets: [allowing(NOTHING, [])],
    });
    scene = { bed, one, two, first, second, remote, voices };
    return scene;
  } catch (error) {
    await bed.close();
    throw error;
  }
}

test.after(async () => {
  for (const voice of scene?.voices ?? []) voice.close();
  await scene?.bed.close();
});

/** Adds a test that has the scene, in which nothing is allowed on node-1, all on node-2. */
function scenario(name: string, body: (scene: Scene) => Promise<void>): void {
  testNeeding('tun', test, name, async () => {
    const all = await theScene();
    await all.voices[0].say({
      endpoints: [podPolicy(1, 10, NOTHING, NOTHING), podPolicy(1, 11, NOTHING, NOTHING)],
    });
    await all.voices[1].say({ endpoints: [podPolicy(2, 10, 0, 0)] });
    await body(all);
  });
}

/** New rule sets for the ingress and the egress of a pod of node-1. */
function isolate(
  pod: number, ingress: Permission[], egress: Permission[],
): Pick<PolicyChange, 'ruleSets' | 'endpoints'> {
  const number = pod * 2;
  return {
    ruleSets: [allowing(number, ingress), allowing(number + 1, egress)],
    endpoints: [podPolicy(1, pod, number, number + 1)],
  };
}

/** Says that nothing comes back any more, by either protocol. */
async function assertCut(stream: Stream, what: string): Promise<void> {
  await stream.speaks(5); // what was on its way to the client has arrived
  const before = await stream.report();
  await stream.speaks(40);
  const after = await stream.report();
  assert.equal([after.echoed, after.returned], [before.echoed, before.returned], what);
}

for (const family of FAMILIES) {
  for (const from of ['second', 'remote'] as const) {
    const whence = from === 'second' ? 'the same node' : 'another node';
    scenario(`${family}: a flow from ${whence} lives as long as it is allowed`, async (all) => {
      const [voice] = all.voices;
      const identity = from === 'second' ? SECOND : REMOTE;
      const [n, pod] = from === 'second' ? [1, 11] : [2, 10];
      const allowed = isolate(10, [{ identity, ports: STREAMS }], []);
      await voice.say(allowed);
      if (from === 'second') await voice.say(isolate(11, [], [{ identity: FIRST }]));
      const stream = await Stream.start(all[from].host, all.first.host, podAddress(1, 10, family));
      try {
        const cuts: [what: string, change: Partial<PolicyChange>, back: Partial<PolicyChange>][] = [
          ['the policy has gone', { endpoints: [podPolicy(1, 10, NOTHING, NOTHING)] }, allowed],
          ['other ports only', isolate(10, [{ identity, ports: SERVED }], []), allowed],
          ['other labels', { identities: identify(n, pod, 99) },
            { identities: identify(n, pod, identity) }],
        ];
        for (const [what, change, back] of cuts) {
          await stream.goesOn();
          await voice.say(change);
          await assertCut(stream, what);
          await voice.say(back);
        }
        await stream.goesOn();
        assert.is((await stream.report()).fault, '');
      } finally {
        await stream.close();
      }
    });
  }
}

async function attempt(
  { agent }: Host, address: string, verb: 'tcp' | 'udp' | 'ping', timeoutMs: number,
): Promise<AgentAnswer> {
  return agent.ask(verb === 'tcp'
    ? { verb, address, timeoutMs }
    : { verb, address, size: 64, timeoutMs });
}

/** Tries both families. */
async function mustPass(from: Host, to: string[], verb: 'tcp' | 'udp'): Promise<void> {
  for (const address of to) {
    const { ok, detail } = await attempt(from, address, verb, REACH_MS);
    assert.ok(ok, `${from.name} to ${address} by ${verb}: ${detail}`);
  }
}

/** Tries both families at the same time. What policy denies in silence gets no answer at all. */
async function mustNotPass(from: Host, to: string[], verb: 'tcp' | 'udp' | 'ping'): Promise<void> {
  await Promise.all(to.map(async (address) => {
    const { ok, detail } = await attempt(from, address, verb, BLOCKED_MS);
    assert.not(ok, `${from.name} to ${address} by ${verb}`);
    assert.is(detail, 'no answer in time');
  }));
}

scenario('both ends and both directions count, and the node reaches its pods', async (all) => {
  const { one, two, first, second, remote, voices: [voice] } = all;
  const [near, beside, far] = [first.addresses, second.addresses, remote.addresses];
  const own = podAddresses(1, 0);
  const tcpOnly = [ports(TCP, AGENT_PORT)];
  const status = await one.culvert.status();
  await voice.say(isolate(10, [{ identity: REMOTE, ports: tcpOnly }],
    [{ identity: SECOND, ports: tcpOnly }]));
  await voice.say(isolate(11, [{ identity: FIRST }], [{ identity: FIRST }, { identity: REMOTE }]));
  await mustPass(first.host, beside, 'tcp');
  await mustPass(remote.host, near, 'tcp');
  await mustPass(second.host, far, 'tcp');
  await mustPass(second.host, far, 'udp');
  await Promise.all([
    mustNotPass(first.host, beside, 'udp'), // egress of the sender
    mustNotPass(first.host, far, 'tcp'),
    mustNotPass(remote.host, near, 'udp'), // ingress of the receiver
    mustNotPass(remote.host, near, 'ping'), // no permission with ports is one for ICMP
    mustNotPass(remote.host, beside, 'tcp'),
    mustNotPass(second.host, near, 'tcp'), // allowed at one end of the two
    mustNotPass(two.host, near, 'tcp'), // a node that is not the pod's own
  ]);
  for (const verb of ['tcp', 'udp'] as const) {
    await mustPass(one.host, [...near, ...beside], verb);
    await mustPass(first.host, own, verb);
  }
  await mustReach(one.host, [...near, ...beside]);
  const { drops } = await one.culvert.status();
  for (const [direction, reason] of [
    ['outbound', 'policyEgress'], ['outbound', 'policyIngress'], ['inbound', 'policyIngress'],
  ] as const) {
    const [before = 0, after = 0] = [status.drops[direction][reason], drops[direction][reason]];
    assert.ok(after > before, `${direction} ${reason}`);
  }
});

async function stateOf({ culvert }: Place, { name }: Pod): Promise<string | undefined> {
  const all = await askAll(culvert.runtimeDirectory, 'endpoint.list', EndpointReportSchema);
  return all.find((endpoint) => endpoint.name === name)?.state;
}

scenario('a pod is closed until its policy is known, from its first packet on', async (all) => {
  const { bed, one, remote, voices: [voice] } = all;
  const [open, shut] = [7001, 7002];
  const host = bed.addHost('pod-1-12');
  const targets = (addresses: string[]) => addresses.flatMap((address) =>
    [open, shut].map((port) => ({ address, port })));
  const ends = [
    await DatagramListener.start(remote.host, [open, shut]),
    await DatagramListener.start(host, [open, shut]),
  ] as const;
  const senders = [
    await DatagramSender.start(host, targets(remote.addresses)),
    await DatagramSender.start(remote.host, targets(podAddresses(1, 12))),
  ];
  try {
    const pod = await one.addPod(12, 1430, host);
    const before = (await one.culvert.status()).drops;
    for (const sender of senders) await sender.goesOn(1000);
    assert.is(await stateOf(one, pod), 'closed');
    for (const end of ends) assert.equal([await end.count(open), await end.count(shut)], [0, 0]);
    for (const direction of ['outbound', 'inbound'] as const) {
      const [was = 0, is = 0] = [before, (await one.culvert.status()).drops]
        .map((drops) => drops[direction]['policyPending']);
      assert.ok(is > was, direction);
    }
    const permission = [{ identity: REMOTE, ports: [ports(UDP, open)] }];
    await voice.say(isolate(12, permission, permission));
    assert.is(await stateOf(one, pod), 'ready');
    for (const end of ends) await end.hears(open);
    for (const sender of senders) await sender.goesOn(1000);
    for (const end of ends) assert.is(await end.count(shut), 0);
    await voice.say({ removedEndpoints: [{ namespace: 'test', name: pod.name }] });
    assert.is(await stateOf(one, pod), 'closed');
  } finally {
    for (const each of [...senders, ...ends]) await each.close();
    await one.culvert.removePod('test', 'pod-1-12');
  }
});

scenario('a denial is silent, or told by ICMP where the node is set so', async (all) => {
  const { first, remote, voices: [voice, other] } = all;
  await mustNotPass(first.host, remote.addresses, 'tcp');
  await mustNotPass(first.host, remote.addresses, 'ping');
  await voice.say(isolate(10, [{ identity: REMOTE }], [{ identity: REMOTE }]));
  await other.say({
    ruleSets: [allowing(NOTHING, [])], endpoints: [podPolicy(2, 10, NOTHING, NOTHING)],
  });
  for (const [from, to] of [[first, remote], [remote, first]] as const) {
    for (const address of to.addresses) {
      const { detail } = await attempt(from.host, address, 'tcp', REACH_MS);
      assert.match(detail, /^connect (EHOSTUNREACH|EACCES) /, `${from.name} to ${address}`);
      const ping = await attempt(from.host, address, 'ping', REACH_MS);
      assert.not(ping.ok);
      const expected = address.includes(':') ? 'ICMP type 1 code 1' : 'ICMP type 3 code 13';
      assert.is(ping.detail, expected, `${from.name} to ${address}`);
    }
  }
});

/** Says that datagrams arrive at the open ports, and at no others any more. */
async function assertOnly(
  listener: DatagramListener, open: readonly number[], shut: readonly number[],
): Promise<void> {
  const hears = async (): Promise<void> => {
    for (const port of open) await listener.hears(port);
  };
  const counts = (): Promise<number[]> => Promise.all(shut.map((port) => listener.count(port)));
  // What was on its way to the others arrives, on a busy machine bit by bit.
  let before = await counts();
  await until('nothing to come any more', async () => {
    await hears();
    await hears();
    const last = before;
    before = await counts();
    return before.every((count, at) => count === last[at]);
  });
  await hears();
  await hears();
  assert.equal(await counts(), before);
}

scenario(`no packet is judged by half of one of ${CHANGES} changes`, async (all) => {
  const { first, second, remote, voices: [voice] } = all;
  // Ports of the sender on the same node and of the one on another, for the odd state, the even
  // one, and neither: those pass by the rule sets of one state and the identities of the other.
  const [odd, even, never] = [[7001, 7011], [7002, 7012], [7003, 7013]] as const;
  const listener = await DatagramListener.start(first.host, [...odd, ...even, ...never]);
  const targets = (at: 0 | 1, family: Family) =>
    [odd, even, never].map((all) => ({ address: podAddress(1, 10, family), port: all[at] }));
  const state = (label: number, other: number, open: readonly number[]): Partial<PolicyChange> => ({
    identities: [...identify(1, 11, label), ...identify(2, 10, label)],
    ...isolate(10, [
      { identity: label, ports: open.map((port) => ports(UDP, port)) },
      { identity: other, ports: never.map((port) => ports(UDP, port)) },
    ], []),
  });
  const states = [state(31, 32, odd), state(32, 31, even)] as const;
  await voice.say({ endpoints: [podPolicy(1, 11, NOTHING, 0)] });
  const senders = [
    await DatagramSender.start(second.host, targets(0, 'IPv4')),
    await DatagramSender.start(remote.host, targets(1, 'IPv6')),
  ];
  try {
    for (let change = 0; change < CHANGES; change += 1) {
      const isOdd = change % 2 === 0;
      await voice.say(isOdd ? states[0] : states[1]);
      if (change % 20 <= 1) await assertOnly(listener, isOdd ? odd : even, isOdd ? even : odd);
    }
    for (const sender of senders) await sender.goesOn(100);
    for (const port of never) assert.is(await listener.count(port), 0);
  } finally {
    for (const each of [...senders, listener]) await each.close();
    await voice.say({ identities: [...identify(1, 11, SECOND), ...identify(2, 10, REMOTE)] });
  }
});

function sideOf(family: Family): Side {
  return {
    family,
    own: { address: nodeAddress(3, family), mac: vtepMac(3, family) },
    remote: { address: nodeAddress(1, family), mac: vtepMac(1, family) },
  };
}

/** Packet `number` of a flood from the pods of node-3: a flow of its own for each number. */
function floodPacket(family: Family, protocol: 'tcp' | 'udp', number: number): Uint8Array {
  const source = podAddress(3, 1 + (number % 250), family);
  const destination = podAddress(1, 10, family);
  const sourcePort = 1024 + Math.floor(number / 250);
  const fields = { source, destination, sourcePort, destinationPort: AGENT_PORT };
  const segment = protocol === 'tcp'
    ? tcp({ ...fields, flags: TCP_SYN }, new Uint8Array(0))
    : udp(fields, new Uint8Array(8));
  return family === 'IPv4'
    ? ipv4({ source, destination, protocol: PROTOCOL[protocol] }, segment)
    : ipv6({ source, destination, nextHeader: PROTOCOL[protocol] }, segment);
}

/** Sends packets of many flows, half of them of each family; so many of each that their answers
 * are answered too, if `times` is more than one. Ends early when it is enough. */
async function flood(
  forges: Forge[], protocol: 'tcp' | 'udp', times: number, isEnough: () => Promise<boolean>,
  count = FLOOD,
): Promise<void> {
  for (let first = 0; first < count; first += FLOOD_BATCH) {
    for (let time = 0; time < times; time += 1) {
      for (let number = first; number < first + FLOOD_BATCH; number += 1) {
        const forge = forges[number % forges.length];
        if (forge === undefined) continue;
        forge.send(encapsulate(forge.side, floodPacket(forge.side.family, protocol, number)));
      }
      if (await isEnough()) return;
    }
  }
}

scenario('a flood of new flows costs no established one', async (all) => {
  const { bed, one, first, remote, voices: [voice] } = all;
  const { host } = await bed.addNode('node-3', {
    ipv4: nodeAddress(3, 'IPv4'), ipv6: nodeAddress(3, 'IPv6'),
  });
  const forges = FAMILIES.map((family) => new Forge(host, sideOf(family)));
  const flows = async (): Promise<{ used: number; limit: number }> => {
    const { tables } = await one.culvert.status();
    return tables.find(({ name }) => name === 'flows') ?? { used: 0, limit: 0 };
  };
  const refused = async (): Promise<number> =>
    (await one.culvert.status()).drops.inbound['flowTableFull'] ?? 0;
  await voice.say({
    identities: [['10.244.3.0/24', FLOODERS], ['fd00:10:244:3::/64', FLOODERS]],
    ...isolate(10, [
      { identity: REMOTE, ports: SERVED_AND_STREAMS }, { identity: FLOODERS, ports: SERVED },
    ], []),
  });
  const stream = await Stream.start(remote.host, first.host, podAddress(1, 10, 'IPv4'));
  try {
    await stream.goesOn();
    // Asking each time keeps the flood to the pace of the node.
    await flood(forges, 'tcp', 1, async () => (await flows()).limit === 0);
    const { used, limit } = await flows();
    assert.ok(used > limit * 0.9 && used <= limit, `${used} of ${limit} flows`);
    await stream.goesOn();
    await mustPass(remote.host, first.addresses, 'tcp');
    await mustPass(remote.host, first.addresses, 'udp');
    // Nor do exchanges that are answered, and asked again at once.
    await flood(forges, 'udp', 3, async () => (await flows()).limit === 0);
    await mustPass(remote.host, first.addresses, 'udp');
    assert.is(await refused(), 0);

    // Flows that go on after their answers are as good as honest ones.
    for (const share of FLOOD_SHARES) {
      await flood(forges, 'udp', 1, async () => await refused() > 0, limit * share);
      await new Promise((resolve) => setTimeout(resolve, EXCHANGE_MS));
    }
    assert.ok(await refused() > 0, 'a full table');
    await stream.goesOn();
    const { fault, records, returned } = await stream.stop();
    assert.equal([fault, returned], ['', records]);
  } finally {
    await stream.close();
    for (const forge of forges) forge.close();
  }
});

test.run();
