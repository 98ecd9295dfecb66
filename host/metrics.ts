// What the daemon counts, as metrics for Prometheus: docs/OPERATE.md has the list. All of it is
// read when somebody asks. Labels that the cluster chooses are bounded: beyond METRIC_LIMIT peers,
// and as many Services, the rest is summed up under the name OTHER.

import { NEXT_HOP_NODE, NEXT_HOP_OUTSIDE } from '../wasm/abi/layout.ts';
import { ABI_VERSION } from '../wasm/abi/version.ts';
import { readDropBytes, readTraffic, type Direction, type Traffic } from '../engine/counters.ts';
import { metricsText, single, type Metric, type Sample } from '../engine/exposition.ts';
import type { ModuleReport } from '../engine/model-modules.ts';
import type { ResourceCounts, ServiceSummary, StatusReport } from '../engine/model.ts';
import { workerTurns } from '../engine/tables/grace.ts';
import type { Host } from './main.ts';
import { status as statusOf } from './methods.ts';
import { processMetrics } from './metrics-process.ts';
import { Totals } from './metrics-totals.ts';

/** Peers, and Services, that have samples of their own. */
export const METRIC_LIMIT = 200;
export const OTHER = '(other)';

const DIRECTIONS: readonly Direction[] = ['outbound', 'inbound'];
/** Counters of the two sockets that are refusals, as reasons. */
const REFUSALS = ['overLimit', 'foreignUid', 'refused', 'badFrames', 'slow'];

/** Makes the metrics of one daemon. It remembers what peers have carried that are no more. */
export class HostMetrics {
  readonly #host: Host;
  readonly #totals = new Totals();

  constructor(host: Host) {
    this.#host = host;
  }

  /** Everything as it is now, in Prometheus's text format. */
  async text(): Promise<string> {
    return metricsText(await this.read());
  }

  /** Everything as it is now. */
  async read(): Promise<Metric[]> {
    const host = this.#host;
    const status = statusOf(host);
    const policies = new Set(host.policy.tables.rules().map(({ policy }) => policy));
    return [
      ...buildMetrics(status),
      ...this.#forwardMetrics(),
      ...dropMetrics(status, (direction) => readDropBytes(host.core, direction)),
      ...stateMetrics(status),
      ...policyMetrics(status, policies.size),
      ...tableMetrics(status),
      ...syncMetrics(status, Date.now()),
      ...sourceMetrics(host.intake.health?.resources ?? []),
      host.intake.applied.metric(
        'culvert_sync_apply_seconds', 'What the sidecar told, until it was in force.'),
      host.policy.compiled.metric(
        'culvert_policy_compile_seconds', 'Policy, until the core had it as tables.'),
      ...workerMetrics(status, workerTurns(host.core)),
      ...serviceMetrics(host.services.list()),
      ...moduleMetrics(await host.modules.list()),
      ...this.#peerMetrics(),
      ...processMetrics(),
    ];
  }

