// What the sidecar sends, put together: nothing counts before its commit, order is kept, one
// sidecar at a time.

import * as v from 'valibot';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { Connection, RequestError } from '../../engine/connection.ts';
import {
  NodeFactsSchema, PART_LIMIT, PROBLEM_LIMIT, RevisionAnswerSchema,
} from '../../engine/model.ts';
import type {
  ClusterNode, Delta, Pod, RevisionAnswer, Service, Snapshot,
} from '../../engine/model.ts';
import { Intake } from '../../host/intake.ts';
import type { IntakeOptions } from '../../host/intake.ts';

interface Host {
  intake: Intake;
  snapshots: Snapshot[];
  deltas: Delta[];
}

function host(change: Partial<IntakeOptions> = {}): Host {
  const snapshots: Snapshot[] = [];
  const deltas: Delta[] = [];
  const intake = new Intake({
    local: 'edge-1',
    onSnapshot: (snapshot) => { snapshots.push(snapshot); },
    onDelta: (delta) => { deltas.push(delta); },
    ...change,
  });
  return { intake, snapshots, deltas };
}

/** A sidecar connected to the intake as ControlServer connects it. */
function sidecar({ intake }: Host): Connection {
  const server: Connection = new Connection({
    version: '1',
    methods: intake.methods(),
    send: (bytes) => { queueMicrotask(() => client.receive(bytes)); return true; },
    end: () => queueMicrotask(() => client.transportClosed()),
    accept: (party) => intake.refusal(party),
    onOpen: (connection) => {
      intake.opened(connection);
      connection.closed.then(() => intake.closed(connection));
    },
  });
  const client: Connection = new Connection({
    version: '1',
    role: 'sync',
    send: (bytes) => { queueMicrotask(() => server.receive(bytes)); return true; },
    end: () => queueMicrotask(() => server.transportClosed()),
  });
  return client;
}

async function failure(work: Promise<unknown>): Promise<string> {
  try {
    await work;
  } catch (error) {
    const code = error instanceof RequestError ? `${error.code}: ` : '';
    return code + (error instanceof Error ? error.message : String(error));
  }
  return 'no failure';
}

const node = (name: string): ClusterNode =>
  ({ name, podCidrs: ['10.244.1.0/24'], addresses: ['192.0.2.1'], tunnels: [] });
const pod = (name: string): Pod =>
  ({ namespace: 'default', name, uid: 'u', addresses: ['10.244.1.5'] });

function begin(to: Connection, revision: number, nodes: number, pods: number): Promise<unknown> {
  const params = { revision, local: 'edge-1', counts: { nodes, pods } };
  return to.request('snapshot.begin', params, v.null());
}

function part(to: Connection, params: object): Promise<unknown> {
  return to.request('snapshot.part', params, v.null());
}

function commit(to: Connection, revision: number): Promise<RevisionAnswer> {
  return to.request('snapshot.commit', { revision }, RevisionAnswerSchema);
}

function delta(to: Connection, from: number, next: number): Promise<RevisionAnswer> {
  const params = { from, to: next, nodes: [], removedNodes: [], pods: [pod('b')], removedPods: [] };
  return to.request('delta', params, RevisionAnswerSchema);
}

async function bring(to: Connection, revision: number): Promise<RevisionAnswer> {
  await begin(to, revision, 1, 1);
  await part(to, { nodes: [node('edge-1')], pods: [pod('a')] });
  return commit(to, revision);
}

test('takes Services from parts and deltas, each once', async () => {
  const all = host();
  const client = sidecar(all);
  await client.opened;
  const service = (name: string): Service => ({
    namespace: 'shop', name, addresses: ['10.96.0.1'], ports: [], affinitySeconds: 0,
    empty: 'reject',
  });
  await begin(client, 1, 1, 0);
  await part(client, { nodes: [node('edge-1')] });
  await part(client, { services: [service('web')] });
  await part(client, { services: [service('db')] });
  await commit(client, 1);
  assert.equal(all.snapshots[0]?.services, [service('web'), service('db')]);
  const removedServices = [{ namespace: 'shop', name: 'db' }];
  await client.request('delta', {
    from: 1, to: 2, nodes: [], removedNodes: [], pods: [], removedPods: [],
    services: [service('web')], removedServices,
  }, RevisionAnswerSchema);
  assert.equal(all.deltas[0]?.removedServices, removedServices);
  await begin(client, 3, 0, 0);
  assert.match(await failure(part(client, { services: [service('web'), service('web')] })),
    /invalid: service shop\/web comes twice/);
  await bring(client, 4);
  assert.is(all.snapshots[1]?.services, undefined, 'nothing was said of any');
});

