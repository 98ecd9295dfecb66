// A node that runs flannel with its vxlan backend: what flanneld does with the Nodes of an API
// server and with the kernel, restated from its sources (pkg/subnet/kube: leases and what of a
// change counts; pkg/backend/vxlan: devices, and handleSubnets). It knows nothing of Culvert, and
// shares nothing with it but the system calls.

import { randomBytes } from 'node:crypto';
import type { Host } from '../../../cli/demo/bed.ts';
import type { ApiClient } from '../../../sync/kubernetes/client.ts';

const PREFIX = 'flannel.alpha.coreos.com/';
const MERGE_PATCH = 'application/strategic-merge-patch+json';
const NODES = '/api/v1/nodes';
const OVERHEAD = 50;
const RETRY_MS = 100;

type Version = 'v4' | 'v6';

/** What of the node differs by family. */
const FAMILIES = {
  v4: { device: 'flannel', data: 'backend-data', address: 'public-ip', bits: 32 },
  v6: { device: 'flannel-v6', data: 'backend-v6-data', address: 'public-ipv6', bits: 128 },
} as const;
const VERSIONS = ['v4', 'v6'] as const;

export interface FlannelNodeOptions {
  host: Host;
  client: ApiClient;
  nodeName: string;
  vni: number;
  port: number;
  /** Addresses of the interface on the underlay, eth0. */
  addresses: Record<Version, string>;
}

interface KubeNode {
  metadata: { name: string; resourceVersion: string; annotations?: Record<string, string> };
  spec?: { podCIDR?: string; podCIDRs?: string[] };
}

/** Another node's promise, of one family. */
interface Lease {
  subnet: string;
  address: string;
  mac: string;
}

type Leases = Record<Version, Lease>;

export class FlannelNode {
  readonly #options: FlannelNodeOptions;
  readonly #stop = new AbortController();
  /** The informer's store. */
  readonly #store = new Map<string, KubeNode>();
  /** What was programmed last for each node. */
  readonly leases = new Map<string, Leases>();
  readonly #macs = { v4: randomMac(), v6: randomMac() };
  #watching: Promise<void> = Promise.resolve();
  failure: unknown = null;

  constructor(options: FlannelNodeOptions) {
    this.#options = options;
  }

