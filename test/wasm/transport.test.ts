// Where the transport header is: behind IPv4 options and IPv6 extension headers, against known
// packets and against the slow twin.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { findTransport } from '../reference/transport.ts';
import { WireMemory } from '../support/assembly.ts';
import { PROTOCOL, authenticationHeader, concat, fragmentHeader, fromHex, ipv4, ipv6,
  optionsHeader, read32, routingHeader, udp } from '../support/packets.ts';
import { Random } from '../support/random.ts';

const AT = 1024;
const [SOURCE4, DESTINATION4] = ['10.0.0.1', '10.0.0.2'];
const [SOURCE6, DESTINATION6] = ['fd00::1', 'fd00::2'];
const PORTS = { sourcePort: 0x1234, destinationPort: 0x5678 };
const memory = await WireMemory.create();
const { wire } = memory;

/** What the core finds, as the twin would say it, and the ports as they lie in the header. */
function find(packet: Uint8Array) {
  const at = memory.put(AT, packet);
  const transport = wire.ipTransport(at);
  return {
    protocol: wire.transportProtocol(transport),
    offset: wire.transportOffset(transport),
    fragment: wire.isFragment(transport) !== 0,
    outOfSight: wire.isHeaderless(transport) !== 0,
    sourceRouted: wire.isSourceRouted(transport) !== 0,
    ports: wire.transportPorts(at, transport, packet.length) >>> 0,
  };
}

/** An IPv6 packet with UDP behind extension headers, each made for what follows it. */
function behind(...chain: [number, (next: number) => Uint8Array][]): Uint8Array {
  const fields = { source: SOURCE6, destination: DESTINATION6, ...PORTS };
  let payload = udp(fields, new Uint8Array(4));
  let nextHeader: number = PROTOCOL.udp;
  for (const [type, make] of chain.reverse()) {
    payload = concat(make(nextHeader), payload);
    nextHeader = type;
  }
  return ipv6({ source: SOURCE6, destination: DESTINATION6, nextHeader }, payload);
}

const hopByHop: [number, (next: number) => Uint8Array] = [PROTOCOL.hopByHop, optionsHeader];
const PLAIN = {
  protocol: 17, offset: 40, fragment: false, outOfSight: false, sourceRouted: false,
  ports: 0x78563412,
};

test('IPv4 with and without options', () => {
  const fields = { source: SOURCE4, destination: DESTINATION4 };
  const datagram = udp({ ...fields, ...PORTS }, new Uint8Array(4));
  assert.equal(find(ipv4({ ...fields, protocol: 17 }, datagram)), { ...PLAIN, offset: 20 });
  const options = fromHex('94 04 00 00');
  assert.equal(find(ipv4({ ...fields, protocol: 17, options }, datagram)),
    { ...PLAIN, offset: 24 });
});

test('IPv4 fragments have no ports to show, the first included', () => {
  const fields = { source: SOURCE4, destination: DESTINATION4, protocol: 17 };
  const first = find(ipv4({ ...fields, moreFragments: true }, new Uint8Array(16).fill(1)));
  assert.equal(first, { ...PLAIN, offset: 20, fragment: true, ports: 0 });
  const later = find(ipv4({ ...fields, offset: 1 }, new Uint8Array(16).fill(1)));
  assert.equal(later, { ...PLAIN, offset: 20, fragment: true, outOfSight: true, ports: 0 });
});

test('a packet that ends within the ports has none', () => {
  const fields = { source: SOURCE4, destination: DESTINATION4, protocol: 17 };
  for (let length = 0; length < 4; length += 1) {
    assert.is(find(ipv4(fields, new Uint8Array(length).fill(1))).ports, 0);
  }
  assert.is(find(ipv4(fields, new Uint8Array(4).fill(1))).ports, 0x01010101);
  assert.is(find(ipv4({ ...fields, protocol: 1 }, new Uint8Array(8).fill(1))).ports, 0);
});

test('IPv6 extension headers are walked past', () => {
  assert.equal(find(behind()), PLAIN);
  assert.equal(find(behind(hopByHop)), { ...PLAIN, offset: 48 });
  assert.equal(find(behind(
    hopByHop, [PROTOCOL.destinationOptions, (next) => optionsHeader(next, 3)],
    [PROTOCOL.routing, (next) => routingHeader(next, 4, 1)],
    [PROTOCOL.authentication, authenticationHeader],
  )), { ...PLAIN, offset: 40 + 8 + 24 + 8 + 24 });
});

