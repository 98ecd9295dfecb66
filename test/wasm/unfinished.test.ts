// Inner checksums that a peer's kernel left unfinished: taken where the configuration says so, and
// only then.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as layout from '../../wasm/abi/layout.ts';
import { readEvents } from '../../engine/counters.ts';
import { unfinished } from '../reference/offload.ts';
import { EDGE, EDGE6, fromEdge, makeJoining, receive, type Delivery } from '../support/arrivals.ts';
import { PROTOCOL, ipv4, ipv6, tcp, toHex, udp } from '../support/packets.ts';
import type { Scene } from '../support/scene.ts';
import { PLAIN, VNET_FLAG } from '../support/vnet.ts';

const ENDS = { source: '10.244.1.7', destination: '10.244.0.5' };
const ENDS6 = { source: 'fd00:10:244:1::7', destination: 'fd00:10:244::5' };
const PORTS = { sourcePort: 40000, destinationPort: 5201 };
const SIZE = 100;

function makeScene(takes: boolean, coalesce = 0): Scene {
  const scene = makeJoining(coalesce);
  scene.core.setDirectory(layout.DIRECTORY_TAKE_UNFINISHED, takes ? 1 : 0);
  return scene;
}

function segment(index: number, isIpv6 = false): Uint8Array {
  const payload = new Uint8Array(SIZE).fill(index);
  const ends = isIpv6 ? ENDS6 : ENDS;
  const upper = tcp({ ...ends, ...PORTS, sequence: 1000 + (index * SIZE) }, payload);
  return isIpv6
    ? ipv6({ ...ends, nextHeader: PROTOCOL.tcp }, upper)
    : ipv4({ ...ends, protocol: PROTOCOL.tcp, identification: index, dontFragment: true }, upper);
}

function datagram(): Uint8Array {
  return ipv4({ ...ENDS, protocol: PROTOCOL.udp },
    udp({ ...ENDS, ...PORTS }, new Uint8Array(SIZE).fill(7)));
}

function arrive(scene: Scene, ...packets: Uint8Array[]): Delivery[] {
  const source = (packets[0]?.[0] ?? 0) >> 4 === 4 ? EDGE : EDGE6;
  return receive(scene, [{ datagrams: packets.map((packet) => fromEdge(packet)), source }]);
}

function taken(scene: Scene): number {
  return readEvents(scene.core).unfinished ?? NaN;
}

const KINDS: [string, Uint8Array, number, number][] = [
  ['TCP', segment(0), 20, 16],
  ['UDP', datagram(), 20, 6],
  ['TCP over IPv6', segment(0, true), 40, 16],
];

for (const [name, packet, start, offset] of KINDS) {
  test(`${name}: what is unfinished is handed on as such, and counted`, () => {
    const scene = makeScene(true);
    const [delivery] = arrive(scene, unfinished(packet));
    assert.is(delivery?.header.flags, VNET_FLAG.needsChecksum);
    assert.equal([delivery?.header.checksumStart, delivery?.header.checksumOffset],
      [start, offset]);
    assert.is(taken(scene), 1);
  });

  test(`${name}: a checksum that is finished stays`, () => {
    const scene = makeScene(true);
    assert.equal(arrive(scene, packet)[0]?.header, PLAIN);
    assert.is(taken(scene), 0);
  });

  test(`${name}: without being told to, the packet goes as it came`, () => {
    const scene = makeScene(false);
    assert.equal(arrive(scene, unfinished(packet))[0]?.header, PLAIN);
    assert.is(taken(scene), 0);
  });
}

test('a later packet of a train is not taken for what the one before it was', () => {
  const scene = makeScene(true);
  const deliveries = arrive(scene, unfinished(segment(0)), segment(1));
  assert.equal(deliveries.map(({ header }) => header.flags), [VNET_FLAG.needsChecksum, 0]);
});

test('unfinished segments are joined, with each other and with finished ones', () => {
  for (const second of [unfinished(segment(1)), segment(1)]) {
    const deliveries = arrive(makeScene(true, layout.COALESCE_TCP), unfinished(segment(0)), second);
    assert.is(deliveries.length, 1);
    assert.is(deliveries[0]?.packets, 2);
    const body = toHex(deliveries[0]?.packet.subarray(40) ?? new Uint8Array());
    assert.is(body, toHex(Uint8Array.from({ length: 2 * SIZE }, (_, at) => (at < SIZE ? 0 : 1))));
  }
});

test('and are left alone where they are not taken', () => {
  const deliveries = arrive(makeScene(false, layout.COALESCE_TCP),
    unfinished(segment(0)), unfinished(segment(1)));
  assert.is(deliveries.length, 2);
});

test.run();
