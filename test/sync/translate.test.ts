// Kubernetes objects in, what the host must know out; each case is a piece of YAML beside its
// meaning.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { ClusterNode, Pod } from '../../engine/model.ts';
import { readObjects } from '../../sync/read.ts';
import { translate } from '../../sync/translate.ts';
import type { Translation } from '../../sync/translate.ts';

const FLANNEL = 'flannel.alpha.coreos.com';

function read(yaml: string, local = 'edge-1'): Translation {
  const { entries, problems } = readObjects('objects.yaml', yaml);
  assert.equal(problems, []);
  return translate(entries, local);
}

function problemsOf(yaml: string): string[] {
  return readObjects('objects.yaml', yaml).problems;
}

/** A node as flannel leaves it; more annotations may be given. */
function nodeYaml(name: string, spec: string, annotations: Record<string, string> = {}): string {
  const lines = Object.entries(annotations)
    .map(([key, value]) => `    ${FLANNEL}/${key}: ${JSON.stringify(value)}`);
  return [
    'apiVersion: v1', 'kind: Node', 'metadata:', `  name: ${name}`,
    ...(lines.length > 0 ? ['  annotations:', ...lines] : []),
    `spec: ${spec}`, '---', '',
  ].join('\n');
}

const VXLAN = {
  'kube-subnet-manager': 'true',
  'backend-type': 'vxlan',
  'backend-data': '{"VNI":1,"VtepMAC":"12:C6:65:89:b4:e3"}',
  'public-ip': '192.0.2.10',
};
const VXLAN_6 = {
  'backend-v6-data': '{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e6"}',
  'public-ipv6': '2001:DB8:0::10',
};
const TUNNEL_4 = {
  family: 'IPv4', kind: 'vxlan', remote: '192.0.2.10', vni: 1,
  mac: '12:c6:65:89:b4:e3', why: 'type vxlan',
} as const;
const PLAIN_4 = { family: 'IPv4', remote: '192.0.2.10' } as const;
const TUNNEL_6 = {
  family: 'IPv6', kind: 'vxlan', remote: '2001:db8::10', vni: 1,
  mac: '12:c6:65:89:b4:e6', why: 'type vxlan',
} as const;

test('reads a dual-stack node of flannel', () => {
  const { content, warnings, problems } = read(`
apiVersion: v1
kind: Node
metadata:
  name: edge-1
  annotations:
    ${FLANNEL}/kube-subnet-manager: "true"
    ${FLANNEL}/backend-type: vxlan
    ${FLANNEL}/backend-data: '{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"}'
    ${FLANNEL}/public-ip: 192.0.2.10
    ${FLANNEL}/backend-v6-data: '{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e6"}'
    ${FLANNEL}/public-ipv6: 2001:DB8:0::10
spec: {podCIDR: 10.244.1.0/24, podCIDRs: [10.244.1.0/24, "FD00:0::/64"]}
status:
  addresses:
  - {type: InternalIP, address: 192.0.2.10}
  - {type: InternalIP, address: "2001:db8::10"}
  - {type: ExternalIP, address: 198.51.100.1}
  - {type: Hostname, address: edge-1}
`);
  assert.equal(content.nodes, [{
    name: 'edge-1',
    podCidrs: ['10.244.1.0/24', 'fd00::/64'],
    addresses: ['192.0.2.10', '2001:db8::10'],
    tunnels: [TUNNEL_4, TUNNEL_6],
  }]);
  assert.equal([...warnings, ...problems], []);
});

const TUNNELS: [string, Record<string, string>, ClusterNode['tunnels'], RegExp | null][] = [
  ['no annotations', {}, [], null],
  ['vxlan', VXLAN, [TUNNEL_4], null],
  ['both families', { ...VXLAN, ...VXLAN_6 }, [TUNNEL_4, TUNNEL_6], null],
  ['IPv6', { ...VXLAN, ...VXLAN_6, 'backend-data': 'null', 'public-ip': '' }, [TUNNEL_6], null],
  ['not managed', { ...VXLAN, 'kube-subnet-manager': 'false' }, [], null],
  ['host-gw', { ...VXLAN, 'backend-type': 'host-gw', 'backend-data': 'null' },
    [{ ...PLAIN_4, kind: 'direct', why: 'type host-gw' }], null],
  ['ipip', { ...VXLAN, ...VXLAN_6, 'backend-type': 'ipip' },
    [{ ...PLAIN_4, kind: 'ipip', why: 'type ipip' }], null],
  ['wireguard', { ...VXLAN, 'backend-type': 'wireguard' }, [], /type wireguard is not spoken/],
  ['udp', { ...VXLAN, 'backend-type': '' }, [{ ...PLAIN_4, kind: 'udp', why: 'type udp' }], null],
  ['no public-ip', { ...VXLAN, 'public-ip': '' }, [], /backend-data without .*public-ip: no IPv4/],
  ['no backend-data', { ...VXLAN, 'backend-data': 'null' }, [], /public-ip without .*backend-data/],
];

