// The sidecar with the rights that the manifests give it: with all of them nothing is amiss, and
// each one that is taken away is missed by name.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { parseAllDocuments } from 'yaml';
import { parseNetConf } from '../../engine/net-conf.ts';
import { netConfSource } from '../../sync/flannel/net-conf.ts';
import { FlannelProfile } from '../../sync/flannel/profile.ts';
import { loadAccess } from '../../sync/kubernetes/access.ts';
import { ApiClient } from '../../sync/kubernetes/client.ts';
import { runKubernetes } from '../../sync/kubernetes/source.ts';
import type { SourceHealth } from '../../engine/model.ts';
import type { Rule } from '../support/api-server/rbac.ts';
import type { KubeObject } from '../support/api-server/resources.ts';
import { TestApiServer } from '../support/api-server/server.ts';
import { ROOT } from '../support/source.ts';
import { PATIENCE_MS } from '../support/until.ts';

const TOKEN = 'test-culvert-token';
const NET_CONF = '{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}';
const FACTS = {
  underlay: [{ family: 'IPv4' as const, address: '192.0.2.1', mtu: 1500 }],
  podNetworks: ['10.244.0.0/16'],
  port: 8472,
};
const TIMING = {
  backoffFirstMs: 5, backoffCapMs: 20, refusalGraceMs: 30, absenceGraceMs: 30, slowRetryMs: 20,
};

const manifests = parseAllDocuments(
  readFileSync(join(ROOT, 'deploy', 'kubernetes', 'base', 'rbac.yaml'), 'utf8'),
).map((document) => document.toJS() as KubeObject);
const PLURALS: Record<string, string> = {
  ServiceAccount: 'serviceaccounts', ClusterRole: 'clusterroles',
  ClusterRoleBinding: 'clusterrolebindings',
};
const ROLE = manifests.find(({ kind }) => kind === 'ClusterRole');
const RULES = ROLE?.['rules'] as Rule[];

/** One right of the role, and the rules without it. */
interface Right {
  verb: string;
  resource: string;
  rest: Rule[];
}

/** Each right by itself. */
function rights(): Right[] {
  return RULES.flatMap((rule, index) => rule.resources.flatMap((resource) =>
    rule.verbs.map((verb) => ({
      verb,
      resource,
      rest: [
        ...RULES.filter((_, at) => at !== index),
        { ...rule, resources: rule.resources.filter((name) => name !== resource) },
        { ...rule, resources: [resource], verbs: rule.verbs.filter((name) => name !== verb) },
      ],
    }))));
}

/** A server with what the manifests make, and a Node that waits for its network. */
async function serverOf(version: '1.36' | '1.20'): Promise<TestApiServer> {
  const server = new TestApiServer({ version });
  server.defineClusterNetworkPolicy();
  for (const manifest of manifests) {
    server.create(PLURALS[String(manifest.kind)] ?? '', structuredClone(manifest));
  }
  const group = 'system:serviceaccounts';
  server.tokens.set(TOKEN, {
    name: 'system:serviceaccount:kube-flannel:culvert', groups: [group, 'system:authenticated'],
  });
  server.create('nodes', {
    metadata: { name: 'edge-1' },
    spec: { podCIDR: '10.244.1.0/24', podCIDRs: ['10.244.1.0/24'] },
    status: { addresses: [{ type: 'InternalIP', address: '192.0.2.1' }] },
  });
  await server.start();
  return server;
}

