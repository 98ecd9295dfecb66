// The state on disk: what is there after any crash is the old state or the new one, whole, or a
// file that is set aside and told of.

import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, utimesSync, writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Log } from '../../engine/log.ts';
import type { Delta, Snapshot } from '../../engine/model.ts';
import { deltaFrame, snapshotFrames } from '../../host/journal.ts';
import { ASIDE_LIMIT, LastState } from '../../host/last-state.ts';
import type { LastStateOptions } from '../../host/last-state.ts';
import { JOURNAL_BYTES_LIMIT } from '../../host/limits.ts';
import { clusterNode } from '../netns/support/forge-cluster.ts';
import { testNeeding } from '../support/needs.ts';
import { Random } from '../support/random.ts';
import { ROOT } from '../support/source.ts';
import { until } from '../support/until.ts';
import { damagedOutcomes, revisionOnDisk } from './support/last-state.ts';

const test = suite('host/last-state');
const LOCAL = 'node-1';
const FLIPS = 2000;
const KILLS = 25;
const silent: Log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
const folders: string[] = [];

test.after(() => { for (const folder of folders) rmSync(folder, { recursive: true }); });

function makeFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'culvert-last-'));
  folders.push(folder);
  return folder;
}

function stateIn(folder: string, change: Partial<LastStateOptions> = {}): LastState {
  return new LastState({
    folder, local: LOCAL, log: silent, changesMs: 0, snapshotMs: 0, ...change,
  });
}

function snapshotOf(revision: number): Snapshot {
  return { revision, local: LOCAL, nodes: [clusterNode(1), clusterNode(2)], pods: [] };
}

function deltaTo(to: number): Delta {
  return {
    from: to - 1, to, nodes: [clusterNode(100 + (to % 100))], removedNodes: [], pods: [],
    removedPods: [],
  };
}

/** The last revision of what is on disk; null for nothing that can be used. */
function revisionIn(folder: string): number | null {
  const found = stateIn(folder).recall();
  return found === null ? null
    : found.recalled.deltas.at(-1)?.to ?? found.recalled.snapshot.revision;
}

/** Waits until this revision is on disk. */
function written(folder: string, revision: number): Promise<void> {
  return until(`revision ${revision}`, () => revisionOnDisk(folder) === revision);
}

/** Longer than what is to be written at once takes; what is not written may not be by then. */
function quiet(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 50));
}

test('a snapshot and changes come back, and when they were written', async () => {
  const folder = makeFolder();
  assert.is(stateIn(folder).recall(), null);
  const state = stateIn(join(folder, 'made'));
  state.append(deltaFrame(deltaTo(1)));
  state.replace(snapshotFrames(snapshotOf(5)));
  state.append(deltaFrame(deltaTo(6)));
  await state.close();
  utimesSync(join(folder, 'made', 'cluster'), 1000, 2000);
  const found = stateIn(join(folder, 'made')).recall();
  assert.is(found?.savedMs, 2_000_000);
  assert.equal(found?.recalled, { snapshot: snapshotOf(5), deltas: [deltaTo(6)], fault: null });
  assert.equal(readdirSync(join(folder, 'made')), ['cluster']);
});

test('changes are added, a snapshot takes the place of all', async () => {
  const folder = makeFolder();
  const state = stateIn(folder);
  state.replace(snapshotFrames(snapshotOf(1)));
  for (const to of [2, 3, 4]) {
    await written(folder, to - 1);
    state.append(deltaFrame(deltaTo(to)));
  }
  await written(folder, 4);
  state.replace(snapshotFrames(snapshotOf(9)));
  await state.close();
  assert.is(revisionIn(folder), 9);
  assert.equal(state.problems(), []);
});

test('a change that comes while the first snapshot is written is not lost', async () => {
  for (let turns = 0; turns < 12; turns += 1) {
    const folder = makeFolder();
    const state = stateIn(folder);
    state.replace(snapshotFrames(snapshotOf(1)));
    await new Promise((resolve) => setTimeout(resolve, 2));
    for (let turn = 0; turn < turns; turn += 1) await new Promise(setImmediate);
    state.append(deltaFrame(deltaTo(2)));
    await state.close();
    assert.is(revisionIn(folder), 2, `after ${turns} turns`);
  }
});

test('the disk is written at a bounded rate', async () => {
  const folder = makeFolder();
  const state = stateIn(folder, { changesMs: 60_000, snapshotMs: 60_000 });
  state.replace(snapshotFrames(snapshotOf(1)));
  await written(folder, 1);
  state.append(deltaFrame(deltaTo(2)));
  state.replace(snapshotFrames(snapshotOf(10)));
  state.append(deltaFrame(deltaTo(11)));
  await quiet();
  assert.is(revisionIn(folder), 1, 'the others wait');
  await state.close();
  assert.is(revisionIn(folder), 11, 'but not beyond the end');
});

