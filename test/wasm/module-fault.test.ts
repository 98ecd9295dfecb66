// A module's fault changes nothing but that module's verdict: a core whose module fails again and
// again, in the middle of batches, sends byte for byte what one does whose module says at once what
// the other's failure verdict is; and counts the same.

import { createHash } from 'node:crypto';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import * as layout from '../../wasm/abi/layout.ts';
import { Core } from '../../engine/core.ts';
import { readDrops, readEvents, readReceived } from '../../engine/counters.ts';
import { writeFlowKeys } from '../../engine/flow-keys.ts';
import {
  attachEvaluate, continueBatch, currentModule, moduleCalls, ModuleTable, recoverFault, runBatch,
  type Evaluate, type ModuleEntry,
} from '../../engine/modules.ts';
import { coreModule, placePacket, type Verdict } from '../support/core.ts';
import { makeHome } from '../support/home.ts';
import {
  guardBatches, moduleOfFunction, useModule, VERDICT,
} from '../support/modules.ts';
import { concat, fragmentHeader, ipv4, ipv6, PROTOCOL, udp } from '../support/packets.ts';
import { back, PolicyBed, TCP, tcpPacket, udpPacket } from '../support/policy-core.ts';
import { Random } from '../support/random.ts';
import type { Scene } from '../support/scene.ts';
import { readSends, type Send } from '../support/sends.ts';
import { backendOf, innerOf, read, service, ServiceBed } from '../support/service-core.ts';
import { Peers, Pods } from '../support/super-traffic.ts';

const test = suite('modules that fail');

const BATCH = 16;
const BATCHES = 100;
const NOW_MS = 1_000_000;
const STEPS = 4000;

/** What a module says of a flow, from its ports. */
type Judge = (words: number[]) => number;

const byPorts: Judge = (words) =>
  ((words[4] ?? 0) + (words[5] ?? 0)) % 5 === 0 ? VERDICT.deny : VERDICT.pass;

/** A module that says it, and one that sometimes fails instead: where that has the same effect. */
function pair(judge: Judge, failure: 'deny' | 'pass', seed: number): [Evaluate, Evaluate] {
  const random = new Random(seed);
  const said = failure === 'deny' ? VERDICT.deny : VERDICT.pass;
  const failing = moduleOfFunction((...words) => {
    const verdict = judge(words);
    if (verdict === said && random.oneIn(2)) throw new Error('fails');
    return verdict;
  });
  return [moduleOfFunction((...words) => judge(words)), failing];
}

function offloads(coalesce: number): { vnetSize: number; segmentLimit: number; coalesce: number } {
  return { vnetSize: 10, segmentLimit: 64, coalesce };
}

function digest(bytes: Uint8Array): string {
  return createHash('sha1').update(bytes).digest('base64');
}

function shown(sends: Send[]): string[] {
  return sends.map(({ device, remote, bytes, packets, segmentSize, tos, flags }) => {
    const to = `${device} ${remote?.address} ${remote?.port} ${tos} ${flags}`;
    return `${to} ${packets} ${segmentSize} ${digest(bytes)}`;
  });
}

function counters(core: Core): unknown {
  return [readDrops(core, 'outbound'), readDrops(core, 'inbound'), readEvents(core),
    readReceived(core, 0)];
}

/** Pods' super-packets and frames, and trains of peers, into the slots of a scene. */
function fill(scene: Scene, random: Random, pods: Pods, peers: Peers): number {
  const { core } = scene;
  let used = 0;
  while (used < BATCH) {
    for (const { input, source, outerTos, datagrams } of random.oneIn(2)
      ? peers.next(BATCH - used) : []) {
      placePacket(core, used, concat(...datagrams), input, source);
      const descriptor = core.descriptorAddress(used);
      const size = datagrams.length > 1 ? datagrams[0]?.length ?? 0 : 0;
      core.view.setUint16(descriptor + layout.DESCRIPTOR_SEGMENT_SIZE, size, true);
      core.bytes[descriptor + layout.DESCRIPTOR_OUTER_TOS] = outerTos;
      used += 1;
    }
    if (used === BATCH) break;
    const { input, header, received } = pods.next();
    placePacket(core, used, received, input);
    core.bytes.set(header, core.packetAddress(used) - header.length);
    used += 1;
  }
  return used;
}

