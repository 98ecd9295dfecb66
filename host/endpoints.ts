// Endpoints: pods attached to this node. The interface is made here, in the host's namespace, where
// its descriptor stays; then it moves into the pod's namespace and is set up there: by the CNI
// plugin between prepare() and start(), or by add(), where the host may enter namespaces itself.

import type { Endpoint, LossReason, Pod } from '../engine/model.ts';
import type { AttachedEndpoint, Forwarding } from '../engine/forwarding.ts';
import { readTraffic, type Traffic } from '../engine/counters.ts';
import type { Core } from '../engine/core.ts';
import { podInterface } from '../engine/pod-interface.ts';
import { closeFd, closeFdAsync } from '../ffi/file.ts';
import { moveInterface } from '../ffi/interface-setup.ts';
import { interfaceMac } from '../ffi/interface.ts';
import type { Links } from '../ffi/netlink.ts';
import { tunDevice } from '../ffi/tun.ts';
import type { DataPlane } from './data-plane.ts';
import { podName, type Handover, type PodRecord } from './handover.ts';
import { TUN_QUEUE_LENGTH } from './limits.ts';
import type { PolicyGate } from './policy-gate.ts';
import { openOffloaded, setOffloads, type Tier } from './tier.ts';
import type { DeviceEnds, DeviceSpec } from './worker.ts';

/** `pending` until its interface is up, `closed` until its policy is known, `lost` when the
 * interface was deleted under us. */
export type EndpointState = 'pending' | 'closed' | 'ready' | 'lost';

interface Held {
  endpoint: Endpoint;
  state: EndpointState;
  attached: AttachedEndpoint | null;
  fds: number[];
  device: string;
  /** The pod's side of a TAP, which its interface takes along; null for a TUN. */
  mac: string | null;
  /** True where the CNI plugin has asked for it. */
  isCni: boolean;
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
  /** Queues of each device, one for each worker. */
  queues: number;
  handover: Handover;
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

  /** The pods that have an interface. */
  pods(): Pod[] {
    return [...this.#held.values()].filter(({ state }) => state !== 'lost')
      .map(({ endpoint: { namespace, name, uid, addresses } }) =>
        ({ namespace, name, uid, addresses }));
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
    const device = await this.prepare(endpoint, false);
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
  async prepare(endpoint: Endpoint, isCni = true): Promise<string> {
    const owner = `${endpoint.namespace}/${endpoint.name}`;
    const known = this.#held.get(owner);
    if (known !== undefined && known.state !== 'lost') {
      throw new Error(`add endpoint ${owner}: it is attached already`);
    }
    this.#held.delete(owner);
    const held: Held = { ...heldOf(endpoint, 'pending'), isCni, isBusy: true };
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
    const { endpoint, device, mac, isCni, attached: { device: index } } = held;
    held.isBusy = true;
    try {
      this.#options.handover.writePod(
        podName(namespace, name), { endpoint, device, mac, isCni, index });
      await this.#options.dataPlane.attach(this.#spec(held, index));
      held.state = 'ready';
    } finally {
      held.isBusy = false;
    }
  }

  /** Goes on with a pod whose device an earlier daemon has left. Returns what the workers are to
   * read, or why the device is of no use; the pod is listed as lost then. */
  async restore(
    { endpoint, device, mac, isCni }: PodRecord,
  ): Promise<DeviceSpec | LossReason> {
    const { forwarding, policy, tier, queues, handover } = this.#options;
    const { namespace, name } = endpoint;
    const owner = `${namespace}/${name}`;
    const keptAs = podName(namespace, name);
    const isThere = handover.offered(`${keptAs}.`).length > 0;
    const fds = handover.takeAll(keptAs, queues);
    const held = { ...heldOf(endpoint, 'pending'), fds, device, mac, isCni };
    this.#held.set(owner, held);
    if (fds.length === 0 || !fds.every((fd) => setOffloads(fd, tier))) {
      const isEnded = fds.some((fd) => tunDevice(fd) === null);
      held.state = 'lost';
      await this.#closeDevice(held);
      if (fds.length === 0) return isThere ? 'workers' : 'ended';
      return isEnded ? 'ended' : 'tier';
    }
    const attached = forwarding.attachEndpoint(owner, endpoint.addresses, mac);
    held.attached = attached;
    policy.attach(attached.device, endpoint);
    held.state = 'ready';
    return this.#spec(held, attached.device);
  }

  /** Lists a pod whose interface went with an earlier daemon. */
  enterLost(endpoint: Endpoint): void {
    this.#held.set(`${endpoint.namespace}/${endpoint.name}`, heldOf(endpoint, 'lost'));
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
      held.attached = null;
      void this.#closeDevice(held);
      return owner;
    }
    return null;
  }

  async close(): Promise<void> {
    for (const held of this.#held.values()) await this.#release(held);
    this.#held.clear();
  }

  /** Leaves the pods' devices to the next daemon. Precondition: no worker runs any more. */
  leave(): void {
    for (const { fds } of this.#held.values()) for (const fd of fds) closeFd(fd);
    this.#held.clear();
  }

  async #enter(owner: string, held: Held): Promise<void> {
    const { forwarding, links, policy, tier, queues, handover } = this.#options;
    const { endpoint } = held;
    const opened = openOffloaded({ name: 'culvpod%d', kind: endpoint.device }, tier, queues);
    held.fds = opened.fds;
    held.device = opened.name;
    handover.keepAll(podName(endpoint.namespace, endpoint.name), held.fds);
    held.mac = endpoint.device === 'tap' ? interfaceMac(opened.name) : null;
    held.attached = forwarding.attachEndpoint(owner, endpoint.addresses, held.mac);
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
    held.attached = null;
    await this.#closeDevice(held);
  }

  /** What the workers need to read the pod's packets. */
  #spec({ endpoint, fds: receivers }: Held, index: number): DeviceSpec {
    const { namespace, name, device: kind } = endpoint;
    const ends = { index, name: `${namespace}_${name}`, kind, receivers, senders: [] };
    return this.#options.spec(ends);
  }

  /** Ends the pod's device, which nobody uses any more; its record goes first. */
  async #closeDevice(held: Held): Promise<void> {
    const { handover } = this.#options;
    const { fds, endpoint: { namespace, name } } = held;
    held.fds = [];
    handover.removePod(podName(namespace, name));
    handover.forgetAll(podName(namespace, name));
    for (const fd of fds) await closeFdAsync(fd);
  }
}

function heldOf(endpoint: Endpoint, state: EndpointState): Held {
  return {
    endpoint, state, attached: null, fds: [], device: '', mac: null, isCni: false, isBusy: false,
  };
}
