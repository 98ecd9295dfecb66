// VXLAN, RFC 7348 section 5: the same bytes taken apart and built. The core has the headers ready
// in the peer's record, so building goes through a whole packet.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { WireMemory } from '../support/assembly.ts';
import { processOne } from '../support/core.ts';
import { deviceIndex, makeHome } from '../support/home.ts';
import { concat, fromHex, ipv4, ipv6, parseVxlan, toHex, vxlan } from '../support/packets.ts';

const AT = 1024;
const HEADERS = fromHex(`
  08 00 00 00         # flags: a VNI
  00 00 01 00         # VNI 1
  0e 00 00 00 04 11   # destination: edge's VTEP
  0e 00 00 00 04 10   # source: ours
  08 00               # IPv4
`);
const memory = await WireMemory.create();
const { wire } = memory;

test('takes a header apart', () => {
  const header = memory.put(AT, HEADERS);
  assert.is(wire.checkVxlan(header), 1);
  assert.is(wire.vxlanVni(header), 1);
  assert.is(wire.etherType(header + 8), 0x0800);
});

test('builds the headers of a peer', () => {
  const home = makeHome();
  const packet = ipv4({ source: '10.244.0.5', destination: '10.244.1.7', protocol: 17 },
    new Uint8Array(8));
  const { bytes, sent } = processOne(home.core, packet, deviceIndex(home, 'pod-a'));
  assert.ok(sent);
  const routed = ipv4({ source: '10.244.0.5', destination: '10.244.1.7', protocol: 17, ttl: 63 },
    new Uint8Array(8));
  assert.is(toHex(bytes), toHex(concat(HEADERS, routed)));
});

test('every VNI', () => {
  for (const vni of [0, 1, 0x80, 4096, 0x123456, 0xffffff]) {
    assert.is(wire.vxlanVni(memory.put(AT, vxlan({ vni }, new Uint8Array(0)))), vni);
  }
});

test('flags and reserved bits must be exact', () => {
  for (let bit = 0; bit < 64; bit += 1) {
    const header = vxlan({ vni: 1 }, new Uint8Array(0));
    header[bit >> 3] = (header[bit >> 3] ?? 0) ^ (0x80 >> (bit & 7));
    const { flags, reserved, reservedLast } = parseVxlan(header);
    const expected = flags === 8 && reserved === 0 && reservedLast === 0;
    assert.is(wire.checkVxlan(memory.put(AT, header)) !== 0, expected, `bit ${bit}`);
    assert.is(expected, bit >= 32 && bit < 56);
  }
});

test('a datagram must hold both headers and a byte', () => {
  const home = makeHome();
  const inner = ipv6({ source: 'fd00:10:244:1::7', destination: 'fd00:10:244::5', nextHeader: 59 },
    new Uint8Array(0));
  const whole = concat(fromHex(`08 00 00 00 00 00 01 00
    0e 00 00 00 06 10 0e 00 00 00 06 11 86 dd`), inner);
  const input = deviceIndex(home, 'underlay-ipv6');
  const source = { address: '2001:db8::11', port: 4000 };
  assert.ok(processOne(home.core, whole, input, source).sent);
  for (let length = 0; length < whole.length; length += 1) {
    const { sent, reason } = processOne(home.core, whole.slice(0, length), input, source);
    assert.not.ok(sent, `${length} bytes`);
    assert.is(reason, 1, `${length} bytes are too short`);
  }
});

test.run();
