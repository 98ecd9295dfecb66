// Fills the disk that a state is kept on: run by the test in a mount namespace of its own, with a
// small tmpfs as the folder. Prints what is on the disk after each step, as JSON.

import { readdirSync } from 'node:fs';
import { deltaFrame, snapshotFrames } from '../../../host/journal.ts';
import { LastState } from '../../../host/last-state.ts';
import { clusterNode } from '../../netns/support/forge-cluster.ts';

const [, , folder = ''] = process.argv;
const SMALL = 10;
const LARGE = 5000;
const log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
const options = { folder, local: 'node-1', log, changesMs: 0, snapshotMs: 0 };
const state = new LastState(options);
const steps: object[] = [];

const nodes = (count: number) => Array.from({ length: count }, (_, at) => clusterNode(at % 200));

async function step(name: string, work: () => void): Promise<void> {
  work();
  await new Promise((resolve) => setTimeout(resolve, 100));
  const found = new LastState(options).recall()?.recalled;
  const revision = found?.deltas.at(-1)?.to ?? found?.snapshot.revision ?? null;
  const problem = state.problems()[0]?.replace(/^.*: /, '') ?? '';
  const files = readdirSync(folder).filter((file) => file !== 'cluster.new');
  steps.push({ name, revision, problem: problem.slice(0, 6), files });
}

const begin = (revision: number, count: number) => (): void =>
  state.replace(snapshotFrames({ revision, local: 'node-1', nodes: nodes(count), pods: [] }));
const add = (to: number, count: number) => (): void => state.append(deltaFrame(
  { from: to - 1, to, nodes: nodes(count), removedNodes: [], pods: [], removedPods: [] }));

await step('small', begin(1, SMALL));
await step('too large', begin(2, LARGE));
await step('small again', begin(3, SMALL));
await step('a change', add(4, 1));
await step('a change too large', add(5, 1500));
await step('and all anew', begin(6, SMALL));
await state.close();
process.stdout.write(JSON.stringify(steps));
