// Devices by themselves: pcap, fault and loopback around each other, UDP over the loopback
// interface, TUN and TAP in a namespace:
//
//   [ namespace: cv<pid> 10.244.0.1/24 ]--descriptor--[ TunDevice, in the place of pod-a ]

import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  DEVICE_GENEVE_IPV4, DEVICE_GENEVE_IPV6, DEVICE_IPIP_IPV4, DEVICE_IPIP_IPV6, DEVICE_UDP_IPV4,
  DEVICE_UNDERLAY_IPV4, DEVICE_UNDERLAY_IPV6,
} from '../../wasm/abi/layout.ts';
import { readDrops } from '../../engine/counters.ts';
import { ERRNO } from '../../ffi/errno.ts';
import { closeFd } from '../../ffi/file.ts';
import { Links } from '../../ffi/netlink.ts';
import { createNamespace, type Namespace } from '../../ffi/netns.ts';
import { POLLERR, waitFor } from '../../ffi/poll.ts';
import { receiveFrom, sendTo } from '../../ffi/raw-socket.ts';
import { localPort, openUdpSocket } from '../../ffi/socket.ts';
import { openTun } from '../../ffi/tun.ts';
import type { Device } from '../../host/device/device.ts';
import { FaultDevice, type FaultOptions } from '../../host/device/fault.ts';
import { LoopbackDevice } from '../../host/device/loopback.ts';
import {
  LINK_TYPE_ETHERNET, LINK_TYPE_RAW, PcapDevice, recordsFrames, tunnelSkip, type Skip,
} from '../../host/device/pcap.ts';
import { TunDevice } from '../../host/device/tun.ts';
import { UdpDevice } from '../../host/device/udp.ts';
import { Slots } from '../../host/slots.ts';
import { deviceIndex, HOME, makeHome } from '../support/home.ts';
import { testNeeding, printSkip } from '../support/needs.ts';
import {
  ETHER_TYPE, PROTOCOL, concat, ethernet, geneve, ipv4, ipv6, read16, toHex, udp, vxlan,
} from '../support/packets.ts';
import type { Scene } from '../support/scene.ts';
import { stage } from '../support/stage.ts';
import { findTool, toolReason } from '../support/tools.ts';
import { PATIENCE_MS } from '../support/until.ts';

const test = suite('host/device');
const folder = mkdtempSync(join(tmpdir(), `culvert-devices-${process.pid}-`));
const opened: number[] = [];
const POD = '10.244.0.5';
const REMOTE_POD = '10.244.1.9';
const NAME = `cv${process.pid}`;
const NO_FAULT: FaultOptions = {
  seed: 1, drop: 0, corrupt: 0, duplicate: 0, reorder: 0, crashAfter: 0,
};

test.after.each(() => opened.splice(0).forEach(closeFd));
test.after(() => rmSync(folder, { recursive: true }));

function packet(source: string, destination: string, mark: number): Uint8Array {
  const datagram = udp({ source, destination, sourcePort: mark, destinationPort: 53 },
    Uint8Array.of(1, 2, 3));
  return source.includes(':')
    ? ipv6({ source, destination, nextHeader: PROTOCOL.udp }, datagram)
    : ipv4({ source, destination, protocol: PROTOCOL.udp }, datagram);
}

/** Puts a packet into a slot, as a device reads it. */
function fill(slots: Slots, slot: number, bytes: Uint8Array, device = 0): void {
  slots.core.bytes.set(bytes, slots.room(slot) - slots.base);
  slots.fill(slot, device, bytes.length);
}

function bytesOf(slots: Slots, slot: number): Uint8Array {
  const start = slots.start(slot);
  return slots.core.bytes.slice(start, start + slots.length(slot));
}

function drops({ core }: Slots, direction: 'outbound' | 'inbound'): Record<string, number> {
  return Object.fromEntries(Object.entries(readDrops(core, direction))
    .filter(([, count]) => count > 0));
}

interface PcapFile { linkType: number; packets: Uint8Array[]; microseconds: number[] }

/** Reads a pcap file by the draft's own drawing of it. */
function readPcap(path: string): PcapFile {
  const bytes = readFileSync(path);
  assert.is(bytes.readUInt32LE(0), 0xa1b2c3d4);
  assert.equal([bytes.readUInt16LE(4), bytes.readUInt16LE(6)], [2, 4]);
  const limit = bytes.readUInt32LE(16);
  const file: PcapFile = { linkType: bytes.readUInt32LE(20), packets: [], microseconds: [] };
  let at = 24;
  while (at < bytes.length) {
    const length = bytes.readUInt32LE(at + 8);
    assert.is(bytes.readUInt32LE(at + 12), length);
    assert.ok(length <= limit && at + 16 + length <= bytes.length);
    file.microseconds.push(bytes.readUInt32LE(at + 4));
    file.packets.push(bytes.subarray(at + 16, at + 16 + length));
    at += 16 + length;
  }
  return file;
}

