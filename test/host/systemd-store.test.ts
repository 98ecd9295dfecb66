// systemd's descriptor store, with a manager of our own at the other end of the socket.

import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { closeFd, drainEventFd, openEventFd, signalEventFd } from '../../ffi/file.ts';
import { receiveWithFd } from '../../ffi/rights.ts';
import { bindUnixDatagram } from '../../ffi/unix-socket.ts';
import { Handover } from '../../host/handover.ts';
import { SystemdStore } from '../../host/systemd-store.ts';

const test = suite('host/systemd-store');

interface Manager {
  path: string;
  /** The next message, and the descriptor that came with it. */
  next(): { text: string; fd: number };
}

function withManager(name: string, body: (manager: Manager) => void | Promise<void>): void {
  test(name, async () => {
    const folder = mkdtempSync(join(tmpdir(), 'culvert-systemd-'));
    const path = join(folder, 'notify');
    const socket = bindUnixDatagram(path);
    const bytes = new Uint8Array(256);
    try {
      await body({
        path,
        next: () => {
          const { count, fd } = receiveWithFd(socket, bytes);
          return { text: count < 0 ? '' : Buffer.from(bytes.subarray(0, count)).toString(), fd };
        },
      });
    } finally {
      closeFd(socket);
      rmSync(folder, { recursive: true });
    }
  });
}

withManager('what is put is sent with its name, and taken back by it', ({ path, next }) => {
  const store = SystemdStore.from({ NOTIFY_SOCKET: path, FDSTORE: '16' });
  assert.ok(store !== null);
  assert.is(store.list().size, 0);
  const event = openEventFd();
  store.put('tun.a', event);
  const { text, fd } = next();
  assert.is(text, 'FDSTORE=1\nFDPOLL=0\nFDNAME=tun.a');
  signalEventFd(event);
  assert.ok(drainEventFd(fd));
  store.put('tun.a', event);
  assert.equal(next(), { text: 'FDSTOREREMOVE=1\nFDNAME=tun.a', fd: -1 });
  closeFd(next().fd);
  store.stop();
  assert.equal(next(), { text: 'FDSTOREREMOVE=1\nFDNAME=tun.a', fd: -1 });
  assert.is(next().text, '');
  closeFd(fd);
  closeFd(event);
});

withManager('a service without a store has none', ({ path }) => {
  assert.is(SystemdStore.from({}), null);
  assert.is(SystemdStore.from({ NOTIFY_SOCKET: path }), null);
  assert.is(SystemdStore.from({ NOTIFY_SOCKET: path, FDSTORE: '0' }), null);
});

withManager('what the manager hands over is known by name, to its process only', ({ path }) => {
  const [one, other] = [openEventFd(), openEventFd()];
  const module = new URL('../../host/systemd-store.js', import.meta.url).href;
  const script = `const { SystemdStore } = await import(${JSON.stringify(module)});
    const names = (pid) => [...SystemdStore.from({ NOTIFY_SOCKET: ${JSON.stringify(path)},
      FDSTORE: '4', LISTEN_PID: String(pid), LISTEN_FDS: '2', LISTEN_FDNAMES: 'flows:pod.1' })
      .list()];
    console.log(JSON.stringify([names(process.pid), names(1)]));`;
  const { stdout, stderr } = spawnSync(
    process.execPath, ['--input-type=module', '-e', script],
    { stdio: ['ignore', 'pipe', 'pipe', one, other], encoding: 'utf8' });
  assert.is(stdout.trim(), JSON.stringify([[['flows', 3], ['pod.1', 4]], []]), stderr);
  closeFd(one);
  closeFd(other);
});

withManager('a daemon that takes over tells of what is new once it has', async ({ path, next }) => {
  const events = [openEventFd(), openEventFd(), openEventFd(), openEventFd()] as const;
  const [same, gone, replaced, added] = events;
  const log = { debug() {}, info() {}, warn() {}, error() {} };
  const store = SystemdStore.from({ NOTIFY_SOCKET: path, FDSTORE: '16' });
  const handover = Handover.succeed(
    { runtimeDirectory: dirname(path), isEnabled: true, awayMs: 0, log, store },
    new Map([['same', same], ['gone', gone], ['replaced', replaced]]));
  assert.is(handover.keeper, 'systemd');
  assert.is(handover.take('same'), same);
  handover.refuse('gone');
  assert.is(handover.take('replaced'), replaced);
  handover.keep('replaced', added);
  handover.keep('added', added);
  handover.keep('brief', added);
  handover.forget('brief');
  assert.is(next().text, '', 'the manager is the other daemon\'s to tell');
  await handover.settle();
  assert.equal(next(), { text: 'FDSTOREREMOVE=1\nFDNAME=gone', fd: -1 });
  assert.equal(next(), { text: 'FDSTOREREMOVE=1\nFDNAME=replaced', fd: -1 });
  for (const name of ['replaced', 'added']) {
    const { text, fd } = next();
    assert.is(text, `FDSTORE=1\nFDPOLL=0\nFDNAME=${name}`);
    closeFd(fd);
  }
  assert.equal(next(), { text: 'FDSTOREREMOVE=1\nFDNAME=brief', fd: -1 });
  assert.is(next().text, '');
  handover.end(true);
  for (const fd of [same, replaced, added]) closeFd(fd);
});

test.run();
