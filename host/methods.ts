// What the command line and the CNI plugin may ask on control.sock.

import * as v from 'valibot';
import { NEXT_HOP_NODE } from '../wasm/abi/layout.ts';
import { addressFamily, hostPrefix } from '../engine/address.ts';
import { method, RequestError, type Methods } from '../engine/connection.ts';
import { readDrops, readEvents, readReceived, readTraffic } from '../engine/counters.ts';
import {
  EndpointNameSchema,
  EndpointSchema,
  PAGE_LIMIT,
  PageQuerySchema,
  RouteQuerySchema,
  ServiceNameSchema,
  type NodeFacts,
  type PeerReport,
  type StatusReport,
} from '../engine/model.ts';
import { TraceSchema } from '../engine/model-capture.ts';
import type { ControlCounters } from './control.ts';
import { defaultMacs } from './derived.ts';
import type { Host } from './main.ts';
import { moduleMethods } from './modules/methods.ts';
import { withoutSecrets } from './secrets.ts';
import { trace } from './trace.ts';

/** Services may have many ports: fewer of them fit a frame. */
const SERVICES_A_PAGE = 100;
const Nothing = v.nullable(v.strictObject({}));

/** The table of methods over a running host. */
export function controlMethods(host: Host): Methods {
  return {
    status: method(Nothing, () => status(host)),
    metrics: method(PageQuerySchema, async ({ from }) =>
      page((await host.metrics.text()).trimEnd().split('\n'), from)),
    'peer.list': method(PageQuerySchema, ({ from }) => page(peers(host), from)),
    'route.list': method(PageQuerySchema, ({ from }) => page(host.forwarding.routes(), from)),
    'route.get': method(RouteQuerySchema, ({ address }) => host.forwarding.lookUp(address)),
    'endpoint.list': method(PageQuerySchema, ({ from }) => page(host.endpoints.list(), from)),
    'policy.list': method(PageQuerySchema, ({ from }) => page(host.policy.tables.rules(), from)),
    'service.list': method(PageQuerySchema, ({ from }) =>
      page(host.services.list(), from, SERVICES_A_PAGE)),
    'service.get': method(ServiceNameSchema, (name) => host.services.get(name)),
    'verdict.recent': method(PageQuerySchema, ({ from }) => page(host.observer.recent(), from)),
    'verdict.follow': method(Nothing, (_, connection) => host.observer.follow(connection)),
    ...host.capture.methods(),
    trace: method(TraceSchema, (query) => trace(host, query)),
    config: method(Nothing, () => withoutSecrets(host.options.config)),
    restart: method(Nothing, () => restart(host)),
    ...host.attachments.methods(),
    ...moduleMethods(host.modules),
    'endpoint.add': method(EndpointSchema, (endpoint) =>
      explained('endpoint', () => host.endpoints.add(endpoint), host)),
    'endpoint.remove': method(EndpointNameSchema, ({ namespace, name }) =>
      explained('endpoint', () => host.endpoints.remove(namespace, name), host)),
  };
}

/** Has another daemon take over. Answers once that is certain to try. */
async function restart({ options }: Host): Promise<null> {
  try {
    await options.restart?.();
    return null;
  } catch (error) {
    throw new RequestError('restart', (error as Error).message);
  }
}

/** What both sockets have counted. */
function sum(first: ControlCounters, second: ControlCounters): Record<string, number> {
  return Object.fromEntries(Object.entries(first).map(([name, count]: [string, number]) =>
    [name, count + second[name as keyof ControlCounters]]));
}

function page<T>(
  list: T[], from: number, limit = PAGE_LIMIT,
): { entries: T[]; next: number | null } {
  const next = from + limit;
  return { entries: list.slice(from, next), next: next < list.length ? next : null };
}

/** What goes wrong with a request is the asker's to read, not a fault of the daemon. */
async function explained<T>(code: string, work: () => Promise<T>, host: Host): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw new RequestError(code, (error as Error).message);
  } finally {
    host.endpointsChanged();
  }
}

function peers(host: Host): PeerReport[] {
  return [...host.forwarding.peers.values()].map(({ node, families, tunnel, nextHop, mtu }) => {
    const { port, ...rest } = tunnel;
    return {
      ...rest,
      ...port === 0 ? {} : { port },
      node,
      podCidrs: (host.forwarding.nodes.get(node)?.podCidrs ?? [])
        .filter((prefix) => families.includes(addressFamily(prefix))),
      mtu,
      ...readTraffic(host.core, nextHop),
    };
  });
}

/** What the cluster may be told of this node. */
export function nodeFacts({ options, underlay, tierName }: Host): NodeFacts {
  const { config: { nodeName, podNetworks, underlay: { port } }, version } = options;
  const { mtu } = underlay;
  return {
    underlay: underlay.sockets.map(({ family, address }) => {
      const prefix = underlay.prefixes[family] ?? hostPrefix(address);
      return { family, address, prefix, mtu };
    }),
    podNetworks,
    port,
    tier: tierName,
    mac: defaultMacs(nodeName),
    version,
  };
}

/** How the daemon is. */
export function status(host: Host): StatusReport {
  const { config, version } = host.options;
  return {
    version,
    nodeName: config.nodeName,
    pid: process.pid,
    uptimeSeconds: Math.floor((performance.now() - host.startedMs) / 1000),
    device: {
      name: config.device.name,
      mtu: host.nodeDevice.options.mtu,
      addresses: host.nodeDevice.addresses,
      state: host.isNodeDeviceLost ? 'lost' : 'ready',
    },
    underlay: {
      interface: host.underlay.interface,
      addresses: Object.values(host.underlay.addresses),
      port: config.underlay.port,
      mtu: host.underlay.mtu,
    },
    dataPlane: {
      running: host.dataPlane.isRunning,
      tier: host.tierName,
      crashes: host.dataPlane.crashes,
      memoryBytes: host.core.bytes.length,
      workers: host.dataPlane.workers.map(({ isRunning, crashes }, worker) => ({
        running: isRunning, crashes, ...readReceived(host.core, worker),
      })),
    },
    handover: { keeper: host.handover.keeper, ...host.recovered },
    sync: {
      connected: host.intake.isConnected,
      revision: host.intake.revision,
      problems: [
        ...host.intake.health?.problems ?? [], ...host.problems(),
        ...host.ipam.problems(), ...host.lastKnown.problems(),
        ...host.nodePorts.problems(),
      ],
      source: host.intake.health?.source ?? null,
      staleSince: host.freshness.staleSince,
    },
    policy: {
      known: host.policy.isKnown,
      endpoints: host.policy.tables.endpoints().length,
      ruleSets: host.policy.tables.ruleSetCount,
    },
    nodes: host.forwarding.nodes.size,
    pods: host.pods,
    endpoints: host.endpoints.count,
    traffic: { node: readTraffic(host.core, NEXT_HOP_NODE) },
    drops: {
      outbound: readDrops(host.core, 'outbound'),
      inbound: readDrops(host.core, 'inbound'),
    },
    events: readEvents(host.core),
    nodePorts: host.nodePorts.counters(),
    modules: host.modules.states(),
    control: sum(host.control.counters, host.sync.counters),
    tables: [
      ...host.forwarding.tables(), ...host.policy.tables.tables(), ...host.services.tables.tables(),
      host.ipam.table(), ...host.nodePorts.tables(),
    ],
  };
}
