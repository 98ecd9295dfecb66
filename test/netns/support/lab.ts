// Nodes on an underlay, each with one pod; the cluster's state is sent to the daemons by the test
// itself, over sync.sock, as the sidecar would.
//
//     node 1                hub (a router)             node 2 ...
//   [ eth0 192.0.2.1    ]----[ port0   port1 ]----[ eth0 192.0.2.2    ]
//   [      2001:db8::1  ]                         [      2001:db8::2  ]
//     pod 10.244.1.10                               pod 10.244.2.10
//         fd00:10:244:1::a                              fd00:10:244:2::a
//
// A node runs Culvert, or has kernel VXLAN devices as flannel would make them.

import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { Bed, type Host, type LabNode } from '../../../cli/demo/bed.ts';
import { CulvertNode } from '../../../cli/demo/culvert-node.ts';
import { addKernelPod, setUpKernelNode } from '../../../cli/demo/kernel-node.ts';
import { VERSION } from '../../../cli/version.ts';
import type { Family } from '../../../engine/address.ts';
import type { ClusterNode, StatusReport } from '../../../engine/model.ts';
import { SYNC_SOCKET } from '../../../host/main.ts';
import { Sender } from '../../../sync/send.ts';
import { ContentFeed } from '../../support/content-feed.ts';

export const FAMILIES = ['IPv4', 'IPv6'] as const;
export const POD_NETWORKS = ['10.244.0.0/16', 'fd00:10:244::/48'];

/** Which family's underlay carries the pod packets of each family. */
export type Carriers = Record<Family, Family>;

/** As flannel has it: each family carries its own. */
export const STRAIGHT: Carriers = { IPv4: 'IPv4', IPv6: 'IPv6' };

export interface LabOptions {
  /** What each node is; node 1 comes first. */
  nodes: ('culvert' | 'kernel')[];
  carriers?: Carriers;
  /** MTU of every link of the underlay. */
  underlayMtu?: number;
  /** MTU of the pods of Culvert nodes. */
  podMtu?: number;
  /** Further flags of `culvert run`, node by node. */
  flags?: string[][];
}

/** A node with its pod, as the tests see them. */
export interface Place {
  node: LabNode;
  cluster: ClusterNode;
  /** Null for a kernel node. */
  culvert: CulvertNode | null;
  pod: Host;
  address: Record<Family, string>;
}

const SILENT = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

/** Node `number`, counted from 1, as the cluster knows it. */
export function clusterNode(number: number, carriers: Carriers): ClusterNode {
  const remotes = { IPv4: `192.0.2.${number}`, IPv6: `2001:db8::${number}` };
  return {
    name: `node-${number}`,
    podCidrs: [`10.244.${number}.0/24`, `fd00:10:244:${number}::/64`],
    addresses: Object.values(remotes),
    tunnels: FAMILIES.map((family) => ({
      family,
      kind: 'vxlan',
      remote: remotes[carriers[family]],
      port: 8472,
      vni: 1,
      mac: `02:c0:00:00:0${number}:0${carriers[family] === 'IPv4' ? 4 : 6}`,
    })),
  };
}

export class Lab {
  readonly bed: Bed;
  readonly places: Place[] = [];
  readonly #stop = new AbortController();
  readonly #senders: Promise<void>[] = [];
  readonly #onExit = (): void => rmSync(this.bed.folder, { recursive: true, force: true });
  readonly #onSignal = (): void => process.exit(1);