  /** Packets by the way they took. */
  #forwardMetrics(): Metric[] {
    const { core, forwarding, endpoints } = this.#host;
    const peers = [...forwarding.peers.values()];
    for (const { node, tunnel: { kind }, nextHop } of peers) {
      this.#totals.note(`${kind} ${node} ${nextHop}`, kind, readTraffic(core, nextHop));
    }
    for (const { namespace, name, uid, ...traffic } of endpoints.list()) {
      this.#totals.note(`pod ${namespace}/${name} ${uid}`, 'pod', traffic);
    }
    this.#totals.note('node', 'node', readTraffic(core, NEXT_HOP_NODE));
    this.#totals.note('outside', 'outside', readTraffic(core, NEXT_HOP_OUTSIDE));
    const sums = this.#totals.sums();
    const encaps = [...sums].filter(([group]) => !LOCAL_GROUPS.has(group));
    const locals = [...sums].filter(([group]) => LOCAL_GROUPS.has(group));
    return [
      counter('culvert_forward_packets_total', 'Packets sent to peers and taken from them.',
        forwarded(encaps, 'txPackets', 'rxPackets')),
      counter('culvert_forward_bytes_total', 'Bytes of them, without what tunnels add.',
        forwarded(encaps, 'txBytes', 'rxBytes')),
      counter('culvert_local_packets_total', 'Packets of pods, node and outside, and for them.',
        local(locals, 'txPackets', 'rxPackets')),
      counter('culvert_local_bytes_total', 'Bytes of them.', local(locals, 'txBytes', 'rxBytes')),
    ];
  }

  #peerMetrics(): Metric[] {
    const { core, forwarding } = this.#host;
    const peers = [...forwarding.peers.values()]
      .map(({ node, tunnel: { kind }, nextHop, mtu }) =>
        ({ node, kind, mtu, ...readTraffic(core, nextHop) }))
      .sort((a, b) => compare(a.node, b.node));
    const own = peers.slice(0, METRIC_LIMIT);
    const rest = peers.slice(METRIC_LIMIT);
    const samples = (field: keyof Traffic): Sample[] => [
      ...own.map(({ node, kind, ...peer }) =>
        ({ labels: { peer: node, encap: kind }, value: peer[field] })),
      ...rest.length === 0 ? [] : [{
        labels: { peer: OTHER, encap: OTHER },
        value: rest.reduce((sum, peer) => sum + peer[field], 0),
      }],
    ];
    return [
      single('gauge', 'culvert_peers', 'Tunnels to other nodes.', peers.length),
      counter('culvert_peer_tx_packets_total', 'Packets sent to a peer.', samples('txPackets')),
      counter('culvert_peer_tx_bytes_total', 'Bytes of them.', samples('txBytes')),
      counter('culvert_peer_rx_packets_total', 'Packets of a peer.', samples('rxPackets')),
      counter('culvert_peer_rx_bytes_total', 'Bytes of them.', samples('rxBytes')),
      counter('culvert_path_mtu_events_total', 'What came of probing the paths to peers.',
        named(this.#host.pathMtus.counts, 'event')),
      gauge('culvert_peer_mtu_bytes', 'Largest packet that a peer is sent.', own.map(
        ({ node, kind, mtu }) => ({ labels: { peer: node, encap: kind }, value: mtu }))),
    ];
  }
}

/** Events that are judgements, which have a metric of their own. */
const JUDGED = /(Allowed|Denied)$/;
const LOCAL_GROUPS = new Set(['pod', 'node', 'outside']);

type Sums = readonly (readonly [string, Traffic])[];

function forwarded(sums: Sums, tx: keyof Traffic, rx: keyof Traffic): Sample[] {
  return sums.flatMap(([encap, traffic]) => [
    { labels: { direction: 'outbound', encap }, value: traffic[tx] },
    { labels: { direction: 'inbound', encap }, value: traffic[rx] },
  ]);
}

function local(sums: Sums, tx: keyof Traffic, rx: keyof Traffic): Sample[] {
  return sums.flatMap(([end, traffic]) => [
    { labels: { end, direction: 'to' }, value: traffic[tx] },
    { labels: { end, direction: 'from' }, value: traffic[rx] },
  ]);
}

function buildMetrics({ version, nodeName, uptimeSeconds }: StatusReport): Metric[] {
  const labels = { version, node: nodeName, abi: String(ABI_VERSION), nodejs: process.version };
  return [
    single('gauge', 'culvert_build_info', 'What runs here; always 1.', 1, labels),
    single('gauge', 'culvert_uptime_seconds', 'Since the daemon was started.', uptimeSeconds),
  ];
}

function dropMetrics(
  { drops }: StatusReport, bytesOf: (direction: Direction) => Record<string, number>,
): Metric[] {
  const samples = (of: (direction: Direction) => Record<string, number>): Sample[] =>
    DIRECTIONS.flatMap((direction) => Object.entries(of(direction)).map(([reason, value]) =>
      ({ labels: { reason, direction }, value })));
  return [
    counter('culvert_drop_packets_total', 'Packets dropped, by reason.',
      samples((direction) => drops[direction])),
    counter('culvert_drop_bytes_total', 'Bytes of them.', samples(bytesOf)),
  ];
}

