// The kinds of objects that the test API server knows, and how each looks on the wire where they
// differ: the hull that a BOOKMARK carries instead of an object, and which version serves what.

export type Fields = Record<string, unknown>;

export interface Metadata extends Fields {
  name: string;
  namespace?: string;
  uid?: string;
  resourceVersion?: string;
  generation?: number;
  creationTimestamp?: string;
  deletionTimestamp?: string;
  labels?: Record<string, string>;
  annotations?: Record<string, string>;
  finalizers?: string[];
}

export interface KubeObject extends Fields {
  metadata: Metadata;
}

/** Which server is imitated: 1.36 on etcd 3.5, the same on etcd 3.4 (no progress notifications),
 * and 1.20. */
export type ServerVersion = '1.36' | '1.36-etcd3.4' | '1.20';

export interface ResourceType {
  /** Empty for the core group. */
  group: string;
  version: string;
  plural: string;
  kind: string;
  namespaced: boolean;
  /** Built-in types have no kind and apiVersion in list items; custom resources do. */
  isCustom: boolean;
  /** What a BOOKMARK's object has beside its metadata. */
  hull: Fields;
}

const NODE_HULL: Fields = {
  spec: {},
  status: {
    daemonEndpoints: { kubeletEndpoint: { Port: 0 } },
    nodeInfo: {
      machineID: '', systemUUID: '', bootID: '', kernelVersion: '', osImage: '',
      containerRuntimeVersion: '', kubeletVersion: '', kubeProxyVersion: '', operatingSystem: '',
      architecture: '',
    },
  },
};

const RBAC = 'rbac.authorization.k8s.io';

function type(group: string, version: string, plural: string, kind: string, namespaced: boolean,
  hull: Fields = {}): ResourceType {
  return { group, version, plural, kind, namespaced, isCustom: false, hull };
}

/** The built-in types of a server. */
export function builtInTypes(version: ServerVersion): ResourceType[] {
  return [
    type('', 'v1', 'nodes', 'Node', false, NODE_HULL),
    type('', 'v1', 'namespaces', 'Namespace', false, { spec: {}, status: {} }),
    type('', 'v1', 'pods', 'Pod', true, { spec: { containers: null }, status: {} }),
    type('', 'v1', 'services', 'Service', true, { spec: {}, status: { loadBalancer: {} } }),
    type('', 'v1', 'configmaps', 'ConfigMap', true),
    type('', 'v1', 'secrets', 'Secret', true),
    type('', 'v1', 'serviceaccounts', 'ServiceAccount', true),
    type('apps', 'v1', 'daemonsets', 'DaemonSet', true),
    type('networking.k8s.io', 'v1', 'networkpolicies', 'NetworkPolicy', true,
      { spec: { podSelector: {} } }),
    type('discovery.k8s.io', version === '1.20' ? 'v1beta1' : 'v1', 'endpointslices',
      'EndpointSlice', true, { addressType: '', endpoints: null, ports: null }),
    type(RBAC, 'v1', 'clusterroles', 'ClusterRole', false, { rules: null }),
    type(RBAC, 'v1', 'clusterrolebindings', 'ClusterRoleBinding', false),
    type(RBAC, 'v1', 'roles', 'Role', true, { rules: null }),
    type(RBAC, 'v1', 'rolebindings', 'RoleBinding', true),
    type('apiextensions.k8s.io', 'v1', 'customresourcedefinitions', 'CustomResourceDefinition',
      false),
  ];
}

/** The CustomResourceDefinition of ClusterNetworkPolicy v1alpha2, with an open schema. */
export function clusterNetworkPolicyDefinition(): KubeObject {
  return {
    apiVersion: 'apiextensions.k8s.io/v1', kind: 'CustomResourceDefinition',
    metadata: { name: 'clusternetworkpolicies.policy.networking.k8s.io' },
    spec: {
      group: 'policy.networking.k8s.io', scope: 'Cluster',
      names: { plural: 'clusternetworkpolicies', kind: 'ClusterNetworkPolicy' },
      versions: [{ name: 'v1alpha2', served: true, storage: true }],
    },
  };
}

/** The type that a CustomResourceDefinition makes. */
export function customType(definition: KubeObject): ResourceType {
  const spec = definition['spec'] as {
    group: string; scope: string; names: { plural: string; kind: string };
    versions: { name: string }[];
  };
  return {
    group: spec.group, version: spec.versions[0]?.name ?? 'v1', plural: spec.names.plural,
    kind: spec.names.kind, namespaced: spec.scope === 'Namespaced', isCustom: true, hull: {},
  };
}

export function apiVersionOf({ group, version }: ResourceType): string {
  return group === '' ? version : `${group}/${version}`;
}

/** The name that RBAC and messages use, such as `networkpolicies.networking.k8s.io`. */
export function qualifiedName({ group, plural }: { group: string; plural: string }): string {
  return group === '' ? plural : `${plural}.${group}`;
}

/** The key of an object in its collection: sorted as etcd sorts them. */
export function keyOf({ metadata }: KubeObject): string {
  return metadata.namespace === undefined ? metadata.name
    : `${metadata.namespace}/${metadata.name}`;
}
