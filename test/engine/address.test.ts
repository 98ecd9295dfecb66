// Text and bytes of addresses, prefixes and MACs.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { addressBytes, addressFamily, addressText, hostPrefix, isAddress, isMac, isPrefix,
  macBytes, macText, prefixBase, prefixHolds, prefixKey, prefixText } from
  '../../engine/address.ts';
import { Random } from '../support/random.ts';

test('tells addresses from other text', () => {
  for (const text of ['0.0.0.0', '10.244.0.1', '255.255.255.255', '::', '::1', 'fd00::1',
    '2001:DB8::A', '1:2:3:4:5:6:7:8', '::ffff:10.0.0.1']) {
    assert.ok(isAddress(text), text);
  }
  for (const text of ['', '10', '10.1', '10.1.2', '1.2.3.4.5', '256.0.0.1', '10.0.0.-1',
    '0x0a.0.0.1', ' 10.0.0.1', '10.0.0.1 ', '10.0.0.1/32', 'fe80::1%eth0', ':::', '1::2::3',
    'g::1', '1:2:3:4:5:6:7:8:9', 'example.org']) {
    assert.not.ok(isAddress(text), text);
  }
});

test('tells prefixes from other text', () => {
  for (const text of ['0.0.0.0/0', '10.244.1.0/24', '10.244.1.7/24', '10.0.0.1/32', '::/0',
    'fd00::/64', 'fd00::1/128']) {
    assert.ok(isPrefix(text), text);
  }
  for (const text of ['', '/', '10.0.0.0', '10.0.0.0/', '/24', '10.0.0.0/33', 'fd00::/129',
    '10.0.0.0/-1', '10.0.0.0/24/24', '10.0.0.0/2 4', '10.0.0/24', '10.0.0.0/1e1']) {
    assert.not.ok(isPrefix(text), text);
  }
});

test('tells unicast MACs from other text', () => {
  for (const text of ['02:63:75:6c:76:74', '0A:00:00:00:00:0F', '00:00:00:00:00:00']) {
    assert.ok(isMac(text), text);
  }
  for (const text of ['ff:ff:ff:ff:ff:ff', '01:00:5e:00:00:01', '02:63:75:6c:76', '',
    '02:63:75:6c:76:74:00', '02-63-75-6c-76-74', '2:63:75:6c:76:74', '0g:00:00:00:00:00']) {
    assert.not.ok(isMac(text), text);
  }
});

test('addresses there and back', () => {
  assert.equal([...addressBytes('10.244.1.7')], [10, 244, 1, 7]);
  assert.is(addressBytes('fd00::1').length, 16);
  assert.is(addressText(addressBytes('2001:0db8:0:0:0:0:0:A')), '2001:db8::a');
  const random = new Random(5952);
  for (let round = 0; round < 1000; round += 1) {
    const bytes = random.bytes(random.pick([4, 16]));
    assert.equal(addressBytes(addressText(bytes)), bytes);
  }
  assert.throws(() => addressBytes('10.0.0'), /not an IP address: 10\.0\.0/);
});

test('text is canonical, RFC 5952', () => {
  const canonical = (text: string): string => addressText(addressBytes(text));
  assert.is(canonical('2001:db8:0:0:1:0:0:1'), '2001:db8::1:0:0:1');
  assert.is(canonical('2001:db8:0:1:1:1:1:1'), '2001:db8:0:1:1:1:1:1');
  assert.is(canonical('2001:0:0:1:0:0:0:1'), '2001:0:0:1::1');
  assert.is(canonical('0:0:0:0:0:0:0:0'), '::');
});

test('MACs there and back', () => {
  assert.is(macText(macBytes('02:63:75:6C:76:74')), '02:63:75:6c:76:74');
  assert.throws(() => macBytes('ff:ff:ff:ff:ff:ff'), /not a unicast MAC address/);
});

test('keys have their host bits cleared', () => {
  assert.is(prefixText(prefixKey('10.244.1.7/24')), '10.244.1.0/24');
  assert.is(prefixText(prefixKey('255.255.255.255/0')), '0.0.0.0/0');
  assert.is(prefixText(prefixKey('255.255.255.255/31')), '255.255.255.254/31');
  assert.is(prefixText(prefixKey('fd00:1:2:3:4:5:6:7/64')), 'fd00:1:2:3::/64');
  assert.is(prefixText(prefixKey('ffff::/9')), 'ff80::/9');
  const key = prefixKey('10.0.0.0/8');
  assert.equal([key.family, key.length, key.bytes.length], ['IPv4', 8, 16]);
  assert.throws(() => prefixKey('10.0.0.0/33'), /not a prefix in CIDR form/);
});

test('bases and host prefixes', () => {
  assert.is(prefixBase('10.244.1.7/24'), '10.244.1.0');
  assert.is(prefixBase('fd00::5/64'), 'fd00::');
  assert.is(hostPrefix('10.0.0.1'), '10.0.0.1/32');
  assert.is(hostPrefix('FD00::1'), 'fd00::1/128');
  assert.is(addressFamily('::ffff:10.0.0.1'), 'IPv6');
  assert.is(addressFamily('10.0.0.1'), 'IPv4');
});

test('which addresses a prefix holds', () => {
  assert.ok(prefixHolds('10.244.0.0/16', '10.244.255.255'));
  assert.not.ok(prefixHolds('10.244.0.0/16', '10.245.0.0'));
  assert.ok(prefixHolds('0.0.0.0/0', '255.255.255.255'));
  assert.not.ok(prefixHolds('0.0.0.0/0', '::1'));
  assert.not.ok(prefixHolds('::/0', '10.0.0.1'));
  assert.ok(prefixHolds('10.0.0.1/31', '10.0.0.0'));
  assert.ok(prefixHolds('fd00:8000::/17', 'fd00:ffff::1'));
  assert.not.ok(prefixHolds('fd00:8000::/17', 'fd00:7fff::1'));
});

test.run();
