// A test API server with a large cluster, as a process of its own: for benchmarks, whose figures it
// must not share memory with. Arguments: a ClusterSize as JSON. Prints a line of JSON when it
// serves, and one for each command on its input:
//
//   {"relabel": 5, "tier": "web"}      changes a label of pod 5; the answer has the time

import { createInterface } from 'node:readline';
import {
  namespace, namespaceName, node, pod, podName, policy, type ClusterSize,
} from '../../bench/sync/cluster.ts';
import { READER_RULES, TestApiServer } from './api-server/server.ts';
import type { KubeObject } from './api-server/resources.ts';

const size = JSON.parse(process.argv[2] ?? '') as ClusterSize;
const server = new TestApiServer({ version: '1.36' });
await server.start();
server.grant('engine', [...READER_RULES]);

const add = (plural: string, count: number, make: (index: number) => object): void =>
  server.store.collection(plural).virtual(count, (index) => make(index) as KubeObject);
add('namespaces', size.namespaces, namespace);
add('nodes', size.nodes, node);
add('networkpolicies', size.policies, (index) => policy(size, index));
add('pods', size.pods, (index) => pod(size, index));

const print = (answer: object): void => { process.stdout.write(`${JSON.stringify(answer)}\n`); };
print({ kubeconfig: server.kubeconfig() });

createInterface({ input: process.stdin }).on('line', (line) => {
  const { relabel, tier } = JSON.parse(line) as { relabel: number; tier: string };
  const key = `${namespaceName(relabel % size.namespaces)}/${podName(size, relabel)}`;
  const atMs = performance.timeOrigin + performance.now();
  server.patch('pods', key, { metadata: { labels: { tier } } });
  print({ atMs });
}).on('close', () => process.exit(0));