/** What a sidecar tells until it is as wanted: of the source and of the profile. */
async function problemsOf(
  server: TestApiServer, isEnough: (problems: string[], isFresh: boolean) => boolean,
): Promise<string[]> {
  const client = new ApiClient(loadAccess({
    kubeconfig: server.kubeconfig({ token: TOKEN }), environment: {},
  }));
  const log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
  const stop = new AbortController();
  let health: SourceHealth | null = null;
  let ofProfile: string[] = [];
  const profile = new FlannelProfile({
    client, nodeName: 'edge-1', log,
    netConf: { place: 'conf', periodMs: 60_000,
      read: () => Promise.resolve(parseNetConf(NET_CONF, 'conf')) },
    onProblems: (problems) => { ofProfile = problems; },
    retryFirstMs: 10,
    findDevice: () => null,
  });
  profile.facts(FACTS);
  const sink = {
    upsert: () => {}, remove: () => {}, commit: () => {},
    setHealth: (given: SourceHealth) => { health = given; },
  };
  const running = [
    runKubernetes({
      client, nodeName: 'edge-1', log, timing: TIMING, staleAfterMs: 20,
      onOwnNode: (object) => profile.node(object),
    }, sink, stop.signal),
    profile.run(stop.signal),
  ];
  const told = (): string[] => [...(health as SourceHealth | null)?.problems ?? [], ...ofProfile];
  try {
    const deadline = performance.now() + PATIENCE_MS;
    while (!isEnough(told(), (health as SourceHealth | null)?.fresh === true)) {
      if (performance.now() > deadline) throw new Error(`in vain; told: ${told().join('\n')}`);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    return told();
  } finally {
    stop.abort();
    await Promise.all(running);
  }
}

const ofMap = suite('deploy/rights, ConfigMap');

ofMap('net-conf.json from flannel\'s ConfigMap needs a right, which is named', async () => {
  const server = await serverOf('1.36');
  try {
    server.create('configmaps', {
      metadata: { namespace: 'kube-flannel', name: 'kube-flannel-cfg' },
      data: { 'net-conf.json': NET_CONF },
    });
    const kubeconfig = server.kubeconfig({ token: TOKEN });
    const client = new ApiClient(loadAccess({ kubeconfig, environment: {} }));
    const { signal } = new AbortController();
    const source = netConfSource('', client);
    const complaint = await source.read(signal).then(() => 'none', (error: Error) => error.message);
    assert.match(complaint, /kube-flannel-cfg: forbidden: verb get, resource configmaps$/);
    const configMaps = { apiGroups: [''], resources: ['configmaps'], verbs: ['get'] };
    server.replace('clusterroles', {
      ...structuredClone(ROLE) as KubeObject, rules: [...RULES, configMaps],
    });
    assert.equal((await source.read(signal)).podNetworks, ['10.244.0.0/16']);
    client.close();
  } finally {
    await server.close();
  }
});

ofMap.run();

for (const version of ['1.36', '1.20'] as const) {
  const test = suite(`deploy/rights, server ${version}`);
  let server: TestApiServer | null = null;

  test.before(async () => { server = await serverOf(version); });
  test.after(() => server?.close());

  const forget = (api: TestApiServer): void => {
    const node = api.get('nodes', 'edge-1');
    if (node === null) return;
    node.metadata.annotations = {};
    api.replace('nodes', node);
  };
  const setRules = (api: TestApiServer, rules: Rule[]): void => {
    api.replace('clusterroles', { ...structuredClone(ROLE) as KubeObject, rules });
  };

  test('with all rights nothing is missed', async () => {
    const api = server as TestApiServer;
    setRules(api, RULES);
    const isWritten = (): boolean =>
      api.get('nodes', 'edge-1')?.metadata.annotations?.['flannel.alpha.coreos.com/public-ip']
        === '192.0.2.1';
    assert.equal(await problemsOf(api, (_, isFresh) => isFresh && isWritten()), []);
  });

  for (const { verb, resource, rest } of rights()) {
    test(`without ${verb} of ${resource} the sidecar names it`, async () => {
      const api = server as TestApiServer;
      forget(api);
      setRules(api, rest);
      // Verb, resource, and what comes of it.
      const isNamed = (problem: string): boolean => resource === 'nodes/status'
        ? /forbidden: verb patch, resource nodes\/status: .+/.test(problem)
        : new RegExp(`^${resource}: forbidden: cannot ${verb}: .*; .+`).test(problem);
      const problems = await problemsOf(api, (told) => told.some(isNamed));
      assert.is(problems.filter(isNamed).length, 1, problems.join('\n'));
    });
  }

  test.run();
}
