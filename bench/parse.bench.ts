// The first and the last step of the walk alone, in C as well: headers of packets checked and made
// the keys of flows (parseMany), and a peer's headers put in front of them (encapsulateMany). The
// packets are one batch of the mix, small enough to stay in the nearest cache.

import { DIRECTORY_PEERS } from '../wasm/abi/layout.ts';
import type { Core } from '../engine/core.ts';
import { addressOf } from '../ffi/memory.ts';
import { Mix } from './mix.ts';
import { loadNative } from './native.ts';
import { Hash } from './random.ts';
import { measure, type Effort, type Measured, type RatioSpec, type Subject } from './rounds.ts';
import { BATCH, makeScene } from './scene.ts';

const PODS = 256;
const PORT = 8080;

/** What is done to the batch; parse() answers with a number of all keys. */
interface Steps {
  parse: (first: number, count: number) => number;
  encapsulate: (first: number, count: number, peer: number) => void;
}

export function parseBench(effort: Effort): Measured {
  const library = loadNative(['outbound.c'], effort.say);
  const subjects: Subject[] = [];
  const ratios: RatioSpec[] = [];
  for (const family of [4, 6] as const) {
    const { core } = makeScene({ pods: PODS, families: [family === 4 ? 'IPv4' : 'IPv6'] });
    const settings = { pods: PODS, family, way: 'outbound', first: 0, portOf: () => PORT } as const;
    const mix = new Mix(core, settings);
    mix.fill();
    const { parseMany: parse, encapsulateMany: encapsulate } = core.exports;
    const ours = steps(`ipv${family}`, '', core, mix, { parse, encapsulate });
    subjects.push(...ours);
    if (library === null) continue;
    const parseTwin = library.define('parse_many', ['address', 'int', 'int']);
    const twin = library.define('encapsulate_many', ['address', 'int', 'int', 'int']);
    const memory = addressOf(core.bytes);
    const theirs = steps(`ipv${family}`, '/native', core, mix, {
      parse: (first, count) => parseTwin(memory, first, count),
      encapsulate: (first, count, peer) => twin(memory, first, count, peer),
    });
    for (const [index, subject] of theirs.entries()) {
      const other = ours[index]?.name ?? '';
      subjects.push({ ...subject, sameAs: other });
      ratios.push({ name: `${other}/native`, cost: subject.name, to: other });
    }
  }
  return measure('parse', subjects, ratios, effort);
}

function steps(
  family: string, ending: string, core: Core, { feed }: Mix, { parse, encapsulate }: Steps,
): Subject[] {
  const peer = core.directory(DIRECTORY_PEERS);
  const { firstSlot } = feed;
  const send = (): void => encapsulate(firstSlot, BATCH, peer);
  return [
    {
      name: `parse/${family}${ending}`, opsPerRun: BATCH,
      run: () => parse(firstSlot, BATCH),
      hash: () => (parse(firstSlot, BATCH) >>> 0).toString(16).padStart(8, '0'),
    },
    {
      name: `encapsulate/${family}${ending}`, opsPerRun: BATCH, run: send,
      hash: () => {
        send();
        const hash = new Hash();
        feed.hashSlots(hash);
        return hash.text();
      },
    },
  ];
}