  private constructor(bed: Bed) {
    this.bed = bed;
    // Namespaces and child processes end with this process; only the folder would stay.
    process.once('exit', this.#onExit);
    for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, this.#onSignal);
  }

  /** Makes nodes and pods and waits until each daemon has its state; every pod serves. */
  static async create(options: LabOptions): Promise<Lab> {
    const lab = new Lab(await Bed.create());
    try {
      await lab.#build(options);
      return lab;
    } catch (error) {
      await lab.close();
      throw error;
    }
  }

  /** The place of node `number`, counted from 1. */
  place(number: number): Place {
    const place = this.places[number - 1];
    if (place === undefined) throw new Error(`there is no node ${number}`);
    return place;
  }

  /** The status of a Culvert node. */
  status(number: number): Promise<StatusReport> {
    return this.#culvert(number).status();
  }

  /** Asks a Culvert node for its status until it is as wanted. */
  waitFor(number: number, isWanted: (status: StatusReport) => boolean): Promise<StatusReport> {
    return this.#culvert(number).waitFor(isWanted);
  }

  /** Adds another pod to a Culvert node; its addresses end with `last` (1 to 9). */
  async addPod(number: number, last: number, podMtu?: number): Promise<Place> {
    const place = this.place(number);
    const address = {
      IPv4: place.address.IPv4.replace(/10$/, `${last}`),
      IPv6: place.address.IPv6.replace(/a$/, `${last}`),
    };
    const pod = await this.#culvert(number).addPod({
      namespace: 'lab', name: `pod-${number}-${last}`, addresses: Object.values(address),
      device: 'tun',
    }, podMtu);
    return { ...place, pod, address };
  }

  async close(): Promise<void> {
    this.#stop.abort();
    await Promise.allSettled(this.#senders);
    await this.bed.close();
    process.off('exit', this.#onExit);
    for (const name of ['SIGINT', 'SIGTERM'] as const) process.off(name, this.#onSignal);
  }

  #culvert(number: number): CulvertNode {
    const { culvert } = this.place(number);
    if (culvert === null) throw new Error(`node ${number} does not run Culvert`);
    return culvert;
  }

  async #build(options: LabOptions): Promise<void> {
    const { nodes, carriers = STRAIGHT, underlayMtu = 1500, flags = [] } = options;
    const cluster = nodes.map((_, index) => clusterNode(index + 1, carriers));
    await Promise.all(nodes.map(async (kind, index) => {
      const self = cluster[index];
      if (self === undefined) return;
      const [ipv4 = '', ipv6 = ''] = self.addresses;
      const node = await this.bed.addNode(self.name, { ipv4, ipv6 }, { mtu: underlayMtu });
      this.places[index] = kind === 'culvert'
        ? await this.#addCulvert(node, self, cluster, flags[index] ?? [], options.podMtu)
        : await this.#addKernel(node, self, cluster);
    }));
    await Promise.all(this.places.map(({ pod }) => pod.agent.ask({ verb: 'serve' })));
  }

  async #addCulvert(
    node: LabNode,
    self: ClusterNode,
    nodes: ClusterNode[],
    flags: string[],
    podMtu: number | undefined,
  ): Promise<Place> {
    const culvert = new CulvertNode(this.bed, node, {
      name: self.name, source: '', podNetworks: POD_NETWORKS,
      extra: ['--policy-unknown-pods', 'open', ...flags],
    });
    await culvert.startDaemon();
    const sender = new Sender({
      socket: join(culvert.runtimeDirectory, SYNC_SOCKET), version: VERSION, log: SILENT,
    });
    new ContentFeed(sender).update({ local: self.name, nodes, pods: [] });
    this.#senders.push(sender.run(this.#stop.signal));
    const status = await culvert.waitFor(({ sync }) => sync.revision !== null);
    if (status.sync.problems.length > 0) throw new Error(status.sync.problems.join('; '));
    const address = podAddress(self);
    const pod = await culvert.addPod({
      namespace: 'lab', name: `pod-${self.name}`, addresses: Object.values(address), device: 'tun',
    }, podMtu);
    return { node, cluster: self, culvert, pod, address };
  }

  async #addKernel(node: LabNode, self: ClusterNode, nodes: ClusterNode[]): Promise<Place> {
    await setUpKernelNode(node, self, nodes.filter((other) => other !== self));
    const address = podAddress(self);
    const pod = await addKernelPod(this.bed, node, `pod-${self.name}`, Object.values(address));
    return { node, cluster: self, culvert: null, pod, address };
  }
}

function podAddress({ podCidrs }: ClusterNode): Record<Family, string> {
  const [ipv4 = '', ipv6 = ''] = podCidrs;
  return { IPv4: ipv4.replace('0/24', '10'), IPv6: ipv6.replace('/64', 'a') };
}

/** What a daemon has dropped and why, one word each; empty for nothing. */
export function dropsOf({ drops }: StatusReport): string[] {
  return (['outbound', 'inbound'] as const).flatMap((direction) =>
    Object.entries(drops[direction]).filter(([, count]) => count > 0)
      .map(([reason, count]) => `${direction}.${reason}=${count}`));
}
