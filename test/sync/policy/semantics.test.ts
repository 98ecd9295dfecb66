// What policies mean, corner by corner, as the API documentation puts it. Each case is a few
// policies over the same small cluster, and flows with the verdict that must come out of the
// compiled tables.
//
//   shop (team: a)                          ops (team: b, env: test)
//     web  app=web          10.1.0.1  n1      mon  app=web        10.2.0.1  n2
//     api  app=api tier=1   10.1.0.2  n2      log  app=log        10.2.0.2  n1
//     db   app=db  tier=2   10.1.0.3  n1      own  (hostNetwork)  n1's address
//   each also has fd00:1::N or fd00:2::N; ports named http: web 8080, api 9090, mon 8080 over UDP

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { readObjects } from '../../../sync/read.ts';
import type { Entry } from '../../../sync/objects.ts';
import { PolicyCompiler } from '../../../sync/policy/compiler.ts';
import { Cluster, Tables } from './tables.ts';
import type { End, Flow, ProtocolName, Verdict } from './tables.ts';

function podYaml(
  name: string, labels: string, address: string, node: string, ports = '', status = 'Running',
): string {
  const [namespace, own] = name.split('/');
  const [, net, host] = /^10\.(\d)\.0\.(\d+)$/.exec(address) ?? [];
  const ips = address === '' ? '' : `podIPs: [{ip: ${address}}, {ip: "fd00:${net}::${host}"}]`;
  return `
apiVersion: v1
kind: Pod
metadata: {namespace: ${namespace}, name: ${own}, labels: {${labels}}}
spec: {nodeName: ${node}, containers: [{name: c, ports: [${ports}]}]}
status: {phase: ${status}, ${ips}}
---`;
}

const CLUSTER = `
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {zone: east}}
status: {addresses: [
  {type: InternalIP, address: 192.0.2.1}, {type: InternalIP, address: "2001:db8::1"}]}
---
apiVersion: v1
kind: Node
metadata: {name: n2, labels: {zone: west}}
status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: a}}
---
apiVersion: v1
kind: Namespace
metadata: {name: ops, labels: {team: b, env: test}}
---
apiVersion: v1
kind: Pod
metadata: {namespace: ops, name: own, labels: {app: web}}
spec: {nodeName: n1, hostNetwork: true}
status: {phase: Running, podIP: 192.0.2.1}
---
${podYaml('shop/web', 'app: web', '10.1.0.1', 'n1', '{name: http, containerPort: 8080}')}
${podYaml('shop/api', 'app: api, tier: "1"', '10.1.0.2', 'n2', '{name: http, containerPort: 9090}')}
${podYaml('shop/db', 'app: db, tier: "2"', '10.1.0.3', 'n1')}
${podYaml('ops/mon', 'app: web', '10.2.0.1', 'n2',
    '{name: http, containerPort: 8080, protocol: UDP}')}
${podYaml('ops/log', 'app: log', '10.2.0.2', 'n1')}
`;

function read(yaml: string): Entry[] {
  const { entries, problems } = readObjects('cluster.yaml', yaml);
  assert.equal(problems, []);
  return entries;
}

/** `shop/web -> 198.51.100.7 TCP/80`, an end being a pod, an address, or `node:NAME`. */
function flowOf(text: string): Flow {
  const [src = '', arrow, dst = '', service = ''] = text.split(' ');
  assert.is(arrow, '->', text);
  const [protocol = '', port] = service.split('/');
  const end = (name: string): End => {
    if (name.startsWith('node:')) return { node: name.slice(5) };
    return name.includes('/') ? { pod: name } : { ip: name };
  };
  return {
    src: end(src), dst: end(dst), protocol: protocol as ProtocolName,
    ...port === undefined ? {} : { port: Number(port) },
  };
}

class Scene {
  readonly compiler: PolicyCompiler;
  readonly tables = new Tables();
  entries: Entry[];

  constructor(yaml: string, legacyAnnotation = false) {
    this.compiler = new PolicyCompiler({ local: null, legacyAnnotation });
    this.entries = read(CLUSTER + yaml);
    this.compiler.replace(this.entries);
    this.#commit();
  }

