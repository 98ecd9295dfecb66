// What real servers do and a client must stand, one test for each point of the list in
// test/kube-recordings/README.md ("What a client author must know").

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Entry } from '../../../sync/objects.ts';
import { READER_RULES, TestApiServer } from '../../support/api-server/server.ts';
import type { ServerOptions } from '../../support/api-server/server.ts';
import { follow, nodeObject, podObject, until } from '../../support/followed.ts';
import type { Followed, FollowOptions } from '../../support/followed.ts';

const test = suite('points');
let cleanups: (() => Promise<void>)[] = [];
test.after.each(async () => {
  const rest = cleanups.reverse();
  cleanups = [];
  for (const cleanup of rest) await cleanup();
});

interface Scene extends Followed {
  server: TestApiServer;
}

/** A small cluster, and a follower that has read it unless told otherwise. */
async function scene(
  options: ServerOptions = {}, following: FollowOptions = {},
  prepare: (server: TestApiServer) => void = () => {},
): Promise<Scene> {
  const server = new TestApiServer({ secondMs: 100, ...options });
  await server.start();
  cleanups.push(() => server.close());
  server.defineClusterNetworkPolicy();
  server.create('namespaces', { metadata: { name: 'a', labels: { env: 'test' } } });
  for (let i = 1; i <= 3; i += 1) server.create('nodes', nodeObject(`n${i}`, i));
  for (let i = 0; i < 50; i += 1) server.create('pods', podObject('a', `p${i}`, `10.0.1.${i}`));
  server.create('networkpolicies', policy('deny', {}));
  prepare(server);
  const followed = follow(server, following);
  cleanups.push(() => followed.stop());
  if (following.grant !== false) await followed.settled();
  return { ...followed, server };
}

function policy(name: string, spec: object): {
  metadata: { namespace: string; name: string }; spec: object;
} {
  return { metadata: { namespace: 'a', name }, spec: { podSelector: {}, ...spec } };
}

type PodEntry = Extract<Entry, { kind: 'Pod' }>;
function pod({ collector }: Scene, key: string): PodEntry | undefined {
  return collector.entries.get(`Pod ${key}`) as PodEntry | undefined;
}

for (const version of ['1.36', '1.36-etcd3.4', '1.20'] as const) {
  test(`1, 2: ${version}: all is read, and no watch begins without a version`, async () => {
    const { server, settled, resource } = await scene({ version });
    server.patch('pods', 'a/p1', { metadata: { labels: { x: 'y' } } });
    await settled();
    assert.is(resource('pods').counters.lists, version === '1.36' ? 0 : 1);
    for (const { path } of server.requests.filter(({ verb }) => verb === 'watch')) {
      assert.match(path, /allowWatchBookmarks=true/);
      assert.match(path, /timeoutSeconds=\d+/);
      assert.match(path, /sendInitialEvents=true&resourceVersionMatch=|resourceVersion=\d+/);
    }
  });
}

test('2: a WatchList whose end mark never comes gives way to a list', async () => {
  const broken = { match: { resource: 'pods', watchList: true }, afterEvents: 10 } as const;
  for (const then of ['end', 'hang'] as const) {
    const { resource } = await scene({}, {}, ({ faults }) => faults.add({ ...broken, then }));
    const { lists, watchLists } = resource('pods').counters;
    assert.equal([lists, watchLists], [1, 1], then);
  }
});

test('3: an expired version gives a relist and what differs, nothing else', async () => {
  const { server, settled, collector, resource, log } = await scene();
  const before = resource('pods').counters.relists;
  collector.told.length = 0;
  server.faults.add({ match: { verb: 'watch', resource: 'pods' }, errorCode: 410, afterEvents: 0 });
  await server.kill();
  server.delete('pods', 'a/p7');
  server.patch('pods', 'a/p8', { metadata: { labels: { x: 'y' } } });
  await server.start();
  await settled();
  assert.ok(resource('pods').counters.relists > before);
  assert.equal(collector.told.sort(), ['+Pod a/p8', '-Pod a/p7']);
  assert.is(log.some((line) => line.includes('410') || line.includes('xpired')), false);
});