const NOTHING: Skip = () => 0;
const VXLAN = tunnelSkip(DEVICE_UNDERLAY_IPV4);

/** Records a packet each way. Returns the file's path. */
function record(name: string, linkType: number, skip: Skip, bytes: Uint8Array): string {
  const slots = new Slots(makeHome().core, 0);
  const inner = new LoopbackDevice(slots, 5, name);
  const path = join(folder, name);
  const device = new PcapDevice(inner, slots, { path, linkType, skip });
  inner.offer(bytes);
  assert.ok(device.isPending);
  assert.is(device.read(slots.first, 4), 1);
  stage(slots, [slots.first]);
  device.write(0);
  assert.is(device.flush(), 0);
  assert.equal(inner.written.map(toHex), [toHex(bytes)]);
  device.close();
  return path;
}

test('pcap records what is read and what is written', () => {
  const bytes = packet(POD, REMOTE_POD, 4000);
  const file = readPcap(record('raw.pcap', LINK_TYPE_RAW, NOTHING, bytes));
  assert.is(file.linkType, LINK_TYPE_RAW);
  assert.equal(file.packets.map(toHex), [toHex(bytes), toHex(bytes)]);
  assert.ok(file.microseconds.every((value) => value < 1_000_000));
});

test('pcap leaves the tunnel header of an underlay device out', () => {
  const frame = ethernet({
    destination: '02:00:00:00:00:01', source: '02:00:00:00:00:02', type: ETHER_TYPE.ipv4,
  }, packet(POD, REMOTE_POD, 4000));
  const file = readPcap(record('frame.pcap', LINK_TYPE_ETHERNET, VXLAN, vxlan({ vni: 1 }, frame)));
  assert.is(file.linkType, LINK_TYPE_ETHERNET);
  assert.equal(file.packets.map(toHex), [toHex(frame), toHex(frame)]);
  const runt = readPcap(record('runt.pcap', LINK_TYPE_ETHERNET, VXLAN, new Uint8Array(7)));
  assert.equal(runt.packets, []);
});

test('pcap records the packets inside other tunnels', () => {
  const inner = packet(POD, REMOTE_POD, 4000);
  const frame = ethernet({
    destination: '02:00:00:00:00:01', source: '02:00:00:00:00:02', type: ETHER_TYPE.ipv4,
  }, inner);
  const options = new Uint8Array(12);
  const outer = ipv4({ source: '192.0.2.1', destination: '192.0.2.2', protocol: 4 }, inner);
  const cases: [string, number, Uint8Array, Uint8Array][] = [
    ['frames', DEVICE_GENEVE_IPV4,
      geneve({ vni: 1, protocol: ETHER_TYPE.ethernet, options }, frame), inner],
    ['packets', DEVICE_GENEVE_IPV6, geneve({ vni: 1, protocol: ETHER_TYPE.ipv4 }, inner), inner],
    ['udp', DEVICE_UDP_IPV4, inner, inner],
    ['ipip', DEVICE_IPIP_IPV6, inner, inner],
  ];
  for (const [name, device, datagram, wanted] of cases) {
    assert.not.ok(recordsFrames(device));
    const path = record(`${name}.pcap`, LINK_TYPE_RAW, tunnelSkip(device), datagram);
    assert.equal(readPcap(path).packets.map(toHex), [toHex(wanted), toHex(wanted)], name);
  }
  // What is read of a raw socket of IPv4 has the outer header, what is written has none.
  const path = record('outer.pcap', LINK_TYPE_RAW, tunnelSkip(DEVICE_IPIP_IPV4), outer);
  assert.equal(readPcap(path).packets.map(toHex), [toHex(inner), toHex(outer)]);
});