  /** Takes objects that are new, or new versions. */
  change(yaml: string): void {
    for (const entry of read(yaml)) {
      this.entries = this.entries.filter(({ kind, key }) =>
        kind !== entry.kind || key !== entry.key);
      this.entries.push(entry);
      this.compiler.upsert(entry);
    }
    this.#commit();
  }

  remove(kind: Entry['kind'], key: string): void {
    this.entries = this.entries.filter((entry) => entry.kind !== kind || entry.key !== key);
    this.compiler.remove(kind, key);
    this.#commit();
  }

  judge(flow: string): Verdict {
    return new Cluster(this.tables, this.entries).judge(flowOf(flow));
  }

  expect(allowed: string[], denied: string[]): void {
    for (const flow of allowed) assert.is(this.judge(flow).verdict, 'allow', flow);
    for (const flow of denied) assert.is(this.judge(flow).verdict, 'deny', flow);
  }

  #commit(): void {
    const change = this.compiler.commit();
    if (change !== null) this.tables.apply(change);
  }
}

/** A NetworkPolicy of namespace shop; `spec` in YAML's short form. */
function policy(spec: string, name = 'p', namespace = 'shop'): string {
  return `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: ${namespace}, name: ${name}}
spec: {${spec}}
---`;
}

function clusterPolicy(name: string, tier: string, priority: number, rest: string): string {
  return `
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: ${name}}
spec: {tier: ${tier}, priority: ${priority}, ${rest}}
---`;
}

interface Case {
  what: string;
  policies: string;
  allow: string[];
  deny: string[];
}

const WEB = 'podSelector: {matchLabels: {app: web}}';
const API = 'podSelector: {matchLabels: {app: api}}';

