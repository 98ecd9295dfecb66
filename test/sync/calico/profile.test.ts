// The Calico profile against a server in memory: what it writes and when, and what it tells.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { poolSource, type CalicoMode, type CalicoView } from '../../../sync/calico/pools.ts';
import { CalicoProfile } from '../../../sync/calico/profile.ts';
import type { NodeClient } from '../../../sync/node-writer.ts';
import { PATIENCE_MS } from '../../support/until.ts';

const test = suite('sync/calico/profile');
const PREFIX = 'projectcalico.org/';
const FACTS = {
  underlay: [
    { family: 'IPv4' as const, address: '192.0.2.10', prefix: '192.0.2.0/24', mtu: 1500 },
    { family: 'IPv6' as const, address: '2001:db8::10', prefix: '2001:db8::/64', mtu: 1500 },
  ],
  podNetworks: ['10.244.0.0/16', 'fd00:10:244::/48'],
};
const CRD = '/apis/crd.projectcalico.org/v1/ippools';
const OWN_API = '/apis/projectcalico.org/v3/ippools';

function failure(status: number): Error {
  return Object.assign(new Error(`status ${status}`), { status });
}

function pools(...specs: object[]): object {
  return { items: specs.map((spec, index) => ({ metadata: { name: `pool-${index}` }, spec })) };
}

/** A Node and pools, with the annotations that were written. */
class Server implements NodeClient {
  readonly node = {
    metadata: {
      name: 'edge-1', uid: 'uid-1', resourceVersion: '1', annotations: {} as Record<string, string>,
    },
    spec: { podCIDRs: ['10.244.1.0/24', 'fd00:10:244:1::/64'] },
    status: { conditions: [] as { type: string; status: string; reason?: string }[] },
  };
  readonly objects: Record<string, object>;
  patches = 0;

  constructor(objects: Record<string, object>) {
    this.objects = objects;
  }

  get(path: string): Promise<unknown> {
    if (path === '/api/v1/pods') return Promise.resolve({ items: [] });
    const object = this.objects[path] ?? failure(404);
    return object instanceof Error ? Promise.reject(object) : Promise.resolve(object);
  }

  patch(path: string, change: unknown): Promise<unknown> {
    assert.is(path, '/api/v1/nodes/edge-1/status');
    const { metadata, status } = change as {
      metadata?: { annotations: Record<string, string> };
      status?: { conditions: { type: string; status: string; reason: string }[] };
    };
    this.patches += 1;
    Object.assign(this.node.metadata.annotations, metadata?.annotations ?? {});
    if (status !== undefined) this.node.status = status;
    this.node.metadata.resourceVersion = `${Number(this.node.metadata.resourceVersion) + 1}`;
    return Promise.resolve(structuredClone(this.node));
  }
}

interface Seen {
  server: Server;
  problems: string[];
  views: CalicoView[];
}

/** Runs a profile until it has been seen as wanted. */
async function run(
  server: Server, mode: CalicoMode | null, isEnough: (seen: Seen) => boolean, facts = FACTS,
): Promise<Seen> {
  const seen: Seen = { server, problems: [], views: [] };
  const stop = new AbortController();
  const profile = new CalicoProfile({
    client: server, nodeName: 'edge-1', mode, pools: poolSource(server), recheckMs: 10,
    log: { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} },
    onProblems: (problems) => { seen.problems = problems; },
    onView: (view) => seen.views.push(view),
    findDevice: () => null,
  });
  profile.facts(facts);
  profile.node(structuredClone(server.node));
  const running = profile.run(stop.signal);
  const deadline = performance.now() + PATIENCE_MS;
  while (!isEnough(seen)) {
    if (performance.now() > deadline) throw new Error(`in vain; told: ${seen.problems.join()}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  stop.abort();
  await running;
  return seen;
}

const isWritten = ({ server }: Seen): boolean => server.patches > 0;

function written({ server }: Seen): Record<string, string> {
  return Object.fromEntries(Object.entries(server.node.metadata.annotations)
    .map(([name, value]) => [name.replace(PREFIX, ''), value]));
}

test('the pools say which tunnel devices we have', async () => {
  const seen = await run(new Server({ [CRD]: pools(
    { cidr: '10.244.0.0/16', vxlanMode: 'CrossSubnet', ipipMode: 'Never' },
    { cidr: 'fd00:10:244::/48' }) }), null, isWritten);
  assert.equal(written(seen), {
    IPv4Address: '192.0.2.10/24', IPv4VXLANTunnelAddr: '10.244.1.0', IPv6Address: '2001:db8::10/64',
  });
  assert.equal(seen.views.at(-1)?.pools.map(({ mode }) => mode), ['vxlan-cross-subnet', 'none']);
  assert.equal(seen.server.node.status.conditions.map(({ reason }) => reason), ['CalicoIsUp']);
  assert.equal(seen.problems, []);
});

test('Calico\'s own API has pools too, and IPIP modes', async () => {
  const seen = await run(new Server({ [OWN_API]: pools(
    { cidr: '10.244.0.0/17', ipipMode: 'Always', vxlanMode: 'Never' },
    { cidr: '10.244.128.0/17', ipipMode: 'CrossSubnet' },
    { cidr: 'fd00:10:244::/48', vxlanMode: 'Always' }) }), null, isWritten);
  assert.equal(written(seen), {
    IPv4Address: '192.0.2.10/24', IPv4IPIPTunnelAddr: '10.244.1.0',
    IPv6Address: '2001:db8::10/64', IPv6VXLANTunnelAddr: 'fd00:10:244:1::',
  });
  assert.equal(seen.views.at(-1)?.pools.map(({ mode }) => mode),
    ['ipip', 'ipip-cross-subnet', 'vxlan']);
});

test('without a right to read pools we are ready for either, and say so', async () => {
  const seen = await run(new Server({ [CRD]: failure(403) }), null,
    (now) => isWritten(now) && now.problems.length > 0);
  assert.match(seen.problems[0] ?? '', /^calico: forbidden: verb list, resource ippools: .*mode/);
  assert.equal(Object.keys(written(seen)).sort(), [
    'IPv4Address', 'IPv4IPIPTunnelAddr', 'IPv4VXLANTunnelAddr', 'IPv6Address',
    'IPv6VXLANTunnelAddr',
  ]);
});

test('a cluster without pools is told of', async () => {
  const seen = await run(new Server({}), null, ({ problems }) => problems.length > 0);
  assert.match(seen.problems[0] ?? '', /there are no IPPools in this cluster/);
});

test('what the operator says needs no pools', async () => {
  const seen = await run(new Server({ [CRD]: failure(403) }), 'ipip', isWritten);
  assert.equal(Object.keys(written(seen)).sort(),
    ['IPv4Address', 'IPv4IPIPTunnelAddr', 'IPv6Address']);
  assert.equal([seen.problems, seen.views], [[], [{ mode: 'ipip', pools: [] }]]);
});

test('a Node without pod networks, or with others than the host\'s, is told of', async () => {
  const bare = new Server({});
  bare.node.spec.podCIDRs = [];
  const without = await run(bare, 'vxlan', ({ problems }) => problems.length > 0);
  assert.match(without.problems[0] ?? '', /no pod network \(spec\.podCIDRs\): .*IPAM/);
  const foreign = await run(new Server({}), 'vxlan', ({ problems }) => problems.length > 1,
    { ...FACTS, podNetworks: ['10.42.0.0/16'] });
  assert.match(foreign.problems[0] ?? '', /10\.244\.1\.0\/24 is not part of .* 10\.42\.0\.0\/16/);
  assert.is(foreign.server.patches, 0);
});

test.run();
