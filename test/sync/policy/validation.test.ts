// Policies that an API server would refuse are refused with file, line, field and reason; what it
// would take is taken.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { readObjects } from '../../../sync/read.ts';

function networkPolicy(spec: string): string[] {
  const { problems } = readObjects('p.yaml', `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: web}
spec: ${spec}
`);
  return problems.map((problem) => problem.replace(/^p\.yaml:4: NetworkPolicy shop\/web: /, ''));
}

function clusterPolicy(spec: string): string[] {
  const { problems } = readObjects('p.yaml', `apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: all}
spec: ${spec}
`);
  return problems.map((problem) => problem.replace(/^p\.yaml:4: ClusterNetworkPolicy all: /, ''));
}

/** Each spec with what is wrong with it. */
const NETWORK_POLICIES: [string, ...string[]][] = [
  ['{podSelector: {}}'],
  ['{}'],
  ['null'],
  ['{podSelector: null, ingress: null, egress: null, policyTypes: null}'],
  ['{ingress: [{from: null, ports: null}, {}]}'],
  ['{policyTypes: [Ingress, Ingress]}'],
  ['{policyTypes: [Ingress, Egress, Ingress]}', 'spec.policyTypes: more than two'],
  ['{policyTypes: [ingress]}', 'spec.policyTypes[0]: not one of Ingress, Egress'],
  ['{ingress: {}}', 'spec.ingress: Invalid type: Expected Array but received Object'],
  ['{ingress: [null]}', 'spec.ingress[0]: Invalid type: Expected Object but received null'],
  ['{ingress: [{from: [{}]}]}',
    'spec.ingress[0].from[0]: names no peer: podSelector, namespaceSelector or ipBlock is needed'],
  ['{ingress: [{from: [{podSelector: {}, namespaceSelector: {}}]}]}'],
  ['{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}]}',
    'spec.egress[0].to[0]: ipBlock and selectors exclude each other'],
  ['{egress: [{to: [{ipBlock: {cidr: 10.0.0.1/8, except: [10.1.2.3/16, 010.2.0.0/16]}}]}]}'],
  ['{egress: [{to: [{ipBlock: {}}]}]}', 'spec.egress[0].to[0].ipBlock.cidr: missing'],
  ['{egress: [{to: [{ipBlock: {cidr: 10.0.0.1}}]}]}',
    'spec.egress[0].to[0].ipBlock.cidr: not a prefix in CIDR form'],
  ['{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/33}}]}]}',
    'spec.egress[0].to[0].ipBlock.cidr: not a prefix in CIDR form'],
  ['{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8, 11.0.0.0/16]}}]}]}',
    'spec.egress[0].to[0].ipBlock.except[0]: not within 10.0.0.0/8, or all of it',
    'spec.egress[0].to[0].ipBlock.except[1]: not within 10.0.0.0/8, or all of it'],
  ['{egress: [{to: [{ipBlock: {cidr: "fd00::/8", except: ["fd00:1::/32", 10.0.0.0/8]}}]}]}',
    'spec.egress[0].to[0].ipBlock.except[1]: not within fd00::/8, or all of it'],
  ['{ingress: [{ports: [{}, {protocol: SCTP}, {port: http-2}, {port: 1, endPort: 1}]}]}'],
  ['{ingress: [{ports: [{protocol: ICMP}]}]}',
    'spec.ingress[0].ports[0].protocol: not one of TCP, UDP, SCTP'],
  ['{ingress: [{ports: [{port: 0}, {port: 65536}]}]}',
    'spec.ingress[0].ports[0].port: not between 1 and 65535',
    'spec.ingress[0].ports[1].port: not between 1 and 65535'],
  ['{ingress: [{ports: [{port: "80"}, {port: Http}, {port: a-very-long-name}, {port: a--b}]}]}',
    ...[0, 1, 2, 3].map((index) => `spec.ingress[0].ports[${index}].port: not the name of a port: `
      + 'lower case, with a letter, 15 at most')],
  ['{ingress: [{ports: [{port: 80.5}]}]}',
    'spec.ingress[0].ports[0].port: not a port number or the name of a port'],
  ['{ingress: [{ports: [{endPort: 80}, {port: http, endPort: 80}]}]}',
    'spec.ingress[0].ports[0].endPort: needs a port that is a number',
    'spec.ingress[0].ports[1].endPort: needs a port that is a number'],
  ['{ingress: [{ports: [{port: 80}, {port: 80, endPort: 79}]}]}',
    'spec.ingress[0].ports[1].endPort: less than port, which is 80'],
  ['{ingress: [{ports: [{port: 80, endPort: 65536}]}]}',
    'spec.ingress[0].ports[0].endPort: not between 1 and 65535'],
  ['{podSelector: {matchLabels: {constructor: a, __proto__: b, example.org/app: "", a: null}}}',
    'spec.podSelector.matchLabels.__proto__: not a label key'],
  ['{podSelector: {matchLabels: {-a: b, a/b/c: d, a: -b, b: 1}}}',
    'spec.podSelector.matchLabels["-a"]: not a label key',
    'spec.podSelector.matchLabels.a: not a label value',
    'spec.podSelector.matchLabels["a/b/c"]: not a label key',
    'spec.podSelector.matchLabels.b: not a text'],
  ['{podSelector: {matchExpressions: [{key: a, operator: In},'
    + ' {key: a, operator: NotIn, values: []}]}}',
    'spec.podSelector.matchExpressions[0].values: must be given when the operator is In',
    'spec.podSelector.matchExpressions[1].values: must be given when the operator is NotIn'],
  ['{podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}',
    'spec.podSelector.matchExpressions[0].values: must not be given when the operator is Exists'],
  ['{podSelector: {matchExpressions: [{key: a, operator: DoesNotExist, values: []}]}}'],
  ['{podSelector: {matchExpressions: [{key: a, operator: exists}, {operator: Exists}]}}',
    'spec.podSelector.matchExpressions[0].operator: not one of In, NotIn, Exists, DoesNotExist',
    'spec.podSelector.matchExpressions[1].key: missing'],
  ['{podSelector: {matchExpressions: [{key: "a b", operator: In, values: ["c d"]}]}}',
    'spec.podSelector.matchExpressions[0].key: not a label key',
    'spec.podSelector.matchExpressions[0].values[0]: not a label value'],
];

