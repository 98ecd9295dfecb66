// Policy matching in the core against its slow twin: identities, rule sets and programs, at their
// edges and at random.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as abi from '../../wasm/abi/policy.ts';
import type { Program, RuleSet } from '../../engine/model.ts';
import { answerOf, identityOf, ruleSetAnswer } from '../reference/policy-match.ts';
import { ALLOW_ALL, DENY_ALL, PolicyBed, program, ruleSet } from '../support/policy-core.ts';
import { Random } from '../support/random.ts';

const PODS = { a: ['10.1.0.2', 'fd00:1::2'] };
const KEY_MAX = (255 * 65536) + 65535;

function answer(bed: PolicyBed, number: number, identity: number, key: number): number {
  return bed.core.exports.policyAnswer(bed.policy.ruleSet(number), identity, key) >>> 0;
}

function randomProgram(random: Random, boundaries: number): Program {
  const keys = new Set([0]);
  while (keys.size < boundaries) {
    const key = random.below(KEY_MAX + 1);
    keys.add(random.oneIn(3) ? key - (key % 65536) : key);
    if (keys.size < boundaries && random.oneIn(3)) keys.add(random.pick([...keys]) + 1);
  }
  return [...keys].sort((a, b) => a - b)
    .map((key) => [key, ((random.below(0x1000000) * 256) + random.below(2)) >>> 0]);
}

/** Keys at and around each boundary, and at the ends of every protocol. */
function edgeKeys(own: Program): number[] {
  return own.flatMap(([key]) => [key - 1, key, key + 1]).concat(0, 1, 65535, KEY_MAX, KEY_MAX - 1)
    .filter((key) => key >= 0);
}

test('rule set 0 allows everything', () => {
  const bed = new PolicyBed(PODS);
  assert.is(bed.core.exports.policyAnswer(0, 5, KEY_MAX), abi.ANSWER_ALLOW);
});

test('every protocol, first and last port', () => {
  const bed = new PolicyBed(PODS);
  for (let protocol = 0; protocol < 256; protocol += 1) {
    bed.apply({ ruleSets: [
      ruleSet(1, program([{ protocol, first: 0, last: 0 }, { protocol, first: 65535 }], 9)),
    ] });
    for (let other = 0; other < 256; other += 1) {
      for (const port of [0, 1, 65534, 65535]) {
        const allowed = other === protocol && (port === 0 || port === 65535);
        const expected = allowed ? (9 << 8) | 1 : 0;
        assert.is(answer(bed, 1, 3, (other * 65536) + port), expected, `${other} ${port}`);
      }
    }
  }
});

test('programs of every length', () => {
  const random = new Random(3);
  const bed = new PolicyBed(PODS);
  for (const length of [1, 2, 3, 4, 5, 7, 8, 9, 31, 32, 33, 1000, 4095, 4096]) {
    const own = randomProgram(random, length);
    bed.apply({ ruleSets: [ruleSet(1, own)] });
    for (const key of edgeKeys(own)) assert.is(answer(bed, 1, 1, key), answerOf(own, key));
  }
});

test('identity 0 and unknown ones get the fallback, unless they are named', () => {
  const bed = new PolicyBed(PODS);
  bed.apply({ ruleSets: [
    ruleSet(1, DENY_ALL, [[abi.IDENTITY_MAX, ALLOW_ALL]]), ruleSet(2, DENY_ALL, [[0, ALLOW_ALL]]),
  ] });
  for (const [set, identity, expected] of [
    [1, 0, 0], [1, 1, 0], [1, abi.IDENTITY_MAX, 1], [2, 0, 1], [2, 1, 0],
  ] as const) assert.is(answer(bed, set, identity, 6 << 16), expected);
});

