// Tiers: which is chosen and why, and what TUN devices of a tier give and take. Those are in a
// namespace of their own:
//
//   [ namespace: cvt<pid> 10.244.0.1/24 ]--descriptor--[ TunDevice, in the place of a pod ]

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  VNET_CHECKSUM_OFFSET, VNET_CHECKSUM_START, VNET_FLAGS, VNET_GSO_SIZE, VNET_GSO_TYPE,
  VNET_GSO_UDP_L4, VNET_HEADER_SIZE, VNET_NEEDS_CHECKSUM,
} from '../../wasm/abi/headers.ts';
import { COALESCE_TCP, COALESCE_UDP } from '../../wasm/abi/layout.ts';
import { AF_INET, SOCKADDR_SIZE_MAX, writeSocketAddress } from '../../ffi/address.ts';
import { closeFd } from '../../ffi/file.ts';
import { NativeBlock } from '../../ffi/memory.ts';
import { MessageVector } from '../../ffi/message-vector.ts';
import { Links } from '../../ffi/netlink.ts';
import { createNamespace, type Namespace } from '../../ffi/netns.ts';
import { POLLIN, waitFor } from '../../ffi/poll.ts';
import { receiveFrom } from '../../ffi/raw-socket.ts';
import { openUdpSocket } from '../../ffi/socket.ts';
import {
  TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_USO4, TUN_F_USO6,
} from '../../ffi/tun.ts';
import { TunDevice } from '../../host/device/tun.ts';
import { Slots } from '../../host/slots.ts';
import {
  chooseTier, missingFor, openOffloaded, probeKernel, TierError, type KernelOffers, type TierName,
} from '../../host/tier.ts';
import { makeHome } from '../support/home.ts';
import { needs, printSkip, testNeeding } from '../support/needs.ts';
import { concat, ipv4, PROTOCOL, read16, transportChecksum, word16 } from '../support/packets.ts';
import { clearStage, stageTrain } from '../support/stage.ts';
import { PATIENCE_MS } from '../support/until.ts';

const test = suite('host/tier');
const NAME = `cvt${process.pid}`;
const NODE = '10.244.0.1';
const POD = '10.244.0.5';
const PORT = 4000;
const SEGMENT = 1000;
const SEGMENTS = 20;
const EVERYTHING: KernelOffers = {
  tun: {
    vnetHeader: true, checksum: true, tso4: true, tso6: true, uso4: true, uso6: true,
    udpTunnelGso: true,
  },
  segmentLimit: 127,
  joins: true,
};
const TSO = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
const USO = TUN_F_USO4 | TUN_F_USO6;

/** A kernel that lacks some offloads of its TUN. */
function without(...names: (keyof KernelOffers['tun'])[]): KernelOffers {
  const tun = { ...EVERYTHING.tun };
  for (const name of names) tun[name] = false;
  return { ...EVERYTHING, tun };
}

test('auto takes the best that needs nothing set up, and says what a better one lacks', () => {
  const cases: [offers: KernelOffers, name: TierName, limits: RegExp[]][] = [
    [EVERYTHING, 'T2', []],
    [without('udpTunnelGso'), 'T2', [/^not T3: .*TUN_F_UDP_TUNNEL_GSO/]],
    [without('udpTunnelGso', 'uso4', 'uso6'), 'T1', [/^not T2: .*TUN_F_USO4/]],
    [without('tso6'), 'T0', [/^not T1: .*TUN_F_TSO6/]],
    [without('vnetHeader', 'tso4', 'tso6'), 'T0', [/IFF_VNET_HDR/, /TSO/]],
  ];
  for (const [offers, name, limits] of cases) {
    const tier = chooseTier('auto', offers);
    assert.is(tier.name, name);
    assert.is(tier.limits.length, limits.length, tier.limits.join());
    limits.forEach((limit, at) => assert.match(tier.limits[at] ?? '', limit));
  }
});

test('each tier has what it is for, and what the kernel lacks of it is left out', () => {
  const { limits: none, ...t0 } = chooseTier('T0', EVERYTHING);
  assert.equal(t0,
    { name: 'T0', vnetSize: 0, offloads: 0, segmentLimit: 1, joins: false, coalesce: 0 });
  assert.equal(none, []);
  const t1 = chooseTier('T1', EVERYTHING);
  assert.equal([t1.vnetSize, t1.offloads, t1.segmentLimit, t1.joins, t1.coalesce],
    [VNET_HEADER_SIZE, TSO, 127, true, COALESCE_TCP]);
  const t3 = chooseTier('T3', EVERYTHING);
  assert.equal([t3.offloads, t3.coalesce], [TSO | USO, COALESCE_TCP | COALESCE_UDP]);
  const bare = chooseTier('auto', { ...EVERYTHING, segmentLimit: 1, joins: false });
  assert.equal([bare.name, bare.segmentLimit, bare.joins, bare.coalesce],
    ['T2', 1, false, COALESCE_TCP | COALESCE_UDP]);
  assert.match(bare.limits.join(), /UDP_SEGMENT.*UDP_GRO/);
});