for (const [name, annotations, tunnels, warning] of TUNNELS) {
  test(`tunnels of a node: ${name}`, () => {
    const { content, warnings } = read(nodeYaml('edge-1', '{podCIDR: 10.1.0.0/24}', annotations));
    assert.equal(content.nodes[0]?.tunnels, tunnels);
    assert.equal(content.nodes[0]?.podCidrs, ['10.1.0.0/24']);
    assert.is(warnings.length, warning === null ? 0 : 1);
    if (warning !== null) assert.match(warnings[0] ?? '', warning);
  });
}

const BAD_ANNOTATIONS: [string, Record<string, string>, string][] = [
  ['text', { 'backend-data': '{"VNI":1' }, 'backend-data"]: not JSON'],
  ['MAC', { 'backend-data': '{"VNI":1,"VtepMAC":"13:00:00:00:00:01"}' },
    'backend-data"]: VtepMAC: not a unicast MAC address'],
  ['VNI', { 'backend-data': '{"VNI":16777216,"VtepMAC":"12:00:00:00:00:01"}' },
    'backend-data"]: VNI: Invalid value: Expected <=16777215 but received 16777216'],
  ['address', { 'public-ip': '192.0.2' }, 'public-ip"]: not an IPv4 address'],
  ['family', { 'public-ip': '2001:db8::1' }, 'public-ip"]: not an IPv4 address'],
];

for (const [name, change, expected] of BAD_ANNOTATIONS) {
  test(`refuses a bad annotation with file, line and field: ${name}`, () => {
    const found = problemsOf(nodeYaml('edge-1', '{}', { ...VXLAN, ...change }));
    const key = Object.keys(change)[0] === 'public-ip' ? 9 : 8;
    const prefix = `objects.yaml:${key}: Node edge-1: metadata.annotations["${FLANNEL}/`;
    assert.equal(found, [prefix + expected]);
  });
}

const BAD: [string, string, string[]][] = [
  ['prefix', nodeYaml('edge-1', '{podCIDRs: [10.244.1.0/33]}'),
    ['objects.yaml:5: Node edge-1: spec.podCIDRs[0]: not a prefix in CIDR form']],
  ['name', nodeYaml('Edge_1', '{}'),
    ['objects.yaml:4: Node Edge_1: metadata.name: not a Kubernetes name']],
  ['no name', 'apiVersion: v1\nkind: Pod\nmetadata: {}\n',
    ['objects.yaml:3: Pod (without a name): metadata.name: missing']],
  ['no kind', 'apiVersion: v1\n', ['objects.yaml:1: object: kind: missing']],
  ['text', 'hello\n', [
    'objects.yaml:1: object: Invalid type: Expected Object but received "hello"']],
  ['not YAML', 'a: 1\nb: "1\n', ['objects.yaml:3: Missing closing "quote']],
  ['key twice', 'a: 1\na: 2\n', ['objects.yaml:2: Map keys must be unique']],
  ['in a list', `
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: {name: p}
  status: {podIPs: [{ip: 10.1.1.1}, {ip: 10.1.1}]}
`, ['objects.yaml:8: Pod p: status.podIPs[1].ip: not an IP address']],
];

for (const [name, yaml, expected] of BAD) {
  test(`refuses with file, line and field: ${name}`, () => {
    assert.equal(problemsOf(yaml), expected);
  });
}

test('survives alias bombs and bottomless nesting', () => {
  const bomb = ['a: &a [x, x]', ...'bcdefghijklmnop'.split('').map((name, index) =>
    `${name}: &${name} [*${'abcdefghijklmno'[index]}, *${'abcdefghijklmno'[index]}]`)].join('\n');
  assert.match(problemsOf(bomb)[0] ?? '', /objects\.yaml: .*alias/i);
  assert.is(problemsOf('['.repeat(100_000)).length, 1);
});

test('ignores kinds it does not read', () => {
  const { entries, problems } = readObjects('objects.yaml', `
{apiVersion: apps/v1, kind: Deployment, metadata: 5}
---
{apiVersion: management.example.com/v3, kind: Node, metadata: {}}
---
# nothing here
---
{apiVersion: v1, kind: Namespace, metadata: {name: default}}
`);
  assert.equal(entries.map(({ kind, key }) => `${kind} ${key}`), ['Namespace default']);
  assert.equal(problems, []);
});

