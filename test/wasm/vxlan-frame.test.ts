// Super-packets that leave whole: each byte of the frame that the kernel is to cut, and what goes
// by the sockets all the same.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { readDrops, readEvents, readTraffic } from '../../engine/counters.ts';
import * as layout from '../../wasm/abi/layout.ts';
import { gsoTypeOf, segment, takeApart, unfinished } from '../reference/offload.ts';
import { deviceIndex, makeHome } from '../support/home.ts';
import { innerOf, placeBehind, runBatches, runOne, setPointers, setVnetSize, withHopSpent,
  type Send } from '../support/offload.ts';
import { ETHER_TYPE, PROTOCOL, concat, ethernet, ipv4, ipv6, tcp, toHex, transportChecksum, udp,
  vxlan, word16 } from '../support/packets.ts';
import type { Scene } from '../support/scene.ts';
import { GSO, VNET_FLAG, vnet } from '../support/vnet.ts';

const TAP_MAC = '0a:aa:bb:cc:dd:01';
const GATEWAY_MAC = '02:63:75:6c:76:74';
const SENDERS = { IPv4: [40001, 40002, 40003], IPv6: [50001, 50002, 50003] };
const OWN = { IPv4: '192.0.2.10', IPv6: '2001:db8::10' };
const VNET_SIZE = 24;
const SEGMENT = 1000;
const FAMILIES = ['IPv4', 'IPv6'] as const;
/** Two nodes: `edge` is reached over each family by itself, `cross` over the other. */
const PATHS = [
  { carrier: 'IPv4', outer: '192.0.2.11', source: '10.244.0.5', destination: '10.244.1.7',
    mac: '0e:00:00:00:04:11', ownMac: '0e:00:00:00:04:10' },
  { carrier: 'IPv6', outer: '2001:db8::11', source: 'fd00:10:244::5',
    destination: 'fd00:10:244:1::7', mac: '0e:00:00:00:06:11', ownMac: '0e:00:00:00:06:10' },
  { carrier: 'IPv6', outer: '2001:db8::12', source: '10.244.0.5', destination: '10.244.2.7',
    mac: '0e:00:00:00:04:12', ownMac: '0e:00:00:00:04:10' },
  { carrier: 'IPv4', outer: '192.0.2.12', source: 'fd00:10:244::5',
    destination: 'fd00:10:244:2::7', mac: '0e:00:00:00:06:12', ownMac: '0e:00:00:00:06:10' },
] as const;
type Path = (typeof PATHS)[number];
const TO_EDGE = PATHS[0];

interface Stage {
  scene: Scene;
  pod: number;
}

/** A home whose super-packets may leave whole, over both families. */
function makeStage(senders = SENDERS): Stage {
  const scene = makeHome();
  const { devices } = scene.forwarding;
  for (const family of FAMILIES) {
    devices.setSenders(family, OWN[family], senders[family]);
    devices.setTunnelTap(family, TAP_MAC);
  }
  const pod = deviceIndex(scene, 'pod-a');
  setVnetSize(scene.core, pod);
  setPointers(scene.core, 64);
  return { scene, pod };
}

interface Chosen { tos?: number; sourcePort?: number; dontFragment?: boolean }

function build(path: Path, protocol: number, size: number, chosen: Chosen = {}): Uint8Array {
  const { source, destination } = path;
  const ports = { source, destination, sourcePort: chosen.sourcePort ?? 4000,
    destinationPort: 5201 };
  const payload = Uint8Array.from({ length: size }, (_, index) => index * 11);
  const upper = protocol === PROTOCOL.tcp ? tcp(ports, payload) : udp(ports, payload);
  return unfinished(source.includes(':')
    ? ipv6({ source, destination, nextHeader: protocol, trafficClass: chosen.tos ?? 0 }, upper)
    : ipv4({ dontFragment: true, ...chosen, source, destination, protocol }, upper));
}

function headerOf(packet: Uint8Array, gsoSize = SEGMENT): Uint8Array {
  const gsoType = gsoTypeOf(packet);
  return vnet({ flags: VNET_FLAG.needsChecksum, gsoType, gsoSize,
    checksumStart: takeApart(packet).ip.length, checksumOffset: gsoType === GSO.udp ? 6 : 16 });
}