const SUBJECT = 'tier: Admin, priority: 1, subject: {namespaces: {}}';
const PEER = '{namespaces: {}}';

const CLUSTER_POLICIES: [string, ...string[]][] = [
  [`{${SUBJECT}}`],
  ['{tier: Baseline, priority: 1000, subject: {pods: {podSelector: {}}}}'],
  ['{}', 'spec.tier: missing', 'spec.priority: missing', 'spec.subject: missing'],
  ['{tier: Other, priority: 1001, subject: {}}', 'spec.tier: not one of Admin, Baseline',
    'spec.priority: not between 0 and 1000'],
  ['{tier: Admin, priority: 0, subject: {}}', 'spec.subject: needs one of namespaces and pods'],
  ['{tier: Admin, priority: 0, subject: {namespaces: {}, pods: {podSelector: {}}}}',
    'spec.subject: needs one of namespaces and pods'],
  ['{tier: Admin, priority: 0, subject: {pods: {namespaceSelector: {}}}}',
    'spec.subject.pods.podSelector: missing'],
  [`{${SUBJECT}, ingress: [{action: Allow, from: [${PEER}]}]}`,
    'spec.ingress[0].action: not one of Accept, Deny, Pass'],
  [`{${SUBJECT}, ingress: [{action: Deny, from: []}, {action: Deny}]}`,
    'spec.ingress[0].from: needs at least one item', 'spec.ingress[1].from: missing'],
  [`{${SUBJECT}, ingress: [{action: Deny, from: [{}, {namespaces: {}, pods: {podSelector: {}}}]}]}`,
    'spec.ingress[0].from[0]: needs exactly one field, has 0',
    'spec.ingress[0].from[1]: needs exactly one field, has 2'],
  [`{${SUBJECT}, egress: [{action: Deny, to: [{domainNames: [a.example]}, {future: 1}]}]}`],
  [`{${SUBJECT}, egress: [{action: Deny, to: [{networks: [10.0.0.0]}]}]}`,
    'spec.egress[0].to[0].networks[0]: not a prefix in CIDR form'],
  [`{${SUBJECT}, egress: [{action: Deny, to: [{networks: [10.0.0.0/8, 10.0.0.0/8]}]}]}`,
    'spec.egress[0].to[0].networks: names a network twice'],
  [`{${SUBJECT}, egress: [{action: Deny, to: [{nodes: {}}], protocols: [
    {destinationNamedPort: a}]}]}`.replace(/\n */, ''),
  'spec.egress[0].protocols[0].destinationNamedPort: nodes, networks and domainNames have no '
    + 'named ports'],
  [`{${SUBJECT}, ingress: [{action: Deny, from: [${PEER}], protocols: []}]}`,
    'spec.ingress[0].protocols: needs at least one item'],
  [`{${SUBJECT}, ingress: [{action: Deny, from: [${PEER}], protocols: [{}, {tcp: {}}]}]}`,
    'spec.ingress[0].protocols[0]: needs exactly one field, has 0',
    'spec.ingress[0].protocols[1].tcp: is empty'],
  [`{${SUBJECT}, ingress: [{action: Deny, from: [${PEER}], protocols: [`
    + '{tcp: {destinationPort: {}}},'
    + ' {udp: {destinationPort: {number: 1, range: {start: 1, end: 2}}}}]}]}',
    'spec.ingress[0].protocols[0].tcp.destinationPort: needs one of number and range, '
      + 'has 0 fields',
    'spec.ingress[0].protocols[1].udp.destinationPort: needs one of number and range, '
      + 'has 2 fields'],
  [`{${SUBJECT}, ingress: [{action: Deny, from: [${PEER}], protocols: [`
    + '{sctp: {destinationPort: {range: {start: 2, end: 2}}}}]}]}',
    'spec.ingress[0].protocols[0].sctp.destinationPort.range: start is 2, not less than end, 2'],
  [`{${SUBJECT}, ingress: [{action: Deny, from: [${PEER}], protocols: [`
    + '{tcp: {destinationPort: {number: 0}}}]}]}',
    'spec.ingress[0].protocols[0].tcp.destinationPort.number: not between 1 and 65535'],
  [`{${SUBJECT}, ingress: [${`{action: Deny, from: [${PEER}]}, `.repeat(26)}]}`,
    'spec.ingress: more than 25 rules'],
];

