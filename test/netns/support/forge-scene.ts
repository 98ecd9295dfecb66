// Nodes that run Culvert with sidecars and pods, for tests that hurt them: what a test needs to
// break a part and to see whether the rest goes on.

import { spawnSync } from 'node:child_process';
import { readFileSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { Bed, type Daemon, type Host } from '../../../cli/demo/bed.ts';
import { CulvertNode, type CulvertNodeOptions } from '../../../cli/demo/culvert-node.ts';
import { PACKAGE_FOLDER } from '../../../cli/version.ts';
import type { ClusterNode, StatusReport } from '../../../engine/model.ts';
import {
  POD_NETWORKS, clusterNode, nodeAddress, podAddresses, podName, writeCluster,
} from './forge-cluster.ts';
import { PATIENCE_MS, until } from '../../support/until.ts';

/** The command, for another process to run. */
export const CLI = join(PACKAGE_FOLDER, 'dist', 'cli', 'culvert.js');
const BRIEF_MS = 400;

/** A bed whose files go with the process, however that ends. */
export async function openBed(): Promise<Bed> {
  const bed = await Bed.create();
  process.once('exit', () => rmSync(bed.folder, { recursive: true, force: true }));
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => process.exit(1));
  }
  return bed;
}

/** A pod, with the number that its addresses end with. */
export interface Pod {
  host: Host;
  name: string;
  addresses: string[];
}

/** Node `n` of the cluster of forge-cluster.ts with a file of objects of its own. */
export class Place {
  readonly bed: Bed;
  readonly n: number;
  readonly source: string;
  readonly culvert: CulvertNode;

  private constructor(bed: Bed, n: number, culvert: CulvertNode, source: string) {
    this.bed = bed;
    this.n = n;
    this.culvert = culvert;
    this.source = source;
  }

  /** Makes a node; nothing runs on it yet. `extra` are flags of `culvert run`. */
  static async add(
    bed: Bed, n: number, nodes: number[], extra: string[] = [],
    launch: CulvertNodeOptions['launch'] = () => ({ words: [], descriptors: [] }),
  ): Promise<Place> {
    const name = `node-${n}`;
    const node = await bed.addNode(name, {
      ipv4: nodeAddress(n, 'IPv4'), ipv6: nodeAddress(n, 'IPv6'),
    });
    const source = join(bed.folder, `${name}.yaml`);
    const culvert = new CulvertNode(bed, node, {
      name, source, podNetworks: POD_NETWORKS, extra, launch,
    });
    const place = new Place(bed, n, culvert, source);
    place.write(nodes.map(clusterNode));
    return place;
  }

  get host(): Host {
    return this.culvert.node.host;
  }

  get daemon(): Daemon {
    if (this.culvert.daemon === null) throw new Error('no daemon was started');
    return this.culvert.daemon;
  }

  get sidecar(): Daemon {
    if (this.culvert.sidecar === null) throw new Error('no sidecar was started');
    return this.culvert.sidecar;
  }

  /** Writes what the sidecar reads. Returns the text. */
  write(nodes: ClusterNode[], others: object[] = []): string {
    return writeCluster(this.source, nodes, others);
  }

  /** Attaches pod number `pod`, in a namespace of its own unless one is given. */
  async addPod(pod: number, mtu?: number, host?: Host): Promise<Pod> {
    const name = podName(this.n, pod);
    const addresses = podAddresses(this.n, pod);
    const endpoint = { namespace: 'test', name, device: 'tun', addresses } as const;
    return { host: await this.culvert.addPod(endpoint, mtu, host), name, addresses };
  }
}

/** Waits for an answer to a ping. */
export async function mustReach(from: Host, addresses: string[]): Promise<void> {
  for (const address of addresses) {
    const { ok, detail } = await from.agent.ask({
      verb: 'ping', address, size: 56, timeoutMs: PATIENCE_MS,
    });
    if (!ok) throw new Error(`${from.name} does not reach ${address}: ${detail}`);
  }
}

/** True where a ping is answered soon. */
export async function reaches(from: Host, address: string): Promise<boolean> {
  const { ok } = await from.agent.ask({ verb: 'ping', address, size: 56, timeoutMs: BRIEF_MS });
  return ok;
}

/** Ends a child process by a signal. Resolves with its exit code, null where it had none. */
export async function kill(daemon: Daemon, signal: NodeJS.Signals): Promise<number | null> {
  const child = daemon.process;
  if (child.exitCode !== null || child.signalCode !== null) return child.exitCode;
  const exited = new Promise<number | null>((resolve) => child.once('exit', resolve));
  child.kill(signal);
  return exited;
}

/** Descriptors that a process has open. */
export function descriptorCount(daemon: Daemon): number {
  return readdirSync(`/proc/${daemon.process.pid}/fd`).length;
}

/** Descriptors that a process has open once those of closed connections are gone. */
export async function settledDescriptors(daemon: Daemon): Promise<number> {
  let last = -1;
  let equal = 0;
  await until('descriptors to settle', () => {
    const count = descriptorCount(daemon);
    equal = count === last ? equal + 1 : 0;
    last = count;
    return equal >= 20;
  });
  return last;
}

/** Waits until a process has as many descriptors as before. */
export async function descriptorsAre(daemon: Daemon, count: number): Promise<void> {
  await until(`${count} descriptors, there are ${descriptorCount(daemon)}`,
    () => descriptorCount(daemon) === count);
}

/** Processor time that a process has used, in clock ticks of 10 ms. */
export function processorTicks(daemon: Daemon): number {
  const text = readFileSync(`/proc/${daemon.process.pid}/stat`, 'utf8');
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return Number(fields[11]) + Number(fields[12]);
}

/** Memory that a process has in RAM, KiB. */
export function residentKib(daemon: Daemon): number {
  const status = readFileSync(`/proc/${daemon.process.pid}/status`, 'utf8');
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]);
}

/** The tables that packets do not change. */
export function settledTables({ tables }: StatusReport): StatusReport['tables'] {
  return tables.filter(({ name }) => name !== 'flows');
}

/** Lines of a log that came after `from` characters, and hold the text. */
export function logLines(daemon: Daemon, from: number, text = ''): string[] {
  return daemon.log().slice(from).split('\n').filter((line) => line !== '' && line.includes(text));
}

/** Runs `culvert` to its end in a host's namespace; `before` are words to put before it. */
export function runToEnd(
  { namespace }: Host, words: string[], before: string[] = [],
): { code: number | null; output: string } {
  const [program = '', ...rest] = [...before, process.execPath, CLI, ...words];
  const result = namespace.run(() => spawnSync(program, rest, {
    encoding: 'utf8', input: '', timeout: PATIENCE_MS,
  }));
  return { code: result.status, output: `${result.stdout}${result.stderr}` };
}

/** Names of a namespace's interfaces. */
export async function interfaceNames(host: Host): Promise<string[]> {
  return (await host.links.list()).map(({ name }) => name);
}
