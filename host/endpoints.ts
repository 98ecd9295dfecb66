// Endpoints: pods attached to this node. The interface is made here, in the host's namespace, where
// its descriptor stays; then it moves into the pod's namespace and is set up there: by the CNI
// plugin between prepare() and start(), or by add(), where the host may enter namespaces itself.

import type { Endpoint } from '../engine/model.ts';
import type { AttachedEndpoint, Forwarding } from '../engine/forwarding.ts';
import { readTraffic, type Traffic } from '../engine/counters.ts';
import type { Core } from '../engine/core.ts';
import { podInterface } from '../engine/pod-interface.ts';
import { closeFdAsync } from '../ffi/file.ts';
import { moveInterface } from '../ffi/interface-setup.ts';
import { interfaceMac } from '../ffi/interface.ts';
import type { Links } from '../ffi/netlink.ts';
import type { DataPlane } from './data-plane.ts';
import { TUN_QUEUE_LENGTH } from './limits.ts';
import type { PolicyGate } from './policy-gate.ts';
import { openOffloaded, type Tier } from './tier.ts';
import type { DeviceEnds, DeviceSpec } from './worker.ts';

/** `pending` until its interface is up, `closed` until its policy is known, `lost` when the
 * interface was deleted under us. */
export type EndpointState = 'pending' | 'closed' | 'ready' | 'lost';

interface Held {
  endpoint: Endpoint;
  state: EndpointState;
  attached: AttachedEndpoint | null;
  fd: number;
  device: string;
  /** While prepare(), start() or add() is at work on it. */
  isBusy: boolean;
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
    const device = await this.prepare(endpoint);
    const { namespace, name, netns } = endpoint;
    try {
      if (netns !== '') {
        await moveInterface(this.#options.links, device, netns, podInterface(endpoint));
      }
      await this.start(namespace, name);
    } catch (error) {
      await this.remove(namespace, name);
      throw error;
    }
  }

  /** Makes a pod's interface and enters the pod in the tables; its packets wait until start().
   * Returns the interface's name. On failure nothing is left of it. */
  async prepare(endpoint: Endpoint): Promise<string> {
    const owner = `${endpoint.namespace}/${endpoint.name}`;
    const known = this.#held.get(owner);
    if (known !== undefined && known.state !== 'lost') {
      throw new Error(`add endpoint ${owner}: it is attached already`);
    }
    const held: Held = {
      endpoint, state: 'pending', attached: null, fd: -1, device: '', isBusy: true,
    };
    this.#held.set(owner, held);
    try {
      await this.#enter(owner, held);
      return held.device;
    } catch (error) {
      this.#held.delete(owner);
      await this.#release(held);
      throw error;
    } finally {
      held.isBusy = false;
    }
  }

  /** Begins to read a prepared pod's packets. Policy says which of them pass. */
  async start(namespace: string, name: string): Promise<void> {
    const held = this.#held.get(`${namespace}/${name}`);
    if (held?.attached === undefined || held.attached === null || held.state !== 'pending') {
      throw new Error(`start endpoint ${namespace}/${name}: it is not prepared`);
    }
    const { endpoint: { device: kind }, attached: { device: index }, fd: receiver } = held;
    held.isBusy = true;
    try {
      const spec = { index, name: `${namespace}_${name}`, kind, receiver, senders: [] };
      await this.#options.dataPlane.attach(this.#options.spec(spec));
      held.state = 'ready';
    } finally {
      held.isBusy = false;
    }
  }

  /** Lists a pod whose interface went with an earlier daemon. */
  enterLost(endpoint: Endpoint): void {
    this.#held.set(`${endpoint.namespace}/${endpoint.name}`, {
      endpoint, state: 'lost', attached: null, fd: -1, device: '', isBusy: false,
    });
  }

  /** A pod's device and state; null where there is no such pod. */
  find(namespace: string, name: string): { device: number; state: EndpointState } | null {
    const held = this.#held.get(`${namespace}/${name}`);
    return held === undefined ? null : { device: held.attached?.device ?? -1, state: held.state };
  }

  /** Detaches a pod; its interface ends with it. False where there is no such pod. */
  async remove(namespace: string, name: string): Promise<boolean> {
    const owner = `${namespace}/${name}`;
    const held = this.#held.get(owner);
    if (held === undefined) return false;
    if (held.isBusy) throw new Error(`remove endpoint ${owner}: it is being attached`);
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
      void closeFdAsync(held.fd);
      Object.assign(held, { attached: null, fd: -1 });
      return owner;
    }
    return null;
  }

  async close(): Promise<void> {
    for (const held of this.#held.values()) await this.#release(held);
    this.#held.clear();
  }

  async #enter(owner: string, held: Held): Promise<void> {
    const { forwarding, links, policy, tier } = this.#options;
    const { endpoint } = held;
    const opened = makeDevice(endpoint.device, tier);
    held.fd = opened.fd;
    held.device = opened.name;
    const mac = endpoint.device === 'tap' ? interfaceMac(opened.name) : null;
    held.attached = forwarding.attachEndpoint(owner, endpoint.addresses, mac);
    policy.attach(held.attached.device, endpoint);
    await links.setLink(opened.name, { queueLength: TUN_QUEUE_LENGTH });
  }

  async #release(held: Held): Promise<void> {
    if (held.attached !== null) {
      await this.#options.dataPlane.detach(held.attached.device);
      if (held.attached !== null) {
        this.#options.policy.detach(held.attached.device);
        this.#options.forwarding.detachEndpoint(held.attached);
      }
    }
    const { fd } = held;
    Object.assign(held, { attached: null, fd: -1 });
    if (fd >= 0) await closeFdAsync(fd);
  }
}

/** Makes a pod's interface in our namespace. Its descriptor is non-blocking. */
function makeDevice(kind: Endpoint['device'], tier: Tier): { fd: number; name: string } {
  return openOffloaded({ name: 'culvpod%d', kind }, tier);
}
