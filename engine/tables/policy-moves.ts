// How addresses get new identities while endpoints get new rule sets, so that a packet is judged by
// the state before or by the state after.
//
// Theory of operation. An address moves with one atomic store, an endpoint changes rule sets with
// another. In between, an old rule set may be asked about a new identity, or a new one about an old
// identity. For each kind of move (from one identity to another) there is a way:
//
//   early   the rule sets before do not tell the two apart: move first, then change rule sets
//   late    the rule sets after do not: change rule sets first, then move
//   known   the new identity is nobody's yet: copies of the old rule sets know it, move first
//   detour  otherwise, by way of an identity of its own, which copies of the old rule sets know as
//           the old identity and copies of the new ones as the new identity
//
// Changed prefixes that lie in each other depend on each other's moves: then it is all early and
// known, or all detours.

import { IDENTITY_MAX } from '../../wasm/abi/policy.ts';
import type { Family, PrefixKey } from '../address.ts';
import type { PrefixTable } from './prefix.ts';

export type IdentityTables = Record<Family, PrefixTable>;

/** A prefix's addresses move. `had` and `value` are its entry before and after, 0 for none. */
export interface Move {
  key: PrefixKey;
  had: number;
  value: number;
  from: number;
  to: number;
}

/** One change of a prefix's entry; value 0 removes it. */
export interface Step {
  key: PrefixKey;
  value: number;
}

/** What the rule sets say, before and after: a program for each identity. */
export interface RuleSetPair {
  before: number;
  after: number;
}

/** Steps before and after the rule sets change, and what copies of rule sets must know meanwhile:
 * identity to the identity it stands for. `all` copies those that do not change, too. */
export interface Transition {
  early: Step[];
  late: Step[];
  before: Map<number, number>;
  after: Map<number, number>;
  all: boolean;
}

type Kind = 'early' | 'late' | 'known' | 'detour';

/** The moves that a change of prefixes makes. */
export function findMoves(
  tables: IdentityTables,
  changes: { key: PrefixKey; identity: number }[],
): { moves: Move[]; nested: boolean } {
  const changed = new ChangedPrefixes(changes);
  const isEmpty = { IPv4: tables.IPv4.count === 0, IPv6: tables.IPv6.count === 0 };
  let nested = false;
  const moves = changed.list.map(({ key, identity }): Move => {
    const table = tables[key.family];
    const covered = changed.covers(key);
    nested ||= covered;
    if (isEmpty[key.family] && identity !== 0) {
      return { key, had: 0, value: identity, from: 0, to: identity };
    }
    const had = table.get(key);
    const to = identity || (covered ? changed.above(key, table) : table.above(key));
    return { key, had, value: identity, from: had || table.above(key), to };
  });
  return { moves: moves.filter(({ had, value }) => had !== value), nested };
}

/** Finds a way for every move. `program` is what a rule set has for an identity. */
export function planTransition(
  moves: Move[],
  nested: boolean,
  pairs: RuleSetPair[],
  program: (ruleSet: number, identity: number) => number,
  isUnused: (identity: number) => boolean,
): Transition {
  const changing = pairs.filter(({ before, after }) => before !== after);
  const plan: Transition = {
    early: [], late: [], before: new Map(), after: new Map(), all: false,
  };
  const alike = (which: keyof RuleSetPair, one: number, other: number): boolean =>
    changing.every((pair) => program(pair[which], one) === program(pair[which], other));
  const kinds = new Map<string, Kind>();
  /** What copies of the rule sets before take an identity for, until they change. */
  const standsFor = new Map<number, number>();
  for (const { from, to } of moves) {
    if (kinds.has(`${from} ${to}`)) continue;
    const stands = standsFor.get(to) ?? (isUnused(to) && !alike('before', from, to) ? from : to);
    let kind: Kind = 'detour';
    if (alike('before', from, stands)) kind = stands === to ? 'early' : 'known';
    else if (!nested && alike('after', from, to)) kind = 'late';
    if (kind === 'early' || kind === 'known') standsFor.set(to, stands);
    if (kind === 'known') plan.before.set(to, stands);
    kinds.set(`${from} ${to}`, kind);
  }
  const detoursOnly = nested && [...kinds.values()].includes('detour');
  if (detoursOnly) plan.before.clear();
  const targets = new Set(moves.map(({ to }) => to));
  const detours = new Map<string, number>();
  let next = IDENTITY_MAX;
  for (const move of moves) {
    const { key, value, from, to } = move;
    const kind = detoursOnly ? 'detour' : kinds.get(`${from} ${to}`);
    if (kind === 'early' || kind === 'known') plan.early.push({ key, value });
    if (kind !== 'late' && kind !== 'detour') continue;
    plan.late.push({ key, value });
    if (kind === 'late') continue;
    let own = detours.get(`${from} ${to}`);
    if (own === undefined) {
      while (!isUnused(next) || targets.has(next)) next -= 1;
      own = next;
      next -= 1;
      detours.set(`${from} ${to}`, own);
      plan.before.set(own, from);
      plan.after.set(own, to);
      plan.all = true;
    }
    plan.early.push({ key, value: own });
  }
  return { ...plan, early: inOrder(plan.early), late: inOrder(plan.late) };
}

