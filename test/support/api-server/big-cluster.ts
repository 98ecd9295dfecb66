// A large cluster that costs nothing until it is read: pods, nodes, namespaces and policies whose
// JSON is as large as that of real ones, made from recorded objects by replacing what differs.

import { bodyOf, eventsOf, readRecording, resourceOf } from './recording.ts';
import type { KubeObject } from './resources.ts';
import { uidOf, type Store, type VirtualObjects } from './store.ts';

export interface ClusterSize {
  nodes: number;
  pods: number;
  policies: number;
  namespaces: number;
}

export const LARGEST: ClusterSize = {
  nodes: 5000, pods: 100_000, policies: 10_000, namespaces: 500,
};

const RECORDING = '10-real-cluster.v1.36.2';
/** Different values of the label `app`; a policy is about one of them in one namespace. */
const APP_COUNT = 100;
const UID_SERIES = { nodes: 1, pods: 2, policies: 3, namespaces: 4 };
const BYTE = 256;
/** The first host address of a node's prefix that a pod gets. */
const FIRST_HOST = 2;
const MARK = '\u0001';

export function nodeName(index: number): string {
  return `node-${String(index).padStart(5, '0')}`;
}

export function namespaceName(index: number): string {
  return `team-${String(index).padStart(4, '0')}`;
}

/** The /24 of a node out of 10.0.0.0/8, without its last byte. */
function podPrefix(index: number): string {
  return `10.${Math.floor(index / BYTE)}.${index % BYTE}`;
}

/** Where pod `index` is: its namespace, name, node and address. */
export function podAt(index: number, size: ClusterSize)
  : { namespace: string; name: string; node: string; address: string; app: string } {
  const node = index % size.nodes;
  const host = FIRST_HOST + Math.floor(index / size.nodes);
  return {
    namespace: namespaceName(index % size.namespaces), name: `web-67cf455654-${index}`,
    node: nodeName(node), address: `${podPrefix(node)}.${host}`,
    app: `app-${Math.floor(index / size.namespaces) % APP_COUNT}`,
  };
}

/** Address of a node, out of 172.16.0.0/12. */
export function nodeAddress(index: number): string {
  return `172.${16 + Math.floor(index / (BYTE * 250))}.${Math.floor(index / 250) % BYTE}`
    + `.${1 + (index % 250)}`;
}

/** The last recorded object of a kind that fits. */
function sample(resource: string, fits: (object: KubeObject) => boolean): KubeObject {
  let found: KubeObject | null = null;
  for (const exchange of readRecording(RECORDING).exchanges) {
    if (resourceOf(exchange.path) !== resource) continue;
    for (const { type, object } of eventsOf(bodyOf(exchange))) {
      if (type !== 'BOOKMARK' && fits(object)) found = object;
    }
  }
  if (found === null) throw new Error(`${RECORDING} shows no such ${resource}`);
  const { kind: _kind, apiVersion: _apiVersion, ...item } = found as KubeObject & {
    kind?: string; apiVersion?: string;
  };
  return item;
}

/** A text with holes: each mark in the JSON of `object` is filled by the value of that number. */
function template(object: KubeObject): (values: readonly string[]) => string {
  const parts = JSON.stringify(object).split(/\\u0001(\d)/);
  return (values) => {
    let text = '';
    for (const [i, part] of parts.entries()) {
      text += i % 2 === 0 ? part : values[Number(part)] ?? '';
    }
    return text;
  };
}

function hole(number: number): string {
  return `${MARK}${number}`;
}

