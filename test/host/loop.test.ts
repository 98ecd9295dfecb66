// The worker's loop without a kernel: loopback devices around the core, in the surroundings that
// test/golden/README.md draws.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  DEVICE_NODE, DEVICE_UNDERLAY_IPV4, DEVICE_UNDERLAY_IPV6,
} from '../../wasm/abi/layout.ts';
import { readDrops } from '../../engine/counters.ts';
import { writeRemote } from '../../engine/tables/peer.ts';
import { ERRNO } from '../../ffi/errno.ts';
import { closeFd, drainEventFd, openEventFd, signalEventFd } from '../../ffi/file.ts';
import type { Device } from '../../host/device/device.ts';
import { LoopbackDevice } from '../../host/device/loopback.ts';
import { Loop } from '../../host/loop.ts';
import { Slots } from '../../host/slots.ts';
import { deviceIndex, makeHome } from '../support/home.ts';
import { ETHER_TYPE, PROTOCOL, concat, ethernet, ipv4, ipv6, read16, udp, vxlan } from
  '../support/packets.ts';
import type { Scene } from '../support/scene.ts';

const POD_A = '10.244.0.5';
const POD_B = '10.244.0.6';
const REMOTE_POD = '10.244.1.9';
const EDGE = '192.0.2.11';

interface Bench {
  scene: Scene;
  slots: Slots;
  loop: Loop;
  wakeFd: number;
  lost: [index: number, errno: number][];
  devices: Record<'node' | 'underlayIpv4' | 'underlayIpv6' | 'podA' | 'podB', LoopbackDevice>;
}

interface Context { bench: Bench }
const test = suite<Context>('host/loop');

test.before.each((context) => {
  const scene = makeHome();
  const slots = new Slots(scene.core, 0);
  const wakeFd = openEventFd();
  const lost: Bench['lost'] = [];
  const loop = new Loop(slots, wakeFd, (index, errno) => lost.push([index, errno]));
  const add = (index: number, name: string): LoopbackDevice => {
    const device = new LoopbackDevice(slots, index, name);
    loop.attach(index, device);
    return device;
  };
  const devices = {
    node: add(DEVICE_NODE, 'node'),
    underlayIpv4: add(DEVICE_UNDERLAY_IPV4, 'underlay-ipv4'),
    underlayIpv6: add(DEVICE_UNDERLAY_IPV6, 'underlay-ipv6'),
    podA: add(deviceIndex(scene, 'pod-a'), 'pod-a'),
    podB: add(deviceIndex(scene, 'pod-b'), 'pod-b'),
  };
  context.bench = { scene, slots, loop, wakeFd, lost, devices };
});
test.after.each(({ bench }) => closeFd(bench.wakeFd));

/** A UDP packet of IPv4 or IPv6; `mark` is its source port. */
function packet(source: string, destination: string, mark = 4000): Uint8Array {
  const datagram = udp({ source, destination, sourcePort: mark, destinationPort: 53 },
    Uint8Array.of(1, 2, 3));
  return source.includes(':')
    ? ipv6({ source, destination, nextHeader: PROTOCOL.udp }, datagram)
    : ipv4({ source, destination, protocol: PROTOCOL.udp }, datagram);
}

/** A datagram as the node `edge` sends it, and the remote it comes from. */
function fromEdge(inner: Uint8Array): [Uint8Array, Uint8Array] {
  const frame = ethernet({
    destination: '0e:00:00:00:04:10', source: '0e:00:00:00:04:11', type: ETHER_TYPE.ipv4,
  }, inner);
  const remote = new Uint8Array(28);
  writeRemote(new DataView(remote.buffer), remote, 0, EDGE, 8472);
  return [vxlan({ vni: 1 }, frame), remote];
}

/** Waits and turns once, as the worker does. Returns the packets read. */
function turn({ loop }: Bench): number {
  loop.wait(0);
  return loop.turn(1_000_000);
}

function dropped({ scene }: Bench): number {
  const counters = [readDrops(scene.core, 'outbound'), readDrops(scene.core, 'inbound')];
  return counters.flatMap((drops) => Object.values(drops)).reduce((sum, count) => sum + count, 0);
}

/** A device that counts its reads and answers as told. */
class Scripted implements Device {
  readonly name = 'scripted';
  readonly descriptors: readonly number[];
  isPending = false;
  readAnswer = 0;
  flushAnswer = 0;
  reads = 0;
  closed = 0;

  constructor(...descriptors: number[]) {
    this.descriptors = descriptors;
  }