test('puts a snapshot together and hands it over at its commit', async () => {
  const { snapshots, intake, ...rest } = host();
  const client = sidecar({ snapshots, intake, ...rest });
  await client.opened;
  await begin(client, 3, 2, 1);
  await part(client, { nodes: [node('edge-1')] });
  await part(client, { nodes: [node('edge-2')], pods: [pod('a')] });
  assert.equal(snapshots, []);
  assert.equal(await commit(client, 3), { status: 'applied', revision: 3 });
  assert.equal(snapshots, [{
    revision: 3, local: 'edge-1', nodes: [node('edge-1'), node('edge-2')], pods: [pod('a')],
  }]);
  assert.is(intake.revision, 3);
});

test('takes deltas that follow, and asks for all after a gap', async () => {
  const made = host();
  const client = sidecar(made);
  await client.opened;
  assert.equal(await delta(client, 0, 1), { status: 'resync', revision: null });
  await bring(client, 1);
  assert.equal(await delta(client, 1, 2), { status: 'applied', revision: 2 });
  assert.equal(await delta(client, 1, 3), { status: 'resync', revision: 2 });
  assert.equal(await delta(client, 3, 4), { status: 'resync', revision: 2 });
  assert.match(await failure(delta(client, 2, 2)), /^invalid: delta\.to: 2 does not follow 2/);
  assert.equal(await bring(client, 9), { status: 'applied', revision: 9 });
  assert.is(made.deltas.length, 1);
  assert.is(made.snapshots.length, 2);
});

test('refuses what is out of order or incomplete, and uses none of it', async () => {
  const made = host();
  const client = sidecar(made);
  await client.opened;
  assert.match(await failure(part(client, {})), /^out-of-order: no snapshot has begun/);
  assert.match(await failure(commit(client, 1)), /^out-of-order: snapshot 1 has not begun/);
  await begin(client, 1, 2, 0);
  assert.match(await failure(commit(client, 2)), /^out-of-order/);
  await begin(client, 1, 2, 0);
  await part(client, { nodes: [node('a')] });
  assert.match(await failure(commit(client, 1)), /^incomplete: snapshot 1 has 1 nodes/);
  await begin(client, 1, 1, 0);
  const twice = { nodes: [node('a'), node('a')] };
  assert.match(await failure(part(client, twice)), /^invalid: node a comes twice/);
  await begin(client, 1, 1, 0);
  const many = { nodes: [node('a'), node('b')] };
  assert.is(await failure(part(client, many)), 'full: 2 nodes of this snapshot, the limit is 1');
  assert.match(await failure(commit(client, 1)), /^out-of-order/);
  assert.equal(made.snapshots, []);
  assert.is(made.intake.revision, null);
});

test('names the field of a bad part and keeps what came before', async () => {
  const made = host();
  const client = sidecar(made);
  await client.opened;
  await begin(client, 1, 1, 1);
  await part(client, { nodes: [node('a')] });
  const bad = { pods: [{ ...pod('a'), addresses: ['10.244.1.5', '10.244.1'] }] };
  assert.is(
    await failure(part(client, bad)),
    'invalid: snapshot.part: pods[0].addresses[1]: not an IP address',
  );
  const large = { nodes: Array.from({ length: PART_LIMIT + 1 }, (_, index) => node(`n${index}`)) };
  assert.match(await failure(part(client, large)), /^invalid: snapshot\.part: nodes: /);
  await part(client, { pods: [pod('a')] });
  assert.equal(await commit(client, 1), { status: 'applied', revision: 1 });
});

test('holds to its limits and to its node', async () => {
  const made = host({ nodeLimit: 10, podLimit: 5 });
  const client = sidecar(made);
  await client.opened;
  assert.is(await failure(begin(client, 1, 11, 0)), 'full: 11 nodes, the limit is 10');
  assert.is(await failure(begin(client, 1, 10, 6)), 'full: 6 pods, the limit is 5');
  const wrong = { revision: 1, local: 'edge-2', counts: { nodes: 0, pods: 0 } };
  assert.is(
    await failure(client.request('snapshot.begin', wrong, v.null())),
    'wrong-node: a snapshot for edge-2, this is edge-1',
  );
});

test('does not move on when the host cannot take it', async () => {
  let full = true;
  const made = host({ onSnapshot: async () => { if (full) throw new Error('routes: full'); } });
  const client = sidecar(made);
  await client.opened;
  assert.is(await failure(bring(client, 1)), 'failed: routes: full');
  assert.is(made.intake.revision, null);
  full = false;
  assert.equal(await bring(client, 2), { status: 'applied', revision: 2 });
});

