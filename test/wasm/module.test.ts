// Policy modules in the core: who is asked, with what, in which order, and what comes of it.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { readDrops } from '../../engine/counters.ts';
import {
  attachEvaluate, disableModule, moduleCalls, ModuleTable, runBatch, type Evaluate,
  type ModuleEntry, type ModuleFault,
} from '../../engine/modules.ts';
import { VerdictReader } from '../../engine/verdicts.ts';
import { DEVICE_UNDERLAY_IPV4, DIRECTORY_NODE_IPV4, DIRECTORY_START } from
  '../../wasm/abi/layout.ts';
import { ANSWER_FINAL } from '../../wasm/abi/policy.ts';
import { placePacket, readVerdict } from '../support/core.ts';
import {
  guardBatches, misshapenModule, moduleEntry, moduleOfFunction, recursiveModule, trappingModule,
  VERDICT,
} from '../support/modules.ts';
import {
  ALLOW_ALL, back, DENY_ALL, echoPacket, fateOf, PolicyBed, ruleSet, TCP, tcpPacket, udpPacket,
  type Fate,
} from '../support/policy-core.ts';
import { read32 } from '../support/packets.ts';
import { assertSums, innerOf, read } from '../support/service-core.ts';

const test = suite('policy modules');

const A = '10.1.0.2';
const B = '10.1.0.3';
const FLOW = { source: A, destination: B };
const ANSWERS = new Map([['pass', 0], ['allow', 1], ['deny', 2], ['reject', 3]]);

/** Two pods on one node, and modules. */
class ModuleBed extends PolicyBed {
  readonly modules = new ModuleTable(this.core);
  readonly faults: ModuleFault[] = [];

  constructor() {
    super({ a: [A, 'fd00:1::2'], b: [B, 'fd00:1::3'] });
  }

  /** Puts functions in the place of the modules, in order. */
  use(functions: Evaluate[], parts: Partial<ModuleEntry>[] = []): void {
    functions.forEach((evaluate, place) => attachEvaluate(this.core, place, evaluate));
    this.modules.set(functions.map((_, place) => moduleEntry(place, parts[place])));
  }

  override send(from: string, packet: Uint8Array): ReturnType<PolicyBed['send']> {
    placePacket(this.core, 0, packet, this.device(from));
    runBatch(this.core, 0, 1, this.nowMs | 0, (fault) => this.faults.push(fault));
    return readVerdict(this.core, 0);
  }

  fate(port = 80): Fate {
    return fateOf(this.send('a', tcpPacket({ ...FLOW, destinationPort: port }, TCP.syn)));
  }
}

function says(verdict: string): Evaluate {
  return moduleOfFunction(() => ANSWERS.get(verdict) ?? -1);
}

test('a module is asked once for each end of a flow, with what the WIT says of it', () => {
  const bed = new ModuleBed();
  const asked: number[][] = [];
  bed.use([moduleOfFunction((...words) => asked.push(words) * 0)]);
  bed.isolate('a', { egress: 1 }, {
    ruleSets: [ruleSet(1, ALLOW_ALL)],
    identities: [[`${A}/32`, 7], ['fd00:1::3/128', 9]],
  });
  assert.is(bed.fate(443), 'pass');
  bed.send('b', tcpPacket(back({ ...FLOW, destinationPort: 443 }), TCP.syn | TCP.ack));
  bed.send('a', tcpPacket({ ...FLOW, destinationPort: 443 }, TCP.ack));
  const ipv4 = [6, TCP.syn, 40000, 443, 7, 0, 0x0a010002, 0, 0, 0, 0x0a010003, 0, 0, 0];
  assert.equal(asked, [[0, 1, ...ipv4], [0, 0, ...ipv4]]);
  asked.length = 0;
  bed.send('a', udpPacket({ source: 'fd00:1::2', destination: 'fd00:1::3' }));
  const ipv6 = [17, 0, 40000, 80, 0, 9,
    ...[0xfd000001 | 0, 0, 0, 2], ...[0xfd000001 | 0, 0, 0, 3]];
  assert.equal(asked, [[1, 1, ...ipv6], [1, 0, ...ipv6]]);
  asked.length = 0;
  bed.send('a', echoPacket(FLOW, false));
  assert.equal(asked[0]?.slice(0, 6), [0, 1, 1, 0, 0, 0]);
});

