// Nodes of many kinds on one link, each with a pod. What a Culvert node knows of the others it is
// told by the test, peer by peer, as a sidecar would tell it.
//
//     node 1              switch             node 2 ...
//   [ eth0 192.0.2.1 ]----[ br ]----[ eth0 192.0.2.2 ]        IPv4 /24, IPv6 2001:db8::N/64
//        |                                   |
//     pod 10.244.1.10                     pod 10.244.2.10
//         fd00:10:244:1::a                    fd00:10:244:2::a
//
// A node is a namespace, but for the guest, which is a machine of QEMU's with a kernel of its own:
// its two interfaces are TAPs, one a port of the switch, the other the pod's. TX checksum offload
// is off on every veth that a node sends from.

import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { Bed, type Host, type LabNode } from '../../../cli/demo/bed.ts';
import { CulvertNode } from '../../../cli/demo/culvert-node.ts';
import { VERSION } from '../../../cli/version.ts';
import { hostPrefix, type Family } from '../../../engine/address.ts';
import type { ClusterNode, StatusReport, Tunnel } from '../../../engine/model.ts';
import { setTxChecksum } from '../../../ffi/ethtool.ts';
import { SYNC_SOCKET } from '../../../host/main.ts';
import { Sender } from '../../../sync/send.ts';
import { ContentFeed } from '../../support/content-feed.ts';

export const FAMILIES = ['IPv4', 'IPv6'] as const;
export const POD_NETWORKS = ['10.244.0.0/16', 'fd00:10:244::/48'];
export const UNDERLAY = { IPv4: '192.0.2.0/24', IPv6: '2001:db8::/64' };
/** Gateways of the pods of nodes that route with their kernels, on every pod's link. */
export const GATEWAY = { IPv4: '169.254.1.1', IPv6: 'fe80::1' };

const SWITCH = 'br';
const SILENT = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

/** A pod, and the node that has it; the guest's node is no namespace of ours. What is captured on
 * the pod's device has `linkHeader` bytes in front: none on a TUN. */
export interface Place {
  number: number;
  node: LabNode | null;
  pod: Host;
  address: Record<Family, string>;
  device: string;
  linkHeader: number;
}

export const POD_DEVICE = 'eth0';
export const ETHERNET_SIZE = 14;

/** How a node is reached by another, without what all tunnels have. */
export type Way =
  | { kind: 'vxlan'; vni?: number; port?: number }
  | { kind: 'geneve'; vni: number; port?: number; hasEthernet: boolean }
  | { kind: 'ipip' }
  | { kind: 'udp'; port?: number }
  | { kind: 'direct' };

/** By the family of the inner packets: the way, and the family that carries it. */
export type Ways = Partial<Record<Family, { way: Way; carrier?: Family }>>;

export const VNI = 1;
export const remotesOf = (number: number): Record<Family, string> =>
  ({ IPv4: `192.0.2.${number}`, IPv6: `2001:db8::${number}` });
export const podCidrsOf = (number: number): Record<Family, string> =>
  ({ IPv4: `10.244.${number}.0/24`, IPv6: `fd00:10:244:${number}::/64` });
export const basesOf = (number: number): Record<Family, string> =>
  ({ IPv4: `10.244.${number}.0`, IPv6: `fd00:10:244:${number}::` });
export const podAddressesOf = (number: number): Record<Family, string> =>
  ({ IPv4: `10.244.${number}.10`, IPv6: `fd00:10:244:${number}::a` });
/** The MAC of a node's tunnels over one family. */
export const macOf = (number: number, carrier: Family): string =>
  `02:c0:00:00:0${number}:0${carrier === 'IPv4' ? 4 : 6}`;

/** The same way for both families, each carried by its own. */
export const straight = (way: Way): Ways => ({ IPv4: { way }, IPv6: { way } });

/** Node `number` as one that reaches it by these ways knows it. */
export function clusterNode(number: number, ways: Ways): ClusterNode {
  return {
    name: `node-${number}`,
    podCidrs: Object.values(podCidrsOf(number)),
    addresses: Object.values(remotesOf(number)),
    tunnels: FAMILIES.flatMap((family) => {
      const entry = ways[family];
      return entry === undefined ? [] : [tunnelOf(number, family, entry.way, entry.carrier)];
    }),
  };
}

