// Pods that send from their first moment on, attached by the plugin alone, while their policy is
// there: what they may not send or get must never come, what they may must come as soon as they are
// attached (eager.ts).
//
//   namespace node-1: culvert run, culvert sync (a file)
//     +-- friend    sends to every address that a pod may get; may talk with the new ones by UDP
//     +-- foe       does so too; may talk with nobody
//     +-- new ones  send to both and to each other; they come and go in batches

import * as assert from 'uvu/assert';
import { Bed } from '../../../cli/demo/bed.ts';
import { createNamespace, type Namespace } from '../../../ffi/netns.ts';
import { podAddress, podAddresses } from '../../netns/support/forge-cluster.ts';
import { until } from '../../support/until.ts';
import {
  Eager, nowMs, type Arrival, type EagerReport, type Protocol, type Shot,
} from './eager.ts';
import { Runtime, podArgs } from './runtime.ts';

const OPEN_PORT = 9000;
const CLOSED_PORT = 9001;
const KINDS: [Protocol, number][] = [
  ['UDP', OPEN_PORT], ['UDP', CLOSED_PORT], ['TCP', OPEN_PORT], ['ICMP', 0],
];
const FAMILIES = ['IPv4', 'IPv6'] as const;
/** Host numbers of the two that are there first, and all that others may get. */
const FRIEND = 2;
const FOE = 3;
const OTHERS = Array.from({ length: 251 }, (_, at) => 4 + at);
/** New ones that a new one sends to. */
const NEIGHBOURS = 8;
/** Of the two that are there first: round all addresses in a second. */
const PACE = { count: 20, everyMs: 10 };
/** Plugins at a time. */
const RUNTIMES = 4;
/** How long an allowed flow may take to work in 99 of 100 pods, once they are attached. */
const WORKS_MS = 1000;

export interface FirstPacketCounts {
  pods: number;
  sent: number;
  came: number;
  /** From the plugin's call to the friend's first packet from the pod. */
  fromCall: Spread;
  /** From the plugin's answer; the sender has its pace too. Before it, for most. */
  fromAnswer: Spread;
}

/** Half, nearly all, and all are as fast. */
interface Spread {
  medianMs: number;
  p99Ms: number;
  slowestMs: number;
}

/** Attaches so many pods, a batch at a time. Throws where a packet came that policy denies. */
export async function runFirstPackets(pods: number, batch: number): Promise<FirstPacketCounts> {
  const bed = await Bed.create();
  const scene = new Scene(await Runtime.add(bed, ['--cni-policy-wait-seconds', '60']));
  try {
    await scene.open(pods);
    for (let done = 0; done < pods; done += batch) {
      await scene.runBatch(done, Math.min(batch, pods - done));
    }
    const counts = scene.counts();
    assert.ok(counts.fromAnswer.p99Ms <= WORKS_MS, JSON.stringify(counts));
    return counts;
  } finally {
    await scene.close();
    await bed.close();
  }
}

/** A pod as long as it is there. */
interface Attached {
  name: string;
  namespace: Namespace;
  addresses: string[];
  calledMs: number;
  answeredMs: number;
}

