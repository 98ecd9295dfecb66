// `culvert policy test`, `explain` and `list` as a user types them.
//
//   node n1: shop/web 10.0.1.2, fd00:1::2   shop/db 10.0.1.3   shop/done (finished)
//   node n2: ops/probe 10.0.2.2             ops/late (no address), ops/agent (host network)

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { culvert, type Outcome } from '../support/command.ts';

const folder = mkdtempSync(join(tmpdir(), `culvert-policy-${process.pid}-`));
const objects = join(folder, 'cluster');

const PODS = `
{apiVersion: v1, kind: Node, metadata: {name: n1},
  status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: n2},
  status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {team: shop},
  annotations: {net.beta.kubernetes.io/network-policy: '{"ingress":{"isolation":"DefaultDeny"}}'}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web}},
  spec: {nodeName: n1, containers: [{ports: [{name: http, containerPort: 8080}]}]},
  status: {phase: Running, podIP: 10.0.1.2, podIPs: [{ip: 10.0.1.2}, {ip: "fd00:1::2"}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: db, namespace: shop, labels: {app: db}},
  spec: {nodeName: n1}, status: {phase: Running, podIP: 10.0.1.3}}
---
{apiVersion: v1, kind: Pod, metadata: {name: done, namespace: shop, labels: {app: web}},
  spec: {nodeName: n1}, status: {phase: Succeeded, podIP: 10.0.1.9}}
---
{apiVersion: v1, kind: Pod, metadata: {name: probe, namespace: ops, labels: {app: probe}},
  spec: {nodeName: n2}, status: {phase: Running, podIP: 10.0.2.2,
  podIPs: [{ip: 10.0.2.2}, {ip: "fd00:2::2"}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: late, namespace: ops}, spec: {nodeName: n2}}
---
{apiVersion: v1, kind: Pod, metadata: {name: agent, namespace: ops},
  spec: {nodeName: n2, hostNetwork: true}, status: {phase: Running, podIP: 192.0.2.2}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: ignored}}
`;
const POLICIES = {
  apiVersion: 'v1', kind: 'List', items: [
    {
      apiVersion: 'networking.k8s.io/v1', kind: 'NetworkPolicy',
      metadata: { name: 'web', namespace: 'shop' },
      spec: {
        podSelector: { matchLabels: { app: 'web' } },
        ingress: [{ ports: [{ port: 'http' }] }],
      },
    },
    {
      apiVersion: 'networking.k8s.io/v1', kind: 'NetworkPolicy',
      metadata: { name: 'db', namespace: 'shop' },
      spec: {
        podSelector: { matchLabels: { app: 'db' } }, policyTypes: ['Ingress', 'Egress'],
        ingress: [{ from: [{ podSelector: { matchLabels: { app: 'web' } } }] }],
      },
    },
    {
      apiVersion: 'policy.networking.k8s.io/v1alpha2', kind: 'ClusterNetworkPolicy',
      metadata: { name: 'guard' },
      spec: {
        tier: 'Admin', priority: 5, subject: { namespaces: {} },
        egress: [{
          name: 'no-dns-outside', action: 'Deny', to: [{ networks: ['203.0.113.0/24'] }],
          protocols: [{ udp: { destinationPort: { number: 53 } } }],
        }],
      },
    },
  ],
};

