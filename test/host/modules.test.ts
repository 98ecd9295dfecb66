// The set of policy modules of a node: order, limits, refusals, what is kept on disk, and how one
// that does not return is told from one that is merely slow.

import { createHash } from 'node:crypto';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { WORKERS_START, WORKER_MODULE, WORKER_STRIDE } from '../../wasm/abi/layout.ts';
import { MODULE_LIMIT } from '../../wasm/abi/module.ts';
import type { ModuleAdd } from '../../engine/model-modules.ts';
import { countFault, readModules } from '../../engine/modules.ts';
import { CALL_LIMIT_MS, CLOCK_FACTOR, CONTROL_LIMIT_MS } from '../../host/modules/limits.ts';
import type { ModuleEndpoint } from '../../host/modules/load.ts';
import { ModuleStore } from '../../host/modules/store.ts';
import { CallWatch, threadRanMs } from '../../host/modules/watch.ts';
import { Modules } from '../../host/modules.ts';
import { THREAD_CONTROL, THREAD_STATE_SIZE } from '../../host/thread-state.ts';
import { makeGuest } from '../support/guest.ts';
import { withDataPlane, type Bench } from './support/data-plane.ts';
import { makeHome } from '../support/home.ts';

const test = suite('host/modules');
const folder = mkdtempSync(join(tmpdir(), `culvert-modules-${process.pid}-`));
const SILENT = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
const PODS: ModuleEndpoint[] = [{ id: 7, namespace: 'a', pod: 'b', labels: [] }];
const component = await makeGuest({ name: 'guest', version: '1.2.3' });
const stateful = await makeGuest({ name: 'keeper', stateful: true });

test.after(() => rmSync(folder, { recursive: true }));

