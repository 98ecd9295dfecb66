// Node ports of Services and host ports of pods: ports of the node that lead to backends. A proxy
// has them, in a thread of its own, so that neither packets nor control wait for it; nothing is
// asked of the kernel but sockets.
//
// The main thread knows what there is (node-ports/plan.ts), and tells the thread what changes, by
// owner. A thread that dies is replaced by another with the same ports; its connections are lost.

import { Worker } from 'node:worker_threads';
import type { Log } from '../engine/log.ts';
import type { Delta, Pod, Service, Snapshot } from '../engine/model.ts';
import { zeroCounters, type ProxyCounters } from './node-ports/front.ts';
import { PROXY_HEAP_MIB, PROXY_LIMITS, RESTART_MS } from './node-ports/limits.ts';
import {
  hasNodePorts, planPod, planService, type Plan, type PlanOptions,
} from './node-ports/plan.ts';
import type { ProxyCommand, ProxyReport } from './node-ports/worker.ts';

export interface NodePortsOptions extends PlanOptions {
  enabled: boolean;
  log: Log;
}

/** Makes an owner's plan, for the addresses that there are then. */
type Planner = () => Plan;

export class NodePorts {
  readonly #options: NodePortsOptions;
  #addresses: readonly string[];
  readonly #planners = new Map<string, Planner>();
  readonly #plans = new Map<string, Plan>();
  #worker: Worker | null = null;
  #restartTimer: NodeJS.Timeout | null = null;
  #hasBegun = false;
  #isStopped = false;
  #report: ProxyReport | null = null;
  /** What threads had counted that are no more. */
  #before = zeroCounters();
  #warned = new Set<string>();

  constructor(options: NodePortsOptions) {
    this.#options = options;
    this.#addresses = options.addresses;
  }

