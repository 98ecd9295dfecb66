// Fragments under policy: the first is judged and remembered, later ones follow it.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as abi from '../../wasm/abi/policy.ts';
import {
  ALLOW_ALL, back, DENY_ALL, fateOf, PolicyBed, program, ruleSet, TCP, tcpPacket, udpPacket,
  type Fate, type Flow,
} from '../support/policy-core.ts';
import { concat, ipv4, ipv6, PROTOCOL, udp, word16, word32 } from '../support/packets.ts';

const PODS = { a: ['10.1.0.2', 'fd00:1::2'] };
const FLOW = { source: '10.1.0.2', destination: '10.1.1.9', sourcePort: 9, destinationPort: 53 };
const FLOW_6 = { ...FLOW, source: 'fd00:1::2', destination: 'fd00:1:0:1::9' };
const UDP_53 = program([{ protocol: 17, first: 53, last: 53 }]);

function makeBed(fragments = 256): PolicyBed {
  const bed = new PolicyBed(PODS, { policy: { fragments } });
  bed.isolate('a', { ingress: 1, egress: 2 }, {
    ruleSets: [ruleSet(1, DENY_ALL), ruleSet(2, UDP_53)],
  });
  return bed;
}

interface Piece {
  id: number;
  offset: number;
  more?: boolean;
  protocol?: number;
}

/** A fragment of UDP with `size` bytes; the one at offset 0 begins with the header. */
function fragment(flow: Flow, piece: Piece, size = 64): Uint8Array {
  const { source, destination, sourcePort = 9, destinationPort = 53 } = flow;
  const ports = { source, destination, sourcePort, destinationPort };
  const whole = udp(ports, new Uint8Array(1400));
  const data = piece.offset === 0 ? whole.subarray(0, size) : new Uint8Array(size);
  const more = piece.more ?? true;
  const protocol = piece.protocol ?? PROTOCOL.udp;
  if (!source.includes(':')) {
    return ipv4({ source, destination, protocol, identification: piece.id, offset: piece.offset,
      moreFragments: more }, data);
  }
  const header = Uint8Array.from([protocol, 0, ...word16((piece.offset << 3) | Number(more)),
    ...word32(piece.id)]);
  return ipv6({ source, destination, nextHeader: 44 }, concat(header, data));
}

function send(bed: PolicyBed, piece: Piece, flow: Flow = FLOW, size = 64): Fate {
  return fateOf(bed.send('a', fragment(flow, piece, size)));
}

for (const [family, flow] of [['IPv4', FLOW], ['IPv6', FLOW_6]] as const) {
  test(`${family}: later fragments follow their first`, () => {
    const bed = makeBed();
    assert.is(send(bed, { id: 1, offset: 8 }, flow), 'fragmentUnknown');
    assert.is(send(bed, { id: 1, offset: 0 }, flow), 'pass');
    assert.is(send(bed, { id: 1, offset: 8 }, flow), 'pass');
    assert.is(send(bed, { id: 1, offset: 16, more: false }, flow), 'pass');
    assert.is(send(bed, { id: 2, offset: 8 }, flow), 'fragmentUnknown');
    const denied = { ...flow, destinationPort: 54 };
    assert.is(send(bed, { id: 3, offset: 0 }, denied), 'policyEgress');
    assert.is(send(bed, { id: 3, offset: 8 }, denied), 'fragmentUnknown');
    const elsewhere = { ...flow, destination: flow.destination.replace(/9$/, '8') };
    assert.is(send(bed, { id: 1, offset: 8 }, elsewhere), 'fragmentUnknown');
    assert.is(fateOf(bed.receive(1, fragment(back(flow), { id: 1, offset: 8 }))),
      'fragmentUnknown');
    bed.nowMs += abi.FRAGMENT_TIMEOUT - 1;
    assert.is(send(bed, { id: 1, offset: 8 }, flow), 'pass');
    bed.nowMs += 1;
    assert.is(send(bed, { id: 1, offset: 8 }, flow), 'fragmentUnknown');
  });

  test(`${family}: replies in fragments pass`, () => {
    const bed = makeBed();
    assert.is(fateOf(bed.send('a', udpPacket(flow))), 'pass');
    const reply = (piece: Piece): Fate =>
      fateOf(bed.receive(1, fragment(back(flow), piece)));
    assert.is(reply({ id: 5, offset: 0 }), 'pass');
    assert.is(reply({ id: 5, offset: 8, more: false }), 'pass');
  });
}

