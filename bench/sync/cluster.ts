// A large cluster by numbers, as an API server has it: objects with all that a sidecar does not
// want to know, managedFields first of all.

/** How large it is. */
export interface ClusterSize {
  pods: number;
  nodes: number;
  policies: number;
  namespaces: number;
}

export const LARGE: ClusterSize = {
  pods: 100_000, nodes: 5000, policies: 10_000, namespaces: 500,
};

/** Applications of a namespace. */
const APPS = 20;
const CREATED = '2026-03-01T08:00:00Z';
const IMAGE = 'registry.example/team/service@sha256:';

const hex = (value: number, length: number): string => value.toString(16).padStart(length, '0');
const uid = (kind: number, index: number): string =>
  `${hex(kind, 2)}${hex(index, 6)}-1b2c-4d5e-8f90-${hex((index * 2_654_435_761) % (2 ** 32), 12)}`;

export const namespaceName = (index: number): string => `ns-${index}`;
export const nodeName = (index: number): string => `node-${index}`;
const appOf = ({ namespaces }: ClusterSize, index: number): number =>
  Math.floor(index / namespaces) % APPS;

/** The label that the policies go by: of all pods of a deployment. */
export function tierOf(size: ClusterSize, index: number): 'web' | 'db' {
  return appOf(size, index) % 3 === 0 ? 'web' : 'db';
}

export function podName(size: ClusterSize, index: number): string {
  const app = appOf(size, index);
  return `app-${app}-${templateHash(size, index)}-${index.toString(36).padStart(5, '0')}`;
}

function templateHash(size: ClusterSize, index: number): string {
  const deployment = (appOf(size, index) * size.namespaces) + (index % size.namespaces);
  return hex((deployment * 40_503) % (2 ** 32), 9);
}

/** Field ownership as the server keeps it: about half of what an object weighs. */
function managedFields(manager: string, names: readonly string[]): object[] {
  return [{
    manager, operation: 'Update', apiVersion: 'v1', time: CREATED, fieldsType: 'FieldsV1',
    fieldsV1: { 'f:metadata': { 'f:labels': Object.fromEntries(names.map((name) =>
      [`f:${name}`, {}])) }, 'f:spec': { 'f:containers': { 'k:{"name":"main"}': {
      '.': {}, 'f:image': {}, 'f:name': {}, 'f:ports': { '.': {}, 'k:{"containerPort":8080}': {} },
      'f:resources': { '.': {}, 'f:limits': {}, 'f:requests': {} } } } } },
  }, {
    manager: 'kubelet', operation: 'Update', apiVersion: 'v1', time: CREATED,
    fieldsType: 'FieldsV1', subresource: 'status',
    fieldsV1: { 'f:status': { 'f:conditions': { 'k:{"type":"Ready"}': { '.': {}, 'f:status': {} } },
      'f:phase': {}, 'f:podIP': {}, 'f:podIPs': {}, 'f:containerStatuses': {} } },
  }];
}

export function pod(size: ClusterSize, index: number): object {
  const app = appOf(size, index);
  const hash = templateHash(size, index);
  const ip = `10.${64 + (index >>> 16)}.${(index >>> 8) & 255}.${index & 255}`;
  const labels = {
    app: `app-${app}`, 'pod-template-hash': hash, tier: tierOf(size, index),
    'app.kubernetes.io/name': `app-${app}`,
  };
  return {
    metadata: {
      name: podName(size, index), generateName: `app-${app}-${hash}-`,
      namespace: namespaceName(index % size.namespaces), uid: uid(1, index),
      creationTimestamp: CREATED, labels,
      ownerReferences: [{ apiVersion: 'apps/v1', kind: 'ReplicaSet', name: `app-${app}-${hash}`,
        uid: uid(2, app), controller: true, blockOwnerDeletion: true }],
      managedFields: managedFields('kube-controller-manager', Object.keys(labels)),
    },
    spec: {
      nodeName: nodeName(index % size.nodes), serviceAccountName: 'default',
      restartPolicy: 'Always',
      containers: [{
        name: 'main', image: IMAGE + hex(app, 64), imagePullPolicy: 'IfNotPresent',
        ports: [{ name: 'http', containerPort: 8080, protocol: 'TCP' },
          { name: 'metrics', containerPort: 9090, protocol: 'TCP' }],
        env: [{ name: 'MODE', value: 'production' }, { name: 'LOG', value: 'info' }],
        resources: { limits: { memory: '128Mi' }, requests: { cpu: '50m', memory: '64Mi' } },
      }],
      tolerations: [{ key: 'node.kubernetes.io/not-ready', operator: 'Exists',
        effect: 'NoExecute', tolerationSeconds: 300 }],
    },
    status: {
      phase: 'Running', podIP: ip, podIPs: [{ ip }], hostIP: '172.20.0.1', qosClass: 'Burstable',
      conditions: ['Initialized', 'Ready', 'ContainersReady', 'PodScheduled'].map((type) =>
        ({ type, status: 'True', lastTransitionTime: CREATED })),
      containerStatuses: [{ name: 'main', ready: true, restartCount: 0,
        image: IMAGE + hex(app, 64),
        containerID: `containerd://${hex(index, 64)}`,
        state: { running: { startedAt: CREATED } } }],
    },
  };
}

