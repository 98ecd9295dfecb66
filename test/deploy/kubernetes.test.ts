// The manifests for Kubernetes say what is so: nothing in them is unused, each option, setting,
// file and right is one that the programs know, and nobody may do more than it needs.

import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from
  'node:fs';
import { spawnSync } from 'node:child_process';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { parse, parseAllDocuments } from 'yaml';
import { environmentName, loadConfig, settingPaths, type HostConfig } from '../../host/config.ts';
import { NODE_LABEL } from '../../sync/rival.ts';
import { RESOURCES } from '../../sync/kubernetes/resources.ts';
import { printSkip } from '../support/needs.ts';
import { ROOT } from '../support/source.ts';

const test = suite('deploy/kubernetes');
const FOLDER = join(ROOT, 'deploy', 'kubernetes');
const BASE = join(FOLDER, 'base');
const CLI = join(ROOT, 'dist', 'cli', 'main.js');
const SIDECAR_USER = 65532;
/** What the C library reads (mallopt(3)). */
const LIBRARY_VARIABLES = ['MALLOC_ARENA_MAX'];

interface Mount {
  name: string;
  mountPath: string;
  readOnly?: boolean;
}

interface Container {
  name: string;
  image: string;
  command?: string[];
  args?: string[];
  env?: {
    name: string;
    value?: string;
    valueFrom?: { configMapKeyRef?: { name: string; key: string } };
  }[];
  securityContext: {
    runAsUser: number; runAsGroup?: number; runAsNonRoot?: boolean; privileged?: boolean;
    allowPrivilegeEscalation: boolean; readOnlyRootFilesystem: boolean;
    capabilities: { drop: string[]; add?: string[] };
  };
  volumeMounts: Mount[];
  readinessProbe?: { httpGet: { host: string; port: number; path: string } };
}

interface Volume {
  name: string;
  hostPath?: { path: string };
  configMap?: { name: string; items: { key: string }[] };
  projected?: { sources: object[] };
}

interface PodSpec {
  serviceAccountName?: string;
  automountServiceAccountToken: boolean;
  hostNetwork: boolean;
  nodeSelector: Record<string, string>;
  securityContext: object;
  initContainers?: Container[];
  containers: Container[];
  volumes: Volume[];
}

interface Rule {
  apiGroups: string[];
  resources: string[];
  verbs: string[];
}

interface Manifest {
  kind: string;
  metadata: { name: string; namespace?: string };
  data?: Record<string, string>;
  rules?: Rule[];
  roleRef?: { kind: string; name: string };
  subjects?: { kind: string; name: string; namespace: string }[];
  spec?: { selector: { matchLabels: object }; template: { metadata: { labels: object };
    spec: PodSpec; }; };
}

interface Kustomization {
  namespace: string;
  resources: string[];
  patches?: { path: string }[];
}

function read(path: string): Manifest[] {
  return parseAllDocuments(readFileSync(path, 'utf8')).map((document) => {
    assert.equal(document.errors, [], path);
    return document.toJS() as Manifest;
  });
}

function kustomization(folder: string): Kustomization {
  return parse(readFileSync(join(folder, 'kustomization.yaml'), 'utf8')) as Kustomization;
}

const base = kustomization(BASE);
const manifests = base.resources.flatMap((file) => read(join(BASE, file)));
const pods = manifests.flatMap(({ spec }) => (spec === undefined ? [] : [spec.template.spec]));
const containers = pods.flatMap(containersOf);

function containersOf({ initContainers = [], containers: main }: PodSpec): Container[] {
  return [...initContainers, ...main];
}

function named(kind: string): Manifest[] {
  return manifests.filter((manifest) => manifest.kind === kind);
}

function container(name: string): Container {
  const found = containers.find((candidate) => candidate.name === name);
  if (found === undefined) throw new Error(`there is no container ${name}`);
  return found;
}

/** What the daemon makes of the variables that a patch gives it; it knows each of them. */
function environmentOf(patch: Manifest | undefined): HostConfig {
  const [node] = patch?.spec?.template.spec.containers ?? [];
  assert.is(node?.name, 'node');
  const variables = new Map((node?.env ?? []).map(({ name, value = '' }) => [name, value]));
  const known = settingPaths().map(({ path }) => environmentName(path));
  for (const name of variables.keys()) assert.ok(known.includes(name), name);
  const complete = {
    CULVERT_NODE_NAME: 'edge-1', CULVERT_UNDERLAY_ADDRESSES: '192.0.2.1',
    CULVERT_POD_NETWORKS: '10.42.0.0/16',
  };
  return loadConfig(null, { ...complete, ...Object.fromEntries(variables) }, {});
}

