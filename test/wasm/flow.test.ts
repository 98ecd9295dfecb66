// Flows through the core, one packet at a time, by a clock that the test sets: who opens one, what
// passes as a reply, how long each state lives, and what a change of policy or a full table does.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as layout from '../../wasm/abi/layout.ts';
import * as abi from '../../wasm/abi/policy.ts';
import { readDrops } from '../../engine/counters.ts';
import {
  ALLOW_ALL, back, DENY_ALL, echoPacket, fateOf, PolicyBed, program, ruleSet, TCP, tcpPacket,
  udpPacket, type Fate, type Flow,
} from '../support/policy-core.ts';
import { icmp, ipv4 } from '../support/packets.ts';

const PODS = { a: ['10.1.0.2', 'fd00:1::2'], b: ['10.1.0.3', 'fd00:1::3'] };
const FLOW: Flow = { source: '10.1.0.2', destination: '10.1.1.9', sourcePort: 40000 };
const FLOW_6: Flow = { source: 'fd00:1::2', destination: 'fd00:1:0:1::9', sourcePort: 40000 };
/** After so long an exchange of UDP is a conversation. */
const EXCHANGE_MS = (abi.FLOW_EXCHANGE_STEPS + 1) << abi.FLOW_STEP_SHIFT;
const PORT_80 = program([{ protocol: 6, first: 80, last: 80 }, { protocol: 17 }]);

/** Pod a may send anything and receive nothing; pods of node 1 are the other side. */
function bedWithClient(policy: Partial<Parameters<typeof makeBed>[0]> = {}): PolicyBed {
  return makeBed(policy);
}

function makeBed(policy: { flows?: number }): PolicyBed {
  const bed = new PolicyBed(PODS, { policy });
  bed.isolate('a', { ingress: 1, egress: 2 }, {
    ruleSets: [ruleSet(1, DENY_ALL), ruleSet(2, ALLOW_ALL)],
  });
  return bed;
}

/** Sends a packet of TCP from the pod, or back to it. */
function out(bed: PolicyBed, flags: number, flow = FLOW): Fate {
  return fateOf(bed.send('a', tcpPacket(flow, flags)));
}

function reply(bed: PolicyBed, flags: number, flow = FLOW): Fate {
  return fateOf(bed.receive(1, tcpPacket(back(flow), flags)));
}

function handshake(bed: PolicyBed, flow = FLOW): void {
  assert.is(out(bed, TCP.syn, flow), 'pass');
  assert.is(reply(bed, TCP.syn | TCP.ack, flow), 'pass');
  assert.is(out(bed, TCP.ack, flow), 'pass');
}

/** The longest silence after which a reply still passes, by the state that `prepare` leaves. */
function lifetime(prepare: (bed: PolicyBed) => void, probe: (bed: PolicyBed) => Fate): number {
  let [low, high] = [0, 2 ** 23];
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    const bed = bedWithClient();
    prepare(bed);
    bed.nowMs += middle;
    if (probe(bed) === 'pass') low = middle;
    else high = middle;
  }
  return high;
}

for (const [family, flow] of [['IPv4', FLOW], ['IPv6', FLOW_6]] as const) {
  test(`${family}: replies pass, others do not`, () => {
    const bed = bedWithClient();
    assert.is(reply(bed, TCP.ack, flow), 'policyIngress');
    handshake(bed, flow);
    assert.is(reply(bed, TCP.ack, flow), 'pass');
    assert.is(reply(bed, TCP.ack, { ...flow, sourcePort: 40001 }), 'policyIngress');
    assert.is(reply(bed, TCP.ack, { ...flow, destinationPort: 81 }), 'policyIngress');
    assert.is(fateOf(bed.receive(1, udpPacket(back(flow)))), 'policyIngress');
    assert.is(bed.flowCount(), 1);
  });
}

test('the higher and the lower end may open a flow', () => {
  for (const destination of ['10.1.1.9', '10.0.0.9']) {
    const bed = bedWithClient();
    const flow = { ...FLOW, destination, sourcePort: 80, destinationPort: 80 };
    assert.is(fateOf(bed.send('a', udpPacket(flow))), 'pass');
    assert.is(bed.flowCount(), 1);
  }
});

