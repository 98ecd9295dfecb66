// time limit: 1200 s
// How long the compiler takes for a cluster of the size it is made for; see scale.ts.

import { test } from 'uvu';
import { checkScale } from './scale.ts';

test('100,000 pods and 10,000 policies', () =>
  checkScale({ pods: 100_000, policies: 10_000, namespaces: 1000, nodes: 1000 }));

test.run();
