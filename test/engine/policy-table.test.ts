// Policy tables: what is in force after each change, what a refused change leaves, and memory that
// is given back.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as layout from '../../wasm/abi/layout.ts';
import { Arena } from '../../engine/tables/arena.ts';
import { TableFullError } from '../../engine/tables/limits.ts';
import {
  ALLOW_ALL, change, DENY_ALL, fateOf, PolicyBed, program, ruleSet, tcpPacket,
} from '../support/policy-core.ts';
import { Random } from '../support/random.ts';

const PODS = { web: ['10.1.0.2', 'fd00:1::2'], client: ['10.1.0.3', 'fd00:1::3'] };
const TO_WEB = { source: '10.1.0.3', destination: '10.1.0.2' };
const PORT_80 = program([{ protocol: 6, first: 80, last: 80 }], 5);

test('a rule set in force denies and allows', () => {
  const bed = new PolicyBed(PODS);
  const send = (port: number): string =>
    fateOf(bed.send('client', tcpPacket({ ...TO_WEB, destinationPort: port }, 2)));
  assert.is(send(80), 'pass');
  bed.isolate('web', { ingress: 1 }, {
    identities: [['10.1.0.3/32', 7]], ruleSets: [ruleSet(1, DENY_ALL, [[7, PORT_80]])],
    rules: [{ number: 5, policy: 'NetworkPolicy shop/web', rule: 'ingress[0]' }],
  });
  assert.equal([79, 80, 81].map(send), ['policyIngress', 'pass', 'policyIngress']);
  const answer = bed.policy.answer(
    { namespace: 'test', name: 'web' }, 'ingress', '10.1.0.3', 6, 80) ?? 0;
  assert.is(bed.policy.explain(answer)?.policy, 'NetworkPolicy shop/web');
  bed.apply({ identities: [['10.1.0.3/32', 0]] });
  assert.is(send(80), 'policyIngress');
  bed.isolate('web', {});
  assert.is(send(443), 'pass');
});

test('a device stays closed until its rule sets are known', () => {
  const bed = new PolicyBed(PODS);
  const web = bed.device('web');
  const send = (): string => fateOf(bed.send('client', tcpPacket(TO_WEB, 2)));
  assert.not(bed.policy.attach(web, 'test', 'web', 'uid-web'));
  assert.is(send(), 'policyPending');
  assert.is(fateOf(bed.send('web', tcpPacket({ source: '10.1.0.2', destination: '10.1.1.9' }, 2))),
    'policyPending');
  const endpoint = { namespace: 'test', name: 'web', uid: 'uid-web', ingress: 1, egress: 0 };
  bed.policy.apply(change({ ruleSets: [ruleSet(1, ALLOW_ALL)] }));
  bed.policy.apply(change({ endpoints: [{ ...endpoint, uid: 'uid-other' }] }));
  assert.is(send(), 'policyPending');
  bed.policy.apply(change({ endpoints: [endpoint] }));
  assert.is(send(), 'pass');
  bed.policy.detach(web);
  assert.is(send(), 'policyPending');
  assert.ok(bed.policy.attach(web, 'test', 'web', 'uid-web'));
  assert.is(send(), 'pass');
  bed.policy.apply(change({ removedEndpoints: [{ namespace: 'test', name: 'web' }] }));
  assert.is(send(), 'policyPending');
});

test('contradictions are refused, and nothing has changed', () => {
  const bed = new PolicyBed(PODS);
  bed.isolate('web', { ingress: 1 }, { ruleSets: [ruleSet(1, DENY_ALL)] });
  const used = bed.policy.blocks.arena.used;
  const endpoint = { namespace: 'test', name: 'web', uid: 'uid-web', ingress: 9, egress: 0 };
  const rules = ruleSet(2, DENY_ALL);
  for (const [part, message] of [
    [{ endpoints: [endpoint] }, /rule set 9, which is not there/],
    [{ removedRuleSets: [1] }, /rule set 1, which is not there/],
    [{ ruleSets: [{ ...rules, number: 0 }] }, /rule set 0/],
    [{ ruleSets: [{ ...rules, fallback: 1 }] }, /fallback 1/],
    [{ ruleSets: [{ ...rules, entries: [[3, 1]] }] }, /identity 3/],
    [{ ruleSets: [{ ...rules, entries: [[3, 0], [3, 0]] }] }, /two programs/],
    [{ ruleSets: [{ ...rules, programs: [[[1, 0]]] }] }, /begin at key 0/],
    [{ ruleSets: [{ ...rules, programs: [[[0, 0], [9, 1], [9, 0]]] }] }, /do not ascend/],
  ] as const) {
    const refused = change({ ...part, identities: [['10.9.0.0/16', 4]] } as object);
    assert.throws(() => bed.policy.apply(refused), message);
  }
  assert.is(bed.policy.blocks.arena.used, used);
  assert.is(bed.policy.identities.IPv4.find('10.9.0.1'), 0);
  assert.is(fateOf(bed.send('client', tcpPacket(TO_WEB, 2))), 'policyIngress');
});

