// Tables that are full answer by name and keep what they have; tables that are used for long are
// empty again when all is gone.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as layout from '../../wasm/abi/layout.ts';
import type { ClusterNode } from '../../engine/model.ts';
import { TableFullError } from '../../engine/tables/limits.ts';
import { LOCAL, POD, apply, change, makeNode, makeTunnel, receive, send, setUp, usage } from
  '../support/cluster.ts';
import { Random } from '../support/random.ts';

const RECONFIGURATIONS = 1000;

/** Attaches pods until one is refused; returns how many went in, and the refusal. */
function attachAll(forwarding: ReturnType<typeof setUp>['forwarding']) {
  for (let count = 0; ; count += 1) {
    try {
      forwarding.attachEndpoint(`a/${count}`, [`10.1.0.${count + 10}`], null);
    } catch (error) {
      if (!(error instanceof TableFullError)) throw error;
      return { count, error };
    }
  }
}

test('a full table of devices refuses an endpoint by name', () => {
  const { core, forwarding } = setUp({ devices: layout.DEVICE_FIRST_ENDPOINT + 4 });
  const { count, error } = attachAll(forwarding);
  assert.is(count, 4);
  assert.is(error.table, 'devices');
  assert.is(error.message, 'add a/4 to devices: the table is full (4 entries)');
  const before = usage(core, forwarding);
  assert.throws(() => forwarding.attachEndpoint('a/more', ['10.1.0.99'], null), /table is full/);
  assert.equal(usage(core, forwarding), before);
  assert.is(forwarding.lookUp('10.1.0.99')?.kind, 'unreachable');
});

test('a full table of next hops refuses an endpoint by name', () => {
  const { core, forwarding } = setUp({ nextHops: layout.NEXT_HOP_FIRST_FREE + 3 });
  const { count, error } = attachAll(forwarding);
  assert.is(count, 3);
  assert.is(error.table, 'next hops');
  const before = usage(core, forwarding);
  assert.throws(() => forwarding.attachEndpoint('a/more', ['10.1.0.99'], null), /table is full/);
  assert.equal(usage(core, forwarding), before);
});

test('a full table of routes refuses an endpoint by name, all its addresses', () => {
  const routes = { prefixes: 8, nodes: 4096, leaves: 8192 };
  const { core, forwarding } = setUp({ routesIpv4: routes });
  const room = 8 - (forwarding.tables().find(({ name }) => name === 'IPv4 routes')?.used ?? 0);
  const { count, error } = attachAll(forwarding);
  assert.is(count, room);
  assert.is(error.table, 'IPv4 routes');
  const before = usage(core, forwarding);
  const more = (): unknown =>
    forwarding.attachEndpoint('a/more', ['fd00:1::9', '10.1.0.98', '10.1.0.99'], null);
  assert.throws(more, /add 10\.1\.0\.98\/32 to IPv4 routes: the table is full \(8 entries\)/);
  assert.equal(usage(core, forwarding), before);
});

test('a node that finds the table of peers full is reported and tried again', () => {
  const { core, forwarding } = setUp({ peers: 5 });
  const empty = usage(core, forwarding);
  apply(forwarding, [LOCAL, makeNode(1), makeNode(2), makeNode(3)]);
  const endpoint = forwarding.attachEndpoint('a/b', [POD], null);
  const { device } = endpoint;
  assert.equal(forwarding.problems(), [
    'node node-3: add peer 2001:db8::3 to peers: the table is full (5 entries)',
  ]);
  assert.is(send(core, device, '10.1.1.9'), '192.0.2.1:8472 01 1', 'the others are in force');
  change(forwarding, [], ['node-1']);
  assert.equal(forwarding.problems(), []);
  assert.is(send(core, device, '10.1.3.9'), '192.0.2.3:8472 03 1');
  assert.is(receive(core, '192.0.2.3', '10.1.3.9'), `device ${device}`);
  apply(forwarding, []);
  forwarding.detachEndpoint(endpoint);
  assert.equal(forwarding.problems(), []);
  assert.equal(usage(core, forwarding), empty);
});