test('each state lives as long as the RFCs say', () => {
  const tcpReply = (bed: PolicyBed): Fate => reply(bed, TCP.ack);
  assert.is(lifetime((bed) => void out(bed, TCP.syn), tcpReply), abi.FLOW_TIMEOUT_NEW);
  assert.is(lifetime(handshake, tcpReply), abi.FLOW_TIMEOUT_TCP);
  const half = (bed: PolicyBed): void => {
    handshake(bed);
    out(bed, TCP.fin | TCP.ack);
  };
  assert.is(lifetime(half, tcpReply), abi.FLOW_TIMEOUT_HALF_CLOSED);
  assert.is(lifetime((bed) => {
    half(bed);
    reply(bed, TCP.fin | TCP.ack);
  }, tcpReply), abi.FLOW_TIMEOUT_CLOSING);
  assert.is(lifetime((bed) => {
    handshake(bed);
    reply(bed, TCP.rst);
  }, tcpReply), abi.FLOW_TIMEOUT_CLOSING);
  const udpReply = (bed: PolicyBed): Fate => fateOf(bed.receive(1, udpPacket(back(FLOW))));
  const query = (bed: PolicyBed): void => void bed.send('a', udpPacket(FLOW));
  assert.is(lifetime(query, udpReply), abi.FLOW_TIMEOUT_NEW);
  assert.is(lifetime((bed) => {
    query(bed);
    udpReply(bed);
    query(bed);
  }, udpReply), abi.FLOW_TIMEOUT_NEW);
  assert.is(lifetime((bed) => {
    query(bed);
    udpReply(bed);
    bed.nowMs += EXCHANGE_MS;
    query(bed);
  }, udpReply), abi.FLOW_TIMEOUT_UDP);
  const echo = (bed: PolicyBed): void => void bed.send('a', echoPacket(FLOW, false));
  const echoed = (bed: PolicyBed): Fate => fateOf(bed.receive(1, echoPacket(back(FLOW), true)));
  assert.is(lifetime(echo, echoed), abi.FLOW_TIMEOUT_ICMP);
  const other = (flow: Flow): Uint8Array => ipv4({ ...flow, protocol: 50 }, new Uint8Array(20));
  const tunnelled = (bed: PolicyBed): Fate => fateOf(bed.receive(1, other(back(FLOW))));
  assert.is(lifetime((bed) => {
    bed.send('a', other(FLOW));
    tunnelled(bed);
  }, tunnelled), abi.FLOW_TIMEOUT_OTHER);
});

test('packets keep a flow alive, over the clock\'s wrap too', () => {
  const bed = bedWithClient();
  bed.nowMs = 0x7fffffff - 50_000_000;
  handshake(bed);
  for (let step = 0; step < 20; step += 1) {
    bed.nowMs += 7_000_000;
    assert.is(reply(bed, TCP.ack), 'pass');
  }
  assert.ok((bed.nowMs | 0) < 0, 'the clock has wrapped');
  bed.nowMs = 0xffffffff - 20_000;
  const later = { ...FLOW, sourcePort: 40001 };
  out(bed, TCP.syn, later);
  bed.nowMs += 25_000;
  assert.is(reply(bed, TCP.syn | TCP.ack, later), 'pass');
  bed.nowMs += 30_000;
  assert.is(reply(bed, TCP.ack, later), 'policyIngress');
});

test('connections are picked up in the middle', () => {
  const bed = bedWithClient();
  assert.is(reply(bed, TCP.ack), 'policyIngress');
  assert.is(out(bed, TCP.ack), 'pass');
  assert.is(reply(bed, TCP.ack), 'pass');
});