/** Entries go in from the longest prefix to the shortest, out from the shortest to the longest: so
 * each address moves once. */
function inOrder(steps: Step[]): Step[] {
  const entered = steps.filter(({ value }) => value !== 0);
  const removed = steps.filter(({ value }) => value === 0);
  return [
    ...entered.sort((one, other) => other.key.length - one.key.length),
    ...removed.sort((one, other) => one.key.length - other.key.length),
  ];
}

interface Change {
  key: PrefixKey;
  identity: number;
}

/** The prefixes of a change, each once. */
class ChangedPrefixes {
  readonly list: Change[] = [];
  /** Where each stands in the list, by family, length and bits. */
  readonly #places: Record<Family, Map<number, Map<number | string, number>>> =
    { IPv4: new Map(), IPv6: new Map() };

  constructor(changes: Change[]) {
    for (const change of changes) {
      const { key: { family, length } } = change;
      const places = this.#places[family].get(length) ?? new Map<number | string, number>();
      this.#places[family].set(length, places);
      const bits = bitsOf(change.key, length);
      const place = places.get(bits);
      if (place !== undefined) this.list[place] = change;
      else places.set(bits, this.list.push(change) - 1);
    }
  }

  /** True where another prefix of the change holds this one. */
  covers(key: PrefixKey): boolean {
    for (const length of this.#places[key.family].keys()) {
      if (length < key.length && this.#identity(key, length) !== undefined) return true;
    }
    return false;
  }

  /** What the prefix's addresses find without it, once the change is done. */
  above(key: PrefixKey, table: PrefixTable): number {
    for (let length = key.length - 1; length >= 0; length -= 1) {
      const found = this.#identity(key, length) ?? table.get(cut(key, length));
      if (found !== 0) return found;
    }
    return 0;
  }

  /** What the change gives the prefix of `length` bits that holds this one. */
  #identity(key: PrefixKey, length: number): number | undefined {
    const place = this.#places[key.family].get(length)?.get(bitsOf(key, length));
    return place === undefined ? undefined : this.list[place]?.identity;
  }
}

/** The first bits of a prefix, the others being 0: of IPv4 as a number, which takes no memory. */
function bitsOf(key: PrefixKey, length: number): number | string {
  if (key.family === 'IPv6') return String.fromCharCode(...cut(key, length).bytes);
  const [a = 0, b = 0, c = 0, d = 0] = key.bytes;
  const value = (a << 24) | (b << 16) | (c << 8) | d;
  return length === 0 ? 0 : value & (-1 << (32 - length));
}

/** The prefix of `length` bits that holds this one. */
function cut(key: PrefixKey, length: number): PrefixKey {
  const bytes = key.bytes.map((byte, index) =>
    byte & (0xff00 >> Math.min(Math.max(length - (index * 8), 0), 8)));
  return { family: key.family, bytes, length };
}
