// Super-packets through the core and through their slow twins, test/reference/offload.ts and
// forward.ts: what pods hand over whole, and trains that come from peers, byte for byte and
// datagram by datagram, and in the end all counters.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as layout from '../../wasm/abi/layout.ts';
import { REASON_COUNT } from '../../wasm/abi/verdict.ts';
import { readDrops, readEvents, readTraffic, REASON_NAMES } from '../../engine/counters.ts';
import { addressFamily } from '../../engine/address.ts';
import { GATEWAY_MAC } from '../../engine/tables/device.ts';
import { placePacket, type Remote } from '../support/core.ts';
import { frame } from '../support/frames.ts';
import { makeHome } from '../support/home.ts';
import { OffloadTwin, type Leaving, type Slot } from '../support/offload-twin.ts';
import { concat, toHex } from '../support/packets.ts';
import { Random } from '../support/random.ts';
import type { Scene } from '../support/scene.ts';
import { datagramsOf, readSends, type Send } from '../support/sends.ts';
import { Peers, Pods, type Given } from '../support/super-traffic.ts';
import { GSO, parseVnet } from '../support/vnet.ts';

const SEED = 9000;
const BATCHES = 120;
const TRAIN_BATCHES = 400;
const BATCH = 16;
const VNET_SIZE = 10;
const TUNNEL_SIZE = 22;
/** Where tunnels start from, and the TAP that whole frames go to. */
const SENDER = {
  IPv4: { address: '192.0.2.10', ports: [40_000, 40_001, 40_002], tap: '0e:00:00:00:0a:04' },
  IPv6: { address: '2001:db8::10', ports: [40_003, 40_004, 40_005], tap: '0e:00:00:00:0a:06' },
};
const MIXED_BATCHES = 60;
const NOW_MS = 1_000_000;
const FRAMES = 'T3';
const MIXED = 'T2, a pod without vnet headers';

/** How the kernel may be: tiers, and what they lack. At the last, one pod's device takes no vnet
 * headers: what is whole must be cut for it. */
const KERNELS = [
  { name: 'no vnet headers', vnetSize: 0, segmentLimit: 1, coalesce: 0 },
  { name: 'T1', vnetSize: VNET_SIZE, segmentLimit: 64, coalesce: layout.COALESCE_TCP },
  { name: 'T2', vnetSize: VNET_SIZE, segmentLimit: 127,
    coalesce: layout.COALESCE_TCP | layout.COALESCE_UDP },
  { name: 'T2, nothing cut on the way out', vnetSize: VNET_SIZE, segmentLimit: 1,
    coalesce: layout.COALESCE_TCP | layout.COALESCE_UDP },
  { name: FRAMES, vnetSize: VNET_SIZE, segmentLimit: 64,
    coalesce: layout.COALESCE_TCP | layout.COALESCE_UDP },
  { name: MIXED, vnetSize: VNET_SIZE, segmentLimit: 64,
    coalesce: layout.COALESCE_TCP | layout.COALESCE_UDP },
];

/** The node and its twin. */
function prepare(
  { name, ...offloads }: (typeof KERNELS)[number],
): { scene: Scene; twin: OffloadTwin } {
  const scene = makeHome({ offloads, icmpRate: 1_000_000, icmpBurst: 1000 });
  const bare = name === MIXED ? scene.endpoints.get('pod-b')?.device ?? -1 : -1;
  const devices = scene.core.directory(layout.DIRECTORY_DEVICES);
  if (bare >= 0) {
    scene.core.bytes[devices + (bare * layout.DEVICE_STRIDE) + layout.DEVICE_VNET_SIZE] = 0;
  }
  for (const family of ['IPv4', 'IPv6'] as const) {
    scene.forwarding.devices.setSenders(family, SENDER[family].address, SENDER[family].ports);
    if (name === FRAMES) scene.forwarding.devices.setTunnelTap(family, SENDER[family].tap);
  }
  const twin = new OffloadTwin(scene, {
    tcp: (offloads.coalesce & layout.COALESCE_TCP) !== 0,
    udp: (offloads.coalesce & layout.COALESCE_UDP) !== 0,
    vnet: (device) => offloads.vnetSize > 0 && device !== bare,
    frames: name === FRAMES,
  });
  return { scene, twin };
}

/** Puts a packet with its vnet header where devices read to. */
function place(scene: Scene, slot: number, { input, header, received }: Given): void {
  placePacket(scene.core, slot, received, input);
  scene.core.bytes.set(header, scene.core.packetAddress(slot) - header.length);
}