function tunnelOf(number: number, family: Family, way: Way, carrier: Family = family): Tunnel {
  const common = { family, remote: remotesOf(number)[carrier] };
  const mac = macOf(number, carrier);
  const port = 'port' in way && way.port !== undefined ? { port: way.port } : {};
  switch (way.kind) {
    case 'vxlan': return { ...common, ...port, kind: 'vxlan', vni: way.vni ?? VNI, mac };
    case 'geneve': return {
      ...common, ...port, kind: 'geneve', vni: way.vni, mac: way.hasEthernet ? mac : null,
    };
    case 'udp': return { ...common, ...port, kind: 'udp' };
    default: return { ...common, kind: way.kind };
  }
}

/** A Culvert node of the lab: its daemon, and what tells it of the cluster. */
interface Told {
  culvert: CulvertNode;
  feed: ContentFeed;
}

export class TunnelLab {
  readonly bed: Bed;
  readonly places = new Map<number, Place>();
  readonly #told = new Map<number, Told>();
  readonly #stop = new AbortController();
  readonly #senders: Promise<void>[] = [];
  readonly #closing: (() => Promise<void>)[] = [];
  readonly #onExit = (): void => rmSync(this.bed.folder, { recursive: true, force: true });
  readonly #onSignal = (): void => process.exit(1);