test('3: a page whose token has expired leads to one list without pages', async () => {
  const { server, resource } = await scene({ version: '1.20' }, {}, ({ faults }) => {
    faults.add({ match: { verb: 'list', resource: 'pods' }, times: 2, delayMs: 0 });
    faults.add({
      match: { verb: 'list', resource: 'pods' }, status: 410, reason: 'Expired',
    });
  });
  const asked = server.requests
    .filter(({ verb, resource: name }) => verb === 'list' && name === 'pods')
    .map(({ path }) => path.replace(/continue=[^&]*/, 'continue').replace('/api/v1/pods', ''));
  assert.equal(asked,
    ['?limit=1', '?limit=20', '?limit=20&continue', '']);
  assert.is(resource('pods').counters.lists, 2);
});

test('4: a server that has gone back in time is found out and read anew', async () => {
  const { server, settled, resource } = await scene();
  const backup = server.store.backup();
  for (let i = 0; i < 30; i += 1) server.create('pods', podObject('a', `q${i}`, `10.0.2.${i}`));
  await settled();
  const ahead = Number(resource('pods').resourceVersion);
  server.restore(backup);
  await settled();
  assert.ok(Number(resource('pods').resourceVersion) < ahead);
  // The watch is from a version that the server knows: what happens now is seen.
  server.create('pods', podObject('a', 'new', '10.0.3.1'));
  await settled();
});

test('5: a refusal right after a restart is no refusal', async () => {
  const { server, settled, resource, collector, log } = await scene();
  collector.health.length = 0;
  await server.kill();
  server.delete('pods', 'a/p1');
  await server.start({ rolesAfterMs: 300 });
  await settled();
  assert.ok((resource('pods').counters.errors['Forbidden'] ?? 0) > 0);
  assert.is(log.some((line) => line.startsWith('warn pods: forbidden')), false);
  await until('fresh', () => collector.last?.fresh === true);
});

test('5: a refusal before the server went away does not count when it is back', async () => {
  const { server, settled, collector, log } = await scene();
  const rules = READER_RULES.filter(({ resources }) => !resources.includes('pods'));
  server.grant('engine', rules);
  server.dropWatches('end', 'pods');
  await until('refused', () => server.requests.at(-1)?.status === 403);
  await server.kill();
  await new Promise((resolve) => { setTimeout(resolve, 500); });
  server.grant('engine', READER_RULES);
  await server.start({ rolesAfterMs: 200 });
  server.delete('pods', 'a/p1');
  await settled();
  assert.is(log.some((line) => line.startsWith('warn pods: forbidden')), false);
  await until('fresh', () => collector.last?.fresh === true);
});

test('6: after a restart that has forgotten older versions everything is right', async () => {
  for (const floor of ['newest', 'now'] as const) {
    const { server, settled, collector } = await scene();
    collector.told.length = 0;
    await server.kill();
    server.patch('nodes', 'n2', { metadata: { labels: { x: 'y' } } });
    server.restart(floor);
    await server.start();
    await settled();
    assert.equal(collector.told, ['+Node n2'], floor);
  }
});

test('7: a server that stops holds its watches: silence finds it out', async () => {
  const { server, settled, collector } = await scene();
  const stopped = server.terminate(30);
  await until('stale', () => collector.last?.fresh === false);
  await stopped;
  server.delete('pods', 'a/p1');
  await server.start();
  await settled();
  await until('fresh', () => collector.last?.fresh === true);
});

test('7: a half-open connection is found out, and what was missed is caught up with', async () => {
  const { server, settled } = await scene();
  server.freeze();
  server.delete('pods', 'a/p1');
  server.create('pods', podObject('a', 'new', '10.0.3.1'));
  await new Promise((resolve) => { setTimeout(resolve, 100); });
  server.thaw();
  await settled();
});

test('8: withdrawn rights are told of when the watch ends, and what was known stays', async () => {
  const { server, settled, collector, resource } = await scene();
  server.grant('engine', READER_RULES.filter(({ resources }) => !resources.includes('pods')));
  server.patch('pods', 'a/p1', { metadata: { labels: { x: 'y' } } });
  await settled();
  server.dropWatches('end', 'pods');
  await until('forbidden', () => resource('pods').phase === 'forbidden');
  await until('told', () => collector.last?.problems.some((problem) =>
    /^pods: forbidden: cannot (list|watch): .*pods.*what was known last counts/.test(problem))
    === true);
  assert.is([...collector.entries.keys()].filter((key) => key.startsWith('Pod ')).length, 50);
  assert.is(collector.last?.fresh, false);
  server.patch('pods', 'a/p2', { metadata: { labels: { x: 'y' } } });
  server.grant('engine', READER_RULES);
  await settled();
  await until('well', () => collector.last?.problems.length === 0);
});

