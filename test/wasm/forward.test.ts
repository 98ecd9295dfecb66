// time limit: 240 s
// The core against its slow twin, test/reference/forward.ts: random packets over random tables. All
// verdicts, reasons, outputs and bytes must be the same, and in the end all counters.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { readDrops, readEvents, readTraffic, REASON_NAMES } from '../../engine/counters.ts';
import type { ClusterNode, Tunnel } from '../../engine/model.ts';
import { REASON_COUNT, REASON_DEVICE_FULL } from '../../wasm/abi/verdict.ts';
import type { TwinVerdict } from '../reference/forward.ts';
import { placePacket, readVerdict, TEST_LIMITS, type Verdict } from '../support/core.ts';
import { toHex } from '../support/packets.ts';
import { Random } from '../support/random.ts';
import { makeScene, type Scene, type SceneSettings } from '../support/scene.ts';
import { Traffic, type Arrival } from '../support/traffic.ts';

const SEED = 20251121;
const SCENES = 10;
const BATCHES = 500;

/** A cluster of random size around node 0; node i has 10.1.i.0/24 and fd00:1:0:i::/64, and more. */
function randomSettings(random: Random): SceneSettings {
  const remotes = Array.from({ length: random.between(1, 12) }, (_, index) =>
    randomNode(random, index + 1));
  const mac = (): string | null => random.pick([null, `0a:00:00:00:00:${10 + random.below(80)}`]);
  const pods = Array.from({ length: random.between(3, 12) }, (_, index) => ({
    name: `default/pod-${index}`,
    addresses: [
      [`10.1.0.${index + 2}`], [`10.1.0.${index + 2}`, `fd00:1::${index + 2}`],
      [`fd00:1::${index + 2}`],
    ][index % 3] ?? [],
    mac: mac(),
  }));
  return {
    podNetworks: ['10.1.0.0/16', 'fd00:1::/32'],
    underlayMtu: random.pick([1500, 1500, 1400, 1320, 9000]),
    local: {
      name: 'node-0', podCidrs: ['10.1.0.0/24', 'fd00:1::/64'],
      addresses: ['192.168.0.10', '2001:db8::10'],
      tunnels: [tunnel('IPv4', '192.168.0.10', 0), tunnel('IPv6', '2001:db8::10', 0)],
    },
    remotes, pods,
    special: [
      { prefix: '10.1.200.0/24', kind: 'prohibit' }, { prefix: '10.1.201.0/24', kind: 'blackhole' },
      { prefix: '10.1.202.0/24', kind: 'deviceless' }, { prefix: '10.1.1.56/29', kind: 'prohibit' },
      { prefix: 'fd00:1:0:c8::/64', kind: 'prohibit' },
      { prefix: 'fd00:1:0:c9::/64', kind: 'blackhole' },
      { prefix: 'fd00:1:0:ca::/64', kind: 'deviceless' },
    ],
    icmpRate: random.pick([1, 50, 1000, 100_000]), icmpBurst: random.pick([1, 5, 50]),
  };
}

function randomNode(random: Random, index: number): ClusterNode {
  const [ipv4, ipv6] = [`192.168.0.${10 + index}`, `2001:db8::${10 + index}`];
  const [other4, other6] = [`172.16.0.${index}`, `2001:db8:1::${index}`];
  const vni = random.pick([1, 1, 4096, 0xffffff]);
  const hex = index.toString(16);
  return {
    name: `node-${index}`,
    podCidrs: [`10.1.${index}.0/24`, `fd00:1:0:${hex}::/64`,
      ...random.oneIn(3) ? [`10.1.${100 + index}.0/25`, `fd00:1:1:${hex}::/72`] : []],
    addresses: [ipv4, ipv6],
    tunnels: random.pick([
      [tunnel('IPv4', ipv4, index, vni), tunnel('IPv6', ipv6, index, vni)],
      [tunnel('IPv4', ipv6, index, vni), tunnel('IPv6', ipv4, index, vni)],
      [tunnel('IPv4', other4, index, vni)],
      [tunnel('IPv6', other6, index, vni)],
      ...otherTunnels([ipv4, ipv6], [other4, other6], vni),
    ]),
  };
}

/** Tunnels of other kinds: over each family, and both families over one. */
function otherTunnels(own: [string, string], others: [string, string], vni: number): Tunnel[][] {
  const mac = '0e:00:00:00:06:99';
  const [IPv4, IPv6] = own;
  const both = (make: (family: 'IPv4' | 'IPv6', remote: string) => Tunnel): Tunnel[][] => [
    [make('IPv4', IPv4), make('IPv6', IPv6)],
    [make('IPv4', IPv6), make('IPv6', IPv4)],
    ...others.map((remote) => [make('IPv4', remote), make('IPv6', remote)]),
  ];
  return [
    ...both((family, remote) => ({ family, remote, kind: 'geneve', vni, mac })),
    ...both((family, remote) => ({ family, remote, kind: 'geneve', vni, mac: null, port: 6082 })),
    ...both((family, remote) => ({ family, remote, kind: 'ipip' })),
    ...both((family, remote) => ({ family, remote, kind: 'udp' })),
    [
      { family: 'IPv4', remote: IPv4, kind: 'direct' },
      { family: 'IPv6', remote: IPv6, kind: 'direct' },
    ],
  ];
}

