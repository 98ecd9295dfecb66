// A cluster of real nodes before an API server for tests: each node has one pod, and learns of the
// others from the API server only.
//
//     API server of the test, on 127.0.0.1, and by a relay on the loopback of each node
//            |                            |                            |
//     node 1: culvert              node 2: culvert             node 3: flannel
//     [ eth0 192.0.2.1   ]---hub---[ eth0 192.0.2.2   ]---hub---[ eth0 192.0.2.3    ]
//     [      2001:db8::1 ]         [      2001:db8::2 ]         [ 2001:db8::3, vxlan ]
//       pod 10.244.1.10              pod 10.244.2.10              pod 10.244.3.10
//           fd00:10:244:1::a             fd00:10:244:2::a             fd00:10:244:3::a
//
// A Culvert node is `culvert run` and `culvert sync`, as processes. TX checksum offload is off on
// every veth that a node sends from.

import { writeFileSync } from 'node:fs';
import { connect, createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { Bed, stopDaemon, type Host, type LabNode } from '../../../cli/demo/bed.ts';
import { CulvertNode } from '../../../cli/demo/culvert-node.ts';
import { addKernelPod } from '../../../cli/demo/kernel-node.ts';
import { PACKAGE_FOLDER } from '../../../cli/version.ts';
import type { Family } from '../../../engine/address.ts';
import { loadAccess } from '../../../sync/kubernetes/access.ts';
import { ApiClient } from '../../../sync/kubernetes/client.ts';
import type { KubeObject } from '../../support/api-server/resources.ts';
import {
  ADMIN_TOKEN, READER_RULES, TestApiServer, type ServerOptions,
} from '../../support/api-server/server.ts';
import { FlannelNode } from './flannel-node.ts';
import { PATIENCE_MS } from '../../support/until.ts';

const CLI = join(PACKAGE_FOLDER, 'dist', 'cli', 'main.js');
const POD_NETWORKS = { Network: '10.244.0.0/16', IPv6Network: 'fd00:10:244::/48' };
const FAMILIES = ['IPv4', 'IPv6'] as const;
/** Devices and sockets outlive a daemon that is killed, but not for long. */
const HELD = ['--handover-enabled', 'true', '--handover-away-seconds', '10'];
/** The first node has a socket of the underlay for each of two workers, the others have one. */
const WORKER_COUNTS = ['2'];

/** What all tunnels of a cluster have in common. */
export interface ClusterTunnel {
  vni: number;
  port: number;
}
const FLANNEL_TUNNEL: ClusterTunnel = { vni: 1, port: 8472 };

export interface Place {
  name: string;
  number: number;
  node: LabNode;
  pod: Host;
  address: Record<Family, string>;
}

export class KubeLab {
  readonly server: TestApiServer;
  readonly culverts: CulvertNode[] = [];
  readonly places: Place[] = [];
  flannel: FlannelNode | null = null;
  readonly #bed: Bed;
  readonly #tunnel: ClusterTunnel;
  readonly #relays: Server[] = [];
  readonly #onSignal = (): void => process.exit(1);

  private constructor(bed: Bed, server: TestApiServer, tunnel: ClusterTunnel) {
    this.#bed = bed;
    this.#tunnel = tunnel;
    this.server = server;
    // Namespaces and child processes end with this process.
    for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, this.#onSignal);
  }

  /** Starts server, nodes and pods; `count` Culvert nodes, then one that runs flannel. */
  static async create(
    count: number, tunnel = FLANNEL_TUNNEL, options: ServerOptions = {},
  ): Promise<KubeLab> {
    const server = new TestApiServer(options);
    await server.start();
    const lab = new KubeLab(await Bed.create(), server, tunnel);
    try {
      await lab.#build(count);
      return lab;
    } catch (error) {
      await lab.close();
      throw error;
    }
  }

  place(number: number): Place {
    const place = this.places[number - 1];
    if (place === undefined) throw new Error(`there is no node ${number}`);
    return place;
  }

  culvert(number: number): CulvertNode {
    const culvert = this.culverts[number - 1];
    if (culvert === undefined) throw new Error(`node ${number} does not run Culvert`);
    return culvert;
  }

  annotations(number: number): Record<string, string> {
    return this.server.get('nodes', `node-${number}`)?.metadata.annotations ?? {};
  }

  /** Waits until it is so; gives how long that took. */
  async until(what: string, isSo: () => boolean | Promise<boolean>): Promise<number> {
    const startMs = performance.now();
    while (!await isSo()) {
      if (this.flannel?.failure) throw this.flannel.failure;
      if (performance.now() - startMs > PATIENCE_MS) throw new Error(`in vain: ${what}`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    return performance.now() - startMs;
  }

  /** Whether one pod gets an answer from another, once, within the time. */
  async reaches(from: Place, to: Place, family: Family, timeoutMs = 300): Promise<boolean> {
    const answer = await from.pod.agent.ask({
      verb: 'ping', address: to.address[family], size: 56, timeoutMs,
    });
    return answer.ok;
  }

  /** Waits until all pods reach each other in both families; gives how long that took. */
  async allReach(): Promise<number> {
    let took = 0;
    for (const from of this.places) {
      for (const to of this.places) {
        if (from === to) continue;
        for (const family of FAMILIES) {
          took += await this.until(`${family} from ${from.name} to ${to.name}`,
            () => this.reaches(from, to, family));
        }
      }
    }
    return took;
  }

  /** The Node of this number without a word of flannel's, as the kubelet makes it. */
  nodeObject(number: number, subnet = number): KubeObject {
    const podCIDRs = [`10.244.${subnet}.0/24`, `fd00:10:244:${subnet}::/64`];
    return {
      metadata: { name: `node-${number}` },
      spec: { podCIDR: podCIDRs[0], podCIDRs },
      status: {
        addresses: [{ type: 'InternalIP', address: `192.0.2.${number}` },
          { type: 'InternalIP', address: `2001:db8::${number}` }],
        conditions: [{ type: 'Ready', status: 'True' }],
      },
    };
  }

  /** Adds a second address to eth0 of a node, and a way to it. */
  async addUnderlayAddress({ node }: Place, address: string): Promise<void> {
    await node.host.links.addAddress('eth0', `${address}/32`);
    await this.#bed.hub.links.addRoute({ prefix: `${address}/32`, device: node.port });
  }

  /** What a daemon says that is started on a node where it cannot be. */
  async complaint({ node }: Place): Promise<string> {
    const culvert = new CulvertNode(this.#bed, node, {
      name: 'refused', source: '', podNetworks: [POD_NETWORKS.Network],
    });
    return culvert.startDaemon().then(() => 'none', (error: Error) => error.message);
  }

  /** Gives eth0 of a node another IPv4 address, in the place of the one it has. */
  async moveUnderlay(place: Place, address: string): Promise<void> {
    await this.addUnderlayAddress(place, address);
    await place.node.host.links.removeAddress('eth0', `${place.node.ipv4}/32`);
    place.node.ipv4 = address;
  }

  /** Gives the pod of the flannel node other addresses. */
  async movePod(place: Place, address: Record<Family, string>): Promise<void> {
    const pod = await addKernelPod(
      this.#bed, place.node, `pod-${place.number}-moved`, Object.values(address));
    await pod.agent.ask({ verb: 'serve' });
    this.places[place.number - 1] = { ...place, pod, address };
  }

  /** Starts the sidecar of a Culvert node. */
  async startSidecar(number: number): Promise<void> {
    const culvert = this.culvert(number);
    culvert.sidecar = await this.#bed.start(culvert.node.host, [
      process.execPath, CLI, 'sync', '--stop-on-stdin-end', '--source', 'kubernetes',
      '--kubeconfig', this.server.kubeconfig(), '--profile', 'flannel',
      '--net-conf', this.#netConf, '--node-name', culvert.options.name,
      '--runtime-directory', culvert.runtimeDirectory,
    ], 'sync starts');
  }

  /** Kills a node's daemon and starts another one. */
  async replaceDaemon(number: number): Promise<void> {
    const culvert = this.culvert(number);
    const killed = culvert.daemon?.process;
    if (killed === undefined) return;
    const ended = new Promise((resolve) => killed.once('exit', resolve));
    killed.kill('SIGKILL');
    await ended;
    await culvert.startDaemon();
  }

  async stopSidecar(number: number): Promise<void> {
    const { sidecar } = this.culvert(number);
    if (sidecar !== null) await stopDaemon(sidecar);
  }

  async close(): Promise<void> {
    await this.flannel?.close();
    for (const relay of this.#relays) relay.close();
    await this.#bed.close();
    await this.server.close();
    for (const name of ['SIGINT', 'SIGTERM'] as const) process.off(name, this.#onSignal);
  }

  get #netConf(): string {
    return join(this.#bed.folder, 'net-conf.json');
  }

  async #build(count: number): Promise<void> {
    const { vni, port } = this.#tunnel;
    writeFileSync(this.#netConf, JSON.stringify({
      ...POD_NETWORKS, EnableIPv6: true, Backend: { Type: 'vxlan', VNI: vni, Port: port },
    }));
    this.server.grant('engine', [
      ...READER_RULES, { apiGroups: [''], resources: ['nodes/status'], verbs: ['patch'] },
    ]);
    this.server.create('namespaces', { metadata: { name: 'lab' } });
    for (let number = 1; number <= count + 1; number += 1) {
      this.server.create('nodes', this.nodeObject(number));
      const ipv4 = `192.0.2.${number}`;
      const node = await this.#bed.addNode(`node-${number}`, { ipv4, ipv6: `2001:db8::${number}` });
      if (number <= count) await this.#addCulvert(number, node);
      else await this.#addFlannel(number, node);
    }
    await Promise.all(this.places.map(({ pod }) => pod.agent.ask({ verb: 'serve' })));
  }

  async #addCulvert(number: number, node: LabNode): Promise<void> {
    this.#relays.push(relay(node.host, Number(new URL(this.server.url).port)));
    const name = `node-${number}`;
    const culvert = new CulvertNode(this.#bed, node, {
      name, source: '', podNetworks: Object.values(POD_NETWORKS),
      extra: [
        '--net-conf', this.#netConf, '--state-directory', join(this.#bed.folder, `s${number}`),
        ...HELD,
        '--data-plane-workers', WORKER_COUNTS[number - 1] ?? '1',
      ],
    });
    this.culverts[number - 1] = culvert;
    await culvert.startDaemon();
    await this.startSidecar(number);
    const address = podAddress(number);
    this.server.create('pods', {
      metadata: { namespace: 'lab', name: `pod-${number}`, uid: `uid-pod-${number}` },
      spec: { nodeName: name }, status: { phase: 'Pending' },
    });
    await culvert.waitFor(({ sync }) => sync.revision !== null);
    const pod = await culvert.addPod({
      namespace: 'lab', name: `pod-${number}`, addresses: Object.values(address), device: 'tun',
    });
    this.places.push({ name, number, node, pod, address });
  }

  async #addFlannel(number: number, node: LabNode): Promise<void> {
    const name = `node-${number}`;
    const kubeconfig = this.server.kubeconfig({ token: ADMIN_TOKEN });
    this.flannel = new FlannelNode({
      host: node.host, nodeName: name, ...this.#tunnel,
      client: new ApiClient(loadAccess({ kubeconfig, environment: {} })),
      addresses: { v4: node.ipv4, v6: node.ipv6 },
    });
    await this.flannel.start();
    const address = podAddress(number);
    const pod = await addKernelPod(this.#bed, node, `pod-${number}`, Object.values(address));
    this.places.push({ name, number, node, pod, address });
  }
}

function podAddress(number: number): Record<Family, string> {
  return { IPv4: `10.244.${number}.10`, IPv6: `fd00:10:244:${number}::a` };
}

/** Makes a port of this process's loopback one of a node's too. */
export function relay(host: Host, port: number): Server {
  const server = createServer((near) => {
    const far = connect(port, '127.0.0.1');
    near.on('error', () => far.destroy()).on('close', () => far.destroy());
    far.on('error', () => near.destroy()).on('close', () => near.destroy());
    near.pipe(far).pipe(near);
  });
  // Without a host to look up, the socket is made at once, in the namespace.
  host.namespace.run(() => server.listen(port));
  return server;
}