const TCPDUMP_TEST = 'tcpdump reads what pcap wrote';
const tcpdump = findTool('tcpdump');
if (tcpdump === null) {
  test.skip(TCPDUMP_TEST);
  printSkip(TCPDUMP_TEST, toolReason('tcpdump'));
} else {
  test(TCPDUMP_TEST, () => {
    const frame = ethernet({
      destination: '02:00:00:00:00:01', source: '02:00:00:00:00:02', type: ETHER_TYPE.ipv6,
    }, packet('fd00:10:244::5', 'fd00:10:244:1::9', 4002));
    const show = (path: string): string => {
      const { stdout, stderr, status } =
        spawnSync(tcpdump, ['-n', '-vv', '-e', '-r', path], { encoding: 'utf8' });
      assert.is(status, 0, stderr);
      return stdout;
    };
    const raw = show(record('a.pcap', LINK_TYPE_RAW, NOTHING, packet(POD, REMOTE_POD, 4001)));
    assert.match(raw, /10\.244\.0\.5\.4001 > 10\.244\.1\.9\.53/);
    const ether = show(record('b.pcap', LINK_TYPE_ETHERNET, VXLAN, vxlan({ vni: 1 }, frame)));
    assert.match(ether, /02:00:00:00:00:02 > 02:00:00:00:00:01/);
    assert.match(ether, /fd00:10:244::5\.4002 > fd00:10:244:1::9\.53/);
  });
}

/** Sends batches of different packets through a fault device. Returns what came out, as hex. */
function damage(options: Partial<FaultOptions>, batches = 20): { slots: Slots; out: string[] } {
  const slots = new Slots(makeHome().core, 0);
  const inner = new LoopbackDevice(slots, 5, 'inner');
  const device = new FaultDevice(inner, slots, { ...NO_FAULT, ...options });
  for (let batch = 0; batch < batches; batch += 1) {
    const all = Array.from({ length: slots.count }, (_, at) => slots.first + at);
    for (const slot of all) fill(slots, slot, markedPacket((batch * slots.count) + slot));
    stage(slots, all);
    for (const send of all.keys()) device.write(send);
    assert.is(device.flush(), 0);
  }
  return { slots, out: inner.written.map(toHex) };
}

function markedPacket(mark: number): Uint8Array {
  return packet(POD, REMOTE_POD, 1024 + mark);
}

function sound(slots: Slots, batches = 20): string[] {
  return Array.from({ length: batches * slots.count }, (_, mark) => toHex(markedPacket(mark)));
}

function differingBits(a: string, b: string): number {
  const bytes = (text: string): number[] => text.split(' ').map((digits) => parseInt(digits, 16));
  const other = bytes(b);
  return bytes(a).reduce((sum, byte, at) =>
    sum + (byte ^ (other[at] ?? 0)).toString(2).replaceAll('0', '').length, 0);
}

test('without faults everything passes as it is', () => {
  const { slots, out } = damage({});
  assert.equal(out, sound(slots));
  assert.equal(drops(slots, 'outbound'), {});
});

test('dropped packets are counted, and a seed drops the same ones again', () => {
  const { slots, out } = damage({ drop: 0.3, seed: 5 });
  const all = sound(slots);
  assert.ok(out.every((bytes) => all.includes(bytes)));
  assert.ok(out.length > 0.6 * all.length && out.length < 0.8 * all.length, `${out.length}`);
  assert.equal(drops(slots, 'outbound'), { fault: all.length - out.length });
  assert.equal(damage({ drop: 0.3, seed: 5 }).out, out);
  assert.not.equal(damage({ drop: 0.3, seed: 6 }).out, out);
  assert.equal(damage({ drop: 1 }).out, []);
});

test('a corrupted packet differs in one bit', () => {
  const { slots, out } = damage({ corrupt: 0.5, seed: 7 });
  const all = sound(slots);
  assert.is(out.length, all.length);
  const bits = out.map((bytes, at) => differingBits(bytes, all[at] ?? ''));
  assert.ok(bits.every((count) => count <= 1));
  const hit = bits.filter((count) => count === 1).length;
  assert.ok(hit > 0.4 * all.length && hit < 0.6 * all.length, `${hit}`);
  assert.equal(damage({ corrupt: 0.5, seed: 7 }).out, out);
});

test('a duplicated packet comes twice in a row', () => {
  const { slots, out } = damage({ duplicate: 0.25, seed: 8 });
  const all = sound(slots);
  assert.equal(out.filter((bytes, at) => bytes !== out[at - 1]), all);
  const extra = out.length - all.length;
  assert.ok(extra > 0.15 * all.length && extra < 0.35 * all.length, `${extra}`);
});

test('reordered packets change places, and a batch keeps its own', () => {
  const { slots, out } = damage({ reorder: 0.25, seed: 9 });
  const all = sound(slots);
  assert.not.equal(out, all);
  for (let at = 0; at < all.length; at += slots.count) {
    assert.equal(out.slice(at, at + slots.count).sort(), all.slice(at, at + slots.count).sort());
  }
});

