// The node daemon: puts devices, tables, data worker and control sockets together, and takes them
// apart again in the opposite order.

import { createHash, randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  DEVICE_NODE,
  DEVICE_UNDERLAY_IPV4,
  DEVICE_UNDERLAY_IPV6,
  DIRECTORY_DENY_WITH_ICMP,
  DIRECTORY_ICMP_BURST,
  DIRECTORY_ICMP_RATE,
  DIRECTORY_TAKE_UNFINISHED,
} from '../wasm/abi/layout.ts';
import { VXLAN_OVERHEAD_IPV4, VXLAN_OVERHEAD_IPV6 } from '../wasm/abi/headers.ts';
import { Core } from '../engine/core.ts';
import { Forwarding } from '../engine/forwarding.ts';
import type { Log } from '../engine/log.ts';
import { PROFILES, type Limits } from '../engine/memory-map.ts';
import type { Delta, Snapshot } from '../engine/model.ts';
import { PolicyTables } from '../engine/tables/policy.ts';
import { ServiceTables } from '../engine/tables/services.ts';
import { errnoName, SystemError } from '../ffi/errno.ts';
import { closeFd, lockFile } from '../ffi/file.ts';
import { Links } from '../ffi/netlink.ts';
import { localPort, peerCredentials } from '../ffi/socket.ts';
import type { HostConfig } from './config.ts';
import { ControlServer } from './control.ts';
import { DataPlane, workerCount } from './data-plane.ts';
import { Endpoints } from './endpoints.ts';
import { Intake } from './intake.ts';
import { controlMethods } from './methods.ts';
import { NodeDevice } from './node-device.ts';
import { NodePorts } from './node-ports.ts';
import { Observer } from './observe.ts';
import { PolicyGate } from './policy-gate.ts';
import { chooseTier, probeKernel, type Tier, type TierName } from './tier.ts';
import type { TunnelTap } from './tunnel-tap.ts';
import { Underlay } from './underlay.ts';
import { warmUp } from './warm-up.ts';
import type { DeviceEnds, DeviceSpec } from './worker.ts';

/** First wait before a deleted device is made again, and the longest. */
const REOPEN_FIRST_MS = 50;
const REOPEN_LIMIT_MS = 5000;

/** Names of the files in the runtime directory. */
export const CONTROL_SOCKET = 'control.sock';
export const SYNC_SOCKET = 'sync.sock';
const LOCK_FILE = 'culvert.lock';
/** The sidecar's user must get through; each socket has a mode of its own. */
const RUNTIME_DIRECTORY_MODE = 0o755;

/** Another daemon has this runtime directory. */
export class SecondInstanceError extends Error {
  override name = 'SecondInstanceError';
}

export interface HostOptions {
  config: HostConfig;
  log: Log;
  version: string;
  /** The core's WebAssembly module. */
  corePath: string;
}

/** A VTEP MAC for a node that the cluster has not given one: stable, locally administered. */
export function defaultMac(nodeName: string, family: string): string {
  const digest = createHash('sha256').update(`${nodeName}/${family}`).digest();
  digest[0] = ((digest[0] ?? 0) & 0xfe) | 0x02;
  return [...digest.subarray(0, 6)].map((byte) => byte.toString(16).padStart(2, '0')).join(':');
}

/** One running daemon. */
export class Host {
  readonly options: HostOptions;
  readonly startedMs = performance.now();
  readonly core: Core;
  readonly forwarding: Forwarding;
  readonly services: ServiceTables;
  readonly nodePorts: NodePorts;
  readonly dataPlane: DataPlane;
  readonly nodeDevice: NodeDevice;
  readonly endpoints: Endpoints;
  readonly policy: PolicyGate;
  readonly observer: Observer;
  readonly intake: Intake;
  readonly underlay: Underlay;
  readonly tier: Tier;
  readonly control: ControlServer;
  readonly sync: ControlServer;
  isNodeDeviceLost = false;
  /** The tier in use: one less once the TAP of T3 is gone. */
  tierName: TierName;
  /** Fulfilled when the core runs at its speed. */
  readonly #warm: Promise<void>;
  readonly #links: Links;
  readonly #lock: number;
  /** The cluster's pods of this node, by namespace and name. */
  readonly #pods = new Set<string>();
  #isStopping = false;
  #warned = '';

