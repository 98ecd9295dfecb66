// Trains of datagrams through devices: cut and joined by the kernel between two sockets on the
// loopback interface, damaged one by one, recorded one by one.

import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { DEVICE_UNDERLAY_IPV4, SEND_FLAG_FRAME } from '../../wasm/abi/layout.ts';
import { readDrops } from '../../engine/counters.ts';
import { closeFd } from '../../ffi/file.ts';
import { POLLIN, waitFor } from '../../ffi/poll.ts';
import {
  joinDatagrams, localPort, openUdpSocket, probeSegmentLimit, probeUdpGro, receiveTos,
} from '../../ffi/socket.ts';
import { FaultDevice, type FaultOptions } from '../../host/device/fault.ts';
import { LoopbackDevice } from '../../host/device/loopback.ts';
import {
  LINK_TYPE_ETHERNET, LINK_TYPE_RAW, PcapDevice, tunnelSkip,
} from '../../host/device/pcap.ts';
import { UdpDevice } from '../../host/device/udp.ts';
import { Slots } from '../../host/slots.ts';
import { makeHome } from '../support/home.ts';
import { printSkip } from '../support/needs.ts';
import { clearStage, stageTrain, type SendFields } from '../support/stage.ts';
import { PATIENCE_MS } from '../support/until.ts';

const test = suite('host/trains');
const folder = mkdtempSync(join(tmpdir(), `culvert-trains-${process.pid}-`));
const opened: number[] = [];
const HEADER_SIZE = 20;
const NO_FAULT: FaultOptions = {
  seed: 1, drop: 0, corrupt: 0, duplicate: 0, reorder: 0, crashAfter: 0,
};

test.after.each(() => opened.splice(0).forEach(closeFd));
test.after(() => rmSync(folder, { recursive: true }));

/** Fills a slot with one byte, repeated. Returns its number. */
function fill(slots: Slots, slot: number, length: number, mark: number): number {
  const start = slots.room(slot) - slots.base;
  slots.core.bytes.fill(mark, start, start + length);
  slots.fill(slot, 0, length);
  return slot;
}

/** Stages a train whose datagram n is made of bytes n, in one or two pieces by turns. */
function stageMarked(slots: Slots, sizes: number[], fields: SendFields = {}): number {
  let slot = slots.first;
  const datagrams = sizes.map((size, mark) => {
    const head = fill(slots, slot, mark % 2 === 0 ? HEADER_SIZE : size, mark);
    slot += 1;
    if (mark % 2 !== 0) return [head];
    const rest = fill(slots, slot, size - HEADER_SIZE, mark);
    slot += 1;
    return [head, rest];
  });
  clearStage(slots);
  return stageTrain(slots, datagrams, fields);
}

/** What a LoopbackDevice was given, cut into datagrams of `size` bytes: their marks. */
function marksOf(train: Uint8Array, size: number): number[] {
  const marks: number[] = [];
  for (let at = 0; at < train.length; at += size) marks.push(train[at] ?? -1);
  return marks;
}

interface Ends {
  slots: Slots;
  device: UdpDevice;
  receiver: number;
  remote: { address: string; port: number };
}

/** An underlay device that sends to itself. */
function makeEnds(address: '127.0.0.1' | '::1', joins: boolean): Ends {
  const family = address === '::1' ? 'IPv6' : 'IPv4';
  const [receiver = -1, sender = -1] = [0, 1].map(() => {
    const fd = openUdpSocket({
      family, address, port: 0, receiveBufferBytes: 1 << 22, sendBufferBytes: 1 << 20,
    });
    opened.push(fd);
    return fd;
  });
  receiveTos(receiver, family);
  if (joins) joinDatagrams(receiver);
  const slots = new Slots(makeHome().core, 0);
  const device = new UdpDevice(slots, {
    index: DEVICE_UNDERLAY_IPV4, name: 'underlay', receiver, senders: [sender],
  });
  return { slots, device, receiver, remote: { address, port: localPort(receiver) } };
}

interface Arrived { length: number; segmentSize: number; tos: number; marks: number[] }

