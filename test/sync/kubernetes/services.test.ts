// Services of an API server, new and old: what it says, by whichever version it has slices in, is
// what the host is to serve.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Service } from '../../../engine/model.ts';
import { Services } from '../../../sync/services/services.ts';
import { READER_RULES, TestApiServer } from '../../support/api-server/server.ts';
import type { ServerVersion } from '../../support/api-server/resources.ts';
import { follow, nodeObject, until } from '../../support/followed.ts';
import type { Followed } from '../../support/followed.ts';

const test = suite('kubernetes/services');
let cleanups: (() => Promise<void>)[] = [];
test.after.each(async () => {
  const rest = cleanups.reverse();
  cleanups = [];
  for (const cleanup of rest) await cleanup();
});

interface Scene extends Followed {
  server: TestApiServer;
}

async function scene(version: ServerVersion, grant = true): Promise<Scene> {
  const server = new TestApiServer({ secondMs: 100, version });
  await server.start();
  cleanups.push(() => server.close());
  server.create('namespaces', { metadata: { name: 'a' } });
  server.create('nodes', nodeObject('n1', 1));
  server.create('services', {
    metadata: { namespace: 'a', name: 'web' },
    spec: { clusterIP: '10.96.0.1', clusterIPs: ['10.96.0.1'], ports: [{ name: 'x', port: 80 }] },
  });
  server.create('endpointslices', slice('web-1', version, '10.0.1.1'));
  const followed = follow(server, { grant });
  cleanups.push(() => followed.stop());
  return { ...followed, server };
}

function slice(name: string, version: ServerVersion, address: string): {
  metadata: { namespace: string; name: string };
} {
  const labels = { 'kubernetes.io/service-name': 'web' };
  const place = version === '1.20' ? { topology: { 'kubernetes.io/hostname': 'n1' } }
    : { nodeName: 'n1' };
  const body = {
    metadata: { namespace: 'a', name, labels }, addressType: 'IPv4',
    ports: [{ name: 'x', port: 8080, protocol: 'TCP' }],
    endpoints: [{ addresses: [address], conditions: { ready: true }, ...place }],
  };
  return body;
}

function served({ collector }: Scene): Service[] {
  const services = new Services('n1');
  for (const entry of collector.entries.values()) {
    if (entry.kind === 'Service') services.setService(entry.key, entry.service);
    if (entry.kind === 'EndpointSlice') services.setSlice(entry.key, entry.slice);
  }
  return services.take(true)?.services ?? [];
}

function backendsOf(current: Scene): string[] {
  return served(current).flatMap(({ ports }) =>
    ports.flatMap(({ backends }) => backends.map(({ address }) => address)));
}

for (const version of ['1.36', '1.20'] as const) {
  test(`${version}: Services and their slices are read, and followed`, async () => {
    const current = await scene(version);
    const { server, settled, resource } = current;
    await settled();
    assert.equal(backendsOf(current), ['10.0.1.1']);
    server.create('endpointslices', slice('web-2', version, '10.0.1.2'));
    await settled();
    assert.equal(backendsOf(current), ['10.0.1.1', '10.0.1.2']);
    server.delete('endpointslices', 'a/web-1');
    await settled();
    assert.equal(backendsOf(current), ['10.0.1.2']);
    assert.is(resource('endpointslices').phase, 'watching');
    assert.equal(current.collector.last?.problems, []);
    server.delete('services', 'a/web');
    await settled();
    assert.equal(served(current), []);
  });
}

test('without the right to read Services all else goes on, and it is told', async () => {
  const current = await scene('1.36', false);
  const { server, collector, settled } = current;
  const lacking = ['services', 'endpointslices'];
  server.grant('engine', READER_RULES.filter(({ resources }) =>
    !resources.some((name) => lacking.includes(name))));
  await until('read', () => collector.commits > 0);
  await until('told', () => collector.last?.problems.length === 2);
  assert.match(collector.last?.problems[0] ?? '', /^services: forbidden: .*; Services are not/);
  assert.match(collector.last?.problems[1] ?? '', /^endpointslices: forbidden: .* no backends$/);
  server.grant('engine', READER_RULES);
  await until('well', () => collector.last?.problems.length === 0);
  await settled();
  assert.equal(backendsOf(current), ['10.0.1.1']);
});

test.run();