const FLOWS = [
  { id: 'a', src: { pod: 'ops/probe' }, dst: { pod: 'shop/web' }, protocol: 'TCP', port: 8080,
    family: 'IPv6' },
  { id: 'b', src: { pod: 'ops/probe' }, dst: { pod: 'shop/web' }, protocol: 'TCP', port: 8081,
    family: 'IPv4' },
  { id: 'c', src: { pod: 'shop/db' }, dst: { ip: '203.0.113.7' }, protocol: 'UDP', port: 53 },
  { id: 'd', src: { pod: 'shop/db' }, dst: { pod: 'shop/db' }, protocol: 'SCTP', port: 7 },
  { id: 'e', src: { pod: 'ops/agent' }, dst: { pod: 'ops/probe' }, protocol: 'ICMP' },
  { id: 'f', src: { ip: '198.51.100.1' }, dst: { pod: 'shop/db' }, protocol: 'TCP', port: 80 },
  { id: 'g', src: { node: 'n1' }, dst: { node: 'n2' }, protocol: 'TCP', port: 22 },
  { id: 'h', src: { pod: 'shop/db' }, dst: { pod: 'shop/web' }, protocol: 'TCP', port: 1 },
];
const NONE = { verdict: 'allow', egress: 'allow', ingress: 'allow', policy: null };
const RESULTS = [
  { id: 'a', ...NONE, policy: 'NetworkPolicy shop/web' },
  { id: 'b', ...NONE, verdict: 'deny', ingress: 'deny', policy: 'NetworkPolicy shop/web' },
  { id: 'c', ...NONE, verdict: 'deny', egress: 'deny', policy: 'ClusterNetworkPolicy guard' },
  { id: 'd', ...NONE }, { id: 'e', ...NONE },
  { id: 'f', ...NONE, verdict: 'deny', ingress: 'deny', policy: 'NetworkPolicy shop/db' },
  { id: 'g', ...NONE },
  { id: 'h', verdict: 'deny', egress: 'deny', ingress: 'deny', policy: 'NetworkPolicy shop/db' },
];

/** Writes a file and returns its path. */
function write(name: string, content: unknown): string {
  const path = join(folder, name);
  writeFileSync(path, typeof content === 'string' ? content : JSON.stringify(content));
  return path;
}

mkdirSync(objects);
writeFileSync(join(objects, 'pods.yaml'), PODS);
writeFileSync(join(objects, 'policies.json'), JSON.stringify(POLICIES, null, 1));
const flows = write('flows.json', { flows: FLOWS });
test.after(() => rmSync(folder, { recursive: true, force: true }));

function policyTest(...words: string[]): Promise<Outcome> {
  return culvert(['policy', 'test', '--objects', objects, ...words]);
}

function explain(from: string, to: string, port: string, ...words: string[]): Promise<Outcome> {
  return culvert(['policy', 'explain', '--objects', objects, '--from', from, '--to', to,
    '--port', port, ...words]);
}

/** One explanation on standard error, no answer, exit code 2. */
function assertRefused(outcome: Outcome, ...expected: RegExp[]): void {
  for (const pattern of expected) assert.match(outcome.stderr, pattern);
  assert.is(outcome.code, 2, outcome.stderr);
  assert.is(outcome.stdout, '');
  assert.not.match(outcome.stderr, /^ {4}at /m);
}

test('policy test answers in order, as JSON of just this shape', async () => {
  const { code, stdout, stderr } = await policyTest('--flows', flows, '-o', 'json');
  assert.is(code, 0, stderr);
  assert.is(stderr, '');
  assert.equal(JSON.parse(stdout), { results: RESULTS });
});

test('objects come from several files as well, and the answer is a table too', async () => {
  const { code, stdout, stderr } = await culvert(['policy', 'test',
    '--objects', join(objects, 'pods.yaml'), join(objects, 'policies.json'), '--flows', flows]);
  assert.is(code, 0, stderr);
  const lines = stdout.trimEnd().split('\n').map((line) => line.split(/\s{2,}/));
  assert.equal(lines[0], ['ID', 'VERDICT', 'EGRESS', 'INGRESS', 'POLICY']);
  assert.equal(lines[3], ['c', 'deny', 'deny', 'allow', 'ClusterNetworkPolicy guard']);
  assert.is(lines.length, FLOWS.length + 1);
});

