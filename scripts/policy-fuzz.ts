// Compares the core's policy verdicts with the slow twin's for as long as one likes, on random
// clusters and random histories in turn. Build first.
//
// usage: node dist/scripts/policy-fuzz.js [--seed N] [--seconds N] [--kind clusters|histories]
//
// A difference names its seed; `--seed N --seconds 0` runs just that one of each kind. Exit status
// 1 if there was any.

import { once } from 'node:events';
import { parseArgs } from 'node:util';
import { Worker } from 'node:worker_threads';

interface Answer {
  seed: number;
  comparison: { flows: number; differences: string[] };
}

const WORKER = new URL('../test/support/policy-compare-worker.js', import.meta.url);
const KINDS = ['clusters', 'histories'];
const TURN_SECONDS = 60;
const SIZES = { clusters: { flows: 4000, steps: 0 }, histories: { flows: 60, steps: 30 } };

const { values } = parseArgs({
  options: {
    seed: { type: 'string', default: String(Math.floor(Math.random() * 2 ** 31)) },
    seconds: { type: 'string', default: '60' },
    kind: { type: 'string' },
  },
});

/** Runs seeds of one kind from `seed` on until the time is over; returns the next seed. */
async function run(kind: string, seed: number, seconds: number): Promise<number> {
  const size = kind === 'clusters' ? SIZES.clusters : SIZES.histories;
  const last = seconds === 0 ? seed : Number.MAX_SAFE_INTEGER;
  const worker = new Worker(WORKER, {
    workerData: { kind, first: seed, stride: 1, last, seconds: seconds || Infinity, ...size },
  });
  let next = seed;
  let flows = 0;
  worker.on('message', ({ seed: done, comparison }: Answer) => {
    next = done + 1;
    flows += comparison.flows;
    for (const difference of comparison.differences) process.stdout.write(`${difference}\n`);
    if (comparison.differences.length > 0) process.exitCode = 1;
  });
  await once(worker, 'exit');
  process.stdout.write(`${kind}: seeds ${seed} to ${next - 1}, ${flows} flows\n`);
  return next;
}

const kinds = values.kind === undefined ? KINDS : [values.kind];
const seconds = Number(values.seconds);
let seed = Number(values.seed);
if (![seed, seconds].every((value) => Number.isSafeInteger(value) && value >= 0)
  || kinds.some((kind) => !KINDS.includes(kind))) {
  process.stderr.write('usage: policy-fuzz [--seed N] [--seconds N] [--kind clusters|histories]\n');
  process.exit(2);
}
for (let left = seconds; ; left -= TURN_SECONDS * kinds.length) {
  const turn = Math.min(TURN_SECONDS, Math.ceil(left / kinds.length));
  const nexts: number[] = [];
  for (const kind of kinds) nexts.push(await run(kind, seed, Math.max(turn, 0)));
  seed = Math.max(...nexts);
  if (left <= TURN_SECONDS * kinds.length) break;
}
