// Who claims which prefix, against a plain list of who came first.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as layout from '../../wasm/abi/layout.ts';
import { ClaimTable, type Claim } from '../../engine/claims.ts';
import { PrefixTable } from '../../engine/tables/prefix.ts';
import { TableFullError } from '../../engine/tables/limits.ts';
import { createCore, TEST_LIMITS } from '../support/core.ts';
import { Random } from '../support/random.ts';

function setUp(prefixes = 512): ClaimTable {
  const limits = { ...TEST_LIMITS, routesIpv4: { prefixes, nodes: 4096, leaves: 8192 } };
  const core = createCore(limits);
  const field = layout.DIRECTORY_ROUTES_IPV4;
  return new ClaimTable(new PrefixTable(core, 'IPv4 routes', field, prefixes));
}

function claim(prefix: string, nextHop: number): Claim {
  return { prefix, nextHop, kind: 'peer', via: `via ${nextHop}` };
}

test('the first claim is in force, the second waits and is named', () => {
  const claims = setUp();
  claims.claim('a', [claim('10.1.0.0/16', 20)]);
  claims.claim('b', [claim('10.1.0.0/16', 30)]);
  assert.is(claims.table.find('10.1.2.3'), 20);
  assert.is(claims.claimantOf('10.1.0.0/16'), 'a');
  assert.equal(claims.conflicts(), ['10.1.0.0/16 of b is kept by a']);
  assert.equal(claims.inForce(), [{ prefix: '10.1.0.0/16', kind: 'peer', via: 'via 20' }]);
});

test('a claim that yields gives way, comes back, and nobody is told', () => {
  const claims = setUp();
  claims.claim('configuration', [{ ...claim('10.1.0.0/16', 5), yields: true }]);
  claims.claim('a', [claim('10.1.0.0/16', 20)]);
  claims.claim('b', [claim('10.1.0.0/16', 30)]);
  assert.is(claims.table.find('10.1.2.3'), 20);
  assert.equal(claims.conflicts(), ['10.1.0.0/16 of b is kept by a']);
  for (const owner of ['a', 'b']) claims.claim(owner, []);
  claims.settle();
  assert.is(claims.table.find('10.1.2.3'), 5);
  assert.equal(claims.conflicts(), []);
});

test('a claim is held until it is settled', () => {
  const claims = setUp();
  claims.claim('a', [claim('10.1.0.0/16', 20)]);
  claims.settle();
  claims.claim('a', []);
  assert.is(claims.table.find('10.1.2.3'), 20);
  claims.claim('b', [claim('10.1.0.0/16', 30)]);
  assert.is(claims.table.find('10.1.2.3'), 20);
  claims.settle();
  assert.is(claims.table.find('10.1.2.3'), 30);
  assert.equal(claims.conflicts(), []);
  claims.claim('b', []);
  claims.settle();
  assert.is(claims.table.find('10.1.2.3'), 0);
  assert.is(claims.table.count, 0);
  assert.is(claims.claimantOf('10.1.0.0/16'), null);
});

test('different texts of one prefix are one claim', () => {
  const claims = setUp();
  claims.claim('a', [claim('10.1.2.3/16', 20)]);
  claims.claim('b', [claim('10.1.0.0/16', 30)]);
  assert.is(claims.table.count, 1);
  assert.is(claims.claimantOf('10.1.255.255/16'), 'a');
});

test('the longest prefix is named', () => {
  const claims = setUp();
  claims.claim('a', [claim('0.0.0.0/0', 20), claim('10.1.0.0/16', 30), claim('10.1.2.3/32', 40)]);
  assert.is(claims.lookUp('10.1.2.3')?.prefix, '10.1.2.3/32');
  assert.is(claims.lookUp('10.1.2.4')?.prefix, '10.1.0.0/16');
  assert.is(claims.lookUp('10.2.0.0')?.prefix, '0.0.0.0/0');
});

test('a full table keeps what an owner had', () => {
  const claims = setUp(2);
  claims.claim('a', [claim('10.1.0.0/16', 20), claim('10.2.0.0/16', 20)]);
  claims.settle();
  assert.throws(() => claims.claim('a', [claim('10.2.0.0/16', 30), claim('10.3.0.0/16', 30)]),
    (error: Error) => error instanceof TableFullError);
  claims.settle();
  assert.is(claims.table.find('10.1.0.1'), 20);
  assert.is(claims.table.find('10.2.0.1'), 30, 'what was claimed until then stands');
  assert.is(claims.table.find('10.3.0.1'), 0);
  claims.claim('a', []);
  claims.settle();
  assert.is(claims.table.count, 0, 'and nothing is forgotten');
});

test('random claims agree with a plain list', () => {
  const claims = setUp();
  const random = new Random(42);
  const owners = ['a', 'b', 'c', 'd'];
  const prefixes = ['10.0.0.0/8', '10.1.0.0/16', '10.1.1.0/24', '10.1.1.1/32', '10.2.0.0/16'];
  /** Owners of each prefix in the order in which they came, with what they lead to. */
  const plain = new Map<string, Map<string, number>>(prefixes.map((prefix) => [prefix, new Map()]));
  for (let round = 0; round < 3000; round += 1) {
    const changed = owners.filter(() => random.oneIn(2)).map((owner) =>
      ({ owner, wanted: prefixes.filter(() => random.oneIn(3)), nextHop: random.between(16, 99) }));
    for (const { owner, wanted, nextHop } of changed) {
      claims.claim(owner, wanted.map((prefix) => claim(prefix, nextHop)));
      for (const prefix of wanted) plain.get(prefix)?.set(owner, nextHop);
    }
    claims.settle();
    for (const { owner, wanted } of changed) {
      for (const prefix of prefixes) {
        if (!wanted.includes(prefix)) plain.get(prefix)?.delete(owner);
      }
    }
    for (const prefix of prefixes) {
      const [holder = null] = plain.get(prefix)?.keys() ?? [];
      assert.is(claims.claimantOf(prefix), holder, `round ${round}: ${prefix}`);
    }
    const longest = ['10.1.1.1/32', '10.1.1.0/24', '10.1.0.0/16', '10.0.0.0/8']
      .flatMap((prefix) => [...plain.get(prefix)?.values() ?? []].slice(0, 1));
    assert.is(claims.table.find('10.1.1.1'), longest[0] ?? 0, `round ${round}`);
    const waiting = [...plain.values()].reduce((sum, of) => sum + Math.max(of.size - 1, 0), 0);
    assert.is(claims.conflicts().length, waiting);
  }
});

test.run();
