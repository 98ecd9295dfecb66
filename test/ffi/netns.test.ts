// Network namespaces: who is inside, and that everyone comes back.
//
//   [ namespace: lo, tun device cv<pid> 198.51.100.1/24 ]     [ the namespace of this process ]

import { spawn, spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { closeFd } from '../../ffi/file.ts';
import { Links } from '../../ffi/netlink.ts';
import {
  createNamespace, currentNamespace, openNamespace, writeSysctl, type Namespace,
} from '../../ffi/netns.ts';
import { openTun } from '../../ffi/tun.ts';
import { testNeeding } from '../support/needs.ts';
import type { WorkerReport } from './namespace-worker.ts';

const test = suite('ffi/netns');
const DEVICE = `cv${process.pid}`;
const ADDRESS = '198.51.100.1';

const identity = (): string => readlinkSync('/proc/thread-self/ns/net');

async function withNamespace(fn: (namespace: Namespace) => Promise<void>): Promise<void> {
  const namespace = createNamespace();
  const { fd } = namespace.run(() => openTun({ name: DEVICE, kind: 'tun' }));
  const links = namespace.run(() => new Links());
  try {
    await links.addAddress(DEVICE, `${ADDRESS}/24`);
    await links.setLink(DEVICE, { up: true });
    await fn(namespace);
  } finally {
    links.close();
    closeFd(fd);
    namespace.close();
  }
}

testNeeding('root', test, 'run() goes in and comes back, also when the function throws', () => {
  const home = identity();
  const namespace = createNamespace();
  assert.is(identity(), home);
  const inside = namespace.run(identity);
  assert.is.not(inside, home);
  const devices = namespace.run(() => readFileSync('/proc/thread-self/net/dev', 'utf8'));
  assert.is(devices.match(/:/g)?.length, 1);
  assert.throws(() => namespace.run(() => { throw new Error('inside'); }), 'inside');
  assert.throws(() => namespace.run(async () => {}), 'no async function');
  assert.is(identity(), home);

  const again = openNamespace(namespace.path);
  assert.is(again.run(identity), inside);
  const nested = namespace.run(() => currentNamespace());
  assert.is(nested.run(identity), inside);
  for (const each of [again, nested, namespace]) each.close();
  assert.throws(() => namespace.enter(), /^setns on \/proc\/\d+\/fd\/\d+: EBADF/);
  assert.is(identity(), home);
});

testNeeding('root', test, 'a kernel parameter is set in the namespace of the thread', () => {
  const path = '/proc/sys/net/ipv4/ip_forward';
  const before = readFileSync(path, 'utf8');
  const namespace = createNamespace();
  for (const value of [1, 0]) {
    namespace.run(() => writeSysctl('net.ipv4.ip_forward', value));
    assert.is(namespace.run(() => readFileSync(path, 'utf8')), `${value}\n`);
  }
  namespace.run(() => writeSysctl('net/ipv6/conf/lo/accept_ra', 0));
  assert.is(readFileSync(path, 'utf8'), before);
  assert.throws(() => namespace.run(() => writeSysctl('net.ipv4.no_such_name', 1)),
    'write(1) on /proc/sys/net/ipv4/no_such_name: ENOENT; this kernel has no such parameter');
  namespace.close();
});

testNeeding('tun', test, 'a child process spawned inside lives inside', () =>
  withNamespace(async (namespace) => {
    const command = ['-c', 'readlink /proc/self/ns/net; cat /proc/self/net/dev'];
    const { stdout } = namespace.run(() => spawnSync('sh', command, { encoding: 'utf8' }));
    assert.ok(stdout.startsWith(namespace.run(identity)));
    assert.match(stdout, DEVICE);

    const child = namespace.run(() => spawn('sleep', ['60']));
    assert.is(readlinkSync(`/proc/${child.pid}/ns/net`), namespace.run(identity));
    const ended = new Promise((resolve) => child.once('exit', resolve));
    child.kill();
    await ended;
  }));

testNeeding('tun', test, 'sockets of a worker thread that entered live inside', () =>
  withNamespace(async (namespace) => {
    const home = identity();
    const report = await reportOfWorker(namespace);
    assert.equal(report.interfaces, ['lo', DEVICE]);
    assert.match(report.devicesFile, DEVICE);
    assert.is(report.datagram, ADDRESS);
    assert.is(report.stream, 'here');
    assert.is(identity(), home);
    assert.not.match(readFileSync('/proc/thread-self/net/dev', 'utf8'), DEVICE);
  }));

testNeeding('root', test, 'nothing is mounted', () => {
  const before = existsSync('/run/netns') ? readdirSync('/run/netns') : [];
  const namespace = createNamespace();
  assert.equal(existsSync('/run/netns') ? readdirSync('/run/netns') : [], before);
  namespace.close();
});

async function reportOfWorker(namespace: Namespace): Promise<WorkerReport> {
  const workerData = { fd: namespace.fd, address: ADDRESS };
  const worker = new Worker(new URL('./namespace-worker.js', import.meta.url), { workerData });
  try {
    return await new Promise((resolve, reject) => {
      worker.once('message', resolve);
      worker.once('error', reject);
    });
  } finally {
    await worker.terminate();
  }
}

test.run();
