// Programs: what a list of rules, in their order, answers for each protocol and port.

import type { Program } from '../../engine/model.ts';
import { TIER_NETWORK_POLICY } from './rules.ts';

/** The last key: protocol 255, port 65535. */
const KEY_LAST = 0xffffff;
/** Boundaries that a program may have; engine/model.ts says the same. */
export const BOUNDARY_LIMIT = 4096;

const ALLOW = 1;
/** The admin tier's: policy modules are not asked. */
const FINAL = 2;
const OPEN = -1;

/** A rule as it counts for one peer: the keys it is about, null for all, and what it answers;
 * `isPass` leaves the keys to the next tier. */
export interface Layer {
  tier: number;
  isPass: boolean;
  ranges: readonly number[] | null;
  answer: number;
}

/** The answer of a rule: `rule << 8 | verdict`. `isFinal` is said of the admin tier's. */
export function answerOf(rule: number, isAllowed: boolean, isFinal = false): number {
  return (rule * 256) + (isFinal ? FINAL : 0) + (isAllowed ? ALLOW : 0);
}

/** Lays the rules over all keys, the first that answers counts; what none answers is allowed. */
export function layOut(layers: readonly Layer[]): Program {
  const starts = boundariesOf(layers);
  const answers = new Array<number>(starts.length).fill(OPEN);
  const passed = new Int8Array(starts.length).fill(OPEN);
  for (const { tier, isPass, ranges, answer } of layers) {
    for (const [first, last] of indexRanges(starts, ranges)) {
      for (let at = first; at < last; at += 1) {
        if (answers[at] !== OPEN || passed[at] === tier) continue;
        if (isPass) passed[at] = tier;
        else answers[at] = answer;
      }
    }
  }
  const program: Program = [];
  for (const [index, start] of starts.entries()) {
    const found = answers[index] ?? OPEN;
    const answer = found === OPEN ? answerOf(0, true) : found;
    if (program.at(-1)?.[1] !== answer) program.push([start, answer]);
  }
  return program;
}

/** A program that denies everything, and that no module may overrule. */
export function denial(rule: number): Program {
  return [[0, answerOf(rule, false, true)]];
}

/** What denies the rest once a NetworkPolicy isolates. */
export function isolation(rule: number): Layer {
  const answer = answerOf(rule, false);
  return { tier: TIER_NETWORK_POLICY, isPass: false, ranges: null, answer };
}

function boundariesOf(layers: readonly Layer[]): number[] {
  const starts = new Set([0]);
  for (const { ranges } of layers) {
    for (const [index, key] of (ranges ?? []).entries()) starts.add(key + (index & 1));
  }
  starts.delete(KEY_LAST + 1);
  return [...starts].sort((a, b) => a - b);
}

/** Indexes of boundaries, from the first of a range to the one behind its last. */
function* indexRanges(
  starts: readonly number[], ranges: readonly number[] | null,
): Generator<[number, number]> {
  if (ranges === null) return yield [0, starts.length];
  for (let at = 0; at < ranges.length; at += 2) {
    yield [indexOf(starts, ranges[at] ?? 0), indexOf(starts, (ranges[at + 1] ?? 0) + 1)];
  }
}

/** Where the key stands, or would. */
function indexOf(starts: readonly number[], key: number): number {
  let low = 0;
  let high = starts.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((starts[middle] ?? 0) < key) low = middle + 1;
    else high = middle;
  }
  return low;
}