export function node(index: number): object {
  const [high, low] = [index >>> 8, index & 255];
  const address = `172.20.${high}.${low}`;
  const podCIDR = `10.${64 + high}.${low}.0/24`;
  const prefix = 'flannel.alpha.coreos.com';
  return {
    metadata: {
      name: nodeName(index), uid: uid(3, index), creationTimestamp: CREATED,
      labels: { 'kubernetes.io/arch': 'arm64', 'kubernetes.io/os': 'linux',
        'kubernetes.io/hostname': nodeName(index), 'topology.kubernetes.io/zone': `z${index % 3}` },
      annotations: {
        [`${prefix}/kube-subnet-manager`]: 'true', [`${prefix}/backend-type`]: 'vxlan',
        [`${prefix}/public-ip`]: address,
        [`${prefix}/backend-data`]:
          JSON.stringify({ VNI: 1, VtepMAC: `02:00:00:00:${hex(high, 2)}:${hex(low, 2)}` }),
      },
      managedFields: managedFields('kubelet', ['kubernetes.io/arch', 'kubernetes.io/os']),
    },
    spec: { podCIDR, podCIDRs: [podCIDR] },
    status: {
      addresses: [{ type: 'InternalIP', address }, { type: 'Hostname', address: nodeName(index) }],
      images: Array.from({ length: 10 }, (_, at) =>
        ({ names: [IMAGE + hex(at, 64)], sizeBytes: 50_000_000 + at })),
      nodeInfo: { kernelVersion: '6.18.0', osImage: 'Debian', architecture: 'arm64' },
    },
  };
}

export function namespace(index: number): object {
  const name = namespaceName(index);
  return { metadata: {
    name, uid: uid(4, index), creationTimestamp: CREATED,
    labels: { 'kubernetes.io/metadata.name': name, team: `team-${index % 7}` },
  } };
}

export function policy(size: ClusterSize, index: number): object {
  const app = `app-${appOf(size, index)}`;
  return {
    metadata: {
      namespace: namespaceName(index % size.namespaces), name: `np-${index}`, uid: uid(5, index),
      creationTimestamp: CREATED, managedFields: managedFields('kubectl', []),
    },
    spec: {
      podSelector: { matchLabels: { app } },
      policyTypes: ['Ingress', 'Egress'],
      ingress: [
        { from: [{ podSelector: { matchLabels: { tier: 'web' } } },
          { namespaceSelector: { matchLabels: { team: `team-${index % 7}` } } }],
          ports: [{ protocol: 'TCP', port: 'http' }, { protocol: 'TCP', port: 443 }] },
        { from: [{ ipBlock: { cidr: `192.168.${index % 200}.0/24`,
          except: [`192.168.${index % 200}.128/25`] } }] },
      ],
      egress: [
        { to: [{ podSelector: { matchExpressions: [
          { key: 'app', operator: 'In', values: [app, 'app-0'] }] } }],
          ports: [{ protocol: 'TCP', port: 'http' }] },
        { ports: [{ protocol: 'UDP', port: 53 }] },
      ],
    },
  };
}