test('9: watches that end without a byte, and bookmarks of old, are nothing', async () => {
  const { server, settled, collector, resource } = await scene();
  const { told } = collector;
  told.length = 0;
  for (let i = 0; i < 3; i += 1) {
    server.dropWatches('end');
    await until('watching', () => server.watchCount === 5);
    server.dropWatches('end');
    await until('watching', () => server.watchCount === 5);
    server.bookmark();
    server.bookmark();
  }
  server.patch('namespaces', 'a', { metadata: { labels: { x: 'y' } } });
  await settled();
  assert.equal(told, ['+Namespace a']);
  assert.ok(resource('namespaces').counters.checks > 1);
  assert.is(resource('namespaces').counters.relists, 0);
});

test('10: a bookmark is never an object', async () => {
  const { server, collector, resource } = await scene();
  const before = [...collector.entries.keys()];
  server.bookmark();
  await until('bookmarks', () => resource('nodes').counters.bookmarks >= 2);
  assert.equal([...collector.entries.keys()], before);
});

test('11: items without kind, lists left out, and null for nothing', async () => {
  const { collector } = await scene({ version: '1.20' }, {}, (server) => {
    server.create('networkpolicies', policy('none', { policyTypes: ['Ingress'] }));
    server.create('networkpolicies', {
      metadata: {
        namespace: 'a', name: 'null', ...JSON.parse('{"creationTimestamp":null,"labels":null}'),
      },
      spec: { podSelector: {}, ingress: null, egress: null, policyTypes: ['Egress'] },
    });
  });
  const read = (name: string): object => {
    const entry = collector.entries.get(`NetworkPolicy a/${name}`);
    return entry?.kind === 'NetworkPolicy' ? entry.policy : {};
  };
  const isolated = { isolates: true, rules: [] };
  assert.equal([Reflect.get(read('none'), 'ingress'), Reflect.get(read('none'), 'egress')],
    [isolated, null]);
  assert.equal([Reflect.get(read('null'), 'ingress'), Reflect.get(read('null'), 'egress')],
    [null, isolated]);
});

test('12: a pod that is being deleted is there until it is deleted', async () => {
  const current = await scene();
  const { server, settled } = current;
  server.patch('pods', 'a/p1', {
    metadata: { deletionTimestamp: '2126-01-01T00:00:00Z', deletionGracePeriodSeconds: 30 },
  });
  await settled();
  assert.is(pod(current, 'a/p1')?.hasNetwork, true);
  server.delete('pods', 'a/p1');
  await settled();
  assert.is(pod(current, 'a/p1'), undefined);
});

test('13, 14: a pod has no address before it runs, and none of its own after its end', async () => {
  const current = await scene();
  const { server, settled } = current;
  const { spec, metadata } = podObject('a', 'x', '');
  server.create('pods', { metadata, spec, status: { phase: 'Pending' } });
  await settled();
  assert.equal(pod(current, 'a/x')?.pod.addresses, []);
  assert.is(pod(current, 'a/x')?.hasNetwork, true);
  for (const phase of ['Failed', 'Succeeded']) {
    server.patch('pods', 'a/x', { status: { phase, podIP: '10.0.1.9' } });
    await settled();
    assert.is(pod(current, 'a/x')?.hasNetwork, false, phase);
  }
});

test('15: the same name with another uid is another one, even if the end was missed', async () => {
  const current = await scene();
  const { server, settled, collector } = current;
  const uid = pod(current, 'a/p1')?.pod.uid;
  collector.told.length = 0;
  await server.kill();
  server.delete('pods', 'a/p1');
  server.create('pods', podObject('a', 'p1', '10.0.1.1'));
  server.delete('nodes', 'n3');
  server.create('nodes', nodeObject('n3', 9));
  server.restart('now');
  await server.start();
  await settled();
  assert.is.not(pod(current, 'a/p1')?.pod.uid, uid);
  assert.equal(collector.told.sort(), ['+Node n3', '+Pod a/p1', '-Node n3', '-Pod a/p1']);
});

test('16: addresses of both families, in either order', async () => {
  const current = await scene();
  const { server, settled } = current;
  for (const addresses of [['10.0.1.1', 'fd00::1'], ['fd00::1', '10.0.1.1'], ['fd00::1']]) {
    const podIPs = addresses.map((ip) => ({ ip }));
    server.patch('pods', 'a/p1', { status: { podIP: addresses[0], podIPs } });
    await settled();
    assert.equal(pod(current, 'a/p1')?.pod.addresses, addresses);
  }
});

