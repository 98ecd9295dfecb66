// What a policy module does wrong while packets flow: the one flow that provoked it gets the
// module's failure verdict, others go on, and the operator sees why. support/module-scene.ts draws
// the nodes; each sort of fault is provoked by a destination port.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { ModuleReport } from '../../engine/model-modules.ts';
import { CALL_LIMIT_MS } from '../../host/modules/limits.ts';
import { testNeeding } from '../support/needs.ts';
import { buildThreats, THREATS } from '../support/threat-module.ts';
import { until } from '../support/until.ts';
import { logLines } from './support/forge-scene.ts';
import { ModuleScene, REMOTE } from './support/module-scene.ts';
import { Paced } from './support/paced.ts';

const test = suite('netns/module-threats');
/** Datagrams of others. */
const PER_SECOND = 1000;
const PORT = 9800;
const LOSS_LIMIT = 0.01;
/** What a loop may add to the longest gap that there is without one, on a processor of its own. */
const GAP_LIMIT_MS = 5 * CALL_LIMIT_MS;
/** A machine that has other things to do makes gaps of its own: so often a short one is tried. */
const ROUNDS = 5;
const WATCH_MS = 400;
const ASK_MS = 400;
const FAULT_LIMIT = 3;
/** Failure verdicts, and what becomes of the connection that made the module loop. */
const LOOPS = [['deny', 'silence'], ['pass', 'refused']] as const;
let scene: ModuleScene | null = null;
let component = new Uint8Array(0);

async function theScene(): Promise<ModuleScene> {
  if (scene !== null) return scene;
  component = await buildThreats() as Uint8Array<ArrayBuffer>;
  scene = await ModuleScene.make();
  return scene;
}

test.after(async () => scene?.close());

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Which part of a processor a thread of ours has now, beside all others. */
function processorShare(): number {
  const startMs = performance.now();
  const before = process.cpuUsage();
  let usedMs = 0;
  while (usedMs < CALL_LIMIT_MS) {
    const { user, system } = process.cpuUsage(before);
    usedMs = (user + system) / 1000;
  }
  return Math.min(1, usedMs / (performance.now() - startMs));
}

/** Opens a connection to a port of the remote pod: what became of it. */
async function open({ first }: ModuleScene, port: number): Promise<'refused' | 'silence'> {
  const answer = await first.agent.ask({ verb: 'who', address: REMOTE, port, timeoutMs: ASK_MS });
  assert.not.ok(answer.ok);
  return /ECONNREFUSED/.test(String(answer.detail)) ? 'refused' : 'silence';
}

async function only(from: ModuleScene): Promise<ModuleReport> {
  const [report] = await from.list();
  if (report === undefined) throw new Error('no module is listed');
  return report;
}

/** Does something while datagrams of others flow; says what they have seen of it. */
async function whileOthersFlow(all: ModuleScene, what: string, work: () => Promise<void>)
  : Promise<number> {
  const listener = await Paced.listener(all.remote, REMOTE, PORT);
  const sender = await Paced.sender(all.second, REMOTE, PORT, PER_SECOND);
  try {
    await sleep(WATCH_MS);
    await work();
    await sleep(WATCH_MS);
    const { sent } = await sender.stop();
    const { arrived, duplicates, longestGapMs } = await listener.settled(sent);
    const gap = longestGapMs.toFixed(1);
    console.log(`${what}: others lost ${sent - arrived} of ${sent}, longest gap ${gap} ms`);
    assert.ok(sent - arrived <= sent * LOSS_LIMIT, `${sent - arrived} of ${sent} lost`);
    assert.is(duplicates, 0);
    return longestGapMs;
  } finally {
    await sender.close();
    await listener.close();
  }
}

