// Lines of one message: so many at once, then one at a time, and nothing is left out unsaid.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { LOG_BURST, LOG_INTERVAL_MS, LogLimit } from '../../engine/log-limit.ts';

/** How many of so many lines at one time pass. */
function passing(limit: LogLimit, message: string, lines: number, atMs: number): number {
  return Array.from({ length: lines }, () => limit.take(message, atMs))
    .filter((before) => before >= 0).length;
}

test('a burst passes, then one line for each interval, which tells of the others', () => {
  const limit = new LogLimit();
  assert.is(passing(limit, 'a', LOG_BURST + 30, 1000), LOG_BURST);
  assert.is(limit.take('a', 1000 + LOG_INTERVAL_MS - 1), -1);
  assert.is(limit.take('a', 1000 + LOG_INTERVAL_MS), 31);
  assert.is(limit.take('a', 1000 + LOG_INTERVAL_MS), -1);
});

test('messages do not take each other\'s lines', () => {
  const limit = new LogLimit();
  passing(limit, 'a', LOG_BURST + 1, 0);
  assert.is(limit.take('b', 0), 0);
});

test('after a rest a burst passes again, and no more', () => {
  const limit = new LogLimit();
  passing(limit, 'a', LOG_BURST, 0);
  assert.is(passing(limit, 'a', 100, LOG_INTERVAL_MS * LOG_BURST * 10), LOG_BURST);
});

test.run();