test('modules are asked in order; deny and reject end it, allow where it may', () => {
  const cases: [modules: string[], mayAllow: boolean, policy: boolean, fate: Fate][] = [
    [['pass'], false, true, 'pass'],
    [['pass'], false, false, 'policyEgress'],
    [['deny'], false, true, 'moduleEgress'],
    [['reject'], false, true, 'moduleRejected'],
    [['allow'], false, false, 'policyEgress'],
    [['allow'], true, false, 'pass'],
    [['allow', 'deny'], true, true, 'pass'],
    [['allow', 'deny'], false, true, 'moduleEgress'],
    [['pass', 'pass', 'reject', 'allow'], true, true, 'moduleRejected'],
  ];
  for (const [modules, mayAllow, policy, fate] of cases) {
    const bed = new ModuleBed();
    bed.use(modules.map(says), modules.map(() => ({ mayAllow })));
    bed.isolate('a', { egress: 1 }, { ruleSets: [ruleSet(1, policy ? ALLOW_ALL : DENY_ALL)] });
    assert.is(bed.fate(), fate, `${modules.join()} ${mayAllow} ${policy}`);
  }
});

test('who is rejected hears of it: TCP by a reset, others by ICMP', () => {
  const bed = new ModuleBed();
  const node = bed.core.view;
  node.setUint32(DIRECTORY_START + DIRECTORY_NODE_IPV4, 0x0a00a8c0, true);
  bed.use([says('reject')]);
  for (const [source, destination] of [[A, B], ['fd00:1::2', 'fd00:1::3']] as const) {
    const flow = { source, destination, sourcePort: 40000, destinationPort: 443 };
    const reset = bed.send('a', tcpPacket(flow, TCP.syn));
    assert.is(fateOf(reset), 'moduleRejected');
    assert.is(reset.output, bed.device('a'));
    const packet = innerOf(reset);
    assertSums(packet);
    const { offset, ...seen } = read(packet);
    assert.is(`${seen.source} ${seen.sourcePort} > ${seen.destination} ${seen.destinationPort}`,
      `${destination} 443 > ${source} 40000`);
    assert.is(packet[offset + 13], TCP.rst | TCP.ack);
    assert.is(read32(packet, offset + 8), 2, 'it acknowledges the SYN');
  }
  const unreachable = innerOf(bed.send('a', udpPacket(FLOW)));
  assertSums(unreachable);
  assert.equal([...unreachable.subarray(20, 22)], [3, 13], 'communication is prohibited');
  assert.not.ok(bed.send('a', tcpPacket(FLOW, TCP.rst)).sent, 'a reset is answered by nothing');
});

test('a rejected packet of a peer is answered there', () => {
  const bed = new ModuleBed();
  bed.use([says('reject')]);
  guardBatches(bed.core, () => undefined);
  const flow = { source: '10.1.1.7', destination: A, sourcePort: 40000, destinationPort: 443 };
  const verdict = bed.receive(1, tcpPacket(flow, TCP.syn));
  assert.is(verdict.output, DEVICE_UNDERLAY_IPV4);
  const { source, destination, offset, packet } = read(innerOf(verdict));
  assert.is(`${source} > ${destination}`, `${A} > 10.1.1.7`);
  assert.is(packet[offset + 13], TCP.rst | TCP.ack);
});