for (const [spec, ...problems] of NETWORK_POLICIES) {
  test(`NetworkPolicy ${spec}`, () => assert.equal(networkPolicy(spec).sort(), problems.sort()));
}

for (const [spec, ...problems] of CLUSTER_POLICIES) {
  test(`ClusterNetworkPolicy ${spec.slice(0, 160)}`, () =>
    assert.equal(clusterPolicy(spec).sort(), problems.sort()));
}

test('a problem is told with its file and line', () => {
  const { problems } = readObjects('shop.yaml', `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: web
  namespace: shop
spec:
  podSelector: {}
  ingress:
  - ports:
    - port: 80
    - port: 90
      endPort: 80
`);
  assert.equal(problems, ['shop.yaml:12: NetworkPolicy shop/web: spec.ingress[0].ports[1].endPort: '
    + 'less than port, which is 90']);
});

test('pods and namespaces keep what policy needs', () => {
  const { entries, problems } = readObjects('p.yaml', `apiVersion: v1
kind: Pod
metadata: {name: p, labels: {constructor: b, app: a}, creationTimestamp: "2026-01-02T03:04:05Z"}
spec:
  initContainers:
  - {name: once, ports: [{name: a, containerPort: 1}]}
  - {name: side, restartPolicy: Always, ports: [{name: b, containerPort: 2, protocol: UDP}]}
  containers:
  - {name: c, ports: [{name: http, containerPort: 80}, {containerPort: 81}]}
  - {name: d, ports: [{name: http, containerPort: 80}, {name: http, containerPort: 82}]}
status: {phase: Running}
---
apiVersion: v1
kind: Namespace
metadata: {name: n, labels: {b: c, a: ""}}
`);
  assert.equal(problems, []);
  const [pod, namespace] = entries;
  assert.is(pod?.kind, 'Pod');
  if (pod?.kind !== 'Pod' || namespace?.kind !== 'Namespace') return;
  assert.equal(pod.labels, ['app', 'a', 'constructor', 'b']);
  assert.equal(pod.ports, [
    { name: 'b', protocol: 17, port: 2 }, { name: 'http', protocol: 6, port: 80 },
    { name: 'http', protocol: 6, port: 82 }]);
  assert.equal([pod.isRunning, pod.created], [true, '2026-01-02T03:04:05Z']);
  assert.equal(namespace.labels, ['a', '', 'b', 'c']);
});

test('bad labels and ports of pods are refused', () => {
  const { problems } = readObjects('p.yaml', `apiVersion: v1
kind: Pod
metadata: {name: p, labels: {a: [1]}}
spec: {containers: [{name: c, ports: [{name: Http, containerPort: 0, protocol: tcp}]}]}
`);
  assert.equal(problems, [
    'p.yaml:3: Pod p: metadata.labels.a: not a text',
    'p.yaml:4: Pod p: spec.containers[0].ports[0].name: not the name of a port',
    'p.yaml:4: Pod p: spec.containers[0].ports[0].containerPort: not between 1 and 65535',
    'p.yaml:4: Pod p: spec.containers[0].ports[0].protocol: not one of TCP, UDP, SCTP',
  ]);
});

test.run();