for (const threat of ['trap', 'recursion', 'memory', 'nonsense'] as const) {
  testNeeding('tun', test, `${threat}: the flow is judged by the failure verdict`, async () => {
    const all = await theScene();
    await all.add(component, { failure: 'deny' });
    await whileOthersFlow(all, threat, async () => {
      assert.is(await open(all, THREATS[threat]), 'silence');
      const { faults, state } = await only(all);
      assert.is(Object.values(faults).reduce((sum, count) => sum + count), 1);
      assert.is(state, 'enabled', 'one fault is none too many');
      assert.is(await open(all, 80), 'refused', 'it is asked about others as before');
    });
    await all.add(component, { failure: 'pass' });
    assert.is((await all.list()).length, 1, 'it was replaced');
    assert.is(await open(all, THREATS[threat]), 'refused');
  });
}

testNeeding('tun', test, 'a module that fails again and again is not asked any more', async () => {
  const all = await theScene();
  await all.add(component, { failure: 'pass', text: '7100' });
  assert.is(await open(all, 7100), 'silence', 'it denies what it is to');
  for (let fault = 0; fault < FAULT_LIMIT; fault += 1) await open(all, THREATS.trap);
  await until('the module to be disabled', async () => (await only(all)).state === 'disabled');
  const { reason, faults } = await only(all);
  assert.is(faults.trap, FAULT_LIMIT);
  assert.match(reason ?? '', /3 faults, the last: trap: unreachable/);
  assert.is(await open(all, 7100), 'refused', 'its failure verdict applies to all');
  assert.equal((await all.status()).modules.map(({ name, state }) => [name, state]),
    [['threats', 'disabled']]);
  assert.is((await all.add(component, { failure: 'pass', text: '7100' })).state, 'enabled');
  assert.is(await open(all, 7100), 'silence', 'it is asked again once it was added again');
});

testNeeding('tun', test, 'an endless loop stops nobody for long', async () => {
  const all = await theScene();
  const gaps: number[] = [];
  for (const [failure, outcome] of Array.from({ length: ROUNDS }, () => LOOPS).flat()) {
    if (gaps.length >= LOOPS.length && Math.min(...gaps) < GAP_LIMIT_MS) break;
    await all.add(component, { failure });
    const quietMs = await whileOthersFlow(all, 'nothing', () => sleep(WATCH_MS));
    const share = processorShare();
    const longestMs = await whileOthersFlow(all, `loop, ${failure}`, async () => {
      assert.is(await open(all, THREATS.loop), outcome);
    });
    gaps.push((longestMs - quietMs) * share);
    await until('the loop to be told', async () => (await only(all)).state === 'disabled');
    const { reason, faults } = await only(all);
    assert.is(faults.timeout, 1);
    assert.match(reason ?? '', 'did not return');
    await until('another standby', async () => (await all.status()).dataPlane.running);
    await sleep(WATCH_MS);
  }
  assert.ok(Math.min(...gaps) < GAP_LIMIT_MS, gaps.join(', '));
  const said = logLines(all.one.daemon, 0, 'a module did not return');
  assert.is(said.length, gaps.length);
});

testNeeding('tun', test, 'a module that does not take its configuration is not used', async () => {
  const all = await theScene();
  await all.add(component, { text: '7100' });
  const { sha256 } = await only(all);
  const refusal = async (text: string): Promise<string> => {
    let message = '';
    await whileOthersFlow(all, `configuration "${text}"`, async () => {
      message = await all.add(component, { text }).then(() => '', (error: Error) => error.message);
    });
    return message;
  };
  assert.match(await refusal('blue'), 'not a port: blue');
  assert.match(await refusal('trap'), /configure\(\) failed/);
  assert.match(await refusal('loop'), 'does not return');
  const report = await only(all);
  assert.is(report.sha256, sha256);
  assert.is(report.state, 'enabled');
  assert.is(await open(all, 7100), 'silence', 'the module from before is still asked');
  await all.remove('threats');
  assert.equal(await all.list(), []);
  assert.is(await open(all, 7100), 'refused');
});

test.run();