test('eight extension headers are walked past, a ninth is not', () => {
  const chain = (count: number): [number, (next: number) => Uint8Array][] =>
    new Array<typeof hopByHop>(count).fill(hopByHop);
  assert.equal(find(behind(...chain(8))), { ...PLAIN, offset: 40 + 64 });
  assert.ok(find(behind(...chain(9))).outOfSight);
  assert.is(find(behind(...chain(9))).ports, 0);
});

test('type 0 routing headers are seen, RFC 5095', () => {
  const routed = (type: number): boolean =>
    find(behind(hopByHop, [PROTOCOL.routing, (next) => routingHeader(next, type)])).sourceRouted;
  assert.ok(routed(0));
  assert.not.ok(routed(2));
  assert.not.ok(routed(4));
});

test('IPv6 fragments', () => {
  const fragment = (offset: number, more: boolean) =>
    find(behind([PROTOCOL.fragment, (next) => fragmentHeader(next, offset, more)]));
  assert.equal(fragment(0, true), { ...PLAIN, offset: 48, fragment: true, ports: 0 });
  assert.equal(fragment(1, true),
    { ...PLAIN, offset: 48, fragment: true, outOfSight: true, ports: 0 });
  assert.ok(fragment(8191, false).outOfSight);
  assert.equal(fragment(0, false), { ...PLAIN, offset: 48 }, 'atomic, RFC 6946: a whole packet');
});

test('chains that leave the packet are broken off', () => {
  const cut = (payload: Uint8Array): boolean =>
    find(ipv6({ source: SOURCE6, destination: DESTINATION6, nextHeader: 0 }, payload)).outOfSight;
  for (let length = 0; length < 8; length += 1) assert.ok(cut(new Uint8Array(length).fill(17)));
  assert.ok(cut(fromHex('11 01 00 00 00 00 00 00')), '16 bytes of options in 8');
  assert.not.ok(cut(fromHex('11 00 00 00 00 00 00 00')));
  assert.ok(cut(fromHex('11 ff 00 00 00 00 00 00')));
});

test('the core agrees with the twin on random chains', () => {
  const random = new Random(8200);
  const types = [0, 43, 44, 51, 60, 6, 17, 58, 132, 59];
  for (let round = 0; round < 30_000; round += 1) {
    const payload = random.bytes(random.below(120));
    for (let at = 0; at < payload.length; at += 8) {
      payload.set([random.pick(types), random.below(4)].slice(0, payload.length - at), at);
    }
    const packet = ipv6(
      { source: SOURCE6, destination: DESTINATION6, nextHeader: random.pick(types) }, payload);
    const { ports, ...found } = find(packet);
    const twin = findTransport(packet);
    assert.equal({ ...found, offset: 0 }, { ...twin, offset: 0 }, `round ${round}`);
    if (twin.outOfSight) continue;
    assert.is(found.offset, twin.offset);
    const hasPorts = [6, 17, 132].includes(twin.protocol) && !twin.fragment
      && twin.offset + 4 <= packet.length;
    const inMemory = new DataView(Uint8Array.from(packet).buffer);
    assert.is(ports, hasPorts ? inMemory.getUint32(twin.offset, true) : 0);
    assert.ok(!hasPorts || read32(packet, twin.offset) === inMemory.getUint32(twin.offset, false));
  }
});

test('all fragments of a datagram hash alike, and flows apart', () => {
  const hash = (packet: Uint8Array): number => wire.flowHash(memory.put(AT, packet));
  const first = behind([PROTOCOL.fragment, (next) => fragmentHeader(next, 0, true)],
    [PROTOCOL.destinationOptions, optionsHeader]);
  const later = ipv6({ source: SOURCE6, destination: DESTINATION6, nextHeader: 44 },
    concat(fragmentHeader(PROTOCOL.destinationOptions, 3, false), new Uint8Array(20)));
  assert.is(hash(first), hash(later));
  const hashes = new Set<number>();
  for (let port = 1; port <= 1000; port += 1) {
    const fields = { source: SOURCE4, destination: DESTINATION4 };
    const datagram = udp({ ...fields, sourcePort: port, destinationPort: 53 }, new Uint8Array(1));
    hashes.add(hash(ipv4({ ...fields, protocol: 17, ttl: port & 0xff }, datagram)));
  }
  assert.is(hashes.size, 1000);
});

test.run();
