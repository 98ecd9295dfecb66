// The MSS of SYN segments that go into a tunnel or come from one, against the slow twin.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { readEvents } from '../../engine/counters.ts';
import { VNET_HEADER_SIZE } from '../../wasm/abi/headers.ts';
import * as layout from '../../wasm/abi/layout.ts';
import { clampMss } from '../reference/mss.ts';
import { findTransport } from '../reference/transport.ts';
import { EDGE, EDGE6, fromEdge, makeJoining } from '../support/arrivals.ts';
import { placePacket, processOne, readVerdict } from '../support/core.ts';
import { deviceIndex, makeHome } from '../support/home.ts';
import {
  PROTOCOL, concat, fragmentHeader, ipv4, ipv6, optionsHeader, read16, tcp, toHex, word16,
} from '../support/packets.ts';
import { Random } from '../support/random.ts';
import type { Scene } from '../support/scene.ts';
import { unfinished } from '../reference/offload.ts';

const ROUNDS = 5000;
const SYN = 0x02;
/** What VXLAN leaves of a link of 1,500 bytes. */
const TUNNEL_MTU = { 4: 1450, 6: 1430 };
const TUNNEL_SIZE = 22;
const POD = { 4: '10.244.0.5', 6: 'fd00:10:244::5' };
const REMOTE = { 4: '10.244.1.7', 6: 'fd00:10:244:1::7' };

interface Ends {
  source: string;
  destination: string;
}

const ENDS: Record<'out' | 'in', Record<4 | 6, Ends>> = {
  out: {
    4: { source: POD[4], destination: REMOTE[4] }, 6: { source: POD[6], destination: REMOTE[6] },
  },
  in: {
    4: { source: REMOTE[4], destination: POD[4] }, 6: { source: REMOTE[6], destination: POD[6] },
  },
};

function makeScene(isOn = true): Scene {
  const scene = makeHome();
  scene.core.setDirectory(layout.DIRECTORY_MSS_CLAMP, isOn ? 1 : 0);
  return scene;
}

function mssOption(mss: number): Uint8Array {
  return concat([2, 4], word16(mss));
}

function packetOf(version: 4 | 6, ends: Ends, upper: Uint8Array, extensions = false): Uint8Array {
  if (version === 4) return ipv4({ ...ends, protocol: PROTOCOL.tcp, dontFragment: true }, upper);
  if (!extensions) return ipv6({ ...ends, nextHeader: PROTOCOL.tcp }, upper);
  return ipv6({ ...ends, nextHeader: PROTOCOL.destinationOptions },
    concat(optionsHeader(PROTOCOL.tcp), upper));
}

function syn(version: 4 | 6, ends: Ends, options: Uint8Array, flags = SYN): Uint8Array {
  const ports = { sourcePort: 40000, destinationPort: 80 };
  return packetOf(version, ends, tcp({ ...ends, ...ports, flags, options }, new Uint8Array(0)));
}

/** What leaves of a packet of the pod, or of one from the peer, without its tunnel headers. */
function pass(scene: Scene, way: 'out' | 'in', packet: Uint8Array): Uint8Array {
  const isIpv4 = (packet[0] ?? 0) >> 4 === 4;
  if (way === 'out') {
    const found = processOne(scene.core, packet, deviceIndex(scene, 'pod-a'));
    assert.ok(found.sent, `dropped for ${found.reason}`);
    return found.bytes.slice(TUNNEL_SIZE);
  }
  const device = deviceIndex(scene, isIpv4 ? 'underlay-ipv4' : 'underlay-ipv6');
  const found = processOne(scene.core, fromEdge(packet), device, isIpv4 ? EDGE : EDGE6);
  assert.ok(found.sent, `dropped for ${found.reason}`);
  return found.bytes;
}

function segmentOf(packet: Uint8Array): Uint8Array {
  return packet.subarray(findTransport(packet).offset);
}

function clamped(scene: Scene): number {
  return readEvents(scene.core).mssClamped ?? NaN;
}

