// What a sidecar relies on in an API server, as tests that any server must pass: the one for tests,
// in each version that it imitates, and real ones.

import * as assert from 'uvu/assert';
import { Follower, SHORT, truthOf } from '../follower.ts';
import type { WatchEvent } from './recording.ts';
import type { KubeObject } from './resources.ts';
import { Relay, Target, eventually, type TargetWatch } from './target.ts';

const MARK = 'k8s.io/initial-events-end';
const WATCH_LIST = 'watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan'
  + '&allowWatchBookmarks=true';
const MERGE = { contentType: 'application/merge-patch+json' };
const STRATEGIC = { contentType: 'application/strategic-merge-patch+json' };
const POLICIES = '/apis/networking.k8s.io/v1';
const FUTURE = 4_000_000_000;
const LIMIT_MS = 30_000;
let names = 0;

/** A name that no other run uses. */
function unique(): string {
  names += 1;
  return `culvert-${process.pid}-${names}`;
}

function told(watch: TargetWatch, name: string): WatchEvent[] {
  return watch.events.filter(({ type, object }) => type !== 'BOOKMARK'
    && object.metadata.name === name);
}

function pod(name: string, nodeName: string, labels: Record<string, string> = {}): unknown {
  return {
    metadata: { name, labels },
    spec: {
      nodeName, automountServiceAccountToken: false,
      containers: [{ name: 'c', image: 'example.com/c:1' }],
    },
  };
}

function policy(name: string, spec: unknown): unknown {
  return { apiVersion: 'networking.k8s.io/v1', kind: 'NetworkPolicy', metadata: { name }, spec };
}

async function listVersion(target: Target, path: string): Promise<string> {
  return (await target.ask('GET', `${path}?limit=1`)).body.metadata.resourceVersion ?? '';
}

/** How a server answers to a WatchList: the events up to the mark, or the code it refuses with. */
async function watchList(target: Target, path: string): Promise<WatchEvent[] | number> {
  const watch = await target.watch(`${path}?${WATCH_LIST}&timeoutSeconds=20`);
  try {
    if (watch.status !== 200) return watch.status;
    const isDone = ({ type, object }: WatchEvent): boolean => type === 'ERROR'
      || object.metadata.annotations?.[MARK] === 'true';
    await eventually('the end of the initial events', () => watch.events.some(isDone));
    const last = watch.events.find(isDone);
    return last?.type === 'ERROR' ? last.object.code ?? 0 : watch.events;
  } finally {
    watch.stop();
  }
}

