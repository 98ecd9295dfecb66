// Changes of policy as values: empty ones, and their size as frames carry them.

import type { PolicyChange } from '../../engine/model.ts';

export function emptyChange(): PolicyChange {
  return {
    identities: [], ruleSets: [], removedRuleSets: [], endpoints: [], removedEndpoints: [],
    rules: [], removedRules: [],
  };
}

export function isEmptyChange(change: PolicyChange): boolean {
  return Object.values(change).every((list: unknown[]) => list.length === 0);
}

/** Two changes, one after the other, as one. */
export function joinChanges(first: PolicyChange, second: PolicyChange): PolicyChange {
  const number = (item: { number: number }): number => item.number;
  const pod = (item: { namespace: string; name: string }): string =>
    `${item.namespace}/${item.name}`;
  const own = (item: number): number => item;
  return {
    identities: later(first.identities, second.identities, ([prefix]) => prefix),
    // Those that go with the second are in force until it is applied.
    ruleSets: later(first.ruleSets, second.ruleSets, number),
    removedRuleSets: kept(first.removedRuleSets, second.removedRuleSets, own,
      second.ruleSets.map(number)),
    endpoints: kept(first.endpoints, second.endpoints, pod, second.removedEndpoints.map(pod)),
    removedEndpoints: kept(first.removedEndpoints, second.removedEndpoints, pod,
      second.endpoints.map(pod)),
    rules: kept(first.rules, second.rules, number, second.removedRules.map(own)),
    removedRules: kept(first.removedRules, second.removedRules, own, second.rules.map(number)),
  };
}

/** Both lists, less what `dropped` names of the first; of equal keys the second list's counts. */
export function kept<T, K>(
  first: readonly T[], second: readonly T[], key: (item: T) => K, dropped: readonly K[],
): T[] {
  const gone = new Set(dropped);
  return later(first.filter((item) => !gone.has(key(item))), second, key);
}

function later<T, K>(first: readonly T[], second: readonly T[], key: (item: T) => K): T[] {
  return [...new Map([...first, ...second].map((item) => [key(item), item])).values()];
}

/** Numbers in a part at most: far below what a frame holds. */
const PART_NUMBERS = 40_000;

/** A change in parts that each fit a frame. */
export function* partsOf(change: PolicyChange): Generator<PolicyChange> {
  for (const [kind, list] of Object.entries(change) as [keyof PolicyChange, unknown[]][]) {
    yield* inParts(kind, list);
  }
}

/** Items of one kind in parts that each fit a frame, made as they are taken. An item, as a rule
 * set, is never split. */
export function* inParts(
  kind: keyof PolicyChange, items: Iterable<unknown>,
): Generator<PolicyChange> {
  let part: unknown[] = [];
  let numbers = 0;
  for (const item of items) {
    part.push(item);
    numbers += numbersIn(item);
    if (numbers < PART_NUMBERS) continue;
    yield { ...emptyChange(), [kind]: part };
    part = [];
    numbers = 0;
  }
  if (part.length > 0) yield { ...emptyChange(), [kind]: part };
}

/** True where a change fits a frame together with what else is in a delta. */
export function isSmallChange(change: PolicyChange): boolean {
  return numbersIn(Object.values(change)) <= PART_NUMBERS;
}

/** A measure of size as MessagePack: text counts by its length. */
function numbersIn(value: unknown): number {
  if (typeof value === 'string') return 1 + (value.length / 4);
  if (typeof value !== 'object' || value === null) return 1;
  let sum = 1;
  for (const item of Object.values(value)) sum += numbersIn(item);
  return sum;
}
