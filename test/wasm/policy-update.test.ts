// Changes of policy while packets pass: after each single store of a change, every pod and address
// are judged by the state before or by the state after; and so are the packets of another thread.

import { fileURLToPath } from 'node:url';
import { Worker, isMainThread, workerData } from 'node:worker_threads';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as layout from '../../wasm/abi/layout.ts';
import { addressBytes } from '../../engine/address.ts';
import { Core } from '../../engine/core.ts';
import type { EndpointPolicy, PolicyChange, Program, RuleSet } from '../../engine/model.ts';
import { coreModule, placePacket, readVerdict } from '../support/core.ts';
import {
  ALLOW_ALL, change, DENY_ALL, NOTHING, PolicyBed, program, ruleSet, TCP, tcpPacket,
} from '../support/policy-core.ts';
import { Random } from '../support/random.ts';

const PODS = { a: ['10.1.0.2', 'fd00:1::2'], b: ['10.1.0.3'], c: ['10.1.0.4'] };
const ADDRESSES = ['10.1.0.2', '10.1.0.3', '10.1.1.2', '10.1.1.3', '10.1.2.2', '172.16.0.1',
  '172.16.5.1', 'fd00:1:0:1::2', 'fd00:1:0:2::2'];
const PREFIXES = ['10.1.0.2/32', '10.1.0.3/32', '10.1.1.2/32', '10.1.1.3/32', '10.1.1.0/24',
  '10.1.2.2/32', '172.16.0.0/16', '172.16.5.0/24', '172.16.0.0/12', '0.0.0.0/0',
  'fd00:1:0:1::2/128', 'fd00:1:0:1::/64', 'fd00:1:0:2::2/128'];
const KEY = (6 * 65536) + 80;
/** Programs that all answer differently. */
const PROGRAMS: Program[] = [DENY_ALL, ALLOW_ALL, program('all', 1), program('all', 2),
  program('all', 3)];

/** What the core's memory says for every pod, direction and address. */
function judgeAll(bed: PolicyBed): number[] {
  const devices = bed.core.directory(layout.DIRECTORY_DEVICES);
  const identities = findIdentities(bed);
  return Object.keys(PODS).flatMap((pod) =>
    [layout.DEVICE_INGRESS, layout.DEVICE_EGRESS].flatMap((field) => {
      const at = devices + (bed.device(pod) * layout.DEVICE_STRIDE) + field;
      const block = bed.core.view.getUint32(at, true);
      return identities.map((identity) => bed.core.exports.policyAnswer(block, identity, KEY));
    }));
}

const BYTES = ADDRESSES.map((address) => {
  const bytes = new Uint8Array(16);
  bytes.set(addressBytes(address));
  return { bytes, field: address.includes(':') ? layout.DIRECTORY_IDENTITIES_IPV6
    : layout.DIRECTORY_IDENTITIES_IPV4 };
});

function findIdentities(bed: PolicyBed): number[] {
  return BYTES.map(({ bytes, field }) => {
    bed.core.bytes.set(bytes, layout.CONTROL_SCRATCH_START + 1024);
    return bed.core.exports.prefixFind(
      bed.core.directory(field), layout.CONTROL_SCRATCH_START + 1024);
  });
}

/** Calls `after` behind every store that another thread could see. */
function watchStores(bed: PolicyBed, work: () => void, after: () => void): void {
  const store = Atomics.store;
  const { exports } = bed.core;
  const watched = (name: 'prefixInsert' | 'prefixRemove') => (...inputs: number[]): number => {
    const [table = 0, key = 0, length = 0, value = 0] = inputs;
    const status = exports[name](table, key, length, value);
    after();
    return status;
  };
  Object.assign(bed.core, { exports: {
    ...exports, prefixInsert: watched('prefixInsert'), prefixRemove: watched('prefixRemove'),
  } });
  Object.assign(Atomics, { store: (words: Int32Array, index: number, value: number): number => {
    const stored = store(words, index, value);
    after();
    return stored;
  } });
  try {
    work();
  } finally {
    Object.assign(Atomics, { store });
    Object.assign(bed.core, { exports });
  }
}

function randomRuleSet(random: Random, number: number, identities: number): RuleSet {
  const named = new Set(Array.from({ length: random.below(5) }, () => random.below(identities)));
  return ruleSet(number, random.pick(PROGRAMS),
    [...named].map((identity) => [identity, random.pick(PROGRAMS)]));
}

