// Identities: classes of addresses with the same traits, each with a number that rule sets know.
//
// A number keeps its meaning for the rule sets in force. So an identity may get other traits under
// its number only where those rule sets cannot tell the difference: traits that a commit brought,
// which only its new rule sets ask for, or that nothing asks for any more. Addresses whose traits
// changed otherwise (another label, another owner) move to another identity. When new traits split
// an identity, the largest part keeps the number.
//
// A rule set that goes with the change at hand is in force until endpoints have left it, which is
// after addresses have moved. Until then it must say about an address what it said before the move:
// a new identity inherits that. Where the addresses of one identity would inherit different things,
// some get an identity of their own, which yields to the usual one at the next commit.

import type { AddressRecord } from './addresses.ts';
import { NumberPool } from './numbers.ts';
import type { RuleSet } from './rule-set.ts';
import { getOrMake } from './selector-index.ts';
import { NO_TRAITS } from './traits.ts';
import type { Trait, TraitSet } from './traits.ts';

/** Addresses without traits inside a block that has some. */
export const NOBODY = 1;
const FIRST = 2;
const LAST = 0xfffff;

export interface Identity {
  readonly number: number;
  traits: TraitSet;
  members: number;
  /** Those of its addresses, if it is only for the time until the next commit. */
  readonly guests: AddressRecord[] | null;
}

/** An address, the traits that it has now, and the identity that the host knows for it. `isGone`:
 * nobody has it any more. */
export interface Plan {
  record: AddressRecord;
  traits: TraitSet;
  from: number;
  isGone: boolean;
}

/** How the members of an identity change: how many, and how many have each new set of traits that
 * the rule sets in force cannot tell from the old one. */
interface Turnover {
  leaving: number;
  parts: Map<string, { traits: TraitSet; count: number }>;
}

export class Identities {
  readonly #byTraits = new Map<string, Identity>();
  readonly #byNumber = new Map<number, Identity>();
  readonly #numbers: NumberPool;
  /** Those without members that the host may still have addresses for. */
  readonly #leaving = new Set<number>();
  readonly #temporary = new Set<Identity>();