/** Every behaviour by name. */
export const BEHAVIOURS: Record<string, (target: Target) => Promise<void>> = {
  'a watch from a list on tells each change once, in order': async (target) => {
    const path = '/api/v1/namespaces';
    const watch = await target.watch(`${path}?watch=1&resourceVersion=`
      + await listVersion(target, path));
    const name = await target.namespace(unique());
    const patch = (change: unknown) => target.ask('PATCH', `${path}/${name}`, change, MERGE);
    await patch({ metadata: { labels: { a: '1' } } });
    const { body } = await patch({ metadata: { labels: { a: '1' } } });
    await patch({ metadata: { labels: { a: '2' } } });
    await target.ask('DELETE', `${path}/${name}`);
    await target.ask('PUT', `${path}/${name}/finalize`, {
      apiVersion: 'v1', kind: 'Namespace', metadata: { name }, spec: { finalizers: [] },
    });
    await eventually('the deletion', () => told(watch, name).at(-1)?.type === 'DELETED');
    watch.stop();
    const events = told(watch, name);
    assert.is(events[0]?.type, 'ADDED');
    assert.ok(events.slice(1, -1).every(({ type }) => type === 'MODIFIED'));
    const versions = events.map(({ object }) => Number(object.metadata.resourceVersion));
    assert.equal(versions, [...new Set(versions)].sort((a, b) => a - b));
    // The change of nothing made no version.
    assert.is(versions.filter((version) => version === Number(body.metadata.resourceVersion))
      .length, 1);
    assert.is(events[0]?.object.kind, 'Namespace');
  },

  'pages have the version of the first, and no kind in their items': async (target) => {
    const namespace = await target.namespace(unique());
    const path = `/api/v1/namespaces/${namespace}/configmaps`;
    for (let i = 0; i < 5; i += 1) {
      await target.create(path, { metadata: { name: `m-${i}` } });
    }
    const first = (await target.ask('GET', `${path}?limit=2`)).body;
    await target.create(path, { metadata: { name: 'm-3-later' } });
    const token = encodeURIComponent(String(first.metadata['continue']));
    const second = (await target.ask('GET', `${path}?limit=9&continue=${token}`)).body;
    assert.is(second.metadata.resourceVersion, first.metadata.resourceVersion);
    const items = [...first.items ?? [], ...second.items ?? []];
    const found = items.map(({ metadata }) => metadata.name).filter((name) => /^m-/.test(name));
    assert.equal(found, ['m-0', 'm-1', 'm-2', 'm-3', 'm-4']);
    assert.ok(items.every((item) => item['kind'] === undefined));
    assert.is((await target.ask('GET', `${path}?limit=2&continue=abc`)).status, 400);
  },

  'entering a selector is an addition, leaving it a deletion': async (target) => {
    const path = '/api/v1/namespaces';
    const name = await target.namespace(unique());
    const label = unique();
    const watch = await target.watch(`${path}?watch=1&labelSelector=mark%3D${label}`
      + `&resourceVersion=${await listVersion(target, path)}`);
    for (const mark of [label, 'other', label]) {
      await target.ask('PATCH', `${path}/${name}`, { metadata: { labels: { mark } } }, MERGE);
    }
    await eventually('three events', () => told(watch, name).length === 3);
    watch.stop();
    assert.equal(told(watch, name).map(({ type, object }) => [type, object.metadata.labels?.mark]),
      [['ADDED', label], ['DELETED', label], ['ADDED', label]]);
  },

  'a WatchList is a list, or is refused so that a list is tried': async (target) => {
    const namespace = await target.namespace(unique());
    const path = `/api/v1/namespaces/${namespace}/configmaps`;
    await target.create(path, { metadata: { name: 'one' } });
    const answer = await watchList(target, path);
    if (typeof answer === 'number') {
      assert.ok([422, 500].includes(answer), `refused with ${answer}`);
      return;
    }
    const items = (await target.ask('GET', path)).body.items ?? [];
    assert.equal(answer.filter(({ type }) => type === 'ADDED')
      .map(({ object }) => object.metadata.resourceVersion).sort(),
    items.map(({ metadata }) => metadata.resourceVersion).sort());
    const { metadata } = (answer.at(-1) as WatchEvent).object;
    assert.is(metadata.name, undefined);
  },

  'a version that is too old is an ERROR of 410 in an answer of 200': async (target) => {
    const watch = await target.watch('/api/v1/namespaces?watch=1&resourceVersion=1'
      + '&timeoutSeconds=2');
    assert.is(watch.status, 200);
    assert.ok(await watch.ended, 'a proper end');
    const error = watch.events.find(({ type }) => type === 'ERROR');
    // A server that has just been made still knows everything from the beginning on.
    if (error === undefined) {
      assert.ok(watch.events.length > 0);
      return;
    }
    assert.is(watch.events.length, 1);
    assert.is(error.object.code, 410);
    assert.is(error.object.metadata.resourceVersion, undefined);
  },

  'a version of the future is silent in a watch and refused in a list': async (target) => {
    const path = '/api/v1/namespaces';
    const watch = await target.watch(
      `${path}?watch=1&allowWatchBookmarks=true&timeoutSeconds=2&resourceVersion=${FUTURE}`);
    await target.namespace(unique());
    assert.ok(await watch.ended, 'a proper end');
    assert.is(watch.status, 200);
    assert.is(watch.events.length, 0);
    const list = await target.ask('GET',
      `${path}?resourceVersion=${FUTURE}&resourceVersionMatch=NotOlderThan`);
    assert.is(list.status, 504);
  },

  'policies are stored in their normal form': async (target) => {
    const namespace = await target.namespace(unique());
    const path = `${POLICIES}/namespaces/${namespace}/networkpolicies`;
    const isolating = await target.create(path, policy('isolating', {
      podSelector: {}, ingress: [], policyTypes: ['Ingress'],
    }));
    assert.equal(isolating['spec'], { podSelector: {}, policyTypes: ['Ingress'] });
    const egress = await target.create(path, policy('egress', { podSelector: {}, egress: [{}] }));
    assert.equal((egress['spec'] as { policyTypes: string[] }).policyTypes,
      ['Ingress', 'Egress']);
    const range = await target.create(path, policy('range', {
      podSelector: {}, ingress: [{ ports: [{ protocol: 'TCP', port: 100, endPort: 200 }] }],
    }));
    const [rule] = (range['spec'] as { ingress: { ports: { endPort?: number }[] }[] }).ingress;
    const keepsRanges = rule?.ports[0]?.endPort === 200;
    // A server that drops ranges is one that keeps host bits, and the other way round.
    const bits = await target.ask('POST', path, policy('bits', {
      podSelector: {}, ingress: [{ from: [{ ipBlock: { cidr: '10.1.2.3/8' } }] }],
    }));
    if (keepsRanges) assert.ok([201, 422].includes(bits.status));
    else assert.is(bits.status, 201);
    const both = await target.ask('POST', path, policy('both', {
      podSelector: {},
      ingress: [{ from: [{ ipBlock: { cidr: '10.0.0.0/8' }, podSelector: {} }] }],
    }));
    assert.is(both.status, 422);
  },

  'what is not there is said in text or in JSON': async (target) => {
    const group = await target.ask('GET', '/apis/nosuch.example.com/v1/things');
    assert.is(group.status, 404);
    assert.match(group.type, 'text/plain');
    const resource = await target.ask('GET', '/api/v1/nosuch');
    assert.is(resource.status, 404);
    assert.is(resource.body.reason, 'NotFound');
  },

  'a deleted pod is changed first, and finished ones keep their address': async (target) => {
    const namespace = await target.namespace(unique());
    const node = unique();
    const path = `/api/v1/namespaces/${namespace}/pods`;
    await target.create('/api/v1/nodes', { metadata: { name: node } });
    const watch = await target.watch(`/api/v1/pods?watch=1&resourceVersion=`
      + await listVersion(target, '/api/v1/pods'));
    await target.create(path, pod('p', node));
    const status = (phase: string, ...ips: string[]) =>
      target.ask('PATCH', `${path}/p/status`,
        { status: { phase, podIP: ips[0], podIPs: ips.map((ip) => ({ ip })) } }, STRATEGIC);
    await status('Running', '10.99.0.2', 'fd00:99::2');
    const { body } = await status('Succeeded', '10.99.0.2', 'fd00:99::2');
    assert.is((body['status'] as { podIP: string }).podIP, '10.99.0.2');
    await target.ask('DELETE', `${path}/p?gracePeriodSeconds=0`);
    await eventually('the deletion', () => told(watch, 'p').at(-1)?.type === 'DELETED');
    watch.stop();
    const events = told(watch, 'p');
    assert.ok(events.length >= 4);
    assert.ok(events.slice(1, -1).every(({ type }) => type === 'MODIFIED'));
    const last = events.at(-1) as WatchEvent;
    assert.is((last.object['status'] as { podIP: string }).podIP, '10.99.0.2');
    assert.ok(Number(last.object.metadata.resourceVersion)
      > Number(events.at(-2)?.object.metadata.resourceVersion));
  },

  'a patch of the status writes annotations and conditions side by side': async (target) => {
    const name = unique();
    await target.create('/api/v1/nodes', {
      metadata: { name }, spec: { podCIDR: '10.98.0.0/24', podCIDRs: ['10.98.0.0/24'] },
    });
    const path = `/api/v1/nodes/${name}/status`;
    const condition = (type: string, state: string) =>
      ({ type, status: state, reason: 'Test', message: '' });
    await target.ask('PATCH', path, { status: { conditions: [condition('Ready', 'True')] } },
      STRATEGIC);
    const { status, body } = await target.ask('PATCH', path, {
      metadata: { annotations: { 'flannel.alpha.coreos.com/backend-type': 'vxlan' } },
      status: { conditions: [condition('NetworkUnavailable', 'False')] },
      spec: { podCIDR: '10.97.0.0/24' },
    }, STRATEGIC);
    assert.is(status, 200);
    assert.is(body.metadata.annotations?.['flannel.alpha.coreos.com/backend-type'], 'vxlan');
    assert.is((body['spec'] as { podCIDR: string }).podCIDR, '10.98.0.0/24');
    const types = (body['status'] as { conditions: { type: string }[] }).conditions
      .map(({ type }) => type).sort();
    assert.equal(types, ['NetworkUnavailable', 'Ready']);
  },

  'rights are missed by name, work when granted, and a watch outlives them': async (target) => {
    const namespace = await target.namespace(unique());
    const { token, grant } = await target.user(namespace, 'reader');
    const path = '/api/v1/namespaces';
    const refused = await target.ask('GET', path, undefined, { token });
    assert.is(refused.status, 403);
    assert.match(refused.body.message ?? '', /cannot list resource "namespaces"/);
    // Nor does it learn whether a group is there.
    const unknown = await target.ask('GET', '/apis/nosuch.example.com/v1/things', undefined,
      { token });
    assert.is(unknown.status, 403);
    assert.is((await target.ask('GET', path, undefined, { token: 'nonsense' })).status, 401);
    await grant([{ apiGroups: [''], resources: ['namespaces'], verbs: ['list', 'watch'] }]);
    await eventually('the rights', async () =>
      (await target.ask('GET', `${path}?limit=1`, undefined, { token })).status === 200);
    const watch = await target.watch(`${path}?watch=1&resourceVersion=`
      + await listVersion(target, path), token);
    await grant(null);
    await eventually('the refusal', async () =>
      (await target.ask('GET', `${path}?limit=1`, undefined, { token })).status === 403);
    await target.ask('PATCH', `${path}/${namespace}`, { metadata: { labels: { x: 'y' } } }, MERGE);
    await eventually('an event', () => told(watch, namespace).length > 0);
    watch.stop();
  },

  'the source follows it through cuts and silence': (target) => follow(target),
};

