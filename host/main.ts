// The node daemon: puts devices, tables, data workers and control sockets together, and takes them
// apart again in the opposite order.

import { join } from 'node:path';
import { DEVICE_NODE } from '../wasm/abi/layout.ts';
import type { Core } from '../engine/core.ts';
import { Forwarding } from '../engine/forwarding.ts';
import { ENDED_FOLDER, type Delta, type Pod, type Snapshot } from '../engine/model.ts';
import { PolicyTables } from '../engine/tables/policy.ts';
import { errnoName } from '../ffi/errno.ts';
import { closeFd } from '../ffi/file.ts';
import type { Links } from '../ffi/netlink.ts';
import { Attachments } from './attachments.ts';
import { Capture } from './capture.ts';
import type { ControlServer } from './control.ts';
import type { DataPlane } from './data-plane.ts';
import {
  forwardingOptions, makeIpam, makeNodePorts, makeServices, moduleEndpoints, moduleStore,
  nodePortAddresses, overlayMtu, overlayNetworks, setOffloads, setTunnelStarts, setTunnelTap,
} from './derived.ts';
import { diskFiles } from './durable.ts';
import { Endpoints } from './endpoints.ts';
import { Freshness } from './freshness.ts';
import type { Handover } from './handover.ts';
import { Heap } from './heap.ts';
import type { HttpServer } from './http.ts';
import { httpServer, unreadyReason } from './http-health.ts';
import { Intake } from './intake.ts';
import { Ipam } from './ipam.ts';
import { nodeFacts } from './methods.ts';
import { HostMetrics } from './metrics.ts';
import { Modules } from './modules.ts';
import { NodeDevice } from './node-device.ts';
import type { NodePorts } from './node-ports.ts';
import { Observer } from './observe.ts';
import { openParts, type HostOptions, type HostParts } from './parts.ts';
import { PathMtus, takeUnderlayMtu } from './path-mtu.ts';
import { PeerTunnels } from './peer-tunnels.ts';
import { PolicyGate } from './policy-gate.ts';
import {
  LastKnown, nothingRecovered, recoverPackets, restorePods, takeFlows, type RestoredPods,
} from './recovery.ts';
import type { ServiceGate } from './service-gate.ts';
import { controlServer, syncServer } from './sockets.ts';
import { DeviceSpecs } from './specs.ts';
import { LOCK_NAME } from './succession-words.ts';
import { tellSubnet } from './subnet-env.ts';
import type { Tier, TierName } from './tier.ts';
import type { Underlay } from './underlay.ts';
import { UnderlayWatch } from './underlay-watch.ts';

export type { HostOptions } from './parts.ts';
export { CONTROL_SOCKET, SYNC_SOCKET } from './sockets.ts';

/** First wait before a deleted device is made again, and the longest. */
const REOPEN_FIRST_MS = 50;
const REOPEN_LIMIT_MS = 5000;

/** One running daemon. */
export class Host {
  readonly options: HostOptions;
  readonly startedMs = performance.now();
  readonly core: Core;
  readonly forwarding: Forwarding;
  readonly services: ServiceGate;
  readonly nodePorts: NodePorts;
  readonly dataPlane: DataPlane;
  readonly nodeDevice: NodeDevice;
  readonly endpoints: Endpoints;
  readonly policy: PolicyGate;
  readonly ipam: Ipam;
  readonly attachments: Attachments;
  readonly observer: Observer;
  readonly modules: Modules;
  readonly intake: Intake;
  readonly underlay: Underlay;
  readonly tier: Tier;
  readonly control: ControlServer;
  readonly sync: ControlServer;
  readonly handover: Handover;
  readonly metrics = new HostMetrics(this);
  readonly capture = new Capture(this);
  readonly pathMtus: PathMtus;
  readonly freshness = new Freshness(Date.now);
  readonly lastKnown: LastKnown;
  /** What an earlier daemon has left us. */
  readonly recovered = nothingRecovered();
  isNodeDeviceLost = false;
  /** The tier in use: one less once the TAP of T3 is gone. */
  tierName: TierName;
  readonly #links: Links;
  readonly #specs: DeviceSpecs;
  readonly #underlayWatch: UnderlayWatch;
  readonly #peerTunnels: PeerTunnels;
  readonly #lock: number;
  /** The cluster's pods of this node, by namespace and name. */
  readonly #pods = new Map<string, Pod>();
  readonly #heap = new Heap();
  readonly #http: HttpServer | null;
  #isStopping = false;
  #hasBegun = false;
  #warned = '';