/** What the kernel is to get of a packet whose hop is spent. */
function frameOf(path: Path, packet: Uint8Array, flowHash: number, tos = 0): Uint8Array {
  const { carrier, outer, mac, ownMac } = path;
  const isIpv4 = carrier === 'IPv4';
  const type = packet[0] === 0x45 ? ETHER_TYPE.ipv4 : ETHER_TYPE.ipv6;
  const tunnel = vxlan({ vni: 1 }, ethernet({ destination: mac, source: ownMac, type }, packet));
  const port = SENDERS[carrier][flowHash % SENDERS[carrier].length] ?? 0;
  const length = 8 + tunnel.length;
  const [source, destination] = [OWN[carrier], outer];
  // Of the pseudo-header, all of it zeroes but for what the kernel goes on from.
  const sum = 0xffff - transportChecksum(source, destination, PROTOCOL.udp, new Uint8Array(length));
  const datagram = concat(word16(port), word16(8472), word16(length), word16(sum), tunnel);
  const identification = ((flowHash & 0xff) << 8) | ((flowHash >>> 8) & 0xff);
  const whole = isIpv4
    ? ipv4({ source, destination, protocol: PROTOCOL.udp, ttl: 65, tos, identification }, datagram)
    : ipv6({ source, destination, nextHeader: PROTOCOL.udp, hopLimit: 65, trafficClass: tos },
      datagram);
  const { ip, transport } = takeApart(packet);
  const network = 14 + (isIpv4 ? 20 : 40);
  const inner = network + 8 + 8 + 14;
  const gsoType = gsoTypeOf(packet) | (isIpv4 ? GSO.tunnelIpv4 : GSO.tunnelIpv6);
  const header = vnet({
    flags: VNET_FLAG.needsChecksum | VNET_FLAG.tunnelChecksum, gsoType,
    headerLength: inner + ip.length + transport.length, gsoSize: SEGMENT,
    checksumStart: inner + ip.length, checksumOffset: gsoTypeOf(packet) === GSO.udp ? 6 : 16,
  }, VNET_SIZE);
  header.set([network, 0, inner, 0], 20);
  return concat(header, ethernet({
    destination: TAP_MAC, source: GATEWAY_MAC,
    type: isIpv4 ? ETHER_TYPE.ipv4 : ETHER_TYPE.ipv6,
  }, whole));
}

function isFrame({ flags }: Send): boolean {
  return (flags & layout.SEND_FLAG_FRAME) !== 0;
}

test('a super-packet leaves as one frame, over each family', () => {
  for (const path of PATHS) {
    for (const protocol of [PROTOCOL.tcp, PROTOCOL.udp]) {
      for (const tos of [0, 0xb9, 2, 3]) {
        const { scene: { core }, pod } = makeStage();
        const packet = build(path, protocol, 30_500, { tos });
        const [send, ...more] = runOne(core, headerOf(packet), packet, pod);
        assert.is(more.length, 0);
        assert.equal([send?.flags, send?.pieces, send?.packets], [layout.SEND_FLAG_FRAME, 1, 31]);
        const index = path.carrier === 'IPv4' ? 1 : 2;
        assert.equal([send?.device, send?.tos], [index, tos & 3]);
        const expected = frameOf(path, withHopSpent(packet), send?.flowHash ?? 0, tos & 3);
        assert.is(toHex(send?.bytes ?? []), toHex(expected), `${path.destination} ${protocol}`);
        assert.is(readEvents(core).segmented, 0, 'the kernel cuts it');
      }
    }
  }
});

test('flows spread over the ports of the sockets, and keep to one', () => {
  const { scene: { core }, pod } = makeStage();
  const used = new Set<number>();
  for (let sourcePort = 1000; sourcePort < 1040; sourcePort += 1) {
    const whole = build(TO_EDGE, PROTOCOL.tcp, 5000, { sourcePort });
    const small = build(TO_EDGE, PROTOCOL.tcp, 500, { sourcePort });
    placeBehind(core, 0, headerOf(whole), whole, pod);
    placeBehind(core, 1, headerOf(small), small, pod);
    const [frame, plain, ...more] = runBatches(core, 2).flat();
    assert.equal([more.length, frame?.flags, plain?.flags], [0, layout.SEND_FLAG_FRAME, 0]);
    assert.is(frame?.flowHash, plain?.flowHash);
    used.add(((frame?.bytes[24 + 34] ?? 0) << 8) | (frame?.bytes[24 + 35] ?? 0));
  }
  assert.equal([...used].sort(), SENDERS.IPv4);
});

