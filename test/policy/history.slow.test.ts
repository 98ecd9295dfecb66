// time limit: 1200 s
// The random histories of history.test.ts, many more of them.

import { test } from 'uvu';
import { assertHistories } from './support/seeds.ts';

test('changes add up to what a fresh load gives', () => assertHistories(400));

test.run();