test('what opens a connection is no reply', () => {
  const bed = bedWithClient();
  handshake(bed);
  assert.is(reply(bed, TCP.syn), 'policyIngress');
  assert.is(reply(bed, TCP.ack), 'pass');
  assert.is(fateOf(bed.send('a', echoPacket(FLOW, false))), 'pass');
  assert.is(fateOf(bed.receive(1, echoPacket(back(FLOW), true))), 'pass');
  assert.is(fateOf(bed.receive(1, echoPacket(back(FLOW), false))), 'policyIngress');
  assert.is(fateOf(bed.receive(1, echoPacket(back(FLOW), true, 8))), 'policyIngress');
});

test('a connection the other way takes the place of one that is not established', () => {
  const bed = new PolicyBed(PODS);
  bed.isolate('a', { ingress: 1, egress: 1 }, { ruleSets: [ruleSet(1, PORT_80)] });
  const flow = { ...FLOW, sourcePort: 80 };
  assert.is(out(bed, TCP.syn, flow), 'pass');
  assert.is(reply(bed, TCP.syn, flow), 'pass');
  const bytes = new DataView(bed.core.memory.buffer);
  const flags = bytes.getUint8(findFlow(bed) + abi.FLOW_FLAGS);
  assert.is(flags & abi.FLOW_FLAG_FROM_B, abi.FLOW_FLAG_FROM_B);
  assert.is(bed.flowCount(), 1);
});

/** Address of the only flow. */
function findFlow(bed: PolicyBed): number {
  const table = bed.core.directory(layout.DIRECTORY_FLOWS);
  const count = bed.core.directory(layout.DIRECTORY_FLOW_COUNT);
  const tags = bed.core.bytes.subarray(table + (count * abi.FLOW_SIZE), table + (count * 65));
  return table + (tags.findIndex((tag) => tag !== 0) * abi.FLOW_SIZE);
}

function stateOf(bed: PolicyBed): number {
  return bed.core.bytes[findFlow(bed) + abi.FLOW_STATE] ?? -1;
}

test('TCP states', () => {
  const bed = bedWithClient();
  const { FLOW_STATE_NEW: NEW, FLOW_STATE_ESTABLISHED: ESTABLISHED,
    FLOW_STATE_CLOSING: CLOSING } = abi;
  const steps: [typeof out, number, number][] = [
    [out, TCP.syn, NEW], [out, TCP.syn, NEW], [reply, TCP.syn | TCP.ack, NEW],
    [reply, TCP.syn | TCP.ack, NEW], [out, TCP.ack, ESTABLISHED], [out, TCP.syn, ESTABLISHED],
    [reply, TCP.ack, ESTABLISHED], [reply, TCP.rst, CLOSING], [reply, TCP.ack, CLOSING],
    [out, TCP.ack, ESTABLISHED], [out, TCP.fin | TCP.ack, ESTABLISHED],
    [reply, TCP.ack, ESTABLISHED], [reply, TCP.fin | TCP.ack, CLOSING], [out, TCP.ack, CLOSING],
    [out, TCP.syn, NEW], [reply, TCP.rst | TCP.ack, CLOSING], [out, TCP.syn, NEW],
    [reply, TCP.syn | TCP.ack, NEW], [out, TCP.ack, ESTABLISHED],
  ];
  for (const [index, [side, flags, state]] of steps.entries()) {
    assert.is(side(bed, flags), 'pass');
    assert.is(stateOf(bed), state, `after step ${index}`);
  }
  assert.is(bed.flowCount(), 1);
});

test('a new epoch judges a flow anew, in its own direction, and cuts it', () => {
  const bed = bedWithClient();
  handshake(bed);
  const epoch = (): number => bed.core.view.getUint32(findFlow(bed) + abi.FLOW_EPOCH, true);
  const first = epoch();
  bed.apply({ ruleSets: [ruleSet(2, PORT_80)] });
  assert.is(reply(bed, TCP.ack), 'pass');
  assert.ok(epoch() > first);
  bed.apply({ ruleSets: [ruleSet(2, DENY_ALL)] });
  for (let round = 0; round < 2; round += 1) {
    assert.is(reply(bed, TCP.ack), 'policyEgress');
    assert.is(out(bed, TCP.ack), 'policyEgress');
  }
  assert.is(stateOf(bed), abi.FLOW_STATE_NEW);
  bed.apply({ ruleSets: [ruleSet(2, ALLOW_ALL)] });
  assert.is(out(bed, TCP.ack), 'pass');
  assert.is(stateOf(bed), abi.FLOW_STATE_ESTABLISHED);
});

