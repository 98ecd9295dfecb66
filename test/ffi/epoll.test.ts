// Waiting for many descriptors: only those with something to read are told of, in turn.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { EventSet } from '../../ffi/epoll.ts';
import { closeFd, drainEventFd, openEventFd, signalEventFd } from '../../ffi/file.ts';

const test = suite('ffi/epoll');
const WAIT_MS = 50;

function tokens(set: EventSet, timeoutMs = 0): number[] {
  return Array.from({ length: set.wait(timeoutMs) }, (_, event) => set.token(event));
}

test('descriptors with something to read are told by their numbers, until it is read', () => {
  const set = new EventSet(8);
  const fds = [openEventFd(), openEventFd(), openEventFd()];
  fds.forEach((fd, at) => set.add(fd, 500 + at));
  assert.equal(tokens(set), []);
  for (const fd of fds.slice(1)) signalEventFd(fd);
  assert.equal(tokens(set).sort(), [501, 502]);
  assert.equal(tokens(set).sort(), [501, 502]);
  drainEventFd(fds[1] ?? -1);
  assert.equal(tokens(set), [502]);
  set.remove(fds[2] ?? -1);
  assert.equal(tokens(set), []);
  for (const fd of fds) closeFd(fd);
  set.close();
});

test('with more events than room, each has its turn', () => {
  const set = new EventSet(2);
  const fds = Array.from({ length: 5 }, openEventFd);
  fds.forEach((fd, at) => set.add(fd, at));
  for (const fd of fds) signalEventFd(fd);
  const seen = new Set(Array.from({ length: 5 }, () => tokens(set)).flat());
  assert.equal([...seen].sort(), [0, 1, 2, 3, 4]);
  for (const fd of fds) closeFd(fd);
  set.close();
});

test('a wait ends after its time, and a descriptor cannot be added twice', () => {
  const set = new EventSet(1);
  const fd = openEventFd();
  set.add(fd, 1);
  const start = performance.now();
  assert.equal(tokens(set, WAIT_MS), []);
  assert.ok(performance.now() - start >= WAIT_MS - 5);
  assert.throws(() => set.add(fd, 2), `epoll_ctl(EPOLL_CTL_ADD) on descriptor ${fd}: EEXIST`);
  closeFd(fd);
  set.close();
});

test.run();
