// The slow twin of policy matching: the longest prefix by looking at all, the rule set by going
// through its entries, the answer by going through a program's boundaries.

import { prefixHolds } from '../../engine/address.ts';
import type { Program, RuleSet } from '../../engine/model.ts';

/** Identity of an address; 0 where no prefix holds it. */
export function identityOf(prefixes: Iterable<[string, number]>, address: string): number {
  let [found, longest] = [0, -1];
  for (const [prefix, identity] of prefixes) {
    const length = Number(prefix.split('/')[1]);
    if (length <= longest || !prefixHolds(prefix, address)) continue;
    [found, longest] = [identity, length];
  }
  return found;
}

/** The answer of the last boundary that is not above the key. */
export function answerOf(program: Program, key: number): number {
  let answer = 0;
  for (const [boundary, next] of program) if (boundary <= key) answer = next;
  return answer;
}

/** What a rule set answers; one that is not there allows everything. */
export function ruleSetAnswer(ruleSet: RuleSet | undefined, identity: number, key: number): number {
  if (ruleSet === undefined) return 1;
  const entry = ruleSet.entries.find(([own]) => own === identity);
  return answerOf(ruleSet.programs[entry?.[1] ?? ruleSet.fallback] ?? [], key);
}
