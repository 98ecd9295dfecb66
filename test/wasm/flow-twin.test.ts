// Flows in the core against their slow twin: random packets between a few ends, under policies that
// change now and then, over a clock that sometimes jumps. And a connection through two nodes.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { readEvents } from '../../engine/counters.ts';
import type { PolicyChange, Program, RuleSet } from '../../engine/model.ts';
import { FlowTwin, type TwinPacket } from '../reference/flows.ts';
import { identityOf, ruleSetAnswer } from '../reference/policy-match.ts';
import {
  ALLOW_ALL, back, DENY_ALL, echoPacket, fateOf, NOTHING, PolicyBed, program, ruleSet, TCP,
  tcpPacket, udpPacket, type Fate,
} from '../support/policy-core.ts';
import { icmp, icmpv6, ipv4, ipv6 } from '../support/packets.ts';
import { Random } from '../support/random.ts';

const LOCAL: Record<string, string[]> = {
  a: ['10.1.0.2', 'fd00:1::2'], b: ['10.1.0.3', 'fd00:1::3'],
};
const ENDS = {
  IPv4: ['10.1.0.2', '10.1.0.3', '10.1.1.9', '10.1.2.9'],
  IPv6: ['fd00:1::2', 'fd00:1::3', 'fd00:1:0:1::9', 'fd00:1:0:2::9'],
};
const PORTS = [80, 81];
const PAUSES = [2_304, 9_999, 10_000, 30_000, 60_000, 300_000];
const SIGNALS = [TCP.syn, TCP.syn, TCP.syn | TCP.ack, TCP.ack, TCP.ack, TCP.ack, TCP.psh | TCP.ack,
  TCP.fin | TCP.ack, TCP.rst, 0];
const PROGRAMS: Program[] = [
  DENY_ALL, ALLOW_ALL, ALLOW_ALL, program([{ protocol: 6, first: 80, last: 80 }]),
  program([{ protocol: 17 }, { protocol: 1 }]), program([{ protocol: 6 }, { protocol: 58 }]),
];

function bytesOf(packet: TwinPacket): Uint8Array {
  const { source, destination, protocol, sourcePort, signal } = packet;
  if (protocol === 6) return tcpPacket(packet, signal);
  if (protocol === 17) return udpPacket(packet);
  const rest = sourcePort * 65536;
  if (protocol === 1) return ipv4(packet, icmp(signal, 0, rest, new Uint8Array(4)));
  if (protocol === 58) {
    const message = icmpv6({ source, destination, type: signal, rest }, new Uint8Array(4));
    return ipv6({ source, destination, nextHeader: 58 }, message);
  }
  return source.includes(':')
    ? ipv6({ source, destination, nextHeader: protocol }, new Uint8Array(8))
    : ipv4(packet, new Uint8Array(8));
}

function randomPacket(random: Random): TwinPacket {
  const family = random.pick(['IPv4', 'IPv6'] as const);
  const ends = ENDS[family];
  const source = random.pick(ends);
  const others = ends.filter((end) => end !== source
    && (ends.indexOf(source) < 2 || ends.indexOf(end) < 2));
  const packet = { source, destination: random.pick(others), protocol: random.pick([6, 6, 6, 17, 1,
    58, 50]), sourcePort: random.pick(PORTS), destinationPort: random.pick(PORTS), signal: 0 };
  if (packet.protocol === 6) packet.signal = random.pick(SIGNALS);
  else if (packet.protocol === 1 || packet.protocol === 58) {
    packet.protocol = family === 'IPv4' ? 1 : 58;
    packet.signal = family === 'IPv4' ? random.pick([0, 8]) : random.pick([128, 129]);
    packet.destinationPort = packet.sourcePort;
  } else if (packet.protocol === 50) {
    packet.sourcePort = 0;
    packet.destinationPort = 0;
  }
  return packet;
}