test('what is cut is not picked up from its other end, until both have given up', () => {
  const bed = bedWithClient();
  handshake(bed);
  bed.apply({ ruleSets: [ruleSet(1, ALLOW_ALL), ruleSet(2, DENY_ALL)] });
  for (let round = 0; round < 5; round += 1) {
    assert.is(reply(bed, TCP.ack), 'policyEgress');
    assert.is(out(bed, TCP.ack), 'policyEgress');
    bed.nowMs += abi.FLOW_TIMEOUT_CUT - 1;
  }
  assert.is(reply(bed, TCP.syn), 'pass', 'a connection of its own');
  assert.is(out(bed, TCP.syn | TCP.ack), 'pass');
  assert.is(out(bed, TCP.syn), 'policyEgress');
  const other = { ...FLOW, sourcePort: 40001 };
  bed.apply({ ruleSets: [ruleSet(2, ALLOW_ALL)] });
  handshake(bed, other);
  bed.apply({ ruleSets: [ruleSet(2, DENY_ALL)] });
  assert.is(out(bed, TCP.ack, other), 'policyEgress');
  bed.nowMs += abi.FLOW_TIMEOUT_CUT;
  assert.is(reply(bed, TCP.ack, other), 'pass', 'forgotten');
});

test('an answer on its way opens nothing where its flow was cut, later its sender may', () => {
  const bed = bedWithClient();
  const ask = (): Fate => fateOf(bed.send('a', udpPacket(FLOW)));
  const answer = (): Fate => fateOf(bed.receive(1, udpPacket(back(FLOW))));
  assert.is(ask(), 'pass');
  bed.apply({ ruleSets: [ruleSet(1, ALLOW_ALL), ruleSet(2, DENY_ALL)] });
  for (let round = 0; round < 3; round += 1) {
    assert.is(answer(), 'policyEgress');
    assert.is(ask(), 'policyEgress');
    bed.nowMs += (abi.FLOW_TIMEOUT_LATE / 3) - 1;
  }
  bed.nowMs += 3;
  assert.is(ask(), 'policyEgress');
  assert.is(answer(), 'pass', 'a flow of its own');
  assert.is(ask(), 'pass');
  bed.apply({ ruleSets: [ruleSet(1, DENY_ALL)] });
  assert.is(answer(), 'policyIngress');
  bed.apply({ ruleSets: [ruleSet(1, ALLOW_ALL)] });
  assert.is(answer(), 'pass', 'allowed again');
  assert.is(ask(), 'pass');
});

test('flows from before a policy keep their replies', () => {
  const bed = new PolicyBed(PODS);
  handshake(bed);
  bed.isolate('a', { ingress: 1 }, { ruleSets: [ruleSet(1, DENY_ALL)] });
  assert.is(reply(bed, TCP.ack), 'pass');
  assert.is(reply(bed, TCP.syn, { ...FLOW, sourcePort: 5 }), 'policyIngress');
});

