// Endpoints: pods attached to this node. The interface is made here, in the host's namespace, where
// its descriptor stays; then it moves into the pod's namespace and is set up there.

import type { Endpoint } from '../engine/model.ts';
import type { AttachedEndpoint, Forwarding } from '../engine/forwarding.ts';
import { readTraffic, type Traffic } from '../engine/counters.ts';
import type { Core } from '../engine/core.ts';
import { addressFamily, hostPrefix } from '../engine/address.ts';
import { closeFdAsync } from '../ffi/file.ts';
import { interfaceMac } from '../ffi/interface.ts';
import { Links } from '../ffi/netlink.ts';
import { openNamespace } from '../ffi/netns.ts';
import type { DataPlane } from './data-plane.ts';
import { TUN_QUEUE_LENGTH } from './limits.ts';
import type { PolicyGate } from './policy-gate.ts';
import { openOffloaded, type Tier } from './tier.ts';
import type { DeviceEnds, DeviceSpec } from './worker.ts';

/** Gateways that a TAP's default routes name; the core answers for them (neighbour.ts). */
const TAP_GATEWAY = { IPv4: '169.254.1.1', IPv6: 'fe80::1' };

/** `pending` until its interface is up, `closed` until its policy is known, `lost` when the
 * interface was deleted under us. */
export type EndpointState = 'pending' | 'closed' | 'ready' | 'lost';

interface Held {
  endpoint: Endpoint;
  state: EndpointState;
  attached: AttachedEndpoint | null;
  fds: number[];
  device: string;
}

export interface EndpointReport extends Traffic {
  namespace: string;
  name: string;
  uid: string;
  device: string;
  kind: 'tun' | 'tap';
  addresses: string[];
  state: EndpointState;
}

export interface EndpointsOptions {
  core: Core;
  forwarding: Forwarding;
  dataPlane: DataPlane;
  policy: PolicyGate;
  links: Links;
  tier: Tier;
  /** Queues of each device, one for each worker. */
  queues: number;
  /** Adds what the configuration says of the device. */
  spec(device: DeviceEnds): DeviceSpec;
}

export class Endpoints {
  readonly #options: EndpointsOptions;
  readonly #held = new Map<string, Held>();

  constructor(options: EndpointsOptions) {
    this.#options = options;
  }

  get count(): number {
    return this.#held.size;
  }

  list(): EndpointReport[] {
    return [...this.#held.values()].map(({ endpoint, state, attached, device }) => ({
      namespace: endpoint.namespace,
      name: endpoint.name,
      uid: endpoint.uid,
      device,
      kind: endpoint.device,
      addresses: endpoint.addresses,
      state: state === 'ready' && !this.#isOpen(attached) ? 'closed' : state,
      ...(attached === null
        ? { rxPackets: 0, rxBytes: 0, txPackets: 0, txBytes: 0 }
        : readTraffic(this.#options.core, attached.nextHop)),
    }));
  }

  /** The pod that has an address, as `namespace/name`; null where none here has. */
  podOf(address: string): string | null {
    for (const [owner, { endpoint }] of this.#held) {
      if (endpoint.addresses.includes(address)) return owner;
    }
    return null;
  }

