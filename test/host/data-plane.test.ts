// The data worker as the main thread sees it: devices come and go, a worker that dies is replaced,
// and nobody waits in vain. support/data-plane.ts draws where packets come from.

import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { readDrops } from '../../engine/counters.ts';
import { closeFd } from '../../ffi/file.ts';
import { Links } from '../../ffi/netlink.ts';
import { createNamespace } from '../../ffi/netns.ts';
import { receiveFrom } from '../../ffi/raw-socket.ts';
import { openTun } from '../../ffi/tun.ts';
import { workerCount } from '../../host/data-plane.ts';
import { testNeeding } from '../support/needs.ts';
import {
  ask, askAndHear, crash, CRASH_AT_FIRST, descriptorCount, hasAnswer, receiverOf, withDataPlane,
} from './support/data-plane.ts';
import { PATIENCE_MS, until } from '../support/until.ts';

const test = suite('host/data-plane');
const folder = mkdtempSync(join(tmpdir(), `culvert-data-plane-${process.pid}-`));

test.after(() => rmSync(folder, { recursive: true }));

test('an attached device forwards', () => withDataPlane(async (bench) => {
  assert.ok(bench.dataPlane.isRunning);
  await bench.dataPlane.attach(bench.spec);
  for (let count = 0; count < 3; count += 1) await askAndHear(bench);
}));

test('a detached device is read no more, and comes back', () => withDataPlane(async (bench) => {
  const { dataPlane, spec } = bench;
  await dataPlane.attach(spec);
  await askAndHear(bench);
  await dataPlane.detach(spec.index);
  ask(bench);
  const buffer = new Uint8Array(2048);
  assert.ok(receiveFrom(receiverOf(spec), buffer, PATIENCE_MS), 'the datagram is ours to take');
  await dataPlane.detach(spec.index);
  await dataPlane.attach(spec);
  await askAndHear(bench);
}));

test('what the worker cannot attach is an error with the cause', () =>
  withDataPlane(async (bench) => {
    const { dataPlane, spec } = bench;
    const pcap = join(folder, 'none', 'file.pcap');
    const message = await dataPlane.attach({ ...spec, pcap }).then(() => '', (error: Error) =>
      error.message);
    assert.match(message, /ENOENT.*none\/file\.pcap/);
    assert.ok(dataPlane.isRunning);
    await dataPlane.attach(spec);
    await askAndHear(bench);
  }));

test('a worker that crashes is replaced, with its devices', () => withDataPlane(async (bench) => {
  const { dataPlane, spec, said } = bench;
  await dataPlane.attach({ ...spec, fault: { ...CRASH_AT_FIRST, crashAfter: 2 } });
  for (let crashes = 0; crashes < 3; crashes += 1) {
    await askAndHear(bench);
    await crash(bench);
    await until('a new worker', () => dataPlane.isRunning);
  }
  await askAndHear(bench);
  assert.is(dataPlane.crashes, 3);
  assert.is(said.filter((text) => text === 'data worker crashed').length, 3);
}));

test('tables and counters outlive the worker', () => withDataPlane(async (bench) => {
  const { dataPlane, scene, spec } = bench;
  const read = (): number => readDrops(scene.core, 'inbound')['noRoute'] ?? 0;
  await dataPlane.attach({ ...spec, fault: { ...CRASH_AT_FIRST, crashAfter: 2 } });
  await askAndHear(bench);
  const before = read();
  await crash(bench);
  await askAndHear(bench);
  assert.is(read(), before + 2);
}));

test('a command given while there is no worker is carried out', () =>
  withDataPlane(async (bench) => {
    const { dataPlane, spec } = bench;
    await dataPlane.attach({ ...spec, fault: CRASH_AT_FIRST });
    await crash(bench);
    assert.is(dataPlane.isRunning, false);
    await dataPlane.detach(spec.index);
    assert.ok(dataPlane.isRunning);
    await dataPlane.attach({ ...spec, fault: CRASH_AT_FIRST });
    await crash(bench);
    assert.is(dataPlane.isRunning, false);
    await dataPlane.attach(spec);
    await askAndHear(bench);
  }));

test('a command that a crash overtakes is carried out', () => withDataPlane(async (bench) => {
  const { dataPlane, spec } = bench;
  await dataPlane.attach({ ...spec, fault: CRASH_AT_FIRST });
  ask(bench);
  while (dataPlane.crashes < 3) {
    await dataPlane.detach(spec.index);
    await dataPlane.attach({ ...spec, fault: CRASH_AT_FIRST });
    ask(bench);
  }
  await dataPlane.attach(spec);
  await until('answers of the core', () => {
    if (!dataPlane.isRunning) return false;
    ask(bench);
    return hasAnswer(bench);
  });
}));