/** Everything that has arrived at a device. */
function arrivals({ slots, device, receiver }: Ends): Arrived[] {
  const arrived: Arrived[] = [];
  waitFor(receiver, POLLIN, PATIENCE_MS);
  const count = device.read(slots.first, slots.count);
  for (let slot = slots.first; slot < slots.first + count; slot += 1) {
    const { core } = slots;
    const [start, length] = [slots.start(slot), slots.length(slot)];
    const segmentSize = slots.segmentSize(slot);
    const marks = marksOf(core.bytes.slice(start, start + length), segmentSize || length);
    arrived.push({ length, segmentSize, tos: slots.outerTos(slot), marks });
  }
  return arrived;
}

const SIZES = [100, 100, 100, 100, 60];
const MARKS = [0, 1, 2, 3, 4];
const isCutting = probeSegmentLimit() > 1;
const isJoining = probeUdpGro();

for (const address of ['127.0.0.1', '::1'] as const) {
  const title = `a train over ${address} is cut, and joined again, under its TOS`;
  if (!isCutting || !isJoining) {
    test.skip(title);
    printSkip(title, 'a kernel with UDP_SEGMENT and UDP_GRO is needed');
    continue;
  }
  test(title, () => {
    const ends = makeEnds(address, true);
    ends.device.write(stageMarked(ends.slots, SIZES, { remote: ends.remote, tos: 0x2e }));
    assert.is(ends.device.flush(), 0);
    assert.equal(arrivals(ends), [{ length: 460, segmentSize: 100, tos: 0x2e, marks: MARKS }]);

    const single = makeEnds(address, false);
    single.device.write(stageMarked(single.slots, SIZES, { remote: single.remote }));
    assert.is(single.device.flush(), 0);
    assert.equal(arrivals(single).map(({ length }) => length), SIZES);
  });
}

test('what the kernel does not cut goes datagram by datagram', () => {
  const ends = makeEnds('127.0.0.1', false);
  // More than any kernel cuts; all in one piece each, since there are only so many slots.
  const { slots, device, remote } = ends;
  const count = 200;
  const marked = fill(slots, slots.first, 50, 7);
  clearStage(slots);
  device.write(stageTrain(slots, Array.from({ length: count }, () => [marked]), { remote }));
  assert.is(device.flush(), 0);
  const arrived = [arrivals(ends), arrivals(ends), arrivals(ends), arrivals(ends)].flat();
  assert.is(arrived.length, count);
  assert.ok(arrived.every(({ length, marks }) => length === 50 && marks[0] === 7));
  assert.is(readDrops(slots.core, 'outbound')['deviceError'], 0);
});

test('datagrams that cannot be sent are counted, a train by its packets', () => {
  const { slots, device } = makeEnds('127.0.0.1', false);
  // A socket bound to the loopback interface reaches nothing else.
  const remote = { address: '192.0.2.1', port: 9 };
  device.write(stageMarked(slots, SIZES, { remote }));
  device.flush();
  assert.is(readDrops(slots.core, 'outbound')['deviceError'], SIZES.length);
});

/** Sends trains of ten through a fault device. Returns the marks that came out of each. */
function damage(options: Partial<FaultOptions>, last = 100): { slots: Slots; out: number[][] } {
  const slots = new Slots(makeHome().core, 0);
  const inner = new LoopbackDevice(slots, 5, 'inner');
  const device = new FaultDevice(inner, slots, { ...NO_FAULT, ...options });
  const sizes = [...new Array<number>(9).fill(100), last];
  for (let train = 0; train < 40; train += 1) {
    device.write(stageMarked(slots, sizes));
    device.flush();
  }
  return { slots, out: inner.written.map((train) => marksOf(train, 100)) };
}

const TEN = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];

test('faults hit single datagrams of a train', () => {
  assert.ok(damage({}).out.every((marks) => marks.join() === TEN.join()));

  const dropped = damage({ drop: 0.3 });
  const left = dropped.out.flat().length;
  assert.ok(left > 240 && left < 320, `${left} of 400`);
  assert.ok(dropped.out.every((marks) => marks.join() === [...marks].sort().join()));
  assert.is(readDrops(dropped.slots.core, 'outbound')['fault'], 400 - left);
  assert.equal(damage({ drop: 1 }).out, []);

  const doubled = damage({ duplicate: 0.3, seed: 3 }).out;
  assert.ok(doubled.every((marks) => marks.filter((mark, at) => mark !== marks[at - 1]).join()
    === TEN.join()));
  const extra = doubled.flat().length - 400;
  assert.ok(extra > 80 && extra < 160, `${extra}`);

  const moved = damage({ reorder: 0.3, seed: 4 }).out;
  assert.ok(moved.every((marks) => [...marks].sort().join() === TEN.join()));
  assert.ok(moved.filter((marks) => marks.join() !== TEN.join()).length > 30);
});