test('both ends of one node are enforced; a pod and its node, and itself, are not', () => {
  const bed = new PolicyBed(PODS);
  const sets = [ruleSet(1, DENY_ALL), ruleSet(2, PORT_80)];
  bed.isolate('a', { egress: 2, ingress: 1 }, { ruleSets: sets });
  bed.isolate('b', { ingress: 2, egress: 1 });
  const flow = { source: '10.1.0.2', destination: '10.1.0.3' };
  assert.is(fateOf(bed.send('a', tcpPacket(flow, TCP.syn))), 'pass');
  assert.is(fateOf(bed.send('b', tcpPacket(back(flow), TCP.syn | TCP.ack))), 'pass');
  assert.is(fateOf(bed.send('a', tcpPacket({ ...flow, destinationPort: 81 }, 2))), 'policyEgress');
  assert.is(fateOf(bed.send('b', tcpPacket({ ...back(flow), sourcePort: 9 }, 2))), 'policyEgress');
  bed.apply({ ruleSets: [ruleSet(1, ALLOW_ALL)] });
  bed.apply({ ruleSets: [ruleSet(2, DENY_ALL)] });
  assert.is(fateOf(bed.send('b', udpPacket(back(flow)))), 'pass');
  bed.apply({ ruleSets: [ruleSet(1, DENY_ALL)] });
  const toNode = { source: '10.1.0.2', destination: '192.168.0.10' };
  assert.is(fateOf(bed.send('a', udpPacket(toNode))), 'pass');
  assert.is(fateOf(bed.send(layout.DEVICE_NODE, udpPacket(back(toNode)))), 'pass');
  const outside = { source: '8.8.8.8', destination: '10.1.0.2' };
  assert.is(fateOf(bed.send(layout.DEVICE_NODE, udpPacket(outside))), 'policyIngress');
  assert.is(fateOf(bed.send('a', udpPacket(back(outside)))), 'policyEgress');
  assert.is(fateOf(bed.send('a', udpPacket({ source: '10.1.0.2', destination: '10.1.0.2' }))),
    'pass');
  assert.is(fateOf(bed.send('a', udpPacket({ source: '10.1.0.2', destination: '10.1.9.9' }))),
    'policyEgress');
});

test('between peers and the node there are no flows', () => {
  const bed = new PolicyBed(PODS);
  bed.send(layout.DEVICE_NODE, udpPacket({ source: '192.168.0.10', destination: '10.1.1.9' }));
  assert.is(fateOf(bed.receive(1, udpPacket({ source: '10.1.1.9', destination: '192.168.0.10' }))),
    'pass');
  assert.is(bed.flowCount(), 0);
});

test('denied packets are answered where that is wanted, and only then', () => {
  const bed = new PolicyBed(PODS);
  bed.isolate('a', { egress: 1 }, { ruleSets: [ruleSet(1, DENY_ALL)] });
  assert.not(bed.send('a', udpPacket(FLOW)).sent);
  bed.core.setDirectory(layout.DIRECTORY_DENY_WITH_ICMP, 1);
  for (const [flow, offset, type, code] of [[FLOW, 20, 3, 13], [FLOW_6, 40, 1, 1]] as const) {
    const verdict = bed.send('a', udpPacket(flow));
    assert.ok(verdict.sent);
    assert.is(verdict.output, bed.device('a'));
    assert.equal([...verdict.bytes.subarray(offset, offset + 2)], [type, code]);
  }
  assert.is(readDrops(bed.core, 'outbound')['policyEgress'], 3);
});

/** Fills the table with established flows; returns those that found room. */
function fill(bed: PolicyBed, count: number): Flow[] {
  const flows: Flow[] = [];
  for (let index = 0; index < count; index += 1) {
    const flow = { ...FLOW, sourcePort: 1000 + index };
    if (out(bed, TCP.syn, flow) !== 'pass') continue;
    reply(bed, TCP.syn | TCP.ack, flow);
    out(bed, TCP.ack, flow);
    flows.push(flow);
  }
  return flows;
}

test('a full table refuses new flows by name, and known ones live on', () => {
  const bed = bedWithClient({ flows: 64 });
  const flows = fill(bed, 500);
  assert.is(flows.length, 64);
  assert.is(bed.flowCount(), 64);
  assert.is(readDrops(bed.core, 'outbound')['flowTableFull'], 500 - 64);
  for (const flow of flows) assert.is(reply(bed, TCP.ack, flow), 'pass');
  bed.nowMs += abi.FLOW_TIMEOUT_TCP;
  assert.is(out(bed, TCP.syn, { ...FLOW, sourcePort: 9 }), 'pass');
});

test('where no policy looks, a full table stops nobody', () => {
  const bed = new PolicyBed(PODS, { policy: { flows: 64 } });
  assert.is(fill(bed, 300).length, 300);
  assert.is(bed.flowCount(), 64);
});

