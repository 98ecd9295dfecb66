// Numbers for rules, and what they mean: verdicts carry the number, explanations the name.

import type { PolicyChange } from '../../engine/model.ts';
import { NumberPool } from './numbers.ts';
import { getOrMake } from './selector-index.ts';

const LAST = 0xffffff;

export interface NumberedRule {
  readonly number: number;
  readonly policy: string;
  readonly rule: string;
  uses: number;
  isTold: boolean;
}

export class RuleNames {
  readonly #byName = new Map<string, NumberedRule>();
  readonly #touched = new Set<NumberedRule>();
  readonly #numbers = new NumberPool('rules', 1, LAST, () =>
    new Set([...this.#byName.values()].map(({ number }) => number)));

  acquire(policy: string, rule: string): NumberedRule {
    const named = getOrMake(this.#byName, `${policy}\n${rule}`, () =>
      ({ number: this.#numbers.take(), policy, rule, uses: 0, isTold: false }));
    named.uses += 1;
    this.#touched.add(named);
    return named;
  }

  release(named: NumberedRule): void {
    named.uses -= 1;
    this.#touched.add(named);
  }

  /** Writes the names that are new and those that nothing uses any more. */
  tell(change: PolicyChange): void {
    for (const named of this.#touched) {
      const { number, policy, rule } = named;
      if (named.uses === 0) {
        this.#byName.delete(`${policy}\n${rule}`);
        if (named.isTold) change.removedRules.push(number);
      } else if (!named.isTold) {
        named.isTold = true;
        change.rules.push({ number, policy, rule });
      }
    }
    this.#touched.clear();
  }

  /** All that the host was told. */
  * allTold(): Generator<PolicyChange['rules'][number]> {
    for (const { number, policy, rule, isTold } of this.#byName.values()) {
      if (isTold) yield { number, policy, rule };
    }
  }
}
