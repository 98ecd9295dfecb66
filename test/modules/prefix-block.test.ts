// The example prefix-block: the longest prefix decides, compared with a list that is searched from
// end to end.

import { BlockList } from 'node:net';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { VERDICTS, type ModuleInstance, type ModuleVerdict } from '../../modules/runtime.ts';
import { addressBytes } from '../../engine/address.ts';
import { configured, exampleImage } from '../support/examples.ts';
import { Random } from '../support/random.ts';

const image = await exampleImage('prefix-block');

/** An address as four words. */
function words(address: string): number[] {
  const bytes = Uint8Array.from(addressBytes(address));
  const padded = new DataView(new ArrayBuffer(16));
  bytes.forEach((byte, at) => padded.setUint8(at, byte));
  return [0, 4, 8, 12].map((at) => padded.getUint32(at));
}

/** The verdict on a connection to a far end, or from one. */
function judge(module: ModuleInstance, far: string, isOut = true): ModuleVerdict | undefined {
  const family = far.includes(':') ? 1 : 0;
  const near = words(family === 0 ? '10.0.0.1' : 'fd00::1');
  const ends = isOut ? [...near, ...words(far)] : [...words(far), ...near];
  return VERDICTS[module.evaluate(family, isOut ? 1 : 0, 6, 2, 40000, 80, 7, 9, ...ends)];
}

const CONFIG = `
192.0.2.0/24
allow 192.0.2.8/29
192.0.2.9           # one address
203.0.113.0/24 AS64496
198.51.100.0/24 AS64497
2001:db8::/32 ZZ
2001:db8:1::/48 AS64497
block AS64496 ZZ
`;

test('the longest prefix decides, by its label', () => {
  const module = configured(image, CONFIG);
  const cases: [string, ModuleVerdict][] = [
    ['192.0.1.255', 'pass'], ['192.0.2.0', 'deny'], ['192.0.2.7', 'deny'], ['192.0.2.8', 'pass'],
    ['192.0.2.9', 'deny'], ['192.0.2.10', 'pass'], ['192.0.2.15', 'pass'], ['192.0.2.16', 'deny'],
    ['192.0.2.255', 'deny'], ['192.0.3.0', 'pass'], ['203.0.113.77', 'deny'],
    ['198.51.100.1', 'pass'], ['0.0.0.0', 'pass'], ['255.255.255.255', 'pass'],
    ['2001:db8::1', 'deny'], ['2001:db8:1::1', 'pass'], ['2001:db8:2::', 'deny'],
    ['2001:db9::', 'pass'], ['::', 'pass'], ['ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff', 'pass'],
  ];
  for (const [address, expected] of cases) {
    assert.is(judge(module, address), expected, `to ${address}`);
    assert.is(judge(module, address, false), expected, `from ${address}`);
  }
});

test('whole families and their last addresses can be blocked', () => {
  const module = configured(image, '0.0.0.0/0\n::/0\nallow 255.255.255.255/32\nallow ::1/128\n');
  const cases: [string, ModuleVerdict][] = [
    ['1.2.3.4', 'deny'], ['255.255.255.254', 'deny'], ['255.255.255.255', 'pass'],
    ['::', 'deny'], ['::1', 'pass'], ['::2', 'deny'],
    ['ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff', 'deny'],
  ];
  for (const [address, expected] of cases) assert.is(judge(module, address), expected, address);
});

test('an empty configuration blocks nothing', () => {
  const module = configured(image, '');
  assert.equal([judge(module, '192.0.2.1'), judge(module, '2001:db8::1')], ['pass', 'pass']);
});

test('texts of prefixes mean what the node\'s own lists take them for', () => {
  const good = ['::', '::1', '1::', '1::2', '1:2:3:4:5:6:7:8', '1:2:3:4:5:6:7::', '::2:3:4:5:6:7:8',
    'ABCD:ef01::', '0.0.0.0', '255.255.255.255', '1.2.3.4'];
  for (const text of good) {
    const list = new BlockList();
    const family = text.includes(':') ? 'ipv6' : 'ipv4';
    list.addAddress(text, family);
    const module = configured(image, text);
    for (const address of good) {
      const expected = list.check(address, address.includes(':') ? 'ipv6' : 'ipv4');
      assert.is(judge(module, address), expected ? 'deny' : 'pass', `${text} and ${address}`);
    }
  }
  const bad = ['1.2.3', '1.2.3.4.5', '256.1.1.1', '1.2.3.4/33', '1.2.3.4/', '1.2.3.4/-1', ':',
    ':::', '1::2::3', '1:2:3:4:5:6:7', '1:2:3:4:5:6:7:8:9', '1:2:3:4:5:6:7:8::', 'g::', '12345::',
    '::/129', 'a b c', '1.2.3.4 a b', '1..2.3', 'hello', 'allow x'];
  for (const text of bad) {
    assert.throws(() => configured(image, `192.0.2.0/24\n${text}\n`), /is no prefix/, text);
  }
});

test('thousands of nested prefixes answer as a search from end to end', () => {
  const random = new Random(11);
  const lines: string[] = [];
  const list: { value: number; mask: number; length: number; deny: boolean }[] = [];
  for (let index = 0; index < 3000; index += 1) {
    const length = random.between(4, 32);
    const mask = (-1 << (32 - length)) >>> 0;
    // Few first bits, so that prefixes nest.
    const value = ((0xc0000000 | (random.next() & 0x00ffffff)) & mask) >>> 0;
    if (list.some((known) => known.value === value && known.length === length)) continue;
    const deny = random.oneIn(2);
    const text = [24, 16, 8, 0].map((shift) => (value >>> shift) & 0xff).join('.');
    lines.push(deny ? `${text}/${length} bad` : `allow ${text}/${length}`);
    list.push({ value, mask, length, deny });
  }
  list.sort((a, b) => b.length - a.length);
  const module = configured(image, ['block bad', ...lines].join('\n'));
  for (let round = 0; round < 20_000; round += 1) {
    const near = list[random.below(list.length)]?.value ?? 0;
    const address = (near + random.below(512) - 256) >>> 0;
    const longest = list.find(({ value, mask }) => ((address & mask) >>> 0) === value);
    const text = [24, 16, 8, 0].map((shift) => (address >>> shift) & 0xff).join('.');
    assert.is(judge(module, text), longest?.deny === true ? 'deny' : 'pass', text);
  }
});

test('a list as long as a configuration may be fits its memory', () => {
  const lines = Array.from({ length: 26_000 }, (_, n) =>
    `${(n >>> 16) + 11}.${(n >>> 8) & 0xff}.${n & 0xff}.0/24`);
  const module = configured(image, lines.join('\n'));
  assert.is(judge(module, '11.3.2.1'), 'deny');
  assert.is(judge(module, '12.3.2.1'), 'pass');
});

test.run();
