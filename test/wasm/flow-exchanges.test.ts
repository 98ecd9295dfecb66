// Many short exchanges of UDP, as of resolvers: a question for each kind of address, from one port,
// each answered at once. They come and go beside connections that stay, by a clock that the test
// sets, through a Service and past it.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as abi from '../../wasm/abi/policy.ts';
import { readDrops } from '../../engine/counters.ts';
import { PROFILES } from '../../engine/memory-map.ts';
import {
  ALLOW_ALL, back, DENY_ALL, echoPacket, fateOf, ruleSet, TCP, tcpPacket, udpPacket, type Flow,
} from '../support/policy-core.ts';
import { Random } from '../support/random.ts';
import { service, ServiceBed } from '../support/service-core.ts';

const CLIENT = '10.1.0.2';
const FRONT = '10.96.0.10';
const SERVERS = ['10.1.1.7', '10.1.1.8', '10.1.1.9'];
const QUESTIONS = 2;
const HELD = 200;
/** As often as who keeps a path through NATs open: sooner than an exchange is forgotten. */
const KEPT_ALIVE_S = 25;
const EPHEMERAL = { first: 32_768, count: 28_232 };
const { flows: FLOWS } = PROFILES.small.policy;

/** A pod that may ask anybody, and that nobody may ask. */
function makeBed(): ServiceBed {
  const bed = new ServiceBed({ a: [CLIENT] }, { policy: { flows: FLOWS } });
  bed.isolate('a', { ingress: 1, egress: 2 }, {
    ruleSets: [ruleSet(1, DENY_ALL), ruleSet(2, ALLOW_ALL)],
  });
  const port = { protocol: 'UDP', port: 53 } as const;
  bed.serve(service([FRONT], SERVERS, port));
  return bed;
}

/** Connections that are established, past the Service and to it. */
function hold(bed: ServiceBed): Flow[] {
  bed.serve(service(['10.96.0.11'], SERVERS, { name: 'held' }));
  return Array.from({ length: HELD }, (_, index) => {
    const flow = {
      source: CLIENT, destination: index % 2 === 0 ? '10.96.0.11' : '10.1.2.9',
      sourcePort: 1000 + index, destinationPort: 80,
    };
    const { destination, destinationPort } = bed.through('a', tcpPacket(flow, TCP.syn));
    const there = { ...flow, destination, destinationPort };
    const peer = index % 2 === 0 ? 1 : 2;
    bed.back(peer, tcpPacket(back(there), TCP.syn | TCP.ack));
    bed.through('a', tcpPacket(flow, TCP.ack));
    return there;
  });
}

/** All packets of an exchange go where they should, and answers come from who was asked. */
function exchange(bed: ServiceBed, destination: string, sourcePort: number): void {
  const asked = { source: CLIENT, destination, sourcePort, destinationPort: 53 };
  for (let question = 0; question < QUESTIONS; question += 1) {
    const out = bed.through('a', udpPacket(asked));
    const answer = bed.back(1, udpPacket(back(out)));
    assert.equal([answer.source, answer.sourcePort], [destination, 53]);
  }
}

/** So many exchanges a second, evenly, for so many seconds. Returns the most flows there were. */
function resolve(bed: ServiceBed, perSecond: number, seconds: number): number {
  const random = new Random(perSecond);
  const startMs = bed.nowMs;
  let most = 0;
  for (let done = 0; done < perSecond * seconds; done += 1) {
    bed.nowMs = startMs + Math.floor((done * 1000) / perSecond);
    const port = EPHEMERAL.first + random.below(EPHEMERAL.count);
    exchange(bed, random.oneIn(4) ? SERVERS[0] ?? '' : FRONT, port);
    most = Math.max(most, bed.flowCount());
  }
  return most;
}

function expectHeld(bed: ServiceBed, held: Flow[]): void {
  for (const flow of held) {
    const peer = SERVERS.includes(flow.destination) ? 1 : 2;
    assert.is(fateOf(bed.receive(peer, tcpPacket(back(flow), TCP.ack))), 'pass');
  }
  for (const direction of ['outbound', 'inbound'] as const) {
    const drops = readDrops(bed.core, direction);
    assert.is(drops['flowTableFull'] ?? 0, 0);
    assert.is(drops['serviceSession'] ?? 0, 0);
  }
}

test('100 exchanges a second for ten minutes fit the small profile', () => {
  const bed = makeBed();
  const held = hold(bed);
  const most = resolve(bed, 100, 600);
  assert.ok(most < FLOWS * 0.7, `${most} flows`);
  expectHeld(bed, held);
  bed.nowMs += abi.FLOW_TIMEOUT_UDP;
  bed.idle(2 * FLOWS / abi.FLOW_GROUP_SIZE);
  assert.is(bed.flowCount(), HELD + (HELD / 2), 'nothing is left of exchanges');
});

test('more of them than the table holds go round in it, and nobody is refused', () => {
  const bed = makeBed();
  const held = hold(bed);
  const most = resolve(bed, 1000, 120);
  assert.ok(most > FLOWS * 0.9, `${most} flows`);
  expectHeld(bed, held);
});

test('who waits for an answer is not given up for pings, which live longer', () => {
  const bed = makeBed();
  const asked = { source: CLIENT, destination: FRONT, sourcePort: 9, destinationPort: 53 };
  for (let sent = 0; sent < FLOWS * 2; sent += 1) {
    const destination = `10.1.1.${1 + (sent >>> 15)}`;
    const ping = echoPacket({ source: CLIENT, destination }, false, sent & 0x7fff);
    assert.is(fateOf(bed.send('a', ping)), 'pass');
    bed.nowMs += 1;
    if (sent % 1000 !== 0) continue;
    const out = bed.through('a', udpPacket({ ...asked, sourcePort: 1000 + (sent / 1000) }));
    for (let more = 0; more < 500; more += 1) {
      bed.send('a', echoPacket({ source: CLIENT, destination: '10.1.2.9' }, false, sent + more));
    }
    assert.is(bed.back(1, udpPacket(back(out))).source, FRONT);
  }
});

test('a conversation that is heard of every 25 seconds is not given up', () => {
  const bed = makeBed();
  const talk = { source: CLIENT, destination: '10.1.2.9', sourcePort: 9, destinationPort: 5004 };
  const step = (): void => {
    assert.is(fateOf(bed.send('a', udpPacket(talk))), 'pass');
    assert.is(fateOf(bed.receive(2, udpPacket(back(talk)))), 'pass');
  };
  step();
  bed.nowMs += (abi.FLOW_EXCHANGE_STEPS + 1) << abi.FLOW_STEP_SHIFT;
  step();
  for (let round = 0; round < 3; round += 1) {
    resolve(bed, 1000, KEPT_ALIVE_S);
    assert.is(fateOf(bed.receive(2, udpPacket(back(talk)))), 'pass');
  }
});

test.run();