const CASES: Case[] = [
  {
    what: 'no policy: everything is allowed',
    policies: '',
    allow: ['shop/web -> shop/api TCP/80', '198.51.100.7 -> shop/web UDP/1',
      'ops/mon -> shop/db ICMP'],
    deny: [],
  },
  {
    what: 'ingress: [] isolates, and replies are not its business',
    policies: policy(`${API}, ingress: []`),
    allow: ['shop/api -> shop/web TCP/80', 'shop/web -> shop/db TCP/80'],
    deny: ['shop/web -> shop/api TCP/80', 'shop/web -> shop/api ICMP',
      '198.51.100.7 -> shop/api TCP/80'],
  },
  {
    what: 'ingress missing isolates as well',
    policies: policy(API),
    allow: ['shop/api -> shop/web TCP/80'],
    deny: ['shop/web -> shop/api TCP/80'],
  },
  {
    what: 'an empty rule allows everything; from: [] and ports: [] are as good as missing',
    policies: policy(`${API}, ingress: [{}]`)
      + policy(`${WEB}, ingress: [{from: [], ports: []}]`, 'q')
      + policy('podSelector: {matchLabels: {app: db}}, ingress: [{from: null, ports: null}]', 'r'),
    allow: ['shop/web -> shop/api TCP/80', '198.51.100.7 -> shop/api ICMP',
      'shop/api -> shop/web SCTP/9', '198.51.100.7 -> shop/web ICMP', 'ops/mon -> shop/db UDP/5'],
    deny: [],
  },
  {
    what: 'an empty podSelector is every pod of the namespace, a missing one too',
    policies: policy('podSelector: {}, ingress: []') + policy('ingress: []', 'p', 'ops'),
    allow: ['shop/web -> 198.51.100.7 TCP/80'],
    deny: ['shop/web -> shop/db TCP/80', 'shop/db -> shop/api TCP/80', 'shop/web -> ops/log TCP/1'],
  },
  {
    what: 'policyTypes missing: Ingress, and Egress where there are egress rules',
    policies: policy(`${API}, egress: [{to: [{${WEB}}]}]`)
      + policy(`${WEB}, egress: []`, 'q'),
    allow: ['shop/web -> shop/db TCP/80'],
    deny: ['shop/api -> shop/db TCP/80', 'shop/db -> shop/api TCP/80',
      'shop/db -> shop/web TCP/80'],
  },
  {
    what: 'policyTypes given count alone: rules of the other direction say nothing',
    policies: policy(`${API}, policyTypes: [Egress], ingress: [], egress: [{to: [{${WEB}}]}]`),
    allow: ['shop/web -> shop/api TCP/80', 'shop/api -> shop/web TCP/80'],
    deny: ['shop/api -> shop/db TCP/80'],
  },
  {
    what: 'an empty list of policyTypes is as good as none',
    policies: policy(`${API}, policyTypes: []`),
    allow: ['shop/api -> shop/web TCP/80'],
    deny: ['shop/web -> shop/api TCP/80'],
  },
  {
    what: 'namespaceSelector and podSelector in one peer: both must match',
    policies: policy(`${API}, ingress: [
      {from: [{namespaceSelector: {matchLabels: {team: b}}, ${WEB}}]}]`),
    allow: ['ops/mon -> shop/api TCP/80'],
    deny: ['shop/web -> shop/api TCP/80', 'ops/log -> shop/api TCP/80'],
  },
  {
    what: 'namespaceSelector and podSelector in two peers: either may match',
    policies: policy(`${API}, ingress: [
      {from: [{namespaceSelector: {matchLabels: {team: b}}}, {${WEB}}]}]`),
    allow: ['ops/mon -> shop/api TCP/80', 'ops/log -> shop/api TCP/80',
      'shop/web -> shop/api TCP/80'],
    deny: ['shop/db -> shop/api TCP/80'],
  },
  {
    what: 'a podSelector alone means the policy\'s own namespace',
    policies: policy(`${API}, ingress: [{from: [{${WEB}}]}]`),
    allow: ['shop/web -> shop/api TCP/80'],
    deny: ['ops/mon -> shop/api TCP/80'],
  },
  {
    what: 'an empty podSelector as a peer is the whole namespace, and nothing outside of it',
    policies: policy(`${API}, ingress: [{from: [{podSelector: {}}]}]`),
    allow: ['shop/web -> shop/api TCP/80', 'shop/db -> shop/api ICMP'],
    deny: ['ops/mon -> shop/api TCP/80', '198.51.100.7 -> shop/api TCP/80',
      'node:n1 -> shop/api TCP/80'],
  },
  {
    what: 'an empty namespaceSelector is every pod of every namespace, but nothing else',
    policies: policy(`${API}, ingress: [{from: [{namespaceSelector: {}}]}]`),
    allow: ['shop/web -> shop/api TCP/80', 'ops/log -> shop/api TCP/80'],
    deny: ['198.51.100.7 -> shop/api TCP/80', 'node:n1 -> shop/api TCP/80',
      'ops/own -> shop/api TCP/80'],
  },
  {
    what: 'namespaces have the label of their name',
    policies: policy(`${API}, ingress: [
      {from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ops}}}]}]`),
    allow: ['ops/mon -> shop/api TCP/80'],
    deny: ['shop/web -> shop/api TCP/80'],
  },
  {
    what: 'In: the key must be there',
    policies: policy(`podSelector: {}, ingress: [{from: [
      {podSelector: {matchExpressions: [{key: tier, operator: In, values: ["1", "3"]}]}}]}]`),
    allow: ['shop/api -> shop/web TCP/80'],
    deny: ['shop/db -> shop/web TCP/80', 'shop/web -> shop/db TCP/80'],
  },
  {
    what: 'NotIn matches where the key is missing',
    policies: policy(`podSelector: {}, ingress: [{from: [
      {podSelector: {matchExpressions: [{key: tier, operator: NotIn, values: ["1"]}]}}]}]`),
    allow: ['shop/db -> shop/web TCP/80', 'shop/web -> shop/db TCP/80'],
    deny: ['shop/api -> shop/web TCP/80'],
  },
  {
    what: 'Exists and DoesNotExist',
    policies: policy(`${WEB}, ingress: [{from: [
        {podSelector: {matchExpressions: [{key: tier, operator: Exists}]}}]}]`)
      + policy(`podSelector: {matchLabels: {app: db}}, ingress: [{from: [
        {podSelector: {matchExpressions: [{key: tier, operator: DoesNotExist}]}}]}]`, 'q'),
    allow: ['shop/api -> shop/web TCP/80', 'shop/web -> shop/db TCP/80'],
    deny: ['shop/api -> shop/db TCP/80', 'ops/log -> shop/web TCP/80'],
  },
  {
    what: 'all requirements of a selector must hold',
    policies: policy(`${WEB}, ingress: [{from: [{podSelector: {
      matchLabels: {app: api}, matchExpressions: [{key: tier, operator: In, values: ["2"]}]}}]}]`),
    allow: [],
    deny: ['shop/api -> shop/web TCP/80', 'shop/db -> shop/web TCP/80'],
  },
  {
    what: 'a selector that selects nothing matches nothing',
    policies: policy(`${WEB}, ingress: [{from: [{podSelector: {matchLabels: {app: none}}}]}]`),
    allow: [],
    deny: ['shop/api -> shop/web TCP/80', '198.51.100.7 -> shop/web TCP/80'],
  },
  {
    what: 'ipBlock with except; the longest prefix counts, pods\' addresses too',
    policies: policy(`${API}, ingress: [{from: [
      {ipBlock: {cidr: 10.0.0.0/8, except: [10.2.0.0/16, 10.1.0.3/32]}},
      {ipBlock: {cidr: 10.2.0.2/32}}]}]`),
    allow: ['10.9.9.9 -> shop/api TCP/80', 'shop/web -> shop/api TCP/80',
      'ops/log -> shop/api TCP/80'],
    deny: ['ops/mon -> shop/api TCP/80', 'shop/db -> shop/api TCP/80',
      '10.2.5.5 -> shop/api TCP/80',
      '11.0.0.1 -> shop/api TCP/80'],
  },
  {
    what: 'bits behind the length of a block are of no account',
    policies: policy(`${API}, egress: [
      {to: [{ipBlock: {cidr: 198.51.100.77/24, except: [198.51.100.200/25]}}]}]`),
    allow: ['shop/api -> 198.51.100.1 TCP/80', 'shop/api -> 198.51.100.127 TCP/80'],
    deny: ['shop/api -> 198.51.100.128 TCP/80', 'shop/api -> 198.51.101.1 TCP/80'],
  },
  {
    what: 'a rule for IPv4 says nothing about IPv6, and the other way round',
    policies: policy(`${API}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]`)
      + policy(`${WEB}, ingress: [{from: [{ipBlock: {cidr: "::/0"}}]}]`, 'q'),
    allow: ['198.51.100.7 -> shop/api TCP/80', '2606:4700::1111 -> shop/web TCP/80'],
    deny: ['2606:4700::1111 -> shop/api TCP/80', '198.51.100.7 -> shop/web TCP/80'],
  },
  {
    what: 'a pod of two families is selected by both addresses',
    policies: policy(`${API}, ingress: [{from: [{${WEB}}]}]`),
    allow: ['fd00:1::1 -> shop/api TCP/80', '10.1.0.1 -> shop/api TCP/80'],
    deny: ['fd00:1::3 -> shop/api TCP/80', 'fd00:2::1 -> shop/api TCP/80'],
  },
  {
    what: 'ports: a number is of TCP unless said otherwise; a protocol alone is all its ports',
    policies: policy(`${API}, ingress: [{ports: [{port: 80}, {port: 53, protocol: UDP},
      {protocol: SCTP}]}]`),
    allow: ['shop/web -> shop/api TCP/80', '198.51.100.7 -> shop/api UDP/53',
      'shop/web -> shop/api SCTP/1', 'shop/web -> shop/api SCTP/65535'],
    deny: ['shop/web -> shop/api TCP/79', 'shop/web -> shop/api TCP/81',
      'shop/web -> shop/api TCP/53',
      'shop/web -> shop/api UDP/80', 'shop/web -> shop/api ICMP'],
  },
  {
    what: 'a port without anything is all of TCP, and ICMP is none of it',
    policies: policy(`${API}, ingress: [{ports: [{}]}]`),
    allow: ['shop/web -> shop/api TCP/1', 'shop/web -> shop/api TCP/65535'],
    deny: ['shop/web -> shop/api UDP/1', 'shop/web -> shop/api ICMP'],
  },
  {
    what: 'endPort is the last port of a range, itself included',
    policies: policy(`${API}, ingress: [{ports: [{port: 8000, endPort: 8010},
      {port: 65535, endPort: 65535}]}]`),
    allow: ['shop/web -> shop/api TCP/8000', 'shop/web -> shop/api TCP/8010',
      'shop/web -> shop/api TCP/65535'],
    deny: ['shop/web -> shop/api TCP/7999', 'shop/web -> shop/api TCP/8011',
      'shop/web -> shop/api TCP/65534', 'shop/web -> shop/api UDP/8000'],
  },
  {
    what: 'a named port of ingress is the selected pod\'s own',
    policies: policy('podSelector: {}, ingress: [{ports: [{port: http}]}]')
      + policy('podSelector: {}, ingress: [{ports: [{port: http}]}]', 'p', 'ops'),
    allow: ['ops/log -> shop/web TCP/8080', 'ops/log -> shop/api TCP/9090'],
    deny: ['ops/log -> shop/web TCP/9090', 'ops/log -> shop/api TCP/8080',
      'ops/log -> shop/db TCP/8080', 'shop/web -> ops/mon UDP/8080',
      'shop/web -> ops/mon TCP/8080'],
  },
  {
    what: 'a named port of egress is the destination\'s, and addresses outside have none',
    policies: policy(`podSelector: {matchLabels: {app: db}}, policyTypes: [Egress],
      egress: [{ports: [{port: http}, {port: http, protocol: UDP}]}]`),
    allow: ['shop/db -> shop/web TCP/8080', 'shop/db -> shop/api TCP/9090',
      'shop/db -> ops/mon UDP/8080'],
    deny: ['shop/db -> shop/api TCP/8080', 'shop/db -> ops/mon TCP/8080',
      'shop/db -> ops/log TCP/8080', 'shop/db -> 198.51.100.7 TCP/8080'],
  },
  {
    what: 'policies add up; none takes away what another allows',
    policies: policy(`${API}, ingress: [{from: [{${WEB}}], ports: [{port: 80}]}]`)
      + policy(`${API}, ingress: [{from: [{podSelector: {}}], ports: [{port: 81}]}]`, 'q')
      + policy('podSelector: {}, ingress: []', 'r'),
    allow: ['shop/web -> shop/api TCP/80', 'shop/web -> shop/api TCP/81',
      'shop/db -> shop/api TCP/81'],
    deny: ['shop/db -> shop/api TCP/80', 'shop/api -> shop/db TCP/81'],
  },
  {
    what: 'with policies on both ends, both must allow',
    policies: policy(`${WEB}, policyTypes: [Egress], egress: [{to: [{${API}}]}]`)
      + policy(`${API}, ingress: [{from: [{podSelector: {matchLabels: {app: db}}}]}]`, 'q')
      + policy(`podSelector: {matchLabels: {app: db}}, ingress: [{from: [{${WEB}}]}]`, 'r'),
    allow: ['shop/db -> shop/api TCP/80'],
    deny: ['shop/web -> shop/api TCP/80', 'shop/web -> shop/db TCP/80'],
  },
  {
    what: 'a pod reaches itself, and its own node is always allowed; other nodes are addresses',
    policies: policy('podSelector: {}, policyTypes: [Ingress, Egress]'),
    allow: ['shop/web -> shop/web TCP/80', 'node:n1 -> shop/web TCP/80',
      'shop/web -> node:n1 TCP/22',
      'ops/own -> shop/web TCP/80', 'shop/web -> 2001:db8::1 TCP/22'],
    deny: ['node:n2 -> shop/web TCP/80', 'shop/web -> node:n2 TCP/22',
      'ops/own -> shop/api TCP/80'],
  },
  {
    what: 'pods on the host\'s network are selected by nothing, and their address by ipBlocks',
    policies: policy('podSelector: {}, ingress: []', 'p', 'ops')
      + policy(`${API}, ingress: [{from: [{namespaceSelector: {}, ${WEB}}]}]`)
      + policy('podSelector: {matchLabels: {app: db}}, ingress: [{from: [{ipBlock: '
        + '{cidr: 192.0.2.0/24}}]}]', 'q'),
    allow: ['shop/web -> ops/own TCP/80', 'node:n2 -> shop/db TCP/80',
      'ops/mon -> shop/api TCP/80'],
    deny: ['ops/own -> shop/api TCP/80'],
  },
  {
    what: 'an Admin Deny is final, an Admin Accept too, whatever NetworkPolicies say',
    policies: clusterPolicy('c', 'Admin', 10, `subject: {namespaces: {}}, ingress: [
        {action: Accept, from: [{pods: {namespaceSelector: {}, ${WEB}}}],
          protocols: [{tcp: {destinationPort: {number: 80}}}]},
        {action: Deny, from: [{namespaces: {matchLabels: {team: b}}}]}]`)
      + policy('podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: '
        + '{team: b}}}]}]'),
    allow: ['shop/web -> shop/api TCP/80', 'ops/mon -> shop/api TCP/80'],
    deny: ['shop/web -> shop/api TCP/81', 'ops/mon -> shop/api TCP/81',
      'ops/log -> shop/api TCP/80'],
  },
  {
    what: 'Pass skips the rest of the tier, for the keys that it names',
    policies: clusterPolicy('c', 'Admin', 10, `subject: {namespaces: {}}, ingress: [
        {action: Pass, from: [{namespaces: {}}],
          protocols: [{tcp: {destinationPort: {range: {start: 80, end: 82}}}}]},
        {action: Deny, from: [{namespaces: {}}]}]`)
      + clusterPolicy('d', 'Admin', 20, `subject: {namespaces: {}}, ingress: [
        {action: Deny, from: [{namespaces: {}}]}]`)
      + clusterPolicy('e', 'Baseline', 1, `subject: {namespaces: {}}, ingress: [
        {action: Deny, from: [{namespaces: {matchLabels: {team: b}}}]}]`)
      + policy(`${API}, ingress: [{ports: [{port: 81}]}]`),
    allow: ['shop/web -> shop/api TCP/81', 'ops/mon -> shop/api TCP/81',
      'shop/web -> shop/db TCP/80'],
    deny: ['shop/web -> shop/api TCP/80', 'shop/web -> shop/api TCP/83',
      'ops/mon -> shop/db TCP/80',
      'shop/web -> shop/db UDP/80'],
  },
  {
    what: 'the lower number comes first, of equal ones the first by name',
    policies: clusterPolicy('a', 'Admin', 5, `subject: {namespaces: {}}, egress: [
        {action: Accept, to: [{pods: {namespaceSelector: {}, ${API}}}]}]`)
      + clusterPolicy('b', 'Admin', 4, `subject: {namespaces: {}}, egress: [
        {action: Deny, to: [{pods: {namespaceSelector: {}, ${API}}}], protocols: [
          {udp: {destinationPort: {number: 1}}}]}]`)
      + clusterPolicy('c', 'Admin', 5, `subject: {namespaces: {}}, egress: [
        {action: Deny, to: [{namespaces: {matchLabels: {team: a}}}]}]`),
    allow: ['shop/web -> shop/api TCP/1'],
    deny: ['shop/web -> shop/api UDP/1', 'shop/web -> shop/db TCP/1'],
  },
  {
    what: 'Baseline counts only where no NetworkPolicy isolates',
    policies: clusterPolicy('c', 'Baseline', 1, `subject: {namespaces: {}}, ingress: [
        {action: Deny, from: [{namespaces: {}}]}]`)
      + policy(`${API}, ingress: [{from: [{${WEB}}]}]`),
    allow: ['shop/web -> shop/api TCP/80', '198.51.100.7 -> shop/db TCP/80'],
    deny: ['shop/db -> shop/api TCP/80', 'shop/web -> shop/db TCP/80',
      '198.51.100.7 -> shop/api TCP/80'],
  },
  {
    what: 'nodes and networks as peers of egress',
    policies: clusterPolicy('c', 'Admin', 1, `subject: {namespaces: {}}, egress: [
      {action: Accept, to: [{nodes: {matchLabels: {zone: west}}}]},
      {action: Deny, to: [{networks: [192.0.2.0/24, "2001:db8::/32"]}, {nodes: {}}]}]`),
    allow: ['shop/web -> node:n2 TCP/1', 'shop/web -> 198.51.100.7 TCP/1'],
    deny: ['shop/web -> 192.0.2.9 TCP/1', 'shop/api -> node:n1 TCP/1',
      'shop/api -> 2001:db8::1 TCP/1'],
  },
  {
    what: 'a port by name in a ClusterNetworkPolicy is of any protocol',
    policies: clusterPolicy('c', 'Admin', 1, `subject: {namespaces: {}}, egress: [
        {action: Deny, to: [{namespaces: {}}], protocols: [{destinationNamedPort: http}]}]`),
    allow: ['shop/db -> shop/web TCP/9090', 'shop/db -> ops/mon TCP/8080'],
    deny: ['shop/db -> shop/web TCP/8080', 'shop/db -> shop/api TCP/9090',
      'shop/db -> ops/mon UDP/8080'],
  },
  {
    what: 'a peer we do not know: Accept matches nothing, Deny and Pass deny all',
    policies: clusterPolicy('c', 'Admin', 1, `subject: {pods: {podSelector: {matchLabels:
        {app: api}}}}, egress: [{action: Accept, to: [{domainNames: [example.org]}]},
        {action: Deny, to: [{networks: ["0.0.0.0/0"]}]}]`)
      + clusterPolicy('d', 'Admin', 1, `subject: {pods: {podSelector: {matchLabels: {app: db}}}},
        egress: [{action: Deny, to: [{future: {}}], protocols: [{tcp: {destinationPort:
        {number: 80}}}]}]`)
      + clusterPolicy('e', 'Admin', 1, `subject: {pods: {podSelector: {matchLabels: {app: log}}}},
        egress: [{action: Pass, to: [{future: {}}]}]`)
      + policy(`${WEB}, egress: [{to: [{podSelector: {}, future: {}}]}, {to: [{${API}}]}]`),
    allow: ['shop/web -> shop/api TCP/80', 'shop/api -> fd00:1::3 TCP/80'],
    deny: ['shop/api -> 198.51.100.7 TCP/80', 'shop/db -> shop/api UDP/9',
      'ops/log -> shop/api TCP/1',
      'shop/web -> shop/db TCP/80'],
  },
];

