// Services from their objects and slices: after every step of random histories, the changes that
// were told add up to what a slow twin makes of all objects, and so does a snapshot; and the rules,
// one by one.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Log } from '../../../engine/log.ts';
import { SERVICE_BACKEND_LIMIT, SERVICE_PORT_LIMIT } from '../../../engine/model.ts';
import type { Backend, Service } from '../../../engine/model.ts';
import { encodeFrame } from '../../../engine/frame.ts';
import { project } from '../../../sync/objects.ts';
import type { Entry } from '../../../sync/objects.ts';
import type { Change } from '../../../sync/outbox.ts';
import { isSmall } from '../../../sync/outbox.ts';
import type { Whole } from '../../../sync/send.ts';
import { chooseBackends } from '../../../sync/services/choice.ts';
import type { EndpointFacts } from '../../../sync/services/objects.ts';
import { Services } from '../../../sync/services/services.ts';
import { ClusterState } from '../../../sync/state.ts';
import { inOrder, servicesOf } from '../../reference/service-choice.ts';
import { Random } from '../../support/random.ts';
import { ServiceHistory, keyOf } from '../../support/service-history.ts';
import type { KubeObject } from '../../support/service-history.ts';

const test = suite('sync/services');
const LOCAL = 'n0';
const HISTORIES = 40;
const STEPS = 60;
const silent: Log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

function entryOf(object: object): Entry {
  const { entry, problems } = project(object, () => '');
  assert.equal(problems, []);
  if (entry === null) throw new Error('not read');
  return entry;
}

/** Holds what it was told, as a host does. */
class Receiver {
  readonly isReading = false;
  wantsChanges = false;
  services = new Map<string, Service>();
  deltas = 0;
  whole: (() => Whole) | null = null;

  tell(change: Change, whole: () => Whole): void {
    this.whole = whole;
    if (!this.wantsChanges) return this.readWhole();
    this.deltas += 1;
    for (const { namespace, name } of change.removedServices ?? []) {
      assert.ok(this.services.delete(`${namespace}/${name}`), 'what goes was there');
    }
    for (const service of change.services ?? []) this.services.set(keyOfService(service), service);
  }

  readWhole(): void {
    this.services = new Map([...this.whole?.().services ?? []].flat()
      .map((service) => [keyOfService(service), service]));
    this.wantsChanges = true;
  }

  health(): void {}
}

function keyOfService({ namespace, name }: Service): string {
  return `${namespace}/${name}`;
}

function sorted(services: ReadonlyMap<string, Service>): Service[] {
  return [...services].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, one]) => inOrder(one));
}

test('random histories: changes add up to what the objects say, and so does a snapshot', () => {
  let seen = 0;
  for (let seed = 1; seed <= HISTORIES; seed += 1) {
    const history = new ServiceHistory(new Random(seed));
    const state = new ClusterState({ local: LOCAL, log: silent });
    const receiver = new Receiver();
    state.connect(receiver);
    const put = (object: KubeObject): void => state.upsert(entryOf(object));
    for (const object of history.list()) put(object);
    state.commit();
    for (let step = 0; step < STEPS; step += 1) {
      const { type, object } = history.step();
      if (type === 'SET') put(object);
      else state.remove(object.kind, keyOf(object).split(' ')[1] ?? '', object.metadata.uid);
      if (!history.random.oneIn(3)) state.commit();
      else continue;
      const wanted = sorted(servicesOf(history.list(), LOCAL));
      assert.equal(sorted(receiver.services), wanted, `seed ${seed}, step ${step}`);
      if (history.random.oneIn(10)) receiver.readWhole();
      assert.equal(sorted(receiver.services), wanted, `seed ${seed}, step ${step}, all`);
      seen += wanted.flatMap(({ ports }) => ports.flatMap(({ backends }) => backends)).length;
    }
    assert.ok(receiver.deltas > 0);
  }
  assert.ok(seen > 1000, `${seen} backends were compared`);
});

