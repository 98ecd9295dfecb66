// The resources that are followed, and what each of them is for.

import type { Entry } from '../objects.ts';

export interface Resource {
  /** As RBAC names it. */
  plural: string;
  kind: Entry['kind'];
  apiVersion: string;
  /** The collection of all namespaces. */
  path: string;
  /** Where servers have it that do not have it there yet. */
  older?: { apiVersion: string; path: string };
  /** Nothing is told without it. */
  isRequired: boolean;
  /** It is no error that the server does not have it. */
  mayBeAbsent: boolean;
  /** What does not work while it cannot be read. */
  loss: string;
}

export const RESOURCES: readonly Resource[] = [
  {
    plural: 'nodes', kind: 'Node', apiVersion: 'v1', path: '/api/v1/nodes',
    isRequired: true, mayBeAbsent: false,
    loss: 'no peers and no routes are known',
  },
  {
    plural: 'namespaces', kind: 'Namespace', apiVersion: 'v1', path: '/api/v1/namespaces',
    isRequired: false, mayBeAbsent: false,
    loss: 'policies that select namespaces by labels other than the name are not enforced as meant',
  },
  {
    plural: 'pods', kind: 'Pod', apiVersion: 'v1', path: '/api/v1/pods',
    isRequired: false, mayBeAbsent: false,
    loss: 'policies are not enforced as meant: no pod is known by its labels',
  },
  {
    plural: 'networkpolicies', kind: 'NetworkPolicy', apiVersion: 'networking.k8s.io/v1',
    path: '/apis/networking.k8s.io/v1/networkpolicies',
    isRequired: false, mayBeAbsent: false,
    loss: 'NetworkPolicy is not enforced',
  },
  {
    plural: 'clusternetworkpolicies', kind: 'ClusterNetworkPolicy',
    apiVersion: 'policy.networking.k8s.io/v1alpha2',
    path: '/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies',
    isRequired: false, mayBeAbsent: true,
    loss: 'ClusterNetworkPolicy is not enforced',
  },
  {
    plural: 'services', kind: 'Service', apiVersion: 'v1', path: '/api/v1/services',
    isRequired: false, mayBeAbsent: false,
    loss: 'Services are not served',
  },
  {
    plural: 'endpointslices', kind: 'EndpointSlice', apiVersion: 'discovery.k8s.io/v1',
    path: '/apis/discovery.k8s.io/v1/endpointslices',
    older: {
      apiVersion: 'discovery.k8s.io/v1beta1',
      path: '/apis/discovery.k8s.io/v1beta1/endpointslices',
    },
    isRequired: false, mayBeAbsent: false,
    loss: 'Services have no backends',
  },
];
