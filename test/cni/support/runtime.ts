// A container runtime in a few lines: calls the installed plugin as runtimes do, by environment and
// standard input, inside the node's network namespace, and keeps what it answered.

import { spawn } from 'node:child_process';
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { installPlugin } from '../../../cni/install.ts';
import type { Bed, Host, LabNode } from '../../../cli/demo/bed.ts';
import { CulvertNode } from '../../../cli/demo/culvert-node.ts';
import { ROOT } from '../../support/source.ts';

export const NETWORK = 'pods';
export const POD_NETWORKS = ['10.244.0.0/16', 'fd00:10:244::/48'];

/** Pods live through a kill of the daemon. What holds their devices ends soon after it. */
const HELD = ['--handover-enabled', 'true', '--handover-away-seconds', '10'];

/** What an attachment is known by, and what the pod is. */
export interface Container {
  id: string;
  interfaceName: string;
  netns: string;
  args: string;
}

/** What a call answered: exit status (null: ended by a signal), and standard output as JSON. */
export interface Answer {
  status: number | null;
  result: CniResult;
}

/** The parts of a result or an error that tests read. */
export interface CniResult {
  cniVersion?: string;
  code?: number;
  msg?: string;
  details?: string;
  interfaces?: { name: string; sandbox?: string; mtu?: number }[];
  ips?: { address: string; interface?: number; version?: string }[];
  routes?: { dst: string; gw?: string }[];
  dns?: object;
  supportedVersions?: string[];
}

export interface Call {
  version?: string;
  /** Fields of the network configuration. */
  config?: object;
  /** What the call would get on standard input, whole. */
  text?: string;
  environment?: Record<string, string>;
  /** Ends the plugin with SIGKILL after so many milliseconds. */
  killAfterMs?: number;
  /** Path of another plugin. */
  program?: string;
}

/** The pod as Kubernetes' runtimes name it. */
export function podArgs(name: string, uid = `uid-${name}`, namespace = 'shop'): string {
  return `K8S_POD_UID=${uid};IgnoreUnknown=1;K8S_POD_NAME=${name};`
    + `K8S_POD_NAMESPACE=${namespace};K8S_POD_INFRA_CONTAINER_ID=x`;
}

/** A node that runs Culvert from a file of objects, with the plugin installed. */
export class Runtime {
  readonly node: LabNode;
  readonly culvert: CulvertNode;
  readonly binDirectory: string;
  readonly objects: string;
  /** Fields of node-1's object in the place of the usual ones. */
  nodeFields: object = {};

  private constructor(node: LabNode, culvert: CulvertNode, binDirectory: string, objects: string) {
    this.node = node;
    this.culvert = culvert;
    this.binDirectory = binDirectory;
    this.objects = objects;
  }

  /** Adds node 1, not started. `extra` are flags of the daemon. */
  static async add(bed: Bed, extra: string[] = []): Promise<Runtime> {
    const node = await bed.addNode('node-1', { ipv4: '192.0.2.1', ipv6: '2001:db8::1' });
    const objects = join(bed.folder, 'objects.json');
    const culvert = new CulvertNode(bed, node, {
      name: 'node-1', source: objects, podNetworks: POD_NETWORKS, extra: [...HELD, ...extra],
    });
    const binDirectory = join(bed.folder, 'bin');
    installPlugin({
      binDirectory, configDirectory: join(bed.folder, 'net.d'), networkName: NETWORK,
      runtimeDirectory: culvert.runtimeDirectory, portmap: false,
    }, { bundle: join(ROOT, 'dist/cni/culvert.cjs'), packageFolder: ROOT, node: process.execPath });
    const runtime = new Runtime(node, culvert, binDirectory, objects);
    runtime.writeObjects([]);
    return runtime;
  }

  /** Makes the node, the namespace and these objects all that the cluster has. */
  writeObjects(objects: object[]): void {
    const items = [
      {
        apiVersion: 'v1', kind: 'Node', metadata: { name: 'node-1' },
        spec: { podCIDRs: ['10.244.1.0/24', 'fd00:10:244:1::/64'] },
        status: { addresses: [{ type: 'InternalIP', address: '192.0.2.1' }] },
        ...this.nodeFields,
      },
      { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'shop' } },
      ...objects,
    ];
    writeFileSync(this.objects, JSON.stringify({ apiVersion: 'v1', kind: 'List', items }));
  }

  /** A pod's object, as it is before its runtime has told an address. */
  podObject(name: string, labels: Record<string, string> = {}): object {
    return {
      apiVersion: 'v1', kind: 'Pod',
      metadata: { name, namespace: 'shop', uid: `uid-${name}`, labels },
      spec: { nodeName: 'node-1' }, status: { phase: 'Pending' },
    };
  }

  container(host: Host, name: string, id = `id-${name}`): Container {
    return { id, interfaceName: 'eth0', netns: host.namespace.path, args: podArgs(name) };
  }

  /** Makes another plugin of CNI_PATH available beside ours. */
  link(name: string, target: string): void {
    mkdirSync(this.binDirectory, { recursive: true });
    symlinkSync(target, join(this.binDirectory, name));
  }

  /** Calls the plugin. */
  call(verb: string, container: Container | null, call: Call = {}): Promise<Answer> {
    const { version = '1.1.0', config = {}, killAfterMs } = call;
    const program = call.program ?? join(this.binDirectory, 'culvert');
    const text = call.text ?? JSON.stringify({
      cniVersion: version, name: NETWORK, type: 'culvert',
      runtimeDirectory: this.culvert.runtimeDirectory, ...config,
    });
    const environment: Record<string, string> = {
      PATH: process.env['PATH'] ?? '', CNI_COMMAND: verb, CNI_PATH: this.binDirectory,
      ...(container === null ? {} : {
        CNI_CONTAINERID: container.id, CNI_IFNAME: container.interfaceName,
        CNI_NETNS: container.netns, CNI_ARGS: container.args,
      }),
      ...call.environment,
    };
    return this.#run(program, environment, text, killAfterMs);
  }

  #run(
    program: string, env: Record<string, string>, text: string, killAfterMs?: number,
  ): Promise<Answer> {
    const child = this.node.host.namespace.run(() =>
      spawn(program, [], { env, stdio: ['pipe', 'pipe', 'inherit'] }));
    let output = '';
    child.stdout.on('data', (chunk: Buffer) => { output += chunk.toString(); });
    child.stdin.on('error', () => {});
    child.stdin.end(text);
    const timer = killAfterMs === undefined
      ? undefined
      : setTimeout(() => child.kill('SIGKILL'), killAfterMs);
    return new Promise((resolve, reject) => {
      child.on('error', reject);
      child.on('close', (status) => {
        clearTimeout(timer);
        const isWhole = status !== null && output !== '';
        resolve({ status, result: isWhole ? JSON.parse(output) as CniResult : {} });
      });
    });
  }
}
