// Data workers with policy modules: each has a standby, which takes over from a thread that crashes
// or does not come back from a module, without the main thread. support/data-plane.ts draws where
// packets come from.

import { readdirSync } from 'node:fs';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ModuleTable } from '../../engine/modules.ts';
import type { ModuleEndpoint } from '../../host/modules/load.ts';
import { inspectComponent, type ModuleImage } from '../../modules/runtime.ts';
import { makeGuest } from '../support/guest.ts';
import {
  ask, askAndHear, crash, CRASH_AT_FIRST, descriptorCount, hasAnswer, withDataPlane, type Bench,
} from './support/data-plane.ts';
import { until } from '../support/until.ts';

const test = suite('host/standby');
const PLACE = 3;
/** As many pods as make the guest loop. */
const LOOP_AT = 7;
const LIMITS = { allow: [], memoryCapBytes: 1 << 20 };
/** Far more than a call may take, on a machine that has little time for us. */
const BLOCKED_MS = 30_000;
/** No answer for so long: the worker is in the module. */
const SILENCE_MS = 200;
const STEP_MS = 2;
/** Answers that come while a standby loops, where no packet waits for it: far fewer than there
 * are. A worker that looped itself would answer once, after it was replaced. */
const ANSWERS = 10;

const image = await inspectComponent(await makeGuest({
  name: 'looping',
  endpoints: `(loop $again (br_if $again (i32.eq (local.get $count) (i32.const ${LOOP_AT}))))`,
}), LIMITS);
const refusing = await inspectComponent(await makeGuest({
  name: 'refusing', configure: '(unreachable)',
}), LIMITS);

function pods(count: number): ModuleEndpoint[] {
  return Array.from({ length: count }, (_, id) =>
    ({ id, namespace: 'test', pod: `pod-${id}`, labels: [] }));
}

async function add({ dataPlane, scene }: Bench, of: ModuleImage = image): Promise<void> {
  const load = { name: of.name, image: of, config: new Uint8Array(0) };
  await dataPlane.changeModules([{ place: PLACE, load }]);
  new ModuleTable(scene.core).set([{
    place: PLACE, failure: 'pass', mayAllow: false, perPacket: false, hasPayload: false,
    disabled: false,
  }]);
}

function threadCount(): number {
  return readdirSync('/proc/self/task').length;
}

function standbys({ dataPlane }: Bench): boolean[] {
  return dataPlane.workers.map(({ hasStandby }) => hasStandby);
}

/** Keeps this thread from doing anything, asks all the time, and gives how long the first silence
 * was; -1 where there was none, or no end of it. */
function blockUntilHeard(bench: Bench): number {
  const pause = new Int32Array(new SharedArrayBuffer(4));
  const endMs = performance.now() + BLOCKED_MS;
  let heardMs = performance.now();
  while (performance.now() < endMs) {
    ask(bench);
    Atomics.wait(pause, 0, 0, STEP_MS);
    if (!hasAnswer(bench)) continue;
    const silenceMs = performance.now() - heardMs;
    if (silenceMs > SILENCE_MS) return silenceMs;
    heardMs = performance.now();
  }
  return -1;
}

/** Asks all the time until something has happened, and gives how often it was answered. */
async function askDuring(bench: Bench, work: Promise<void>): Promise<number> {
  let isOver = false;
  void work.then(() => { isOver = true; });
  let answers = 0;
  for (; !isOver; answers += 1) await askAndHear(bench);
  return answers;
}

test('there are standbys as long as there are modules, and nothing is left of them', () =>
  withDataPlane(async (bench) => {
    const { dataPlane, spec } = bench;
    await dataPlane.attach(spec);
    assert.equal(standbys(bench), [false, false]);
    await add(bench);
    assert.equal(standbys(bench), [true, true]);
    const counts = (): string => `${threadCount()} threads, ${descriptorCount()} descriptors`;
    for (let round = 0; round < 3; round += 1) await add(bench);
    const before = counts();
    for (let round = 0; round < 10; round += 1) await add(bench);
    assert.is(counts(), before);
    await askAndHear(bench);
    await dataPlane.changeModules([{ place: PLACE, load: null }]);
    assert.equal(standbys(bench), [false, false]);
    await add(bench);
    assert.equal(standbys(bench), [true, true]);
    await askAndHear(bench);
    assert.is(dataPlane.crashes, 0);
  }, 2));