for (const [name, coalesce] of [['joined', 3], ['alone', 0]] as const) {
  for (const perPacket of [false, true]) {
    const packets = perPacket ? 'each packet' : 'first packets';
    const title = `super-packets, frames and trains of peers, ${name}, ${packets}`;
    test(title, () => {
      let faults = 0;
      const results = pair(byPorts, perPacket ? 'pass' : 'deny', 77).map((evaluate) => {
        const scene = makeHome({ offloads: offloads(coalesce), icmpRate: 1000, icmpBurst: 1000 });
        writeFlowKeys(scene.core.view, 5);
        guardBatches(scene.core, () => { faults += 1; });
        useModule(scene.core, evaluate, { perPacket, failure: perPacket ? 'pass' : 'deny' });
        const random = new Random(9);
        const [pods, peers] = [new Pods(scene, random), new Peers(random)];
        const sent: string[] = [];
        for (let batch = 0; batch < BATCHES; batch += 1) {
          const used = fill(scene, random, pods, peers);
          for (let done = 0; done < used;) {
            done += scene.core.exports.processBatch(done, used - done, NOW_MS + batch);
            sent.push(...shown(readSends(scene.core)));
          }
        }
        return { sent, counted: counters(scene.core) };
      });
      assert.ok(faults > 50, `${faults} faults`);
      assert.ok((results[0]?.sent.length ?? 0) > 1000);
      assert.equal(results[1], results[0]);
      console.log(`${title}: ${faults} faults`);
    });
  }
}

const PODS = { a: ['10.1.0.2', 'fd00:1::2'], b: ['10.1.0.3', 'fd00:1::3'] };
const FRONT = { IPv4: '10.96.0.1', IPv6: 'fd00:96::1' };
const BACKENDS = ['10.1.0.2', '10.1.0.3', '10.1.1.7', 'fd00:1::2', 'fd00:1::3', 'fd00:1:0:1::7'];

interface Step {
  from: string | number;
  packet: Uint8Array;
}

/** Packets to a Service and past it, whole and in fragments. */
function nextSteps(random: Random): Step[] {
  const isIpv4 = random.oneIn(2);
  const pod = random.pick(['a', 'b'] as const);
  const flow = {
    source: PODS[pod][isIpv4 ? 0 : 1] ?? '', sourcePort: 40_000 + random.below(8),
    destination: random.oneIn(4)
      ? isIpv4 ? '10.1.1.7' : 'fd00:1:0:1::7'
      : isIpv4 ? FRONT.IPv4 : FRONT.IPv6,
    destinationPort: 80,
  };
  if (random.oneIn(2)) return [{ from: pod, packet: tcpPacket(flow, TCP.syn) }];
  if (!random.oneIn(3)) return [{ from: pod, packet: udpPacket(flow) }];
  const datagram = udp(flow, new Uint8Array(40));
  const identification = random.below(50_000);
  const { source, destination } = flow;
  const parts = [datagram.subarray(0, 24), datagram.subarray(24)];
  return parts.map((part, index) => {
    const place = { offset: index * 3, moreFragments: index === 0 };
    const packet = isIpv4
      ? ipv4({ source, destination, protocol: PROTOCOL.udp, identification, ...place }, part)
      : ipv6({ source, destination, nextHeader: 44 },
        concat(fragmentHeader(PROTOCOL.udp, place.offset, place.moreFragments), part));
    return { from: pod, packet };
  });
}

function tellOf(verdict: Verdict): string {
  const bytes = verdict.sent ? digest(innerOf(verdict)) : '';
  return `${verdict.reason} ${verdict.output} ${bytes}`;
}