test('a change that does not fit changes nothing', () => {
  const bed = new PolicyBed(PODS, { policy: { arenaBytes: 4096 } });
  bed.isolate('web', { ingress: 1 }, {
    identities: [['10.1.0.3/32', 7]], ruleSets: [ruleSet(1, DENY_ALL, [[7, PORT_80]])],
  });
  const used = bed.policy.blocks.arena.used;
  const epoch = bed.core.directory(layout.DIRECTORY_POLICY_EPOCH);
  const many = Array.from({ length: 300 }, (_, index): [number, typeof PORT_80] =>
    [index + 10, PORT_80]);
  const large = ruleSet(2, DENY_ALL, many);
  assert.throws(() => bed.isolate('web', { ingress: 2 }, {
    ruleSets: [ruleSet(3, ALLOW_ALL), large], identities: [['10.1.0.3/32', 8]],
  }), (error: unknown) => error instanceof TableFullError && error.table === 'policy arena');
  assert.is(bed.policy.blocks.arena.used, used);
  assert.is(bed.core.directory(layout.DIRECTORY_POLICY_EPOCH), epoch);
  assert.is(bed.policy.identities.IPv4.find('10.1.0.3'), 7);
  assert.is(fateOf(bed.send('client', tcpPacket(TO_WEB, 2))), 'pass');
  assert.throws(() => bed.apply({
    identities: Array.from({ length: 600 }, (_, index) =>
      [`10.2.${index >> 8}.${index & 255}/32`, 9] as [string, number]),
  }), /IPv4 identities: the table is full/);
  assert.is(bed.policy.identities.IPv4.count, 1);
  assert.is(bed.policy.identities.IPv4.find('10.2.0.0'), 0);
});

test('programs are shared, and all memory comes back', () => {
  const bed = new PolicyBed(PODS);
  const { arena } = bed.policy.blocks;
  assert.is(arena.used, 0);
  const numbers = Array.from({ length: 50 }, (_, index) => index + 1);
  bed.apply({ ruleSets: numbers.map((number) => ruleSet(number, DENY_ALL, [[number, PORT_80]])) });
  assert.is(bed.policy.blocks.programCount, 2);
  assert.is(arena.count, 52);
  bed.apply({ ruleSets: [ruleSet(1, DENY_ALL, [[1, PORT_80]])] });
  assert.is(arena.count, 52);
  bed.apply({ removedRuleSets: numbers });
  assert.is(arena.used, 0);
  assert.is(bed.policy.blocks.programCount, 0);
});

test('a digest says what is answered, not by which numbers', () => {
  const make = (first: number, set: number, noise: boolean): PolicyBed => {
    const bed = new PolicyBed(PODS);
    bed.isolate('web', { ingress: set }, {
      identities: [['10.1.0.3/32', first], ['10.2.0.0/16', first],
        ...noise ? [['10.2.3.0/24', first + 9], ['10.3.0.0/16', first + 8]] as const : [],
      ] as [string, number][],
      ruleSets: [ruleSet(set, DENY_ALL, [[first, PORT_80], ...noise
        ? [[first + 9, PORT_80]] as [number, typeof PORT_80][] : []])],
      rules: [{ number: 5, policy: 'NetworkPolicy shop/web', rule: 'ingress[0]' }],
    });
    return bed;
  };
  const digest = make(7, 1, false).policy.digest();
  assert.match(digest, /^[0-9a-f]{16}$/);
  assert.is(make(7, 1, false).policy.digest(), digest);
  assert.is(make(900, 4, true).policy.digest(), digest);
  const bed = make(7, 1, false);
  for (const part of [
    { identities: [['10.2.3.0/24', 8] as [string, number]] },
    { ruleSets: [ruleSet(1, DENY_ALL, [[7, ALLOW_ALL]])] },
    { rules: [{ number: 5, policy: 'NetworkPolicy shop/other', rule: 'ingress[0]' }] },
    { removedEndpoints: [{ namespace: 'test', name: 'web' }] },
  ]) {
    const before = bed.policy.digest();
    bed.apply(part);
    assert.is.not(bed.policy.digest(), before, JSON.stringify(part));
    if ('ruleSets' in part) bed.apply({ ruleSets: [ruleSet(1, DENY_ALL, [[7, PORT_80]])] });
  }
});

