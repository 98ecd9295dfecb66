// Culvert itself, as users start it: `culvert run` and `culvert sync` with a file of Kubernetes
// objects on each node, a pod on a TUN on each, at one tier of the data path.

import { readFileSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as v from 'valibot';
import { connectionOver } from '../../engine/connection.ts';
import { StatusReportSchema } from '../../engine/model.ts';
import { CONTROL_SOCKET } from '../../host/main.ts';
import { TIERS, type TierName } from '../../host/tier.ts';
import { Bed, UNDERLAY_DEVICE, type BedNode, type Place } from './bed.ts';
import { podAddress, podCidr, POD_NETWORK, SERVICE_ADDRESS, VXLAN_POD_MTU, withBed, type Contender,
  type Recipe, type Site } from './contender.ts';
import { GarbageTrace } from './garbage.ts';
import { IPERF3_PORT } from './measure.ts';
import { sleep, type Program } from './program.ts';

const PACKAGE_FOLDER = fileURLToPath(new URL('../../..', import.meta.url));
const CLI = join(PACKAGE_FOLDER, 'dist', 'cli', 'culvert.js');
const READY_LINE = '"msg":"ready"';
const SYNC_LINE = 'sync starts';
const POD_NAMESPACE = 'bench';
const KNOWN_TIMEOUT_MS = 10_000;

/** A node's daemon, with what asks it. */
export interface Daemon {
  program: Program;
  trace: GarbageTrace;
  folder: string;
}

/** Kubernetes objects as an API server gives them: a node, with what flannel writes on it. */
export function nodeObject({ number, address }: BedNode): object {
  return {
    apiVersion: 'v1', kind: 'Node',
    metadata: {
      name: nodeName(number),
      annotations: {
        'flannel.alpha.coreos.com/kube-subnet-manager': 'true',
        'flannel.alpha.coreos.com/backend-type': 'vxlan',
        'flannel.alpha.coreos.com/backend-data':
          JSON.stringify({ VNI: 1, VtepMAC: `02:c0:00:00:00:0${number}` }),
        'flannel.alpha.coreos.com/public-ip': address,
      },
    },
    spec: { podCIDR: podCidr(number), podCIDRs: [podCidr(number)] },
    status: { addresses: [{ type: 'InternalIP', address }] },
  };
}

function podObject(number: number, pod: number): object {
  const podIP = podAddress(number, pod);
  return {
    apiVersion: 'v1', kind: 'Pod',
    metadata: { name: podName(number, pod), namespace: POD_NAMESPACE, uid: podUid(number, pod) },
    spec: { nodeName: nodeName(number) },
    status: { phase: 'Running', podIP, podIPs: [{ ip: podIP }] },
  };
}

/** A Service with one pod behind it, at the port that iperf3 has. */
function serviceObjects(number: number, pod: number): object[] {
  const metadata = { name: 'iperf3', namespace: POD_NAMESPACE };
  const ports = [{ protocol: 'TCP', port: IPERF3_PORT }];
  return [
    { apiVersion: 'v1', kind: 'Service', metadata, spec: { clusterIP: SERVICE_ADDRESS, ports } },
    {
      apiVersion: 'discovery.k8s.io/v1', kind: 'EndpointSlice', addressType: 'IPv4', ports,
      metadata: { ...metadata, labels: { 'kubernetes.io/service-name': metadata.name } },
      endpoints: [{
        addresses: [podAddress(number, pod)], nodeName: nodeName(number),
        conditions: { ready: true },
      }],
    },
  ];
}

export const nodeName = (number: number): string => `node-${number}`;
const podName = (number: number, pod: number): string => `pod-${number}-${pod}`;
const podUid = (number: number, pod: number): string => `uid-${number}-${pod}`;

/** Starts the daemon of a node, which knows of no others yet. */
export async function startDaemon(
  bed: Bed, node: BedNode, tier: TierName | 'auto', folder = bed.makeFolder(), flags: string[] = [],
): Promise<Daemon> {
  const trace = new GarbageTrace();
  const program = await bed.start(node, [
    process.execPath, '--trace-gc', CLI, 'run', '--stop-on-stdin-end',
    '--node-name', nodeName(node.number), '--underlay-interface', UNDERLAY_DEVICE,
    '--pod-networks', POD_NETWORK, '--runtime-directory', folder, '--data-plane-tier', tier,
    ...flags,
  ], READY_LINE, (text) => trace.read(text));
  return { program, trace, folder };
}

/** Waits until a daemon knows of the cluster. */
export async function untilTold({ folder }: Daemon): Promise<void> {
  const deadline = performance.now() + KNOWN_TIMEOUT_MS;
  for (;;) {
    const { sync, nodes } = await ask(folder, 'status', null, StatusReportSchema);
    if (sync.revision !== null && nodes > 1) return;
    if (performance.now() > deadline) throw new Error('the daemon was told nothing');
    await sleep(20);
  }
}

/** Starts daemon and sidecar of a node and waits until the objects are in force. */
export async function startNode(
  bed: Bed, node: BedNode, tier: TierName | 'auto', objects: string, folder = bed.makeFolder(),
): Promise<Daemon> {
  const daemon = await startDaemon(bed, node, tier, folder);
  await bed.start(node, [
    process.execPath, CLI, 'sync', '--stop-on-stdin-end', '--source', `file:${objects}`,
    '--node-name', nodeName(node.number), '--runtime-directory', folder,
  ], SYNC_LINE);
  await untilTold(daemon);
  return daemon;
}

/** The version of programs that speak with each other. */
export function packageVersion(): string {
  return v.parse(v.object({ version: v.string() }),
    JSON.parse(readFileSync(join(PACKAGE_FOLDER, 'package.json'), 'utf8'))).version;
}

/** Asks a daemon over its control socket. */
async function ask<S extends v.GenericSchema>(
  folder: string, method: string, params: unknown, answer: S,
): Promise<v.InferOutput<S>> {
  const version = packageVersion();
  const socket = connect(join(folder, CONTROL_SOCKET));
  const connection = connectionOver(socket, { version, role: 'cli' });
  try {
    await connection.opened;
    return await connection.request(method, params, answer);
  } finally {
    connection.close();
  }
}

/** Attaches a pod in a namespace of its own, by a TUN. */
export async function addPod(
  bed: Bed, daemon: Daemon, node: BedNode, pod: number, cores: string, mtu = VXLAN_POD_MTU,
): Promise<Place> {
  const place = bed.addPlace(cores);
  await ask(daemon.folder, 'endpoint.add', {
    namespace: POD_NAMESPACE, name: podName(node.number, pod), uid: podUid(node.number, pod),
    addresses: [podAddress(node.number, pod)], device: 'tun', interfaceName: 'eth0',
    mtu, netns: place.namespace.path,
  }, v.unknown());
  return place;
}

function writeObjects(bed: Bed, pods: [number, number][], others: object[] = []): string {
  const file = join(bed.makeFolder(), 'cluster.json');
  const items = [...bed.nodes.map(nodeObject), ...pods.map((pod) => podObject(...pod)), ...others];
  writeFileSync(file, JSON.stringify({ apiVersion: 'v1', kind: 'List', items }));
  return file;
}

const POD = 10;
const SECOND_POD = 11;

/** Two nodes with a pod each. At T3 the kernel cuts, so it has to finish the checksums: the other
 * node's GRO joins no datagrams whose inner checksums are unfinished. */
async function twoNodes(site: Site, tier: TierName): Promise<Contender> {
  const { cores, stop } = site;
  const bed = await Bed.create({ cores, link: 'wire', txChecksum: tier !== 'T3', stop });
  return withBed(bed, async () => {
    const objects = writeObjects(bed, bed.nodes.map(({ number }) => [number, POD]),
      serviceObjects(bed.far.number, POD));
    const daemons: Daemon[] = [];
    const pods: Place[] = [];
    for (const node of bed.nodes) {
      const daemon = await startNode(bed, node, tier, objects);
      daemons.push(daemon);
      pods.push(await addPod(bed, daemon, node, POD, node.cores));
    }
    const [near, far] = pods as [Place, Place];
    return {
      near, far, target: podAddress(bed.far.number, POD), service: SERVICE_ADDRESS,
      daemons: daemons.map(({ program }) => program),
      traces: daemons.map(({ trace }) => trace),
    };
  });
}

/** One node with two pods. The node has both processors, each pod one of them. */
async function oneNode(site: Site, tier: TierName): Promise<Contender> {
  const { bothCores, cores, stop } = site;
  const bed = await Bed.create({
    cores: [bothCores, bothCores], link: 'plain', txChecksum: true, stop,
  });
  return withBed(bed, async () => {
    const { number } = bed.near;
    const objects = writeObjects(bed, [[number, POD], [number, SECOND_POD]]);
    const daemon = await startNode(bed, bed.near, tier, objects);
    return {
      near: await addPod(bed, daemon, bed.near, POD, cores[0]),
      far: await addPod(bed, daemon, bed.near, SECOND_POD, cores[1]),
      target: podAddress(number, SECOND_POD),
      daemons: [daemon.program], traces: [daemon.trace],
    };
  });
}

/** Culvert between nodes, one contender for each tier. */
export const CULVERTS: readonly Recipe[] = TIERS.map((tier): Recipe =>
  ({ name: tier, make: (site) => twoNodes(site, tier) }));

/** Culvert within a node, at the best of the tiers that it can have. */
export const SAME_NODE: Recipe = {
  name: 'sameNode',
  make: async (site) => {
    let failure: unknown;
    for (const tier of ['T2', 'T1', 'T0'] as const) {
      try {
        return await oneNode(site, tier);
      } catch (error) {
        site.stop.throwIfAborted();
        failure ??= error;
      }
    }
    throw failure;
  },
};