for (const way of ['out', 'in'] as const) {
  for (const version of [4, 6] as const) {
    const ends = ENDS[way][version];
    const most = TUNNEL_MTU[version] - (version === 4 ? 40 : 60);

    test(`${way}bound, IPv${version}: a SYN names what the tunnel takes, and no more`, () => {
      const scene = makeScene();
      for (const [mss, expected] of [[1460, most], [most + 1, most], [most, most], [536, 536]]) {
        const left = pass(scene, way, syn(version, ends, mssOption(mss as number)));
        assert.is(read16(segmentOf(left), 22), expected);
      }
      assert.is(clamped(scene), 2);
      const answer = pass(scene, way, syn(version, ends, mssOption(9000), SYN | 0x10));
      assert.is(read16(segmentOf(answer), 22), most);
    });

    test(`${way}bound, IPv${version}: unless it is asked for, all stays`, () => {
      const scene = makeScene(false);
      const packet = syn(version, ends, mssOption(1460));
      assert.is(toHex(segmentOf(pass(scene, way, packet))), toHex(segmentOf(packet)));
      assert.is(clamped(scene), 0);
    });

    test(`${way}bound, IPv${version}: segments as the slow twin has them`, () => {
      const scene = makeScene();
      const random = new Random(9293 + version);
      let expected = 0;
      for (let round = 0; round < ROUNDS; round += 1) {
        const packet = randomPacket(random, version, ends);
        const twin = clampMss(packet, TUNNEL_MTU[version]);
        if (twin !== null) expected += 1;
        const left = pass(scene, way, packet);
        assert.is(toHex(segmentOf(left)), toHex(segmentOf(twin ?? packet)), toHex(packet));
      }
      assert.is(clamped(scene), expected);
      assert.ok(expected > ROUNDS / 10 && expected < ROUNDS * 0.9, `${expected} clamped`);
    });
  }
}

/** A segment with options as they come, sound or not. */
function randomPacket(random: Random, version: 4 | 6, ends: Ends): Uint8Array {
  let options: Uint8Array = new Uint8Array(0);
  while (random.below(6) > 0) {
    const next = randomOption(random);
    if (options.length + next.length > 40) break;
    options = concat(options, next);
  }
  const flags = random.below(8) === 0 ? 0x10 : SYN | (random.below(2) * 0x10);
  const payload = new Uint8Array(random.below(40)).fill(random.below(256));
  const upper = tcp({
    ...ends, sourcePort: random.below(65536), destinationPort: random.below(65536),
    sequence: random.next(), flags, options,
  }, payload);
  return packetOf(version, ends, upper, random.below(4) === 0);
}

function randomOption(random: Random): Uint8Array {
  const value = random.below(2) === 0 ? random.below(65536) : random.between(1380, 1460);
  switch (random.below(8)) {
    case 0: return Uint8Array.of(1);
    case 1: return Uint8Array.of(0);
    case 2: return Uint8Array.of(4, 2);
    case 3: return Uint8Array.of(3, 3, random.below(15));
    case 4: return concat([8, 10], new Uint8Array(8).fill(random.below(256)));
    case 5: return Uint8Array.of(random.below(256), random.below(8));
    default: return mssOption(value);
  }
}

test('a checksum that was wrong stays wrong', () => {
  const packet = syn(4, ENDS.out[4], mssOption(1460));
  packet[37] = (packet[37] ?? 0) ^ 0x10;
  const twin = clampMss(syn(4, ENDS.out[4], mssOption(1460)), TUNNEL_MTU[4]);
  const left = segmentOf(pass(makeScene(), 'out', packet));
  assert.is.not(toHex(left), toHex(segmentOf(twin ?? packet)));
  assert.is(read16(left, 22), 1410);
});

test('fragments stay, whole or in part', () => {
  const scene = makeScene();
  const ends = ENDS.out[4];
  const whole = tcp({ ...ends, sourcePort: 1, destinationPort: 2, flags: SYN,
    options: mssOption(1460) }, new Uint8Array(8));
  const first = ipv4({ ...ends, protocol: PROTOCOL.tcp, moreFragments: true }, whole);
  assert.is(toHex(segmentOf(pass(scene, 'out', first))), toHex(whole));
  const six = ENDS.out[6];
  const first6 = ipv6({ ...six, nextHeader: PROTOCOL.fragment },
    concat(fragmentHeader(PROTOCOL.tcp, 0, true), whole));
  assert.is(toHex(pass(scene, 'out', first6).slice(-whole.length)), toHex(whole));
  assert.is(clamped(scene), 0);
});

test('a checksum that is left to us is finished over the new value', () => {
  const scene = makeJoining(0);
  scene.core.setDirectory(layout.DIRECTORY_MSS_CLAMP, 1);
  const packet = syn(4, ENDS.out[4], concat([1], mssOption(1460)));
  const header = new Uint8Array(VNET_HEADER_SIZE);
  header.set([1], 0);
  header.set([20, 0, 16, 0], 6);
  placePacket(scene.core, 0, concat(header, unfinished(packet)), deviceIndex(scene, 'pod-a'));
  const descriptor = scene.core.descriptorAddress(0);
  const start = scene.core.packetAddress(0) + VNET_HEADER_SIZE;
  scene.core.view.setUint32(descriptor + layout.DESCRIPTOR_START, start, true);
  scene.core.view.setUint32(descriptor + layout.DESCRIPTOR_LENGTH, packet.length, true);
  scene.core.exports.processBatch(0, 1, 1_000_000);
  const left = readVerdict(scene.core, 0).bytes.slice(TUNNEL_SIZE);
  const twin = clampMss(packet, TUNNEL_MTU[4]) ?? packet;
  assert.is(toHex(segmentOf(left)), toHex(segmentOf(twin)));
});

test.run();
