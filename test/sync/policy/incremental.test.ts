// A few random histories; see histories.ts. The long run is incremental.slow.test.ts.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { policyDigest } from '../../../sync/policy/digest.ts';
import { checkHistory, compiled } from './histories.ts';
import { History } from './history.ts';
import { Tables, readEntries } from './tables.ts';

const HISTORIES = 8;

for (const local of [null, 'n0']) {
  test(`histories, ${local === null ? 'pods of all nodes' : `pods of ${local}`}`, () => {
    for (let seed = 1; seed <= HISTORIES; seed += 1) {
      checkHistory(seed, { local, legacyAnnotation: seed % 2 === 0 });
    }
  });
}

test('a state that is read again changes nothing, and an empty one leaves nothing', () => {
  for (let seed = 1; seed <= 5 * HISTORIES; seed += 1) {
    const entries = readEntries(new History(seed).cluster.list());
    const compiler = compiled(entries, { local: null });
    compiler.replace(entries);
    assert.is(compiler.commit(), null, `seed ${seed}`);
    const tables = new Tables();
    tables.apply(compiler.snapshot());
    compiler.replace([]);
    const change = compiler.commit();
    if (change !== null) tables.apply(change);
    assert.is(policyDigest(tables.state()), policyDigest(compiled([], { local: null }).snapshot()));
    assert.is(tables.ruleSets.size + tables.rules.size + tables.endpoints.size, 0);
  }
});

test.run();