for (const { what, policies, allow, deny } of CASES) {
  test(what, () => new Scene(policies).expect(allow, deny));
}

test('a verdict names who decided, or the first that isolates', () => {
  const scene = new Scene(policy(`${API}, ingress: [{from: [{${WEB}}]}]`, 'b')
    + policy('podSelector: {}, ingress: []', 'a')
    + clusterPolicy('c', 'Admin', 1, `subject: {pods: {podSelector: {matchLabels: {app: db}}}},
      ingress: [{name: no-api, action: Deny, from: [{pods: {${API}}}]}]`));
  assert.is(scene.judge('shop/web -> shop/api TCP/1').policy, 'NetworkPolicy shop/b');
  assert.is(scene.judge('ops/mon -> shop/api TCP/1').policy, 'NetworkPolicy shop/a');
  assert.is(scene.judge('shop/api -> shop/db TCP/1').policy, 'ClusterNetworkPolicy c');
  assert.is(scene.judge('shop/api -> ops/mon TCP/1').policy, null);
  const rules = [...scene.tables.rules.values()].map(({ policy: name, rule }) => `${name} ${rule}`);
  assert.equal(rules.sort(), [
    'ClusterNetworkPolicy c ingress[0] no-api', 'NetworkPolicy shop/a isolates ingress',
    'NetworkPolicy shop/b ingress[0]',
  ]);
});