/** The state of policy as the twin reads it. */
class PolicyState {
  readonly prefixes = new Map<string, number>();
  readonly ruleSets = new Map<number, RuleSet>();
  readonly endpoints = new Map<string, { ingress: number; egress: number }>();
  readonly verdicts = { egressAllowed: 0, egressDenied: 0, ingressAllowed: 0, ingressDenied: 0 };

  take(change: PolicyChange): void {
    for (const [prefix, identity] of change.identities) this.prefixes.set(prefix, identity);
    for (const set of change.ruleSets) this.ruleSets.set(set.number, set);
    for (const endpoint of change.endpoints) this.endpoints.set(endpoint.name, endpoint);
  }

  /** Why the first packet of a flow is dropped, null where it is allowed. Both ends on this node
   * judge, whatever the other one says. */
  judge({ source, destination, protocol, destinationPort }: TwinPacket): string | null {
    const hasPort = protocol === 6 || protocol === 17;
    const key = (protocol * 65536) + (hasPort ? destinationPort : 0);
    const identity = (address: string): number => identityOf([...this.prefixes], address);
    const allows = (direction: 'egress' | 'ingress', own: string, other: string): boolean => {
      const name = Object.keys(LOCAL).find((pod) => LOCAL[pod]?.includes(own));
      if (name === undefined) return true;
      const set = this.ruleSets.get(this.endpoints.get(name)?.[direction] ?? 0);
      const isAllowed = (ruleSetAnswer(set, identity(other), key) & 1) !== 0;
      this.verdicts[`${direction}${isAllowed ? 'Allowed' : 'Denied'}`] += 1;
      return isAllowed;
    };
    const [mayLeave, mayCome] = [
      allows('egress', source, destination), allows('ingress', destination, source),
    ];
    if (!mayLeave) return 'policyEgress';
    return mayCome ? null : 'policyIngress';
  }
}

function randomChange(random: Random): PolicyChange {
  const identity = (): number => random.between(1, 3);
  const change: PolicyChange = { ...NOTHING, identities: [], ruleSets: [], endpoints: [] };
  for (let left = random.below(3); left > 0; left -= 1) {
    const address = random.pick([...ENDS.IPv4, ...ENDS.IPv6]);
    change.identities.push([`${address}/${address.includes(':') ? 128 : 32}`, identity()]);
  }
  if (random.oneIn(2)) {
    change.ruleSets.push(ruleSet(random.between(1, 3), random.pick(PROGRAMS),
      [[1, random.pick(PROGRAMS)], [2, random.pick(PROGRAMS)]]));
  }
  if (!random.oneIn(3)) {
    change.endpoints.push({
      namespace: 'test', name: random.pick(Object.keys(LOCAL)), uid: 'u',
      ingress: random.below(4), egress: random.below(4),
    });
  }
  return change;
}

function sendTo(bed: PolicyBed, packet: TwinPacket): Fate {
  const pod = Object.keys(LOCAL).find((name) => LOCAL[name]?.includes(packet.source));
  if (pod !== undefined) return fateOf(bed.send(pod, bytesOf(packet)));
  return fateOf(bed.receive(/[.:]2(\.|::)9$/.test(packet.source) ? 2 : 1, bytesOf(packet)));
}