test('takes one message after the other, however slow the host is', async () => {
  const order: string[] = [];
  const released = gate();
  const asked = gate();
  const made = host({
    onSnapshot: async () => {
      asked.open();
      await released.passed;
      order.push('snapshot');
    },
    onDelta: () => { order.push('delta'); },
  });
  const client = sidecar(made);
  await client.opened;
  const first = bring(client, 1);
  await asked.passed;
  const second = delta(client, 1, 2);
  await new Promise((resolve) => setImmediate(resolve));
  released.open();
  assert.equal(await Promise.all([first, second]), [
    { status: 'applied', revision: 1 }, { status: 'applied', revision: 2 },
  ]);
  assert.equal(order, ['snapshot', 'delta']);
});

function gate(): { passed: Promise<void>; open(): void } {
  let open = (): void => {};
  const passed = new Promise<void>((resolve) => { open = resolve; });
  return { passed, open: () => open() };
}

test('a session goes on over connections, another one does not', async () => {
  const made = host();
  const first = sidecar(made);
  await first.opened;
  const resume = (to: Connection, session: string): Promise<RevisionAnswer> =>
    to.request('resume', { session }, RevisionAnswerSchema);
  assert.equal(await resume(first, 'one'), { status: 'resync', revision: null });
  const counts = { nodes: 0, pods: 0 };
  const start = { revision: 7, local: 'edge-1', counts, session: 'one' };
  await first.request('snapshot.begin', start, v.null());
  await commit(first, 7);
  await delta(first, 7, 8);
  first.close();
  while (made.intake.isConnected) await new Promise((resolve) => setImmediate(resolve));
  const second = sidecar(made);
  await second.opened;
  assert.equal(await delta(second, 8, 9), { status: 'resync', revision: null });
  assert.equal(await resume(second, 'two'), { status: 'resync', revision: null });
  assert.equal(await resume(second, 'one'), { status: 'applied', revision: 8 });
  assert.equal(await delta(second, 8, 9), { status: 'applied', revision: 9 });
  assert.is(made.snapshots.length, 1);
});

test('keeps how the source is, tells of the node, and holds both to their shapes', async () => {
  const facts = {
    underlay: [
      { family: 'IPv4' as const, address: '192.0.2.1', prefix: '192.0.2.0/24', mtu: 1500 },
    ],
    port: 8472,
    podNetworks: ['10.244.0.0/16'], tier: 'T1', version: '1',
    mac: { IPv4: '02:00:00:00:00:04', IPv6: '02:00:00:00:00:06' },
  };
  let changes = 0;
  const made = host({ facts: () => facts, onSource: () => { changes += 1; } });
  const client = sidecar(made);
  await client.opened;
  assert.equal(await client.request('node.follow', null, NodeFactsSchema), facts);
  const health = { source: 'kubernetes', fresh: true, staleSinceMs: null, problems: [] };
  assert.is(await client.request('source.health', health, v.null()), null);
  assert.equal(made.intake.health, health);
  assert.is(changes, 2);
  const many = { ...health, problems: Array.from({ length: PROBLEM_LIMIT + 1 }, () => 'x') };
  assert.match(await failure(client.request('source.health', many, v.null())),
    /^invalid: source\.health: problems: /);
  assert.equal(made.intake.health, health);
});

test('a flood of words from a sidecar is answered in order, and the last one counts', async () => {
  const made = host();
  const client = sidecar(made);
  await client.opened;
  await bring(client, 1);
  const answers: Promise<unknown>[] = [];
  for (let round = 0; round < 20; round += 1) {
    for (let count = 0; count < 500; count += 1) {
      const health = { source: `s${round}`, fresh: true, staleSinceMs: count, problems: [] };
      answers.push(client.request('source.health', health, v.null()));
    }
    await Promise.all(answers.splice(0));
  }
  assert.is(made.intake.health?.staleSinceMs, 499);
  assert.equal(await delta(client, 1, 2), { status: 'applied', revision: 2 });
});

test('hears one sidecar at a time, and starts over with the next', async () => {
  const made = host();
  const first = sidecar(made);
  await first.opened;
  await bring(first, 5);
  assert.is(await failure(sidecar(made).opened), 'refused: another sidecar is connected');
  await begin(first, 6, 1, 0);
  first.close();
  while (made.intake.isConnected) await new Promise((resolve) => setImmediate(resolve));
  const second = sidecar(made);
  await second.opened;
  assert.match(await failure(part(second, { nodes: [node('a')] })), /^out-of-order/);
  assert.equal(await delta(second, 5, 6), { status: 'resync', revision: null });
  assert.equal(await bring(second, 1), { status: 'applied', revision: 1 });
  assert.is(made.snapshots.length, 2);
});

test.run();