test('labels of live pods and namespaces change', () => {
  const scene = new Scene(policy(`${API}, ingress: [{from: [{${WEB}},
    {namespaceSelector: {matchLabels: {team: b}}}]}]`));
  scene.expect(['shop/web -> shop/api TCP/1', 'ops/log -> shop/api TCP/1'], []);
  scene.change(podYaml('shop/web', 'app: other', '10.1.0.1', 'n1'));
  scene.expect([], ['shop/web -> shop/api TCP/1']);
  scene.change('{apiVersion: v1, kind: Namespace, metadata: {name: ops, labels: {team: c}}}');
  scene.expect([], ['ops/log -> shop/api TCP/1']);
  scene.change(podYaml('shop/api', 'app: free', '10.1.0.2', 'n2'));
  scene.expect(['ops/log -> shop/api TCP/1', 'shop/web -> shop/api TCP/1'], []);
});

test('a pod that comes back with another address leaves nothing at the old one', () => {
  const scene = new Scene(policy(`${API}, ingress: [{from: [{${WEB}}]}]`));
  scene.change(podYaml('shop/web', 'app: web', '10.1.0.9', 'n2'));
  scene.expect(['shop/web -> shop/api TCP/1', '10.1.0.9 -> shop/api TCP/1'],
    ['10.1.0.1 -> shop/api TCP/1', 'fd00:1::1 -> shop/api TCP/1']);
  scene.change(podYaml('shop/new', 'app: db', '10.1.0.1', 'n1'));
  scene.expect([], ['shop/new -> shop/api TCP/1']);
});

