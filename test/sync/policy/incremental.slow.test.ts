// time limit: 1200 s
// Many random histories; see histories.ts.

import { test } from 'uvu';
import { checkHistory } from './histories.ts';

const HISTORIES = 200;

for (const local of [null, 'n0']) {
  test(`histories, ${local === null ? 'pods of all nodes' : `pods of ${local}`}`, () => {
    for (let seed = 1; seed <= HISTORIES; seed += 1) {
      checkHistory(seed, { local, legacyAnnotation: seed % 2 === 0 });
    }
  });
}

test.run();
