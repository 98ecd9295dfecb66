// The Internet checksum alone, in C as well: over packets of 1,400 bytes, as what is cut and joined
// needs them, over headers of 20, and over super-packets of 64,000. Sums go through checksumMany.

import { SLOT_STRIDE } from '../wasm/abi/layout.ts';
import type { Core } from '../engine/core.ts';
import { addressOf } from '../ffi/memory.ts';
import { loadNative } from './native.ts';
import { Hash, Random } from './random.ts';
import { measure, type Effort, type Measured, type RatioSpec, type Subject } from './rounds.ts';
import { BATCH, makeScene } from './scene.ts';

/** Bytes of a run, from one to the next, and how many there are: few enough to stay in the
 * nearest cache, but for super-packets, which nothing keeps there. */
interface Runs {
  name: string;
  length: number;
  stride: number;
  count: number;
}

const RUNS: Runs[] = [
  { name: 'checksum', length: 1400, stride: 1408, count: 16 },
  { name: 'checksum20', length: 20, stride: 64, count: 256 },
  { name: 'checksum64000', length: 64_000, stride: SLOT_STRIDE, count: 8 },
];
const SEED = 1071;
const SUM_SIZE = 2;

type Sum =
  (start: number, length: number, stride: number, count: number, sums: number) => void;

export function checksumBench(effort: Effort): Measured {
  const { core } = makeScene({ pods: 1, families: ['IPv4'] });
  const start = core.packetAddress(0);
  fillSlots(core, start);
  const subjects: Subject[] = [];
  const ratios: RatioSpec[] = [];
  const library = loadNative(['checksum.c'], effort.say);
  const twin = library?.define(
    'checksum_many', ['address', 'int', 'int', 'int', 'int', 'int']);
  const memory = addressOf(core.bytes);
  for (const runs of RUNS) {
    const { name } = runs;
    subjects.push(sums(core, runs, name, start, core.exports.checksumMany));
    if (twin === undefined) continue;
    const other = `${name}/native`;
    const theirs = sums(core, runs, other, start, (...place) => twin(memory, ...place));
    subjects.push({ ...theirs, sameAs: name });
    ratios.push({ name: other, cost: other, to: name });
  }
  return measure('checksum', subjects, ratios, effort);
}

/** Random bytes, as far as any run goes; sums come behind. */
function fillSlots(core: Core, start: number): void {
  const random = new Random(SEED);
  const words = (BATCH - 1) * (SLOT_STRIDE / 4);
  for (let index = 0; index < words; index += 1) {
    core.view.setUint32(start + (index * 4), random.next(), true);
  }
}

function sums(core: Core, runs: Runs, name: string, start: number, sum: Sum): Subject {
  const { length, stride, count } = runs;
  const answers = core.packetAddress(BATCH - 1);
  const run = (): void => sum(start, length, stride, count, answers);
  return {
    name,
    opsPerRun: count,
    run,
    hash: () => {
      core.bytes.fill(0, answers, answers + (count * SUM_SIZE));
      run();
      const hash = new Hash();
      hash.addBytes(core.bytes.subarray(answers, answers + (count * SUM_SIZE)));
      return hash.text();
    },
  };
}