test('random rule sets agree with the twin', () => {
  const random = new Random(5);
  const bed = new PolicyBed(PODS, { policy: { arenaBytes: 64 * 1024 * 1024 } });
  for (let round = 0; round < 150; round += 1) {
    const programs = Array.from({ length: random.between(1, 6) }, () =>
      randomProgram(random, random.between(1, 12)));
    const spread = random.pick([50, 5000, abi.IDENTITY_MAX]);
    const identities = new Set(Array.from({ length: random.pick([0, 1, 3, 40, 1000]) }, () =>
      random.below(spread + 1)));
    const set: RuleSet = {
      number: random.between(1, 5), programs, fallback: random.below(programs.length),
      entries: [...identities].map((identity) => [identity, random.below(programs.length)]),
    };
    bed.apply({ ruleSets: [set] });
    for (let probe = 0; probe < 300; probe += 1) {
      const identity = random.oneIn(2) && identities.size > 0
        ? random.pick([...identities].slice(0, 50)) : random.below(spread + 1);
      const key = random.pick(edgeKeys(random.pick(programs)));
      assert.is(answer(bed, set.number, identity, key), ruleSetAnswer(set, identity, key));
    }
  }
});

test('a rule set of 100,000 identities has no long probes', () => {
  const bed = new PolicyBed(PODS, { policy: { arenaBytes: 64 * 1024 * 1024 } });
  const ports = program([{ protocol: 6 }]);
  for (const [start, step] of [[1, 1], [1, 10], [7, 3]] as const) {
    const entries = Array.from({ length: 100_000 }, (_, index): [number, Program] =>
      [start + (index * step), ports]);
    bed.apply({ ruleSets: [{
      number: 1, programs: [DENY_ALL, ports], fallback: 0,
      entries: entries.map(([identity]) => [identity, 1]),
    }] });
    const block = bed.policy.ruleSet(1);
    const slots = bed.core.view.getUint32(block + abi.RULE_SET_MASK, true) + 1;
    let [run, longest] = [0, 0];
    for (let slot = 0; slot < slots; slot += 1) {
      const at = block + abi.RULE_SET_SLOTS + (slot * abi.RULE_SET_SLOT_SIZE);
      run = bed.core.view.getUint32(at + abi.RULE_SET_SLOT_PROGRAM, true) === 0 ? 0 : run + 1;
      longest = Math.max(longest, run);
    }
    assert.ok(longest <= 16, `${longest} slots in a row`);
    assert.ok(slots <= 524_288, `${slots} slots`);
    assert.is(answer(bed, 1, start + (step * 99_999), 6 << 16), 1);
    assert.is(answer(bed, 1, start + (step * 100_000), 6 << 16), 0);
  }
});

test('identities of addresses: the longest prefix, both families', () => {
  const random = new Random(7);
  const bed = new PolicyBed(PODS);
  const entered = new Map<string, number>();
  for (let step = 0; step < 400; step += 1) {
    const address = random.oneIn(2)
      ? `10.${random.below(2)}.${random.below(2)}.${random.below(4)}`
      : `fd00:${random.below(2)}::${random.below(2)}:${random.below(4)}`;
    const length = random.between(0, address.includes(':') ? 128 : 32);
    const identity = random.oneIn(3) ? 0 : random.between(1, abi.IDENTITY_MAX);
    bed.apply({ identities: [[`${address}/${length}`, identity]] });
    for (const known of [...entered.keys()].filter((name) => same(name, address, length))) {
      entered.delete(known);
    }
    if (identity !== 0) entered.set(`${address}/${length}`, identity);
    const { IPv4, IPv6 } = bed.policy.identities;
    const found = (address.includes(':') ? IPv6 : IPv4).find(address);
    assert.is(found, identityOf(ofFamily(entered, address), address), address);
  }
});

function ofFamily(entered: Map<string, number>, address: string): [string, number][] {
  return [...entered].filter(([prefix]) => prefix.includes(':') === address.includes(':'));
}

/** True where a prefix's name says what address and length say. */
function same(name: string, address: string, length: number): boolean {
  if (name.includes(':') !== address.includes(':') || !name.endsWith(`/${length}`)) return false;
  return identityOf([[name, 1]], address) === 1;
}

test.run();
