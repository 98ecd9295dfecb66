// Random flows over random clusters with random policy modules between the admin tier and
// NetworkPolicy: the core's verdicts, and who they say decided, are the slow twin's, of which each
// module is a function. In the core, modules fail now and then instead of refusing.
// modules.slow.test.ts has a million of them.

import { test } from 'uvu';
import { assertModules } from './support/seeds.ts';

test('core and twin agree on random flows past modules', () => assertModules(60));

test.run();
