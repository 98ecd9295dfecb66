// The keys of the core's flow hash (wasm/table/flow-hash.ts), from 32 random bits.

import { FLOW_KEYS, FLOW_KEYS_REST, FLOW_KEYS_SIZE, FLOW_KEYS_SPREAD } from '../wasm/abi/policy.ts';

const GOLDEN = 0x9e3779b9;

/** Writes the keys. The same seed makes the same ones. */
export function writeFlowKeys(view: DataView, seed: number): void {
  for (let at = 0; at < FLOW_KEYS_SIZE; at += 4) {
    const isLowOfOdd = at === FLOW_KEYS_REST || at === FLOW_KEYS_SPREAD;
    const word = mix(seed + Math.imul(at + 4, GOLDEN));
    view.setUint32(FLOW_KEYS + at, isLowOfOdd ? word | 1 : word, true);
  }
}

/** The finalizer of MurmurHash3: every bit of the input reaches every bit of the result. */
function mix(input: number): number {
  let word = input | 0;
  word = Math.imul(word ^ (word >>> 16), 0x85ebca6b);
  word = Math.imul(word ^ (word >>> 13), 0xc2b2ae35);
  return word ^ (word >>> 16);
}
