// A large cluster: how long the compiler takes for all of it, and for one change. Times are
// printed, not judged; counts and the digest are.

import * as assert from 'uvu/assert';
import type { PolicyChange } from '../../../engine/model.ts';
import type { Entry } from '../../../sync/objects.ts';
import { PolicyCompiler } from '../../../sync/policy/compiler.ts';
import { policyDigest } from '../../../sync/policy/digest.ts';
import { readEntries } from './tables.ts';

/** How large a cluster is. */
export interface Scale {
  pods: number;
  policies: number;
  namespaces: number;
  nodes: number;
}

const CHANGES = 200;
/** Up to so many pods the rule sets of all nodes fit beside each other. */
const FOR_ALL_NODES = 10_000;

const pad = (number: number): string => String(number).padStart(5, '0');

function pod(
  { namespaces, nodes }: Scale, index: number, labels: Record<string, string> = {},
): object {
  const namespace = `ns-${index % namespaces}`;
  const [high, low] = [(index >>> 8) & 255, index & 255];
  const ip = `10.${64 + (index >>> 16)}.${high}.${low}`;
  const ip6 = `fd00::${index >>> 16}:${high}:${low}`;
  return {
    apiVersion: 'v1', kind: 'Pod',
    metadata: {
      namespace, name: `pod-${pad(index)}`, uid: `uid-${pad(index)}`,
      labels: {
        app: `app-${Math.floor(index / namespaces) % 20}`, tier: index % 3 === 0 ? 'web' : 'db',
        ...labels,
      },
    },
    spec: {
      nodeName: `node-${index % nodes}`,
      containers: [{ name: 'c', ports: [{ name: 'http', containerPort: 8000 + (index % 3) }] }],
    },
    status: { phase: 'Running', podIP: ip, podIPs: [{ ip }, { ip: ip6 }] },
  };
}

function policy({ namespaces }: Scale, index: number, port = 443): object {
  const app = `app-${Math.floor(index / namespaces) % 20}`;
  const team = { namespaceSelector: { matchLabels: { team: `team-${index % 7}` } } };
  return {
    apiVersion: 'networking.k8s.io/v1', kind: 'NetworkPolicy',
    metadata: { namespace: `ns-${index % namespaces}`, name: `np-${pad(index)}` },
    spec: {
      podSelector: { matchLabels: { app } },
      policyTypes: ['Ingress', 'Egress'],
      ingress: [
        { from: [{ podSelector: { matchLabels: { tier: 'web' } } }, team],
          ports: [{ port: 'http' }, { port }] },
        { from: [{ ipBlock: {
          cidr: `192.168.${index % 200}.0/24`, except: [`192.168.${index % 200}.128/25`],
        } }] },
      ],
      egress: [
        { to: [{ podSelector: { matchExpressions: [
          { key: 'app', operator: 'In', values: [app, 'app-0'] }] } }], ports: [{ port: 'http' }] },
        { ports: [{ protocol: 'UDP', port: 53 }] },
      ],
    },
  };
}

function cluster(scale: Scale): Entry[] {
  const objects: object[] = [];
  for (let index = 0; index < scale.namespaces; index += 1) {
    objects.push({
      apiVersion: 'v1', kind: 'Namespace',
      metadata: { name: `ns-${index}`, labels: { team: `team-${index % 7}` } },
    });
  }
  for (let index = 0; index < scale.policies; index += 1) objects.push(policy(scale, index));
  for (let index = 0; index < scale.pods; index += 1) objects.push(pod(scale, index));
  return readEntries(objects);
}

function timed<T>(what: string, work: () => T): T {
  const start = performance.now();
  const value = work();
  console.log(`${what}: ${(performance.now() - start).toFixed(1)} ms`);
  return value;
}

function sizes(change: PolicyChange | null): string {
  if (change === null) return 'nothing';
  return Object.entries(change).filter(([, list]) => list.length > 0)
    .map(([name, list]) => `${list.length} ${name}`).join(', ');
}

/** Times changes one by one: median and worst. */
function timedChanges(
  what: string, compiler: PolicyCompiler, make: (index: number) => object,
): void {
  const times: number[] = [];
  let last: PolicyChange | null = null;
  for (let index = 0; index < CHANGES; index += 1) {
    const entries = readEntries([make(index)]);
    const start = performance.now();
    for (const entry of entries) compiler.upsert(entry);
    last = compiler.commit();
    times.push(performance.now() - start);
  }
  times.sort((a, b) => a - b);
  const [median, worst] = [times[CHANGES >>> 1] ?? 0, times.at(-1) ?? 0];
  console.log(`  ${what}: median ${median.toFixed(3)} ms, worst ${worst.toFixed(3)} ms`
    + ` (${sizes(last)})`);
}

/** Compiles a cluster, changes it, and brings it back. */
export function checkScale(scale: Scale): void {
  const entries = timed('\nreading', () => cluster(scale));
  for (const local of scale.pods > FOR_ALL_NODES ? ['node-3'] : ['node-3', null]) {
    const compiler = new PolicyCompiler({ local });
    const heap = process.memoryUsage().heapUsed;
    timed(`everything, local ${local}`, () => {
      compiler.replace(entries);
      compiler.commit();
    });
    const snapshot = timed('  snapshot', () => compiler.snapshot());
    const { identities, ruleSets } = compiler.counts;
    const grown = (process.memoryUsage().heapUsed - heap) / (2 ** 20);
    console.log(`  ${sizes(snapshot)}; ${identities} identities; ${grown.toFixed(0)} MiB`);
    assert.is(snapshot.ruleSets.length, ruleSets);
    // All in one namespace, that of the pods of node-3.
    const at = (index: number, count: number): number =>
      ((index % (count / scale.namespaces)) * scale.namespaces) + 3;
    timedChanges('a pod relabelled', compiler, (index) =>
      pod(scale, at(index, scale.pods), { app: `app-${index % 7}` }));
    timedChanges('a pod with a label of its own', compiler, (index) =>
      pod(scale, at(index, scale.pods), { own: `own-${index}` }));
    timedChanges('a policy edited', compiler, (index) =>
      policy(scale, at(index, scale.policies), 1000 + index));
    timed('  all objects again', () => compiler.replace(entries));
    timed('  and committed', () => compiler.commit());
    assert.is(timed('  digest', () => policyDigest(compiler.snapshot())), policyDigest(snapshot));
  }
}
