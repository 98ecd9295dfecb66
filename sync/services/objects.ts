// Service and EndpointSlice: the fields that decide who answers at a Service's addresses.
//
// A Service has its cluster addresses here; headless ones, those of type ExternalName and those
// that another proxy serves have none. Types NodePort and LoadBalancer have node ports, too. An EndpointSlice belongs to the Service that its label
// names. Slices of discovery.k8s.io/v1beta1 say by a map of topology what those of v1 say by a
// field of their own.

import * as v from 'valibot';
import { addressFamily, isAddress } from '../../engine/address.ts';
import type { Family } from '../../engine/address.ts';
import {
  Address, LabelsSchema, Metadata, Name, Port, Protocol, labelValue, maybe,
} from '../fields.ts';
import type { Refuse } from '../fields.ts';
import { intern, internValue } from '../intern.ts';

/** The Service that a slice belongs to, and who serves a Service if not the node's own proxy. */
const SERVICE_NAME = 'kubernetes.io/service-name';
const OTHER_PROXY = 'service.kubernetes.io/service-proxy-name';
const HOSTNAME = 'kubernetes.io/hostname';
/** How backends are told of a node port's client. */
const PROXY_PROTOCOL = 'culvert.net/proxy-protocol';
const NODE_PORT_TYPES = ['NodePort', 'LoadBalancer'];
/** How long a client keeps its backend where the Service does not say: the API server's default. */
const AFFINITY_SECONDS = 10_800;

export type ServiceProtocol = 'TCP' | 'UDP' | 'SCTP';

export interface FrontPort {
  name: string;
  protocol: ServiceProtocol;
  port: number;
}

export interface ServedPort extends FrontPort {
  /** Absent for none. */
  nodePort?: number;
}

/** What is kept of a Service. */
export interface ServiceFacts {
  namespace: string;
  name: string;
  /** Cluster addresses; none where it is not for us to serve. */
  addresses: readonly string[];
  ports: readonly ServedPort[];
  affinitySeconds: number;
  /** Only backends of the client's own node count. */
  isLocal: boolean;
  /** Only backends of the node that was asked count for its node ports. */
  isExternalLocal: boolean;
  proxyProtocol: 'none' | 'v1' | 'v2';
  /** Backends count whether they are ready or not. */
  takesUnready: boolean;
}

/** What endpoints have in common with many others. */
export interface EndpointFacts {
  node: string;
  condition: 'ready' | 'draining' | 'unready';
  /** Zones and nodes that it is meant for; null where it does not say. */
  zones: readonly string[] | null;
  nodes: readonly string[] | null;
}

export interface SliceEndpoint {
  address: string;
  facts: EndpointFacts;
}

/** What is kept of an EndpointSlice. */
export interface SliceFacts {
  /** The Service as namespace/name; empty for none. */
  owner: string;
  family: Family;
  ports: readonly FrontPort[];
  endpoints: readonly SliceEndpoint[];
}

const ServicePortSchema = v.object({
  name: maybe(v.pipe(v.string(), v.maxLength(253))), protocol: maybe(Protocol), port: Port,
  nodePort: maybe(v.union([v.literal(0), Port], 'not between 1 and 65535')),
});

const ClusterAddress = v.union([v.picklist(['', 'None']), Address], 'not an IP address or None');

export const ServiceObjectSchema = v.object({
  metadata: v.object({
    ...Metadata, namespace: maybe(Name), labels: maybe(LabelsSchema),
    annotations: maybe(v.object({
      [PROXY_PROTOCOL]: maybe(v.picklist(['v1', 'v2'], 'not one of v1, v2')),
    })),
  }),
  spec: maybe(v.object({
    type: maybe(v.string()),
    clusterIP: maybe(ClusterAddress),
    clusterIPs: maybe(v.pipe(v.array(ClusterAddress), v.maxLength(2))),
    ports: maybe(v.array(ServicePortSchema)),
    sessionAffinity: maybe(v.string()),
    sessionAffinityConfig: maybe(v.object({
      clientIP: maybe(v.object({
        timeoutSeconds: maybe(v.pipe(
          v.number(), v.integer(), v.minValue(1), v.maxValue(86_400, 'more than a day'))),
      })),
    })),
    internalTrafficPolicy: maybe(v.string()),
    externalTrafficPolicy: maybe(v.string()),
    publishNotReadyAddresses: maybe(v.boolean()),
  })),
});

const Hints = maybe(v.array(v.object({ name: v.string() })));

const EndpointObjectSchema = v.object({
  addresses: maybe(v.array(v.string())),
  conditions: maybe(v.object({
    ready: maybe(v.boolean()), serving: maybe(v.boolean()), terminating: maybe(v.boolean()),
  })),
  nodeName: maybe(v.string()),
  topology: maybe(v.object({ [HOSTNAME]: maybe(v.string()) })),
  hints: maybe(v.object({ forZones: Hints, forNodes: Hints })),
});