  /** Opens ports from now on: an earlier daemon may have had them until now. */
  begin(): void {
    this.#hasBegun = true;
    if (this.#plans.size > 0) this.#start();
  }

  /** Makes ports what a snapshot says. One that does not speak of Services leaves theirs. */
  take({ services, pods }: Pick<Snapshot, 'services' | 'pods'>): void {
    const wanted = new Map<string, Planner>();
    for (const pod of pods) this.#planPod(pod, wanted);
    for (const service of services ?? []) this.#planService(service, wanted);
    for (const owner of [...this.#plans.keys()]) {
      const isKept = services === undefined && owner.startsWith('service ');
      if (!wanted.has(owner) && !isKept) this.#put(owner, null);
    }
    for (const [owner, planner] of wanted) this.#put(owner, planner);
    this.#warn();
  }

  /** The same for what a delta says. */
  apply(delta: Pick<Delta, 'services' | 'removedServices' | 'pods' | 'removedPods'>): void {
    for (const { namespace, name } of delta.removedServices ?? []) {
      this.#put(`service ${namespace}/${name}`, null);
    }
    for (const { namespace, name } of delta.removedPods) {
      this.#put(`pod ${namespace}/${name}`, null);
    }
    const wanted = new Map<string, Planner | null>();
    for (const pod of delta.pods) {
      wanted.set(`pod ${pod.namespace}/${pod.name}`, null);
      this.#planPod(pod, wanted);
    }
    for (const service of delta.services ?? []) {
      wanted.set(`service ${service.namespace}/${service.name}`, null);
      this.#planService(service, wanted);
    }
    const isGone = ([, planner]: [string, Planner | null]): boolean => planner === null;
    const changes = [...wanted].sort((one, other) => Number(isGone(other)) - Number(isGone(one)));
    for (const [owner, planner] of changes) this.#put(owner, planner);
    this.#warn();
  }

  /** Makes these the node's addresses: it has got others. */
  listenAt(addresses: readonly string[]): void {
    if (addresses.join() === this.#addresses.join()) return;
    this.#addresses = [...addresses];
    for (const [owner, planner] of this.#planners) this.#put(owner, planner);
    this.#warn();
  }

  /** Ports that are not there although they should be. */
  problems(): string[] {
    const planned = [...this.#plans.values()].flatMap(({ problems }) => problems);
    return [...planned, ...this.#report?.problems ?? []];
  }

  /** What the proxy has done since the start. */
  counters(): ProxyCounters {
    return sum(this.#before, this.#report?.counters ?? zeroCounters());
  }

  /** Limits of the proxy and how much of them is used, for `culvert status`. */
  tables(): { name: string; used: number; limit: number }[] {
    if (!this.#options.enabled) return [];
    const { connections = 0, sessions = 0 } = this.#report?.used ?? {};
    return [
      { name: 'node port connections', used: connections, limit: PROXY_LIMITS.connections },
      { name: 'node port sessions', used: sessions, limit: PROXY_LIMITS.sessions },
    ];
  }

  /** Ends the proxy and all that goes through it. */
  async close(): Promise<void> {
    this.#isStopped = true;
    if (this.#restartTimer !== null) clearTimeout(this.#restartTimer);
    await this.#worker?.terminate();
  }

  #planPod(pod: Pod, into: Map<string, Planner | null>): void {
    if ((pod.hostPorts ?? []).length === 0) return;
    into.set(`pod ${pod.namespace}/${pod.name}`, () => planPod(pod, this.#planOptions()));
  }

  #planService(service: Service, into: Map<string, Planner | null>): void {
    if (!hasNodePorts(service)) return;
    into.set(`service ${service.namespace}/${service.name}`,
      () => planService(service, this.#planOptions()));
  }

  #planOptions(): PlanOptions {
    return { addresses: this.#addresses, range: this.#options.range };
  }

  /** Without a plan the owner has no ports. The first one starts the thread. */
  #put(owner: string, planner: Planner | null): void {
    if (!this.#options.enabled || this.#isStopped) return;
    const plan = planner?.() ?? null;
    if (planner === null) this.#planners.delete(owner);
    else this.#planners.set(owner, planner);
    if (plan === null && !this.#plans.delete(owner)) return;
    if (plan !== null) this.#plans.set(owner, plan);
    if (this.#worker !== null) this.#tell(owner, plan);
    else if (this.#hasBegun && this.#restartTimer === null) this.#start();
  }

  #tell(owner: string, plan: Plan | null): void {
    const command: ProxyCommand = { owner, listeners: plan?.listeners ?? [] };
    this.#worker?.postMessage(command);
  }

  #start(): void {
    const { log } = this.#options;
    const worker = new Worker(new URL('./node-ports/worker.js', import.meta.url), {
      name: 'culvert-node-ports', resourceLimits: { maxOldGenerationSizeMb: PROXY_HEAP_MIB },
    });
    this.#worker = worker;
    worker.on('message', (report: ProxyReport) => {
      this.#report = report;
      this.#warn();
    });
    worker.on('error', (error: Error) => {
      log.error({ error: error.message }, 'the proxy of node ports crashed');
    });
    worker.on('exit', () => this.#exited());
    for (const [owner, plan] of this.#plans) this.#tell(owner, plan);
  }

  #exited(): void {
    this.#worker = null;
    this.#before = this.counters();
    this.#report = null;
    if (this.#isStopped) return;
    this.#restartTimer = setTimeout(() => {
      this.#restartTimer = null;
      this.#start();
    }, RESTART_MS);
  }

  #warn(): void {
    const problems = new Set(this.problems());
    for (const problem of problems) {
      if (!this.#warned.has(problem)) this.#options.log.warn({ problem }, 'a node port is missing');
    }
    this.#warned = problems;
  }
}

function sum(one: ProxyCounters, other: ProxyCounters): ProxyCounters {
  const names = Object.keys(one) as (keyof ProxyCounters)[];
  return Object.fromEntries(names.map((name) => [name, one[name] + other[name]])) as ProxyCounters;
}
