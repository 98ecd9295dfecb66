// Test hosts on one machine: namespaces as nodes and pods, an underlay between them, programs
// in them.
// Nothing of it has a name outside its namespaces, so nothing is left when the process is gone.
//
//     node a               hub (a router)              node b
//   [ eth0 ]----veth----[ port0   port1 ]----veth----[ eth0 ]    a host route to each node,
//        |                                             |         198.51.100.1 and fe80::1 back
//   culvert0 or flannel.1                         culvert0 or flannel.1
//        |                                             |
//     pods: TUN, TAP or veth                         pods
//
// Every veth end that a node sends from has its TX checksum offload off, unless asked otherwise: a
// kernel tunnel device over veth would else leave inner checksums unfinished.

import { spawn, type ChildProcess } from 'node:child_process';
import { rmSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { hostPrefix } from '../../engine/address.ts';
import { setTxChecksum } from '../../ffi/ethtool.ts';
import { closeFd } from '../../ffi/file.ts';
import { Links } from '../../ffi/netlink.ts';
import { createNamespace, writeSysctl, type Namespace } from '../../ffi/netns.ts';
import type { AgentAnswer, AgentRequest } from './agent.ts';
import { makeFolder, removeLeftovers } from './folder.ts';

const HUB_IPV4 = '198.51.100.1';
const HUB_LINK_LOCAL = 'fe80::1';
const NODE_LINK_LOCAL = 'fe80::2';
const HUB_ADDRESSES = [HUB_IPV4, HUB_LINK_LOCAL];
/** Small boards that do other work take their time. */
const READY_TIMEOUT_MS = 120_000;
const STOP_TIMEOUT_MS = 10_000;

/** A thread in a namespace that can be asked to serve or to reach out. */
export class Agent {
  readonly #worker: Worker;
  readonly #waiting = new Map<number, (answer: AgentAnswer) => void>();
  #nextId = 1;
  #hasEnded = false;

  constructor(namespace: Namespace, name: string) {
    this.#worker = new Worker(new URL('./agent.js', import.meta.url), {
      workerData: { namespaceFd: namespace.fd }, name,
    });
    this.#worker.on('message', ({ id, reply }: { id: number; reply: AgentAnswer }) => {
      this.#waiting.get(id)?.(reply);
      this.#waiting.delete(id);
    });
    this.#worker.on('error', (error: Error) => this.#fail(error.message));
    this.#worker.on('exit', () => {
      this.#hasEnded = true;
      this.#fail('the agent has ended');
    });
  }

  /** Asks; failures of what was asked are in the answer. */
  ask(request: AgentRequest): Promise<AgentAnswer> {
    if (this.#hasEnded) return Promise.resolve(failure('the agent has ended'));
    const id = this.#nextId;
    this.#nextId += 1;
    return new Promise((resolve) => {
      this.#waiting.set(id, resolve);
      this.#worker.postMessage({ id, request });
    });
  }

  /** Lets the agent end itself: a thread that is terminated in a system call aborts the process. */
  async close(): Promise<void> {
    await this.ask({ verb: 'end' });
  }

  #fail(detail: string): void {
    for (const resolve of this.#waiting.values()) resolve(failure(detail));
    this.#waiting.clear();
  }
}

function failure(detail: string): AgentAnswer {
  return { ok: false, from: '', detail, elapsedMs: 0 };
}

/** A namespace with its links and, once asked for, its agent. */
export class Host {
  readonly name: string;
  readonly namespace: Namespace;
  readonly links: Links;
  #agent: Agent | null = null;

  constructor(name: string) {
    this.name = name;
    this.namespace = createNamespace();
    this.links = this.namespace.run(() => new Links());
  }

  /** The program that runs here; started at the first use. */
  get agent(): Agent {
    this.#agent ??= new Agent(this.namespace, this.name);
    return this.#agent;
  }

  /** Sets kernel parameters of this namespace. */
  sysctl(settings: Record<string, string | number>): void {
    this.namespace.run(() => {
      for (const [name, value] of Object.entries(settings)) writeSysctl(name, value);
    });
  }

  /** Ends the program; the links stay. */
  async stop(): Promise<void> {
    await this.#agent?.close();
  }

  async close(): Promise<void> {
    await this.stop();
    this.links.close();
    this.namespace.close();
  }
}

/** A node's addresses on the underlay. */
export interface NodeAddresses {
  ipv4: string;
  ipv6: string;
}

export interface LinkOptions {
  mtu?: number;
  /** The links may leave checksums to whom they send to: where no node has a kernel tunnel device.
   * Otherwise every packet has its own. */
  txChecksum?: boolean;
}

/** A node on the underlay. */
export interface LabNode extends NodeAddresses {
  host: Host;
  /** The hub's end of its link. */
  port: string;
}

/** A child process that runs until it is stopped, with what it wrote to standard error. */
export interface Daemon {
  process: ChildProcess;
  log(): string;
}