  private constructor(options: HostOptions, parts: HostParts) {
    const { config, log } = options;
    const { links, underlay, tier, handover } = parts;
    this.options = options;
    this.#lock = parts.lock;
    this.#links = links;
    this.underlay = underlay;
    this.#specs = new DeviceSpecs(config, tier);
    const onMoved = (): Promise<void> => this.#takeUnderlay();
    const onMtu = (): Promise<void> => takeUnderlayMtu(this);
    this.#underlayWatch = new UnderlayWatch({ underlay, links, log, onMoved, onMtu });
    this.tier = tier;
    this.tierName = tier.name;
    this.handover = handover;
    this.core = parts.core;
    this.dataPlane = parts.dataPlane;
    this.lastKnown = new LastKnown(config, log);
    const { limits, limits: { workers: queues } } = parts;
    const policyTables = new PolicyTables(this.core, limits.policy);
    this.policy = new PolicyGate(policyTables, config.policy.unknownPods, log);
    this.forwarding = new Forwarding(this.core, limits, forwardingOptions(config, underlay.mtu));
    this.pathMtus = new PathMtus({ core: this.core, forwarding: this.forwarding, underlay, log });
    this.services = makeServices(this.core, limits, this.forwarding, config);
    this.nodePorts = makeNodePorts(config, underlay, log);
    const onOpened = (): Promise<void> => this.#attachUnderlay();
    this.#peerTunnels = new PeerTunnels(
      { forwarding: this.forwarding, underlay, links, log, config, onOpened });
    this.forwarding.devices.closedAtStart = config.policy.unknownPods === 'closed';
    setOffloads(this.core, this.forwarding.devices, tier, config);
    setTunnelStarts(this.forwarding.devices, underlay);
    setTunnelTap(this.forwarding.devices, underlay.tap, log);
    const podNetworks = overlayNetworks(config);
    this.nodeDevice = new NodeDevice(links, {
      ...config.device, mtu: overlayMtu(underlay, config), podNetworks, tier, queues, handover,
    });
    this.endpoints = new Endpoints({
      core: this.core,
      forwarding: this.forwarding,
      dataPlane: this.dataPlane,
      policy: this.policy,
      links,
      tier,
      queues,
      handover,
      spec: (device) => this.#specs.of(device),
    });
    this.ipam = makeIpam(config, log);
    this.attachments = this.#makeAttachments();
    this.modules = this.#makeModules(policyTables);
    this.observer = new Observer({
      core: this.core,
      policy: policyTables,
      podOf: (address) => this.endpoints.podOf(address),
      moduleAt: (place) => this.modules.nameOf(place),
    });
    this.intake = new Intake({
      local: config.nodeName,
      onSnapshot: (snapshot) => this.#take(snapshot),
      onDelta: (delta) => this.#takeDelta(delta),
      endpoints: () => this.endpoints.pods(),
      facts: () => nodeFacts(this),
      onSource: () => this.freshness.update(this.intake),
      wantsSnapshot: () => this.lastKnown.isLong,
    });
    this.control = controlServer(this);
    this.sync = syncServer(this);
    this.#http = httpServer(this);
  }

  /** Starts a daemon. Rejects with what is missing; then nothing is left behind. */
  static async start(options: HostOptions): Promise<Host> {
    let host: Host | null = null;
    const parts = await openParts(options, {
      onLost: (index, errno) => (host as Host).#lost(index, errno),
      onTapLost: () => (host as Host).#tapLost(),
      onModule: (report) => host?.modules.hear(report),
      onStuck: (stuck) => host?.modules.stuck(stuck),
    });
    host = new Host(options, parts);
    try {
      await parts.warm;
      options.times.mark('tables');
      await host.#open();
      return host;
    } catch (error) {
      await host.stop(parts.isLeft);
      throw error;
    }
  }

  /** How many pods the cluster has on this node. */
  get pods(): number {
    return this.#pods.size;
  }

  /** Tells of the pods that are attached here. */
  endpointsChanged(): void {
    this.intake.tellEndpoints();
    this.modules.endpointsChanged();
  }

  /** What is not as the cluster says. */
  problems(): string[] {
    return [this.forwarding, this.services.tables, this.#peerTunnels]
      .flatMap((part) => part.problems());
  }

  /** Why no other daemon could take over from this one, or null. */
  succeedsNot(): string | null {
    if (this.handover.keeper === 'none') return 'nothing is handed over: handover.enabled is false';
    if (process.pid === 1) return 'a container ends with its process 1';
    if (this.tierName === 'T3') return 'two daemons cannot share the device of tier T3';
    return null;
  }

  /** What another daemon needs of ours to take over, by name. */
  possessions(): Map<string, number> {
    return new Map(this.handover.kept).set(LOCK_NAME, this.#lock);
  }

  /** Takes no changes from now on, and makes those that are under way. */
  async freeze(): Promise<void> {
    const reason = 'another daemon takes over';
    await Promise.all([this.control.close(reason), this.sync.close(reason), this.#http?.close()]);
    await this.attachments.settle();
    await this.modules.settle();
    await this.lastKnown.settle();
  }

  /** Takes changes from now on, or again. */
  async thaw(): Promise<void> {
    await this.control.listen();
    void this.attachments.takeNotes();
    await this.sync.listen();
    void this.#http?.listen();
  }

  /** Turns no more packets over, and touches nothing that another daemon has. */
  async halt(): Promise<void> {
    this.#underlayWatch.close();
    await this.nodePorts.close();
    await this.dataPlane.halt();
  }

  /** Ends the daemon: no more requests, no more packets, then no more devices, unless these are
   * left to the next daemon. */
  async stop(isLeft = this.options.config.device.keep): Promise<void> {
    if (this.#isStopping) return;
    this.#isStopping = true;
    this.#underlayWatch.close();
    this.pathMtus.close();
    const isKept = isLeft && this.handover.keeper !== 'none';
    await this.#http?.close();
    this.attachments.close();
    this.modules.close();
    this.#heap.close();
    await Promise.allSettled([this.control.close(), this.sync.close()]);
    this.observer.close();
    await this.nodePorts.close();
    await this.#peerTunnels.close(isKept);
    if (!isKept) await this.endpoints.close();
    await this.dataPlane.stop();
    if (isKept) {
      this.endpoints.leave();
      this.nodeDevice.leave();
    } else {
      await this.nodeDevice.close();
      this.lastKnown.clear();
    }
    await this.lastKnown.close();
    this.handover.end(isKept);
    this.underlay.close();
    this.#links.close();
    closeFd(this.#lock);
  }

  async #open(): Promise<void> {
    const { log, times } = this.options;
    const limits = [...this.tier.limits, ...this.underlay.limits];
    const workers = this.dataPlane.workers.length;
    log.info({ tier: this.tier.name, limits, workers }, 'data plane tier');
    await this.nodeDevice.open();
    times.mark('device');
    this.attachments.open();
    const savedMs = await this.lastKnown.recall(
      (snapshot) => this.#applySnapshot(snapshot), (delta) => this.#applyDelta(delta));
    this.recovered.isClusterKnown = savedMs !== null;
    if (savedMs === null) await this.#takeConfigured();
    else this.freshness.recalled(savedMs);
    times.mark('cluster');
    const pods = await restorePods(
      this.handover, this.endpoints, this.attachments.ready, this.recovered, log);
    times.mark('pods');
    await this.modules.restore();
    await this.dataPlane.attach(
      ...this.#specs.underlay(this.underlay), this.#specs.node(this.nodeDevice), ...pods.specs);
    this.#hasBegun = true;
    times.mark('workers');
    await this.#begin(pods);
    times.mark('flows');
    log.info({ ...this.recovered, keeper: this.handover.keeper }, 'left by an earlier daemon');
    this.#underlayWatch.begin();
    if (this.options.config.underlay.pathMtu) this.pathMtus.begin();
    this.nodePorts.begin();
    await this.thaw();
    times.mark('sockets');
  }

  /** Has packets turned over from now on: those first that an earlier daemon had in its hands. */
  async #begin(pods: RestoredPods): Promise<void> {
    const { predecessor = null, config, log } = this.options;
    await predecessor?.stop();
    if (config.handover.enabled) takeFlows(this.core, this.handover, this.recovered, log);
    recoverPackets(
      this.core, this.nodeDevice.isLeft, pods, this.recovered, this.handover);
    this.dataPlane.begin();
    predecessor?.end();
    this.handover.refuse('');
    await this.handover.settle();
  }

  #makeModules(policy: PolicyTables): Modules {
    return new Modules({
      core: this.core,
      dataPlane: this.dataPlane,
      store: moduleStore(this.options.config),
      log: this.options.log,
      endpoints: () => moduleEndpoints(this.endpoints, policy),
    });
  }

  #makeAttachments(): Attachments {
    const { config, log } = this.options;
    return new Attachments({
      ipam: this.ipam,
      endpoints: this.endpoints,
      policy: this.policy,
      log,
      device: this.nodeDevice.options,
      policyWaitMs: config.cni.policyWaitSeconds * 1000,
      ended: diskFiles(join(config.runtimeDirectory, ENDED_FOLDER)),
      reason: (hasOwnIpam) => this.#closedReason(hasOwnIpam),
      unready: () => unreadyReason(this),
      hasHostPorts: config.nodePorts.enabled,
      hasSidecar: () => this.intake.isConnected,
      knownPods: () => this.#pods.values(),
      onChange: () => this.endpointsChanged(),
    });
  }

  /** Why pods cannot be attached now, or null. */
  #closedReason(hasOwnIpam: boolean): string | null {
    if (!this.dataPlane.isRunning) return 'the data plane is not running';
    if (this.isNodeDeviceLost) return `the device ${this.options.config.device.name} is lost`;
    if (!hasOwnIpam || this.ipam.ranges.length > 0) return null;
    return 'the pod networks of this node are not known: no sidecar has told them, '
      + 'and cni.podCidrs is not set';
  }

  /** Until a sidecar says more, our node is the one that the configuration describes. */
  async #takeConfigured(): Promise<void> {
    const { nodeName: name, cni: { podCidrs } } = this.options.config;
    if (podCidrs.length === 0) return;
    const addresses = Object.values(this.underlay.addresses);
    const nodes = [{ name, podCidrs, addresses, tunnels: [] }];
    this.forwarding.applySnapshot({ revision: 0, local: name, nodes, pods: [] });
    await this.#applied();
  }

  /** Goes on with the underlay's sockets as they are now, and tells who wants to know. */
  async #takeUnderlay(): Promise<void> {
    setTunnelStarts(this.forwarding.devices, this.underlay);
    this.nodePorts.listenAt(nodePortAddresses(this.options.config, this.underlay));
    await this.#attachUnderlay();
    this.intake.tellNode();
  }

  /** Before the workers begin there is nothing to do: they begin with all that is open then. */
  async #attachUnderlay(): Promise<void> {
    if (this.#hasBegun) await this.dataPlane.attach(...this.#specs.underlay(this.underlay));
  }

  async #take(snapshot: Snapshot): Promise<void> {
    await this.#applySnapshot(snapshot);
    this.lastKnown.replace(snapshot);
    this.#heap.settleSoon();
    this.options.log.info(
      { revision: snapshot.revision, nodes: snapshot.nodes.length }, 'snapshot in force');
  }

  async #takeDelta(delta: Delta): Promise<void> {
    await this.#applyDelta(delta);
    this.lastKnown.append(delta);
  }

  async #applySnapshot(snapshot: Snapshot): Promise<void> {
    await this.#peerTunnels.prepare(snapshot.nodes);
    if (snapshot.policy !== undefined) {
      this.policy.replace(snapshot.policy);
      this.forwarding.devices.closedAtStart = true;
    }
    this.forwarding.applySnapshot(snapshot);
    this.services.replace(snapshot.services);
    this.nodePorts.take(snapshot);
    this.#pods.clear();
    for (const pod of snapshot.pods) this.#pods.set(podKey(pod), pod);
    await this.#applied();
  }

  async #applyDelta(delta: Delta): Promise<void> {
    await this.#peerTunnels.prepare(delta.nodes);
    if (delta.policy !== undefined) this.policy.apply(delta.policy);
    this.forwarding.applyDelta(delta);
    this.services.apply(delta);
    this.nodePorts.apply(delta);
    for (const pod of delta.pods) this.#pods.set(podKey(pod), pod);
    for (const pod of delta.removedPods) this.#pods.delete(podKey(pod));
    await this.#applied();
  }

  async #applied(): Promise<void> {
    await this.#peerTunnels.apply();
    const problems = this.problems();
    if (problems.join('\n') !== this.#warned) {
      for (const problem of problems) this.options.log.warn({ problem }, 'not as the cluster says');
    }
    this.#warned = problems.join('\n');
    this.modules.endpointsChanged();
    const podCidrs = this.forwarding.local?.podCidrs ?? [];
    this.ipam.setRanges(podCidrs);
    const isKnown = podCidrs.join() === this.nodeDevice.podCidrs.join();
    if (isKnown) return;
    await this.nodeDevice.configure(podCidrs);
    tellSubnet(this.options.config, this.nodeDevice, this.options.log);
  }

  #lost(index: number, errno: number): void {
    const { log, config } = this.options;
    const error = errnoName(errno);
    if (index === DEVICE_NODE) {
      log.error({ device: config.device.name, error }, 'device deleted under us; making it again');
      this.isNodeDeviceLost = true;
      void this.#reopenNodeDevice(REOPEN_FIRST_MS);
      return;
    }
    const endpoint = this.endpoints.lost(index);
    this.modules.endpointsChanged();
    log.error({ endpoint, error }, 'endpoint lost: its interface was deleted');
  }

  #tapLost(): void {
    const { log, config } = this.options;
    this.underlay.tap?.unwatch();
    for (const family of ['IPv4', 'IPv6'] as const) this.forwarding.devices.clearTunnelTap(family);
    this.tierName = 'T2';
    const fields = { device: config.dataPlane.tunnelDevice };
    log.error(fields, 'device deleted under us; going on without it, as at tier T2');
  }

  async #reopenNodeDevice(waitMs: number): Promise<void> {
    if (this.#isStopping) return;
    try {
      await this.nodeDevice.reopen();
      await this.dataPlane.attach(this.#specs.node(this.nodeDevice));
      this.isNodeDeviceLost = false;
      this.options.log.info({ device: this.options.config.device.name }, 'device is back');
    } catch (error) {
      const { message } = error as Error;
      this.options.log.error({ error: message, againInMs: waitMs }, 'cannot make the device again');
      const next = Math.min(waitMs * 2, REOPEN_LIMIT_MS);
      setTimeout(() => void this.#reopenNodeDevice(next), waitMs);
    }
  }
}

function podKey({ namespace, name }: { namespace: string; name: string }): string {
  return `${namespace}/${name}`;
}
