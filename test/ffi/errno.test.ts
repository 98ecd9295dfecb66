// Errors name operation, object, cause and remedy.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { check, ERRNO, errnoName, SystemError } from '../../ffi/errno.ts';

const test = suite('ffi/errno');

test('a SystemError names operation, object, cause and remedy', () => {
  const error = new SystemError('ioctl(TUNSETIFF)', 'culvert0', -ERRNO.EPERM, {
    EPERM: 'CAP_NET_ADMIN is needed',
  });
  assert.is(error.message, 'ioctl(TUNSETIFF) on culvert0: EPERM; CAP_NET_ADMIN is needed');
  assert.is(error.code, 'EPERM');
  assert.is(error.errno, 1);
  const plain = new SystemError('bind', '10.0.0.1:1', ERRNO.EADDRINUSE, { EPERM: 'x' });
  assert.is(plain.message, 'bind on 10.0.0.1:1: EADDRINUSE');
});

test('names cover what libuv does not know, and unknown numbers stay readable', () => {
  assert.is(errnoName(-77), 'EBADFD');
  assert.is(errnoName(17), 'EEXIST');
  assert.is(errnoName(18), 'EXDEV');
  assert.is(errnoName(999), 'errno 999');
});

test('check() passes counts through and throws on negative numbers', () => {
  assert.is(check(3, 'read', 'x'), 3);
  assert.throws(() => check(-ERRNO.EBADF, 'read', 'x'), /^read on x: EBADF$/);
});

test.run();