test('nodes that find the table of routes full are reported, and nothing of them stays', () => {
  const routes = { prefixes: 10, nodes: 4096, leaves: 8192 };
  const { core, forwarding } = setUp({ routesIpv4: routes });
  const empty = usage(core, forwarding);
  const nodes = [1, 2, 3, 4, 5].map((index) => makeNode(index));
  apply(forwarding, [LOCAL, ...nodes]);
  assert.is(forwarding.problems().length, 3);
  for (const problem of forwarding.problems()) {
    assert.match(problem, /^node node-\d: add .* to IPv4 routes: the table is full \(10 entries/);
  }
  assert.is(forwarding.lookUp('10.1.1.9')?.via, 'node-1');
  apply(forwarding, [LOCAL, makeNode(5)]);
  assert.equal(forwarding.problems(), []);
  assert.is(forwarding.lookUp('10.1.5.9')?.via, 'node-5');
  assert.is(forwarding.lookUp('10.1.1.9')?.kind, 'unreachable');
  apply(forwarding, []);
  assert.equal(usage(core, forwarding), empty);
});

test('our own node that finds a table full is reported and tried again', () => {
  const routes = { prefixes: 7, nodes: 4096, leaves: 8192 };
  const { core, forwarding } = setUp({ routesIpv4: routes });
  const empty = usage(core, forwarding);
  apply(forwarding, [makeNode(1), makeNode(2)]);
  assert.equal(forwarding.problems(), []);
  apply(forwarding, [LOCAL, makeNode(1), makeNode(2)]);
  assert.is(forwarding.problems().length, 1);
  assert.match(forwarding.problems()[0] ?? '', /node-0: add .* to IPv4 routes: the table is full/);
  assert.is(forwarding.lookUp('10.1.2.9')?.via, 'node-2', 'the others stay');
  apply(forwarding, [LOCAL, makeNode(1)]);
  assert.equal(forwarding.problems(), []);
  assert.is(forwarding.lookUp('10.1.0.0')?.kind, 'node');
  apply(forwarding, []);
  assert.equal(usage(core, forwarding), empty);
});

/** Any of what a cluster does to a node. */
function randomNode(random: Random, index: number): ClusterNode {
  const other = random.between(1, 8);
  const tunnel = makeTunnel('IPv4', index);
  return makeNode(index, {
    podCidrs: random.pick([
      makeNode(index).podCidrs, makeNode(other).podCidrs, [],
      [...makeNode(index).podCidrs, `10.1.${100 + other}.0/25`, `10.1.${index}.128/26`],
    ]),
    tunnels: random.pick([
      makeNode(index).tunnels, [tunnel], [makeTunnel('IPv6', index)], [],
      [{ ...tunnel, vni: random.below(16), port: random.between(1, 65535) }],
      [{ ...tunnel, remote: `192.0.2.${other}` }, { ...tunnel, remote: `192.0.2.${other}`,
        family: 'IPv6' }],
    ]),
  });
}

test('a thousand reconfigurations leave nothing behind', () => {
  const { core, forwarding } = setUp();
  const random = new Random(1000);
  const empty = usage(core, forwarding);
  const endpoints = new Map<string, ReturnType<typeof forwarding.attachEndpoint>>();
  for (let round = 0; round < RECONFIGURATIONS; round += 1) {
    const nodes = Array.from({ length: random.below(6) }, () =>
      randomNode(random, random.between(1, 8)));
    const named = [...new Map(nodes.map((node) => [node.name, node])).values()];
    if (random.oneIn(10)) apply(forwarding, [LOCAL, ...named]);
    else change(forwarding, [LOCAL, ...named], random.oneIn(2) ? [`node-${random.below(9)}`] : []);
    const name = `a/${random.below(20)}`;
    const known = endpoints.get(name);
    if (known === undefined) {
      const address = `10.1.0.${name.slice(2)}`;
      const mac = random.oneIn(2) ? '0a:00:00:00:00:01' : null;
      if (forwarding.lookUp(address)?.prefix === `${address}/32`) continue;
      endpoints.set(name, forwarding.attachEndpoint(name, [address], mac));
    } else {
      endpoints.delete(name);
      forwarding.detachEndpoint(known);
    }
  }
  for (const endpoint of endpoints.values()) forwarding.detachEndpoint(endpoint);
  apply(forwarding, []);
  assert.equal(forwarding.problems(), []);
  assert.equal(usage(core, forwarding), empty);
  assert.is(forwarding.peers.size, 0);
});

test('the order in which a cluster came to be does not matter', () => {
  const random = new Random(2000);
  for (let round = 0; round < 50; round += 1) {
    const final = [1, 2, 3, 4, 5, 6].map((index) => makeNode(index, {
      podCidrs: [`10.1.${((index * 3) + round) % 7 + 1}.0/24`],
    }));
    const { forwarding } = setUp();
    apply(forwarding, [LOCAL]);
    for (let step = 0; step < 5; step += 1) {
      change(forwarding, [randomNode(random, random.between(1, 6))]);
    }
    for (const node of final) change(forwarding, [node]);
    assert.equal(forwarding.problems(), []);
    for (const node of final) {
      const [prefix = ''] = node.podCidrs;
      assert.is(forwarding.lookUp(prefix.replace('0/24', '9'))?.via, node.name);
    }
  }
});

test.run();