test('faults come together, and what came in is not touched', () => {
  const options = { drop: 0.1, corrupt: 0.1, duplicate: 0.1, reorder: 0.1, seed: 10 };
  assert.equal(damage(options).out, damage(options).out);
  const slots = new Slots(makeHome().core, 0);
  const inner = new LoopbackDevice(slots, 5, 'inner');
  const device = new FaultDevice(inner, slots, { ...NO_FAULT, drop: 1, corrupt: 1 });
  inner.offer(markedPacket(1));
  assert.ok(device.isPending);
  assert.is(device.read(slots.first, 1), 1);
  assert.is(toHex(bytesOf(slots, slots.first)), toHex(markedPacket(1)));
});

test('crashAfter throws at that packet', () => {
  const slots = new Slots(makeHome().core, 0);
  const inner = new LoopbackDevice(slots, 5, 'inner');
  const device = new FaultDevice(inner, slots, { ...NO_FAULT, crashAfter: 3 });
  fill(slots, slots.first, markedPacket(1));
  stage(slots, [slots.first]);
  device.write(0);
  device.write(0);
  assert.throws(() => device.write(0), 'fault device on inner: crash at packet 3');
  assert.is(inner.written.length, 2);
});

/** A node whose peer `edge` is a socket of this test, and the node's underlay on loopback. */
interface Underlay {
  scene: Scene;
  slots: Slots;
  device: UdpDevice;
  far: number;
  receiver: number;
  senders: number[];
}

function makeUnderlay(local: '127.0.0.1' | '::1', senderCount: number): Underlay {
  const family = local === '::1' ? 'IPv6' : 'IPv4';
  const open = (): number => {
    const fd = openUdpSocket({
      family, address: local, port: 0, receiveBufferBytes: 1 << 20, sendBufferBytes: 1 << 20,
    });
    opened.push(fd);
    return fd;
  };
  const far = open();
  const [edge, cross] = HOME.remotes;
  if (edge === undefined || cross === undefined) throw new Error('home has two remotes');
  const tunnels = edge.tunnels.filter((tunnel) => tunnel.family === family)
    .map((tunnel) => ({ ...tunnel, remote: local, port: localPort(far) }));
  const scene = makeHome({ remotes: [{ ...edge, tunnels, addresses: [] }, cross] });
  const slots = new Slots(scene.core, 0);
  const index = family === 'IPv6' ? DEVICE_UNDERLAY_IPV6 : DEVICE_UNDERLAY_IPV4;
  const receiver = open();
  const senders = Array.from({ length: senderCount }, open);
  const device = new UdpDevice(slots, { index, name: 'underlay', receiver, senders });
  return { scene, slots, device, far, receiver, senders };
}

/** Runs packets of pod-a through the core and gives those for `device` to it. */
function sendFromPod({ scene, slots, device }: Underlay, packets: Uint8Array[], to: Device = device)
  : void {
  const input = deviceIndex(scene, 'pod-a');
  packets.forEach((bytes, at) => fill(slots, slots.first + at, bytes, input));
  scene.core.exports.processBatch(slots.first, packets.length, 1_000_000);
  for (let slot = slots.first; slot < slots.first + packets.length; slot += 1) {
    assert.ok(slots.isSent(slot));
  }
  for (let send = 0; send < slots.sends.count; send += 1) to.write(send);
  assert.is(to.flush(), 0);
}

/** Everything that waits at a socket: payloads, and the remotes they came from. */
function receiveAll(fd: number, count: number): { bytes: Uint8Array; port: number }[] {
  const buffer = new Uint8Array(65536);
  return Array.from({ length: count }, () => {
    const received = receiveFrom(fd, buffer, PATIENCE_MS);
    if (received === null) throw new Error('nothing came in time');
    return { bytes: buffer.slice(0, received.length), port: received.port };
  });
}

test('udp spreads flows over the senders, and a flow keeps to its own', () => {
  const underlay = makeUnderlay('127.0.0.1', 4);
  const marks = Array.from({ length: 60 }, (_, mark) => 2000 + (mark % 30));
  sendFromPod(underlay, marks.map((mark) => packet(POD, REMOTE_POD, mark)));
  const portOf = new Map<number, number>();
  for (const { bytes, port } of receiveAll(underlay.far, marks.length)) {
    const mark = read16(bytes, 8 + 14 + 20);
    assert.is(portOf.get(mark) ?? port, port, `flow ${mark}`);
    portOf.set(mark, port);
  }
  assert.is(portOf.size, 30);
  assert.equal(new Set(portOf.values()), new Set(underlay.senders.map(localPort)));
});

