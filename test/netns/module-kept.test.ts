// Modules outlive the daemon: they are in force before the next one judges a packet, whether the
// last one ended well or was killed; what cannot be loaded any more fails as it is to fail.
// support/module-scene.ts draws the nodes. The daemon has two workers, each with its own instances.

import { readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { makeGuest } from '../support/guest.ts';
import { testNeeding } from '../support/needs.ts';
import { until } from '../support/until.ts';
import { kill } from './support/forge-scene.ts';
import { Knocks } from './support/knocks.ts';
import { ModuleScene, REMOTE } from './support/module-scene.ts';

const test = suite('netns/module-kept');
const OPEN = 7200;
const SHUT = 7100;
const LOOP = 7003;
const TRY_MS = 400;
const TRIES = 8;
const PER_SECOND = 200;
const KNOCK_MS = 300;
let scene: ModuleScene | null = null;
let knocks: { near: Knocks; far: Knocks } | null = null;

const is = (port: number): string => `(i32.eq (local.get $dstPort) (i32.const ${port}))`;
/** Rejects connections to SHUT, and does not return where one is opened to LOOP. */
const EVALUATE = `(block (loop $again (br_if $again ${is(LOOP)})))
  (select (i32.const 3) (i32.const 0) ${is(SHUT)})`;

async function theScene(): Promise<{ all: ModuleScene; near: Knocks }> {
  if (scene === null) {
    scene = await ModuleScene.make(['--data-plane-workers', '2', '--handover-enabled', 'true']);
    knocks = { near: new Knocks(scene.first), far: new Knocks(scene.remote) };
    await knocks.far.listen([OPEN, SHUT, LOOP]);
    await scene.add(await makeGuest({ name: 'kept', evaluate: EVALUATE }));
  }
  if (knocks === null) throw new Error('nobody knocks');
  return { all: scene, near: knocks.near };
}

test.after(async () => {
  await knocks?.near.close();
  await knocks?.far.close();
  await scene?.close();
});

function folderOf({ one }: ModuleScene): string {
  return join(one.culvert.runtimeDirectory, 'modules');
}

/** What becomes of several connections, which come to different workers. */
async function outcomes(near: Knocks, port: number): Promise<string[]> {
  const tries = Array.from({ length: TRIES }, () => near.try(REMOTE, port, TRY_MS));
  return [...new Set(await Promise.all(tries))];
}

testNeeding('tun', test, 'a daemon after a crash has the modules of the last one', async () => {
  const { all, near } = await theScene();
  await near.knock(REMOTE, OPEN, SHUT, PER_SECOND);
  await new Promise((resolve) => setTimeout(resolve, KNOCK_MS));
  await kill(all.one.daemon, 'SIGKILL');
  await all.one.culvert.startDaemon();
  await new Promise((resolve) => setTimeout(resolve, KNOCK_MS));
  const { open, refused, wrong } = await near.stop();
  console.log(`over a kill: ${open} connections let in, ${refused} turned away`);
  assert.equal(wrong, [], 'no connection was judged without the module');
  const [report] = await all.list();
  assert.is(report?.state, 'enabled');
  assert.is(report?.name, 'kept');
  assert.equal(await outcomes(near, SHUT), ['refused']);
  assert.equal(await outcomes(near, OPEN), ['open']);
});

testNeeding('tun', test, 'two workers in one endless loop are both replaced', async () => {
  const { all, near } = await theScene();
  assert.equal(await outcomes(near, LOOP), ['silence']);
  await until('the loop to be told', async () => (await all.list())[0]?.state === 'disabled');
  const { dataPlane, modules } = await all.status();
  assert.ok(dataPlane.crashes >= 1);
  assert.match(modules[0]?.reason ?? '', 'did not return');
  assert.equal(await outcomes(near, OPEN), ['silence'], 'the failure verdict is deny');
  await all.remove('kept');
  assert.equal(await outcomes(near, SHUT), ['open']);
});

testNeeding('tun', test, 'a module whose files are damaged fails as it is to', async () => {
  const { all, near } = await theScene();
  await all.add(await makeGuest({ name: 'kept', evaluate: EVALUATE }), { failure: 'deny' });
  for (const name of readdirSync(folderOf(all))) {
    if (/\.(wasm|image)$/.test(name)) writeFileSync(join(folderOf(all), name), 'damaged');
  }
  await kill(all.one.daemon, 'SIGKILL');
  await all.one.culvert.startDaemon();
  const [report] = await all.list();
  assert.is(report?.state, 'disabled');
  assert.match(report?.reason ?? '', /cannot be loaded: .* is damaged/);
  assert.equal(await outcomes(near, OPEN), ['silence']);
  await all.add(await makeGuest({ name: 'kept', evaluate: EVALUATE }), { failure: 'deny' });
  assert.equal(await outcomes(near, OPEN), ['open']);
});

testNeeding('tun', test, 'an image that is gone is made again from its component', async () => {
  const { all, near } = await theScene();
  for (const name of readdirSync(folderOf(all))) {
    if (name.endsWith('.image')) rmSync(join(folderOf(all), name));
  }
  await kill(all.one.daemon, 'SIGKILL');
  await all.one.culvert.startDaemon();
  assert.is((await all.list())[0]?.state, 'enabled');
  assert.equal(await outcomes(near, SHUT), ['refused']);
});

testNeeding('tun', test, 'where the list itself cannot be read, nothing new passes', async () => {
  const { all, near } = await theScene();
  writeFileSync(join(folderOf(all), 'set'), 'damaged');
  await kill(all.one.daemon, 'SIGKILL');
  await all.one.culvert.startDaemon();
  const [report] = await all.list();
  assert.is(report?.name, 'unreadable-set');
  assert.equal(await outcomes(near, OPEN), ['silence']);
  await all.remove('unreadable-set');
  assert.equal(await outcomes(near, OPEN), ['open']);
});

testNeeding('tun', test, 'a daemon that was stopped leaves them, too', async () => {
  const { all } = await theScene();
  await all.add(await makeGuest({ name: 'kept', evaluate: EVALUATE }));
  await all.add(await makeGuest({ name: 'first' }), { order: 0, failure: 'pass' });
  await kill(all.one.daemon, 'SIGTERM');
  await all.one.culvert.startDaemon();
  const found = (await all.list()).map(({ name, order, failure, state }) =>
    [name, order, failure, state]);
  assert.equal(found, [['first', 0, 'pass', 'enabled'], ['kept', 1, 'deny', 'enabled']]);
});

test.run();
