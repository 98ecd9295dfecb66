// The node daemon: puts devices, tables, data workers and control sockets together, and takes them
// apart again in the opposite order.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { DEVICE_NODE } from '../wasm/abi/layout.ts';
import type { Core } from '../engine/core.ts';
import { Forwarding } from '../engine/forwarding.ts';
import type { Log } from '../engine/log.ts';
import type { Limits } from '../engine/memory-map.ts';
import { ENDED_FOLDER, type Delta, type Pod, type Snapshot } from '../engine/model.ts';
import { PolicyTables } from '../engine/tables/policy.ts';
import { errnoName } from '../ffi/errno.ts';
import { closeFd } from '../ffi/file.ts';
import { Links } from '../ffi/netlink.ts';
import { Attachments } from './attachments.ts';
import { Capture } from './capture.ts';
import type { HostConfig } from './config.ts';
import type { ControlServer } from './control.ts';
import { DataPlane } from './data-plane.ts';
import {
  forwardingOptions, handoverOptions, lockRuntimeDirectory, makeIpam, makeNodePorts, makeServices,
  memoryLimits, moduleEndpoints, moduleStore, nodePortAddresses, overlayMtu, overlayNetworks,
  setOffloads, setTunnelStarts, setTunnelTap,
} from './derived.ts';
import { diskFiles } from './durable.ts';
import { Endpoints } from './endpoints.ts';
import { Freshness } from './freshness.ts';
import { Handover } from './handover.ts';
import { Heap } from './heap.ts';
import type { HttpServer } from './http.ts';
import { httpServer, unreadyReason } from './http-health.ts';
import { Intake } from './intake.ts';
import { Ipam } from './ipam.ts';
import { nodeFacts } from './methods.ts';
import { HostMetrics } from './metrics.ts';
import { Modules } from './modules.ts';
import { keptDevice, NodeDevice } from './node-device.ts';
import type { NodePorts } from './node-ports.ts';
import { Observer } from './observe.ts';
import { PeerTunnels } from './peer-tunnels.ts';
import { PolicyGate } from './policy-gate.ts';
import {
  LastKnown, makeCore, nothingRecovered, recoverPackets, restorePods,
  type Recovered,
} from './recovery.ts';
import type { ServiceGate } from './service-gate.ts';
import { controlServer, syncServer } from './sockets.ts';
import { DeviceSpecs } from './specs.ts';
import type { StartTimes } from './start-times.ts';
import type { SystemdStore } from './systemd-store.ts';
import { tellSubnet } from './subnet-env.ts';
import { chooseTier, probeKernel, type Tier, type TierName } from './tier.ts';
import { Underlay } from './underlay.ts';
import { UnderlayWatch } from './underlay-watch.ts';
import { warmUp } from './warm-up.ts';

export { CONTROL_SOCKET, SYNC_SOCKET } from './sockets.ts';

/** First wait before a deleted device is made again, and the longest. */
const REOPEN_FIRST_MS = 50;
const REOPEN_LIMIT_MS = 5000;

export interface HostOptions {
  config: HostConfig;
  log: Log;
  version: string;
  /** The core's WebAssembly module. */
  corePath: string;
  /** Where systemd runs us and keeps descriptors for us. */
  store?: SystemdStore | null;
  times: StartTimes;
}

/** What a daemon is made of and must close in the end. */
interface HostParts {
  lock: number;
  links: Links;
  handover: Handover;
  tier: Tier;
  underlay: Underlay;
  limits: Limits;
  core: Core;
  dataPlane: DataPlane;
  recovered: Recovered;
}

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
  readonly freshness = new Freshness(Date.now);
  readonly lastKnown: LastKnown;
  /** What an earlier daemon has left us. */
  readonly recovered: Recovered;
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
    this.#underlayWatch = new UnderlayWatch({ underlay, links, log, onMoved });
    this.tier = tier;
    this.tierName = tier.name;
    this.handover = handover;
    this.core = parts.core;
    this.dataPlane = parts.dataPlane;
    this.recovered = parts.recovered;
    this.lastKnown = new LastKnown(config, log);
    const { limits, limits: { workers: queues } } = parts;
    const policyTables = new PolicyTables(this.core, limits.policy);
    this.policy = new PolicyGate(policyTables, config.policy.unknownPods, log);
    this.forwarding = new Forwarding(this.core, limits, forwardingOptions(config, underlay.mtu));
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
      ...config.device, mtu: overlayMtu(underlay), podNetworks, tier, queues, handover,
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
    const { config, log, times } = options;
    const lock = lockRuntimeDirectory(config.runtimeDirectory);
    const links = new Links();
    const { store = null } = options;
    const handover = await Handover.begin({ ...handoverOptions(config), log, store });
    // A daemon that cannot start leaves what it has found to one that can.
    const isLeft = handover.offered('').length > 0;
    const recovered = nothingRecovered();
    times.mark('holder');
    const module = new WebAssembly.Module(readFileSync(options.corePath));
    const queues = handover.offered(`${keptDevice(config.device.name)}.`).length;
    const limits = memoryLimits(config, queues);
    const core = makeCore(module, limits, config, handover, recovered, log);
    times.mark('core');
    let underlay: Underlay | null = null;
    let host: Host | null = null;
    // The workers' threads start while all else is made ready.
    const dataPlane = new DataPlane({
      core,
      module,
      log,
      onLost: (index, errno) => (host as Host).#lost(index, errno),
      onTapLost: () => (host as Host).#tapLost(),
      onModule: (report) => host?.modules.hear(report),
      onStuck: (stuck) => host?.modules.stuck(stuck),
    });
    try {
      const tier = chooseTier(config.dataPlane.tier, probeKernel());
      const warm = isLeft ? Promise.resolve() : warmUp(module, tier);
      times.mark('tier');
      await handover.ensure();
      underlay = await Underlay.open(links, config, tier, limits.workers, handover);
      times.mark('underlay');
      host = new Host(options, {
        lock, links, handover, tier, underlay, limits, core, dataPlane, recovered,
      });
      // Packets that have waited long enough are not kept waiting for that.
      await warm;
      times.mark('tables');
      await host.#open();
      return host;
    } catch (error) {
      if (host === null) {
        await dataPlane.stop();
        underlay?.close();
        handover.end(isLeft);
        links.close();
        closeFd(lock);
      } else {
        await host.stop(isLeft);
      }
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

  /** Ends the daemon: no more requests, no more packets, then no more devices, unless these are
   * left to the next daemon. */
  async stop(isLeft = this.options.config.device.keep): Promise<void> {
    if (this.#isStopping) return;
    this.#isStopping = true;
    this.#underlayWatch.close();
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
    recoverPackets(this.core, this.nodeDevice.isLeft, pods, this.recovered);
    times.mark('pods');
    await this.modules.restore();
    await this.dataPlane.begin(
      [...this.#specs.underlay(this.underlay), this.#specs.node(this.nodeDevice), ...pods.specs]);
    this.#hasBegun = true;
    this.#underlayWatch.begin();
    times.mark('workers');
    log.info({ ...this.recovered, keeper: this.handover.keeper }, 'left by an earlier daemon');
    await this.control.listen();
    this.attachments.takeNotes();
    await this.sync.listen();
    times.mark('sockets');
    void this.#http?.listen();
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
      mtu: this.nodeDevice.options.mtu,
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