for (const [local, from, to] of [
  ['127.0.0.1', REMOTE_POD, POD], ['::1', 'fd00:10:244:1::9', 'fd00:10:244::5'],
] as const) {
  test(`udp over ${local} brings datagrams with their outer source`, () => {
    const { scene, slots, device, far, receiver } = makeUnderlay(local, 1);
    const isIpv6 = local === '::1';
    const frame = (mark: number): Uint8Array => vxlan({ vni: 1 }, ethernet({
      destination: isIpv6 ? '0e:00:00:00:06:10' : '0e:00:00:00:04:10',
      source: isIpv6 ? '0e:00:00:00:06:11' : '0e:00:00:00:04:11',
      type: isIpv6 ? ETHER_TYPE.ipv6 : ETHER_TYPE.ipv4,
    }, packet(from, to, mark)));
    for (const mark of [1, 2, 3]) sendTo(far, frame(mark), local, localPort(receiver));
    waitFor(receiver, 1, PATIENCE_MS);
    const first = slots.first + 5;
    assert.is(device.read(first, 2), 2, 'as many as asked for');
    assert.is(device.read(first + 2, 40), 1);
    assert.is(device.read(first + 3, 40), 0);
    scene.core.exports.processBatch(first, 3, 1_000_000);
    const pod = deviceIndex(scene, 'pod-a');
    for (const mark of [1, 2, 3]) {
      const slot = first + mark - 1;
      assert.ok(slots.isSent(slot), 'the peer was known by its outer source');
      assert.is(slots.output(slot), pod);
      assert.is(read16(bytesOf(slots, slot), isIpv6 ? 40 : 20), mark);
    }
    sendFromPod({ scene, slots, device, far, receiver, senders: [] }, [packet(to, from, 9)]);
    assert.is(receiveAll(far, 1)[0]?.bytes.length, 8 + 14 + packet(to, from, 9).length);
  });
}

test('udp steps over a datagram that the kernel refuses, and counts it', () => {
  const underlay = makeUnderlay('127.0.0.1', 1);
  // A socket bound to the loopback interface cannot reach the IPv4 underlay of `cross`.
  const refused = packet('fd00:10:244::5', 'fd00:10:244:2::9', 1);
  const good = [2, 3].map((mark) => packet(POD, REMOTE_POD, mark));
  sendFromPod(underlay, [good[0], refused, good[1]].map((bytes) => bytes ?? refused));
  const marks = receiveAll(underlay.far, 2).map(({ bytes }) => read16(bytes, 8 + 14 + 20));
  assert.equal(marks, [2, 3]);
  assert.equal(drops(underlay.slots, 'outbound'), { deviceError: 1 });
});

test('udp takes more packets than one batch of slots holds', () => {
  const underlay = makeUnderlay('127.0.0.1', 1);
  const { slots, device, far } = underlay;
  const twice = new FaultDevice(device, slots, { ...NO_FAULT, duplicate: 1 });
  const packets = Array.from({ length: slots.count }, (_, mark) => packet(POD, REMOTE_POD, mark));
  sendFromPod(underlay, packets, twice);
  const marks = receiveAll(far, 2 * slots.count).map(({ bytes }) => read16(bytes, 8 + 14 + 20));
  assert.equal(marks, packets.flatMap((_, mark) => [mark, mark]));
});

interface Tun { namespace: Namespace; links: Links; fd: number; device: TunDevice; slots: Slots }

/** A test with a device in a namespace of its own. */
function withTun(kind: 'tun' | 'tap', name: string, body: (tun: Tun) => Promise<void>): void {
  testNeeding('tun', test, name, async () => {
    const namespace = createNamespace();
    const links = namespace.run(() => new Links());
    const { fd } = namespace.run(() => openTun({ name: NAME, kind }));
    try {
      const slots = new Slots(makeHome().core, 0);
      const device = new TunDevice(slots, 3, NAME, fd);
      await links.setLink(NAME, { linkLocalIpv6: false });
      await links.setLink(NAME, { up: true });
      await links.addAddress(NAME, '10.244.0.1/24');
      await body({ namespace, links, fd, device, slots });
    } finally {
      closeFd(fd);
      links.close();
      namespace.close();
    }
  });
}