test('the annotation of old counts where it is asked for', async () => {
  const flow = { id: 'x', src: { pod: 'shop/web' }, dst: { pod: 'shop/plain' }, protocol: 'TCP',
    port: 1, family: 'IPv4' };
  const plain = write('plain.yaml', '{apiVersion: v1, kind: Pod, metadata: {name: plain, '
    + 'namespace: shop}, spec: {nodeName: n2}, status: {phase: Running, podIP: 10.0.2.9}}');
  const words = ['--objects', plain, objects, '--flows', write('one.json', { flows: [flow] }),
    '-o', 'json'];
  const results = async (more: string[]): Promise<unknown> =>
    JSON.parse((await culvert(['policy', 'test', ...words, ...more])).stdout);
  assert.equal(await results([]), { results: [{ id: 'x', ...NONE }] });
  assert.equal(await results(['--legacy-annotation']), { results: [{
    id: 'x', ...NONE, verdict: 'deny', ingress: 'deny', policy: 'Namespace shop',
  }] });
});

test('expectations that hold end with 0, in whatever form they come', async () => {
  const verdicts = Object.fromEntries(RESULTS.map(({ id, verdict }) => [id, verdict]));
  const files = [verdicts, { expect: verdicts }, { results: RESULTS }]
    .map((content, index) => write(`expect-${index}.json`, content));
  for (const file of files) {
    const { code, stderr } = await policyTest('--flows', flows, '--expect', file);
    assert.is(code, 0, stderr);
    assert.match(stderr, /0 of 8 flows are not as expected/);
  }
});