  #isOpen(attached: AttachedEndpoint | null): boolean {
    return attached !== null && this.#options.policy.isOpen(attached.device);
  }

  /** Attaches a pod. On failure nothing is left of it. */
  async add(endpoint: Endpoint): Promise<void> {
    const owner = `${endpoint.namespace}/${endpoint.name}`;
    const known = this.#held.get(owner);
    if (known !== undefined && known.state !== 'lost') {
      throw new Error(`add endpoint ${owner}: it is attached already`);
    }
    this.#held.delete(owner);
    const held: Held = { endpoint, state: 'pending', attached: null, fds: [], device: '' };
    this.#held.set(owner, held);
    try {
      await this.#attach(owner, held);
      held.state = 'ready';
    } catch (error) {
      this.#held.delete(owner);
      await this.#release(held);
      throw error;
    }
  }

  /** Detaches a pod; its interface ends with it. False where there is no such pod. */
  async remove(namespace: string, name: string): Promise<boolean> {
    const owner = `${namespace}/${name}`;
    const held = this.#held.get(owner);
    if (held === undefined) return false;
    if (held.state === 'pending') throw new Error(`remove endpoint ${owner}: it is being attached`);
    this.#held.delete(owner);
    await this.#release(held);
    return true;
  }

  /** Told that a device's interface was deleted. Returns the pod's name, or null. */
  lost(index: number): string | null {
    for (const [owner, held] of this.#held) {
      if (held.attached?.device !== index) continue;
      held.state = 'lost';
      this.#options.policy.detach(index);
      this.#options.forwarding.detachEndpoint(held.attached);
      void closeAll(held.fds);
      Object.assign(held, { attached: null, fds: [] });
      return owner;
    }
    return null;
  }

  async close(): Promise<void> {
    for (const held of this.#held.values()) await this.#release(held);
    this.#held.clear();
  }

  async #attach(owner: string, held: Held): Promise<void> {
    const { forwarding, dataPlane, policy, tier, queues, spec } = this.#options;
    const { endpoint } = held;
    const opened = openOffloaded({ name: 'culvpod%d', kind: endpoint.device }, tier, queues);
    held.fds = opened.fds;
    held.device = opened.name;
    const mac = endpoint.device === 'tap' ? interfaceMac(opened.name) : null;
    held.attached = forwarding.attachEndpoint(owner, endpoint.addresses, mac);
    policy.attach(held.attached.device, endpoint);
    await this.#setUp(opened.name, endpoint);
    await dataPlane.attach(spec({
      index: held.attached.device,
      name: `${endpoint.namespace}_${endpoint.name}`,
      kind: endpoint.device,
      receivers: held.fds,
      senders: [],
    }));
  }

  async #release(held: Held): Promise<void> {
    if (held.attached !== null) {
      await this.#options.dataPlane.detach(held.attached.device);
      if (held.attached !== null) {
        this.#options.policy.detach(held.attached.device);
        this.#options.forwarding.detachEndpoint(held.attached);
      }
    }
    const { fds } = held;
    Object.assign(held, { attached: null, fds: [] });
    await closeAll(fds);
  }

  /** Moves the interface into the pod's namespace and gives it name, MTU, addresses and routes. */
  async #setUp(device: string, endpoint: Endpoint): Promise<void> {
    if (endpoint.netns === '') return;
    const namespace = openNamespace(endpoint.netns);
    try {
      await this.#options.links.setLink(device, {
        queueLength: TUN_QUEUE_LENGTH, namespaceFd: namespace.fd,
      });
      const links = namespace.run(() => new Links());
      try {
        await setUpInterface(links, device, endpoint);
      } finally {
        links.close();
      }
    } finally {
      namespace.close();
    }
  }
}

async function closeAll(fds: readonly number[]): Promise<void> {
  for (const fd of fds) await closeFdAsync(fd);
}

async function setUpInterface(links: Links, device: string, endpoint: Endpoint): Promise<void> {
  const name = endpoint.interfaceName;
  const isTap = endpoint.device === 'tap';
  await links.setLink(device, { newName: name });
  await links.setLink(name, { mtu: endpoint.mtu, linkLocalIpv6: isTap });
  await links.setLink(name, { up: true });
  for (const address of endpoint.addresses) await links.addAddress(name, hostPrefix(address));
  for (const family of ['IPv4', 'IPv6'] as const) {
    if (!endpoint.addresses.some((address) => addressFamily(address) === family)) continue;
    const prefix = family === 'IPv4' ? '0.0.0.0/0' : '::/0';
    const gateway = isTap ? { via: TAP_GATEWAY[family], onlink: true } : {};
    await links.addRoute({ prefix, device: name, ...gateway });
  }
}
