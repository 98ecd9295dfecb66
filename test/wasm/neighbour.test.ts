// ARP, RFC 826, and neighbour discovery, RFC 4861, on a TAP: the same bytes taken apart and built.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { readEvents, REASON_NAMES } from '../../engine/counters.ts';
import { processOne } from '../support/core.ts';
import { deviceIndex, makeHome } from '../support/home.ts';
import { arp, concat, ethernet, fromHex, neighbour, parseArp, parseEthernet, toHex,
  type ArpFields } from '../support/packets.ts';

const POD_MAC = '0a:00:00:00:00:06';
const REQUEST = fromHex(`
  ff ff ff ff ff ff  0a 00 00 00 00 06  08 06   # Ethernet: broadcast, the pod, ARP
  00 01 08 00 06 04  00 01                      # Ethernet, IPv4, request
  0a 00 00 00 00 06  0a f4 00 06                # sender: the pod
  00 00 00 00 00 00  0a f4 00 01                # target: the gateway
`);
const REPLY = fromHex(`
  0a 00 00 00 00 06  02 63 75 6c 76 74  08 06   # Ethernet: the pod, our side, ARP
  00 01 08 00 06 04  00 02                      # Ethernet, IPv4, reply
  02 63 75 6c 76 74  0a f4 00 01                # sender: our side
  0a 00 00 00 00 06  0a f4 00 06                # target: the pod
`);
const home = makeHome();
const input = deviceIndex(home, 'pod-b');

function ask(frame: Uint8Array): string {
  const { sent, reason, output, bytes } = processOne(home.core, frame, input);
  if (!sent) return REASON_NAMES[reason] ?? '';
  assert.is(output, input, 'the answer goes where the question came from');
  return toHex(bytes);
}

function arpFrame(fields: Partial<ArpFields>): Uint8Array {
  return ethernet({ destination: 'ff:ff:ff:ff:ff:ff', source: POD_MAC, type: 0x0806 }, arp({
    operation: 1, senderMac: POD_MAC, senderAddress: '10.244.0.6',
    targetMac: '00:00:00:00:00:00', targetAddress: '10.244.0.1', ...fields,
  }));
}

test('takes a request apart', () => {
  assert.is(toHex(arpFrame({})), toHex(REQUEST));
  const { operation, senderAddress } = parseArp(parseEthernet(REQUEST).payload);
  assert.is(operation, 1);
  assert.is(toHex(senderAddress), '0a f4 00 06');
});

test('builds the reply', () => {
  const before = readEvents(home.core).neighbourAnswered ?? 0;
  assert.is(ask(REQUEST), toHex(REPLY));
  assert.is(readEvents(home.core).neighbourAnswered, before + 1);
});

test('padding behind a request is not part of the reply', () => {
  assert.is(ask(concat(REQUEST, new Uint8Array(18).fill(0x77))), toHex(REPLY));
});

test('answers for every address but the pod\'s own', () => {
  for (const targetAddress of ['10.244.0.5', '192.0.2.1', '198.51.100.1', '169.254.1.1']) {
    assert.match(ask(arpFrame({ targetAddress })), /^0a 00/);
  }
  assert.is(ask(arpFrame({ targetAddress: '10.244.0.6' })), 'neighbour');
});

test('answers only the pod in its own name', () => {
  for (const senderAddress of ['0.0.0.0', '10.244.0.5', '10.244.1.7', '192.0.2.10']) {
    assert.is(ask(arpFrame({ senderAddress })), 'neighbour');
  }
});

test('answers only whole requests for IPv4 over Ethernet', () => {
  assert.is(ask(arpFrame({ operation: 2 })), 'neighbour');
  assert.is(ask(arpFrame({ hardwareType: 6 })), 'neighbour');
  for (const [byte, value] of [[16, 0x86], [18, 8], [19, 16]] as const) {
    const frame = REQUEST.slice();
    frame[byte] = value;
    assert.is(ask(frame), 'neighbour', `byte ${byte}`);
  }
  for (let length = 15; length < REQUEST.length; length += 1) {
    assert.is(ask(REQUEST.slice(0, length)), 'neighbour', `${length} bytes`);
  }
});

/** A solicitation in a frame. */
function solicitation(fields: Partial<Parameters<typeof neighbour>[0]>): Uint8Array {
  return ethernet({ destination: '33:33:ff:00:00:01', source: POD_MAC, type: 0x86dd }, neighbour({
    source: 'fd00:10:244::6', destination: 'ff02::1:ff00:1', type: 135,
    target: 'fd00:10:244::1', mac: POD_MAC, ...fields,
  }));
}

/** The advertisement that answers for `target`. */
function advertisement(destination: string, target: string): string {
  return toHex(ethernet({ destination: POD_MAC, source: '02:63:75:6c:76:74', type: 0x86dd },
    neighbour({
      source: target, destination, type: 136, flags: 0xe0, target, mac: '02:63:75:6c:76:74',
    })));
}

test('builds an advertisement', () => {
  assert.is(ask(solicitation({})), advertisement('fd00:10:244::6', 'fd00:10:244::1'));
});

test('a solicitation without its option gets an answer as long', () => {
  assert.is(ask(solicitation({ mac: null })), advertisement('fd00:10:244::6', 'fd00:10:244::1'));
});

test('answers link-local addresses of the pod too', () => {
  const source = 'fe80::6';
  assert.is(ask(solicitation({ source, target: 'fe80::1' })), advertisement(source, 'fe80::1'));
});

test('duplicate address detection finds nobody', () => {
  assert.is(ask(solicitation({ source: '::', target: 'fd00:10:244::6', mac: null })), 'neighbour');
  assert.is(ask(solicitation({ source: '::', target: 'fe80::6', mac: null })), 'neighbour');
});

test('does not answer for the pod, nor others in its name', () => {
  assert.is(ask(solicitation({ target: 'fd00:10:244::6' })), 'neighbour');
  assert.is(ask(solicitation({ source: 'fd00:10:244::5' })), 'neighbour');
});

test('what RFC 4861 section 7.1.1 refuses is a packet like any other', () => {
  assert.is(ask(solicitation({ hopLimit: 254 })), 'multicast');
  assert.is(ask(solicitation({ type: 136 })), 'multicast');
  assert.is(ask(solicitation({ target: 'ff02::1' })), 'multicast');
  const frame = solicitation({});
  frame[14 + 42] = (frame[14 + 42] ?? 0) ^ 1;
  assert.is(ask(frame), 'multicast', 'a wrong checksum');
});

test('frames for others, and of other kinds', () => {
  const frame = REQUEST.slice();
  frame.set([0x02, 0, 0, 0, 0, 9], 0);
  assert.is(ask(frame), 'wrongMac');
  const other = REQUEST.slice();
  other.set([0x81, 0x00], 12);
  assert.is(ask(other), 'etherType');
  for (let length = 0; length <= 14; length += 1) {
    assert.is(ask(REQUEST.slice(0, length)), 'tooShort');
  }
});

test.run();
