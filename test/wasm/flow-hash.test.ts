// The hash of the flow table: what it is, and that flows as networks have them spread over the
// groups whatever the seed. And lookups of many keys, which share it.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { DIRECTORY_FLOWS, DIRECTORY_FLOW_COUNT } from '../../wasm/abi/layout.ts';
import {
  FLOW_ADDRESS_A, FLOW_ADDRESS_B, FLOW_GROUP_SIZE, FLOW_KEYS, FLOW_KEYS_REST, FLOW_KEYS_SIZE,
  FLOW_KEYS_SPREAD, FLOW_PORT_A, FLOW_PROTOCOL, FLOW_SIZE,
} from '../../wasm/abi/policy.ts';
import { writeFlowKeys } from '../../engine/flow-keys.ts';
import { flowKeyHash } from '../reference/flow-hash.ts';
import { WireMemory } from '../support/assembly.ts';
import { ALLOW_ALL, PolicyBed, ruleSet, TCP, tcpPacket } from '../support/policy-core.ts';
import { Random } from '../support/random.ts';

const KEY = 4096;
const TABLE = 131_072;
const FLOWS = 65_536;
const SEEDS = [1, 2, 3];

const memory = await WireMemory.create();
const { wire, bytes } = memory;
const view = new DataView(bytes.buffer);

/** Writes the key of a TCP flow over IPv4. */
function writeKey(a: number, b: number, portA: number, portB: number): void {
  bytes.fill(0, KEY, KEY + FLOW_SIZE);
  for (const [at, address] of [[FLOW_ADDRESS_A, a], [FLOW_ADDRESS_B, b]] as const) {
    view.setUint16(KEY + at + 10, 0xffff);
    view.setUint32(KEY + at + 12, address);
  }
  view.setUint16(KEY + FLOW_PORT_A, portA);
  view.setUint16(KEY + FLOW_PORT_A + 2, portB);
  view.setUint8(KEY + FLOW_PROTOCOL, 6);
}

test('is the same as the slow twin', () => {
  const random = new Random(4418);
  for (let round = 0; round < 2000; round += 1) {
    bytes.set(random.bytes(FLOW_KEYS_SIZE), FLOW_KEYS);
    bytes.set(random.bytes(FLOW_SIZE), KEY);
    if (random.oneIn(4)) bytes.fill(0xff, KEY, KEY + FLOW_SIZE);
    const hash = wire.flowKeyHash(KEY);
    assert.is(BigInt.asUintN(64, hash), flowKeyHash(view, KEY));
    for (const group of [wire.homeGroup(hash, TABLE), wire.secondGroup(hash, TABLE)]) {
      assert.is(group % FLOW_GROUP_SIZE, 0);
      assert.ok(group >= 0 && group < TABLE);
    }
    assert.is(wire.tagOf(hash) & 0x80, 0x80);
  }
});

test('keys differ by seed, and the factors are odd', () => {
  const drawn = SEEDS.map((seed) => {
    writeFlowKeys(view, seed);
    assert.is(view.getUint8(FLOW_KEYS + FLOW_KEYS_REST) & 1, 1);
    assert.is(view.getUint8(FLOW_KEYS + FLOW_KEYS_SPREAD) & 1, 1);
    return Buffer.from(memory.read(FLOW_KEYS, FLOW_KEYS_SIZE)).toString('hex');
  });
  assert.is(new Set(drawn).size, SEEDS.length);
});

/** Flows as they come, by number. */
const PATTERNS: Record<string, (flow: number) => void> = {
  'every host of a network with every host of another, between the same ports': (flow) =>
    writeKey(0x0a400100 + (flow & 255), 0x0a800100 + (flow >>> 8), 4789, 4789),
  'one client, port after port': (flow) =>
    writeKey(0x0a400105, 0x0a800207, 1024 + (flow & 0x7fff), 443 + (flow >>> 15)),
  'many clients of one server': (flow) =>
    writeKey(0x0a400100 + (flow >>> 5), 0x0a600001, 40_000 + (flow & 31), 80),
  'many networks, a host of each': (flow) =>
    writeKey(0x0a400005, 0x0b000005 + (flow << 8), 40_000, 80),
};

for (const [name, write] of Object.entries(PATTERNS)) {
  test(`spreads ${name}`, () => {
    for (const seed of SEEDS) {
      writeFlowKeys(view, seed);
      const homes = new Map<number, number>();
      const places = new Map<string, number>();
      for (let flow = 0; flow < FLOWS; flow += 1) {
        write(flow);
        const hash = wire.flowKeyHash(KEY);
        const home = wire.homeGroup(hash, TABLE);
        const place = `${home} ${wire.secondGroup(hash, TABLE)}`;
        homes.set(home, (homes.get(home) ?? 0) + 1);
        places.set(place, (places.get(place) ?? 0) + 1);
      }
      // Eight flows for each group on average. By chance alone, more than 40 have one group in
      // common once in 10^10 times, and more than four both of their groups.
      assert.ok(Math.max(...homes.values()) <= 40, `seed ${seed}: groups`);
      assert.ok(Math.max(...places.values()) <= 4, `seed ${seed}: pairs of groups`);
    }
  });
}

test('lookups of many keys find each flow, and no other', () => {
  const bed = new PolicyBed({ a: ['10.1.0.2', 'fd00:1::2'] });
  bed.isolate('a', { ingress: 1, egress: 1 }, { ruleSets: [ruleSet(1, ALLOW_ALL)] });
  for (let port = 0; port < 2048; port += 1) {
    const [source, destination] = port % 2 === 0
      ? ['10.1.0.2', '10.1.1.9'] : ['fd00:1::2', 'fd00:1:0:1::9'];
    bed.send('a', tcpPacket({ source, destination, sourcePort: 1024 + port }, TCP.syn));
  }
  const { core } = bed;
  const table = core.directory(DIRECTORY_FLOWS);
  const count = core.directory(DIRECTORY_FLOW_COUNT);
  const entries = Array.from({ length: count }, (_, entry) => table + (entry * FLOW_SIZE))
    .filter((_, entry) => core.bytes[table + (count * FLOW_SIZE) + entry] !== 0);
  assert.is(entries.length, 2048);
  const keys = core.packetAddress(0);
  const found = keys + (4096 * FLOW_SIZE);
  entries.forEach((entry, index) => {
    const key = keys + (index * 2 * FLOW_SIZE);
    core.bytes.copyWithin(key, entry, entry + FLOW_SIZE);
    core.bytes.copyWithin(key + FLOW_SIZE, entry, entry + FLOW_SIZE);
    const other = key + FLOW_SIZE + [FLOW_PORT_A, FLOW_PROTOCOL, FLOW_ADDRESS_B, 15][index % 4]!;
    core.view.setUint8(other, core.view.getUint8(other) ^ 0x40);
  });
  core.exports.flowFindMany(table, count, keys, 4096, found);
  entries.forEach((entry, index) => {
    assert.is(core.view.getUint32(found + (index * 8), true), entry);
    assert.is(core.view.getUint32(found + (index * 8) + 4, true), 0);
  });
});

test.run();
