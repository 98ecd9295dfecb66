// Compares random clusters or histories, seed by seed, and tells what each seed gave.

import { parentPort, workerData } from 'node:worker_threads';
import { compareCluster, emptyComparison, type Comparison } from './policy-compare.ts';
import { playHistory } from './policy-history.ts';

/** What a worker does: seeds `first`, `first + stride`, … up to `last`, none after `seconds`. */
export interface CompareTask {
  kind: 'clusters' | 'modules' | 'histories';
  first: number;
  stride: number;
  last: number;
  seconds: number;
  /** Flows of a cluster, or of each step of a history. */
  flows: number;
  /** Of a history. */
  steps: number;
}

export interface CompareAnswer {
  seed: number;
  comparison: Comparison;
}

function compare({ kind, flows, steps }: CompareTask, seed: number): Comparison {
  const comparison = emptyComparison();
  try {
    if (kind !== 'histories') compareCluster(seed, flows, kind === 'modules', comparison);
    else playHistory(seed, steps, flows, comparison);
  } catch (error) {
    comparison.differences.push(`seed ${seed}: ${error instanceof Error ? error.stack : error}`);
  }
  return comparison;
}

const task = workerData as CompareTask;
const end = performance.now() + (task.seconds * 1000);
for (let seed = task.first; seed <= task.last && performance.now() < end; seed += task.stride) {
  parentPort?.postMessage({ seed, comparison: compare(task, seed) } satisfies CompareAnswer);
}
