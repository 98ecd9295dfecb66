// A node that runs Culvert: the daemon and its sidecar as processes, pods by way of control.sock.

import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import * as v from 'valibot';
import { StatusReportSchema, type Endpoint, type StatusReport } from '../../engine/model.ts';
import { ask } from '../client.ts';
import { PACKAGE_FOLDER } from '../version.ts';
import type { Bed, Daemon, Host, LabNode } from './bed.ts';

const CLI = join(PACKAGE_FOLDER, 'dist', 'cli', 'culvert.js');
const WAIT_MS = 20;
const WAIT_LIMIT_MS = 60_000;

/** What tells one Culvert node from another. `extra` are further flags of `culvert run`. */
export interface CulvertNodeOptions {
  name: string;
  /** File or folder of Kubernetes objects. */
  source: string;
  podNetworks: string[];
  serviceNetworks?: string[];
  extra?: string[];
  /** Words before the daemon's command, and what it inherits: what a service manager would do. */
  launch?: () => { words: string[]; descriptors: number[] };
}

export class CulvertNode {
  readonly node: LabNode;
  readonly options: CulvertNodeOptions;
  readonly runtimeDirectory: string;
  daemon: Daemon | null = null;
  sidecar: Daemon | null = null;
  readonly #bed: Bed;

  constructor(bed: Bed, node: LabNode, options: CulvertNodeOptions) {
    this.#bed = bed;
    this.node = node;
    this.options = options;
    this.runtimeDirectory = join(bed.folder, options.name);
    mkdirSync(this.runtimeDirectory, { recursive: true, mode: 0o700 });
  }

  /** Starts daemon and sidecar and waits until a snapshot is in force. */
  async start(): Promise<void> {
    await this.startDaemon();
    await this.startSidecar();
    await this.waitFor((status) => status.sync.revision !== null && status.nodes > 0);
  }

  async startDaemon(): Promise<void> {
    const { words = [], descriptors = [] } = this.options.launch?.() ?? {};
    this.daemon = await this.#bed.start(this.node.host, [
      ...words, process.execPath, CLI, 'run', '--stop-on-stdin-end',
      '--node-name', this.options.name,
      '--underlay-interface', 'eth0',
      '--pod-networks', this.options.podNetworks.join(','),
      ...(this.options.serviceNetworks === undefined ? []
        : ['--service-networks', this.options.serviceNetworks.join(',')]),
      '--runtime-directory', this.runtimeDirectory,
      '--memory', 'small',
      '--handover-enabled', 'false',
      ...(this.options.extra ?? []),
    ], '"msg":"ready"', descriptors);
  }

  async startSidecar(): Promise<void> {
    this.sidecar = await this.#bed.start(this.node.host, [
      process.execPath, CLI, 'sync', '--stop-on-stdin-end',
      '--source', `file:${this.options.source}`,
      '--node-name', this.options.name,
      '--runtime-directory', this.runtimeDirectory,
    ], 'sync starts');
  }

  status(): Promise<StatusReport> {
    return ask(this.runtimeDirectory, 'status', null, StatusReportSchema);
  }

  /** Asks for the status until it is as wanted. */
  async waitFor(isWanted: (status: StatusReport) => boolean): Promise<StatusReport> {
    const deadline = performance.now() + WAIT_LIMIT_MS;
    for (;;) {
      const status = await this.status();
      if (isWanted(status)) return status;
      if (performance.now() > deadline) {
        throw new Error(`${this.options.name}: waited in vain: ${JSON.stringify(status)}`);
      }
      await new Promise((resolve) => setTimeout(resolve, WAIT_MS));
    }
  }

  /** Attaches a pod by a TUN or TAP; a new one unless its host is given. */
  async addPod(
    pod: Pick<Endpoint, 'namespace' | 'name' | 'addresses' | 'device'> & { uid?: string },
    mtu = 1430,
    host = this.#bed.addHost(pod.name),
  ): Promise<Host> {
    await ask(this.runtimeDirectory, 'endpoint.add', {
      uid: `uid-${pod.name}`, ...pod, interfaceName: 'eth0', mtu, netns: host.namespace.path,
    }, v.unknown());
    return host;
  }

  removePod(namespace: string, name: string): Promise<unknown> {
    return ask(this.runtimeDirectory, 'endpoint.remove', { namespace, name }, v.unknown());
  }
}
