// A capture from devices to file, in the surroundings that test/golden/README.md draws: what is in
// the file is what the counters say, and without a capture nothing is copied.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as v from 'valibot';
import {
  CAPTURE_DROPPED, DEVICE_NODE, DEVICE_UNDERLAY_IPV4, DEVICE_UNDERLAY_IPV6, DIRECTORY_CAPTURE,
  DIRECTORY_CAPTURE_LENGTH, DROPPED_LIMIT,
} from '../../wasm/abi/layout.ts';
import type { Connection, Methods } from '../../engine/connection.ts';
import { readDrops } from '../../engine/counters.ts';
import { CapturedSchema, type Captured } from '../../engine/model-capture.ts';
import { closeFd, openEventFd } from '../../ffi/file.ts';
import { Capture, type CaptureHost } from '../../host/capture.ts';
import { CaptureTap } from '../../host/capture-tap.ts';
import { LoopbackDevice } from '../../host/device/loopback.ts';
import { Loop } from '../../host/loop.ts';
import { Slots } from '../../host/slots.ts';
import { deviceIndex, makeHome } from '../support/home.ts';
import { PROTOCOL, ipv4, udp } from '../support/packets.ts';

const POD_A = '10.244.0.5';
const POD_B = '10.244.0.6';
const STRANGER = '10.244.0.9';
const BLOCK_PACKET = 6;
const BLOCK_INTERFACE = 1;

/** A node whose worker is this thread. */
class Node {
  readonly scene = makeHome();
  readonly slots = new Slots(this.scene.core, 0);
  readonly wakeFd = openEventFd();
  readonly host: CaptureHost;
  readonly podA: LoopbackDevice;
  readonly podB: LoopbackDevice;
  readonly loop: Loop;
  readonly methods: Methods;
  batches = 0;
  readonly #names = new Map<number, string>();

  constructor() {
    const { core } = this.scene;
    this.host = {
      core,
      options: { version: 'test' },
      dataPlane: {
        deviceName: (index) => this.#names.get(index) ?? '', onCaptured: null,
      },
    };
    const tap = new CaptureTap(this.slots, (batch) => {
      this.batches += 1;
      this.host.dataPlane.onCaptured?.(batch);
    });
    this.loop = new Loop(this.slots, this.wakeFd, () => {}, () => {}, tap);
    this.#add(DEVICE_NODE, 'culvert0');
    this.#add(DEVICE_UNDERLAY_IPV4, 'underlay-ipv4');
    this.#add(DEVICE_UNDERLAY_IPV6, 'underlay-ipv6');
    this.podA = this.#add(deviceIndex(this.scene, 'pod-a'), 'test_pod-a');
    this.podB = this.#add(deviceIndex(this.scene, 'pod-b'), 'test_pod-b');
    this.methods = new Capture(this.host).methods();
  }

  /** Has pod A send a packet from an address, which is delivered where it is its own. */
  send(source: string, destination = POD_B): void {
    const datagram = udp({ source, destination, sourcePort: 4000, destinationPort: 53 },
      new Uint8Array(300));
    this.podA.offer(ipv4({ source, destination, protocol: PROTOCOL.udp }, datagram));
    this.loop.wait(0);
    this.loop.turn(1000);
  }

  async ask(name: string, params: unknown, from: Connection): Promise<Captured> {
    return v.parse(CapturedSchema, await this.methods[name]?.handle(params, from));
  }

  close(): void {
    this.loop.close();
    closeFd(this.wakeFd);
  }

  #add(index: number, name: string): LoopbackDevice {
    const device = new LoopbackDevice(this.slots, index, name);
    this.loop.attach(index, device);
    this.#names.set(index, name);
    return device;
  }
}

/** A connection that only stays. */
const WATCHER = { closed: new Promise(() => {}) } as unknown as Connection;