test('finished pods and pods without an address have none', () => {
  const scene = new Scene(policy(`${API}, ingress: [{from: [{${WEB}}]}]`));
  scene.change(podYaml('shop/web', 'app: web', '10.1.0.1', 'n1', '', 'Succeeded'));
  scene.expect([], ['10.1.0.1 -> shop/api TCP/1']);
  scene.change(podYaml('shop/web', 'app: web', '', 'n1', '', 'Pending'));
  scene.expect([], ['10.1.0.1 -> shop/api TCP/1']);
  assert.ok(scene.tables.endpoints.has('shop/web'), 'its rule sets are there before its address');
});

test('of two pods with one address the one that runs counts, then the newer', () => {
  const scene = new Scene(policy(`${API}, ingress: [{from: [{${WEB}}]}]`));
  const twin = (created: string, phase: string): string =>
    podYaml('shop/twin', 'app: db', '10.1.0.1', 'n1', '', phase).replace(
      'labels:', `creationTimestamp: "${created}", labels:`);
  scene.change(twin('2026-01-01T00:00:00Z', 'Pending'));
  scene.expect(['10.1.0.1 -> shop/api TCP/1'], []);
  scene.change(twin('2026-01-01T00:00:00Z', 'Running'));
  scene.expect([], ['10.1.0.1 -> shop/api TCP/1']);
  scene.remove('Pod', 'shop/twin');
  scene.expect(['10.1.0.1 -> shop/api TCP/1'], []);
});

