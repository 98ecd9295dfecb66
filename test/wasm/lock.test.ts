// Two workers over one memory, which share the table of flows: what they leave is a table as one
// alone would leave it, and neither waits for a worker that is gone. Packets are between two pods
// of this node, so that either end's packets come to either worker.

import { Worker } from 'node:worker_threads';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as layout from '../../wasm/abi/layout.ts';
import {
  FLOW_FLAGS, FLOW_FLAG_SESSION, FLOW_FLAG_TRANSLATED, FLOW_KEYS, FLOW_KEYS_SIZE, FLOW_PAIR,
  FLOW_PORT_A, FLOW_SIZE,
} from '../../wasm/abi/policy.ts';
import type { Core } from '../../engine/core.ts';
import { readFlowFill } from '../../engine/counters.ts';
import type { Forwarding } from '../../engine/forwarding.ts';
import { ModuleTable } from '../../engine/modules.ts';
import { endTurn } from '../../engine/tables/grace.ts';
import { ServiceTables } from '../../engine/tables/services.ts';
import { coreModule, TEST_LIMITS } from '../support/core.ts';
import { ALLOW_ALL, PolicyBed, ruleSet } from '../support/policy-core.ts';
import { moduleEntry } from '../support/modules.ts';
import { service } from '../support/service-core.ts';
import type { LockData, LockReport } from './lock-worker.ts';

const SLOTS = 32;
const WORKERS = 2;
const TURNS = 50_000;
const FRONT = '10.96.0.10';
const TIMEOUT_MS = 30_000;
/** Keys that flowFindMany() takes at a time. */
const KEYS_AT_ONCE = 32;

interface Node {
  core: Core;
  forwarding: Forwarding;
  /** Of the first of its pods. */
  device: number;
}

/** A node of two workers with two pods, which may say anything to each other. */
function makeNode(flows: number): Node {
  const bed = new PolicyBed({ a: ['10.1.0.2'], b: ['10.1.0.3'] }, {
    policy: { flows }, limits: { workers: WORKERS, slots: SLOTS },
  });
  bed.isolate('a', { ingress: 1, egress: 1 }, { ruleSets: [ruleSet(1, ALLOW_ALL)] });
  bed.isolate('b', { ingress: 1, egress: 1 });
  assert.is(bed.device('b'), bed.device('a') + 1);
  return { core: bed.core, forwarding: bed.forwarding, device: bed.device('a') };
}

type Load = Pick<LockData, 'ports' | 'turns' | 'stepMs'>
  & Partial<Pick<LockData, 'front' | 'failsAt'>>;

/** Runs these workers; says what became of the packets of each. */
function run({ core, device }: Node, workers: number[], load: Load): Promise<LockReport[]> {
  const gate = new Int32Array(new SharedArrayBuffer(4));
  gate[0] = workers.length;
  return Promise.all(workers.map((worker) => {
    const data: LockData = {
      module: coreModule(), memory: core.memory, worker, slots: SLOTS, device, gate,
      front: null, failsAt: 0, ...load,
    };
    const thread = new Worker(new URL('./lock-worker.js', import.meta.url), { workerData: data });
    return new Promise<LockReport>((done, fail) => {
      thread.on('error', fail);
      thread.on('message', done);
    });
  }));
}

interface Table {
  entries: number[];
  keys: string[];
}

/** Addresses and keys of the entries in use. */
function readTable({ core }: Node): Table {
  const table = core.directory(layout.DIRECTORY_FLOWS);
  const count = core.directory(layout.DIRECTORY_FLOW_COUNT);
  const tags = table + (count * FLOW_SIZE);
  const entries = Array.from({ length: count }, (_, place) => place)
    .filter((place) => core.bytes[tags + place] !== 0)
    .map((place) => table + (place * FLOW_SIZE));
  const keys = entries.map((at) => Buffer.from(core.bytes.slice(at, at + 37)).toString('hex'));
  return { entries, keys };
}

/** The core's own answer for the key of each entry; room is taken from the slots. */
function findAll({ core }: Node, entries: number[]): number[] {
  const keys = core.directory(layout.DIRECTORY_SLOTS);
  const answers = keys + (KEYS_AT_ONCE * FLOW_SIZE);
  const table = core.directory(layout.DIRECTORY_FLOWS);
  const count = core.directory(layout.DIRECTORY_FLOW_COUNT);
  const found: number[] = [];
  for (let first = 0; first < entries.length; first += KEYS_AT_ONCE) {
    const some = entries.slice(first, first + KEYS_AT_ONCE);
    some.forEach((at, place) =>
      core.bytes.copyWithin(keys + (place * FLOW_SIZE), at, at + FLOW_SIZE));
    core.exports.flowFindMany(table, count, keys, KEYS_AT_ONCE, answers);
    some.forEach((_, place) => found.push(core.view.getUint32(answers + (place * 4), true)));
  }
  return found;
}

function lockWord({ core }: Pick<Node, 'core'>): number {
  return core.directory(layout.DIRECTORY_FLOW_LOCK);
}

function checkTable(node: Node): number {
  const { entries, keys } = readTable(node);
  assert.is(new Set(keys).size, keys.length, 'no key stands there twice');
  assert.equal(findAll(node, entries), entries, 'each key leads to its entry');
  assert.equal(readFlowFill(node.core).used, entries.length, 'the workers\' counts add up');
  assert.is(lockWord(node), 0);
  assert.is(node.core.directory(layout.DIRECTORY_FLOW_WAITERS), 0);
  return entries.length;
}