function socketIn(namespace: Namespace): number {
  const fd = namespace.run(() => openUdpSocket({
    family: 'IPv4', address: '10.244.0.1', port: 0, receiveBufferBytes: 65536,
    sendBufferBytes: 65536,
  }));
  opened.push(fd);
  return fd;
}

/** Packets of the device, read until there are `count` that `isWanted`. */
function readUntil(
  { device, slots, fd }: Tun, count: number, isWanted: (bytes: Uint8Array) => boolean,
): Uint8Array[] {
  const found: Uint8Array[] = [];
  while (found.length < count) {
    assert.ok(waitFor(fd, 1, PATIENCE_MS) > 0, `${found.length} of ${count} came`);
    const read = device.read(slots.first, slots.count);
    assert.ok(read >= 0, `read: ${read}`);
    for (let slot = slots.first; slot < slots.first + read; slot += 1) {
      const bytes = bytesOf(slots, slot);
      if (isWanted(bytes)) found.push(bytes);
    }
  }
  return found;
}

withTun('tun', 'tun gives packets and takes them', async (tun) => {
  const { namespace, slots, device } = tun;
  const socket = socketIn(namespace);
  const sizes = [1, 700, 1400];
  for (const size of sizes) sendTo(socket, new Uint8Array(size).fill(0x63), POD, 53);
  const isUdp = (bytes: Uint8Array): boolean => (bytes[0] ?? 0) >> 4 === 4 && bytes[9] === 17;
  const read = readUntil(tun, sizes.length, isUdp);
  assert.equal(read.map(({ length }) => length - 28), sizes);
  assert.is(device.read(slots.first, slots.count), 0, 'nothing left is no error');

  const fields = { source: POD, destination: '10.244.0.1' };
  const ports = { sourcePort: 53, destinationPort: localPort(socket) };
  [5, 6].forEach((mark, at) => {
    const datagram = udp({ ...fields, ...ports }, Uint8Array.of(mark));
    fill(slots, slots.first + at, ipv4({ ...fields, protocol: PROTOCOL.udp }, datagram));
  });
  stage(slots, [slots.first, slots.first + 1]);
  device.write(0);
  device.write(1);
  assert.is(device.flush(), 0);
  assert.equal(receiveAll(socket, 2).map(({ bytes }) => [...bytes]), [[5], [6]]);
});

withTun('tap', 'a tap gives and takes frames', async (tun) => {
  const { namespace, slots, device } = tun;
  const socket = socketIn(namespace);
  sendTo(socket, Uint8Array.of(1), POD, 53);
  const isArp = (frame: Uint8Array): boolean => read16(frame, 12) === ETHER_TYPE.arp;
  const [request = new Uint8Array()] = readUntil(tun, 1, isArp);
  const mac = [2, 0, 0, 0, 0, 9];
  const reply = concat(request.subarray(6, 12), mac, request.subarray(12, 20), [0, 2], mac,
    request.subarray(38, 42), request.subarray(22, 32));
  fill(slots, slots.first, reply);
  stage(slots, [slots.first]);
  device.write(0);
  const [frame = new Uint8Array()] =
    readUntil(tun, 1, (bytes) => read16(bytes, 12) === ETHER_TYPE.ipv4);
  assert.is(toHex(frame.subarray(0, 6)), '02 00 00 00 00 09');
  assert.is(frame.length, 14 + 28 + 1);
});

withTun('tun', 'an interface that is down is an error of the packet, not of the device',
  async ({ links, device, slots }) => {
    await links.setLink(NAME, { up: false });
    fill(slots, slots.first, packet(POD, '10.244.0.1', 1));
    stage(slots, [slots.first]);
    device.write(0);
    assert.is(device.flush(), 0);
    assert.equal(drops(slots, 'inbound'), { deviceError: 1 });
    assert.ok(device.read(slots.first, 1) >= 0);
  });

withTun('tun', 'a deleted interface is told by poll, by read and by flush',
  async ({ links, device, slots, fd }) => {
    await links.removeLink(NAME);
    assert.ok((waitFor(fd, 1, PATIENCE_MS) & POLLERR) !== 0);
    assert.is(device.read(slots.first, 1), -ERRNO.EBADFD);
    fill(slots, slots.first, packet(POD, '10.244.0.1', 1));
    stage(slots, [slots.first]);
    device.write(0);
    assert.is(device.flush(), -ERRNO.EBADFD);
    assert.equal(drops(slots, 'inbound'), { deviceError: 1 });
  });

test.run();
