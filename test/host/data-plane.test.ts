// The data worker as the main thread sees it: devices come and go, a worker that dies is replaced,
// and nobody waits in vain. The underlay is on the loopback interface, its far end a socket here:
//
//   [ far: 127.0.0.1, the node `edge` ]----loopback----[ underlay of the worker ]
//
// What `edge` sends to an address of ours that nobody has is answered by the core, through the
// underlay: so a packet goes in and out without a TUN.

import { mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { DEVICE_UNDERLAY_IPV4 } from '../../wasm/abi/layout.ts';
import { readDrops } from '../../engine/counters.ts';
import type { Log } from '../../engine/log.ts';
import { errnoName } from '../../ffi/errno.ts';
import { closeFd } from '../../ffi/file.ts';
import { Links } from '../../ffi/netlink.ts';
import { createNamespace } from '../../ffi/netns.ts';
import { receiveFrom, sendTo } from '../../ffi/raw-socket.ts';
import { localPort, openUdpSocket } from '../../ffi/socket.ts';
import { openTun } from '../../ffi/tun.ts';
import { DataPlane, workerCount } from '../../host/data-plane.ts';
import type { FaultOptions } from '../../host/device/fault.ts';
import type { DeviceSpec } from '../../host/worker.ts';
import { coreModule, TEST_LIMITS } from '../support/core.ts';
import { HOME, makeHome } from '../support/home.ts';
import { testNeeding } from '../support/needs.ts';
import { ETHER_TYPE, PROTOCOL, ethernet, ipv4, udp, vxlan } from '../support/packets.ts';
import type { Scene } from '../support/scene.ts';

const test = suite('host/data-plane');
const folder = mkdtempSync(join(tmpdir(), `culvert-data-plane-${process.pid}-`));
const LOCAL = '127.0.0.1';
const TIMEOUT_MS = 10_000;
const POLL_MS = 5;
const CRASH_AT_FIRST: FaultOptions = {
  seed: 1, drop: 0, corrupt: 0, duplicate: 0, reorder: 0, crashAfter: 1,
};

test.after(() => rmSync(folder, { recursive: true }));

interface Bench {
  scene: Scene;
  dataPlane: DataPlane;
  far: number;
  spec: DeviceSpec;
  lost: [index: number, error: string][];
  /** Of log lines. */
  said: string[];
  /** The test has called stop() itself. */
  isStopped: boolean;
}

async function until(what: string, isSo: () => boolean): Promise<void> {
  const deadline = performance.now() + TIMEOUT_MS;
  while (!isSo()) {
    if (performance.now() > deadline) throw new Error(`waited in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

function openSocket(): number {
  return openUdpSocket({
    family: 'IPv4', address: LOCAL, port: 0, receiveBufferBytes: 1 << 18, sendBufferBytes: 1 << 18,
  });
}

/** One worker where `workers` does not say otherwise; only the first one's socket gets anything. */
async function withDataPlane(
  body: (bench: Bench) => Promise<void>, workers = 1,
): Promise<void> {
  const far = openSocket();
  const receivers = Array.from({ length: workers }, openSocket);
  const [edge] = HOME.remotes;
  if (edge === undefined) throw new Error('home has a remote');
  const tunnels = edge.tunnels.slice(0, 1)
    .map((tunnel) => ({ ...tunnel, remote: LOCAL, port: localPort(far) }));
  const remotes = [{ ...edge, tunnels, addresses: [] }];
  const scene = makeHome({ remotes, icmpBurst: 100_000 }, { ...TEST_LIMITS, workers });
  const lost: Bench['lost'] = [];
  const said: string[] = [];
  const note = (_: unknown, text: string): void => void said.push(text);
  const log: Log = { debug: note, info: note, warn: note, error: note };
  const dataPlane = new DataPlane({
    core: scene.core, module: coreModule(), log,
    onLost: (index, errno) => void lost.push([index, errnoName(errno)]),
    onTapLost: () => void lost.push([-1, 'tap']),
  });
  const spec: DeviceSpec = {
    index: DEVICE_UNDERLAY_IPV4, name: 'underlay', kind: 'udp', receivers,
    senders: receivers.slice(0, 1), vnetSize: 0, tunnelTap: -1, pcap: null, fault: null,
  };
  const bench: Bench = { scene, dataPlane, far, spec, lost, said, isStopped: false };
  try {
    await body(bench);
  } finally {
    if (!bench.isStopped) await dataPlane.stop();
    closeFd(far);
    for (const receiver of receivers) closeFd(receiver);
  }
}

/** The descriptor that the first worker reads. */
function receiverOf({ receivers }: DeviceSpec): number {
  return receivers[0] ?? -1;
}

/** Sends what the core answers with an ICMP error. */
function ask({ far, spec }: Bench): void {
  const fields = { source: '10.244.1.9', destination: '10.244.0.200' };
  const inner = ipv4({ ...fields, protocol: PROTOCOL.udp },
    udp({ ...fields, sourcePort: 4000, destinationPort: 53 }, Uint8Array.of(1)));
  const frame = ethernet({
    destination: '0e:00:00:00:04:10', source: '0e:00:00:00:04:11', type: ETHER_TYPE.ipv4,
  }, inner);
  sendTo(far, vxlan({ vni: 1 }, frame), LOCAL, localPort(receiverOf(spec)));
}

/** Takes one answer, if one is there. */
function hasAnswer({ far }: Bench): boolean {
  return receiveFrom(far, new Uint8Array(2048), 0) !== null;
}

async function askAndHear(bench: Bench): Promise<void> {
  ask(bench);
  await until('an answer of the core', () => hasAnswer(bench));
}

/** Makes the worker crash: its device throws at the first packet it sends. */
async function crash(bench: Bench): Promise<void> {
  const { crashes } = bench.dataPlane;
  ask(bench);
  await until('a crash', () => bench.dataPlane.crashes > crashes);
}

function descriptorCount(): number {
  return readdirSync('/proc/self/fd').length;
}

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
  assert.ok(receiveFrom(receiverOf(spec), buffer, TIMEOUT_MS), 'the datagram is ours to take');
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
    assert.ok(receiveFrom(receiverOf(bench.spec), buffer, TIMEOUT_MS), 'nobody reads the device');
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
    assert.ok(receiveFrom(receiverOf(spec), buffer, TIMEOUT_MS), 'the datagram is ours to take');
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
