// A whole policy: as the change that leads to it from what is there, and where nothing is there.

import { prefixKey, prefixText } from '../address.ts';
import type { PolicyChange } from '../model.ts';
import type { IdentityTables } from './policy-moves.ts';

/** What is in force, by what it is known by. */
export interface PolicyThere {
  prefixes: string[];
  ruleSets: Iterable<number>;
  endpoints: Iterable<{ namespace: string; name: string }>;
  rules: Iterable<number>;
}

/** Everything that `whole` has, and the end of everything else. */
export function changeTo(whole: PolicyChange, there: PolicyThere): PolicyChange {
  const prefixes = new Set(there.prefixes.length === 0 ? []
    : whole.identities.map(([prefix]) => prefixText(prefixKey(prefix))));
  const gone = there.prefixes.filter((prefix) => !prefixes.has(prefix));
  const ruleSets = new Set(whole.ruleSets.map(({ number }) => number));
  const pods = new Set(whole.endpoints.map(({ namespace, name }) => `${namespace}/${name}`));
  const rules = new Set(whole.rules.map(({ number }) => number));
  return {
    ...whole,
    identities: [...whole.identities, ...gone.map((prefix): [string, number] => [prefix, 0])],
    removedRuleSets: [...there.ruleSets].filter((number) => !ruleSets.has(number)),
    removedEndpoints: [...there.endpoints]
      .filter(({ namespace, name }) => !pods.has(`${namespace}/${name}`))
      .map(({ namespace, name }) => ({ namespace, name })),
    removedRules: [...there.rules].filter((number) => !rules.has(number)),
  };
}

/** Enters the first identities of all, which takes no transition: no verdict depends on them.
 * `count` is told what each prefix had and has. Throws where they do not fit; then none stays. */
export function enterFirst(
  tables: IdentityTables, identities: PolicyChange['identities'],
  count: (had: number, value: number) => void,
): void {
  let entered = 0;
  try {
    for (const [prefix, identity] of identities) {
      const key = prefixKey(prefix);
      const table = tables[key.family];
      const had = table.get(key);
      if (identity !== 0) table.insert(key, identity);
      else if (had !== 0) table.remove(key);
      count(had, identity);
      entered += 1;
    }
  } catch (error) {
    for (const [prefix] of identities.slice(0, entered)) {
      const key = prefixKey(prefix);
      count(tables[key.family].get(key), 0);
      tables[key.family].remove(key);
    }
    throw error;
  }
}