/** The options that a verb knows, of its help. */
function optionsOf(verb: string): Set<string> {
  const { stdout } = spawnSync(process.execPath, [CLI, verb, '--help'], { encoding: 'utf8' });
  return new Set(stdout.match(/--[a-z][a-z0-9-]*/g));
}

test('each file of the base is a resource, and each object is in one namespace', () => {
  const files = readdirSync(BASE).filter((name) => name !== 'kustomization.yaml').sort();
  assert.equal([...base.resources].sort(), files);
  for (const { kind, metadata } of manifests) {
    const isOfCluster = kind.startsWith('Cluster');
    assert.is(metadata.namespace, isOfCluster ? undefined : base.namespace, metadata.name);
  }
  const names = manifests.map(({ kind, metadata }) => `${kind} ${metadata.name}`);
  assert.is(new Set(names).size, names.length);
});

test('every object is used', () => {
  for (const { metadata } of named('ServiceAccount')) {
    assert.ok(pods.some(({ serviceAccountName }) => serviceAccountName === metadata.name));
    assert.ok(named('ClusterRoleBinding').some(({ subjects }) =>
      subjects?.some(({ name, namespace }) => name === metadata.name
        && namespace === metadata.namespace)));
  }
  for (const { metadata } of named('ClusterRole')) {
    assert.ok(named('ClusterRoleBinding').some(({ roleRef }) => roleRef?.name === metadata.name));
  }
  for (const { metadata, data = {} } of named('ConfigMap')) {
    const used = new Set(pods.flatMap((pod) => [
      ...pod.volumes.filter(({ configMap }) => configMap?.name === metadata.name)
        .flatMap(({ configMap }) => configMap?.items ?? []),
      ...containersOf(pod).flatMap(({ env = [] }) => env)
        .map(({ valueFrom }) => valueFrom?.configMapKeyRef)
        .filter((reference) => reference?.name === metadata.name),
    ]).map((item) => item?.key));
    assert.equal([...used].sort(), Object.keys(data).sort());
  }
});

test('every volume is mounted, every mount has a volume, every label selects', () => {
  for (const pod of pods) {
    const mounted = containersOf(pod).flatMap(({ volumeMounts }) => volumeMounts);
    const volumes = pod.volumes.map(({ name }) => name);
    assert.equal([...new Set(mounted.map(({ name }) => name))].sort(), volumes.sort());
    assert.equal(pod.nodeSelector, { [NODE_LABEL]: 'true' });
  }
  for (const { spec } of manifests) {
    if (spec === undefined) continue;
    assert.equal(spec.selector.matchLabels, spec.template.metadata.labels);
  }
});

test('programs know their options, and variables are used', () => {
  for (const { name, command, args = [], env = [] } of containers) {
    const [verb = ''] = args;
    const options = args.filter((word) => word.startsWith('--')).map((word) => word.split('=')[0]);
    if (command === undefined) {
      const known = optionsOf(verb);
      for (const option of options) assert.ok(known.has(option ?? ''), `${name}: ${option}`);
    } else {
      const script = join(FOLDER, (command[0] ?? '').replace('/opt/culvert/', ''));
      assert.ok((statSync(script).mode & 0o111) !== 0, script);
      assert.is(spawnSync('sh', ['-n', script]).status, 0, script);
    }
    const settings = [
      ...settingPaths().map(({ path }) => environmentName(path)), ...LIBRARY_VARIABLES,
    ];
    for (const variable of env) {
      const isUsed = settings.includes(variable.name)
        || args.join(' ').includes(`$(${variable.name})`);
      assert.ok(isUsed, `${name}: ${variable.name}`);
    }
    for (const [, used = ''] of args.join(' ').matchAll(/\$\(([^)]+)\)/g)) {
      assert.ok(env.some((variable) => variable.name === used), used);
    }
  }
});