test('what the admin tier has decided is shown to no module', () => {
  const bed = new ModuleBed();
  bed.use([says('deny')]);
  const accept = ruleSet(1, [[0, (5 << 8) | ANSWER_FINAL | 1]]);
  const refuse = ruleSet(2, [[0, (6 << 8) | ANSWER_FINAL]]);
  bed.isolate('a', { egress: 1 }, { ruleSets: [accept, refuse] });
  assert.is(bed.fate(1), 'moduleIngress');
  bed.isolate('b', { ingress: 1 });
  assert.is(bed.fate(2), 'pass');
  bed.isolate('a', { egress: 2 });
  assert.is(bed.fate(3), 'policyEgress');
  assert.is(bed.modules.counters(0).deny, 1);
});

test('a module that fails gets its failure verdict, and the others theirs', () => {
  const broken: [name: string, evaluate: Evaluate, kind: string][] = [
    ['trap', trappingModule(), 'trap'],
    ['recursion', recursiveModule(), 'trap'],
    ['signature', misshapenModule(), 'trap'],
    ['exception', moduleOfFunction(() => { throw new Error('no'); }), 'trap'],
    ['nonsense', moduleOfFunction(() => 77), 'answer'],
    ['below', moduleOfFunction(() => -1), 'answer'],
    ['more without payload', moduleOfFunction(() => VERDICT.more), 'answer'],
  ];
  for (const [name, evaluate, kind] of broken) {
    for (const failure of ['deny', 'pass', 'allow'] as const) {
      const bed = new ModuleBed();
      let before = 0;
      const counting = moduleOfFunction(() => { before += 1; return VERDICT.pass; });
      bed.use([counting, evaluate], [{}, { failure, mayAllow: true }]);
      bed.isolate('a', { egress: 1 }, { ruleSets: [ruleSet(1, DENY_ALL)] });
      const fates = { deny: 'moduleEgress', pass: 'policyEgress', allow: 'pass' };
      assert.is(bed.fate(), fates[failure], `${name} ${failure}`);
      assert.is(before, 2, 'each end is asked about once, whatever fails afterwards');
      const counters = bed.modules.counters(1);
      assert.is(counters[kind as 'trap' | 'answer'], 2);
      assert.is(bed.faults.length, kind === 'trap' ? 2 : 0);
      assert.ok(bed.faults.every((fault) => fault.place === 1 && fault.message.length > 0));
      assert.is(moduleCalls(bed.core, 0), 4);
    }
  }
});

test('one that is disabled is not called; its failure verdict applies', () => {
  const bed = new ModuleBed();
  bed.use([trappingModule()]);
  disableModule(bed.core, 0);
  assert.is(bed.modules.entries[0]?.disabled, true);
  assert.is(bed.fate(), 'moduleEgress');
  assert.is(bed.faults.length, 0);
});

test('a known flow is judged anew when the list changes', () => {
  const bed = new ModuleBed();
  assert.is(bed.fate(), 'pass');
  bed.use([says('deny')]);
  assert.is(bed.fate(), 'moduleEgress');
  bed.modules.set([]);
  assert.is(bed.fate(), 'pass');
  assert.is(readDrops(bed.core, 'outbound')['moduleEgress'], 1);
});

test('what is judged says which module decided', () => {
  const bed = new ModuleBed();
  const reader = new VerdictReader(bed.core);
  bed.use([says('pass'), says('pass'), says('deny')]);
  bed.fate();
  const [egress, ingress] = reader.read();
  assert.is(egress?.module, 2);
  assert.is(egress?.allowed, false);
  assert.is(ingress?.module, 2);
  bed.modules.set([]);
  bed.fate(81);
  assert.equal(reader.read().map(({ module }) => module), [-1, -1]);
});

test('a place is free again once nobody can be calling it', () => {
  const bed = new ModuleBed();
  bed.use([says('pass')]);
  assert.not.ok(bed.modules.isFree(0));
  bed.modules.set([moduleEntry(1)]);
  assert.ok(bed.modules.isFree(0));
  assert.throws(() => bed.modules.set([moduleEntry(1), moduleEntry(1)]), /same place/);
  assert.throws(() => bed.modules.set([moduleEntry(24)]), /not below/);
});

test.run();