  /** Does what flanneld does at its start. */
  async start(): Promise<void> {
    const { host, client, nodeName } = this.#options;
    host.sysctl({ 'net.ipv4.ip_forward': 1, 'net.ipv6.conf.all.forwarding': 1 });
    const own = await client.get(`${NODES}/${nodeName}`, {}, this.#stop.signal) as KubeNode;
    for (const version of VERSIONS) await this.#makeDevice(version, subnetOf(own, version) ?? '');
    await this.#acquireLease(own);
    await this.#list();
    this.#watching = this.#watch().catch((error: unknown) => { this.failure = error; });
  }

  /** Ends it, and starts another one, which has other MACs and perhaps another address. */
  async restarted(addresses: Partial<Record<Version, string>> = {}): Promise<FlannelNode> {
    await this.close();
    const all = { ...this.#options.addresses, ...addresses };
    const next = new FlannelNode({ ...this.#options, addresses: all });
    await next.start();
    return next;
  }

  /** Ends it and removes its devices, with all routes over them. */
  async close(): Promise<void> {
    this.#stop.abort();
    await this.#watching;
    for (const version of VERSIONS) {
      await this.#options.host.links.removeLink(this.#device(version)).catch(() => {});
    }
  }

  #device(version: Version): string {
    return `${FAMILIES[version].device}.${this.#options.vni}`;
  }

  async #makeDevice(version: Version, subnet: string): Promise<void> {
    const { host: { links }, vni, port } = this.#options;
    const device = this.#device(version);
    const { mtu } = await links.link('eth0');
    await links.addVxlan({
      name: device, vni, port, local: this.#options.addresses[version], device: 'eth0',
      mtu: mtu - OVERHEAD - (version === 'v6' ? 20 : 0), mac: this.#macs[version], learning: false,
    });
    await links.setLink(device, { linkLocalIpv6: false });
    await links.setLink(device, { up: true });
    await links.addAddress(device, `${baseOf(subnet)}/${FAMILIES[version].bits}`);
  }

  /** AcquireLease, CompleteLease. */
  async #acquireLease(own: KubeNode): Promise<void> {
    const { client, nodeName, vni } = this.#options;
    const present = own.metadata.annotations ?? {};
    const wanted: Record<string, string> = {
      [`${PREFIX}kube-subnet-manager`]: 'true', [`${PREFIX}backend-type`]: 'vxlan',
    };
    for (const version of VERSIONS) {
      const { data, address } = FAMILIES[version];
      wanted[PREFIX + data] = JSON.stringify({ VNI: vni, VtepMAC: this.#macs[version] });
      wanted[PREFIX + address] = this.#options.addresses[version];
    }
    const annotations = Object.fromEntries(
      Object.entries(wanted).filter(([name, value]) => present[name] !== value));
    const condition = {
      type: 'NetworkUnavailable', status: 'False', reason: 'FlannelIsUp',
      message: 'Flannel is running on this node',
      lastTransitionTime: new Date().toISOString(), lastHeartbeatTime: new Date().toISOString(),
    };
    for (const change of [{ metadata: { annotations } }, { status: { conditions: [condition] } }]) {
      const path = `${NODES}/${nodeName}/status`;
      await client.patch(path, change, MERGE_PATCH, this.#stop.signal);
    }
  }

  /** A list, told as an informer tells it: what is new, what has changed, what is gone. */
  async #list(): Promise<string> {
    const { client } = this.#options;
    const list = await client.get(NODES, {}, this.#stop.signal) as {
      metadata: { resourceVersion: string }; items: KubeNode[];
    };
    const names = new Set(list.items.map(({ metadata }) => metadata.name));
    for (const node of list.items) await this.#changed(node);
    for (const [name, node] of this.#store) {
      if (!names.has(name)) await this.#deleted(node);
    }
    return list.metadata.resourceVersion;
  }

  async #watch(): Promise<void> {
    const { signal } = this.#stop;
    while (!signal.aborted) {
      try {
        await this.#follow(await this.#list());
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof Error && error.name === 'ApiError')) throw error;
      }
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }

  async #follow(resourceVersion: string): Promise<void> {
    const query = { watch: true, resourceVersion, timeoutSeconds: 300 };
    let rest = '';
    for await (const chunk of this.#options.client.stream(NODES, query, this.#stop.signal)) {
      const lines = (rest + chunk.toString()).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) {
        const { type, object } = JSON.parse(line) as { type: string; object: KubeNode };
        if (type === 'ERROR') return;
        if (type === 'DELETED') await this.#deleted(object);
        else if (type !== 'BOOKMARK') await this.#changed(object);
      }
    }
  }

  /** handleAddLeaseEvent and handleUpdateLeaseEvent. */
  async #changed(node: KubeNode): Promise<void> {
    const { name, annotations: now = {} } = node.metadata;
    const before = this.#store.get(name);
    this.#store.set(name, node);
    if (now[`${PREFIX}kube-subnet-manager`] !== 'true') return;
    const old = before?.metadata.annotations ?? {};
    const isKept = (version: Version): boolean => {
      const { data, address } = FAMILIES[version];
      return [data, 'backend-type', address]
        .every((key) => old[PREFIX + key] === now[PREFIX + key]);
    };
    // In a cluster of two families, one that is as it was hides the change of the other.
    if (before !== undefined && VERSIONS.some(isKept)) return;
    const leases = leasesOf(node);
    if (leases !== null && name !== this.#options.nodeName) await this.#add(name, leases);
  }

  async #deleted(node: KubeNode): Promise<void> {
    const { name } = node.metadata;
    this.#store.delete(name);
    const leases = leasesOf(node);
    if (leases !== null && name !== this.#options.nodeName) await this.#remove(name, leases);
  }

  /** EventAdded of handleSubnets: neighbour, forwarding entry, route. */
  async #add(name: string, leases: Leases): Promise<void> {
    const { links } = this.#options.host;
    for (const version of VERSIONS) {
      const { subnet, address, mac } = leases[version];
      const device = this.#device(version);
      const via = baseOf(subnet);
      await links.addNeighbour({ device, address: via, mac });
      await links.addFdb({ device, mac, remote: address });
      await links.addRoute({ prefix: subnet, via, device, onlink: true, replace: true });
    }
    this.leases.set(name, leases);
  }

  /** EventRemoved: what is not there is only worth a line in flannel's log. */
  async #remove(name: string, leases: Leases): Promise<void> {
    const { links } = this.#options.host;
    for (const version of VERSIONS) {
      const { subnet, address, mac } = leases[version];
      const device = this.#device(version);
      const via = baseOf(subnet);
      await links.removeNeighbour({ device, address: via, mac }).catch(() => {});
      await links.removeFdb({ device, mac, remote: address }).catch(() => {});
      await links.removeRoute({ prefix: subnet, device }).catch(() => {});
    }
    this.leases.delete(name);
  }
}

/** nodeToLease; null where flannel fails on it, or takes the node for one of another backend. */
function leasesOf(node: KubeNode): Leases | null {
  const { annotations = {} } = node.metadata;
  if (annotations[`${PREFIX}backend-type`] !== 'vxlan') return null;
  const leases: Partial<Leases> = {};
  for (const version of VERSIONS) {
    const { data, address } = FAMILIES[version];
    const subnet = subnetOf(node, version);
    const [text, remote] = [annotations[PREFIX + data], annotations[PREFIX + address]];
    if (subnet === undefined || text === undefined || remote === undefined) return null;
    const { VtepMAC: mac } = JSON.parse(text) as { VtepMAC: string };
    leases[version] = { subnet, address: remote, mac };
  }
  return leases as Leases;
}

/** The first pod network of a family. */
function subnetOf({ spec = {} }: KubeNode, version: Version): string | undefined {
  const all = spec.podCIDRs ?? (spec.podCIDR === undefined ? [] : [spec.podCIDR]);
  return all.find((prefix) => prefix.includes(':') === (version === 'v6'));
}

function baseOf(subnet: string): string {
  return subnet.split('/')[0] ?? '';
}

/** pkg/mac. */
function randomMac(): string {
  const bytes = randomBytes(6);
  bytes[0] = ((bytes[0] ?? 0) & 0xfe) | 0x02;
  return [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join(':');
}