function tunnel(family: 'IPv4' | 'IPv6', remote: string, index: number, vni = 1): Tunnel {
  const mac = `0e:00:00:00:${family === 'IPv4' ? '04' : '06'}:${(16 + index).toString(16)}`;
  return { family, kind: 'vxlan', remote, port: index % 2 === 0 ? 8472 : 4789, vni, mac };
}

/** How a verdict of the core and one of the twin differ; empty where they agree. */
function differences(core: Verdict, twin: TwinVerdict): string[] {
  const found: string[] = [];
  const compare = (what: string, left: unknown, right: unknown): void => {
    if (left !== right) found.push(`${what}: core ${left}, twin ${right}`);
  };
  compare('sent', core.sent, twin.sent);
  compare('reason', REASON_NAMES[core.reason], REASON_NAMES[twin.reason]);
  if (found.length > 0 || !twin.sent) return found;
  compare('output', core.output, twin.output);
  if (Buffer.compare(core.bytes, twin.bytes) !== 0) {
    compare('bytes', `\n${toHex(core.bytes)}\n`, `\n${toHex(twin.bytes)}`);
  }
  if (twin.remote !== null) {
    compare('remote', core.remote.address, twin.remote.address);
    compare('port', core.remote.port, twin.remote.port);
  }
  return found;
}

/** Runs one batch through both. Flow hashes must be the same wherever the flow is. */
function runBatch(
  scene: Scene, traffic: Traffic, hashes: Map<string, number>, nowMs: number,
): void {
  const arrivals: Arrival[] = Array.from({ length: TEST_LIMITS.slots }, () => traffic.next());
  for (const [slot, { packet, input, source }] of arrivals.entries()) {
    placePacket(scene.core, slot, packet, input, source);
  }
  scene.core.exports.processBatch(0, arrivals.length, nowMs | 0);
  for (const [slot, { packet, input, source }] of arrivals.entries()) {
    const expected = scene.twin.decide(input, packet, source, nowMs);
    const verdict = readVerdict(scene.core, slot);
    const found = differences(verdict, expected);
    if (found.length > 0) {
      const from = `device ${input}, ${source.address}`;
      assert.unreachable(`${found.join('\n')}\ninput, ${from}:\n${toHex(packet)}`);
    }
    if (expected.flow === null) continue;
    const hash = hashes.get(expected.flow) ?? verdict.flowHash;
    assert.is(verdict.flowHash, hash, `hash of flow ${expected.flow}`);
    hashes.set(expected.flow, hash);
  }
}

function compareCounters({ core, twin, targets }: Scene): void {
  for (const direction of ['outbound', 'inbound'] as const) {
    const drops = readDrops(core, direction);
    for (let reason = 1; reason < REASON_COUNT; reason += 1) {
      const name = REASON_NAMES[reason] ?? '';
      assert.is(drops[name], twin.drops[direction].get(reason) ?? 0, `${direction} ${name}`);
    }
  }
  const events = readEvents(core);
  const seen = Object.keys(twin.events).map((event) => [event, events[event]]);
  assert.equal(Object.fromEntries(seen), twin.events);
  const none = { rxPackets: 0, rxBytes: 0, txPackets: 0, txBytes: 0 };
  for (const [id, target] of targets) {
    assert.equal(readTraffic(core, id), twin.traffic.get(target) ?? none, `next hop ${id}`);
  }
}

const reasonsSeen = new Set<number>();

for (let index = 0; index < SCENES; index += 1) {
  test(`core and twin agree on scene ${index}`, () => {
    const random = new Random(SEED + index);
    const scene = makeScene(randomSettings(random));
    const traffic = new Traffic(scene, random);
    const hashes = new Map<string, number>();
    // One scene has its clock wrap.
    let nowMs = index === 1 ? 2 ** 32 - 5000 : 100_000;
    for (let batch = 0; batch < BATCHES; batch += 1) {
      runBatch(scene, traffic, hashes, nowMs);
      nowMs = (nowMs + random.below(40)) >>> 0;
    }
    compareCounters(scene);
    assert.ok(new Set(hashes.values()).size > hashes.size * 0.95, 'flows spread over hashes');
    for (const drops of Object.values(scene.twin.drops)) {
      for (const reason of drops.keys()) reasonsSeen.add(reason);
    }
  });
}

test('the packets were of every kind', () => {
  for (let reason = 1; reason < REASON_DEVICE_FULL; reason += 1) {
    assert.ok(reasonsSeen.has(reason), `no packet was dropped for ${REASON_NAMES[reason]}`);
  }
});

test.run();
