// The verbs that show a running daemon: status, peer list, route list|get, endpoint list.

import * as v from 'valibot';
import {
  EndpointReportSchema,
  PeerReportSchema,
  RouteReportSchema,
  StatusReportSchema,
  type LossReason,
  type StatusReport,
} from '../engine/model.ts';
import { isAddress } from '../engine/address.ts';
import { ask, askAll } from './client.ts';
import { CommandError, EXIT_FAILED, EXIT_USAGE } from './exit.ts';
import { bytesText, print, type OutputFormat } from './table.ts';

export interface ShowOptions {
  runtimeDirectory: string;
  output: OutputFormat;
}

export async function showStatus({ runtimeDirectory, output }: ShowOptions): Promise<void> {
  const status = await ask(runtimeDirectory, 'status', null, StatusReportSchema);
  print(output, status, [], () => statusRows(status));
}

export async function showPeers({ runtimeDirectory, output }: ShowOptions): Promise<void> {
  const peers = await askAll(runtimeDirectory, 'peer.list', PeerReportSchema);
  const headers = ['NODE', 'ENDPOINT', 'ENCAP', 'VNI', 'MAC', 'PODCIDR', 'MTU', 'RX', 'TX'];
  print(output, peers, headers, () => peers.map((peer) => [
    peer.node,
    endpointText(peer),
    peer.kind,
    String(peer.vni ?? '-'),
    peer.mac ?? '-',
    peer.podCidrs.join(',') || '-',
    String(peer.mtu),
    bytesText(peer.rxBytes),
    bytesText(peer.txBytes),
  ]));
}

/** Where a peer's packets go; without a port where its kind has none. */
function endpointText({ remote, port }: { remote: string; port?: number }): string {
  if (port === undefined) return remote;
  return remote.includes(':') ? `[${remote}]:${port}` : `${remote}:${port}`;
}

export async function showRoutes({ runtimeDirectory, output }: ShowOptions): Promise<void> {
  const routes = await askAll(runtimeDirectory, 'route.list', RouteReportSchema);
  print(output, routes, ['PREFIX', 'KIND', 'VIA'], () =>
    routes.map(({ prefix, kind, via }) => [prefix, kind, via ?? '-']));
}

export async function showRoute(address: string, options: ShowOptions): Promise<void> {
  if (!isAddress(address)) {
    throw new CommandError(EXIT_USAGE, `route get: ${address} is not an IP address`);
  }
  const answer = v.nullable(RouteReportSchema);
  const route = await ask(options.runtimeDirectory, 'route.get', { address }, answer);
  if (route === null) throw new CommandError(EXIT_FAILED, `route get: no route to ${address}`);
  print(options.output, { address, ...route }, ['ADDRESS', 'PREFIX', 'KIND', 'VIA'], () =>
    [[address, route.prefix, route.kind, route.via ?? '-']]);
}

export async function showEndpoints({ runtimeDirectory, output }: ShowOptions): Promise<void> {
  const endpoints = await askAll(runtimeDirectory, 'endpoint.list', EndpointReportSchema);
  const headers = ['NAMESPACE', 'NAME', 'DEVICE', 'KIND', 'ADDRESSES', 'STATE', 'RX', 'TX'];
  print(output, endpoints, headers, () => endpoints.map((endpoint) => [
    endpoint.namespace,
    endpoint.name,
    endpoint.device,
    endpoint.kind,
    endpoint.addresses.join(','),
    endpoint.state,
    bytesText(endpoint.rxBytes),
    bytesText(endpoint.txBytes),
  ]));
}

function statusRows(status: StatusReport): string[][] {
  const { device, underlay, dataPlane, handover, sync, policy, modules } = status;
  const revision = sync.revision === null ? 'no snapshot yet' : `revision ${sync.revision}`;
  const cluster = `${revision}, ${status.nodes} nodes, ${status.pods} pods here`;
  const state = (isGood: boolean): string => (isGood ? 'Ok' : 'Degraded');
  const rows = [
    ['Node:', 'Ok', `${status.nodeName}, culvert ${status.version}, pid ${status.pid}, `
      + `up ${status.uptimeSeconds} s`],
    ['Device:', state(device.state === 'ready'),
      [device.name, `mtu ${device.mtu}`, ...device.addresses].join(', ')],
    ['Underlay:', 'Ok', [underlay.interface, ...underlay.addresses, `vxlan udp/${underlay.port}`,
      `mtu ${underlay.mtu}`].filter(Boolean).join(', ')],
    ['Sync:', state(sync.connected && sync.staleSince === null && sync.problems.length === 0),
      [
        ...sync.staleSince === null ? [] : [`stale since ${sync.staleSince}`],
        ...sync.connected ? [] : ['no sidecar connected'],
        cluster,
      ].join('; ')],
    ['Policy:', policy.known ? 'Ok' : 'Note', policy.known
      ? `known for ${policy.endpoints} pods, ${policy.ruleSets} rule sets`
      : 'not known yet'],
    ...modules.map(({ name, state: own, reason }) => ['Module:', state(own === 'enabled'),
      reason === null ? `${name}, ${own}` : `${name}, ${own}: ${reason}`]),
    ['Engine:', state(dataPlane.running), `tier ${dataPlane.tier}, ${status.endpoints} endpoints, `
      + `${bytesText(dataPlane.memoryBytes)} memory, ${dataPlane.crashes} worker crashes`],
    ...dataPlane.workers.map((worker, number) => ['Worker:', state(worker.running),
      `${number}, ${worker.rxPackets} packets taken, ${bytesText(worker.rxBytes)}`]),
    ['Handover:', handover.keeper === 'none' ? 'Note' : 'Ok', handoverText(handover)],
    ...sync.problems.map((problem) => ['Problem:', '', problem]),
  ];
  for (const direction of ['outbound', 'inbound'] as const) {
    const drops = Object.entries(status.drops[direction]).filter(([, count]) => count > 0)
      .map(([reason, count]) => `${reason} ${count}`);
    rows.push(['Drops:', direction, drops.join(', ') || 'none']);
  }
  rows.push(['Outside:', 'Note',
    'pods reach beyond the cluster only where the node masquerades for them']);
  return rows;
}

const LOSS_TEXT: Record<LossReason, string> = {
  ended: 'they ended while no daemon ran',
  workers: 'they are of another number of data workers',
  tier: 'they are of tier T0 and this one is not, or the other way round',
};

/** Who keeps devices and connections if this daemon is killed, and what the last one left. */
function handoverText(
  { keeper, flows, pods, lostPods, lostBecause }: StatusReport['handover'],
): string {
  const kept = keeper === 'none' ? 'nobody: a crash ends the pods\' devices' : `kept by ${keeper}`;
  const left = flows === null && pods === 0 && lostPods === 0
    ? 'nothing was left by an earlier daemon'
    : `left by an earlier daemon: ${pods} pods, ${flows ?? 'no'} connections`;
  if (lostPods === 0) return `${kept}; ${left}`;
  const why = lostBecause.map((reason) => LOSS_TEXT[reason]).join(', ');
  return `${kept}; ${left}; ${lostPods} pods lost their devices (${why}): delete them, `
    + 'so that others take their places';
}