  private constructor(
    options: HostOptions,
    lock: number,
    links: Links,
    underlay: Underlay,
    tier: Tier,
  ) {
    const { config, log } = options;
    this.options = options;
    this.#lock = lock;
    this.#links = links;
    this.underlay = underlay;
    this.tier = tier;
    this.tierName = tier.name;
    const module = new WebAssembly.Module(readFileSync(options.corePath));
    this.#warm = warmUp(module, tier);
    const limits = limitsOf(config);
    const queues = limits.workers;
    this.core = makeCore(module, config, limits);
    const policyTables = new PolicyTables(this.core, limits.policy);
    this.policy = new PolicyGate(policyTables, config.policy.unknownPods, log);
    this.forwarding = new Forwarding(this.core, limits, {
      nodeName: config.nodeName,
      podNetworks: overlayNetworks(config),
      underlayMtu: underlay.mtu,
      defaultMac: {
        IPv4: defaultMac(config.nodeName, 'IPv4'), IPv6: defaultMac(config.nodeName, 'IPv6'),
      },
    });
    this.services = new ServiceTables(this.core, limits.services, (name, addresses) =>
      this.forwarding.claimService(name, addresses));
    this.nodePorts = makeNodePorts(config, underlay, log);
    this.forwarding.devices.closedAtStart = config.policy.unknownPods === 'closed';
    this.#setOffloads();
    this.dataPlane = this.#makeDataPlane(module);
    const mtu = overlayMtu(underlay);
    const podNetworks = overlayNetworks(config);
    this.nodeDevice = new NodeDevice(links, { ...config.device, mtu, podNetworks, tier, queues });
    this.endpoints = new Endpoints({
      core: this.core,
      forwarding: this.forwarding,
      dataPlane: this.dataPlane,
      policy: this.policy,
      links,
      tier,
      queues,
      spec: (device) => this.#spec(device),
    });
    this.observer = new Observer({
      core: this.core,
      policy: policyTables,
      podOf: (address) => this.endpoints.podOf(address),
    });
    this.intake = new Intake({
      local: config.nodeName,
      onSnapshot: (snapshot) => this.#take(snapshot),
      onDelta: (delta) => this.#takeDelta(delta),
    });
    this.control = new ControlServer({
      path: join(config.runtimeDirectory, CONTROL_SOCKET),
      mode: 0o600,
      directoryMode: RUNTIME_DIRECTORY_MODE,
      roles: ['cli', 'cni'],
      methods: controlMethods(this),
      version: options.version,
      log,
      peerUid: peerCredentials,
    });
    this.sync = this.#syncServer();
  }

  /** Starts a daemon. Rejects with what is missing; then nothing is left behind. */
  static async start(options: HostOptions): Promise<Host> {
    const { config } = options;
    makeRuntimeDirectory(config.runtimeDirectory);
    const lockPath = join(config.runtimeDirectory, LOCK_FILE);
    const lock = lockFile(lockPath);
    if (lock === null) {
      throw new SecondInstanceError(`start daemon: another one holds ${lockPath}`);
    }
    const links = new Links();
    let underlay: Underlay | null = null;
    let host: Host | null = null;
    try {
      const tier = chooseTier(config.dataPlane.tier, probeKernel());
      underlay = await Underlay.open(links, config, tier, limitsOf(config).workers);
      host = new Host(options, lock, links, underlay, tier);
      await host.#open();
      return host;
    } catch (error) {
      if (host === null) {
        underlay?.close();
        links.close();
        closeFd(lock);
      } else {
        await host.stop();
      }
      throw error;
    }
  }

  /** How many pods the cluster has on this node. */
  get pods(): number {
    return this.#pods.size;
  }

  /** What is not as the cluster says. */
  problems(): string[] {
    return [...this.forwarding.problems(), ...this.services.problems()];
  }

