// Two workers over one memory, which share the table of flows: what they leave is a table as one
// alone would leave it, and neither waits for a worker that is gone. Packets are between two pods
// of this node, so that either end's packets come to either worker.

import { Worker } from 'node:worker_threads';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as layout from '../../wasm/abi/layout.ts';
import { FLOW_KEYS, FLOW_KEYS_SIZE, FLOW_SIZE } from '../../wasm/abi/policy.ts';
import { readFlowFill } from '../../engine/counters.ts';
import { endTurn } from '../../engine/tables/grace.ts';
import { coreModule, TEST_LIMITS } from '../support/core.ts';
import { ALLOW_ALL, PolicyBed, ruleSet } from '../support/policy-core.ts';
import type { LockData, LockReport } from './lock-worker.ts';

const SLOTS = 32;
const WORKERS = 2;
const TIMEOUT_MS = 30_000;
/** Keys that flowFindMany() takes at a time. */
const KEYS_AT_ONCE = 32;

/** A node of two workers with two pods, who may say anything; arena room holds keys afterwards. */
function makeBed(flows: number): PolicyBed {
  const bed = new PolicyBed({ a: ['10.1.0.2'], b: ['10.1.0.3'] }, {
    policy: { flows }, limits: { workers: WORKERS, slots: SLOTS },
  });
  bed.isolate('a', { ingress: 1, egress: 1 }, { ruleSets: [ruleSet(1, ALLOW_ALL)] });
  bed.isolate('b', { ingress: 1, egress: 1 });
  assert.is(bed.device('b'), bed.device('a') + 1);
  return bed;
}

function start(bed: PolicyBed, worker: number, load: Pick<LockData, 'ports' | 'turns' | 'stepMs'>): {
  worker: Worker; report: Promise<LockReport>;
} {
  const data: LockData = {
    module: coreModule(), memory: bed.core.memory, worker, slots: SLOTS, device: bed.device('a'),
    ...load,
  };
  const thread = new Worker(new URL('./lock-worker.js', import.meta.url), { workerData: data });
  const report = new Promise<LockReport>((done, fail) => {
    thread.on('error', fail);
    thread.on('message', done);
  });
  return { worker: thread, report };
}

interface Table {
  entries: number[];
  keys: string[];
}

/** Addresses and keys of the entries in use. */
function readTable({ core }: PolicyBed): Table {
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
function findAll({ core }: PolicyBed, entries: number[]): number[] {
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

function lockWord({ core }: PolicyBed): number {
  return core.directory(layout.DIRECTORY_FLOW_LOCK);
}

function checkTable(bed: PolicyBed): number {
  const { entries, keys } = readTable(bed);
  assert.is(new Set(keys).size, keys.length, 'no key stands there twice');
  assert.equal(findAll(bed, entries), entries, 'each key leads to its entry');
  assert.equal(readFlowFill(bed.core).used, entries.length, 'the workers\' counts add up');
  assert.is(lockWord(bed), 0);
  assert.is(bed.core.directory(layout.DIRECTORY_FLOW_WAITERS), 0);
  return entries.length;
}

for (const [name, flows, load] of [
  ['few flows, all in demand', 1024, { ports: 200, turns: 3000, stepMs: 1 }],
  ['more flows than there is room for', 256, { ports: 2000, turns: 3000, stepMs: 1 }],
  ['flows that expire and are swept', 1024, { ports: 4000, turns: 3000, stepMs: 500 }],
] as const) {
  test(`two workers on one table: ${name}`, async () => {
    const bed = makeBed(flows);
    const threads = Array.from({ length: WORKERS }, (_, worker) => start(bed, worker, load));
    const reports = await Promise.all(threads.map(({ report }) => report));
    for (const report of reports) {
      const all = Object.values(report).reduce((sum, count) => sum + count, 0);
      assert.is(all, load.turns * SLOTS);
      assert.ok((report.pass ?? 0) > all / 2, JSON.stringify(report));
      const strange = Object.keys(report).filter((fate) => !['pass', 'flowTableFull'].includes(fate));
      assert.equal(strange, []);
    }
    assert.ok(checkTable(bed) > 0);
  });
}

test('what a worker held that died is free again, and others go on', async () => {
  const bed = makeBed(1024);
  const words = new Int32Array(bed.core.memory.buffer);
  const lock = (layout.DIRECTORY_START + layout.DIRECTORY_FLOW_LOCK) / 4;
  Atomics.store(words, lock, 2);
  const { report } = start(bed, 0, { ports: 10, turns: 10, stepMs: 1 });
  let isDone = false;
  const done = report.then((fates) => {
    isDone = true;
    return fates;
  });
  const waiters = (): number => bed.core.directory(layout.DIRECTORY_FLOW_WAITERS);
  const deadline = performance.now() + TIMEOUT_MS;
  while (waiters() === 0 && performance.now() < deadline) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  assert.is(waiters(), 1, 'worker 0 sleeps');
  endTurn(bed.core, 0);
  assert.is(lockWord(bed), 2, 'another\'s end frees nothing');
  assert.not(isDone);
  endTurn(bed.core, 1);
  assert.is((await done).pass, 10 * SLOTS);
  checkTable(bed);
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