function pods(size: ClusterSize): VirtualObjects {
  const pod = structuredClone(sample('pods', ({ metadata, status }) =>
    metadata.deletionTimestamp === undefined
    && (status as { phase?: string } | undefined)?.phase === 'Running'));
  const spec = pod['spec'] as Record<string, unknown>;
  const status = pod['status'] as Record<string, unknown>;
  Object.assign(pod.metadata, {
    name: hole(0), namespace: hole(1), uid: hole(2), resourceVersion: hole(3),
    labels: { ...pod.metadata.labels, app: hole(4) },
  });
  Object.assign(spec, { nodeName: hole(5) });
  Object.assign(status, { podIP: hole(6), podIPs: [{ ip: hole(6) }] });
  const fill = template(pod);
  return {
    key: (index) => {
      const { namespace, name } = podAt(index, size);
      return `${namespace}/${name}`;
    },
    text: (index, version) => {
      const { namespace, name, node, address, app } = podAt(index, size);
      const uid = uidOf(UID_SERIES.pods, index);
      return fill([name, namespace, uid, String(version), app, node, address]);
    },
  };
}

/** The VTEP MAC of a node, locally administered. */
export function nodeMac(index: number): string {
  const hex = index.toString(16).padStart(4, '0');
  return `02:00:00:00:${hex.slice(0, 2)}:${hex.slice(2)}`;
}

function nodes(): VirtualObjects {
  const node = structuredClone(sample('nodes', () => true));
  const prefix = 'flannel.alpha.coreos.com';
  Object.assign(node.metadata, {
    name: hole(0), uid: hole(1), resourceVersion: hole(2),
    annotations: {
      ...node.metadata.annotations,
      [`${prefix}/backend-data`]: `{"VNI":1,"VtepMAC":"${hole(3)}"}`,
      [`${prefix}/backend-type`]: 'vxlan', [`${prefix}/kube-subnet-manager`]: 'true',
      [`${prefix}/public-ip`]: hole(4),
    },
  });
  node['spec'] = { podCIDR: `${hole(5)}.0/24`, podCIDRs: [`${hole(5)}.0/24`] };
  (node['status'] as Record<string, unknown>)['addresses'] = [
    { type: 'InternalIP', address: hole(4) }, { type: 'Hostname', address: hole(0) },
  ];
  const fill = template(node);
  return {
    key: nodeName,
    text: (index, version) => fill([nodeName(index), uidOf(UID_SERIES.nodes, index),
      String(version), nodeMac(index), nodeAddress(index), podPrefix(index)]),
  };
}

/** Policies select one app of one namespace and let in another app and a range. */
function policy(index: number, size: ClusterSize): KubeObject {
  const app = Math.floor(index / size.namespaces) % APP_COUNT;
  return {
    metadata: {
      name: `policy-${String(index).padStart(6, '0')}`,
      namespace: namespaceName(index % size.namespaces), uid: uidOf(UID_SERIES.policies, index),
      generation: 1, creationTimestamp: '2026-11-21T10:00:00Z',
    },
    spec: {
      podSelector: { matchLabels: { app: `app-${app}` } },
      ingress: [
        { from: [{ podSelector: { matchLabels: { app: `app-${(app + 1) % APP_COUNT}` } } }],
          ports: [{ protocol: 'TCP', port: 8080 }] },
        { from: [{ ipBlock: { cidr: `192.168.${index % BYTE}.0/24` } }],
          ports: [{ protocol: 'TCP', port: 443 }] },
      ],
      policyTypes: ['Ingress'],
    },
  };
}

function namespace(index: number): KubeObject {
  const name = namespaceName(index);
  return {
    metadata: {
      name, uid: uidOf(UID_SERIES.namespaces, index), creationTimestamp: '2026-11-21T10:00:00Z',
      labels: { 'kubernetes.io/metadata.name': name, team: `group-${index % 10}` },
    },
    spec: { finalizers: ['kubernetes'] }, status: { phase: 'Active' },
  };
}

/** Fills an empty store. */
export function fillBigCluster(store: Store, size: ClusterSize = LARGEST): void {
  store.collection('namespaces').virtual(size.namespaces, namespace);
  store.collection('nodes').virtual(size.nodes, nodes());
  store.collection('pods').virtual(size.pods, pods(size));
  store.collection('networkpolicies').virtual(size.policies, (index) => policy(index, size));
}
