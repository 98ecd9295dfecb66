// Lookups in the flow table alone, in C as well: the mix's 65,536 flows in a table twice as large,
// each of them once and in no order. Keys are entries of 64 bytes, as the packet path makes them;
// lookups go through flowFindMany.

import { DIRECTORY_FLOWS, DIRECTORY_FLOW_COUNT } from '../wasm/abi/layout.ts';
import { FLOW_SIZE } from '../wasm/abi/policy.ts';
import type { Core } from '../engine/core.ts';
import { addressOf } from '../ffi/memory.ts';
import { FLOWS, FLOW_TABLE, Mix } from './mix.ts';
import { loadNative } from './native.ts';
import { Hash, Random } from './random.ts';
import { measure, type Effort, type Measured, type Subject } from './rounds.ts';
import { makeScene } from './scene.ts';

const PODS = 512;
const PORT = 8080;
const KEYS_PER_RUN = 1024;
const ANSWER_SIZE = 4;
const SEED = 6553;
const NAME = 'flow';
/** The same in C, and with the prefetch instruction, which WebAssembly does not have. */
const TWINS = [
  { name: 'flow/native', symbol: 'flow_many' },
  { name: 'flow/nativePrefetch', symbol: 'flow_many_prefetch' },
];

type Find = (table: number, entries: number, keys: number, count: number, found: number) => void;

export function flowBench(effort: Effort): Measured {
  const { core } = makeScene({ pods: PODS, families: ['IPv4'], policy: { flows: FLOW_TABLE } });
  const settings = { pods: PODS, family: 4, way: 'any', first: 0, portOf: () => PORT } as const;
  new Mix(core, settings).establish();
  // The packets have been: their slots' memory takes answers and keys.
  const found = core.packetAddress(0);
  const keys = found + (KEYS_PER_RUN * ANSWER_SIZE);
  writeKeys(core, keys);
  const ours = lookups(core, NAME, keys, found, core.exports.flowFindMany);
  const library = loadNative(['flow.c'], effort.say);
  if (library === null) return measure('flow', [ours], [], effort);
  const twins = TWINS.map(({ name, symbol }): Subject => {
    const find = library.define(symbol, ['address', 'int', 'int', 'int', 'int', 'int']);
    const memory = addressOf(core.bytes);
    const twin = lookups(core, name, keys, found, (...place) => find(memory, ...place));
    return { ...twin, sameAs: NAME };
  });
  const ratios = TWINS.map(({ name }) => ({ name, cost: name, to: NAME }));
  return measure('flow', [ours, ...twins], ratios, effort);
}

/** Copies every entry in use, in an order of chance. */
function writeKeys(core: Core, keys: number): void {
  const table = core.directory(DIRECTORY_FLOWS);
  const count = core.directory(DIRECTORY_FLOW_COUNT);
  const tags = table + (count * FLOW_SIZE);
  const order = Array.from({ length: count }, (_, entry) => entry)
    .filter((entry) => core.bytes[tags + entry] !== 0);
  if (order.length !== FLOWS) throw new Error(`${NAME}: ${order.length} flows in the table`);
  const random = new Random(SEED);
  for (let left = FLOWS; left > 0; left -= 1) {
    const drawn = random.below(left);
    const entry = table + ((order[drawn] ?? 0) * FLOW_SIZE);
    order[drawn] = order[left - 1] ?? 0;
    core.bytes.copyWithin(keys + ((left - 1) * FLOW_SIZE), entry, entry + FLOW_SIZE);
  }
}

function lookups(core: Core, name: string, keys: number, found: number, find: Find): Subject {
  const table = core.directory(DIRECTORY_FLOWS);
  const count = core.directory(DIRECTORY_FLOW_COUNT);
  let next = 0;
  const run = (): void => {
    find(table, count, keys + (next * FLOW_SIZE), KEYS_PER_RUN, found);
    next = (next + KEYS_PER_RUN) % FLOWS;
  };
  return {
    name,
    opsPerRun: KEYS_PER_RUN,
    run,
    hash: () => {
      const hash = new Hash();
      for (let done = 0; done < FLOWS; done += KEYS_PER_RUN) {
        run();
        const answers = core.bytes.subarray(found, found + (KEYS_PER_RUN * ANSWER_SIZE));
        if (!answers.some((byte) => byte !== 0)) throw new Error(`${name}: nothing was found`);
        hash.addBytes(answers);
      }
      return hash.text();
    },
  };
}