for (const [name, flows, load] of [
  ['few flows, all in demand', 1024, { ports: 200, turns: TURNS, stepMs: 1 }],
  ['more flows than there is room for', 256, { ports: 2000, turns: TURNS, stepMs: 1 }],
  ['flows that expire and are swept', 1024, { ports: 4000, turns: TURNS, stepMs: 500 }],
] as const) {
  test(`two workers on one table: ${name}`, async () => {
    const node = makeNode(flows);
    for (const { none = 0, flowTableFull = 0 } of await run(node, [0, 1], load)) {
      assert.is(none + flowTableFull, load.turns * SLOTS);
      assert.ok(none > flowTableFull);
    }
    assert.ok(checkTable(node) > 0);
  });
}

test('two workers on one table: by a module that fails again and again', async () => {
  const node = makeNode(1024);
  const modules = new ModuleTable(node.core);
  modules.set([moduleEntry(0, { failure: 'pass' })]);
  const load = { ports: 2000, turns: TURNS / 4, stepMs: 500, failsAt: 3 };
  for (const { none = 0, flowTableFull = 0 } of await run(node, [0, 1], load)) {
    assert.is(none + flowTableFull, load.turns * SLOTS);
    assert.ok(none > flowTableFull);
  }
  assert.ok(checkTable(node) > 0);
  const { pass, trap } = modules.counters(0);
  assert.ok(trap > 1000 && pass > trap, `${pass} passed, ${trap} trapped`);
});

test('two workers on one table: by a Service that changes all the time', async () => {
  const node = makeNode(4096);
  const services = new ServiceTables(node.core, TEST_LIMITS.services, (name, addresses) =>
    node.forwarding.claimService(name, addresses));
  const put = (port: number): void => services.apply({
    services: [service([FRONT], [{ address: '10.1.0.3', port, state: 'ready' }])],
    removedServices: [],
  });
  put(80);
  let changes = 0;
  const timer = setInterval(() => {
    changes += 1;
    put(changes % 2 === 0 ? 80 : 81);
  }, 1);
  const load = { ports: 200, turns: TURNS / 4, stepMs: 1, front: FRONT };
  try {
    for (const report of await run(node, [0, 1], load)) {
      const known = ['none', 'serviceGone', 'serviceConflict', 'serviceSession'];
      for (const reason of Object.keys(report)) assert.ok(known.includes(reason), reason);
      assert.ok((report['none'] ?? 0) > load.turns * SLOTS / 4, JSON.stringify(report));
    }
  } finally {
    clearInterval(timer);
  }
  assert.ok(changes > 20, `${changes} changes`);
  assert.ok(checkTable(node) > 0, 'there are flows');
  assert.ok(checkPairs(node) > 0, 'there are pairs');
});

/** Counts pairs: each leads from a session to a translated flow and back, of one client. */
function checkPairs(node: Node): number {
  const { view, bytes } = node.core;
  const has = (at: number, flag: number): boolean => ((bytes[at + FLOW_FLAGS] ?? 0) & flag) !== 0;
  const pairOf = (at: number): number => view.getUint32(at + FLOW_PAIR, true);
  const sessions = readTable(node).entries.filter((at) => has(at, FLOW_FLAG_SESSION)
    && pairOf(pairOf(at)) === at && has(pairOf(at), FLOW_FLAG_TRANSLATED));
  for (const at of sessions) {
    const flow = pairOf(at);
    // The client has the lower address in both.
    assert.equal(bytes.slice(flow, flow + 16), bytes.slice(at, at + 16));
    assert.is(view.getUint16(flow + FLOW_PORT_A), view.getUint16(at + FLOW_PORT_A));
  }
  return sessions.length;
}

test('what a worker held that died is free again, and others go on', async () => {
  const node = makeNode(1024);
  const words = new Int32Array(node.core.memory.buffer);
  const lock = (layout.DIRECTORY_START + layout.DIRECTORY_FLOW_LOCK) / 4;
  Atomics.store(words, lock, 2);
  let isDone = false;
  const done = run(node, [0], { ports: 10, turns: 10, stepMs: 1 }).then((reports) => {
    isDone = true;
    return reports;
  });
  const waiters = (): number => node.core.directory(layout.DIRECTORY_FLOW_WAITERS);
  const deadline = performance.now() + TIMEOUT_MS;
  while (waiters() === 0 && performance.now() < deadline) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  assert.is(waiters(), 1, 'worker 0 sleeps');
  endTurn(node.core, 0);
  assert.is(lockWord(node), 2, 'another\'s end frees nothing');
  assert.not(isDone);
  endTurn(node.core, 1);
  assert.equal(await done, [{ none: 10 * SLOTS }]);
  checkTable(node);
});

test('one worker takes no lock', () => {
  const bed = new PolicyBed({ a: ['10.1.0.2'] }, { limits: TEST_LIMITS });
  const words = new Int32Array(bed.core.memory.buffer);
  Atomics.store(words, (layout.DIRECTORY_START + layout.DIRECTORY_FLOW_LOCK) / 4, 2);
  bed.idle(3);
  assert.is(lockWord(bed), 2);
});

test('fields of the directory do not overlap the keys of the flow hash', () => {
  assert.is(FLOW_KEYS, layout.DIRECTORY_START + layout.DIRECTORY_FLOW_KEYS);
  const [first, end] = [layout.DIRECTORY_FLOW_KEYS, layout.DIRECTORY_FLOW_KEYS + FLOW_KEYS_SIZE];
  assert.ok(layout.DIRECTORY_UNDERLAY_IPV6 + 16 <= first);
  assert.ok(end <= layout.DIRECTORY_FLOW_LOCK);
  assert.ok(layout.DIRECTORY_START + layout.DIRECTORY_SIZE <= layout.WORKERS_START);
});

test.run();