/** The bed: a hub and what hangs on it. Close it on every way out. */
export class Bed {
  /** For files; it goes with the bed. */
  readonly folder: string;
  readonly hub = new Host('hub');
  readonly hosts: Host[] = [];
  readonly #daemons: Daemon[] = [];
  readonly #lock: number;
  #nodes = 0;
  #isStopping = false;

  private constructor() {
    const { path, lock } = makeFolder();
    this.folder = path;
    this.#lock = lock;
  }

  static async create(): Promise<Bed> {
    removeLeftovers();
    const bed = new Bed();
    bed.hub.sysctl({ 'net.ipv4.ip_forward': 1, 'net.ipv6.conf.all.forwarding': 1 });
    return bed;
  }

  /** Adds a namespace that is on no underlay: a pod. */
  addHost(name: string): Host {
    this.#refuseWhenStopping(name);
    const host = new Host(name);
    this.hosts.push(host);
    return host;
  }

  /** Adds a node: eth0 with an address of each family, default routes through the hub. */
  async addNode(
    name: string, addresses: NodeAddresses, options: LinkOptions = {},
  ): Promise<LabNode> {
    const port = `port${this.#nodes}`;
    this.#nodes += 1;
    const host = this.addHost(name);
    await this.hub.links.addVeth(port, 'eth0', host.namespace.fd);
    await setUpPort(this.hub, port, HUB_ADDRESSES, options);
    await setUpPort(host, 'eth0', [addresses.ipv4, addresses.ipv6, NODE_LINK_LOCAL], options);
    for (const [address, prefix, via] of [
      [addresses.ipv4, '0.0.0.0/0', HUB_IPV4],
      [addresses.ipv6, '::/0', HUB_LINK_LOCAL],
    ] as const) {
      await this.hub.links.addRoute({ prefix: hostPrefix(address), device: port });
      await host.links.addRoute({ prefix, device: 'eth0', via, onlink: true });
    }
    return { host, port, ...addresses };
  }

  /** The program that was started last, ready or not. */
  get newest(): Daemon | null {
    return this.#daemons.at(-1) ?? null;
  }

  /** Starts a program in a namespace and waits for a line of its log. It ends with this process:
   * its standard input is a pipe that nobody else holds. `descriptors` are its own from 3 on. */
  async start(
    host: Host, command: string[], readyText: string, descriptors: readonly number[] = [],
  ): Promise<Daemon> {
    this.#refuseWhenStopping(command.join(' '));
    const [program = '', ...words] = command;
    const child: ChildProcess = host.namespace.run(() =>
      spawn(program, words, { stdio: ['pipe', 'ignore', 'pipe', ...descriptors] }));
    let log = '';
    const daemon: Daemon = { process: child, log: () => log };
    this.#daemons.push(daemon);
    await new Promise<void>((resolve, reject) => {
      const fail = (why: string): void => reject(new Error(`${command.join(' ')}: ${why}\n${log}`));
      const timer = setTimeout(() => fail('not ready in time'), READY_TIMEOUT_MS);
      child.on('error', (error) => fail(error.message));
      child.on('exit', (code) => {
        clearTimeout(timer);
        fail(`exit ${code ?? 'by signal'}`);
      });
      child.stderr?.on('data', (chunk: Buffer) => {
        log += chunk.toString();
        if (!log.includes(readyText)) return;
        clearTimeout(timer);
        resolve();
      });
    });
    return daemon;
  }

  /** Ends processes and agents, newest first. What is under way on them fails soon, and nothing
   * new can be started. */
  async stop(): Promise<void> {
    this.#isStopping = true;
    for (const daemon of [...this.#daemons].reverse()) await stopDaemon(daemon);
    for (const host of [...this.hosts].reverse()) await host.stop();
  }

  /** Ends everything: processes, agents, namespaces, files. */
  async close(): Promise<void> {
    await this.stop();
    for (const host of this.hosts.reverse()) await host.close();
    await this.hub.close();
    rmSync(this.folder, { recursive: true, force: true });
    closeFd(this.#lock);
  }

  #refuseWhenStopping(what: string): void {
    if (this.#isStopping) throw new Error(`start ${what}: everything is being taken down`);
  }
}

/** Brings an end of a veth up with its addresses, usable at once. */
async function setUpPort(
  host: Host, device: string, addresses: string[], { mtu = 1500, txChecksum = false }: LinkOptions,
): Promise<void> {
  await host.links.setLink(device, { mtu, linkLocalIpv6: false });
  await host.links.setLink(device, { up: true });
  for (const address of addresses) {
    const isLinkLocal = address.startsWith('fe80:');
    await host.links.addAddress(device, isLinkLocal ? `${address}/64` : hostPrefix(address));
  }
  if (!txChecksum) host.namespace.run(() => setTxChecksum(device, false));
}

/** Ends a child process: a polite signal, then, if it stays, the other one. */
export async function stopDaemon(daemon: Daemon): Promise<void> {
  const child = daemon.process;
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS);
  await exited;
  clearTimeout(timer);
}