test('a shorter last datagram stays the last, and comes once', () => {
  const { out } = damage({ drop: 0.1, duplicate: 0.3, reorder: 0.5, seed: 5 }, 30);
  const withLast = out.filter((marks) => marks.includes(9));
  assert.ok(withLast.length > 30);
  assert.ok(withLast.every((marks) => marks.indexOf(9) === marks.length - 1));
});

test('a corrupted train differs in one bit of a datagram', () => {
  const slots = new Slots(makeHome().core, 0);
  const inner = new LoopbackDevice(slots, 5, 'inner');
  const device = new FaultDevice(inner, slots, { ...NO_FAULT, corrupt: 0.1, seed: 6 });
  for (let train = 0; train < 40; train += 1) device.write(stageMarked(slots, [100, 100, 100]));
  let bits = 0;
  for (const train of inner.written) {
    train.forEach((byte, at) => {
      const wrong = byte ^ Math.floor(at / 100);
      if (wrong !== 0) bits += 1;
      assert.ok((wrong & (wrong - 1)) === 0);
    });
  }
  assert.ok(bits > 4 && bits < 30, `${bits} of 120`);
});

/** Lengths of the records of a pcap file, and the first byte of each. */
function records(path: string): [length: number, mark: number][] {
  const bytes = readFileSync(path);
  const found: [number, number][] = [];
  for (let at = 24; at < bytes.length;) {
    const length = bytes.readUInt32LE(at + 8);
    found.push([length, bytes[at + 16] ?? -1]);
    at += 16 + length;
  }
  return found;
}

test('pcap records each datagram of a train, sent or joined on arrival', () => {
  const slots = new Slots(makeHome().core, 0);
  const inner = new LoopbackDevice(slots, 5, 'inner');
  const path = join(folder, 'train.pcap');
  const skip = tunnelSkip(DEVICE_UNDERLAY_IPV4);
  const device = new PcapDevice(inner, slots, { path, linkType: LINK_TYPE_ETHERNET, skip });
  device.write(stageMarked(slots, SIZES));
  inner.offer(Uint8Array.from({ length: 250 }, (_, at) => Math.floor(at / 100)),
    new Uint8Array(0), 100);
  assert.is(device.read(slots.first, 1), 1);
  device.close();
  assert.equal(records(path),
    [[92, 0], [92, 1], [92, 2], [92, 3], [52, 4], [92, 0], [92, 1], [42, 2]]);
});

test('pcap leaves out vnet headers, and all that is in front of a whole frame\'s inner one', () => {
  const slots = new Slots(makeHome().core, 0);
  const inner = new LoopbackDevice(slots, 5, 'inner');
  const path = join(folder, 'super.pcap');
  const device = new PcapDevice(inner, slots, { path, linkType: LINK_TYPE_RAW, vnetSize: 10 });
  const frames = join(folder, 'frames.pcap');
  const underlay = new PcapDevice(inner, slots, {
    path: frames, linkType: LINK_TYPE_ETHERNET, skip: tunnelSkip(DEVICE_UNDERLAY_IPV4),
  });
  const big = [fill(slots, slots.first, 10, 1), fill(slots, slots.first + 1, 65_000, 2)];
  clearStage(slots);
  device.write(stageTrain(slots, [big]));
  for (const [remote, size] of [['192.0.2.1', 24 + 14 + 20 + 16], ['fd00::1', 24 + 14 + 40 + 16]]
    .map(([address, length]) => [{ address: `${address}`, port: 9 }, Number(length)] as const)) {
    const frame = [fill(slots, slots.first, size, 1), fill(slots, slots.first + 1, 60_000, 3)];
    underlay.write(stageTrain(slots, [frame], { remote, flags: SEND_FLAG_FRAME }));
  }
  device.close();
  underlay.close();
  assert.equal(records(path), [[65_000, 2]]);
  assert.equal(records(frames), [[60_000, 3], [60_000, 3]]);
});

test.run();
