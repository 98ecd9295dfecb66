// Which ports of the node lead where: Services and pods in, listeners out. Pure.

import { addressFamily } from '../../engine/address.ts';
import type { Backend, HostPort, Pod, Service } from '../../engine/model.ts';

/** A port of the node, at one of its addresses. It is closed while no backend takes anything. */
export interface Listener {
  /** Whose it is: `service a/b`, or `pod a/b`. */
  owner: string;
  protocol: 'TCP' | 'UDP';
  address: string;
  port: number;
  /** Those of the address's family that the owner's rules allow. */
  backends: Backend[];
  affinitySeconds: number;
  proxyProtocol: 'none' | 'v1' | 'v2';
}

/** An owner's listeners, and why it has no others. */
export interface Plan {
  listeners: Listener[];
  problems: string[];
}

export interface PlanOptions {
  /** The node's addresses to listen at. */
  addresses: readonly string[];
  /** Where node ports may be, as FIRST-LAST. */
  range: string;
}

const UNSPECIFIED = new Set(['', '0.0.0.0', '::']);

/** True for FIRST-LAST, both ports, in this order. */
export function isPortRange(text: string): boolean {
  const [first, last] = portRange(text);
  return /^\d{1,5}-\d{1,5}$/.test(text) && first >= 1 && first <= last && last <= 65535;
}

function portRange(text: string): [first: number, last: number] {
  const [first, last] = text.split('-');
  return [Number(first), Number(last)];
}

/** True where a Service has anything for a node's port. */
export function hasNodePorts({ ports }: Service): boolean {
  return ports.some(({ nodePort }) => nodePort !== undefined);
}

/** A Service's node ports, at the addresses of the families that it has itself. */
export function planService(service: Service, { addresses, range }: PlanOptions): Plan {
  const owner = `service ${service.namespace}/${service.name}`;
  const plan: Plan = { listeners: [], problems: [] };
  const [first, last] = portRange(range);
  const families = new Set(service.addresses.map(addressFamily));
  const { affinitySeconds, proxyProtocol = 'none' } = service;
  for (const { protocol, nodePort, backends } of service.ports) {
    if (nodePort === undefined) continue;
    if (protocol === 'SCTP') {
      plan.problems.push(`${owner}: node port ${nodePort}/SCTP: only TCP and UDP are served`);
      continue;
    }
    if (nodePort < first || nodePort > last) {
      plan.problems.push(`${owner}: node port ${nodePort}/${protocol} is not in ${range}`);
      continue;
    }
    const allowed = outsideBackends(service, backends);
    for (const address of addresses) {
      const family = addressFamily(address);
      if (!families.has(family)) continue;
      plan.listeners.push({
        owner, protocol, address, port: nodePort, affinitySeconds, proxyProtocol,
        backends: allowed.filter((backend) => addressFamily(backend.address) === family),
      });
    }
  }
  return plan;
}

/** The backends as clients from outside are to have them. Under a policy of Local, whether it is
 * theirs or that of clients within the cluster, being distant is none of a backend's faults. */
function outsideBackends(
  { externalLocal = false, internalLocal = false }: Service, backends: readonly Backend[],
): Backend[] {
  const allowed = backends.filter(({ local = false }) => local || !externalLocal);
  if (!externalLocal && !internalLocal) return allowed;
  return allowed.map((one) => (one.state === 'distant' ? { ...one, state: 'ready' } : one));
}

/** A pod's host ports, at the addresses of the families that it has itself. */
export function planPod(pod: Pod, { addresses }: PlanOptions): Plan {
  const owner = `pod ${pod.namespace}/${pod.name}`;
  const plan: Plan = { listeners: [], problems: [] };
  for (const { protocol, hostPort, containerPort, hostIP } of pod.hostPorts ?? []) {
    if (protocol === 'SCTP') {
      plan.problems.push(`${owner}: host port ${hostPort}/SCTP: only TCP and UDP are served`);
      continue;
    }
    for (const address of hostAddresses(hostIP, addresses)) {
      const family = addressFamily(address);
      const target = pod.addresses.find((one) => addressFamily(one) === family);
      if (target === undefined) continue;
      plan.listeners.push({
        owner, protocol, address, port: hostPort, affinitySeconds: 0, proxyProtocol: 'none',
        backends: [{ address: target, port: containerPort, state: 'ready', local: true }],
      });
    }
  }
  return plan;
}

/** What a hostIP means; an unspecified one is limited to its family. */
function hostAddresses(hostIP: HostPort['hostIP'], all: readonly string[]): readonly string[] {
  if (hostIP === '') return all;
  if (!UNSPECIFIED.has(hostIP)) return [hostIP];
  return all.filter((address) => addressFamily(address) === addressFamily(hostIP));
}