function stateMetrics({ device, dataPlane, endpoints, nodes, pods, ...rest }: StatusReport,
): Metric[] {
  const { events, control, nodePorts } = rest;
  return [
    single('gauge', 'culvert_device_up', 'Whether the node\'s own device is there.',
      device.state === 'ready' ? 1 : 0, { device: device.name }),
    single('gauge', 'culvert_device_mtu_bytes', 'Largest packet of pods.', device.mtu),
    single('gauge', 'culvert_data_plane_up', 'Whether every data worker runs.',
      dataPlane.running ? 1 : 0, { tier: dataPlane.tier }),
    single('gauge', 'culvert_memory_bytes', 'Linear memory of the core, its limit.',
      dataPlane.memoryBytes),
    single('gauge', 'culvert_local_endpoints', 'Pods attached to this node.', endpoints),
    single('gauge', 'culvert_local_pods', 'Pods that the cluster has on this node.', pods),
    single('gauge', 'culvert_nodes', 'Nodes of the cluster, this one included.', nodes),
    counter('culvert_events_total', 'What the core did beside forwarding and dropping.',
      named(events, 'event').filter(({ labels }) => !JUDGED.test(labels?.['event'] ?? ''))),
    counter('culvert_control_connections_total', 'Connections to the daemon\'s sockets.',
      named({ accepted: control['accepted'] ?? 0, opened: control['opened'] ?? 0 }, 'state')),
    counter('culvert_control_refusals_total', 'Connections that were ended, by reason.',
      named(Object.fromEntries(REFUSALS.map((name) => [name, control[name] ?? 0])), 'reason')),
    counter('culvert_node_port_events_total', 'What the proxy of node ports has counted.',
      named(nodePorts, 'event')),
  ];
}

function policyMetrics({ policy, events }: StatusReport, policies: number): Metric[] {
  const verdicts = ['ingress', 'egress'].flatMap((direction) =>
    ['networkpolicy', 'module'].flatMap((source) => ['Allowed', 'Denied'].map((outcome) => {
      const start = source === 'module' ? `module${capital(direction)}` : direction;
      const verdict = outcome === 'Allowed' ? 'allow' : 'deny';
      return {
        labels: { verdict, direction, source }, value: events[`${start}${outcome}`] ?? 0,
      };
    })));
  return [
    counter('culvert_policy_verdicts_total',
      'Flows judged; what no policy is about counts as allowed by networkpolicy.', verdicts),
    single('gauge', 'culvert_policies', 'Policies in force here.', policies),
    single('gauge', 'culvert_policy_rule_sets', 'Rule sets in force here.', policy.ruleSets),
    single('gauge', 'culvert_policy_endpoints', 'Pods whose policy is known.', policy.endpoints),
    single('gauge', 'culvert_policy_known', 'Whether a sidecar has told policy.',
      policy.known ? 1 : 0),
  ];
}

/** How full the tables are. Two have names of their own, which users look for. */
function tableMetrics({ tables }: StatusReport): Metric[] {
  const samples = (field: 'used' | 'limit'): Sample[] =>
    tables.map(({ name, ...table }) => ({ labels: { table: name }, value: table[field] }));
  const flows = tables.find(({ name }) => name === 'flows');
  return [
    gauge('culvert_table_entries', 'Entries in use of each table.', samples('used')),
    gauge('culvert_table_limit', 'Most entries that it can have.', samples('limit')),
    ...flows === undefined ? []
      : [single('gauge', 'culvert_flow_table_entries', 'Connections known.', flows.used)],
    gauge('culvert_route_table_entries', 'Routes, by table.',
      samples('used').filter(({ labels }) => labels?.['table']?.endsWith('routes') === true)),
  ];
}

function syncMetrics({ sync }: StatusReport, nowMs: number): Metric[] {
  const lagMs = sync.staleSince === null ? 0 : Math.max(0, nowMs - Date.parse(sync.staleSince));
  return [
    single('gauge', 'culvert_sync_connected', 'Whether a sidecar is connected.',
      sync.connected ? 1 : 0),
    single('gauge', 'culvert_sync_last_revision', 'Revision in force.', sync.revision ?? 0),
    single('gauge', 'culvert_sync_lag_seconds', 'How long nobody has vouched for the state.',
      lagMs / 1000),
    single('gauge', 'culvert_sync_problems', 'What is not as the cluster says.',
      sync.problems.length),
  ];
}

