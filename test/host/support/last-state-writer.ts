// Writes states to a folder for as long as it lives: each snapshot and each change one revision on.
// Its first line of output says that a state of its own is on the disk.

import { deltaFrame, snapshotFrames } from '../../../host/journal.ts';
import { LastState } from '../../../host/last-state.ts';
import { clusterNode } from '../../netns/support/forge-cluster.ts';
import { until } from '../../support/until.ts';
import { revisionOnDisk } from './last-state.ts';

const [, , folder = '', first = '1'] = process.argv;
const CHANGES = 5;
const NODES = 200;
const log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
const state = new LastState({ folder, local: 'node-1', log, changesMs: 0, snapshotMs: 0 });
const nodes = Array.from({ length: NODES }, (_, at) => clusterNode(at));
let revision = Number(first);

function begin(): void {
  state.replace(snapshotFrames({ revision, local: 'node-1', nodes, pods: [] }));
  revision += 1;
}

function add(): void {
  const delta = { from: revision - 1, to: revision, nodes, removedNodes: [], pods: [] };
  state.append(deltaFrame({ ...delta, removedPods: [] }));
  revision += 1;
}

begin();
await until('a state of its own', () => (revisionOnDisk(folder) ?? 0) >= Number(first));
process.stdout.write('begun\n');
let turns = 0;
setInterval(() => {
  turns += 1;
  if (turns % CHANGES === 0) begin();
  else add();
}, 1);