/** What the core sends, one by one. */
function left(sends: readonly Send[]): Leaving[] {
  return sends.flatMap((send): Leaving[] => {
    const { device, remote, packets } = send;
    if (remote === null) return [{ device, remote, bytes: send.bytes, packets }];
    if ((send.flags & layout.SEND_FLAG_FRAME) !== 0) return [unframed(send, remote)];
    return datagramsOf(send).map((bytes) => ({ device, remote, bytes, packets: 1 }));
  });
}

function show({ device, remote, bytes, packets }: Leaving): string {
  const to = remote === null ? '' : ` to ${remote.address} port ${remote.port}`;
  return `device ${device}${to}, ${packets} packets, ${bytes.length} bytes: `
    + toHex(bytes.subarray(0, 200));
}

function assertSame(found: Leaving[], expected: Leaving[], what: () => string): void {
  for (let at = 0; at < Math.max(found.length, expected.length); at += 1) {
    const [core, twin] = [found[at], expected[at]];
    const same = core !== undefined && twin !== undefined && core.device === twin.device
      && core.packets === twin.packets && core.gsoSize === twin.gsoSize && core.ecn === twin.ecn
      && core.remote?.address === twin.remote?.address
      && core.remote?.port === twin.remote?.port && Buffer.compare(core.bytes, twin.bytes) === 0;
    if (same) continue;
    const differs = core?.bytes.findIndex((byte, index) => byte !== twin?.bytes[index]);
    assert.unreachable(`at byte ${differs} of number ${at}; ${found.length} found, `
      + `${expected.length} expected\n`
      + `core: ${core === undefined ? 'nothing' : show(core)}\n`
      + `twin: ${twin === undefined ? 'nothing' : show(twin)}\n${what()}`);
  }
}

/** What a frame carries. All around it must be as it is made from what it carries. */
function unframed(send: Send, remote: Remote): Leaving {
  const family = addressFamily(remote.address);
  const { address, ports, tap } = SENDER[family];
  const start = 24 + 14 + (family === 'IPv4' ? 20 : 40) + 8;
  const payload = send.bytes.subarray(start);
  const said = parseVnet(send.bytes);
  const ecn = (said.gsoType & GSO.ecn) !== 0;
  const made = frame({
    source: address, sourcePort: ports[send.flowHash % ports.length] ?? 0, remote, mac: tap,
    gatewayMac: GATEWAY_MAC, flowHash: send.flowHash, tos: send.tos, gsoSize: said.gsoSize, ecn,
  }, payload);
  assert.is(toHex(send.bytes.subarray(0, start + 100)), toHex(made.subarray(0, start + 100)));
  const { device, packets } = send;
  return { device, remote, bytes: payload, packets, gsoSize: said.gsoSize, ecn };
}

function ecnOf(packet: Uint8Array): number {
  const isIpv4 = (packet[0] ?? 0) >> 4 === 4;
  return isIpv4 ? (packet[1] ?? 0) & 3 : ((packet[1] ?? 0) >> 4) & 3;
}

/** What the kernel is asked to cut, it can cut. */
function assertSound(send: Send, segmentLimit: number): void {
  const { packets, segmentSize, bytes, remote, pieces, flags } = send;
  if (remote !== null && (flags & layout.SEND_FLAG_FRAME) === 0) {
    // RFC 6040 section 4.1: what is outside says what is inside.
    for (const one of datagramsOf(send)) assert.is(send.tos, ecnOf(one.subarray(TUNNEL_SIZE)));
  }
  assert.ok(pieces.length > 0 && pieces.every(({ length }) => length > 0), 'no piece is empty');
  if (remote === null || packets === 1 || (flags & layout.SEND_FLAG_FRAME) !== 0) {
    assert.is(segmentSize, 0);
    return;
  }
  assert.ok(packets <= segmentLimit, `${packets} datagrams in a send`);
  assert.ok(bytes.length <= layout.DATAGRAMS_BYTES_MAX, `${bytes.length} bytes in a send`);
  assert.is(Math.ceil(bytes.length / segmentSize), packets);
}

/** Drops and events, and how many packets each next hop gave and got. */
function compareCounters({ core, twin, targets }: Scene): void {
  for (const direction of ['outbound', 'inbound'] as const) {
    const drops = readDrops(core, direction);
    for (let reason = 1; reason < REASON_COUNT; reason += 1) {
      const name = REASON_NAMES[reason] ?? '';
      assert.is(drops[name], twin.drops[direction].get(reason) ?? 0, `${direction} ${name}`);
    }
  }
  const events = readEvents(core);
  // Judgements are not the twin's.
  assert.equal(Object.fromEntries(Object.keys(twin.events).map((name) => [name, events[name]])),
    twin.events);
  for (const [id, target] of targets) {
    const { rxPackets, txPackets } = readTraffic(core, id);
    const { rxPackets: given = 0, txPackets: got = 0 } = twin.traffic.get(target) ?? {};
    assert.equal([rxPackets, txPackets], [given, got], `next hop ${id}`);
  }
}