  private constructor(bed: Bed) {
    this.bed = bed;
    // Namespaces and child processes end with this process; only the folder would stay.
    process.once('exit', this.#onExit);
    for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, this.#onSignal);
  }

  /** Makes the switch, then lets `build` add nodes; all goes where that fails. */
  static async create(build: (lab: TunnelLab) => Promise<void>): Promise<TunnelLab> {
    const lab = new TunnelLab(await Bed.create());
    try {
      const { hub } = lab.bed;
      await hub.links.addBridge(SWITCH);
      await hub.links.setLink(SWITCH, { up: true, linkLocalIpv6: false });
      await build(lab);
      for (const { pod } of lab.places.values()) await pod.agent.ask({ verb: 'serve' });
      return lab;
    } catch (error) {
      await lab.close();
      throw error;
    }
  }

  place(number: number): Place {
    const place = this.places.get(number);
    if (place === undefined) throw new Error(`there is no node ${number}`);
    return place;
  }

  culvert(number: number): CulvertNode {
    const told = this.#told.get(number);
    if (told === undefined) throw new Error(`node ${number} does not run Culvert`);
    return told.culvert;
  }

  status(number: number): Promise<StatusReport> {
    return this.culvert(number).status();
  }

  /** Has something ended before the bed goes. */
  onClose(close: () => Promise<void>): void {
    this.#closing.unshift(close);
  }

  /** Makes an interface of the hub a port of the switch. */
  async plugIn(device: string, mtu: number): Promise<void> {
    const { links } = this.bed.hub;
    await links.setLink(device, { mtu, linkLocalIpv6: false, master: SWITCH });
    await links.setLink(device, { up: true });
  }

  /** Adds a node in a namespace, with its address on the link. */
  async addNode(number: number, mtu = 1500): Promise<LabNode> {
    const host = this.bed.addHost(`node-${number}`);
    const port = `port${number}`;
    const { IPv4: ipv4, IPv6: ipv6 } = remotesOf(number);
    await this.bed.hub.links.addVeth(port, 'eth0', host.namespace.fd);
    await this.plugIn(port, mtu);
    await host.links.setLink('eth0', { mtu, linkLocalIpv6: false });
    await host.links.setLink('eth0', { up: true });
    await host.links.addAddress('eth0', `${ipv4}/24`);
    await host.links.addAddress('eth0', `${ipv6}/64`);
    // Neighbours of what is forwarded are looked for from here (RFC 4861 section 7.2.2).
    await host.links.addAddress('eth0', `fe80::${number}/64`);
    host.namespace.run(() => setTxChecksum('eth0', false));
    this.bed.hub.namespace.run(() => setTxChecksum(port, false));
    return { host, port, ipv4, ipv6 };
  }

  /** Adds a node that runs Culvert and a pod on it; it knows nobody yet. */
  async addCulvert(number: number, flags: string[] = [], podMtu = 1500): Promise<void> {
    const node = await this.addNode(number);
    const culvert = new CulvertNode(this.bed, node, {
      name: `node-${number}`, source: '', podNetworks: POD_NETWORKS,
      extra: ['--policy-unknown-pods', 'open', ...flags],
    });
    await culvert.startDaemon();
    const sender = new Sender({
      socket: join(culvert.runtimeDirectory, SYNC_SOCKET), version: VERSION, log: SILENT,
    });
    this.#told.set(number, { culvert, feed: new ContentFeed(sender) });
    this.#senders.push(sender.run(this.#stop.signal));
    const address = podAddressesOf(number);
    const pod = await culvert.addPod({
      namespace: 'lab', name: `pod-${number}`, addresses: Object.values(address), device: 'tun',
    }, podMtu);
    this.places.set(number, { number, node, pod, address, device: POD_DEVICE, linkHeader: 0 });
  }

  /** Tells a Culvert node how it reaches the others, and what it is itself, and waits until that is
   * in force. */
  async tell(number: number, own: Ways, others: Record<number, Ways>): Promise<void> {
    const told = this.#told.get(number);
    if (told === undefined) throw new Error(`node ${number} does not run Culvert`);
    const before = (await told.culvert.status()).sync.revision;
    const nodes = [clusterNode(number, own),
      ...Object.entries(others).map(([other, ways]) => clusterNode(Number(other), ways))];
    if (!told.feed.update({ local: `node-${number}`, nodes, pods: [] })) return;
    const { sync } = await told.culvert.waitFor((status) => status.sync.revision !== before);
    if (sync.problems.length > 0) throw new Error(sync.problems.join('; '));
  }

  /** Adds a pod on a veth to a node that routes with its kernel, as the CNI plugin `ptp` does. */
  async addKernelPod(number: number, node: LabNode, mtu = 1500): Promise<Place> {
    const pod = this.bed.addHost(`pod-${number}`);
    const device = `pod${number}`;
    await node.host.links.addVeth(device, 'eth0', pod.namespace.fd);
    await node.host.links.setLink(device, { mtu, linkLocalIpv6: false });
    await node.host.links.setLink(device, { up: true });
    const address = podAddressesOf(number);
    for (const family of FAMILIES) {
      const { IPv4: gateway } = GATEWAY;
      await node.host.links.addAddress(device,
        family === 'IPv4' ? hostPrefix(gateway) : `${GATEWAY.IPv6}/64`);
      await node.host.links.addRoute({ prefix: hostPrefix(address[family]), device });
    }
    node.host.sysctl({ 'net.ipv4.ip_forward': 1, 'net.ipv6.conf.all.forwarding': 1 });
    node.host.namespace.run(() => setTxChecksum(device, false));
    await setUpPod(pod, address, mtu);
    pod.namespace.run(() => setTxChecksum('eth0', false));
    const place = { number, node, pod, address, device: POD_DEVICE, linkHeader: ETHERNET_SIZE };
    this.places.set(number, place);
    return place;
  }

  async close(): Promise<void> {
    this.#stop.abort();
    await Promise.allSettled(this.#senders);
    for (const close of this.#closing) await close();
    await this.bed.close();
    process.off('exit', this.#onExit);
    for (const name of ['SIGINT', 'SIGTERM'] as const) process.off(name, this.#onSignal);
  }
}

/** Gives the pod end of a link, eth0, its addresses and routes. */
export async function setUpPod(
  { links }: Host, address: Record<Family, string>, mtu: number,
): Promise<void> {
  await links.setLink('eth0', { mtu, linkLocalIpv6: false });
  await links.setLink('eth0', { up: true });
  await links.addAddress('eth0', 'fe80::2/64');
  for (const family of FAMILIES) {
    await links.addAddress('eth0', hostPrefix(address[family]));
    const prefix = family === 'IPv4' ? '0.0.0.0/0' : '::/0';
    await links.addRoute({ prefix, device: 'eth0', via: GATEWAY[family], onlink: true });
  }
}