function randomChange(random: Random, ruleSets: Set<number>): PolicyChange {
  const identities = random.pick([4, 12]);
  const part = (of: number): number => (random.oneIn(3) ? 0 : random.between(1, of));
  const next: PolicyChange = { ...NOTHING, identities: [], ruleSets: [], endpoints: [] };
  const names = random.oneIn(2) ? PREFIXES : PREFIXES.filter((name) => /\/(32|128)$/.test(name));
  for (let left = part(6); left > 0; left -= 1) {
    next.identities.push([random.pick(names), random.below(identities)]);
  }
  const numbers = new Set(Array.from({ length: part(3) }, () => random.between(1, 4)));
  for (const number of numbers) {
    next.ruleSets.push(randomRuleSet(random, number, identities));
    ruleSets.add(number);
  }
  const there = [0, ...ruleSets];
  for (let left = part(3); left > 0; left -= 1) {
    next.endpoints.push(endpointOf(random.pick(Object.keys(PODS)), random.pick(there),
      random.pick(there)));
  }
  return next;
}

function endpointOf(name: string, ingress: number, egress: number): EndpointPolicy {
  return { namespace: 'test', name, uid: `uid-${name}`, ingress, egress };
}

test('after each store, each pair is judged by the state before or after', () => {
  let [stores, changed] = [0, 0];
  for (let seed = 0; seed < 40; seed += 1) {
    const random = new Random(seed);
    const bed = new PolicyBed(PODS);
    const ruleSets = new Set<number>();
    bed.apply({ endpoints: Object.keys(PODS).map((name) => endpointOf(name, 0, 0)) });
    for (let step = 0; step < 60; step += 1) {
      const next = randomChange(random, ruleSets);
      const seen: number[][] = [];
      const before = judgeAll(bed);
      watchStores(bed, () => bed.apply(next), () => seen.push(judgeAll(bed)));
      const after = judgeAll(bed);
      stores += seen.length;
      changed += Number(before.join() !== after.join());
      for (const [store, found] of seen.entries()) {
        for (const [index, answer] of found.entries()) {
          if (answer === before[index] || answer === after[index]) continue;
          assert.unreachable(`seed ${seed} step ${step} store ${store} of ${seen.length}: `
            + `${ADDRESSES[index % ADDRESSES.length]}: ${answer}, between ${before[index]} and `
            + `${after[index]}: ${JSON.stringify(next)}`);
        }
      }
    }
    bed.policy.blocks.arena.reclaim();
    for (const name of Object.keys(PODS)) bed.apply({ endpoints: [endpointOf(name, 0, 0)] });
    bed.apply({ removedRuleSets: [...ruleSets] });
    assert.is(bed.policy.blocks.arena.used, 0);
  }
  assert.ok(changed > 500, `${changed} changes`);
  console.log(`${changed} changes that mattered, ${stores} stores watched`);
});

test('a change that fails half-way leaves every verdict as it was', () => {
  const random = new Random(99);
  const bed = new PolicyBed(PODS);
  const ruleSets = new Set<number>();
  bed.apply({ endpoints: Object.keys(PODS).map((name) => endpointOf(name, 0, 0)) });
  let failures = 0;
  for (let step = 0; step < 400; step += 1) {
    const known = new Set(ruleSets);
    const next = randomChange(random, known);
    const before = judgeAll(bed);
    const { exports } = bed.core;
    let left = random.below(6);
    const failing = (name: 'prefixInsert' | 'prefixRemove') => (...inputs: number[]): number => {
      const [table = 0, key = 0, length = 0, value = 0] = inputs;
      left -= 1;
      return left === 0 ? 1 : exports[name](table, key, length, value);
    };
    Object.assign(bed.core, { exports: { ...exports, prefixInsert: failing('prefixInsert') } });
    try {
      bed.apply(next);
      for (const number of known) ruleSets.add(number);
    } catch {
      failures += 1;
      assert.equal(judgeAll(bed), before);
    } finally {
      Object.assign(bed.core, { exports });
    }
  }
  assert.ok(failures > 20, `${failures} failures`);
});

// A worker sends packets of new flows; the main thread swaps the client's and the stranger's place
// between two policies, of which each lets just one of them in. No packet may show a third state.

/** The race goes on until there were so many changes, and turns of the other thread. */
const CHANGES = 5000;
const TURNS = 300;
const BATCH = 32;
const CLIENTS = ['10.1.1.2', '10.1.1.3', '10.1.1.4'];