  read(): number {
    this.reads += 1;
    return this.readAnswer;
  }

  write(): void {}

  flush(): number {
    return this.flushAnswer;
  }

  close(): void {
    this.closed += 1;
  }
}

test('each packet leaves by the device that its route names', ({ bench }) => {
  const { devices } = bench;
  devices.podA.offer(packet(POD_A, REMOTE_POD));
  devices.podA.offer(packet(POD_A, POD_B));
  devices.podA.offer(packet(POD_A, '10.244.0.0'));
  devices.podA.offer(packet('fd00:10:244::5', 'fd00:10:244:1::9'));
  devices.node.offer(packet('10.244.0.0', POD_A));
  devices.underlayIpv4.offer(...fromEdge(packet(REMOTE_POD, POD_A, 4001)));
  assert.is(turn(bench), 6);
  assert.is(dropped(bench), 0);
  const written = Object.fromEntries(Object.entries(devices)
    .map(([name, device]) => [name, device.written.length]));
  assert.equal(written, { node: 1, underlayIpv4: 1, underlayIpv6: 1, podA: 2, podB: 1 });
  const marks = devices.podA.written.map((bytes) => read16(bytes, 20));
  assert.equal(marks.sort(), [4000, 4001]);
  assert.is(read16(devices.podB.written[0] ?? new Uint8Array(), 12), ETHER_TYPE.ipv4, 'a frame');
});

test('a turn takes no more than the slots there are, and leaves nothing behind', ({ bench }) => {
  const { devices, slots } = bench;
  const offered = (2 * slots.count) + 7;
  for (let mark = 0; mark < offered; mark += 1) {
    devices.podA.offer(packet(POD_A, REMOTE_POD, 1000 + mark));
  }
  assert.is(turn(bench), slots.count);
  assert.is(devices.underlayIpv4.written.length, slots.count);
  assert.is(turn(bench), slots.count);
  assert.is(turn(bench), 7);
  assert.is(turn(bench), 0);
  const inner = 8 + 14 + 20;
  const marks = devices.underlayIpv4.written.map((bytes) => read16(bytes, inner));
  assert.equal(marks, Array.from({ length: offered }, (_, mark) => 1000 + mark), 'in order');
});

test('devices with much to read share a turn fairly', ({ bench }) => {
  const { devices, slots } = bench;
  const turns = 10;
  const busy = [
    { device: devices.podA, source: POD_A, mark: 1 },
    { device: devices.node, source: '10.244.0.0', mark: 2 },
    { device: devices.underlayIpv4, source: REMOTE_POD, mark: 3 },
  ];
  for (const { device, source, mark } of busy) {
    for (let count = 0; count < turns * slots.count; count += 1) {
      const inner = packet(source, POD_B, mark);
      if (device === devices.underlayIpv4) device.offer(...fromEdge(inner));
      else device.offer(inner);
    }
  }
  const frameHeader = 14;
  for (let count = 0; count < turns; count += 1) {
    devices.podB.written.length = 0;
    assert.is(turn(bench), slots.count);
    for (const { mark } of busy) {
      const seen = devices.podB.written.filter((frame) =>
        read16(frame, frameHeader + 20) === mark).length;
      const share = slots.count / busy.length;
      assert.ok(Math.abs(seen - share) <= 1, `${seen} of device ${mark}, not about ${share}`);
    }
  }
});

test('a quiet device is read beside a busy one, whoever is first', ({ bench }) => {
  const { devices, slots } = bench;
  for (let count = 0; count < 4 * slots.count; count += 1) {
    devices.podA.offer(packet(POD_A, REMOTE_POD));
  }
  for (let count = 0; count < 3; count += 1) {
    devices.node.offer(packet('10.244.0.0', POD_B));
    turn(bench);
    assert.is(devices.podB.written.length, count + 1);
  }
});

test('a device that ends is reported once and taken out, the others go on', ({ bench }) => {
  const { loop, devices, lost } = bench;
  const gone = new Scripted();
  gone.isPending = true;
  gone.readAnswer = -ERRNO.EBADFD;
  loop.attach(40, gone);
  devices.podA.offer(packet(POD_A, REMOTE_POD));
  assert.is(turn(bench), 1);
  assert.equal(lost, [[40, ERRNO.EBADFD]]);
  assert.is(gone.closed, 1);
  devices.podA.offer(packet(POD_A, REMOTE_POD));
  assert.is(turn(bench), 1);
  assert.is(gone.reads, 1);
  assert.is(lost.length, 1);
  assert.is(devices.underlayIpv4.written.length, 2);
});