test('the annotation of old isolates a namespace, if asked for, and policies open it', () => {
  const annotated = `
apiVersion: v1
kind: Namespace
metadata:
  name: shop
  annotations:
    net.beta.kubernetes.io/network-policy: '{"ingress": {"isolation": "DefaultDeny"}}'
---`;
  const scene = new Scene(policy(`${API}, ingress: [{from: [{${WEB}}]}]`), true);
  scene.expect(['shop/web -> shop/db TCP/1'], []);
  scene.change(annotated);
  scene.expect(['shop/web -> shop/api TCP/1', 'shop/web -> ops/mon TCP/1'],
    ['shop/web -> shop/db TCP/1', 'shop/db -> shop/api TCP/1']);
  assert.is(scene.judge('shop/web -> shop/db TCP/1').policy, 'Namespace shop');
  assert.is(scene.judge('shop/db -> shop/api TCP/1').policy, 'NetworkPolicy shop/p');
  const deaf = new Scene('');
  deaf.change(annotated);
  deaf.expect(['shop/web -> shop/db TCP/1'], []);
});

test('pods that no rule names need no entry, pods that one rule names share an identity', () => {
  const scene = new Scene(policy(`${API}, ingress: [{from: [{namespaceSelector:
    {matchLabels: {team: b}}}]}]`));
  const { identities } = scene.tables;
  assert.equal([...identities.keys()].sort(), [
    '10.2.0.1/32', '10.2.0.2/32', 'fd00:2::1/128', 'fd00:2::2/128']);
  assert.is(new Set(identities.values()).size, 1);
  scene.remove('NetworkPolicy', 'shop/p');
  scene.change(podYaml('shop/web', 'app: web', '10.1.0.1', 'n1'));
  assert.is(scene.tables.ruleSets.size, 0);
});

test.run();
