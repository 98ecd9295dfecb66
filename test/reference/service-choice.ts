// The slow twin of sync/services: what the objects of a cluster mean for the Services of one node,
// worked out from all of them at once, straight from what Kubernetes' documentation says.

import type { Backend, Service } from '../../engine/model.ts';
import type { KubeObject } from '../support/service-history.ts';

type Fields = Record<string, unknown>;

interface EndpointObject {
  addresses: string[];
  conditions?: { ready?: boolean | null; serving?: boolean | null; terminating?: boolean | null };
  nodeName?: string;
  topology?: Record<string, string>;
  hints?: { forZones?: { name: string }[]; forNodes?: { name: string }[] } | null;
}

interface PortObject {
  name?: string;
  protocol?: 'TCP' | 'UDP' | 'SCTP';
  port: number;
  nodePort?: number;
}

const RANKS = ['ready', 'draining', 'unready'];

/** Every Service that has addresses, by key. */
export function servicesOf(objects: readonly KubeObject[], node: string): Map<string, Service> {
  const found = new Map<string, Service>();
  const home = objects.find(({ kind, metadata }) => kind === 'Node' && metadata.name === node);
  const zone = home?.metadata.labels?.['topology.kubernetes.io/zone'] ?? '';
  for (const object of objects) {
    if (object.kind !== 'Service') continue;
    const { namespace = 'default', name } = object.metadata;
    const spec = object['spec'] as Fields;
    const addresses = (spec['clusterIPs'] as string[]).filter((address) => address !== 'None');
    if (spec['type'] === 'ExternalName' || addresses.length === 0) continue;
    const slices = objects.filter(({ kind, metadata }) => kind === 'EndpointSlice'
      && (metadata.namespace ?? 'default') === namespace
      && metadata.labels?.['kubernetes.io/service-name'] === name);
    const { timeoutSeconds = 10800 } = (spec['sessionAffinityConfig'] as
      { clientIP?: { timeoutSeconds?: number } } | undefined)?.clientIP ?? {};
    const ports = (spec['ports'] as PortObject[]).map(({ nodePort, ...port }): PortObject =>
      (isOutside(spec) && nodePort !== undefined ? { ...port, nodePort } : port));
    const proxyProtocol = object.metadata.annotations?.['culvert.net/proxy-protocol'];
    const service: Service = {
      namespace, name, addresses,
      ports: ports.map((port) => ({
        name: port.name ?? '', protocol: port.protocol ?? 'TCP', port: port.port,
        ...port.nodePort === undefined ? {} : { nodePort: port.nodePort },
        backends: backendsOf(spec, addresses, port, slices, { node, zone }),
      })),
      affinitySeconds: spec['sessionAffinity'] === 'ClientIP' ? timeoutSeconds : 0,
      empty: 'reject',
    };
    if (ports.some(({ nodePort }) => nodePort !== undefined)) {
      if (spec['externalTrafficPolicy'] === 'Local') service.externalLocal = true;
      if (spec['internalTrafficPolicy'] === 'Local') service.internalLocal = true;
      if (proxyProtocol !== undefined) service.proxyProtocol = proxyProtocol;
    }
    found.set(`${namespace}/${name}`, service);
  }
  return found;
}

function isOutside(spec: Fields): boolean {
  return spec['type'] === 'NodePort' || spec['type'] === 'LoadBalancer';
}

function backendsOf(
  spec: Fields, addresses: string[], wanted: PortObject, slices: KubeObject[],
  place: { node: string; zone: string },
): Backend[] {
  return ['IPv4', 'IPv6'].flatMap((family) => {
    const isServed = addresses.some((address) => address.includes(':') === (family === 'IPv6'));
    if (!isServed) return [];
    const all: { at: string; endpoint: EndpointObject; backend: Backend }[] = [];
    for (const slice of [...slices].sort((a, b) => (a.metadata.name < b.metadata.name ? -1 : 1))) {
      if (slice['addressType'] !== family) continue;
      for (const { name = '', protocol = 'TCP', port } of (slice['ports'] ?? []) as PortObject[]) {
        if (name !== (wanted.name ?? '') || protocol !== (wanted.protocol ?? 'TCP')) continue;
        for (const endpoint of (slice['endpoints'] ?? []) as EndpointObject[]) {
          const address = endpoint.addresses[0] ?? '';
          const at = `${address} ${port}`;
          all.push({ at, endpoint, backend: { address, port, state: stateOf(endpoint) } });
        }
      }
    }
    const best = all.filter((one, index) => !all.some((other, place_) => other.at === one.at
      && (rank(other) < rank(one) || (rank(other) === rank(one) && place_ < index))));
    const local = spec['internalTrafficPolicy'] === 'Local';
    const isHere = ({ endpoint }: typeof best[number]): boolean =>
      nodeOf(endpoint) === place.node;
    const reachesOut = wanted.nodePort !== undefined && spec['externalTrafficPolicy'] !== 'Local';
    const counted = best
      .filter((one) => !local || reachesOut || isHere(one))
      .map((one) => (spec['publishNotReadyAddresses'] === true
        ? { ...one, backend: { ...one.backend, state: 'ready' as const } } : one));
    const ready = counted.filter(({ backend }) => backend.state === 'ready');
    const ofNode = ready.filter(({ endpoint }) => hinted(endpoint, 'forNodes', place.node));
    const ofZone = ready.filter(({ endpoint }) => hinted(endpoint, 'forZones', place.zone));
    const has = (kind: 'forNodes' | 'forZones'): boolean =>
      ready.every(({ endpoint }) => (endpoint.hints?.[kind] ?? []).length > 0);
    const near = local ? ready.filter(isHere) : has('forNodes') && ofNode.length > 0 ? ofNode
      : has('forZones') && ofZone.length > 0 ? ofZone : ready;
    return counted.map((one): Backend => {
      const backend = isHere(one) ? { ...one.backend, local: true } : one.backend;
      if (backend.state === 'ready') {
        return near.includes(one) ? backend : { ...backend, state: 'distant' };
      }
      return local && !isHere(one) ? { ...backend, state: 'unready' } : backend;
    });
  });
}

function rank({ backend }: { backend: Backend }): number {
  return RANKS.indexOf(backend.state);
}

function nodeOf({ nodeName, topology }: EndpointObject): string | undefined {
  return nodeName ?? topology?.['kubernetes.io/hostname'];
}

function hinted(
  { hints }: EndpointObject, kind: 'forNodes' | 'forZones', name: string,
): boolean {
  return (hints?.[kind] ?? []).some((hint) => hint.name === name);
}

function stateOf({ conditions = {} }: EndpointObject): Backend['state'] {
  const ready = conditions.ready ?? true;
  const serving = conditions.serving ?? ready;
  if (ready) return 'ready';
  return serving && conditions.terminating === true ? 'draining' : 'unready';
}

/** A Service whose backends stand in one order, whatever theirs was. */
export function inOrder(service: Service): Service {
  const text = ({ address, port }: Backend): string => `${address} ${port}`;
  return {
    ...service,
    ports: service.ports.map((port) => ({
      ...port,
      backends: [...port.backends].sort((a, b) => (text(a) < text(b) ? -1 : 1)),
    })),
  };
}