test('a large table takes most of its entries before it refuses', () => {
  const bed = bedWithClient({ flows: 4096 });
  let index = 0;
  for (; index < 4096; index += 1) {
    const flow = { ...FLOW, sourcePort: 1000 + index };
    if (out(bed, TCP.syn, flow) !== 'pass') break;
    reply(bed, TCP.syn | TCP.ack, flow);
    out(bed, TCP.ack, flow);
  }
  assert.ok(index > 4096 * 0.8, `${index} flows of 4096`);
});

test('a flood of SYNs evicts no established flow and starves no honest one', () => {
  const bed = bedWithClient({ flows: 1024 });
  const flows = fill(bed, 600);
  assert.is(flows.length, 600);
  for (let index = 0; index < 20_000; index += 1) {
    bed.nowMs += index % 10 === 0 ? 1 : 0;
    const spoofed = { ...FLOW, destination: `10.1.1.${1 + (index % 250)}`, sourcePort: index };
    assert.is(out(bed, TCP.syn, spoofed), 'pass');
    if (index % 1000 === 0) {
      const honest = { ...FLOW, destination: '10.1.2.5', sourcePort: 30_000 + (index / 1000) };
      assert.is(out(bed, TCP.syn, honest), 'pass');
      assert.is(fateOf(bed.receive(2, tcpPacket(back(honest), TCP.syn | TCP.ack))), 'pass');
      assert.is(out(bed, TCP.ack, honest), 'pass');
      flows.push(honest);
    }
  }
  for (const flow of flows) {
    const peer = flow.destination === '10.1.2.5' ? 2 : 1;
    assert.is(fateOf(bed.receive(peer, tcpPacket(back(flow), TCP.ack))), 'pass');
  }
});

test('a spoofer who does not see the answers establishes nothing', () => {
  const bed = new PolicyBed(PODS);
  bed.isolate('a', { ingress: 1 }, { ruleSets: [ruleSet(1, PORT_80)] });
  const flow = { source: '10.1.1.9', destination: '10.1.0.2' };
  bed.receive(1, tcpPacket(flow, TCP.syn));
  bed.send('a', tcpPacket(back(flow), TCP.syn | TCP.ack));
  bed.receive(1, tcpPacket(flow, TCP.ack));
  bed.send('a', tcpPacket(back(flow), TCP.rst));
  assert.is(stateOf(bed), abi.FLOW_STATE_CLOSING);
});

test('expired flows are swept without packets', () => {
  const bed = bedWithClient({ flows: 256 });
  for (let port = 1; port <= 100; port += 1) out(bed, TCP.syn, { ...FLOW, sourcePort: port });
  const before = bed.flowCount();
  assert.is(before, 100);
  bed.idle(16);
  assert.is(bed.flowCount(), before);
  bed.nowMs += abi.FLOW_TIMEOUT_NEW;
  bed.idle(16);
  assert.is(bed.flowCount(), 0);
});

test('closed pods neither send nor receive', () => {
  const bed = bedWithClient();
  handshake(bed);
  bed.policy.detach(bed.device('a'));
  assert.is(out(bed, TCP.ack), 'policyPending');
  assert.is(reply(bed, TCP.ack), 'policyPending');
  const fromNode = udpPacket({ source: '192.168.0.10', destination: '10.1.0.2' });
  assert.is(fateOf(bed.send(layout.DEVICE_NODE, fromNode)), 'policyPending');
  assert.is(fateOf(bed.send('a', udpPacket({ source: '10.1.0.2', destination: '10.1.0.2' }))),
    'policyPending');
});

/** An ICMP error from `router` about a packet. */
function errorAbout(router: string, packet: Uint8Array, size: number, type = 3): Uint8Array {
  const destination = packet.slice(12, 16);
  return ipv4({ source: router, destination, protocol: 1 },
    icmp(type, 4, 1400, packet.subarray(0, size)));
}