test('an object that comes again as it was is no news', () => {
  const services = new Services(LOCAL);
  const history = new ServiceHistory(new Random(7));
  for (let step = 0; step < 300; step += 1) history.step();
  const put = (): void => {
    for (const object of history.list()) {
      const entry = entryOf(object);
      if (entry.kind === 'Service') services.setService(entry.key, entry.service);
      if (entry.kind === 'EndpointSlice') services.setSlice(entry.key, entry.slice);
    }
  };
  put();
  assert.ok(services.take(true) !== null);
  put();
  assert.is(services.take(true), null);
});

function endpoint(facts: Partial<EndpointFacts>, address = '10.0.0.1') {
  return {
    address, port: 80,
    facts: { node: 'n1', condition: 'ready' as const, zones: null, nodes: null, ...facts },
  };
}

function statesOf(
  endpoints: ReturnType<typeof endpoint>[], rules = {}, isForAll = false,
): Backend['state'][] {
  const place = { node: LOCAL, zone: 'z0' };
  const all = { isLocal: false, takesUnready: false, ...rules };
  return chooseBackends(endpoints, all, place, isForAll).map(({ state }) => state);
}

test('hints count where every ready endpoint has them, and one is for us', () => {
  const [ours, others] = [endpoint({ zones: ['z0'] }), endpoint({ zones: ['z1'] })];
  assert.equal(statesOf([ours, others]), ['ready', 'distant']);
  assert.equal(statesOf([ours, others, endpoint({})]), ['ready', 'ready', 'ready']);
  assert.equal(statesOf([others, others]), ['ready', 'ready']);
  assert.equal(statesOf([ours, others, endpoint({ condition: 'draining' })]),
    ['ready', 'distant', 'draining']);
  const here = endpoint({ zones: ['z1'], nodes: [LOCAL] });
  const there = endpoint({ zones: ['z0'], nodes: ['n1'] });
  assert.equal(statesOf([here, there]), ['ready', 'distant'], 'nodes before zones');
  assert.equal(statesOf([there, endpoint({ zones: ['z1'], nodes: ['n2'] })]),
    ['ready', 'distant'], 'zones where no node is ours');
});

test('a policy of Local leaves the node\'s own endpoints, hints or not', () => {
  const own = endpoint({ node: LOCAL, zones: ['z1'] });
  assert.equal(statesOf([own, endpoint({ zones: ['z0'] })], { isLocal: true }), ['ready']);
  assert.equal(statesOf([endpoint({})], { isLocal: true }), []);
});

test('where a node port leads to all nodes, a policy of Local passes over the others', () => {
  const own = endpoint({ node: LOCAL });
  const draining = endpoint({ condition: 'draining' });
  assert.equal(statesOf([own, endpoint({}), draining], { isLocal: true }, true),
    ['ready', 'distant', 'unready']);
  assert.equal(statesOf([endpoint({}), draining], { isLocal: true, takesUnready: true }, true),
    ['distant', 'distant']);
  assert.equal(statesOf([own, endpoint({}), draining], {}, true), ['ready', 'ready', 'draining']);
});

function service(spec: object, labels = {}, annotations = {}): object {
  return {
    apiVersion: 'v1', kind: 'Service',
    metadata: { name: 'web', namespace: 'shop', labels, annotations },
    spec: { clusterIP: '10.96.0.1', ports: [{ port: 80 }], ...spec },
  };
}

test('headless, external and others\' Services are left alone', () => {
  const addresses = (spec: object, labels = {}): readonly string[] => {
    const entry = entryOf(service(spec, labels));
    return entry.kind === 'Service' ? entry.service.addresses : [];
  };
  assert.equal(addresses({}), ['10.96.0.1']);
  assert.equal(addresses({ clusterIPs: ['fd00::0:1', '10.96.0.1'] }), ['fd00::1', '10.96.0.1']);
  assert.equal(addresses({ clusterIP: 'None' }), []);
  assert.equal(addresses({ clusterIP: '', clusterIPs: null }), []);
  assert.equal(addresses({ type: 'ExternalName' }), []);
  assert.equal(addresses({}, { 'service.kubernetes.io/service-proxy-name': 'mesh' }), []);
  const bare = { apiVersion: 'v1', kind: 'Service', metadata: { name: 'web' } };
  assert.is(entryOf(bare).key, 'default/web');
});