test('Services and fragments', () => {
  let faults = 0;
  const results = pair(byPorts, 'deny', 3).map((evaluate) => {
    const bed = new ServiceBed(PODS);
    writeFlowKeys(bed.core.view, 5);
    guardBatches(bed.core, () => { faults += 1; });
    const addresses = [FRONT.IPv4, FRONT.IPv6];
    bed.serve(service(addresses, BACKENDS, {
      ports: (['TCP', 'UDP'] as const).map((protocol) =>
        ({ name: protocol, protocol, port: 80, backends: BACKENDS.map(backendOf) })),
    }));
    useModule(bed.core, evaluate);
    const random = new Random(4);
    const told: string[] = [];
    for (let step = 0; step < STEPS; step += 1) {
      bed.nowMs += random.oneIn(50) ? 40_000 : 1;
      for (const { from, packet } of nextSteps(random)) {
        const verdict = bed.send(from, packet);
        told.push(tellOf(verdict));
        if (!verdict.sent || verdict.reason !== 0 || !random.oneIn(3)) continue;
        const { source, destination, protocol, ...ports } = read(innerOf(verdict));
        const flow = back({ source, destination, ...ports });
        const answer = protocol === PROTOCOL.tcp ? tcpPacket(flow, TCP.syn | TCP.ack)
          : udpPacket(flow);
        const pod = Object.entries(PODS).find(([, addresses]) => addresses.includes(destination));
        told.push(tellOf(pod === undefined ? bed.receive(1, answer) : bed.send(pod[0], answer)));
      }
    }
    return { told, counted: counters(bed.core), flows: bed.flowCount() };
  });
  assert.ok(faults > 100, `${faults} faults`);
  assert.equal(results[1], results[0]);
  console.log(`Services and fragments: ${faults} faults`);
});

/** Two pods on a node of two workers. */
function twoWorkers(evaluate: Evaluate, parts: Partial<ModuleEntry> = {}): PolicyBed {
  const bed = new PolicyBed(PODS, { limits: { workers: 2 } });
  useModule(bed.core, evaluate, parts);
  return bed;
}

test('the lock of flows is free after a fault, for other workers', () => {
  const lock = layout.DIRECTORY_FLOW_LOCK;
  let held = 0;
  const bed = twoWorkers(moduleOfFunction(() => {
    held = bed.core.directory(lock);
    throw new Error('fails');
  }));
  const { core } = bed;
  placePacket(core, 0, udpPacket({ source: '10.1.0.2', destination: '10.1.0.3' }),
    bed.device('a'));
  assert.is(runBatch(core, 0, 1, 1, () => undefined), 1);
  assert.is(held, 1);
  assert.is(core.directory(lock), 0);
  const second = core.directory(layout.DIRECTORY_SLOT_COUNT);
  const other = Core.attach(coreModule(), core.memory);
  attachEvaluate(other, 0, moduleOfFunction(() => VERDICT.pass));
  placePacket(other, second, udpPacket({ source: '10.1.0.2', destination: '10.1.0.3' }),
    bed.device('a'));
  assert.is(runBatch(other, second, 1, 1, () => undefined), 1);
  assert.is(moduleCalls(core, 1), 2);
});

test('another instance goes on with a batch that one never came back from', () => {
  class Gone extends Error {}
  const bed = twoWorkers(moduleOfFunction((...words) => {
    if (words[4] === 40_002) throw new Gone();
    return VERDICT.pass;
  }));
  const { core } = bed;
  const flow = { source: '10.1.0.2', destination: '10.1.0.3' };
  for (let slot = 0; slot < 5; slot += 1) {
    placePacket(core, slot, udpPacket({ ...flow, sourcePort: 40_000 + slot }), bed.device('a'));
  }
  assert.throws(() => core.exports.processBatch(0, 5, 1), (error: unknown) =>
    error instanceof Gone);
  assert.is(currentModule(core, 0), 0);
  const other = Core.attach(coreModule(), core.memory);
  attachEvaluate(other, 0, moduleOfFunction(() => VERDICT.pass));
  assert.is(recoverFault(other, 0, 'timeout'), 0);
  assert.is(recoverFault(other, 0, 'timeout'), -1);
  assert.is(continueBatch(other, 0, 5, 1, () => undefined), 5);
  assert.is(readSends(core).length, 4);
  assert.is(readDrops(core, 'outbound')['moduleEgress'], 1);
  const { timeout, pass } = new ModuleTable(core).counters(0);
  assert.equal([timeout, pass], [1, 9], 'of the one that failed, the other end was asked');
  assert.is(core.directory(layout.DIRECTORY_FLOW_LOCK), 0);
});

test('an error of the core itself is not taken for a fault of a module', () => {
  const bed = new PolicyBed(PODS);
  useModule(bed.core, moduleOfFunction(() => VERDICT.pass));
  bed.core.setDirectory(layout.DIRECTORY_DESCRIPTORS, 0x7fff_0000);
  assert.throws(() => runBatch(bed.core, 0, 1, 1, () => undefined), /memory/);
});

test.run();