  /** `inUse` finds the numbers that rule sets have entries for. */
  constructor(inUse: () => Set<number>) {
    this.#numbers = new NumberPool('identities', FIRST, LAST, () =>
      new Set([...this.#byNumber.keys(), ...this.#leaving, ...inUse()]));
  }

  get count(): number {
    return this.#byNumber.size;
  }

  /** Whether an address may have it, now or until the change at hand is applied. */
  isLive(number: number): boolean {
    return this.#byNumber.has(number) || this.#leaving.has(number);
  }

  /** The change at hand has been told. */
  settle(): void {
    this.#leaving.clear();
  }

  /** Addresses whose identities were only for a time, which is over. */
  takeGuests(): AddressRecord[] {
    const guests = [...this.#temporary].flatMap((identity) => identity.guests ?? []);
    this.#temporary.clear();
    return guests;
  }

  /** Gives each record the identity of its traits. Returns the identities that are new; rule sets
   * that go have inherited what they say about them. */
  apply(plans: readonly Plan[], going: readonly RuleSet[]): Identity[] {
    this.#rename(plans);
    const created: Identity[] = [];
    const left = new Set<Identity>();
    const inheritance = new Inheritance(going);
    for (const { record, traits, from, isGone } of plans) {
      const usual = traits === NO_TRAITS ? null : this.#find(traits, created);
      const isUsual = isGone || inheritance.fits(usual, created.at(-1) === usual, from);
      const next = isUsual ? usual : inheritance.find(traits, from)
        ?? this.#make(traits, created, []);
      if (next !== usual && next !== null) {
        inheritance.add(next, from);
        next.guests?.push(record);
        this.#temporary.add(next);
      }
      const before = record.identity;
      if (next !== null) next.members += 1;
      if (before !== null) {
        before.members -= 1;
        left.add(before);
      }
      record.identity = next;
    }
    for (const identity of left) if (identity.members === 0) this.#release(identity);
    return created;
  }

  /** Identities that all their members leave take the traits of their largest part with them. */
  #rename(plans: readonly Plan[]): void {
    const floating = [...turnovers(plans)]
      .filter(([{ members, guests }, { leaving }]) => leaving === members && guests === null)
      .sort(([a], [b]) => b.members - a.members || a.number - b.number);
    for (const [{ traits }] of floating) this.#byTraits.delete(traits.key);
    const rest: Identity[] = [];
    for (const [identity, { parts }] of floating) {
      const [largest] = [...parts.values()].sort((a, b) => b.count - a.count);
      if (largest === undefined || this.#byTraits.has(largest.traits.key)) rest.push(identity);
      else this.#retrait(identity, largest.traits);
    }
    for (const identity of rest) {
      if (this.#byTraits.has(identity.traits.key)) continue;
      this.#byTraits.set(identity.traits.key, identity);
    }
  }

  #retrait(identity: Identity, traits: TraitSet): void {
    for (const trait of identity.traits.traits) trait.identities.delete(identity);
    identity.traits = traits;
    for (const trait of traits.traits) trait.identities.add(identity);
    this.#byTraits.set(traits.key, identity);
  }

  #find(traits: TraitSet, created: Identity[]): Identity {
    return getOrMake(this.#byTraits, traits.key, () => this.#make(traits, created, null));
  }

  #make(traits: TraitSet, created: Identity[], guests: AddressRecord[] | null): Identity {
    const identity = { number: this.#numbers.take(), traits, members: 0, guests };
    this.#byNumber.set(identity.number, identity);
    for (const trait of traits.traits) trait.identities.add(identity);
    created.push(identity);
    return identity;
  }

  #release(identity: Identity): void {
    this.#byNumber.delete(identity.number);
    this.#leaving.add(identity.number);
    for (const trait of identity.traits.traits) trait.identities.delete(identity);
    if (this.#byTraits.get(identity.traits.key) === identity) {
      this.#byTraits.delete(identity.traits.key);
    }
  }
}

/** What rule sets that go say about new identities. */
class Inheritance {
  readonly #going: readonly RuleSet[];
  readonly #heirs = new Set<Identity>();
  readonly #temporary = new Map<string, Identity[]>();
  readonly #known = new Map<string, boolean>();

  constructor(going: readonly RuleSet[]) {
    this.#going = going;
  }

  /** Whether the rule sets say the same about an identity, null for none, as about addresses that
   * come from another. A new identity inherits that from its first address. */
  fits(identity: Identity | null, isNew: boolean, from: number): boolean {
    if (this.#going.length === 0) return true;
    if (identity !== null && isNew && !this.#heirs.has(identity)) this.#inherit(identity, from);
    const number = identity?.number ?? NOBODY;
    return getOrMake(this.#known, `${number} ${from}`, () =>
      this.#going.every((ruleSet) => ruleSet.agrees(number, from)));
  }

  /** A temporary identity that fits. */
  find(traits: TraitSet, from: number): Identity | undefined {
    return this.#temporary.get(traits.key)?.find((identity) => this.fits(identity, false, from));
  }

  /** Enters a temporary identity; it inherits if it is new. */
  add(identity: Identity, from: number): void {
    if (this.#heirs.has(identity)) return;
    this.#inherit(identity, from);
    getOrMake(this.#temporary, identity.traits.key, () => []).push(identity);
  }

  #inherit(identity: Identity, from: number): void {
    this.#heirs.add(identity);
    for (const ruleSet of this.#going) ruleSet.inherit(identity.number, from);
  }
}

function turnovers(plans: readonly Plan[]): Map<Identity, Turnover> {
  const all = new Map<Identity, Turnover>();
  for (const { record: { identity }, traits } of plans) {
    if (identity === null) continue;
    const turnover = getOrMake(all, identity, (): Turnover => ({ leaving: 0, parts: new Map() }));
    turnover.leaving += 1;
    if (traits === NO_TRAITS || !looksTheSame(identity.traits, traits)) continue;
    getOrMake(turnover.parts, traits.key, () => ({ traits, count: 0 })).count += 1;
  }
  return all;
}

/** True where no rule set in force can tell the two apart. */
function looksTheSame(before: TraitSet, after: TraitSet): boolean {
  const lasting = (trait: Trait): boolean => !trait.need.isFresh && !trait.need.isDropped;
  const old = before.traits.filter(lasting);
  const next = after.traits.filter(lasting);
  return old.length === next.length && old.every((trait, at) => trait === next[at]);
}