test('a device may end while it is written to', ({ bench }) => {
  const { loop, scene, devices, lost } = bench;
  const gone = new Scripted();
  const index = deviceIndex(scene, 'pod-b');
  gone.flushAnswer = -ERRNO.EBADFD;
  loop.attach(index, gone);
  devices.podA.offer(packet(POD_A, POD_B));
  assert.is(turn(bench), 1);
  assert.equal(lost, [[index, ERRNO.EBADFD]]);
  assert.is(gone.closed, 1);
});

test('a packet for a device that is not there is counted', ({ bench }) => {
  const { loop, scene, devices } = bench;
  loop.detach(deviceIndex(scene, 'pod-b'));
  devices.podA.offer(packet(POD_A, POD_B));
  devices.podA.offer(packet(POD_A, REMOTE_POD));
  assert.is(turn(bench), 2);
  assert.is(readDrops(scene.core, 'outbound')['deviceUnknown'], 1);
  assert.is(dropped(bench), 1);
  assert.is(devices.podB.written.length, 0);
  assert.is(devices.underlayIpv4.written.length, 1);
});

test('a device taken back between waiting and turning is not read', ({ bench }) => {
  const { loop, devices, scene } = bench;
  devices.podA.offer(packet(POD_A, REMOTE_POD));
  devices.node.offer(packet('10.244.0.0', REMOTE_POD));
  loop.wait(0);
  loop.detach(deviceIndex(scene, 'pod-a'));
  assert.is(loop.turn(1_000_000), 1);
  assert.ok(devices.podA.isPending, 'its packet is still there');
  assert.is(turn(bench), 0);
});

test('a device under an index that has one takes its place', ({ bench }) => {
  const { loop, slots, scene, devices } = bench;
  const old = new Scripted();
  loop.attach(40, old);
  loop.attach(40, new Scripted());
  assert.is(old.closed, 1);
  const index = deviceIndex(scene, 'pod-b');
  const heir = new LoopbackDevice(slots, index, 'heir');
  loop.attach(index, heir);
  devices.podA.offer(packet(POD_A, POD_B));
  turn(bench);
  assert.is(heir.written.length, 1);
  assert.is(devices.podB.written.length, 0);
});

test('a device is read when one of its descriptors says so, and only then', ({ bench }) => {
  const { loop } = bench;
  const fds = [openEventFd(), openEventFd()];
  const device = new Scripted(...fds);
  loop.attach(40, device);
  turn(bench);
  assert.is(device.reads, 0);
  signalEventFd(fds[1] ?? -1);
  turn(bench);
  assert.is(device.reads, 1);
  loop.detach(40);
  turn(bench);
  assert.is(device.reads, 1);
  for (const fd of fds) closeFd(fd);
});

test('places of devices that come and go are used again', ({ bench }) => {
  const { loop } = bench;
  const fd = openEventFd();
  signalEventFd(fd);
  for (let count = 0; count < 2000; count += 1) {
    const device = new Scripted(fd);
    loop.attach(40, device);
    turn(bench);
    assert.is(device.reads, 1);
    loop.detach(40);
  }
  closeFd(fd);
});

test('wait() tells of a command, and does not wait while packets do', ({ bench }) => {
  const { loop, wakeFd, devices } = bench;
  assert.is(loop.wait(0), false);
  signalEventFd(wakeFd);
  assert.is(loop.wait(-1), true, 'returns at once, though it may wait for ever');
  drainEventFd(wakeFd);
  assert.is(loop.wait(0), false);
  devices.podA.offer(packet(POD_A, REMOTE_POD));
  assert.is(loop.wait(-1), false);
});

test('every packet read is sent or counted', ({ bench }) => {
  const { devices } = bench;
  const kinds = [
    packet(POD_A, REMOTE_POD), packet(POD_A, POD_B), packet('10.244.0.77', REMOTE_POD),
    packet(POD_A, '10.244.201.1'), packet(POD_A, '224.0.0.1'),
    packet(POD_A, REMOTE_POD).slice(0, 9),
    concat(packet(POD_A, REMOTE_POD), [0, 0]), Uint8Array.of(0), new Uint8Array(0),
  ];
  for (const bytes of kinds) devices.podA.offer(bytes);
  assert.is(turn(bench), kinds.length);
  const sent = Object.values(devices).reduce((sum, { written }) => sum + written.length, 0);
  const answers = devices.podA.written.length;
  assert.is(sent - answers + dropped(bench), kinds.length, 'answers stand for what was dropped');
});

test.run();
