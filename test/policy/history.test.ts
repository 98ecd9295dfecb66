// Random histories: events come as they happened, twice, in another order, or one of them is lost
// before everything is listed anew. After every step the core, which is told of changes only,
// answers as the slow twin does, and what it has been told means the same as a fresh load.
// history.slow.test.ts has many more.

import { test } from 'uvu';
import { assertHistories } from './support/seeds.ts';

test('changes add up to what a fresh load gives', () => assertHistories(80));

test.run();