test('expectations that do not hold are listed and end with 1', async () => {
  const expected = write('wrong.json', { a: 'deny', b: 'deny', f: { policy: null } });
  const { code, stdout, stderr } =
    await policyTest('--flows', flows, '--expect', expected, '-o', 'json');
  assert.is(code, 1);
  assert.equal(JSON.parse(stdout), { results: RESULTS });
  assert.match(stderr, /^a: verdict is allow, expected deny \(egress allow, ingress allow, /m);
  assert.match(stderr, /^f: policy is NetworkPolicy shop\/db, expected null$/m);
  assert.not.match(stderr, /^b:/m);
  assert.match(stderr, /2 of 3 flows are not as expected/);
});

test('expectations that cannot be read, or are of no flow, end with 2', async () => {
  const unknown = write('unknown.json', { zz: 'allow' });
  const outcome = await policyTest('--flows', flows, '--expect', unknown);
  assert.is(outcome.code, 2);
  assert.match(outcome.stderr, /unknown\.json: "zz": no such flow/);
  assertRefused(await policyTest('--flows', flows, '--expect', write('bad.json', { a: 'maybe' })),
    /bad\.json:1: a: not allow or deny/);
});

test('malformed flows are refused with file, line and field', async () => {
  const good = FLOWS[1];
  const cases: [unknown, RegExp][] = [
    ['{"flows": [\n{"id": "a",}\n]', /flows-bad\.json:[23]: /],
    [{}, /flows-bad\.json:1: flows: missing/],
    [`{"flows": [\n${JSON.stringify(good)},\n${JSON.stringify({ ...good, id: 'x', port: 0 })}]}`,
      /flows-bad\.json:3: flows\[1\]\.port: not a port/],
    [{ flows: [good, { ...good, id: 'x', protocol: 'GRE' }] },
      /flows\[1\]\.protocol: not TCP, UDP, SCTP or ICMP/],
    [{ flows: [{ ...good, port: undefined }] }, /flows\[0\]\.port: not a port from 1 to 65535/],
    [{ flows: [{ ...good, port: 70000 }] }, /flows\[0\]\.port: not a port/],
    [{ flows: [{ ...good, src: { ip: '10.0.0.300' } }] }, /flows\[0\]\.src\.ip: not an IP/],
    [{ flows: [{ ...good, src: {} }] }, /flows\[0\]\.src: needs exactly one of/],
    [{ flows: [{ ...good, dst: { pod: 'a', node: 'b' } }] }, /flows\[0\]\.dst: needs exactly/],
    [{ flows: [{ ...good, dst: { pod: 'A/b/c' } }] }, /flows\[0\]\.dst\.pod: not namespace\/name/],
    [{ flows: [{ ...good, family: 'ipv4' }] }, /flows\[0\]\.family: not IPv4 or IPv6/],
    [{ flows: [good, good] }, /flows\[1\]\.id: "b" is flows\[0\]'s/],
  ];
  for (const [content, expected] of cases) {
    assertRefused(await policyTest('--flows', write('flows-bad.json', content)), expected);
  }
});

test('flows that have no first packet are refused by name', async () => {
  const base = { id: 'x', src: { pod: 'ops/probe' }, dst: { pod: 'shop/db' }, protocol: 'TCP',
    port: 80 };
  const cases: [object, RegExp][] = [
    [{ src: { pod: 'ops/nobody' } },
      /flows\[0\]\.src\.pod: there is no pod ops\/nobody \(flow "x"\)/],
    [{ dst: { pod: 'shop/done' } }, /flows\[0\]\.dst\.pod: pod shop\/done has finished/],
    [{ dst: { pod: 'ops/late' } }, /flows\[0\]\.dst\.pod: pod ops\/late has no address/],
    [{ dst: { node: 'n9' } }, /flows\[0\]\.dst\.node: there is no node n9/],
    [{ dst: { pod: 'shop/web' } }, /flows\[0\]\.family: missing: both ends have IPv4 and IPv6/],
    [{ family: 'IPv6' }, /flows\[0\]\.dst: has no IPv6 address, only 10\.0\.1\.3/],
    [{ src: { ip: 'fd00::1' } }, /flows\[0\]\.dst: the ends have no address family in common/],
    [{ src: { ip: '127.0.0.1' } }, /flows\[0\]\.src: no node lets .* pass: martianSource/],
  ];
  for (const [change, expected] of cases) {
    const file = write('flows-none.json', { flows: [{ ...base, ...change }] });
    assertRefused(await policyTest('--flows', file), expected);
  }
});

test('objects that an API server would refuse are refused with file and field', async () => {
  const policy = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: wide
  namespace: shop
spec:
  podSelector: {}
  ingress:
  - ports:
    - port: 80
      endPort: 79
`;
  const bad = write('bad.yaml', policy);
  assertRefused(await policyTest(bad, '--flows', flows),
    /bad\.yaml:11: NetworkPolicy shop\/wide: spec\.ingress\[0\]\.ports\[0\]\.endPort: /);
  const list = write('bad-list.json', JSON.stringify({ apiVersion: 'v1', kind: 'List', items: [
    POLICIES.items[1], { ...POLICIES.items[0], metadata: { name: 'No Name' } },
  ] }, null, 1).replace('"web"', '"w"'));
  assertRefused(await culvert(['policy', 'list', '--objects', list]),
    /bad-list\.json:\d\d: NetworkPolicy default\/No Name: metadata\.name: not a Kubernetes name/);
  const twice = write('twice.yaml', policy.replace('79', '81'));
  assertRefused(await policyTest(twice, twice, '--flows', flows),
    /twice\.yaml:1: NetworkPolicy shop\/wide: metadata\.name: stands at .*twice\.yaml:1 too/);
  assertRefused(await policyTest(join(folder, 'nothing'), '--flows', flows), /nothing: ENOENT/);
  assertRefused(await policyTest('--flows', join(folder, 'nothing')), /nothing: ENOENT/);
});

test('policy explain says which rule of which policy decides', async () => {
  const cases: [string[], RegExp[]][] = [
    [['ops/probe', 'shop/web', '8080/TCP', '--family', 'IPv4'], [
      /^allow: pod ops\/probe \(10\.0\.2\.2, node n2\) to pod shop\/web \(10\.0\.1\.2, node n1\)/,
      /^ingress: +allow +NetworkPolicy shop\/web, ingress\[0\], allows it$/m,
      /^egress: +allow +no policy is about this pod's egress here$/m]],
    [['198.51.100.1', 'shop/db', '80'], [
      /^deny: 198\.51\.100\.1 outside the cluster to pod shop\/db/,
      /^egress: +allow +policy is about pods, and this end is none$/m,
      /^ingress: +deny +NetworkPolicy shop\/db isolates the pod for ingress, and no rule/m]],
    [['shop/db', '203.0.113.7', '53/UDP'], [
      /^egress: +deny +ClusterNetworkPolicy guard, egress\[0\] no-dns-outside, denies it$/m]],
    [['node:n1', 'shop/db', 'ICMP'], [
      /^ingress: +allow +a pod and its own node may always talk to each other$/m]],
    [['shop/db', 'shop/db', '9/SCTP'], [
      /^egress: +allow +a pod may always talk to itself$/m]],
  ];
  for (const [[from = '', to = '', port = '', ...more], expected] of cases) {
    const { code, stdout, stderr } = await explain(from, to, port, ...more);
    assert.is(code, 0, stderr);
    for (const pattern of expected) assert.match(stdout, pattern);
  }
});

test('policy explain has the same as JSON', async () => {
  const { code, stdout, stderr } = await explain('shop/db', '203.0.113.7', '53/udp', '-o', 'json');
  assert.is(code, 0, stderr);
  const answer: unknown = JSON.parse(stdout);
  assert.equal(answer, {
    from: 'shop/db', to: '203.0.113.7', protocol: 'UDP', port: 53,
    source: { address: '10.0.1.3', pod: 'shop/db', node: 'n1' },
    destination: { address: '203.0.113.7', pod: null, node: null },
    verdict: 'deny',
    egress: {
      verdict: 'deny', policy: 'ClusterNetworkPolicy guard', rule: 'egress[0] no-dns-outside',
      reason: 'ClusterNetworkPolicy guard, egress[0] no-dns-outside, denies it',
    },
    ingress: {
      verdict: 'allow', policy: null, rule: null,
      reason: 'policy is about pods, and this end is none',
    },
    policy: 'ClusterNetworkPolicy guard',
  });
});

test('policy explain refuses what it cannot read', async () => {
  assertRefused(await explain('web', 'shop/db', '80'), /web is not namespace\/pod, an IP/);
  assertRefused(await explain('shop/web', 'shop/db', '80/GRE'), /80\/GRE is not PORT\/PROTOCOL/);
  assertRefused(await explain('shop/nobody', 'shop/db', '80'), /there is no pod shop\/nobody/);
  assertRefused(await culvert(['policy', 'explain', '--objects', objects]), /--from/);
  assertRefused(await culvert(['policy', 'test', '--flows', flows]), /--objects/);
});

test('policy list shows policies in the order in which they count', async () => {
  const words = ['policy', 'list', '--objects', objects];
  const { code, stdout, stderr } = await culvert([...words, '-o', 'json']);
  assert.is(code, 0, stderr);
  assert.equal(JSON.parse(stdout), [
    { kind: 'ClusterNetworkPolicy', namespace: null, name: 'guard', tier: 'Admin', priority: 5,
      pods: 4, ingress: null, egress: 1 },
    { kind: 'NetworkPolicy', namespace: 'shop', name: 'db', tier: 'NetworkPolicy', priority: null,
      pods: 1, ingress: 1, egress: 0 },
    { kind: 'NetworkPolicy', namespace: 'shop', name: 'web', tier: 'NetworkPolicy', priority: null,
      pods: 1, ingress: 1, egress: null },
  ]);
  const table = await culvert(words);
  assert.match(table.stdout, /^KIND +NAMESPACE +NAME +TIER +PRIORITY +PODS +INGRESS +EGRESS$/m);
  assert.match(table.stdout, /^NetworkPolicy +shop +db +NetworkPolicy +- +1 +1 rule +0 rules$/m);
});

test('each verb shows an example of itself', async () => {
  for (const verb of ['test', 'explain', 'list']) {
    const { code, stdout } = await culvert(['policy', verb, '--help']);
    assert.is(code, 0);
    assert.match(stdout, new RegExp(`^ {2}culvert policy ${verb} `, 'm'));
  }
});

test.run();
