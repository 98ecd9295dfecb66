// Which ports of the node lead where, and the header that tells of the client, byte by byte.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { Backend, Pod, Service } from '../../../engine/model.ts';
import { DEFAULTS } from '../../../host/config.ts';
import { NodePorts } from '../../../host/node-ports.ts';
import {
  hasNodePorts, isPortRange, planPod, planService, type Plan,
} from '../../../host/node-ports/plan.ts';
import { proxyHeader } from '../../../host/node-ports/proxy-protocol.ts';
import { until } from '../../support/until.ts';
import { ProxyBed, echo, listenerFor } from '../../support/proxy-bed.ts';

const OPTIONS = { addresses: ['192.0.2.1', '2001:db8::1'], range: DEFAULTS.nodePorts.range };
const backend = (address: string, local?: boolean): Backend =>
  ({ address, port: 8080, state: 'ready', ...(local === undefined ? {} : { local }) });

function service(more: Partial<Service> = {}, nodePort?: number): Service {
  return {
    namespace: 'test', name: 'web', addresses: ['10.96.0.1', 'fd00:96::1'],
    affinitySeconds: 0, empty: 'reject',
    ports: [{
      name: '', protocol: 'TCP', port: 80, ...(nodePort === undefined ? {} : { nodePort }),
      backends: [backend('10.1.0.2', true), backend('10.2.0.2'), backend('fd00::2')],
    }],
    ...more,
  };
}

/** A plan as lines. */
function lines({ listeners, problems }: Plan): string[] {
  const text = listeners.map(({ protocol, address, port, backends }) => {
    const to = backends.map((one) => `${one.address} ${one.port}`).join(', ');
    return `${address} ${port} ${protocol} -> ${to}`;
  });
  return [...text, ...problems];
}

test('a node port is at each address of the Service\'s families', () => {
  assert.equal(lines(planService(service({}, 30080), OPTIONS)), [
    '192.0.2.1 30080 TCP -> 10.1.0.2 8080, 10.2.0.2 8080',
    '2001:db8::1 30080 TCP -> fd00::2 8080',
  ]);
  assert.equal(lines(planService(service({ addresses: ['fd00:96::1'] }, 30080), OPTIONS)), [
    '2001:db8::1 30080 TCP -> fd00::2 8080',
  ]);
  assert.not(hasNodePorts(service()));
  assert.equal(lines(planService(service(), OPTIONS)), []);
});

test('external traffic that is local has this node\'s backends, or none', () => {
  assert.equal(lines(planService(service({ externalLocal: true }, 30080), OPTIONS)), [
    '192.0.2.1 30080 TCP -> 10.1.0.2 8080',
    '2001:db8::1 30080 TCP -> ',
  ]);
});

test('hints count from outside, policies of Local for clients within do not', () => {
  const states = (more: Partial<Service>): string[] => {
    const [port] = service({}, 30080).ports;
    assert.ok(port !== undefined);
    const backends: Backend[] = [
      { ...backend('10.1.0.2', true), state: 'distant' }, backend('10.2.0.2'),
      { ...backend('10.3.0.2'), state: 'distant' }, { ...backend('10.4.0.2'), state: 'unready' },
    ];
    const web = service({ ports: [{ ...port, backends }], ...more });
    const { listeners } = planService(web, OPTIONS);
    return (listeners[0]?.backends ?? []).map(({ state }) => state);
  };
  assert.equal(states({}), ['distant', 'ready', 'distant', 'unready']);
  assert.equal(states({ externalLocal: true }), ['ready']);
  assert.equal(states({ internalLocal: true }), ['ready', 'ready', 'ready', 'unready']);
});

test('what cannot be served is told', () => {
  const told = 'service test/web: node port 29999/TCP is not in 30000-32767';
  assert.equal(lines(planService(service({}, 29999), OPTIONS)), [told]);
  const [port] = service({}, 30080).ports;
  assert.ok(port !== undefined);
  const sctp = service({ ports: [{ ...port, protocol: 'SCTP' }] });
  assert.equal(lines(planService(sctp, OPTIONS)),
    ['service test/web: node port 30080/SCTP: only TCP and UDP are served']);
});