test('a tier that the kernel cannot do is an error that names what it lacks', () => {
  assert.throws(() => chooseTier('T2', without('uso4', 'uso6')), (error: unknown) =>
    error instanceof TierError
    && /^data plane tier T2: the kernel lacks USO of TUN devices/.test(error.message));
  assert.throws(() => chooseTier('T3', without('udpTunnelGso', 'tso4')),
    /T3: the kernel lacks TSO .*, tunnel GSO/);
  assert.is(chooseTier('T1', without('uso4', 'uso6', 'udpTunnelGso')).name, 'T1');
});

interface Tun { namespace: Namespace; links: Links; fd: number; device: TunDevice; slots: Slots }

/** A test with a device of tier T2 in a namespace of its own. */
function withTun(name: string, body: (tun: Tun) => Promise<void> | void): void {
  const missing = needs.tun ? missingFor('T2', probeKernel()) : [];
  if (missing.length > 0) {
    test.skip(name);
    printSkip(name, `the kernel lacks ${missing.join(', ')}`);
    return;
  }
  testNeeding('tun', test, name, async () => {
    const namespace = createNamespace();
    const links = namespace.run(() => new Links());
    const tier = chooseTier('T2', probeKernel());
    const { fds: [fd = -1] } = namespace.run(() =>
      openOffloaded({ name: NAME, kind: 'tun' }, tier, 1));
    try {
      const slots = new Slots(makeHome().core, 0);
      const device = new TunDevice(slots, 3, NAME, fd, tier.vnetSize);
      await links.setLink(NAME, { linkLocalIpv6: false });
      await links.setLink(NAME, { up: true });
      await links.addAddress(NAME, `${NODE}/24`);
      await body({ namespace, links, fd, device, slots });
    } finally {
      closeFd(fd);
      links.close();
      namespace.close();
    }
  });
}

function socketIn({ namespace }: Tun): number {
  return namespace.run(() => openUdpSocket({
    family: 'IPv4', address: NODE, port: PORT, receiveBufferBytes: 1 << 18,
    sendBufferBytes: 1 << 18,
  }));
}

/** Sends one message that stands for SEGMENTS datagrams, the last one shorter. */
function sendTrain(fd: number): void {
  const block = new NativeBlock(SOCKADDR_SIZE_MAX + (SEGMENT * SEGMENTS));
  const message = new MessageVector(1);
  const nameSize = writeSocketAddress(block.bytes, POD, 53);
  block.bytes.fill(7, SOCKADDR_SIZE_MAX);
  message.set(0, block.address + SOCKADDR_SIZE_MAX, (SEGMENT * SEGMENTS) - 1, block.address,
    nameSize);
  message.setControl(0, AF_INET, SEGMENT, 0);
  assert.is(message.send(fd, 0, 1), 1);
}

withTun('a tun with offloads gives a super-packet whole, behind its vnet header', (tun) => {
  const { device, slots, fd } = tun;
  const socket = socketIn(tun);
  sendTrain(socket);
  assert.ok(waitFor(fd, POLLIN, PATIENCE_MS) > 0);
  assert.is(device.read(slots.first, 4), 1);
  const { core } = slots;
  const start = slots.start(slots.first);
  assert.is(start, core.packetAddress(slots.first), 'the packet begins where all do');
  assert.is(slots.length(slots.first), 28 + (SEGMENT * SEGMENTS) - 1);
  assert.is(read16(core.bytes, start + 2), slots.length(slots.first));
  const vnet = start - VNET_HEADER_SIZE;
  assert.is(core.bytes[vnet + VNET_GSO_TYPE], VNET_GSO_UDP_L4);
  assert.is((core.bytes[vnet + VNET_FLAGS] ?? 0) & VNET_NEEDS_CHECKSUM, VNET_NEEDS_CHECKSUM);
  assert.is(core.view.getUint16(vnet + VNET_GSO_SIZE, true), SEGMENT);
  assert.is(core.view.getUint16(vnet + VNET_CHECKSUM_START, true), 20);
  closeFd(socket);
});