test('the standby goes on where a worker crashes', () => withDataPlane(async (bench) => {
  const { dataPlane, spec } = bench;
  await dataPlane.attach({ ...spec, fault: { ...CRASH_AT_FIRST, crashAfter: 2 } });
  await add(bench);
  for (let crashes = 1; crashes <= 3; crashes += 1) {
    await askAndHear(bench);
    await crash(bench);
    assert.ok(dataPlane.isRunning, 'there is no time without a worker');
    await askAndHear(bench);
    await crash(bench);
    await until('another standby', () => dataPlane.workers[0]?.hasStandby === true);
  }
}));

test('devices that change reach the standby, too', () => withDataPlane(async (bench) => {
  const { dataPlane, spec } = bench;
  await add(bench);
  await dataPlane.attach(spec);
  await dataPlane.detach(spec.index);
  await dataPlane.attach({ ...spec, fault: CRASH_AT_FIRST });
  await dataPlane.attach({ ...spec, fault: { ...CRASH_AT_FIRST, crashAfter: 2 } });
  await askAndHear(bench);
  await crash(bench);
  await askAndHear(bench);
  await dataPlane.detach(spec.index);
  await dataPlane.attach(spec);
  for (let count = 0; count < 3; count += 1) await askAndHear(bench);
}));

test('what a module refuses in the standby never comes to the worker', () =>
  withDataPlane(async (bench) => {
    const { dataPlane, spec } = bench;
    await dataPlane.attach(spec);
    await add(bench);
    const message = await add(bench, refusing).then(() => '', (error: Error) => error.message);
    assert.match(message, /configure\(\) failed/);
    assert.is(dataPlane.crashes, 0);
    await askAndHear(bench);
    await add(bench);
    assert.equal(standbys(bench), [true]);
  }));

test('a loop is left without the main thread', () => withDataPlane(async (bench) => {
  const { dataPlane, spec, stuck } = bench;
  await dataPlane.attach(spec);
  await add(bench);
  await askAndHear(bench);
  const told = dataPlane.workers[0]?.perform({ verb: 'endpoints', endpoints: pods(LOOP_AT) });
  const silenceMs = blockUntilHeard(bench);
  console.log(`main thread blocked, silence of ${silenceMs.toFixed(1)} ms`);
  assert.ok(silenceMs > 0, 'another thread answers while this one does nothing');
  await told;
  await until('the loop to be told', () => stuck.length > 0);
  assert.equal(stuck.map(({ worker, place, isStandby }) => [worker, place, isStandby]),
      [[0, PLACE, false]]);
  assert.is(dataPlane.crashes, 1);
}));

test('pods that make a module loop are told to the standby first', () =>
  withDataPlane(async (bench) => {
    const { dataPlane, spec, stuck } = bench;
    await dataPlane.attach(spec);
    await add(bench);
    await dataPlane.changeModules([{ place: PLACE, load: null }]);
    let before = Infinity;
    await until('the standby\'s descriptors to be closed', () => {
      const isLess = descriptorCount() >= before;
      before = Math.min(before, descriptorCount());
      return isLess;
    });
    await add(bench);
    const answers = await askDuring(bench, dataPlane.tellModules(pods(LOOP_AT)));
    console.log(`${answers} answers while the standby was told of pods`);
    assert.ok(answers >= ANSWERS, `${answers} answers`);
    assert.equal(stuck.map(({ worker, place, isStandby }) => [worker, place, isStandby]),
      [[0, PLACE, true]]);
    assert.is(dataPlane.crashes, 0, 'no packet waited for it');
    await until('another standby', () => dataPlane.workers[0]?.hasStandby === true);
    await askAndHear(bench);
    await dataPlane.changeModules([{ place: PLACE, load: null }]);
    await until('its descriptors to be closed', () => descriptorCount() <= before);
  }));

test.run();