test('random packets under changing policies agree with the twin', () => {
  const fates = new Map<string, number>();
  for (let seed = 0; seed < 12; seed += 1) {
    const random = new Random(seed);
    const bed = new PolicyBed(LOCAL);
    const state = new PolicyState();
    const flows = new FlowTwin();
    bed.nowMs = seed === 3 ? 0xffffffff - 60_000 : 5_000_000;
    const first = { ...NOTHING,
      ruleSets: [1, 2, 3].map((number) => ruleSet(number, random.pick(PROGRAMS))),
      endpoints: Object.keys(LOCAL).map((name) =>
        ({ namespace: 'test', name, uid: 'u', ingress: 1, egress: 2 })) };
    bed.apply(first);
    state.take(first);
    for (let step = 0, epoch = 1; step < 3000; step += 1) {
      if (random.oneIn(40)) {
        const next = randomChange(random);
        bed.apply(next);
        state.take(next);
        epoch += 1;
      }
      bed.nowMs += random.oneIn(50) ? random.pick(PAUSES) : 1;
      const packet = randomPacket(random);
      const expected = flows.decide(packet, bed.nowMs, epoch, (one) => state.judge(one)) ?? 'pass';
      const place = `seed ${seed} step ${step} ${JSON.stringify(packet)}`;
      assert.is(sendTo(bed, packet), expected, place);
      fates.set(expected, (fates.get(expected) ?? 0) + 1);
    }
    const events = readEvents(bed.core);
    for (const [event, count] of Object.entries(state.verdicts)) {
      assert.is(events[event], count, `seed ${seed} ${event}`);
    }
  }
  for (const fate of ['pass', 'policyEgress', 'policyIngress']) {
    assert.ok((fates.get(fate) ?? 0) > 3000, `${fates.get(fate)} ${fate}`);
  }
});

// Two nodes: what the core of one sends to its peer goes into the core of the other.
//
//   client 10.1.0.2 -- node 0 ==== VXLAN ==== node 1 -- server 10.1.1.2

const ONE = ['10.1.0.2', 'fd00:1::2'];
const TWO = ['10.1.1.2', 'fd00:1:0:1::2'];

function carry(from: PolicyBed, pod: string, to: PolicyBed, packet: Uint8Array): Fate {
  const verdict = from.send(pod, packet);
  if (fateOf(verdict) !== 'pass') return `${fateOf(verdict)} at the sender`;
  return fateOf(to.receive(from.index, verdict.bytes.subarray(22)));
}

for (const [family, source, destination] of [
  ['IPv4', ONE[0], TWO[0]], ['IPv6', ONE[1], TWO[1]],
] as const) {
  test(`${family}: egress on the sender's node, ingress on the receiver's`, () => {
    const near = new PolicyBed({ client: ONE }, { index: 0 });
    const far = new PolicyBed({ server: TWO }, { index: 1 });
    const http = program([{ protocol: 6, first: 80, last: 80 }]);
    near.isolate('client', { egress: 1, ingress: 2 }, {
      identities: [['10.1.1.2/32', 5], ['fd00:1:0:1::2/128', 5]],
      ruleSets: [ruleSet(1, DENY_ALL, [[5, ALLOW_ALL]]), ruleSet(2, DENY_ALL)],
    });
    far.isolate('server', { ingress: 1, egress: 2 }, {
      identities: [['10.1.0.2/32', 8], ['fd00:1::2/128', 8]],
      ruleSets: [ruleSet(1, DENY_ALL, [[8, http]]), ruleSet(2, DENY_ALL)],
    });
    const flow = { source: source ?? '', destination: destination ?? '' };
    const go = (packet: Uint8Array): Fate => carry(near, 'client', far, packet);
    const come = (packet: Uint8Array): Fate => carry(far, 'server', near, packet);
    assert.is(come(tcpPacket(back(flow), TCP.ack)), 'policyEgress at the sender');
    assert.is(go(tcpPacket(flow, TCP.syn)), 'pass');
    assert.is(come(tcpPacket(back(flow), TCP.syn | TCP.ack)), 'pass');
    assert.is(go(tcpPacket(flow, TCP.ack)), 'pass');
    assert.is(go(tcpPacket({ ...flow, destinationPort: 443 }, TCP.syn)), 'policyIngress');
    assert.is(go(echoPacket(flow, false)), 'policyIngress');
    const other = { ...flow, destination: flow.destination.replace(/2$/, '3') };
    assert.is(go(tcpPacket(other, TCP.syn)), 'policyEgress at the sender');
    far.apply({ ruleSets: [ruleSet(1, DENY_ALL)] });
    assert.is(come(tcpPacket(back(flow), TCP.ack)), 'policyIngress at the sender');
    assert.is(go(tcpPacket(flow, TCP.ack)), 'policyIngress');
  });
}

test.run();