const NODE = nodeYaml('edge-1', '{podCIDR: 10.244.1.0/24}');
const RUNNING = 'status: {phase: Running, podIP: 10.244.1.5, podIPs: [{ip: 10.244.1.5}]}';
const PODS: [string, string, Pod[]][] = [
  ['running', `metadata: {name: a, namespace: shop, uid: u1}\nspec: {nodeName: edge-1}\n${RUNNING}`,
    [{ namespace: 'shop', name: 'a', uid: 'u1', addresses: ['10.244.1.5'] }]],
  ['of the default namespace', `metadata: {name: a}\nspec: {nodeName: edge-1}\n${RUNNING}`,
    [{ namespace: 'default', name: 'a', uid: '', addresses: ['10.244.1.5'] }]],
  ['dual-stack', 'metadata: {name: a}\nspec: {nodeName: edge-1}\n'
    + 'status: {podIP: 10.244.1.5, podIPs: [{ip: 10.244.1.5}, {ip: "FD00::5"}]}',
    [{ namespace: 'default', name: 'a', uid: '', addresses: ['10.244.1.5', 'fd00::5'] }]],
  ['with podIP alone', 'metadata: {name: a}\nspec: {nodeName: edge-1}\n'
    + 'status: {podIP: 10.244.1.5, podIPs: null}',
    [{ namespace: 'default', name: 'a', uid: '', addresses: ['10.244.1.5'] }]],
  ['not started', 'metadata: {name: a}\nspec: {nodeName: edge-1}\nstatus: {phase: Pending}',
    [{ namespace: 'default', name: 'a', uid: '', addresses: [] }]],
  ['of another node', `metadata: {name: a}\nspec: {nodeName: edge-2}\n${RUNNING}`, []],
  ['of no node', 'metadata: {name: a}\nspec: {}', []],
  ['of the host network',
    `metadata: {name: a}\nspec: {nodeName: edge-1, hostNetwork: true}\n${RUNNING}`, []],
  ['succeeded', 'metadata: {name: a}\nspec: {nodeName: edge-1}\n'
    + 'status: {phase: Succeeded, podIP: 10.244.1.5}', []],
  ['failed', 'metadata: {name: a}\nspec: {nodeName: edge-1}\n'
    + 'status: {phase: Failed, podIP: 10.244.1.5}', []],
];

for (const [name, yaml, expected] of PODS) {
  test(`a pod that is ${name}`, () => {
    const { content } = read(`${NODE}apiVersion: v1\nkind: Pod\n${yaml}\n`);
    assert.equal(content.pods, expected);
  });
}

test('reads lists of both forms, and JSON', () => {
  const list = { apiVersion: 'v1', kind: 'NodeList', items: [{ metadata: { name: 'edge-1' } }] };
  assert.is(read(JSON.stringify(list)).content.nodes[0]?.name, 'edge-1');
  const mixed = {
    apiVersion: 'v1',
    kind: 'List',
    items: [{ apiVersion: 'v1', kind: 'Node', metadata: { name: 'edge-1' } }, list.items[0]],
  };
  const { entries, problems } = readObjects('x.json', JSON.stringify(mixed, null, 2));
  assert.is(entries.length, 1);
  assert.equal(problems, [
    'x.json:12: object: apiVersion: missing', 'x.json:12: object: kind: missing',
  ]);
});

test('leaves a prefix with the older of two nodes, then with the first by name', () => {
  const aged = (name: string, created: string): string =>
    `{apiVersion: v1, kind: Node, metadata: {name: ${name}, creationTimestamp: ${created}}, `
    + 'spec: {podCIDRs: [10.244.1.0/24]}}\n---\n';
  const young = '2025-01-02T00:00:00Z';
  const old = '2024-01-02T00:00:00Z';
  const owner = (yaml: string): [string | undefined, string[]] => {
    const { content, warnings } = read(yaml);
    return [content.nodes.find(({ podCidrs }) => podCidrs.length > 0)?.name, warnings];
  };
  const told = (loser: string, winner: string): string[] =>
    [`Node ${loser}: 10.244.1.0/24 belongs to node ${winner} already: not used`];
  const [one, two] = ['edge-1', 'edge-2'];
  assert.equal(owner(aged(one, young) + aged(two, old)), [two, told(one, two)]);
  assert.equal(owner(aged(two, old) + aged(one, old)), [one, told(two, one)]);
  assert.equal(owner(aged(one, 'null') + aged(two, old)), [two, told(one, two)]);
});

test('is the same for the same objects in any order', () => {
  const nodes = ['c', 'a', 'b']
    .map((name, index) => nodeYaml(name, `{podCIDR: 10.${index}.0.0/16}`));
  const forwards = read(nodes.join(''), 'a');
  const backwards = read([...nodes].reverse().join(''), 'a');
  assert.equal(forwards, backwards);
  assert.equal(forwards.content.nodes.map(({ name }) => name), ['a', 'b', 'c']);
});

test('reports an object that stands twice, no node at all, and the missing own node', () => {
  assert.equal(
    read(NODE + NODE).problems, ['objects.yaml:7: Node edge-1: stands at objects.yaml:1 too'],
  );
  assert.equal(read('').problems, ['there is no Node among the objects']);
  const { problems, warnings } = read(NODE, 'edge-9');
  assert.equal(problems, []);
  assert.equal(warnings, ['Node edge-9, which this is for, is not among the objects']);
});

test.run();