test('17: what only an old server takes is read: host bits are cleared', async () => {
  const { collector } = await scene({ version: '1.20' }, {}, (server) => {
    server.create('networkpolicies', policy('bits', {
      ingress: [{ from: [{ ipBlock: { cidr: '10.1.2.3/8' } }],
        ports: [{ port: 200 }] }],
    }));
  });
  const entry = collector.entries.get('NetworkPolicy a/bits');
  assert.match(JSON.stringify(entry), /"cidr":"10\.0\.0\.0\/8"/);
  assert.equal(collector.last?.problems, []);
});

test('18: a custom resource that comes, initializes, goes and comes back', async () => {
  const server = new TestApiServer({ secondMs: 100 });
  await server.start();
  cleanups.push(() => server.close());
  server.create('nodes', nodeObject('n1', 1));
  const followed = follow(server);
  const { settled, resource, collector } = followed;
  cleanups.push(() => followed.stop());
  await settled();
  assert.is(resource('clusternetworkpolicies').phase, 'absent');
  assert.equal(collector.last?.problems, []);
  server.defineClusterNetworkPolicy();
  server.create('clusternetworkpolicies', {
    metadata: { name: 'c' },
    spec: { tier: 'Admin', priority: 1, subject: { namespaces: {} } },
  });
  server.faults.add({
    match: { resource: 'clusternetworkpolicies' }, status: 429, retryAfterSeconds: 0, times: 3,
  });
  await settled();
  assert.ok(collector.entries.has('ClusterNetworkPolicy c'));
  server.faults.add({ match: { resource: 'clusternetworkpolicies' }, status: 404,
    text: '404 page not found', times: 1_000 });
  server.dropWatches('end', 'clusternetworkpolicies');
  // A short absence changes nothing, a long one means that there are none.
  await until('asked', () => resource('clusternetworkpolicies').phase === 'failing');
  assert.ok(collector.entries.has('ClusterNetworkPolicy c'));
  await until('gone', () => !collector.entries.has('ClusterNetworkPolicy c'));
  server.faults.clear();
  await settled();
  assert.ok(collector.entries.has('ClusterNetworkPolicy c'));
});

test('19: where nothing may be read the missing right is named, and the rest goes on', async () => {
  for (const missing of ['clusternetworkpolicies', 'networkpolicies', 'pods', 'namespaces']) {
    const rules = READER_RULES.map((rule) => ({
      ...rule, resources: rule.resources.filter((name) => name !== missing),
    }));
    const { server, collector, resource } = await scene({}, { grant: false }, (created) => {
      created.grant('engine', rules);
    });
    await until('read', () => collector.commits > 0);
    assert.is(resource(missing).phase, 'forbidden');
    const [problem = ''] = collector.last?.problems ?? [];
    assert.match(problem, new RegExp(`^${missing}: forbidden: cannot list: .*${missing}.*; .*`
      + 'not enforced'));
    assert.is(collector.last?.fresh, true);
    server.grant('engine', READER_RULES);
    await until('well', () => collector.last?.problems.length === 0);
  }
});

test('19: without Nodes there is no state', async () => {
  const { collector, resource } = await scene({}, { grant: false }, (server) => {
    server.grant('engine', READER_RULES.map((rule) => ({
      ...rule, resources: rule.resources.filter((name) => name !== 'nodes'),
    })));
  });
  await until('told', () => /^nodes: forbidden: cannot list: .*no peers and no routes/
    .test(collector.last?.problems[0] ?? ''));
  assert.is(collector.commits, 0);
  assert.is(collector.last?.fresh, false);
  assert.is(resource('pods').hasSynced, true);
});

test('20: labels that the control plane adds are seen, managedFields are not', async () => {
  const current = await scene();
  const { server, settled } = current;
  server.patch('pods', 'a/p1', {
    metadata: {
      labels: { 'topology.kubernetes.io/zone': 'z1' },
      managedFields: [{ manager: 'x', fieldsV1: { 'k:{"uid":"1"}': {} } }],
    },
  });
  await settled();
  assert.equal(pod(current, 'a/p1')?.labels,
    ['app', 'p1', 'topology.kubernetes.io/zone', 'z1']);
});

test.run();
