// What we believe of threads and namespaces: setns() moves one thread only. libuv's thread pool
// lives where the thread was that used it first, whoever asks it later.

import { readlinkSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { Worker } from 'node:worker_threads';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { createNamespace } from '../../ffi/netns.ts';
import { testNeeding } from '../support/needs.ts';

const test = suite('platform/threads');
const own = (): string => readlinkSync('/proc/thread-self/ns/net');

interface Report {
  thread: string;
  pool: string;
}

function startWorker(fd: number): Promise<Report> {
  const url = new URL('./thread-worker.js', import.meta.url);
  const worker = new Worker(url, { workerData: { fd } });
  return new Promise((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
  });
}

testNeeding('root', test, 'each thread has its own namespace; the thread pool stays', async () => {
  const home = own();
  await stat('/');
  const red = createNamespace();
  const blue = createNamespace();
  const reports = await Promise.all([red.fd, blue.fd, -1].map(startWorker));
  assert.equal(reports, [
    { thread: red.run(own), pool: home },
    { thread: blue.run(own), pool: home },
    { thread: home, pool: home },
  ]);
  assert.is(own(), home);
  red.close();
  blue.close();
});

testNeeding('root', test, 'a worker started inside run() begins inside', async () => {
  const namespace = createNamespace();
  const report = await namespace.run(() => ({ started: startWorker(-1) })).started;
  assert.is(report.thread, namespace.run(own));
  namespace.close();
});

test.run();