interface RaceData {
  readonly memory: WebAssembly.Memory;
  readonly client: number;
  readonly report: Int32Array;        // stop, turns, passed, denied, mixed
}

/** The worker's side. Every slot holds the same first packet in all its turns, but for its port. */
function sendUntilStopped({ memory, client, report }: RaceData): void {
  const core = Core.attach(coreModule(), memory);
  for (let turn = 0; Atomics.load(report, 0) === 0; turn += 1) {
    for (let slot = 0; slot < BATCH; slot += 1) {
      // Even slots go to port 80, odd ones to 443: policies allow one of the two.
      const flow = {
        source: '10.1.0.2', destination: CLIENTS[slot % CLIENTS.length] ?? '',
        sourcePort: 1 + (((turn * BATCH) + slot) % 60_000),
        destinationPort: slot % 2 === 0 ? 80 : 443,
      };
      placePacket(core, slot, tcpPacket(flow, TCP.syn), client);
    }
    core.exports.processBatch(0, BATCH, turn | 0);
    for (let slot = 0; slot < BATCH; slot += 1) {
      Atomics.add(report, readVerdict(core, slot).sent ? 2 : 3, 1);
    }
    Atomics.add(report, 1, 1);
    checkAnswers(core, report);
  }
}

/** Within the ring, the answer to each record must be that of its rule: 1 allows port 80 only. */
function checkAnswers(core: Core, report: Int32Array): void {
  const ring = core.directory(layout.DIRECTORY_VERDICTS);
  const limit = core.directory(layout.DIRECTORY_VERDICT_LIMIT);
  for (let index = 0; index < limit; index += 1) {
    const record = ring + 64 + (index * 64);
    const answer = core.view.getUint32(record + 8, true);
    const port = core.view.getUint32(record + 20, true) & 0xffff;
    if (core.view.getUint32(record + 20, true) === 0) continue;
    const rule = answer >>> 8;
    const allowed = (answer & 1) === 1;
    const fine = (rule === 80 || rule === 443) && allowed === (rule === port);
    if (!fine) Atomics.add(report, 4, 1);
  }
}

/** Allows one port by a rule of that number, and names itself where it denies, too. */
function only(port: number): Program {
  const key = (6 * 65536) + port;
  return [[0, port << 8], [key, (port << 8) | 1], [key + 1, port << 8]];
}

test('packets of another thread see one policy or the other', async () => {
  const bed = new PolicyBed(PODS);
  const endpoint = (egress: number): EndpointPolicy => endpointOf('a', 0, egress);
  // Fallbacks answer with a rule of their own, which no packet may ever get.
  const set = (number: number, port: number, identity: number): RuleSet =>
    ruleSet(number, program('all', 99), [[identity, only(port)]]);
  const state = (odd: boolean, number: number): PolicyChange => change({
    ruleSets: [set(number, odd ? 443 : 80, odd ? 2 : 1)], removedRuleSets: [],
    identities: CLIENTS.map((address) => [`${address}/32`, odd ? 2 : 1]),
    endpoints: [endpoint(number)],
  });
  bed.policy.apply(state(false, 1), () => bed.device('a'));
  const report = new Int32Array(new SharedArrayBuffer(20));
  const data: RaceData = { memory: bed.core.memory, client: bed.device('a'), report };
  const worker = new Worker(fileURLToPath(import.meta.url), { workerData: data });
  while (Atomics.load(report, 1) < 10) await new Promise((resolve) => setTimeout(resolve, 5));
  let changes = 0;
  while (changes < CHANGES || Atomics.load(report, 1) < TURNS) {
    for (let step = 0; step < 50; step += 1) {
      changes += 1;
      const next = state(changes % 2 === 1, (changes % 2) + 1);
      bed.policy.apply({ ...next, removedRuleSets: [] }, () => bed.device('a'));
    }
    await new Promise((resolve) => setImmediate(resolve));
  }
  Atomics.store(report, 0, 1);
  await new Promise((resolve) => worker.once('exit', resolve));
  const [, turns, passed, denied, mixed] = report;
  console.log(`${changes} changes beside ${turns} turns: ${passed} passed, ${denied} denied`);
  assert.is(mixed, 0);
  assert.ok((passed ?? 0) > 1000 && (denied ?? 0) > 1000);
  assert.ok(bed.policy.blocks.arena.count < 100, `${bed.policy.blocks.arena.count} blocks`);
});

if (isMainThread) test.run();
else sendUntilStopped(workerData as RaceData);