test('stop() ends the worker, also a crashed one, and leaves no command waiting', async () => {
  await withDataPlane(async (bench) => {
    await bench.dataPlane.attach(bench.spec);
    bench.isStopped = true;
    await bench.dataPlane.stop();
    ask(bench);
    const buffer = new Uint8Array(2048);
    assert.ok(receiveFrom(receiverOf(bench.spec), buffer, PATIENCE_MS), 'nobody reads the device');
  });
  await withDataPlane(async (bench) => {
    const { dataPlane, spec } = bench;
    await dataPlane.attach({ ...spec, fault: CRASH_AT_FIRST });
    await crash(bench);
    const waiting = dataPlane.detach(spec.index);
    bench.isStopped = true;
    await dataPlane.stop();
    await waiting;
    assert.is(dataPlane.isRunning, false);
  });
});

test('descriptors and files stay few, however often devices and workers change', () =>
  withDataPlane(async (bench) => {
    const { dataPlane, spec } = bench;
    const pcap = join(folder, 'underlay.pcap');
    const round = async (): Promise<void> => {
      await dataPlane.attach({ ...spec, pcap });
      await askAndHear(bench);
      await dataPlane.detach(spec.index);
    };
    await round();
    const before = descriptorCount();
    for (let count = 0; count < 20; count += 1) await round();
    assert.is(descriptorCount(), before);
    assert.ok(statSync(pcap).size > 24 + 32, 'the recording has the packets of the last round');

    await dataPlane.attach({ ...spec, pcap, fault: CRASH_AT_FIRST });
    await crash(bench);
    await until('a new worker', () => dataPlane.isRunning);
    await dataPlane.detach(spec.index);
    await round();
    await until('the old worker\'s descriptors are closed', () => descriptorCount() <= before);
  }));

testNeeding('tun', test, 'a deleted interface is reported once, and the worker goes on', () =>
  withDataPlane(async (bench) => {
    const { dataPlane, spec, lost } = bench;
    const name = `cv${process.pid}`;
    const namespace = createNamespace();
    const links = namespace.run(() => new Links());
    const { fd } = namespace.run(() => openTun({ name, kind: 'tun' }));
    try {
      await dataPlane.attach(spec);
      const kind = 'tun';
      await dataPlane.attach({ ...spec, index: 3, name, kind, receivers: [fd], senders: [] });
      await links.removeLink(name);
      await until('the loss to be reported', () => lost.length > 0);
      await askAndHear(bench);
      assert.equal(lost, [[3, 'EBADFD']]);
      assert.is(dataPlane.crashes, 0);
    } finally {
      closeFd(fd);
      links.close();
      namespace.close();
    }
  }));

test('there are as many workers as configured, or half as many as processors', () => {
  const counts = [1, 2, 3, 4, 7, 8, 64].map((processors) => workerCount(0, processors));
  assert.equal(counts, [1, 1, 1, 2, 3, 4, 4]);
  assert.equal([1, 3].map((configured) => workerCount(configured, 2)), [1, 3]);
});

test('a device that one of two workers cannot have is none of the other\'s', () =>
  withDataPlane(async (bench) => {
    const { dataPlane, spec } = bench;
    const receivers = spec.receivers.slice(0, 1);
    const message = await dataPlane.attach({ ...spec, receivers }).then(() => '', (error: Error) =>
      error.message);
    assert.is(message, 'attach underlay: no queue for worker 1');
    ask(bench);
    const buffer = new Uint8Array(2048);
    assert.ok(receiveFrom(receiverOf(spec), buffer, PATIENCE_MS), 'the datagram is ours to take');
    await dataPlane.attach(spec);
    await askAndHear(bench);
  }, 2));

testNeeding('tun', test, 'a device that both of two workers find deleted is reported once', () =>
  withDataPlane(async (bench) => {
    const { dataPlane, spec, lost } = bench;
    const name = `cw${process.pid}`;
    const namespace = createNamespace();
    const links = namespace.run(() => new Links());
    const options = { name, kind: 'tun', multiQueue: true } as const;
    const receivers = namespace.run(() => [openTun(options).fd, openTun(options).fd]);
    try {
      await dataPlane.attach(spec);
      await dataPlane.attach({ ...spec, index: 3, name, kind: 'tun', receivers, senders: [] });
      await links.removeLink(name);
      await until('the loss to be reported', () => lost.length > 0);
      await dataPlane.detach(3);
      await askAndHear(bench);
      assert.equal(lost, [[3, 'EBADFD']]);
      assert.is(dataPlane.crashes, 0);
    } finally {
      for (const fd of receivers) closeFd(fd);
      links.close();
      namespace.close();
    }
  }, 2));

test('of two workers one that crashes leaves the other alone', () =>
  withDataPlane(async (bench) => {
    const { dataPlane, spec } = bench;
    await dataPlane.attach({ ...spec, fault: CRASH_AT_FIRST });
    await crash(bench);
    assert.equal(dataPlane.workers.map(({ crashes }) => crashes), [1, 0]);
    await until('all workers again', () => dataPlane.isRunning);
  }, 2));

test.run();
