// Fills the disk that a state is kept on: run by the test in a mount namespace of its own, with a
// small tmpfs as the folder. Prints what is on the disk after each step, as JSON.

import { readdirSync } from 'node:fs';
import { deltaFrame, snapshotFrames } from '../../../host/journal.ts';
import { LastState } from '../../../host/last-state.ts';
import { clusterNode } from '../../netns/support/forge-cluster.ts';
import { until } from '../../support/until.ts';
import { revisionOnDisk } from './last-state.ts';

const [, , folder = ''] = process.argv;
const SMALL = 10;
const LARGE = 5000;
const log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
const state = new LastState({ folder, local: 'node-1', log, changesMs: 0, snapshotMs: 0 });
const steps: object[] = [];

const nodes = (count: number) => Array.from({ length: count }, (_, at) => clusterNode(at % 200));

/** Does something and waits until a revision is on the disk, or a problem is told of. */
async function step(name: string, work: () => void, wanted: number | null): Promise<void> {
  work();
  let revision: number | null = null;
  await until(name, () => {
    revision = revisionOnDisk(folder);
    return wanted === null ? state.problems().length > 0
      : revision === wanted && state.problems().length === 0;
  }, () => `revision ${revision}, ${state.problems().join()}`);
  const problem = state.problems()[0]?.replace(/^.*: /, '') ?? '';
  const files = readdirSync(folder).filter((file) => file !== 'cluster.new');
  steps.push({ name, revision, problem: problem.slice(0, 6), files });
}

const begin = (revision: number, count: number) => (): void =>
  state.replace(snapshotFrames({ revision, local: 'node-1', nodes: nodes(count), pods: [] }));
const add = (to: number, count: number) => (): void => state.append(deltaFrame(
  { from: to - 1, to, nodes: nodes(count), removedNodes: [], pods: [], removedPods: [] }));

await step('small', begin(1, SMALL), 1);
await step('too large', begin(2, LARGE), null);
await step('small again', begin(3, SMALL), 3);
await step('a change', add(4, 1), 4);
await step('a change too large', add(5, 1500), null);
await step('and all anew', begin(6, SMALL), 6);
await state.close();
process.stdout.write(JSON.stringify(steps));