  /** Ends the daemon: no more requests, no more packets, then no more devices. */
  async stop(): Promise<void> {
    if (this.#isStopping) return;
    this.#isStopping = true;
    await Promise.allSettled([this.control.close(), this.sync.close()]);
    this.observer.close();
    await this.nodePorts.close();
    await this.endpoints.close();
    await this.dataPlane.stop();
    this.nodeDevice.close();
    this.underlay.close();
    this.#links.close();
    closeFd(this.#lock);
  }

  async #open(): Promise<void> {
    const limits = [...this.tier.limits, ...this.underlay.tap?.limits ?? []];
    const workers = this.dataPlane.workers.length;
    this.options.log.info({ tier: this.tier.name, limits, workers }, 'data plane tier');
    await this.nodeDevice.open();
    await this.#warm;
    await this.#attachNodeDevice();
    for (const { family, receivers, senders } of this.underlay.sockets) {
      const index = family === 'IPv4' ? DEVICE_UNDERLAY_IPV4 : DEVICE_UNDERLAY_IPV6;
      const name = `underlay-${family.toLowerCase()}`;
      const spec = this.#spec({ index, name, kind: 'udp', receivers, senders });
      const { tap } = this.underlay;
      const tunnelTap = tap?.families.includes(family) === true ? tap.fd : -1;
      await this.dataPlane.attach({ ...spec, tunnelTap });
    }
    await this.control.listen();
    await this.sync.listen();
  }

  /** Tells the core what the kernel takes over, and where tunnels start from. */
  #setOffloads(): void {
    const { devices } = this.forwarding;
    devices.setOffloads(this.tier);
    const { takeUnfinished } = this.options.config.underlay;
    this.core.setDirectory(DIRECTORY_TAKE_UNFINISHED, takeUnfinished ? 1 : 0);
    for (const { family, address, senders } of this.underlay.sockets) {
      devices.setSenders(family, address, senders.map(localPort));
    }
    const { tap } = this.underlay;
    for (const family of tap?.families ?? []) devices.setTunnelTap(family, tap?.mac ?? '');
    if (tap?.families.includes('IPv6') === true) this.#watchPaths(tap);
  }