withTun('a batch ends when it holds the bytes that were asked for', (tun) => {
  const { device, slots, fd } = tun;
  const socket = socketIn(tun);
  for (let train = 0; train < 4; train += 1) sendTrain(socket);
  assert.ok(waitFor(fd, POLLIN, PATIENCE_MS) > 0);
  assert.is(device.read(slots.first, 16, SEGMENT * (SEGMENTS + 1)), 2);
  assert.is(device.read(slots.first, 16, 1), 1);
  assert.is(device.read(slots.first, 16), 1);
  closeFd(socket);
});

withTun('a tun with offloads takes a super-packet in pieces', (tun) => {
  const { device, slots } = tun;
  const socket = socketIn(tun);
  const payload = SEGMENT * SEGMENTS;
  const addresses = { source: POD, destination: NODE };
  const pseudo = 0xffff - transportChecksum(POD, NODE, PROTOCOL.udp, new Uint8Array(8 + payload));
  const whole = ipv4({ ...addresses, protocol: PROTOCOL.udp }, concat(
    word16(53), word16(PORT), word16(8 + payload), word16(pseudo), new Uint8Array(payload)));
  const vnet = new DataView(new ArrayBuffer(VNET_HEADER_SIZE));
  vnet.setUint8(VNET_FLAGS, VNET_NEEDS_CHECKSUM);
  vnet.setUint8(VNET_GSO_TYPE, VNET_GSO_UDP_L4);
  vnet.setUint16(VNET_GSO_SIZE, SEGMENT, true);
  vnet.setUint16(VNET_CHECKSUM_START, 20, true);
  vnet.setUint16(VNET_CHECKSUM_OFFSET, 6, true);
  const pieces = [concat(new Uint8Array(vnet.buffer), whole.subarray(0, 28)),
    whole.subarray(28, 5000), whole.subarray(5000)];
  pieces.forEach((bytes, at) => {
    slots.core.bytes.set(bytes, slots.room(slots.first + at) - slots.base);
    slots.fill(slots.first + at, 0, bytes.length);
  });
  clearStage(slots);
  device.write(stageTrain(slots, [pieces.map((_, at) => slots.first + at)]));
  assert.is(device.flush(), 0);
  const buffer = new Uint8Array(4096);
  for (let segment = 0; segment < SEGMENTS; segment += 1) {
    assert.is(receiveFrom(socket, buffer, PATIENCE_MS)?.length, SEGMENT);
  }
  closeFd(socket);
});

withTun('a device that was kept is opened again with the offloads of another tier', async (tun) => {
  const { namespace, links } = tun;
  const name = `${NAME}k`;
  const open = (tier: TierName): number => namespace.run(() => openOffloaded(
    { name, kind: 'tun', persist: true }, chooseTier(tier, probeKernel()), 1).fds[0] ?? -1);
  closeFd(open('T0'));
  for (const [tier, isWhole] of [['T2', true], ['T0', false], ['T2', true]] as const) {
    const fd = open(tier);
    await links.setLink(name, { up: true });
    await links.addAddress(name, '10.245.0.1/24').catch(() => {});
    const slots = new Slots(makeHome().core, 0);
    const device = new TunDevice(slots, 3, name, fd, isWhole ? VNET_HEADER_SIZE : 0);
    const socket = namespace.run(() => openUdpSocket({
      family: 'IPv4', address: '10.245.0.1', port: 0, receiveBufferBytes: 1 << 18,
      sendBufferBytes: 1 << 18,
    }));
    const block = new NativeBlock(SOCKADDR_SIZE_MAX + 3000);
    const message = new MessageVector(1);
    const size = writeSocketAddress(block.bytes, '10.245.0.9', 53);
    message.set(0, block.address + SOCKADDR_SIZE_MAX, 3000, block.address, size);
    message.setControl(0, AF_INET, SEGMENT, 0);
    assert.is(message.send(socket, 0, 1), 1);
    const lengths: number[] = [];
    while (lengths.length < (isWhole ? 1 : 3)) {
      assert.ok(waitFor(fd, POLLIN, PATIENCE_MS) > 0);
      const count = device.read(slots.first, 8);
      for (let slot = slots.first; slot < slots.first + count; slot += 1) {
        const isIpv4 = ((slots.core.bytes[slots.start(slot)] ?? 0) >>> 4) === 4;
        if (isIpv4) lengths.push(slots.length(slot));
      }
    }
    assert.equal(lengths, isWhole ? [3028] : [1028, 1028, 1028], tier);
    closeFd(socket);
    closeFd(fd);
  }
  await links.removeLink(name);
});

test.run();
