// PollSet: places, timeouts, what is reported.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { closeFd, openEventFd, signalEventFd } from '../../ffi/file.ts';
import { POLLIN, POLLNVAL, PollSet } from '../../ffi/poll.ts';

const test = suite('ffi/poll');

test('reports ready places only, skips empty and removed ones', () => {
  const first = openEventFd();
  const second = openEventFd();
  const set = new PollSet(8);
  set.set(1, first, POLLIN);
  set.set(6, second, POLLIN);
  assert.is(set.wait(0), 0);

  signalEventFd(second);
  assert.is(set.wait(1000), 1);
  assert.is(set.revents(1), 0);
  assert.is(set.revents(6), POLLIN);

  set.remove(6);
  assert.is(set.revents(6), 0);
  assert.is(set.wait(0), 0);
  assert.throws(() => set.set(8, first, POLLIN), /no place 8/);

  closeFd(first);
  assert.is(set.wait(0), 1);
  assert.is(set.revents(1), POLLNVAL);
  closeFd(second);
});

test('waits as long as it was told', () => {
  const set = new PollSet(1);
  const start = performance.now();
  assert.is(set.wait(20), 0);
  assert.ok(performance.now() - start >= 19);
});

test.run();