for (const kernel of KERNELS.slice(1, -1)) {
  const { name, segmentLimit } = kernel;
  test(`super-packets of pods, ${name}`, () => {
    const { scene, twin } = prepare(kernel);
    const pods = new Pods(scene, new Random(SEED + segmentLimit));
    let packets = 0;
    for (let batch = 0; batch < BATCHES; batch += 1) {
      const given = Array.from({ length: BATCH }, () => pods.next());
      given.forEach((one, slot) => place(scene, slot, one));
      for (let done = 0; done < BATCH;) {
        const now = scene.core.exports.processBatch(done, BATCH - done, NOW_MS + batch);
        assert.ok(now > 0, 'a turn goes on');
        const sends = readSends(scene.core);
        for (const send of sends) assertSound(send, segmentLimit);
        const expected = given.slice(done, done + now).flatMap(({ input, header, received }) =>
          twin.outbound(input, header, received, NOW_MS + batch));
        packets += expected.reduce((sum, one) => sum + one.packets, 0);
        assertSame(left(sends), expected, () => `batch ${batch}, slots from ${done}:\n`
          + given.map(({ input, header, received }) =>
            `device ${input}: ${toHex(header)} | ${toHex(received.subarray(0, 120))}`).join('\n'));
        done += now;
      }
    }
    compareCounters(scene);
    console.log(`${name}: ${packets} packets of pods; ${scene.twin.events.segmented} cut`);
  });
}

/** Puts datagrams into a slot as the kernel joins them. */
function placeSlot(scene: Scene, slot: number, { input, source, outerTos, datagrams }: Slot): void {
  placePacket(scene.core, slot, concat(...datagrams), input, source);
  const descriptor = scene.core.descriptorAddress(slot);
  const size = datagrams.length > 1 ? datagrams[0]?.length ?? 0 : 0;
  scene.core.view.setUint16(descriptor + layout.DESCRIPTOR_SEGMENT_SIZE, size, true);
  scene.core.bytes[descriptor + layout.DESCRIPTOR_OUTER_TOS] = outerTos;
}

for (const kernel of KERNELS) {
  const { name, segmentLimit } = kernel;
  test(`trains of peers, ${name}`, () => {
    const { scene, twin } = prepare(kernel);
    const peers = new Peers(new Random(SEED * (2 + kernel.coalesce)));
    let packets = 0;
    for (let batch = 0; batch < TRAIN_BATCHES; batch += 1) {
      const slots = peers.next(BATCH);
      slots.forEach((slot, index) => placeSlot(scene, index, slot));
      const done = scene.core.exports.processBatch(0, slots.length, NOW_MS + batch);
      assert.is(done, slots.length);
      packets += slots.reduce((sum, { datagrams }) => sum + datagrams.length, 0);
      const sends = readSends(scene.core);
      for (const send of sends) assertSound(send, segmentLimit);
      assertSame(left(sends), twin.inbound(slots, NOW_MS + batch), () => `batch ${batch}\n`
        + slots.map(({ source, outerTos, datagrams }) => `${source.address} TOS ${outerTos}:\n`
          + datagrams.slice(0, 3).map((one) => toHex(one.subarray(0, 110))).join('\n')).join('\n'));
    }
    compareCounters(scene);
    console.log(`${name}: ${packets} packets of peers; ${scene.twin.events.coalesced} joins`);
  });
}

test('pods and peers in one batch: what a pod sends ends a run', () => {
  const kernel = KERNELS.find(({ name }) => name === 'T2');
  if (kernel === undefined) throw new Error('there is no T2');
  const { scene, twin } = prepare(kernel);
  const random = new Random(SEED);
  const [pods, peers] = [new Pods(scene, random), new Peers(random)];
  for (let batch = 0; batch < MIXED_BATCHES; batch += 1) {
    const nowMs = NOW_MS + batch;
    const expected: Leaving[] = [];
    let used = 0;
    while (used < BATCH) {
      const slots = random.oneIn(2) ? peers.next(BATCH - used) : [];
      slots.forEach((slot, index) => placeSlot(scene, used + index, slot));
      expected.push(...twin.inbound(slots, nowMs));
      used += slots.length;
      if (used === BATCH) break;
      const given = pods.next();
      place(scene, used, given);
      expected.push(...twin.outbound(given.input, given.header, given.received, nowMs));
      used += 1;
    }
    const found: Leaving[] = [];
    for (let done = 0; done < BATCH;) {
      done += scene.core.exports.processBatch(done, BATCH - done, nowMs);
      found.push(...left(readSends(scene.core)));
    }
    assertSame(found, expected, () => `batch ${batch}`);
  }
});

test.run();
