// Addresses: text and bytes, and the two socket address structures on the same bytes.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  formatIp, parseIp, readSocketAddress, SOCKADDR_SIZE_MAX, writeSocketAddress,
} from '../../ffi/address.ts';

const test = suite('ffi/address');

// RFC 5952 section 4 and RFC 4291 section 2.2: any spelling, and the one to print.
const SPELLINGS: [string, string][] = [
  ['2001:0db8:0:0:0:0:2:1', '2001:db8::2:1'],
  ['2001:db8:0:1:1:1:1:1', '2001:db8:0:1:1:1:1:1'],
  ['2001:0:0:1:0:0:0:1', '2001:0:0:1::1'],
  ['2001:db8:0:0:1:0:0:1', '2001:db8::1:0:0:1'],
  ['::', '::'],
  ['::1', '::1'],
  ['FD00:0:0:0:0:0:0:0', 'fd00::'],
  ['10.244.1.0', '10.244.1.0'],
];

test('prints the RFC 5952 form of any spelling', () => {
  for (const [given, expected] of SPELLINGS) assert.is(formatIp(parseIp(given)), expected);
});

test('refuses what is not an address', () => {
  for (const bad of ['', '10.0.0', '10.0.0.256', '1::2::3', 'fe80::1%eth0', 'pod']) {
    assert.throws(() => parseIp(bad), /is not an IPv4 or IPv6 address/, bad);
  }
});

test('builds and reads struct sockaddr_in and sockaddr_in6', () => {
  const bytes = new Uint8Array(SOCKADDR_SIZE_MAX).fill(0xa5);
  assert.is(writeSocketAddress(bytes, '192.0.2.10', 8472), 16);
  assert.is(Buffer.from(bytes.subarray(0, 16)).toString('hex'),
    '02002118c000020a0000000000000000');
  assert.equal(readSocketAddress(bytes), { address: '192.0.2.10', port: 8472 });

  bytes.fill(0xa5);
  assert.is(writeSocketAddress(bytes, '2001:db8::1', 4789), 28);
  assert.is(Buffer.from(bytes).toString('hex'),
    `0a0012b500000000${'20010db8000000000000000000000001'}00000000`);
  assert.equal(readSocketAddress(bytes), { address: '2001:db8::1', port: 4789 });
});

test.run();