/** A Service as the host of LOCAL is to see it, with an endpoint here and one elsewhere. */
function toldOf(spec: object, annotations = {}): Service {
  const services = new Services(LOCAL);
  const owner = entryOf(service(spec, {}, annotations));
  if (owner.kind === 'Service') services.setService(owner.key, owner.service);
  const slice = entryOf({
    apiVersion: 'discovery.k8s.io/v1', kind: 'EndpointSlice', addressType: 'IPv4',
    metadata: { name: 's', namespace: 'shop', labels: { 'kubernetes.io/service-name': 'web' } },
    endpoints: [
      { addresses: ['10.0.0.1'], nodeName: LOCAL }, { addresses: ['10.0.1.1'], nodeName: 'n1' },
    ],
    ports: [{ port: 8080 }],
  });
  if (slice.kind === 'EndpointSlice') services.setSlice(slice.key, slice.slice);
  const [told] = services.take(true)?.services ?? [];
  assert.ok(told !== undefined);
  return told;
}

test('node ports are those of the types that have them, with their rules', () => {
  const ports = [{ port: 80, nodePort: 30_080 }];
  const outside = { type: 'NodePort', ports, externalTrafficPolicy: 'Local' };
  const rules = (spec: object, annotations = {}): unknown[] => {
    const told = toldOf(spec, annotations);
    const { externalLocal, internalLocal, proxyProtocol, ports: [port] } = told;
    return [port?.nodePort, externalLocal, internalLocal, proxyProtocol];
  };
  const v2 = { 'culvert.net/proxy-protocol': 'v2' };
  assert.equal(rules(outside), [30_080, true, undefined, undefined]);
  assert.equal(rules({ ...outside, type: 'LoadBalancer' }, v2), [30_080, true, undefined, 'v2']);
  assert.equal(rules({ type: 'NodePort', ports, internalTrafficPolicy: 'Local' }),
    [30_080, undefined, true, undefined]);
  const none = [undefined, undefined, undefined, undefined];
  assert.equal(rules({ ...outside, type: 'ClusterIP', internalTrafficPolicy: 'Local' }, v2), none);
  assert.equal(rules({ ...outside, ports: [{ port: 80, nodePort: 0 }] }, v2), none);
});

test('backends of this node say so, and stay where only node ports take the others', () => {
  const ports = [{ port: 80, nodePort: 30_080 }];
  const backends = (spec: object): string[] => (toldOf({ ports, ...spec }).ports[0]?.backends ?? [])
    .map(({ address, state, local }) => `${address} ${state}${local === true ? ' local' : ''}`);
  const both = ['10.0.0.1 ready local', '10.0.1.1 ready'];
  assert.equal(backends({}), both);
  assert.equal(backends({ type: 'NodePort', externalTrafficPolicy: 'Local' }), both);
  const local = { type: 'NodePort', internalTrafficPolicy: 'Local' };
  assert.equal(backends(local), ['10.0.0.1 ready local', '10.0.1.1 distant']);
  assert.equal(backends({ ...local, externalTrafficPolicy: 'Local' }), both.slice(0, 1));
});

test('what only node ports ask for is news', () => {
  const services = new Services(LOCAL);
  const ports = [{ port: 80, nodePort: 30_080 }];
  const told = (spec: object, annotations = {}): number => {
    const entry = entryOf(service({ type: 'NodePort', ports, ...spec }, {}, annotations));
    if (entry.kind === 'Service') services.setService(entry.key, entry.service);
    return services.take(true)?.services.length ?? 0;
  };
  assert.is(told({}), 1);
  assert.is(told({}), 0);
  assert.is(told({ ports: [{ port: 80, nodePort: 30_081 }] }), 1);
  assert.is(told({ ports: [{ port: 80, nodePort: 30_081 }], externalTrafficPolicy: 'Local' }), 1);
  assert.is(told({ externalTrafficPolicy: 'Local' }), 1);
  assert.is(told({ externalTrafficPolicy: 'Local' }, { 'culvert.net/proxy-protocol': 'v1' }), 1);
  assert.is(told({ externalTrafficPolicy: 'Local' }, { 'culvert.net/proxy-protocol': 'v1' }), 0);
});

