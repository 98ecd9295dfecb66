// The rule sets in use. Groups of pods that the same policies are about share them.

import type { PolicyChange, RuleSet as RuleSetMessage } from '../../engine/model.ts';
import type { Identities, Identity } from './identities.ts';
import type { Group } from './inventory.ts';
import { NumberPool } from './numbers.ts';
import type { RuleNames } from './rule-names.ts';
import { RuleSet, ruleSetKey } from './rule-set.ts';
import type { VersionedPart } from './rule-set.ts';
import type { Direction } from './rules.ts';
import { getOrMake } from './selector-index.ts';
import type { Needs } from './traits.ts';

const LAST = 0xffffffff;

export class RuleSets {
  readonly #needs: Needs;
  readonly #names: RuleNames;
  readonly #all = new Set<RuleSet>();
  readonly #byKey = new Map<string, RuleSet>();
  readonly #fresh = new Set<RuleSet>();
  /** Those that groups have left since the last commit. */
  readonly #left = new Set<RuleSet>();
  readonly #numbers = new NumberPool('rule sets', 1, LAST, () =>
    new Set([...this.#all].map(({ number }) => number)));

  constructor(needs: Needs, names: RuleNames) {
    this.#needs = needs;
    this.#names = names;
  }

  get count(): number {
    return this.#all.size;
  }

  /** The identities that rule sets have entries for. */
  identityNumbers(): Set<number> {
    const numbers = new Set<number>();
    for (const ruleSet of this.#all) {
      for (const number of ruleSet.identityNumbers) numbers.add(number);
    }
    return numbers;
  }

  /** Takes the rule set of these parts for a group of pods; null where there are none. */
  acquire(
    direction: Direction, parts: readonly VersionedPart[], group: Group,
  ): RuleSet | null {
    if (parts.length === 0) return null;
    const { ports } = group;
    const key = ruleSetKey(direction, parts, ports);
    const ruleSet = getOrMake(this.#byKey, key, () => {
      const made = new RuleSet(
        this.#numbers.take(), key, direction, parts, ports, this.#needs, this.#names);
      this.#fresh.add(made);
      this.#all.add(made);
      return made;
    });
    ruleSet.users.add(group);
    return ruleSet;
  }

  release(ruleSet: RuleSet, group: Group): void {
    ruleSet.users.delete(group);
    this.#left.add(ruleSet);
  }

  /** Rule sets that some groups have left, but not all. */
  shared(): RuleSet[] {
    return [...this.#left].filter(({ users }) => users.size > 0);
  }

  /** Gives a rule set no new groups: the next ones get one like it. */
  retire(ruleSet: RuleSet): void {
    this.#byKey.delete(ruleSet.key);
  }

  /** Those that go with the change at hand, and that the host has. */
  going(): RuleSet[] {
    return [...this.#left].filter(({ users }) => users.size === 0);
  }

  /** Writes the rule sets that are new, and those that must know new identities. */
  tell(created: readonly Identity[], identities: Identities, change: PolicyChange): void {
    const changed = new Set<RuleSet>(this.#fresh);
    for (const identity of created) {
      for (const { need } of identity.traits.traits) {
        for (const ruleSet of need.ruleSets) {
          const isLasting = !this.#fresh.has(ruleSet) && ruleSet.users.size > 0;
          if (isLasting && ruleSet.enter(identity)) changed.add(ruleSet);
        }
      }
      for (const ruleSet of this.going()) if (ruleSet.names(identity)) changed.add(ruleSet);
    }
    for (const ruleSet of this.#fresh) ruleSet.enterAll();
    for (const ruleSet of changed) {
      ruleSet.prune((number) => identities.isLive(number));
      change.ruleSets.push(ruleSet.message((number) => identities.isLive(number)));
    }
  }

  /** Lets go of what nobody uses any more. */
  settle(change: PolicyChange): void {
    for (const ruleSet of this.going()) {
      change.removedRuleSets.push(ruleSet.number);
      this.#all.delete(ruleSet);
      if (this.#byKey.get(ruleSet.key) === ruleSet) this.#byKey.delete(ruleSet.key);
      ruleSet.release(this.#needs, this.#names);
    }
    this.#fresh.clear();
    this.#left.clear();
  }

  /** All of them, made as they are taken. */
  * messages(identities: Identities): Generator<RuleSetMessage> {
    for (const ruleSet of this.#all) yield ruleSet.message((number) => identities.isLive(number));
  }

  /** What could not be done as the policies say. */
  problems(): string[] {
    return [...this.#all].filter(({ isOverfull }) => isOverfull).map(({ ruleNames }) =>
      `${ruleNames[0]?.policy ?? ''}: too many ports with the policies beside it; all are denied`);
  }
}
