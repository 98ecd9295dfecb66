// What a service manager is told, with one of our own at the other end of the socket.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { closeFd } from '../../ffi/file.ts';
import { receiveWithFd } from '../../ffi/rights.ts';
import { bindUnixDatagram } from '../../ffi/unix-socket.ts';
import { Heartbeat, Manager } from '../../host/notify.ts';

const test = suite('host/notify');

/** Has a socket listen where a manager would. `next` gives the next message, empty for none. */
function withSocket(work: (path: string, next: () => string) => void): void {
  const folder = mkdtempSync(join(tmpdir(), 'culvert-notify-'));
  const path = join(folder, 'notify');
  const socket = bindUnixDatagram(path);
  const bytes = new Uint8Array(256);
  try {
    work(path, () => {
      const { count } = receiveWithFd(socket, bytes);
      return count < 0 ? '' : Buffer.from(bytes.subarray(0, count)).toString();
    });
  } finally {
    closeFd(socket);
    rmSync(folder, { recursive: true });
  }
}

test('assignments are told in one datagram', () => {
  withSocket((path, next) => {
    const manager = new Manager({ NOTIFY_SOCKET: path });
    manager.tell('READY=1', 'STATUS=well');
    assert.is(next(), 'READY=1\nSTATUS=well');
    assert.is(next(), '');
  });
});

test('a reload is told with the time of its begin', () => {
  withSocket((path, next) => {
    const before = process.hrtime.bigint() / 1000n;
    new Manager({ NOTIFY_SOCKET: path }).tellReloading();
    const [, us = ''] = /^RELOADING=1\nMONOTONIC_USEC=(\d+)$/.exec(next()) ?? [];
    assert.ok(BigInt(us) >= before && BigInt(us) <= process.hrtime.bigint() / 1000n);
  });
});

test('without a manager nothing is told, and one that has gone does not matter', () => {
  assert.not(new Manager({}).isThere);
  new Manager({}).tell('READY=1');
  new Manager({ NOTIFY_SOCKET: '/nowhere/notify' }).tell('READY=1');
});

test('the watchdog is for the process that it names, and for any where it names none', () => {
  const us = { WATCHDOG_USEC: '3000000' };
  assert.is(new Manager(us).watchdogMs, 3000);
  assert.is(new Manager({ ...us, WATCHDOG_PID: `${process.pid}` }).watchdogMs, 3000);
  assert.is(new Manager({ ...us, WATCHDOG_PID: '1' }).watchdogMs, 0);
  assert.is(new Manager({}).watchdogMs, 0);
});

test('a heart beats where every worker has turned, since it last did', () => {
  let turns = [4, 8];
  const heart = new Heartbeat(() => turns);
  assert.not(heart.hasBeaten());
  turns = [6, 8];
  assert.not(heart.hasBeaten(), 'one worker stands still');
  turns = [6, 10];
  assert.ok(heart.hasBeaten());
  assert.not(heart.hasBeaten());
  turns = [7, 11];
  assert.ok(heart.hasBeaten());
});

test.run();