export const SliceObjectSchema = v.object({
  metadata: v.object({ ...Metadata, namespace: maybe(Name), labels: maybe(LabelsSchema) }),
  addressType: v.picklist(['IPv4', 'IPv6', 'FQDN'], 'not one of IPv4, IPv6, FQDN'),
  endpoints: maybe(v.array(EndpointObjectSchema)),
  ports: maybe(v.array(v.object({
    name: maybe(v.string()), protocol: maybe(Protocol), port: maybe(Port),
  }))),
});

/** What is kept of a Service. */
export function readService(
  { metadata, spec = {} }: v.InferOutput<typeof ServiceObjectSchema>, refuse: Refuse,
): ServiceFacts {
  const { namespace = 'default', name, labels = [], annotations } = metadata;
  const { type = '', clusterIP = '', clusterIPs = [], ports = [] } = spec;
  const isOurs = type !== 'ExternalName' && labelValue(labels, OTHER_PROXY) === undefined;
  const given = clusterIPs.length > 0 ? clusterIPs : [clusterIP];
  const { clientIP } = spec.sessionAffinityConfig ?? {};
  const seconds = clientIP?.timeoutSeconds ?? AFFINITY_SECONDS;
  return {
    namespace: intern(namespace),
    name,
    addresses: isOurs ? [...new Set(given.filter((address) => isAddress(address)))] : [],
    ports: internValue(servedPorts(ports, NODE_PORT_TYPES.includes(type), refuse)),
    affinitySeconds: spec.sessionAffinity === 'ClientIP' ? seconds : 0,
    isLocal: spec.internalTrafficPolicy === 'Local',
    isExternalLocal: spec.externalTrafficPolicy === 'Local',
    proxyProtocol: annotations?.[PROXY_PROTOCOL] ?? 'none',
    takesUnready: spec.publishNotReadyAddresses === true,
  };
}

function servedPorts(
  ports: readonly v.InferOutput<typeof ServicePortSchema>[], hasNodePorts: boolean, refuse: Refuse,
): ServedPort[] {
  const seen = new Set<string>();
  const once = (kind: string, port: string, index: number): void => {
    const text = `${kind}${port}`;
    if (seen.has(text)) refuse(['spec', 'ports', index], `${text} stands there already`);
    seen.add(text);
  };
  return ports.map(({ name = '', protocol = 'TCP', port, nodePort = 0 }, index) => {
    once('', `${port}/${protocol}`, index);
    if (!hasNodePorts || nodePort === 0) return { name, protocol, port };
    once('node port ', `${nodePort}/${protocol}`, index);
    return { name, protocol, port, nodePort };
  });
}

/** What is kept of an EndpointSlice. */
export function readSlice(
  object: v.InferOutput<typeof SliceObjectSchema>, refuse: Refuse,
): SliceFacts {
  const { metadata: { namespace = 'default', labels = [] }, addressType, ports = [] } = object;
  const service = labelValue(labels, SERVICE_NAME) ?? '';
  const owner = service === '' ? '' : intern([namespace, service].join('/'));
  // Names are for others to resolve.
  if (addressType === 'FQDN') return { owner, family: 'IPv4', ports: [], endpoints: [] };
  const endpoints = (object.endpoints ?? []).flatMap((endpoint, index): SliceEndpoint[] => {
    // All addresses of an endpoint are the same one: the first will do.
    const [given] = endpoint.addresses ?? [];
    if (given === undefined) return [];
    const address = v.safeParse(Address, given);
    if (address.success && addressFamily(address.output) === addressType) {
      return [{ address: address.output, facts: internValue(endpointFacts(endpoint)) }];
    }
    refuse(['endpoints', index, 'addresses', 0], `not an ${addressType} address`);
    return [];
  });
  // A port without a number stands for all there are, which no front can have.
  const numbered = ports.flatMap(({ name = '', protocol = 'TCP', port }) =>
    (port === undefined ? [] : { name, protocol, port }));
  return { owner, family: addressType, ports: internValue(numbered), endpoints };
}

/** Who does not say whether it is ready, is. */
function endpointFacts(
  { conditions = {}, nodeName, topology, hints = {} }: v.InferOutput<typeof EndpointObjectSchema>,
): EndpointFacts {
  const { ready = true, serving = ready, terminating = false } = conditions;
  const unready = serving && terminating ? 'draining' : 'unready';
  return {
    node: nodeName ?? topology?.[HOSTNAME] ?? '',
    condition: ready ? 'ready' : unready,
    zones: hintNames(hints.forZones),
    nodes: hintNames(hints.forNodes),
  };
}

function hintNames(hints: readonly { name: string }[] = []): string[] | null {
  return hints.length === 0 ? null : hints.map(({ name }) => name);
}