/** The whole source against the server, by way of a relay that is cut and stopped. */
async function follow(target: Target): Promise<void> {
  const relay = await Relay.start(target);
  const local = unique();
  const namespace = await target.namespace(unique());
  await target.create('/api/v1/nodes', {
    metadata: { name: local }, spec: { podCIDR: '10.96.0.0/24', podCIDRs: ['10.96.0.0/24'] },
  });
  const follower = new Follower({
    kubeconfig: target.kubeconfig({ port: relay.port }), local,
    timing: { ...SHORT, silenceMs: 1500, backoffCapMs: 200 }, staleAfterMs: 3000,
    clientOptions: { connectTimeoutMs: 5000, headerTimeoutMs: 10_000, silenceTimeoutMs: 5000 },
  });
  try {
    for (const [i, disturb] of [() => {}, () => relay.cut(), () => relay.stop()].entries()) {
      disturb();
      await target.create(`/api/v1/namespaces/${namespace}/pods`,
        pod(`p-${i}`, local, { app: i % 2 === 0 ? 'web' : 'db' }));
      const ip = `10.96.0.${i + 2}`;
      await target.ask('PATCH', `/api/v1/namespaces/${namespace}/pods/p-${i}/status`,
        { status: { phase: 'Running', podIP: ip, podIPs: [{ ip }] } }, STRATEGIC);
      await target.create(`${POLICIES}/namespaces/${namespace}/networkpolicies`,
        policy(`np-${i}`, {
          podSelector: { matchLabels: { app: 'web' } },
          ingress: [{ from: [{ podSelector: { matchLabels: { app: 'db' } } }] }],
        }));
      const truth = truthOf(await allObjects(target), local);
      await follower.settled(() => truth, LIMIT_MS);
    }
    assert.is(follower.host.pods.size, 3);
    assert.equal(follower.host.faults, []);
  } finally {
    await follower.stop();
    await relay.close();
  }
}

const FOLLOWED: readonly [string, string, string][] = [
  ['/api/v1/nodes', 'v1', 'Node'], ['/api/v1/namespaces', 'v1', 'Namespace'],
  ['/api/v1/pods', 'v1', 'Pod'],
  [`${POLICIES}/networkpolicies`, 'networking.k8s.io/v1', 'NetworkPolicy'],
  ['/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies',
    'policy.networking.k8s.io/v1alpha2', 'ClusterNetworkPolicy'],
];

async function allObjects(target: Target): Promise<KubeObject[]> {
  const all: KubeObject[] = [];
  for (const [path, apiVersion, kind] of FOLLOWED) {
    const { items = [] } = (await target.ask('GET', path)).body;
    all.push(...items.map((item) => ({ ...item, apiVersion, kind })));
  }
  return all;
}