/** What the sidecar counts of the API server's resources. */
function sourceMetrics(resources: readonly ResourceCounts[]): Metric[] {
  const events = ['added', 'modified', 'deleted'] as const;
  return [
    counter('culvert_sync_relists_total', 'Lists of a resource after the first one.',
      resources.map(({ resource, relists }) => ({ labels: { resource }, value: relists }))),
    counter('culvert_watch_events_total', 'Changes heard of, and objects listed.',
      resources.flatMap(({ resource, ...counts }) => events.map((type) =>
        ({ labels: { resource, type }, value: counts[type] })))),
  ];
}

function workerMetrics(
  { dataPlane: { workers } }: StatusReport, turns: readonly number[],
): Metric[] {
  const samples = (value: (worker: StatusReport['dataPlane']['workers'][number]) => number,
  ): Sample[] => workers.map((worker, number) =>
    ({ labels: { worker: String(number) }, value: value(worker) }));
  return [
    gauge('culvert_worker_up', 'Whether a data worker runs.',
      samples(({ running }) => (running ? 1 : 0))),
    counter('culvert_worker_crashes_total', 'Times that it died.', samples((one) => one.crashes)),
    counter('culvert_worker_turns_total', 'Batches, empty ones too.',
      // The clock moves at the beginning of a turn and at its end.
      turns.map((clock, worker) => ({ labels: { worker: String(worker) }, value: clock >>> 1 }))),
    counter('culvert_worker_rx_packets_total', 'Packets taken.', samples((one) => one.rxPackets)),
    counter('culvert_worker_rx_bytes_total', 'Bytes of them.', samples((one) => one.rxBytes)),
  ];
}

interface ServiceFigures { opened: number; refused: number; ready: number; backends: number }

function serviceMetrics(services: readonly ServiceSummary[]): Metric[] {
  const figures = services.map((service) => ({
    ...service,
    ready: service.ports.reduce((sum, { ready }) => sum + ready, 0),
    backends: service.ports.reduce((sum, { backends }) => sum + backends, 0),
  }));
  const rest = figures.slice(METRIC_LIMIT);
  const samples = (field: keyof ServiceFigures): Sample[] => [
    ...figures.slice(0, METRIC_LIMIT).map(({ namespace, name: service, ...own }) =>
      ({ labels: { namespace, service }, value: own[field] })),
    ...rest.length === 0 ? [] : [{
      labels: { namespace: OTHER, service: OTHER },
      value: rest.reduce((sum, own) => sum + own[field], 0),
    }],
  ];
  return [
    single('gauge', 'culvert_services', 'Services in force.', services.length),
    counter('culvert_service_flows_total', 'Connections that got a backend.', samples('opened')),
    counter('culvert_service_refusals_total', 'Packets that found none.', samples('refused')),
    gauge('culvert_service_endpoints', 'Backends, once for each port.', samples('backends')),
    gauge('culvert_service_ready_endpoints', 'Those that are ready.', samples('ready')),
  ];
}

function moduleMetrics(modules: readonly ModuleReport[]): Metric[] {
  const each = (name: 'evaluations' | 'faults', label: string): Sample[] =>
    modules.flatMap((module) => Object.entries(module[name]).map(([kind, value]) =>
      ({ labels: { module: module.name, [label]: kind }, value })));
  return [
    counter('culvert_module_evaluations_total', 'What a module has said.',
      each('evaluations', 'verdict')),
    counter('culvert_module_faults_total', 'How it has failed.', each('faults', 'kind')),
    gauge('culvert_module_up', 'Whether it is asked.', modules.map(({ name, state }) =>
      ({ labels: { module: name }, value: state === 'enabled' ? 1 : 0 }))),
    gauge('culvert_module_memory_bytes', 'Its memory.', modules.map(({ name, memoryBytes }) =>
      ({ labels: { module: name }, value: memoryBytes }))),
  ];
}

function counter(name: string, help: string, samples: Sample[]): Metric {
  return { name, help, type: 'counter', samples };
}

function gauge(name: string, help: string, samples: Sample[]): Metric {
  return { name, help, type: 'gauge', samples };
}

function named(values: Readonly<Record<string, number>>, label: string): Sample[] {
  return Object.entries(values).map(([name, value]) => ({ labels: { [label]: name }, value }));
}

function capital(word: string): string {
  return `${word.charAt(0).toUpperCase()}${word.slice(1)}`;
}

function compare(one: string, other: string): number {
  if (one === other) return 0;
  return one < other ? -1 : 1;
}