test('host ports of a pod', () => {
  const at = (hostIP: string, addresses = ['10.1.0.2', 'fd00::2']): string[] => {
    const port = { protocol: 'UDP', hostPort: 53, containerPort: 5353, hostIP } as const;
    const pod: Pod = { namespace: 'test', name: 'dns', uid: 'u', addresses, hostPorts: [port] };
    return lines(planPod(pod, OPTIONS));
  };
  const both = ['192.0.2.1 53 UDP -> 10.1.0.2 5353', '2001:db8::1 53 UDP -> fd00::2 5353'];
  assert.equal(at(''), both);
  assert.equal(at('0.0.0.0'), both.slice(0, 1));
  assert.equal(at('::'), both.slice(1));
  assert.equal(at('127.0.0.1'), ['127.0.0.1 53 UDP -> 10.1.0.2 5353']);
  assert.equal(at('', ['fd00::2']), both.slice(1));
});

test('ranges', () => {
  for (const text of ['30000-32767', '1-65535', '80-80']) assert.ok(isPortRange(text), text);
  for (const text of ['', '80', '0-9', '9-8', '1-65536', '1-2-3', '1 - 2', 'a-b']) {
    assert.not(isPortRange(text), text);
  }
});

test('PROXY headers of both versions and families', () => {
  const hex = (...args: Parameters<typeof proxyHeader>): string =>
    Buffer.from(proxyHeader(...args)).toString('hex');
  const four = { client: '192.0.2.7', clientPort: 56324, address: '198.51.100.1', port: 443 };
  const six = { client: 'fe80::7%eth0', clientPort: 1, address: '2001:db8::1', port: 65535 };
  const tcp = { protocol: 'TCP' } as const;
  const udp = { protocol: 'UDP' } as const;
  const magic = '0d0a0d0a000d0a515549540a';
  assert.is(Buffer.from(proxyHeader('v1', { ...tcp, ...four })).toString(),
    'PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n');
  assert.is(Buffer.from(proxyHeader('v1', { ...tcp, ...six })).toString(),
    'PROXY TCP6 fe80::7 2001:db8::1 1 65535\r\n');
  assert.is(hex('v2', { ...tcp, ...four }), `${magic}2111000cc0000207c6336401dc0401bb`);
  assert.is(hex('v2', { ...udp, ...four }), `${magic}2112000cc0000207c6336401dc0401bb`);
  assert.is(hex('v2', { ...tcp, ...six }), `${magic}21210024`
    + 'fe800000000000000000000000000007' + '20010db8000000000000000000000001' + '0001ffff');
  assert.is(hex('v1', { ...udp, ...four }), '');
  assert.is(hex('none', { ...tcp, ...four }), '');
});

test('snapshots and deltas reach the proxy in its thread', async () => {
  const bed = new ProxyBed();
  const quiet = { debug() {}, info() {}, warn() {}, error() {} };
  const { port } = await listenerFor([]);
  const ports = new NodePorts({
    enabled: true, addresses: ['127.0.0.1'], range: '1-65535', log: quiet,
  });
  ports.begin();
  try {
    const target = await bed.server(echo('a'));
    const ask = async (address = '127.0.0.1'): Promise<string> =>
      bed.ask(await listenerFor([], { port, address }), '');
    const becomes = (wanted: string, address?: string): Promise<void> =>
      until(wanted, async () => await ask(address) === wanted);
    const web = service({ ports: [
      { name: '', protocol: 'TCP', port: 80, nodePort: port, backends: [target] },
    ] });
    ports.take({ services: [web], pods: [] });
    await becomes('a');
    await bed.until('it counts', () => ports.counters().connectionsOpened > 0);
    ports.take({ pods: [] });
    assert.is(await ask(), 'a', 'a snapshot without Services leaves them');
    ports.listenAt(['127.0.0.2']);
    await becomes('ECONNREFUSED');
    await becomes('a', '127.0.0.2');
    ports.listenAt(['127.0.0.1']);
    await becomes('a');
    ports.apply({
      removedServices: [{ namespace: 'test', name: 'web' }], pods: [], removedPods: [],
    });
    await becomes('ECONNREFUSED');
    ports.apply({ pods: [{
      namespace: 'test', name: 'p', uid: '', addresses: ['127.0.0.1'], hostPorts: [
        { protocol: 'TCP', hostPort: port, containerPort: target.port, hostIP: '' }],
    }], removedPods: [] });
    await becomes('a');
    ports.take({ services: [], pods: [] });
    await becomes('ECONNREFUSED');
  } finally {
    await ports.close();
    bed.close();
  }
});

test.run();