test('counters count its packets', () => {
  const { scene: { core, forwarding, endpoints }, pod } = makeStage();
  const packet = build(TO_EDGE, PROTOCOL.tcp, 30_000);
  runOne(core, headerOf(packet), packet, pod);
  const from = readTraffic(core, endpoints.get('pod-a')?.nextHop ?? 0);
  const to = readTraffic(core, forwarding.peers.get('edge/IPv4')?.nextHop ?? 0);
  assert.equal([from.rxPackets, from.rxBytes], [30, packet.length]);
  assert.equal([to.txPackets, to.txBytes], [30, packet.length]);
});

/** Runs a super-packet that must be cut here. */
function expectCut({ scene: { core }, pod }: Stage, packet: Uint8Array, size = SEGMENT): void {
  const before = readEvents(core).segmented ?? 0;
  const sends = runOne(core, headerOf(packet, size), packet, pod);
  const expected = segment(withHopSpent(packet),
    { gsoType: gsoTypeOf(packet), segmentSize: size });
  const found = sends.flatMap(({ datagrams }) => datagrams.map((datagram) =>
    toHex(innerOf(datagram))));
  assert.equal(found, expected.map(toHex));
  assert.not.ok(sends.some(isFrame));
  assert.is((readEvents(core).segmented ?? 0) - before, 1);
}

test('a frame that would not fit IP is cut here', () => {
  for (const path of PATHS) {
    const stage = makeStage();
    const headers = takeApart(build(path, PROTOCOL.tcp, 1));
    const room = 65_535 - (path.carrier === 'IPv4' ? 20 : 40) - 8 - 8 - 14
      - headers.ip.length - headers.transport.length;
    const fits = build(path, PROTOCOL.tcp, room);
    assert.ok(runOne(stage.scene.core, headerOf(fits), fits, stage.pod).every(isFrame));
    expectCut(stage, build(path, PROTOCOL.tcp, room + 1));
  }
});

test('what has to be fragmented outside is cut here', () => {
  const stage = makeStage();
  const packet = build(TO_EDGE, PROTOCOL.tcp, 5000, { dontFragment: false });
  expectCut(stage, packet, 1411);
  assert.ok(runOne(stage.scene.core, headerOf(packet, 1410), packet, stage.pod).every(isFrame));
});

test('without a TAP, an address or a port it is cut here', () => {
  const packet = build(TO_EDGE, PROTOCOL.tcp, 5000);
  const withoutTap = makeStage();
  setVnetSize(withoutTap.scene.core, layout.DEVICE_UNDERLAY_IPV4, 0);
  expectCut(withoutTap, packet);
  const withoutAddress = makeStage();
  withoutAddress.scene.core.setDirectory(layout.DIRECTORY_UNDERLAY_IPV4, 0);
  expectCut(withoutAddress, packet);
  expectCut(makeStage({ IPv4: [], IPv6: [] }), packet);
});

test('single packets go by the sockets, and no datagram joins a frame', () => {
  const { scene: { core }, pod } = makeStage();
  const whole = build(TO_EDGE, PROTOCOL.udp, 5000);
  const small = build(TO_EDGE, PROTOCOL.udp, 900);
  const slots = [small, small, whole, small, small];
  for (const [slot, packet] of slots.entries()) {
    placeBehind(core, slot, headerOf(packet), packet, pod);
  }
  const sends = runBatches(core, slots.length).flat();
  assert.equal(sends.map((send) => [isFrame(send), send.packets]),
    [[false, 2], [true, 5], [false, 2]]);
});

test('a frame is refused for what any packet is refused for', () => {
  const { scene: { core }, pod } = makeStage();
  const packet = build(TO_EDGE, PROTOCOL.tcp, 5000);
  const [error] = runOne(core, headerOf(packet, 1411), packet, pod);
  assert.is(error?.device, pod, 'told that it is too big');
  assert.is(readDrops(core, 'outbound').tooBig, 4);
});

test.run();
