// How long the compiler takes; see scale.ts. The size it is made for is scale.slow.test.ts.

import { test } from 'uvu';
import { checkScale } from './scale.ts';

test('10,000 pods and 1,000 policies', () =>
  checkScale({ pods: 10_000, policies: 1000, namespaces: 100, nodes: 100 }));

test.run();