test('very many changes are left out until a snapshot may be written', async () => {
  const folder = makeFolder();
  const options = { folder, local: LOCAL, log: silent, changesMs: 0, snapshotMs: 3_600_000 };
  const state = new LastState(options);
  state.replace(snapshotFrames(snapshotOf(1)));
  await written(folder, 1);
  const many = deltaFrame({
    ...deltaTo(2), nodes: Array.from({ length: 200 }, (_, at) => clusterNode(at)),
  });
  for (let at = 0; at <= JOURNAL_BYTES_LIMIT; at += many.bytes.length) state.append(many);
  assert.not(state.isLong, 'none may be written yet');
  await quiet();
  assert.is(revisionIn(folder), 1);
  // As if the hour was over.
  options.snapshotMs = 0;
  assert.ok(state.isLong);
  state.replace(snapshotFrames(snapshotOf(5)));
  assert.not(state.isLong);
  await state.close();
  assert.is(revisionIn(folder), 5);
});

test('a file that ends anywhere has what is whole, or is set aside', async () => {
  const folder = makeFolder();
  const state = stateIn(folder);
  state.replace(snapshotFrames(snapshotOf(1)));
  await written(folder, 1);
  const first = readFileSync(join(folder, 'cluster')).length;
  for (const to of [2, 3]) state.append(deltaFrame(deltaTo(to)));
  await state.close();
  const whole = readFileSync(join(folder, 'cluster'));
  for (let length = 0; length < whole.length; length += 1) {
    writeFileSync(join(folder, 'cluster'), whole.subarray(0, length));
    const revision = revisionIn(folder);
    if (length < first) assert.is(revision, null, `${length} bytes`);
    else assert.ok(revision === 1 || revision === 2, `${length} bytes: ${revision}`);
    assert.is(existsSync(join(folder, 'cluster')), length >= first, `${length} bytes`);
  }
  const aside = readdirSync(folder).filter((name) => name.startsWith('cluster.corrupt-'));
  assert.is(aside.length, ASIDE_LIMIT);
});

test(`${FLIPS} flipped bits give a state that was, or none`, () => {
  const { used, setAside } = damagedOutcomes(makeFolder(), FLIPS, new Random(7));
  console.log(`\n${used} used in part or whole, ${setAside} set aside`);
  assert.ok(setAside > FLIPS / 4);
});

test('another node\'s state is not used, and the operator is told', () => {
  const folder = makeFolder();
  const frames = snapshotFrames({ ...snapshotOf(1), local: 'node-9' });
  writeFileSync(join(folder, 'cluster'), Buffer.concat(frames));
  const state = stateIn(folder);
  assert.is(state.recall(), null);
  const [problem = ''] = state.problems();
  assert.match(problem, /it is of node node-9\); it is set aside as .*corrupt-1$/);
});

test('what cannot be written is told, and written later', async () => {
  const folder = makeFolder();
  const blocked = join(folder, 'file');
  writeFileSync(blocked, '');
  const state = stateIn(join(blocked, 'below'));
  state.replace(snapshotFrames(snapshotOf(1)));
  await until('the failure', () => state.problems().length > 0);
  assert.match(state.problems()[0] ?? '', /cannot be written to disk: ENOTDIR/);
  rmSync(blocked);
  await state.close();
  assert.is(revisionIn(join(blocked, 'below')), 1);
  assert.equal(state.problems(), []);
});

test(`${KILLS} kills while it writes leave the old state or the new one`, async () => {
  const folder = makeFolder();
  const random = new Random(11);
  const writer = join(ROOT, 'dist', 'test', 'host', 'support', 'last-state-writer.js');
  let newest = 0;
  for (let kill = 0; kill < KILLS; kill += 1) {
    const child = spawn(process.execPath, [writer, folder, `${newest + 1}`], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    await once(child.stdout, 'data');
    await new Promise((resolve) => setTimeout(resolve, random.below(40)));
    child.kill('SIGKILL');
    await once(child, 'exit');
    const revision = revisionIn(folder);
    assert.ok(revision !== null && revision >= newest, `${revision} after ${newest}`);
    newest = revision;
  }
  console.log(`\nrevision ${newest} after ${KILLS} kills`);
  assert.not.ok(readdirSync(folder).some((name) => name.includes('corrupt')));
});

testNeeding('root', test, 'a full disk leaves the old state, and says so', () => {
  const program = join(ROOT, 'dist', 'test', 'host', 'support', 'last-state-full.js');
  const folder = makeFolder();
  const script = `mount -t tmpfs -o size=300k none ${folder} && `
    + `${process.execPath} ${program} ${folder}`;
  const { status, stdout, stderr } = spawnSync('unshare', ['-m', 'sh', '-c', script]);
  assert.is(status, 0, `${stderr}`);
  const files = ['cluster'];
  assert.equal(JSON.parse(`${stdout}`), [
    { name: 'small', revision: 1, problem: '', files },
    { name: 'too large', revision: 1, problem: 'no spa', files },
    { name: 'small again', revision: 3, problem: '', files },
    { name: 'a change', revision: 4, problem: '', files },
    { name: 'a change too large', revision: 4, problem: 'no spa', files },
    { name: 'and all anew', revision: 6, problem: '', files },
  ]);
});

test.run();