test('ICMP errors about a known flow pass, others are judged', () => {
  const bed = bedWithClient();
  const packet = tcpPacket(FLOW, TCP.syn);
  const error = (about: Uint8Array, size = 28, type = 3, router = '10.1.1.0'): Fate =>
    fateOf(bed.receive(1, errorAbout(router, about, size, type)));
  assert.is(error(packet), 'policyIngress');
  assert.is(out(bed, TCP.syn), 'pass');
  for (const type of [3, 4, 11, 12]) assert.is(error(packet, 28, type), 'pass');
  assert.is(error(packet, packet.length), 'pass');
  for (const size of [0, 4, 19, 20, 22, 23]) assert.is(error(packet, size), 'policyIngress');
  assert.is(error(tcpPacket({ ...FLOW, sourcePort: 3 }, 2)), 'policyIngress');
  assert.is(error(udpPacket(FLOW)), 'policyIngress');
  // A quote of the other direction is not about what we sent.
  const other = tcpPacket(back(FLOW), TCP.ack);
  const misdirected = ipv4({ source: '10.1.1.0', destination: '10.1.0.2', protocol: 1 },
    icmp(3, 4, 0, other.subarray(0, 28)));
  assert.is(fateOf(bed.receive(1, misdirected)), 'policyIngress');
  assert.is(bed.flowCount(), 1);
  bed.apply({ ruleSets: [ruleSet(2, DENY_ALL)] });
  assert.is(error(packet), 'policyIngress');
  assert.is(stateOf(bed), abi.FLOW_STATE_NEW, 'cut');
});

test('a pod answers with errors for itself only', () => {
  const bed = new PolicyBed(PODS);
  bed.isolate('a', { ingress: 1 }, { ruleSets: [ruleSet(1, DENY_ALL)] });
  const toB = udpPacket({ source: '10.1.0.2', destination: '10.1.0.3' });
  assert.is(fateOf(bed.send('a', toB)), 'pass');
  assert.is(fateOf(bed.send('a', udpPacket(FLOW))), 'pass');
  assert.is(fateOf(bed.send('b', errorAbout('10.1.0.3', toB, 28))), 'pass');
  assert.is(fateOf(bed.send('b', errorAbout('10.1.0.3', udpPacket(FLOW), 28))), 'policyIngress');
});

test('every judgement is in the ring, once', () => {
  const bed = bedWithClient();
  const ring = bed.core.directory(layout.DIRECTORY_VERDICTS);
  const head = (): number => bed.core.view.getUint32(ring + abi.VERDICTS_HEAD, true);
  handshake(bed);
  assert.is(head(), 1);
  reply(bed, TCP.ack, { ...FLOW, sourcePort: 2 });
  assert.is(head(), 2);
  const record = ring + abi.VERDICTS_RECORDS;
  const { view, bytes } = bed.core;
  assert.is(view.getUint16(record + abi.VERDICT_DEVICE, true), bed.device('a'));
  assert.equal([abi.VERDICT_INGRESS, abi.VERDICT_ALLOWED, abi.VERDICT_TCP_FLAGS,
    abi.VERDICT_FAMILY].map((field) => bytes[record + field]), [0, 1, TCP.syn, 4]);
  assert.is(view.getUint32(record + abi.VERDICT_KEY, true), (6 << 16) | 80);
  assert.is(view.getUint16(record + abi.VERDICT_SOURCE_PORT, true), 40000);
  assert.equal([...bytes.slice(record + abi.VERDICT_SOURCE, record + abi.VERDICT_SOURCE + 4)],
    [10, 1, 0, 2]);
  const second = record + abi.VERDICT_SIZE;
  assert.equal([abi.VERDICT_INGRESS, abi.VERDICT_ALLOWED].map((field) => bytes[second + field]),
    [1, 0]);
  for (let port = 1; port <= 300; port += 1) out(bed, TCP.syn, { ...FLOW, sourcePort: port });
  assert.is(head(), 302);
  const last = record + ((301 & 255) * abi.VERDICT_SIZE);
  assert.is(view.getUint16(last + abi.VERDICT_SOURCE_PORT, true), 300);
});

test.run();
