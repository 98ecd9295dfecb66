// time limit: 1200 s
// The random flows past modules of modules.test.ts, a million of them.

import { test } from 'uvu';
import { assertModules, FLOWS_PAST_MODULES } from './support/seeds.ts';

test('core and twin agree on a million random flows past modules', () =>
  assertModules(1_000_000 / FLOWS_PAST_MODULES));

test.run();
