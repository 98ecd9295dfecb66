// Geneve, RFC 8926 section 3.4: the same bytes taken apart and built. The core has the header ready
// in the peer's record, so building goes through a whole packet.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { REASON_NAMES } from '../../engine/counters.ts';
import { WireMemory } from '../support/assembly.ts';
import { processOne } from '../support/core.ts';
import { deviceIndex, makeHome } from '../support/home.ts';
import {
  ETHER_TYPE, concat, ethernet, fromHex, geneve, ipv4, ipv6, parseGeneve, toHex,
} from '../support/packets.ts';

const AT = 1024;
const FRAMED = fromHex(`
  00 00               # version 0, no options; no flags
  65 58               # Ethernet
  12 34 56 00         # VNI 0x123456
  0e 00 00 00 04 13   # destination: geneve's end
  0e 00 00 00 04 10   # source: ours
  08 00               # IPv4
`);
const BARE = fromHex('00 00 86 dd 00 00 07 00');
const IPV4 = { source: '10.244.0.5', destination: '10.244.3.7', protocol: 17 };
const IPV6 = { source: 'fd00:10:244::5', destination: 'fd00:10:244:3::7', nextHeader: 17 };
const BACK4 = { source: '10.244.3.7', destination: '10.244.0.5', protocol: 17 };
const EIGHT = new Uint8Array(8);
const MACS = { destination: '0e:00:00:00:04:10', source: '0e:00:00:00:04:13', type: 0x0800 };
const memory = await WireMemory.create();
const { wire } = memory;

test('takes a header apart', () => {
  const options = fromHex('01 02 05 01 de ad be ef');
  const whole = geneve({ vni: 0x123456, protocol: ETHER_TYPE.ethernet, options }, EIGHT);
  const header = memory.put(AT, whole);
  assert.is(wire.checkGeneve(header), 1);
  assert.is(wire.geneveIsCritical(header), 0);
  assert.is(wire.geneveLength(header), 16);
  assert.is(wire.geneveProtocol(header), 0x6558);
  assert.is(wire.geneveVni(header), 0x123456);
});

test('builds the headers of a peer that takes frames', () => {
  const home = makeHome();
  const { bytes, sent } = processOne(home.core, ipv4(IPV4, EIGHT), deviceIndex(home, 'pod-a'));
  assert.ok(sent);
  assert.is(toHex(bytes), toHex(concat(FRAMED, ipv4({ ...IPV4, ttl: 63 }, EIGHT))));
});

test('builds the header of a peer that takes packets', () => {
  const home = makeHome();
  const { bytes, sent } = processOne(home.core, ipv6(IPV6, EIGHT), deviceIndex(home, 'pod-a'));
  assert.ok(sent);
  assert.is(toHex(bytes), toHex(concat(BARE, ipv6({ ...IPV6, hopLimit: 63 }, EIGHT))));
});

test('version and the flags O and C count, reserved bits do not', () => {
  for (let bit = 0; bit < 64; bit += 1) {
    const header = geneve({ vni: 1, protocol: 0x0800 }, new Uint8Array(0));
    header[bit >> 3] = (header[bit >> 3] ?? 0) ^ (0x80 >> (bit & 7));
    const { version, isControl, isCritical, size } = parseGeneve(header);
    memory.put(AT, header);
    assert.is(wire.checkGeneve(AT) !== 0, version === 0 && !isControl, `bit ${bit}`);
    assert.is(wire.geneveIsCritical(AT) !== 0, isCritical, `bit ${bit}`);
    assert.is(wire.geneveLength(AT), size, `bit ${bit}`);
  }
});

test('options of every length are skipped', () => {
  const home = makeHome();
  const input = deviceIndex(home, 'geneve-ipv4');
  const source = { address: '192.0.2.13', port: 4000 };
  for (let words = 0; words < 64; words += 1) {
    const options = new Uint8Array(4 * words).fill(0x81);
    const datagram = geneve({ vni: 0x123456, protocol: ETHER_TYPE.ethernet, options },
      ethernet(MACS, ipv4(BACK4, EIGHT)));
    const { sent, bytes } = processOne(home.core, datagram, input, source);
    assert.ok(sent, `${words} words`);
    assert.is(toHex(bytes), toHex(ipv4({ ...BACK4, ttl: 63 }, EIGHT)));
  }
});

test('a datagram must hold all headers and a byte', () => {
  const home = makeHome();
  const options = new Uint8Array(12);
  const framed = geneve({ vni: 0x123456, protocol: ETHER_TYPE.ethernet, options },
    ethernet(MACS, ipv4(BACK4, EIGHT)));
  const bare = geneve({ vni: 7, protocol: 0x86dd, options },
    ipv6({ source: 'fd00:10:244:3::7', destination: 'fd00:10:244::5', nextHeader: 59 },
      new Uint8Array(0)));
  for (const [whole, device, address] of [
    [framed, 'geneve-ipv4', '192.0.2.13'], [bare, 'geneve-ipv6', '2001:db8::13'],
  ] as const) {
    const input = deviceIndex(home, device);
    const source = { address, port: 4000 };
    assert.ok(processOne(home.core, whole, input, source).sent);
    for (let length = 0; length < whole.length; length += 1) {
      const { sent, reason } = processOne(home.core, whole.slice(0, length), input, source);
      assert.not.ok(sent, `${length} bytes`);
      assert.is(REASON_NAMES[reason], 'tooShort', `${length} bytes`);
    }
  }
});

test.run();
