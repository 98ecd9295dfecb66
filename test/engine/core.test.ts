// Instances of the core: what is refused, what the memory looks like when it is new, and that two
// instances over one memory see the same.

import { readFileSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as layout from '../../wasm/abi/layout.ts';
import { ABI_VERSION } from '../../wasm/abi/version.ts';
import { AbiError, Core } from '../../engine/core.ts';
import { layMemory, PROFILES, type Limits } from '../../engine/memory-map.ts';
import { coreModule, createCore, processOne, TEST_LIMITS } from '../support/core.ts';
import { deviceIndex, makeHome } from '../support/home.ts';
import { ipv4, toHex } from '../support/packets.ts';

/** A memory as large as a core's, that nobody laid. */
function bareMemory(pages = 2): WebAssembly.Memory {
  return new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
}

/** The core's module with another number for ABI_VERSION: the only i32.const of that value in the
 * global section. */
function moduleOfVersion(version: number): WebAssembly.Module {
  const bytes = new Uint8Array(readFileSync(new URL('../../wasm/core.wasm', import.meta.url)));
  let at = 8;
  while (bytes[at] !== 6) {
    const [size, next] = readLeb(bytes, at + 1);
    at = next + size;
  }
  const [size, start] = readLeb(bytes, at + 1);
  const pattern = [0x41, ABI_VERSION, 0x0b];
  const found = [...bytes.keys()].filter((index) => index >= start && index < start + size
    && pattern.every((byte, offset) => bytes[index + offset] === byte));
  assert.is(found.length, 1, 'one global has the value of ABI_VERSION');
  bytes[(found[0] ?? 0) + 1] = version;
  return new WebAssembly.Module(bytes);
}

function readLeb(bytes: Uint8Array, start: number): [number, number] {
  let [value, at] = [0, start];
  for (let shift = 0; ; shift += 7) {
    const byte = bytes[at] ?? 0;
    value |= (byte & 0x7f) << shift;
    at += 1;
    if (byte < 0x80) return [value, at];
  }
}

function errorOf(work: () => unknown): Error {
  try {
    work();
  } catch (error) {
    return error as Error;
  }
  throw new Error('nothing was thrown');
}

test('a core of another ABI version is refused, with both numbers', () => {
  const other = moduleOfVersion(ABI_VERSION + 1);
  for (const work of [
    () => Core.create(other, TEST_LIMITS),
    () => Core.attach(other, createCore().memory),
  ]) {
    const error = errorOf(work);
    assert.instance(error, AbiError);
    const versions = `is ${ABI_VERSION + 1}, the engine's is ${ABI_VERSION}`;
    assert.is(error.message, `load core: its ABI version ${versions}`);
  }
});

test('a memory that nobody laid is refused', () => {
  const error = errorOf(() => Core.attach(coreModule(), bareMemory()));
  assert.instance(error, AbiError);
  assert.is(error.message, 'attach core: the memory has not been laid out');
});

test('a memory that another version laid is refused', () => {
  const core = createCore();
  core.setDirectory(layout.DIRECTORY_VERSION, ABI_VERSION + 1);
  const error = errorOf(() => Core.attach(coreModule(), core.memory));
  assert.instance(error, AbiError);
  assert.is(error.message, 'attach core: the memory was laid out by another version');
});

test('a second instance sees and does the same, and changes nothing by being made', () => {
  const home = makeHome();
  const before = Buffer.from(Buffer.from(home.core.memory.buffer));
  const second = Core.attach(coreModule(), home.core.memory);
  assert.is(Buffer.compare(Buffer.from(second.memory.buffer), before), 0);
  const packet = ipv4({ source: '10.244.0.5', destination: '10.244.1.7', protocol: 17 },
    new Uint8Array(8));
  const input = deviceIndex(home, 'pod-a');
  const [one, two] = [home.core, second].map((core) => processOne(core, packet, input));
  assert.ok(one?.sent);
  assert.is(toHex(one?.bytes ?? packet), toHex(two?.bytes ?? packet));
});

test('the directory says what was asked for', () => {
  const core = createCore({ ...TEST_LIMITS, workers: 3, slots: 5 });
  assert.is(core.directory(layout.DIRECTORY_WORKER_COUNT), 3);
  assert.is(core.directory(layout.DIRECTORY_SLOT_COUNT), 5);
  assert.is(core.directory(layout.DIRECTORY_NEXT_HOP_LIMIT), TEST_LIMITS.nextHops);
  assert.is(core.directory(layout.DIRECTORY_PEER_LIMIT), TEST_LIMITS.peers);
  assert.is(core.directory(layout.DIRECTORY_DEVICE_LIMIT), TEST_LIMITS.devices);
  const slots = core.directory(layout.DIRECTORY_SLOTS);
  assert.is(core.packetAddress(14), slots + (14 * layout.SLOT_STRIDE) + layout.PACKET_HEADROOM);
  assert.ok(core.packetAddress(15) <= core.bytes.length + layout.PACKET_HEADROOM);
});

test('tables lie behind one another, aligned, in every profile', () => {
  const profiles: Limits[] = [...Object.values(PROFILES), { ...TEST_LIMITS, workers: 4 }];
  for (const limits of profiles) {
    const { size, ...map } = layMemory(limits, ({ prefixes, nodes, leaves }) =>
      prefixes + nodes + leaves + 1);
    const starts = Object.values(map);
    for (const start of starts) assert.is(start % 64, 0);
    assert.equal(starts, [...starts].sort((a, b) => a - b));
    assert.is(new Set(starts).size, starts.length);
    assert.is(starts[0], layout.TABLES_START);
    assert.ok(map.devices - map.peers >= limits.peers * layout.PEER_STRIDE);
    assert.ok(map.slots - map.descriptors
      >= limits.workers * limits.slots * layout.DESCRIPTOR_STRIDE);
    assert.ok(size - map.slots >= limits.workers * limits.slots * layout.SLOT_STRIDE);
  }
});

test('the numbers of the memory map fit together', () => {
  assert.is(layout.WORKER_EVENTS, layout.WORKER_DROPS
    + (2 * layout.WORKER_DROP_REASONS * layout.WORKER_DROP_STRIDE));
  assert.ok(layout.WORKER_EVENTS + (layout.WORKER_EVENT_LIMIT * 8) <= layout.WORKER_STRIDE);
  assert.is(layout.CONTROL_SCRATCH_START,
    layout.WORKERS_START + (layout.WORKER_LIMIT * layout.WORKER_STRIDE));
  assert.is(layout.TABLES_START, layout.CONTROL_SCRATCH_START + layout.CONTROL_SCRATCH_SIZE);
  assert.is(layout.SLOT_STRIDE, layout.PACKET_HEADROOM + layout.PACKET_CAPACITY + 64);
  assert.is(layout.SLOT_STRIDE % 64, 0);
  assert.ok(layout.DESCRIPTOR_SOURCE + 32 <= layout.DESCRIPTOR_STRIDE);
  assert.ok(layout.PEER_REMOTE + 32 <= layout.PEER_HEADER, 'a remote is copied 32 bytes at a time');
  assert.ok(layout.PEER_HEADER + layout.PEER_HEADER_SIZE <= layout.PEER_STRIDE);
});

test.run();