test('the whole again under other numbers answers alike, and only with what it says', () => {
  const bed = new PolicyBed(PODS);
  bed.policy.attach(bed.device('web'), 'test', 'web', 'uid-web');
  const whole = (first: number, set: number) => change({
    identities: [['10.1.0.3/32', first], ['10.2.0.0/16', first + 1]],
    ruleSets: [ruleSet(set, DENY_ALL, [[first, PORT_80], [first + 1, ALLOW_ALL]])],
    endpoints: [{ namespace: 'test', name: 'web', uid: 'uid-web', ingress: set, egress: 0 }],
    rules: [{ number: 5, policy: 'NetworkPolicy shop/web', rule: 'ingress[0]' }],
  });
  bed.policy.replace(whole(1, 1));
  const digest = bed.policy.digest();
  const { used } = bed.policy.blocks.arena;
  for (const [first, set] of [[2, 1], [1, 2], [50, 1], [2, 1]] as const) {
    bed.apply({ identities: [['10.9.0.0/16', 77]] });
    bed.policy.replace(whole(first, set));
    assert.is(bed.policy.digest(), digest);
    assert.is(bed.policy.blocks.arena.used, used);
    assert.is(bed.policy.identities.IPv4.count, 2);
  }
});

test('the arena: random sizes, nothing overlaps, everything melts together again', () => {
  const random = new Random(11);
  const { core } = new PolicyBed(PODS);
  const arena = new Arena(core, 64, 1024 * 1024);
  const blocks = new Map<number, number>();
  let refused = 0;
  for (let step = 0; step < 20_000; step += 1) {
    const full = blocks.size > 0 && random.below(100) < (step % 4000 < 2000 ? 35 : 60);
    if (full) {
      const block = random.pick([...blocks.keys()].slice(0, 40));
      blocks.delete(block);
      if (random.oneIn(2)) arena.free(block);
      else arena.retire([block]);
      continue;
    }
    const bytes = random.pick([8, 12, 24, 40, 72, 136, 264, 1032, random.between(1, 60_000)]);
    const block = arena.take(bytes);
    if (block === 0) refused += 1;
    else blocks.set(block, bytes);
  }
  let end = 64;
  for (const [block, bytes] of [...blocks].sort(([one], [other]) => one - other)) {
    assert.is(block % 8, 0);
    assert.ok(block >= end, `${block} is below ${end}`);
    end = block + bytes;
  }
  assert.ok(end <= 64 + (1024 * 1024));
  assert.ok(refused > 10, `${refused} refused`);
  for (const block of blocks.keys()) arena.free(block);
  assert.is(arena.used, 0);
  assert.is(arena.take(1024 * 1024), 64);
  assert.is(arena.take(1), 0);
  assert.throws(() => arena.free(72), /not in use/);
});

test('a block that a worker may read is not used again before its turn ends', () => {
  const { core } = new PolicyBed(PODS);
  const turn = new Int32Array(core.memory.buffer, layout.WORKERS_START + layout.WORKER_TURN, 1);
  const arena = new Arena(core, 64, 64);
  const block = arena.take(64);
  Atomics.add(turn, 0, 1);
  arena.retire([block]);
  assert.is(arena.take(64), 0);
  assert.is(arena.used, 64);
  Atomics.add(turn, 0, 1);
  assert.is(arena.take(64), block);
});

test.run();
