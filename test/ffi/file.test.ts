// Descriptors: reads and writes by address, event counters, locks.

import { constants, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ERRNO } from '../../ffi/errno.ts';
import {
  closeFd, closeFdAsync, drainEventFd, lockFile, openEventFd, openFile, readAt, setNonBlocking,
  signalEventFd, writeAt,
} from '../../ffi/file.ts';
import { addressOf } from '../../ffi/memory.ts';
import { POLLIN, waitFor } from '../../ffi/poll.ts';

const test = suite('ffi/file');
const folder = mkdtempSync(join(tmpdir(), `culvert-${process.pid}-`));
test.after(() => rmSync(folder, { recursive: true }));

test('reads and writes at an address, and answers errors with a negative errno', () => {
  const bytes = new Uint8Array(64).fill(0xa5);
  const path = join(folder, 'data');
  const writer = openFile(path, constants.O_WRONLY | constants.O_CREAT);
  assert.is(writeAt(writer, addressOf(bytes.subarray(8)), 16), 16);
  assert.is(readAt(writer, addressOf(bytes), 1), -ERRNO.EBADF);
  closeFd(writer);

  bytes.fill(0);
  const reader = openFile(path, constants.O_RDONLY);
  assert.is(readAt(reader, addressOf(bytes) + 4, 60), 16);
  closeFd(reader);
  assert.equal([...bytes.subarray(3, 21)], [0, ...new Array(16).fill(0xa5), 0]);
});

test('a missing file is an error that names it', () => {
  assert.throws(() => openFile(`${folder}/none`, constants.O_RDONLY), /^open on .*none: ENOENT$/);
});

test('an event descriptor is quiet, signalled, drained', async () => {
  const fd = openEventFd();
  assert.is(waitFor(fd, POLLIN, 0), 0);
  signalEventFd(fd);
  signalEventFd(fd);
  assert.is(waitFor(fd, POLLIN, 0), POLLIN);
  assert.ok(drainEventFd(fd));
  assert.not(drainEventFd(fd));
  setNonBlocking(fd);
  await closeFdAsync(fd);
  assert.throws(() => closeFd(fd), /EBADF/);
});

test('a lock is held once, and free again when its holder closes', () => {
  const path = join(folder, 'lock');
  const holder = lockFile(path);
  assert.type(holder, 'number');
  assert.is(lockFile(path), null);
  closeFd(holder as number);
  const next = lockFile(path);
  assert.type(next, 'number');
  closeFd(next as number);
});

test.run();