  /** Cuts what goes over IPv6 here, while a path takes less than the link. */
  #watchPaths(tap: TunnelTap): void {
    const { devices } = this.forwarding;
    tap.watch((packets) => {
      devices.clearTunnelTap('IPv6');
      this.options.log.warn({ device: tap.name, packets },
        'a path over IPv6 takes less than its link: super-packets are cut here for a while');
    }, () => devices.setTunnelTap('IPv6', tap.mac));
  }

  #makeDataPlane(module: WebAssembly.Module): DataPlane {
    return new DataPlane({
      core: this.core, module, log: this.options.log,
      onLost: (index, errno) => this.#lost(index, errno),
      onTapLost: () => this.#tapLost(),
    });
  }

  #syncServer(): ControlServer {
    const { config, log, version } = this.options;
    return new ControlServer({
      path: join(config.runtimeDirectory, SYNC_SOCKET),
      mode: 0o660,
      ...(config.syncGroup < 0 ? {} : { gid: config.syncGroup }),
      directoryMode: RUNTIME_DIRECTORY_MODE,
      peerUid: peerCredentials,
      uids: [0, process.getuid?.() ?? 0, config.syncUid],
      roles: ['sync'],
      methods: this.intake.methods(),
      version,
      log,
      accept: (party) => this.intake.refusal(party),
      onOpen: (connection) => this.intake.opened(connection),
      onClosed: (connection) => this.intake.closed(connection),
    });
  }

  #attachNodeDevice(): Promise<void> {
    return this.dataPlane.attach(this.#spec({
      index: DEVICE_NODE,
      name: this.options.config.device.name,
      kind: 'tun',
      receivers: this.nodeDevice.descriptors,
      senders: [],
    }));
  }

  /** Adds what the configuration says of offloads, recording and faults; those are the
   * underlay's. */
  #spec(device: DeviceEnds): DeviceSpec {
    const { pcap, fault } = this.options.config.debug;
    const isFaulty = device.kind === 'udp'
      && (fault.drop + fault.corrupt + fault.duplicate + fault.reorder + fault.crashAfter) > 0;
    return {
      ...device,
      vnetSize: device.kind === 'udp' ? 0 : this.tier.vnetSize,
      tunnelTap: -1,
      pcap: pcap === '' ? null : join(pcap, `${device.name.replaceAll('/', '_')}.pcap`),
      fault: isFaulty ? fault : null,
    };
  }

  async #take(snapshot: Snapshot): Promise<void> {
    if (snapshot.policy !== undefined) {
      this.policy.replace(snapshot.policy);
      this.forwarding.devices.closedAtStart = true;
    }
    this.forwarding.applySnapshot(snapshot);
    if (snapshot.services !== undefined) this.services.replace(snapshot.services);
    this.nodePorts.take(snapshot);
    this.#pods.clear();
    for (const pod of snapshot.pods) this.#pods.add(podKey(pod));
    await this.#applied();
    this.options.log.info(
      { revision: snapshot.revision, nodes: snapshot.nodes.length }, 'snapshot in force');
  }

  async #takeDelta(delta: Delta): Promise<void> {
    if (delta.policy !== undefined) this.policy.apply(delta.policy);
    this.forwarding.applyDelta(delta);
    const { services = [], removedServices = [] } = delta;
    this.services.apply({ services, removedServices });
    this.nodePorts.apply(delta);
    for (const pod of delta.pods) this.#pods.add(podKey(pod));
    for (const pod of delta.removedPods) this.#pods.delete(podKey(pod));
    await this.#applied();
  }

  async #applied(): Promise<void> {
    const problems = this.problems();
    if (problems.join('\n') !== this.#warned) {
      for (const problem of problems) this.options.log.warn({ problem }, 'not as the cluster says');
    }
    this.#warned = problems.join('\n');
    const podCidrs = this.forwarding.local?.podCidrs ?? [];
    const isKnown = podCidrs.join() === this.nodeDevice.podCidrs.join();
    if (!isKnown) await this.nodeDevice.configure(podCidrs);
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
      await this.#attachNodeDevice();
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

/** What linear memory has room for. */
function limitsOf({ memory, dataPlane }: HostConfig): Limits {
  return { ...PROFILES[memory], workers: workerCount(dataPlane.workers) };
}

function makeNodePorts({ nodePorts }: HostConfig, underlay: Underlay, log: Log): NodePorts {
  const { enabled, addresses, range } = nodePorts;
  const all = addresses.length > 0 ? addresses : Object.values(underlay.addresses);
  return new NodePorts({ enabled, addresses: all, range, log });
}

/** What the node's routes lead to us, and what of it is nowhere leads to nobody. */
function overlayNetworks({ podNetworks, serviceNetworks }: HostConfig): string[] {
  return [...podNetworks, ...serviceNetworks];
}

function makeCore(
  module: WebAssembly.Module, { icmp, policy }: HostConfig, limits: Limits,
): Core {
  const core = Core.create(module, limits, randomBytes(4).readUInt32LE());
  core.setDirectory(DIRECTORY_ICMP_RATE, icmp.rate);
  core.setDirectory(DIRECTORY_ICMP_BURST, icmp.burst);
  core.setDirectory(DIRECTORY_DENY_WITH_ICMP, policy.denyWithIcmp ? 1 : 0);
  return core;
}

function makeRuntimeDirectory(path: string): void {
  try {
    mkdirSync(path, { recursive: true, mode: RUNTIME_DIRECTORY_MODE });
  } catch (error) {
    const { errno } = error as NodeJS.ErrnoException;
    if (errno === undefined) throw error;
    throw new SystemError('mkdir', path, errno, {
      EACCES: 'run as root, or give a directory of yours as --runtime-directory',
    });
  }
}

function podKey({ namespace, name }: { namespace: string; name: string }): string {
  return `${namespace}/${name}`;
}

/** The MTU that every path of the overlay takes. */
function overlayMtu({ mtu, addresses }: Underlay): number {
  return mtu - (addresses.IPv6 === undefined ? VXLAN_OVERHEAD_IPV4 : VXLAN_OVERHEAD_IPV6);
}