test('the daemon takes its configuration, with flannel\'s of the cluster', () => {
  const folder = mkdtempSync(join(tmpdir(), `culvert-deploy-${process.pid}-`));
  try {
    const netConf = join(folder, 'net-conf.json');
    writeFileSync(netConf, '{"Network":"10.9.0.0/16","Backend":{"Type":"vxlan"}}');
    const text = named('ConfigMap')[0]?.data?.['config.yaml'] ?? '';
    const mount = container('node').volumeMounts.find(({ name }) => name === 'flannel');
    assert.ok(text.includes(`netConf: ${mount?.mountPath}/net-conf.json`));
    const file = join(folder, 'config.yaml');
    writeFileSync(file, text.replace(/netConf: .*/, `netConf: ${netConf}`));
    const config = loadConfig(file, {
      CULVERT_NODE_NAME: 'edge-1', CULVERT_UNDERLAY_ADDRESSES: '192.0.2.1',
    }, {});
    assert.equal(config.podNetworks, ['10.9.0.0/16']);
    assert.equal([config.syncUid, config.syncGroup], [SIDECAR_USER, SIDECAR_USER]);
    assert.ok(config.device.keep);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('nobody has more rights on the node than it needs', () => {
  for (const { name, securityContext } of containers) {
    assert.is(securityContext.allowPrivilegeEscalation, false, name);
    assert.is(securityContext.readOnlyRootFilesystem, true, name);
    assert.is(securityContext.privileged, undefined, name);
    assert.equal(securityContext.capabilities.drop, ['ALL'], name);
    assert.equal(securityContext.capabilities.add, name === 'node' ? ['NET_ADMIN'] : undefined);
  }
  for (const pod of pods) {
    assert.equal(pod.securityContext, { seccompProfile: { type: 'RuntimeDefault' } });
    assert.is(pod.automountServiceAccountToken, false);
  }
  const { securityContext, volumeMounts } = container('sync');
  assert.equal([securityContext.runAsUser, securityContext.runAsNonRoot], [SIDECAR_USER, true]);
  assert.ok(volumeMounts.every(({ readOnly }) => readOnly === true));
  const withToken = containers.filter((candidate) =>
    candidate.volumeMounts.some(({ mountPath }) => mountPath.includes('serviceaccount')));
  assert.equal(withToken.map(({ name }) => name), ['sync']);
  const onHost = pods.flatMap(({ volumes }) => volumes).filter(({ hostPath }) => hostPath);
  assert.equal([...new Set(onHost.map(({ hostPath }) => hostPath?.path))].sort(), [
    '/dev/net/tun', '/etc/cni/net.d', '/opt/cni/bin', '/opt/culvert', '/run/culvert',
    '/var/lib/culvert',
  ]);
});

test('the plugin comes onto the node\'s disk under the path it has in the image', () => {
  const folder = mkdtempSync(join(tmpdir(), `culvert-deploy-${process.pid}-`));
  try {
    const [home, node] = [join(folder, 'opt', 'culvert'), join(folder, 'host')];
    mkdirSync(join(home, 'bin'), { recursive: true });
    const program = `#!/bin/sh\nexec ${process.execPath} ${CLI} "$@"\n`;
    writeFileSync(join(home, 'bin', 'culvert'), program, { mode: 0o755 });
    const install = (): void => {
      const { status, stderr } = spawnSync(join(FOLDER, 'install-cni'), [home, node], {
        env: { PATH: `${join(home, 'bin')}:${process.env['PATH']}` }, encoding: 'utf8',
      });
      assert.is(status, 0, stderr);
    };
    install();
    install();
    assert.is(readFileSync(join(node, home, 'bin', 'culvert'), 'utf8'), program);
    assert.ok((statSync(join(node, 'opt/cni/bin/culvert')).mode & 0o111) !== 0);
    const [conf = ''] = readdirSync(join(node, 'etc/cni/net.d'));
    const text = readFileSync(join(node, 'etc/cni/net.d', conf), 'utf8');
    assert.match(text, /"runtimeDirectory": "\/run\/culvert"/);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('the role has what the sidecar reads and writes, and no more', () => {
  const rights = named('ClusterRole').flatMap(({ rules = [] }) => rules.flatMap((rule) =>
    rule.apiGroups.flatMap((group) => rule.resources.flatMap((resource) =>
      rule.verbs.map((verb) => `${verb} ${resource} ${group}`)))));
  const needed = RESOURCES.flatMap(({ plural, apiVersion }) => {
    const group = apiVersion.includes('/') ? apiVersion.split('/')[0] : '';
    return [`list ${plural} ${group}`, `watch ${plural} ${group}`];
  });
  assert.equal([...rights].sort(), [...needed, 'patch nodes/status '].sort());
});

test('k3s changes what there is to change', () => {
  const folder = join(FOLDER, 'k3s');
  const { resources, patches = [] } = kustomization(folder);
  const files = readdirSync(folder).filter((name) => name !== 'kustomization.yaml').sort();
  const own = resources.filter((name) => name !== '../base');
  assert.equal([...own, ...patches.map(({ path }) => path)].sort(), files);
  for (const { path } of patches) {
    for (const patch of read(join(folder, path))) {
      const target = manifests.find(({ kind, metadata }) =>
        kind === patch.kind && metadata.name === patch.metadata.name);
      const volumes = target?.spec?.template.spec.volumes.map(({ name }) => name) ?? [];
      for (const { name } of patch.spec?.template.spec.volumes ?? []) {
        assert.ok(volumes.includes(name));
      }
    }
  }
  const [networks] = read(join(folder, 'service-networks.yaml'));
  assert.equal(environmentOf(networks).serviceNetworks, ['10.43.0.0/16']);
  const [conf] = read(join(folder, 'net-conf.yaml'));
  const used = pods.flatMap(({ volumes }) => volumes).map(({ configMap }) => configMap?.name);
  assert.ok(used.includes(conf?.metadata.name));
});

test('where node ports are switched on, the daemon may bind those below 1024', () => {
  const folder = join(FOLDER, 'node-ports');
  const { patches = [] } = kustomization(folder);
  assert.equal(patches, [{ path: 'node.yaml' }]);
  const [patch] = read(join(folder, 'node.yaml'));
  assert.ok(environmentOf(patch).nodePorts.enabled);
  const [node] = patch?.spec?.template.spec.containers ?? [];
  const rights = ['NET_ADMIN', 'NET_BIND_SERVICE'];
  assert.equal(node?.securityContext.capabilities.add, rights);
  assert.ok(manifests.some(({ kind, metadata }) =>
    kind === patch?.kind && metadata.name === patch.metadata.name));
  const dropIn = readFileSync(join(ROOT, 'deploy', 'systemd', 'node-ports.conf'), 'utf8');
  const { name, value } = node?.env?.[0] ?? {};
  assert.ok(dropIn.includes(`\nEnvironment=${name}=${value}\n`));
  assert.ok(dropIn.includes(`\nCapabilityBoundingSet=CAP_${rights[1]}\n`));
});

test('calico changes what there is to change, with one right more', () => {
  const folder = join(FOLDER, 'calico');
  const { resources, patches = [] } = kustomization(folder);
  const files = readdirSync(folder).filter((name) => name !== 'kustomization.yaml').sort();
  const own = resources.filter((name) => name !== '../base');
  assert.equal([...own, ...patches.map(({ path }) => path)].sort(), files);
  for (const patch of patches.flatMap(({ path }) => read(join(folder, path)))) {
    const target = manifests.find(({ kind, metadata }) =>
      kind === patch.kind && metadata.name === patch.metadata.name
      && metadata.namespace === patch.metadata.namespace);
    assert.ok(target, `${patch.kind} ${patch.metadata.name}`);
    for (const { name, args = [], volumeMounts } of patch.spec?.template.spec.containers ?? []) {
      const known = optionsOf(args[0] ?? 'run');
      for (const option of args.filter((word) => word.startsWith('--'))) {
        assert.ok(known.has(option.split('=')[0] ?? ''), `${name}: ${option}`);
      }
      const mounts = container(name).volumeMounts.map(({ mountPath }) => mountPath);
      for (const { mountPath } of volumeMounts) assert.ok(mounts.includes(mountPath), mountPath);
    }
  }
  const rights = read(join(folder, 'rbac.yaml')).flatMap(({ rules = [] }) => rules);
  assert.equal(rights.map(({ resources: names, verbs }) => [names, verbs]),
    [[['ippools'], ['list']]]);
});

test('the daemon is ready where its own server says so', () => {
  const daemon = containers.find(({ readinessProbe }) => readinessProbe !== undefined);
  const { http } = loadConfig(null, {
    CULVERT_NODE_NAME: 'edge-1', CULVERT_UNDERLAY_ADDRESSES: '192.0.2.1',
  }, { podNetworks: ['10.244.0.0/16'] });
  assert.equal(daemon?.readinessProbe?.httpGet,
    { host: http.address, port: http.port, path: '/readyz' });
});

test('the daemon takes its configuration in a cluster of Calico\'s', () => {
  const folder = mkdtempSync(join(tmpdir(), `culvert-deploy-${process.pid}-`));
  try {
    const [settings] = read(join(FOLDER, 'calico', 'settings.yaml'));
    const file = join(folder, 'config.yaml');
    writeFileSync(file, settings?.data?.['config.yaml'] ?? '');
    const config = loadConfig(file, {
      CULVERT_NODE_NAME: 'edge-1', CULVERT_UNDERLAY_ADDRESSES: '192.0.2.1',
    }, {});
    assert.equal([config.podNetworks, config.netConf], [['192.168.0.0/16'], '']);
    assert.equal([config.syncUid, config.syncGroup], [SIDECAR_USER, SIDECAR_USER]);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

const hasKubectl = spawnSync('kubectl', ['version', '--client']).status === 0;
(hasKubectl ? test : test.skip)('kustomize makes of the folders what stands in them', () => {
  for (const [name, own] of [['base', 0], ['k3s', 2], ['calico', 2]] as const) {
    const { status, stdout, stderr } = spawnSync(
      'kubectl', ['kustomize', join(FOLDER, name)], { encoding: 'utf8' });
    assert.is(status, 0, stderr);
    assert.is(parseAllDocuments(stdout).length, manifests.length + own);
  }
});
if (!hasKubectl) {
  printSkip('kustomize makes of the folders what stands in them', 'kubectl is not there');
}

test.run();
