// Policy modules that look at each packet of a flow, or at the first payload that its opener sends.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  attachEvaluate, attachInspect, ModuleTable, runBatch, type Evaluate, type Inspect,
  type ModuleEntry, type ModuleFault,
} from '../../engine/modules.ts';
import { MODULE_PAYLOAD_BYTES, MODULE_PAYLOAD_PACKETS, WATCH_LIMIT } from
  '../../wasm/abi/module.ts';
import { placePacket, readVerdict } from '../support/core.ts';
import { moduleEntry, moduleOfFunction, VERDICT } from '../support/modules.ts';
import { ipv4, PROTOCOL, tcp, udp } from '../support/packets.ts';
import {
  ALLOW_ALL, back, fateOf, PolicyBed, ruleSet, TCP, tcpPacket, udpPacket, type Fate,
} from '../support/policy-core.ts';

const test = suite('modules that watch');

const A = '10.1.0.2';
const B = '10.1.0.3';
const FLOW = { source: A, destination: B, sourcePort: 40000, destinationPort: 443 };

interface Shown {
  offset: number;
  text: string;
}

class WatchBed extends PolicyBed {
  readonly modules = new ModuleTable(this.core);
  readonly faults: ModuleFault[] = [];

  constructor(flows?: number) {
    super({ a: [A], b: ['10.1.0.9'] }, flows === undefined ? {} : { policy: { flows } });
  }

  use(evaluate: Evaluate, part: Partial<ModuleEntry>, inspect: Inspect | null = null): void {
    attachEvaluate(this.core, 0, evaluate);
    attachInspect(this.core, 0, inspect);
    this.modules.set([moduleEntry(0, { hasPayload: inspect !== null, ...part })]);
  }

  /** What becomes of a packet of a pod. */
  fate(packet: Uint8Array): Fate {
    placePacket(this.core, 0, packet, this.device('a'));
    runBatch(this.core, 0, 1, this.nowMs | 0, (fault) => this.faults.push(fault));
    return fateOf(readVerdict(this.core, 0));
  }
}

const OUT = { ...FLOW, destination: '10.1.1.2' };

function segment(
  text: string, sequence: number, flags: number = TCP.ack, sourcePort = OUT.sourcePort,
): Uint8Array {
  const payload = new TextEncoder().encode(text);
  return ipv4({ ...OUT, protocol: PROTOCOL.tcp },
    tcp({ ...OUT, sourcePort, flags, sequence }, payload));
}

function always(verdict: number): Evaluate {
  return moduleOfFunction(() => verdict);
}

test('one that looks at each packet may refuse any, and the flow lives on', () => {
  const bed = new WatchBed();
  const flags: number[] = [];
  bed.use(moduleOfFunction((...words) => {
    flags.push(words[3] ?? 0);
    return flags.length % 3 === 0 ? VERDICT.deny : VERDICT.pass;
  }), { perPacket: true });
  const packets = [TCP.syn, TCP.ack, TCP.ack, TCP.ack | TCP.psh, TCP.ack, TCP.ack];
  const fates = packets.map((flag) => bed.fate(tcpPacket(OUT, flag)));
  assert.equal(fates, ['pass', 'pass', 'moduleEgress', 'pass', 'pass', 'moduleEgress']);
  assert.equal(flags, packets);
  assert.is(bed.flowCount(), 1);
});

test('one that may not is asked about the first', () => {
  const bed = new WatchBed();
  let asked = 0;
  bed.use(moduleOfFunction(() => (asked += 1) * 0), {});
  for (const flag of [TCP.syn, TCP.ack, TCP.ack]) bed.fate(tcpPacket(OUT, flag));
  assert.is(asked, 1);
});

test('one that says more is shown what the opener sends, until it has seen enough', () => {
  const bed = new WatchBed();
  const shown: Shown[] = [];
  bed.use(always(VERDICT.more), {}, (flow, offset, bytes) => {
    assert.equal([...flow.slice(0, 6)], [0, 1, 6, TCP.ack, 40000, 443]);
    shown.push({ offset, text: Buffer.from(bytes).toString() });
    return offset + bytes.length < 10 ? VERDICT.more : VERDICT.pass;
  });
  assert.is(bed.fate(segment('', 999, TCP.syn)), 'pass');
  const reply = tcpPacket(back(OUT), TCP.syn | TCP.ack);
  assert.is(fateOf(bed.receive(1, reply)), 'pass');
  assert.is(bed.fate(segment('', 1000)), 'pass');
  assert.is(bed.fate(segment('hello', 1000)), 'pass');
  assert.is(bed.fate(segment('hello', 1000)), 'pass', 'sent again');
  assert.is(bed.fate(segment('world', 1005)), 'pass');
  assert.is(bed.fate(segment('unseen', 1010)), 'pass');
  assert.equal(shown, [
    { offset: 0, text: 'hello' }, { offset: 0, text: 'hello' }, { offset: 5, text: 'world' },
  ]);
  assert.equal(bed.modules.counters(0).more, 3);
});