/** Blocks of a file by type, as text where a reader sees text. */
function blocksOf(bytes: Uint8Array): { type: number; text: string; length: number }[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const blocks = [];
  for (let at = 0; at < bytes.length;) {
    const size = view.getUint32(at + 4, true);
    const type = view.getUint32(at, true);
    const length = type === BLOCK_PACKET ? view.getUint32(at + 24, true) : 0;
    const text = Buffer.from(bytes.subarray(at, at + size)).toString('latin1');
    blocks.push({ type, text, length });
    at += size;
  }
  return blocks;
}

test('packets at devices and dropped ones are in the file as often as counted', async () => {
  const node = new Node();
  try {
    node.send(POD_A);
    assert.is(node.batches, 0, 'nothing is copied while nobody looks');
    const begun = await node.ask('capture.begin', { places: ['tun', 'drop'], snapLength: 64 },
      WATCHER);
    for (let count = 0; count < 5; count += 1) node.send(POD_A);
    for (let count = 0; count < 3; count += 1) node.send(STRANGER);
    const read = await node.ask('capture.read', null, WATCHER);
    const ended = await node.ask('capture.end', null, WATCHER);
    assert.equal([ended.lost, ended.more], [0, false]);
    const blocks = blocksOf(Buffer.concat([begun.bytes, read.bytes, ended.bytes]));
    const packets = blocks.filter(({ type }) => type === BLOCK_PACKET);
    const dropped = packets.filter(({ text }) => text.includes('spoofedSource'));
    assert.is(dropped.length, readDrops(node.scene.core, 'outbound')['spoofedSource']);
    assert.is(dropped.length, 3);
    assert.ok(dropped[0]?.text.includes('dropped outbound: spoofedSource, from test_pod-a'));
    // Eight that pod A sent, and five that pod B got.
    assert.is(packets.length - dropped.length, 13);
    assert.is(ended.packets, packets.length);
    assert.equal([...new Set(packets.map(({ length }) => length))], [328, 342]);
    // Pod B has a TAP, which takes frames.
    const names = blocks.filter(({ type }) => type === BLOCK_INTERFACE)
      .map(({ text }) => /culvert0|underlay-ipv4|test_pod-[ab]|drop/.exec(text)?.[0]);
    assert.equal(names, ['test_pod-a', 'test_pod-b', 'drop']);
    const { batches } = node;
    node.send(STRANGER);
    assert.is(node.batches, batches, 'nor afterwards');
  } finally {
    node.close();
  }
});

test('one capture at a time, and only its owner reads it', async () => {
  const node = new Node();
  const other = { closed: new Promise(() => {}) } as unknown as Connection;
  try {
    const begin = { places: ['drop'], snapLength: 64 };
    await node.ask('capture.begin', begin, WATCHER);
    for (const [name, params] of [['capture.begin', begin], ['capture.read', null]] as const) {
      try {
        await node.ask(name, params, other);
        assert.unreachable();
      } catch (error) {
        assert.match((error as Error).message, /another capture|no capture/);
      }
    }
    await node.ask('capture.end', null, WATCHER);
    await node.ask('capture.begin', begin, other);
  } finally {
    node.close();
  }
});

test('more drops in one batch than the ring holds are counted as lost', async () => {
  const node = new Node();
  try {
    const records: number[] = [];
    let lost = 0;
    node.host.dataPlane.onCaptured = (batch) => {
      lost += batch.lost;
      records.push(batch.records.length);
    };
    const tap = new CaptureTap(node.slots, (batch) => node.host.dataPlane.onCaptured?.(batch));
    node.scene.core.setDirectory(DIRECTORY_CAPTURE, CAPTURE_DROPPED);
    node.scene.core.setDirectory(DIRECTORY_CAPTURE_LENGTH, 100);
    tap.begin();
    for (let count = 0; count < DROPPED_LIMIT + 7; count += 1) node.send(STRANGER);
    records.length = 0;
    lost = 0;
    tap.dropped();
    tap.end();
    assert.equal([records, lost], [[DROPPED_LIMIT], 7]);
  } finally {
    node.close();
  }
});

test.run();
