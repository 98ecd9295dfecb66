// Longest prefix match alone: 10,000 more routes of each family beside a cluster's own, and keys of
// which seven in eight are in one of them. Lookups go through prefixFindMany, in the order drawn.

import { DIRECTORY_ROUTES_IPV4, DIRECTORY_ROUTES_IPV6 } from '../wasm/abi/layout.ts';
import { PREFIX_KEY_SIZE } from '../wasm/abi/prefix-table.ts';
import { addressText, prefixKey } from '../engine/address.ts';
import type { Core } from '../engine/core.ts';
import { PrefixTable } from '../engine/tables/prefix.ts';
import { Hash, Random } from './random.ts';
import { measure, type Effort, type Measured, type Subject } from './rounds.ts';
import { makeScene } from './scene.ts';

const ROUTES = 10_000;
const KEYS = 32768;
const KEYS_PER_RUN = 1024;
const NEXT_HOPS = 1000;
const ANSWER_SIZE = 2;

/** What is drawn for one family: where prefixes lie, and how long they are. */
interface Shape {
  name: string;
  field: number;
  keySize: number;
  drawBase: (random: Random) => Uint8Array;
  drawLength: (random: Random) => number;
}

const SHAPES: Shape[] = [
  {
    name: 'lpm4',
    field: DIRECTORY_ROUTES_IPV4,
    keySize: 4,
    drawBase: (random) =>
      Uint8Array.of(10, 192 + random.below(64), random.below(256), random.below(256)),
    drawLength: (random) => (random.below(8) === 0 ? 32 : 20 + random.below(9)),
  },
  {
    name: 'lpm6',
    field: DIRECTORY_ROUTES_IPV6,
    keySize: PREFIX_KEY_SIZE,
    drawBase: (random) => Uint8Array.from({ length: 16 }, (_, index) =>
      [0xfd, 0x00, 0x02][index] ?? random.below(256)),
    drawLength: (random) => (random.below(8) === 0 ? 128 : 44 + (random.below(6) * 4)),
  },
];

export function routeBench(effort: Effort): Measured {
  const { core } = makeScene({ pods: 16, families: ['IPv4', 'IPv6'], routes: ROUTES });
  // Packet slots are not used here: their memory takes keys and answers.
  let place = core.packetAddress(0);
  const subjects = SHAPES.map((shape) => {
    const keys = place;
    place += KEYS * shape.keySize;
    return lookups(core, shape, keys, place);
  });
  return measure('route', subjects, [], effort);
}

function lookups(core: Core, shape: Shape, keys: number, answers: number): Subject {
  const table = core.directory(shape.field);
  writeKeys(core, shape, enterRoutes(core, shape), keys);
  const find = shape.keySize === 4 ? core.exports.prefixFindMany4 : core.exports.prefixFindMany6;
  let next = 0;
  const run = (): void => {
    find(table, keys + (next * shape.keySize), KEYS_PER_RUN, answers);
    next = (next + KEYS_PER_RUN) % KEYS;
  };
  return {
    name: shape.name,
    opsPerRun: KEYS_PER_RUN,
    run,
    hash: () => {
      const hash = new Hash();
      for (let done = 0; done < KEYS; done += KEYS_PER_RUN) {
        run();
        hash.addBytes(core.bytes.subarray(answers, answers + (KEYS_PER_RUN * ANSWER_SIZE)));
      }
      return hash.text();
    },
  };
}

/** Enters the routes; returns an address of each. */
function enterRoutes(core: Core, shape: Shape): Uint8Array[] {
  const random = new Random(shape.keySize);
  const table = new PrefixTable(core, shape.name, shape.field, ROUTES);
  return Array.from({ length: ROUTES }, () => {
    const base = shape.drawBase(random);
    const prefix = `${addressText(base)}/${shape.drawLength(random)}`;
    table.insert(prefixKey(prefix), 16 + random.below(NEXT_HOPS));
    return base;
  });
}

/** Keys near the routes, one in eight anywhere. IPv4 keys are u32, IPv6 keys bytes. */
function writeKeys(core: Core, shape: Shape, bases: Uint8Array[], keys: number): void {
  const random = new Random(shape.keySize + 1);
  for (let index = 0; index < KEYS; index += 1) {
    const near = bases[random.below(bases.length)] ?? new Uint8Array(0);
    const key = random.below(8) === 0 ? shape.drawBase(random) : near.slice();
    key[key.length - 1] = random.below(256);
    const at = keys + (index * shape.keySize);
    core.bytes.set(shape.keySize === 4 ? key.reverse() : key, at);
  }
}
