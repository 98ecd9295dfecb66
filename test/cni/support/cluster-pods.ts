// The pods of the cluster of cluster.ts, the policies over them, and what these mean, in plain
// words, for every packet between two pods.

import { renameSync, writeFileSync } from 'node:fs';
import type { Family } from '../../../engine/address.ts';
import {
  clusterNode, nodeObject, podAddress, podAddresses,
} from '../../netns/support/forge-cluster.ts';
import { NAMESPACE } from './cluster.ts';
import type { Arrival, Protocol, Shot } from './eager.ts';

/** Open to every pod. */
export const OPEN_PORT = 8080;
/** Open to web on db alone. */
export const ADMIN_PORT = 8081;
/** UDP, open to db on web alone. */
export const METRICS_PORT = 9000;
/** UDP, open to nobody. */
const CLOSED_PORT = 9001;
const FAMILIES: Family[] = ['IPv4', 'IPv6'];
/** The address manager's first number. */
const FIRST_NUMBER = 2;

const ROLES = ['web', 'db', 'batch'] as const;

export interface ClusterPod {
  name: string;
  node: number;
  role: (typeof ROLES)[number];
  /** Empty until its sandbox has them. */
  addresses: string[];
}

/** Pods of each of the nodes, with their roles in turn. */
export function makePods(nodes: number[], each: number): ClusterPod[] {
  return nodes.flatMap((node) => Array.from({ length: each }, (_, at) => ({
    name: `pod-${node}-${at}`, node, role: ROLES[at % ROLES.length] ?? 'web', addresses: [],
  })));
}

/** What a pod sends to wherever a pod may be: what policy allows to some, and what to nobody. */
export function shotsOf(pods: readonly ClusterPod[], pod: ClusterPod): Shot[] {
  const kinds: [Protocol, number][] = [
    ['UDP', METRICS_PORT], ['UDP', CLOSED_PORT], ['TCP', ADMIN_PORT], ['ICMP', 0],
  ];
  const numbers = pods.filter(({ node }) => node === pod.node).map((_, at) => FIRST_NUMBER + at);
  const nodes = [...new Set(pods.map(({ node }) => node))];
  const shots = numbers.flatMap((number) => nodes.flatMap((node) => FAMILIES.flatMap((family) =>
    kinds.map(([protocol, port]): Shot =>
      ({ protocol, address: podAddress(node, number, family), port })))));
  const first = Math.floor((pods.indexOf(pod) * shots.length) / pods.length);
  return [...shots.slice(first), ...shots.slice(0, first)];
}

/** Whether policy lets a pod send so. */
function allowsEgress(from: ClusterPod, protocol: string, port: number): boolean {
  return from.role !== 'batch' || (protocol === 'TCP' && port === OPEN_PORT);
}

/** Whether policy lets a pod receive so. */
function allowsIngress(
  from: ClusterPod, to: ClusterPod, protocol: string, port: number,
): boolean {
  if (protocol === 'TCP' && port === OPEN_PORT) return true;
  if (protocol === 'TCP' && port === ADMIN_PORT) return from.role === 'web' && to.role === 'db';
  if (protocol === 'UDP' && port === METRICS_PORT) return from.role === 'db' && to.role === 'web';
  return false;
}

/** Whether a pod may open a connection of that kind to another. */
export function allows(
  from: ClusterPod, to: ClusterPod, protocol: string, port: number,
): boolean {
  return allowsEgress(from, protocol, port) && allowsIngress(from, to, protocol, port);
}

/** Whether one end's policy lets the first packet of a flow pass. */
export function allowsAt(
  direction: 'ingress' | 'egress', from: ClusterPod, to: ClusterPod, protocol: string,
  port: number,
): boolean {
  return direction === 'egress'
    ? allowsEgress(from, protocol, port)
    : allowsIngress(from, to, protocol, port);
}

/** Packets that came to pods and should not have, in words. A reply may come where the request may
 * go, an ICMP error of a pod where some datagram may, and one of a node anywhere: nodes tell of
 * addresses that no pod has. No policy keeps a pod from itself; while its IPv6 address is new, the
 * kernel may send that way what is for the pod's own address. */
export function forbidden(pods: readonly ClusterPod[], arrivals: readonly Arrival[]): string[] {
  const bases = [...new Set(pods.map(({ node }) => node))].flatMap((node) => podAddresses(node, 0));
  return arrivals.filter((arrival) => {
    const { protocol, port, isReply } = arrival;
    if (bases.includes(arrival.from)) return protocol !== 'ICMP' || !isReply;
    const from = pods.find(({ addresses }) => addresses.includes(arrival.from));
    const to = pods.find(({ name }) => name === arrival.to);
    if (from === undefined || to === undefined) return true;
    if (from === to) return false;
    if (!isReply) return !allows(from, to, protocol, port);
    return protocol === 'ICMP'
      ? !allows(to, from, 'UDP', METRICS_PORT)
      : !allows(to, from, protocol, port);
  }).map((arrival) => JSON.stringify(arrival));
}

/** Makes these pods, two nodes and the policies all that the cluster has. */
export function writeCluster(file: string, nodes: number[], pods: readonly ClusterPod[]): void {
  const items = [
    ...nodes.map((n) => nodeObject(clusterNode(n))),
    { apiVersion: 'v1', kind: 'Namespace', metadata: { name: NAMESPACE } },
    ...policies(), ...pods.map(podObject),
  ];
  writeFileSync(`${file}.new`, JSON.stringify({ apiVersion: 'v1', kind: 'List', items }));
  renameSync(`${file}.new`, file);
}

function podObject({ name, node, role, addresses }: ClusterPod): object {
  return {
    apiVersion: 'v1', kind: 'Pod',
    metadata: { name, namespace: NAMESPACE, uid: `uid-${name}`, labels: { role } },
    spec: { nodeName: `node-${node}` },
    status: addresses.length === 0
      ? { phase: 'Pending' }
      : { phase: 'Running', podIP: addresses[0], podIPs: addresses.map((ip) => ({ ip })) },
  };
}

function policies(): object[] {
  const role = (name: string): object => ({ podSelector: { matchLabels: { role: name } } });
  const policy = (name: string, spec: object): object => ({
    apiVersion: 'networking.k8s.io/v1', kind: 'NetworkPolicy',
    metadata: { name, namespace: NAMESPACE }, spec,
  });
  const open = [{ protocol: 'TCP', port: OPEN_PORT }];
  return [
    policy('open', {
      podSelector: {}, policyTypes: ['Ingress'],
      ingress: [{ from: [{ podSelector: {} }], ports: open }],
    }),
    policy('admin', {
      ...role('db'), policyTypes: ['Ingress'],
      ingress: [{ from: [role('web')], ports: [{ protocol: 'TCP', port: ADMIN_PORT }] }],
    }),
    policy('metrics', {
      ...role('web'), policyTypes: ['Ingress'],
      ingress: [{ from: [role('db')], ports: [{ protocol: 'UDP', port: METRICS_PORT }] }],
    }),
    policy('quiet-batch', {
      ...role('batch'), policyTypes: ['Egress'],
      egress: [{ to: [{ podSelector: {} }], ports: open }],
    }),
  ];
}