test('a second first fragment is judged itself', () => {
  const bed = makeBed();
  assert.is(send(bed, { id: 1, offset: 0 }), 'pass');
  assert.is(send(bed, { id: 1, offset: 0 }, { ...FLOW, destinationPort: 54 }), 'policyEgress');
  assert.is(send(bed, { id: 1, offset: 8 }), 'pass');
});

test('a first fragment that hides ports or flags is refused', () => {
  const bed = makeBed();
  for (const size of [0, 4, 7]) assert.is(send(bed, { id: 1, offset: 0 }, FLOW, size), 'tooShort');
  assert.is(send(bed, { id: 1, offset: 0 }, FLOW, 8), 'pass');
  bed.apply({ ruleSets: [ruleSet(2, ALLOW_ALL)] });
  assert.is(send(bed, { id: 2, offset: 0, protocol: 6 }, FLOW, 8), 'tooShort');
  assert.is(send(bed, { id: 2, offset: 0, protocol: 6 }, FLOW, 16), 'pass');
  assert.is(send(bed, { id: 2, offset: 1, protocol: 6 }), 'fragmentUnknown');
  assert.is(send(bed, { id: 2, offset: 2, protocol: 6 }), 'pass');
});

test('a chain of headers that cannot be walked is refused', () => {
  const bed = makeBed();
  bed.apply({ ruleSets: [ruleSet(2, ALLOW_ALL)] });
  const chain = concat(...Array.from({ length: 9 }, () => [60, 0, 1, 4, 0, 0, 0, 0]), [59, 0, 0, 0,
    0, 0, 0, 0]);
  const packet = ipv6({ source: 'fd00:1::2', destination: 'fd00:1:0:1::9', nextHeader: 60 }, chain);
  assert.is(fateOf(bed.send('a', packet)), 'tooShort');
  bed.isolate('a', {});
  assert.is(fateOf(bed.send('a', packet)), 'pass');
});

test('protocols keep their datagrams apart in IPv4', () => {
  const bed = makeBed();
  assert.is(send(bed, { id: 1, offset: 0 }), 'pass');
  assert.is(send(bed, { id: 1, offset: 8, protocol: 132 }), 'fragmentUnknown');
});

test('denied first fragments take no room; a full table refuses by name', () => {
  const bed = makeBed(8);
  const denied = { ...FLOW, destinationPort: 54 };
  for (let id = 0; id < 100; id += 1) send(bed, { id, offset: 0 }, denied);
  for (let id = 0; id < 8; id += 1) assert.is(send(bed, { id, offset: 0 }), 'pass');
  assert.is(send(bed, { id: 8, offset: 0 }), 'fragmentTableFull');
  assert.is(send(bed, { id: 7, offset: 0 }), 'pass');
  for (let id = 0; id < 8; id += 1) assert.is(send(bed, { id, offset: 8 }), 'pass');
  bed.nowMs += abi.FRAGMENT_TIMEOUT;
  assert.is(send(bed, { id: 8, offset: 0 }), 'pass');
});

test('a change of policy reaches datagrams on their way', () => {
  const bed = makeBed();
  assert.is(send(bed, { id: 1, offset: 0 }), 'pass');
  bed.apply({ identities: [['10.9.0.0/16', 4]] });
  assert.is(send(bed, { id: 1, offset: 8 }), 'pass');
  bed.apply({ ruleSets: [ruleSet(2, DENY_ALL)] });
  assert.is(send(bed, { id: 1, offset: 16 }), 'policyEgress');
  assert.is(send(bed, { id: 1, offset: 24 }), 'policyEgress');
  bed.nowMs += abi.FLOW_TIMEOUT_LATE;
  bed.idle(4096);
  assert.is(send(bed, { id: 1, offset: 32 }), 'fragmentUnknown');
});

test('another flow in the place of the first fragment\'s does not stand for it', () => {
  const bed = makeBed();
  assert.is(send(bed, { id: 1, offset: 0 }), 'pass');
  bed.nowMs += abi.FRAGMENT_TIMEOUT - 1;
  assert.is(send(bed, { id: 1, offset: 0 }), 'pass');
  bed.nowMs += abi.FLOW_TIMEOUT_NEW;
  bed.idle(4096);
  assert.is(bed.flowCount(), 0);
  assert.is(send(bed, { id: 1, offset: 8 }), 'fragmentUnknown');
});

test('without policy fragments pass in any order', () => {
  const bed = new PolicyBed(PODS);
  assert.is(send(bed, { id: 1, offset: 8 }), 'pass');
  assert.is(send(bed, { id: 1, offset: 0 }), 'pass');
  assert.is(fateOf(bed.send('a', tcpPacket(FLOW, TCP.syn))), 'pass');
});

test.run();