function sumOf(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

function settings(bytes: Uint8Array, others: Partial<ModuleAdd> = {}): ModuleAdd {
  return {
    sha256: sumOf(bytes), name: null, order: null, config: null, failure: 'deny', mayAllow: false,
    perPacket: false, allow: [], memoryCapBytes: null, ...others,
  };
}

function modulesOf(bench: Bench, name: string): Modules {
  const { dataPlane, scene } = bench;
  const modules = new Modules({
    core: scene.core, dataPlane, log: SILENT, store: new ModuleStore(join(folder, name)),
    endpoints: () => PODS,
  });
  bench.onModule = (report) => modules.hear(report);
  return modules;
}

/** What a refused change says. */
function refusal(work: Promise<unknown>): Promise<string> {
  return work.then(() => '', (error: Error) => error.message);
}

test('modules are asked in the order that the operator wants', () =>
  withDataPlane(async (bench) => {
    const modules = modulesOf(bench, 'order');
    const add = (name: string, order: number | null): Promise<unknown> =>
      modules.add(component, settings(component, { name, order }));
    const names = async (): Promise<string> =>
      (await modules.list()).map(({ name, order }) => `${order} ${name}`).join(', ');
    await add('a', null);
    await add('b', null);
    await add('c', 0);
    assert.is(await names(), '0 c, 1 a, 2 b');
    await add('a', null);
    assert.is(await names(), '0 c, 1 a, 2 b', 'one that is replaced stays where it was');
    await add('c', 2);
    assert.is(await names(), '0 a, 1 b, 2 c');
    const places = readModules(bench.scene.core).map(({ place }) => modules.nameOf(place));
    assert.equal(places, ['a', 'b', 'c']);
    await modules.remove('b');
    assert.is(await names(), '0 a, 1 c');
    assert.equal(modules.states().map(({ state }) => state), ['enabled', 'enabled']);
    modules.close();
  }));

test('there are as many as fit the list, and one more can still be swapped in', () =>
  withDataPlane(async (bench) => {
    const modules = modulesOf(bench, 'limit');
    const add = (name: string): Promise<unknown> =>
      modules.add(component, settings(component, { name }));
    for (let number = 0; number < MODULE_LIMIT; number += 1) await add(`m${number}`);
    assert.match(await refusal(add('more')), `there are ${MODULE_LIMIT} modules`);
    for (let round = 0; round < MODULE_LIMIT; round += 1) await add('m3');
    assert.is((await modules.list()).length, MODULE_LIMIT);
    modules.close();
  }));

test('what is refused leaves everything as it was', () => withDataPlane(async (bench) => {
  const modules = modulesOf(bench, 'refused');
  const report = await modules.add(component, settings(component, { mayAllow: true }));
  assert.is(report.version, '1.2.3');
  assert.is(report.path, 'direct');
  assert.is(report.memoryBytes, 65536);
  const cases: [what: Partial<ModuleAdd>, bytes: Uint8Array, message: RegExp][] = [
    [{ sha256: '0'.repeat(64) }, component, /did not arrive/],
    [{ allow: ['network'] }, component, /nothing called network can be allowed/],
    [{ perPacket: true }, component, /is not stateful/],
    [{}, component.slice(0, -9), /no WebAssembly component, or is damaged/],
    [{}, new Uint8Array(0), /no WebAssembly/],
  ];
  for (const [what, bytes, message] of cases) {
    assert.match(await refusal(modules.add(bytes, settings(bytes, what))), message);
  }
  assert.match(await refusal(modules.remove('nobody')), 'no module is called nobody');
  assert.equal(await modules.list(), [report]);
  const kept = await modules.add(stateful, settings(stateful, { perPacket: true }));
  assert.ok(kept.stateful && kept.perPacket);
  modules.close();
}));

test('another daemon has the same modules, and removed ones leave nothing', async () => {
  const store = new ModuleStore(join(folder, 'kept'));
  const config = new TextEncoder().encode('anything');
  await withDataPlane(async (bench) => {
    const modules = modulesOf(bench, 'kept');
    await modules.add(component, settings(component, { name: 'first', failure: 'pass', config }));
    await modules.add(stateful, settings(stateful, { memoryCapBytes: 1 << 20 }));
    modules.close();
  });
  assert.equal(store.read().map(({ name }) => name), ['first', 'keeper']);
  assert.equal(store.config(sumOf(config)), Buffer.from(config));
  await withDataPlane(async (bench) => {
    const modules = modulesOf(bench, 'kept');
    await modules.restore();
    const found = (await modules.list()).map(({ name, failure, state }) => [name, failure, state]);
    assert.equal(found, [['first', 'pass', 'enabled'], ['keeper', 'deny', 'enabled']]);
    assert.equal(readModules(bench.scene.core).map(({ failure }) => failure), ['pass', 'deny']);
    for (const name of ['first', 'keeper']) await modules.remove(name);
    modules.close();
  });
  await withDataPlane(async (bench) => {
    const modules = modulesOf(bench, 'kept');
    await modules.restore();
    assert.equal(await modules.list(), []);
    await modules.add(component, settings(component));
    modules.close();
  });
  const files = readdirSync(join(folder, 'kept')).filter((name) => name !== 'set');
  assert.equal(new Set(files.map((name) => name.slice(0, 64))),
    new Set([sumOf(component), sumOf(new Uint8Array(0))]));
});

/** A watch over worker 0 whose thread has run as long as the test says. */
function watched(): {
  watch: CallWatch; enter(place: number): void; count(): void; state: Int32Array;
  ran: { ms: number | null };
} {
  const { core } = makeHome({});
  const state = new Int32Array(new SharedArrayBuffer(THREAD_STATE_SIZE));
  const ran: { ms: number | null } = { ms: 0 };
  return {
    watch: new CallWatch(core, 0, state, () => ran.ms),
    enter: (place) => core.view.setUint32(
      WORKERS_START + (0 * WORKER_STRIDE) + WORKER_MODULE, place + 1, true),
    count: () => countFault(core, 0, 1, 'trap'),
    state, ran,
  };
}

test('a call is too long by the time that its thread has run', () => {
  const { watch, enter, count, ran } = watched();
  assert.is(watch.look(0, false), -1, 'it is in no module');
  enter(1);
  assert.is(watch.look(1, false), -1);
  assert.is(watch.look(1 + (100 * CALL_LIMIT_MS), false), -1, 'it was not let run');
  ran.ms = CALL_LIMIT_MS + 1;
  assert.is(watch.look(2 + (100 * CALL_LIMIT_MS), false), 1);
  count();
  assert.is(watch.look(3 + (100 * CALL_LIMIT_MS), false), -1, 'it has come back and is in another');
  ran.ms = 3 * CALL_LIMIT_MS;
  assert.is(watch.look(4 + (200 * CALL_LIMIT_MS), false), 1);
  assert.is(watch.look(5 + (200 * CALL_LIMIT_MS), true), -1, 'a standby is in no call');
});

test('where the kernel does not tell, the clock does, more patiently', () => {
  const { watch, enter, ran } = watched();
  ran.ms = null;
  enter(2);
  watch.look(0, false);
  assert.is(watch.look((CALL_LIMIT_MS * CLOCK_FACTOR) - 1, false), -1);
  assert.is(watch.look(CALL_LIMIT_MS * CLOCK_FACTOR, false), 2);
});

test('being configured may take longer, in a standby too', () => {
  const { watch, state, ran } = watched();
  Atomics.store(state, THREAD_CONTROL, 5 + 1);
  watch.look(0, true);
  ran.ms = CONTROL_LIMIT_MS - 1;
  assert.is(watch.look(CONTROL_LIMIT_MS, true), -1);
  ran.ms = CONTROL_LIMIT_MS;
  assert.is(watch.look(CONTROL_LIMIT_MS + 1, true), 5);
});

test('the kernel tells how long a thread has run', () => {
  const before = threadRanMs(process.pid);
  if (before === null) return;
  const endMs = performance.now() + 50;
  while (performance.now() < endMs);
  assert.ok((threadRanMs(process.pid) ?? 0) > before);
  assert.is(threadRanMs(0), null);
});

test.run();
