// Ports of the node that pods ask for: from their objects to what the host is told.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Log } from '../../engine/log.ts';
import { HOST_PORT_LIMIT } from '../../engine/model.ts';
import type { HostPort, Pod, SourceHealth } from '../../engine/model.ts';
import { project } from '../../sync/objects.ts';
import type { Entry } from '../../sync/objects.ts';
import type { Change } from '../../sync/outbox.ts';
import { ClusterState } from '../../sync/state.ts';

const test = suite('sync/host-ports');
const LOCAL = 'n1';
const silent: Log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

function entryOf(object: object): Entry {
  const { entry, problems } = project(object, () => '');
  assert.equal(problems, []);
  if (entry === null) throw new Error('not read');
  return entry;
}

function podObject(spec: object, status: object = { podIP: '10.244.1.2' }): object {
  return {
    apiVersion: 'v1', kind: 'Pod', metadata: { name: 'dns', namespace: 'shop', uid: 'u1' },
    spec: { nodeName: LOCAL, ...spec }, status,
  };
}

function hostPortsOf(spec: object, status?: object): HostPort[] | undefined {
  const entry = entryOf(podObject(spec, status));
  return entry.kind === 'Pod' ? entry.pod.hostPorts : undefined;
}

const port = (fields: object): object => ({ containers: [{ ports: [fields] }] });
const SIMPLE = port({ containerPort: 8080, hostPort: 80 });
const TOLD: HostPort = { protocol: 'TCP', hostPort: 80, containerPort: 8080, hostIP: '' };

test('a port of the node is told with protocol and address', () => {
  assert.equal(hostPortsOf(SIMPLE), [TOLD]);
  const full = { containerPort: 5353, hostPort: 53, protocol: 'UDP', hostIP: 'FD00::0:1' };
  assert.equal(hostPortsOf(port(full)),
    [{ protocol: 'UDP', hostPort: 53, containerPort: 5353, hostIP: 'fd00::1' }]);
  assert.is(hostPortsOf(port({ containerPort: 8080 })), undefined);
  assert.is(hostPortsOf(port({ containerPort: 8080, hostPort: 0, hostIP: '' })), undefined);
});

test('containers that run beside each other have theirs, each once', () => {
  const sidecar = { restartPolicy: 'Always', ports: [{ containerPort: 9090, hostPort: 90 }] };
  const early = { ports: [{ containerPort: 7070, hostPort: 70 }] };
  const same = { ports: [{ containerPort: 8081, hostPort: 80 }] };
  const spec = { ...SIMPLE, initContainers: [early, sidecar, same] };
  assert.equal(hostPortsOf(spec), [TOLD, { ...TOLD, hostPort: 90, containerPort: 9090 }]);
});

test('pods with the node\'s network, and those that are finished, have none', () => {
  assert.is(hostPortsOf({ ...SIMPLE, hostNetwork: true }), undefined);
  assert.is(hostPortsOf(SIMPLE, { phase: 'Succeeded', podIP: '10.244.1.2' }), undefined);
});

test('what the API server refuses is told with its field', () => {
  const problem = (fields: object): string =>
    project(podObject(port(fields)), () => 'f:1').problems[0] ?? '';
  assert.is(problem({ containerPort: 1, hostPort: 70_000 }),
    'f:1: Pod dns: spec.containers[0].ports[0].hostPort: not between 1 and 65535');
  assert.is(problem({ containerPort: 1, hostPort: 1, hostIP: 'localhost' }),
    'f:1: Pod dns: spec.containers[0].ports[0].hostIP: not an IP address');
});

/** Holds what it was told of pods, as a host does. */
class Receiver {
  readonly isReading = false;
  wantsChanges = true;
  told: Pod[] = [];
  problems: string[] = [];

  tell({ pods }: Change): void {
    this.told.push(...pods);
  }

  health({ problems }: SourceHealth): void {
    this.problems = problems;
  }
}

function scene(): { receiver: Receiver; put: (object: object) => void; state: ClusterState } {
  const state = new ClusterState({ local: LOCAL, log: silent });
  const receiver = new Receiver();
  state.connect(receiver);
  state.setHealth({ source: 'file', fresh: true, staleSinceMs: null, problems: [] });
  const put = (object: object): void => {
    state.upsert(entryOf(object));
    state.commit();
  };
  put({ apiVersion: 'v1', kind: 'Node', metadata: { name: LOCAL } });
  return { receiver, put, state };
}

test('another port is news, and the host\'s addresses leave ports as they are', () => {
  const { receiver, put, state } = scene();
  put(podObject(SIMPLE));
  put(podObject(SIMPLE));
  put(podObject(port({ containerPort: 8080, hostPort: 81 })));
  const hostPorts = [{ ...TOLD, hostPort: 81 }];
  assert.equal(receiver.told.map((pod) => pod.hostPorts), [[TOLD], hostPorts]);
  state.takeEndpoints([{ namespace: 'shop', name: 'dns', uid: 'u1', addresses: ['10.244.1.9'] }]);
  assert.equal(receiver.told[2],
    { namespace: 'shop', name: 'dns', uid: 'u1', addresses: ['10.244.1.9'], hostPorts });
});

test('ports beyond the limit are told, as long as the pod is there', () => {
  const { receiver, put, state } = scene();
  const ports = Array.from({ length: HOST_PORT_LIMIT + 1 }, (_, at) =>
    ({ containerPort: 5000 + at, hostPort: 5000 + at, protocol: 'UDP' }));
  put(podObject({ containers: [{ ports }] }));
  assert.is(receiver.told[0]?.hostPorts?.length, HOST_PORT_LIMIT);
  assert.equal(receiver.problems,
    ['Pod shop/dns: 129 host ports, the limit is 128: the others lead nowhere']);
  state.remove('Pod', 'shop/dns', 'u1');
  state.commit();
  assert.equal(receiver.problems, []);
});

test.run();
