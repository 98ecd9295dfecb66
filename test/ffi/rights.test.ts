// Descriptors over unix sockets. The last of a TUN goes through one, and the interface lives on.

import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ERRNO } from '../../ffi/errno.ts';
import { closeFd, drainEventFd, openEventFd, signalEventFd } from '../../ffi/file.ts';
import { createMemfd, fileSize } from '../../ffi/memfd.ts';
import { Links } from '../../ffi/netlink.ts';
import { createNamespace } from '../../ffi/netns.ts';
import { POLLIN, waitFor } from '../../ffi/poll.ts';
import { receiveWithFd, sendWithFd } from '../../ffi/rights.ts';
import { peerCredentials } from '../../ffi/socket.ts';
import { openTun } from '../../ffi/tun.ts';
import { acceptUnix, connectUnix, listenUnix } from '../../ffi/unix-socket.ts';
import { testNeeding } from '../support/needs.ts';

const test = suite('ffi/rights');

/** Gives a test both ends of a unix socket. */
function withPair(fn: (one: number, other: number) => void): void {
  const folder = mkdtempSync(join(tmpdir(), 'culvert-rights-'));
  const path = join(folder, 'socket');
  const listener = listenUnix(path, 1);
  const one = connectUnix(path);
  const other = acceptUnix(listener);
  try {
    fn(one, other);
  } finally {
    for (const fd of [one, other, listener]) closeFd(fd);
    rmSync(folder, { recursive: true });
  }
}

test('bytes travel with a descriptor, and without', () => withPair((one, other) => {
  const event = openEventFd();
  assert.is(sendWithFd(one, Uint8Array.of(1, 2, 3), event), 3);
  assert.is(sendWithFd(one, Uint8Array.of(4), -1), 1);
  const into = new Uint8Array(16);
  const first = receiveWithFd(other, into);
  assert.is(first.count, 3);
  assert.equal([...into.subarray(0, 3)], [1, 2, 3]);
  assert.ok(first.fd >= 0 && first.fd !== event);
  assert.equal(receiveWithFd(other, into), { count: 1, fd: -1 });
  assert.equal(receiveWithFd(other, into), { count: -ERRNO.EAGAIN, fd: -1 });
  signalEventFd(event);
  assert.ok(drainEventFd(first.fd));
  const flags = /^flags:\s+(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${first.fd}`, 'utf8'));
  assert.ok((Number.parseInt(flags?.[1] ?? '', 8) & 0o2000000) !== 0, 'close-on-exec');
  closeFd(first.fd);
  closeFd(event);
}));

test('the end of the other side is a count of 0, and its death an error', () => {
  const folder = mkdtempSync(join(tmpdir(), 'culvert-rights-'));
  const path = join(folder, 'socket');
  assert.is(connectUnix(path), -ERRNO.ENOENT);
  const listener = listenUnix(path, 1);
  const one = connectUnix(path);
  const other = acceptUnix(listener);
  assert.is(peerCredentials(other).pid, process.pid);
  closeFd(other);
  assert.equal(receiveWithFd(one, new Uint8Array(1)), { count: 0, fd: -1 });
  assert.is(sendWithFd(one, Uint8Array.of(1), -1), -ERRNO.EPIPE);
  closeFd(one);
  closeFd(listener);
  assert.is(connectUnix(path), -ERRNO.ECONNREFUSED);
  assert.ok(statSync(path).isSocket());
  assert.throws(() => connectUnix('x'.repeat(108)), /1 to 107 bytes/);
  rmSync(folder, { recursive: true });
});

test('a memfd is the same file on both sides', () => withPair((one, other) => {
  const memfd = createMemfd('culvert-test', 65536);
  sendWithFd(one, Uint8Array.of(0), memfd);
  closeFd(memfd);
  const { fd } = receiveWithFd(other, new Uint8Array(1));
  assert.is(fileSize(fd), 65536);
  closeFd(fd);
}));

test('a message that nobody reads keeps its descriptor open', () => withPair((one, other) => {
  const event = openEventFd();
  sendWithFd(one, Uint8Array.of(0), event);
  signalEventFd(event);
  closeFd(event);
  const { fd } = receiveWithFd(other, new Uint8Array(1));
  assert.ok(drainEventFd(fd));
  closeFd(fd);
}));

testNeeding('tun', test, 'a TUN lives on in a descriptor that was sent', async () => {
  const namespace = createNamespace();
  const links = namespace.run(() => new Links());
  const name = `cv${process.pid}`;
  const { fd: tun } = namespace.run(() => openTun({ name, kind: 'tun' }));
  await links.setLink(name, { up: true, linkLocalIpv6: true });
  let held = -1;
  withPair((one, other) => {
    sendWithFd(one, Uint8Array.of(0), tun);
    closeFd(tun);
    held = receiveWithFd(other, new Uint8Array(1)).fd;
  });
  assert.ok((await links.list()).some((link) => link.name === name));
  assert.is(waitFor(held, POLLIN, 1000) & POLLIN, POLLIN, 'a router solicitation, at least');
  closeFd(held);
  assert.not((await links.list()).some((link) => link.name === name));
  links.close();
  namespace.close();
});

test.run();