test('what is refused for its payload stays refused until the opener begins anew', () => {
  const bed = new WatchBed();
  bed.use(always(VERDICT.more), {}, (_flow, _offset, bytes) =>
    (bytes[0] === 0x62 ? VERDICT.reject : VERDICT.allow));
  bed.fate(segment('', 0, TCP.syn));
  assert.is(bed.fate(segment('bad', 1)), 'moduleRejected');
  assert.is(bed.fate(segment('good', 1)), 'moduleRejected');
  assert.is(bed.fate(segment('', 77, TCP.syn)), 'pass');
  assert.is(bed.fate(segment('good', 78)), 'pass');
  assert.is(bed.fate(segment('bad', 82)), 'pass', 'nobody looks any more');
  assert.is(bed.fate(segment('', 500, TCP.syn)), 'pass');
  assert.is(bed.fate(segment('bad', 501)), 'moduleRejected');
});

test('who wants more than the limits has failed', () => {
  for (const failure of ['deny', 'pass'] as const) {
    const bed = new WatchBed();
    bed.use(always(VERDICT.more), { failure }, () => VERDICT.more);
    bed.fate(segment('', 0, TCP.syn));
    const fates = Array.from({ length: MODULE_PAYLOAD_PACKETS + 1 }, (_, index) =>
      bed.fate(segment('x', 1 + index)));
    const last = failure === 'deny' ? 'moduleEgress' : 'pass';
    const expected = new Array<Fate>(MODULE_PAYLOAD_PACKETS - 1).fill('pass');
    assert.equal(fates, [...expected, last, last]);
  }
  const bed = new WatchBed();
  let seen = 0;
  bed.use(always(VERDICT.more), {}, (_flow, offset, bytes) => {
    seen = offset + bytes.length;
    return VERDICT.more;
  });
  bed.fate(segment('', 0, TCP.syn));
  assert.is(bed.fate(segment('z'.repeat(900), 1)), 'pass');
  assert.is(bed.fate(segment('far away', MODULE_PAYLOAD_BYTES + 1)), 'moduleEgress');
  assert.is(seen, 900);
});

test('the first packet is shown where it has payload, and fragments are refused', () => {
  const bed = new WatchBed();
  const shown: string[] = [];
  bed.use(always(VERDICT.more), {}, (_flow, offset, bytes) => {
    shown.push(`${offset}:${bytes.length}`);
    return shown.length < 3 ? VERDICT.more : VERDICT.deny;
  });
  assert.is(bed.fate(udpPacket(OUT, 30)), 'pass');
  assert.is(bed.fate(udpPacket(OUT, 20)), 'pass');
  assert.is(bed.fate(udpPacket(OUT, 10)), 'moduleEgress');
  assert.equal(shown, ['0:30', '30:20', '50:10']);
  const datagram = udp({ ...OUT, sourcePort: 40001 }, new Uint8Array(24));
  const first = ipv4({ ...OUT, protocol: PROTOCOL.udp, moreFragments: true }, datagram);
  assert.is(bed.fate(first), 'moduleEgress');
});

test('a fault while payload is shown is the failure verdict of this flow', () => {
  for (const failure of ['deny', 'pass'] as const) {
    const bed = new WatchBed();
    bed.use(always(VERDICT.more), { failure }, () => { throw new Error('too much'); });
    bed.fate(segment('', 0, TCP.syn));
    assert.is(bed.fate(segment('data', 1)), failure === 'deny' ? 'moduleEgress' : 'pass');
    assert.equal(bed.faults, [{ place: 0, kind: 'trap', message: 'too much' }]);
    assert.is(bed.fate(udpPacket(OUT)), failure === 'deny' ? 'moduleEgress' : 'pass');
    assert.is(bed.faults.length, 2);
    assert.is(bed.modules.counters(0).trap, 2);
  }
});

test('a change of policy shows known flows to nobody, but goes on with those half shown', () => {
  const bed = new WatchBed();
  const shown: number[] = [];
  bed.fate(segment('', 0, TCP.syn));
  bed.use(always(VERDICT.more), {}, (_flow, offset) => {
    shown.push(offset);
    return VERDICT.more;
  });
  assert.is(bed.fate(segment('old', 1)), 'pass');
  bed.fate(segment('', 0, TCP.syn, 40001));
  bed.fate(segment('hello', 1, TCP.ack, 40001));
  bed.isolate('a', { egress: 1 }, { ruleSets: [ruleSet(1, ALLOW_ALL)] });
  bed.fate(segment('old', 4));
  bed.fate(segment('world', 6, TCP.ack, 40001));
  assert.equal(shown, [0, 5]);
});

test('more flows than can be watched are refused, and room comes back', () => {
  const bed = new WatchBed(16384);
  bed.use(always(VERDICT.more), {}, () => VERDICT.pass);
  const flow = (port: number): typeof OUT => ({ ...OUT, sourcePort: port });
  const fates = new Map<Fate, number>();
  for (let port = 1; port <= WATCH_LIMIT * 2; port += 1) {
    const fate = bed.fate(tcpPacket(flow(port), TCP.syn));
    fates.set(fate, (fates.get(fate) ?? 0) + 1);
  }
  assert.ok((fates.get('pass') ?? 0) > WATCH_LIMIT * 0.8);
  assert.ok((fates.get('moduleEgress') ?? 0) > WATCH_LIMIT * 0.8);
  bed.modules.set([]);
  bed.nowMs += 40_000;
  bed.idle(16384);
  bed.use(always(VERDICT.more), {}, () => VERDICT.pass);
  assert.is(bed.fate(tcpPacket(flow(1), TCP.syn)), 'pass');
});

test.run();