class Scene {
  readonly #runtime: Runtime;
  readonly #eager = new Eager();
  readonly #attached = new Map<string, Attached>();
  readonly #fromCall: number[] = [];
  readonly #fromAnswer: number[] = [];
  #sent = 0;
  #came = 0;

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  /** Starts the node, with the objects of all pods that will be, and the two that are first. */
  async open(pods: number): Promise<void> {
    const names = ['friend', 'foe', ...Array.from({ length: pods }, (_, at) => `new-${at}`)];
    this.#runtime.writeObjects([
      ...policies(),
      ...names.map((name) => this.#runtime.podObject(name, { role: roleOf(name) })),
    ]);
    await this.#runtime.culvert.start();
    await this.#runtime.culvert.waitFor((status) => status.pods === names.length);
    await this.#attach('friend', shotsAt([FOE, ...OTHERS]), PACE);
    await this.#attach('foe', shotsAt([FRIEND, ...OTHERS]), PACE);
    const numbers = [FRIEND, FOE].flatMap((number) => podAddresses(1, number));
    assert.equal([...this.#attached.values()].flatMap(({ addresses }) => addresses), numbers);
  }

  /** Attaches new pods, waits until the friend has heard each of them, detaches them, and looks at
   * all that has come. */
  async runBatch(first: number, count: number): Promise<void> {
    const names = Array.from({ length: count }, (_, at) => `new-${first + at}`);
    await inParallel(names, async (name) => {
      const at = names.indexOf(name);
      const neighbours = Array.from({ length: NEIGHBOURS }, (_, step) =>
        OTHERS[(first + at + step) % OTHERS.length] ?? FOE);
      await this.#attach(name, [FOE, ...neighbours].flatMap((number) => shotsAt([FRIEND, number])));
    });
    const pods = names.flatMap((name) => this.#attached.get(name) ?? []);
    await until('the friend and the new ones to hear each other', async () => {
      const report = await this.#eager.report();
      return pods.every(({ name, addresses }) => addresses.every((address) =>
        heard(report, 'friend', address) !== undefined)
        && podAddresses(1, FRIEND).every((address) => heard(report, name, address) !== undefined));
    });
    await inParallel(names, (name) => this.#detach(name));
    this.#judge(await this.#eager.take(), pods);
  }

  counts(): FirstPacketCounts {
    return {
      pods: this.#fromCall.length, sent: this.#sent, came: this.#came,
      fromCall: spread(this.#fromCall), fromAnswer: spread(this.#fromAnswer),
    };
  }

  async close(): Promise<void> {
    await this.#eager.close();
    for (const { namespace } of this.#attached.values()) namespace.close();
  }

  /** Begins to send in a namespace, then has it attached. */
  async #attach(name: string, shots: Shot[], pace?: typeof PACE): Promise<void> {
    const namespace = createNamespace();
    const pod: Attached = { name, namespace, addresses: [], calledMs: 0, answeredMs: 0 };
    this.#attached.set(name, pod);
    await this.#eager.enter(name, namespace.path, shots, pace);
    pod.calledMs = nowMs();
    const { status, result } = await this.#runtime.call('ADD', containerOf(pod));
    pod.answeredMs = nowMs();
    assert.is(status, 0, JSON.stringify(result));
    pod.addresses = (result.ips ?? []).map(({ address }) => address.replace(/\/.*/, ''));
  }

  async #detach(name: string): Promise<void> {
    const pod = this.#attached.get(name);
    if (pod === undefined) return;
    const { status, result } = await this.#runtime.call('DEL', containerOf(pod));
    assert.is(status, 0, JSON.stringify(result));
    await this.#eager.leave(name);
    pod.namespace.close();
    this.#attached.delete(name);
  }

  /** Looks at what came while these pods and the two first ones were there. */
  #judge(report: EagerReport, pods: Attached[]): void {
    const all = [...this.#attached.values(), ...pods];
    const unseen = report.sent.filter((pod) => pod.unseen > 0);
    assert.equal(unseen, [], 'every packet has been seen');
    const silent = pods.filter(({ name }) => !report.sent.some(({ pod, refused, sent }) =>
      pod === name && refused > 0 && sent > 0));
    assert.equal(silent.map(({ name }) => name), [], 'all have tried before they had a network');
    const denied = report.arrivals.filter((arrival) => !isAllowed(all, arrival));
    assert.equal(denied, [], 'packets that policy denies have come');
    for (const { addresses, calledMs, answeredMs } of pods) {
      const firstMs = Math.max(...addresses.map((address) =>
        heard(report, 'friend', address)?.firstMs ?? Infinity));
      this.#fromCall.push(firstMs - calledMs);
      this.#fromAnswer.push(firstMs - answeredMs);
    }
    this.#sent += report.sent.reduce((sum, { sent }) => sum + sent, 0);
    this.#came += report.arrivals.reduce((sum, { count }) => sum + count, 0);
  }
}

function containerOf({ name, namespace }: Attached): Parameters<Runtime['call']>[1] {
  return {
    id: `id-${name}`, interfaceName: 'eth0', netns: namespace.path, args: podArgs(name),
  };
}

function roleOf(name: string): string {
  return name.replace(/-.*/, '');
}

/** The friend and the new ones talk at one port of UDP; the foe with nobody, nobody else at all. */
function policies(): object[] {
  const pods = (role: string): object => ({ podSelector: { matchLabels: { role } } });
  const ports = [{ protocol: 'UDP', port: OPEN_PORT }];
  const policy = (role: string, spec: object): object => ({
    apiVersion: 'networking.k8s.io/v1', kind: 'NetworkPolicy',
    metadata: { name: role, namespace: 'shop' }, spec: { ...pods(role), ...spec },
  });
  return [
    policy('friend', { policyTypes: ['Ingress'], ingress: [{ from: [pods('new')], ports }] }),
    policy('foe', { policyTypes: ['Ingress'] }),
    policy('new', {
      policyTypes: ['Ingress', 'Egress'],
      ingress: [{ from: [pods('friend')], ports }], egress: [{ to: [pods('friend')], ports }],
    }),
  ];
}

/** What those policies mean for a packet. An ICMP error comes back where a datagram may go; the
 * node may tell of addresses that nobody has; a pod may send to itself. */
function isAllowed(pods: Attached[], { to, from, protocol, port, isReply }: Arrival): boolean {
  if (podAddresses(1, 0).includes(from)) return protocol === 'ICMP' && isReply;
  const source = pods.find(({ addresses }) => addresses.includes(from))?.name ?? '';
  if (source === to) return true;
  const roles = [roleOf(source), roleOf(to)].sort().join();
  if (roles !== 'friend,new') return false;
  return protocol === 'ICMP' ? isReply : protocol === 'UDP' && port === OPEN_PORT && !isReply;
}

/** The allowed datagrams that came to a pod from an address. */
function heard({ arrivals }: EagerReport, by: string, address: string): Arrival | undefined {
  return arrivals.find(({ to, from, protocol, port, isReply }) =>
    to === by && from === address && protocol === 'UDP' && port === OPEN_PORT && !isReply);
}

/** One packet of each kind and family to each number. */
function shotsAt(numbers: number[]): Shot[] {
  return numbers.flatMap((number) => FAMILIES.flatMap((family) => KINDS.map(
    ([protocol, port]): Shot => ({ protocol, address: podAddress(1, number, family), port }))));
}

async function inParallel(names: string[], work: (name: string) => Promise<void>): Promise<void> {
  const left = [...names];
  const runner = async (): Promise<void> => {
    for (let name = left.shift(); name !== undefined; name = left.shift()) await work(name);
  };
  await Promise.all(Array.from({ length: RUNTIMES }, runner));
}

function spread(values: number[]): Spread {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (share: number): number =>
    Math.round(sorted[Math.min(Math.floor(sorted.length * share), sorted.length - 1)] ?? 0);
  return { medianMs: at(0.5), p99Ms: at(0.99), slowestMs: at(1) };
}