test('a node port twice, and another PROXY protocol, are told', () => {
  const ports = [{ port: 80, nodePort: 30_080 }, { name: 'b', port: 81, nodePort: 30_080 }];
  assert.equal(project(service({ type: 'NodePort', ports }), () => 'f:1').problems,
    ['f:1: Service shop/web: spec.ports[1]: node port 30080/TCP stands there already']);
  assert.equal(project(service({ ports }), () => 'f:1').problems, []);
  for (const value of ['v3', 'none', '']) {
    const [problem = ''] = project(
      service({}, {}, { 'culvert.net/proxy-protocol': value }), () => 'f:1').problems;
    assert.match(problem, /^f:1: Service shop\/web: .*proxy-protocol.*: not one of v1, v2$/);
  }
});

test('what the API server refuses is told with its field', () => {
  const twice = project(service({ ports: [{ port: 80 }, { name: 'b', port: 80 }] }), () => 'f:1');
  assert.equal(twice.problems,
    ['f:1: Service shop/web: spec.ports[1]: 80/TCP stands there already']);
  const slice = {
    apiVersion: 'discovery.k8s.io/v1', kind: 'EndpointSlice', metadata: { name: 's' },
    addressType: 'IPv6', endpoints: [{ addresses: ['10.0.0.1'] }], ports: null,
  };
  assert.match(project(slice, () => 'f:2').problems[0] ?? '',
    /^f:2: EndpointSlice default\/s: endpoints\[0\]\.addresses\[0\]: not an IPv6 address$/);
});

function large(ports: number, endpoints: number): Services {
  const services = new Services(LOCAL);
  const names = Array.from({ length: ports }, (_, at) => ({ name: `p${at}`, port: 1000 + at }));
  const owner = entryOf(service({ clusterIPs: ['10.96.0.1', 'fd00::1'], ports: names }));
  if (owner.kind === 'Service') services.setService(owner.key, owner.service);
  const slice = entryOf({
    apiVersion: 'discovery.k8s.io/v1', kind: 'EndpointSlice', addressType: 'IPv6',
    metadata: { name: 's', namespace: 'shop', labels: { 'kubernetes.io/service-name': 'web' } },
    endpoints: Array.from({ length: endpoints }, (_, at) => (
      {
        addresses: [`2001:db8:1111:2222:3333:4444:5555:${(0x1000 + at).toString(16)}`],
        nodeName: LOCAL,
      })),
    ports: names,
  });
  if (slice.kind === 'EndpointSlice') services.setSlice(slice.key, slice.slice);
  return services;
}

test('the largest Service fits a frame, and what goes beyond is told', () => {
  const largest = [[1, SERVICE_BACKEND_LIMIT], [SERVICE_PORT_LIMIT, 62]] as const;
  for (const [ports, endpoints] of largest) {
    const services = large(ports, endpoints + 1);
    const change = services.take(true);
    const [found] = change?.services ?? [];
    assert.is(found?.ports[0]?.backends.length, Math.floor(SERVICE_BACKEND_LIMIT / ports));
    assert.is(services.problems.length, 1);
    const delta = { nodes: [], removedNodes: [], pods: [], removedPods: [], ...change };
    assert.ok(isSmall(delta));
    encodeFrame({ from: 1, to: 2, ...delta });
    for (const part of services.parts()) encodeFrame({ services: part });
  }
  const services = large(SERVICE_PORT_LIMIT + 1, 1);
  assert.is(services.take(true), null);
  assert.match(services.problems[0] ?? '', /^Service shop\/web: 129 ports, .*: not served$/);
});

test.run();
