// Spreads a range of seeds over threads.

import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { emptyComparison, type Comparison } from './policy-compare.ts';
import type { CompareAnswer, CompareTask } from './policy-compare-worker.ts';

const WORKERS = 2;

/** Compares `count` seeds from `seed` on; the sum of what they gave. */
export async function compareSeeds(
  kind: CompareTask['kind'], seed: number, count: number,
  size: Pick<CompareTask, 'flows' | 'steps'>,
): Promise<Comparison & { seeds: number }> {
  const sum = { ...emptyComparison(), seeds: 0 };
  await Promise.all(Array.from({ length: WORKERS }, async (_, index) => {
    const task: CompareTask = {
      kind, first: seed + index, stride: WORKERS, last: seed + count - 1, seconds: Infinity,
      ...size,
    };
    const worker = new Worker(new URL('./policy-compare-worker.js', import.meta.url),
      { workerData: task });
    worker.on('message', ({ comparison }: CompareAnswer) => {
      sum.seeds += 1;
      sum.flows += comparison.flows;
      sum.denied += comparison.denied;
      sum.differences.push(...comparison.differences);
    });
    await once(worker, 'exit');
  }));
  return sum;
}
