// A cluster of two nodes whose pods are containerd's, by its CRI, from their first packet to the
// last thing they leave.
//
//   namespace node-1                       hub (router)            namespace node-2
//   culvert run, culvert sync (a file) ---- port0   port1 ---- culvert run, culvert sync
//   containerd, the plugin                                     containerd, the plugin
//     +-- pod-1-0, pod-1-1, ...                                  +-- pod-2-0, pod-2-1, ...
//
// Each pod has a container that serves HTTP on two ports. From before it has an interface until it
// is gone, a thread in its namespace (eager.ts) sends what policy allows and what it does
// not to every pod of both nodes, and sees all that comes.

import * as assert from 'uvu/assert';
import { statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { Bed } from '../../../cli/demo/bed.ts';
import { addressFamily, type Family } from '../../../engine/address.ts';
import type { VerdictReport } from '../../../engine/model.ts';
import { PATIENCE_MS, until } from '../../support/until.ts';
import { NAMESPACE, PodNode, holdersOf } from './cluster.ts';
import {
  ADMIN_PORT, METRICS_PORT, OPEN_PORT, allows, allowsAt, forbidden, makePods, shotsOf,
  writeCluster, type ClusterPod,
} from './cluster-pods.ts';
import { Eager } from './eager.ts';
import { WEB } from './image.ts';

const NODES = [1, 2];
/** The first pod of each node is one whose policy is not known at first. */
const LATE = /-0$/;
const LATE_MS = 1000;
const POLL_MS = 5;
/** What ends after an answer, as connections and processes do, has ended by then. */
const EXECS = 6;
/** Long for those that are to be answered, brief for the others. Seconds. */
const REACH_SECONDS = 20;
const BLOCKED_SECONDS = 1;
const PROTOCOLS = new Map([[6, 'TCP'], [17, 'UDP'], [1, 'ICMP'], [58, 'ICMP']]);

/** Asks each WAIT,ADDRESS,PORT at once. Prints a line for each: address, port, answer. */
const ASK = `for one in "$@"; do (
IFS=,; set -- $one; IFS=' '
answer=$(printf 'GET /cgi-bin/who HTTP/1.0\\r\\n\\r\\n' | nc -w $1 $2 $3 2>/dev/null | tail -n 1)
echo "$2 $3 $answer"
) & done; wait`;

/** A request, how long it may wait for its connection, and what it is to bring; empty where policy
 * denies it. */
interface Expected {
  address: string;
  port: number;
  seconds: number;
  answer: string;
}

/** Kubernetes' part, and what has come of it. */
class Cluster {
  readonly pods: readonly ClusterPod[];
  readonly eager = new Eager();
  readonly inodes = new Set<number>();
  readonly #nodes: PodNode[];
  readonly folder: string;
  readonly #source: string;
  readonly #sandboxes = new Map<ClusterPod, string>();
  readonly #containers = new Map<ClusterPod, string>();
  #isHeralding = true;

  constructor(nodes: PodNode[], source: string, podsEach: number) {
    this.pods = makePods(NODES, podsEach);
    this.#nodes = nodes;
    this.folder = dirname(source);
    this.#source = source;
  }

  get late(): ClusterPod[] {
    return this.pods.filter(({ name }) => LATE.test(name));
  }

  nodeOf({ node }: ClusterPod): PodNode {
    const found = this.#nodes.find(({ n }) => n === node);
    if (found === undefined) throw new Error(`there is no node ${node}`);
    return found;
  }

  /** What an API server would have of some of the pods. */
  write(pods: readonly ClusterPod[]): void {
    writeCluster(this.#source, NODES, pods);
  }

  /** Begins to send and to watch in each sandbox that is about to get its network. */
  async herald(): Promise<void> {
    while (this.#isHeralding) {
      for (const node of this.#nodes) {
        for (const { pod: name, path } of node.heralded()) {
          const pod = this.pods.find((each) => each.name === name);
          if (pod === undefined) throw new Error(`containerd has made ${name}`);
          this.inodes.add(statSync(path).ino);
          await this.eager.enter(name, path, shotsOf(this.pods, pod));
        }
        node.welcome();
      }
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }

  /** Starts a pod's sandbox and its container. */
  async start(pod: ClusterPod): Promise<void> {
    const { containerd: { cri }, cgroup } = this.nodeOf(pod);
    const { name } = pod;
    const config = { name, namespace: NAMESPACE, uid: `uid-${name}`, cgroup };
    const sandbox = await cri.run(config);
    this.#sandboxes.set(pod, sandbox);
    pod.addresses = await cri.addresses(sandbox);
    this.#containers.set(pod, await cri.start(sandbox, config, {
      name: 'web', image: WEB.name, command: [],
      environment: { NAME: name, PORTS: `${OPEN_PORT} ${ADMIN_PORT}` },
    }));
  }

  /** Has a container ask others by HTTP. Returns who answered what, by address and port. */
  async ask(from: ClusterPod, targets: Expected[]): Promise<Map<string, string>> {
    const words = targets.map(({ address, port, seconds }) => `${seconds},${address},${port}`);
    const { cri } = this.nodeOf(from).containerd;
    const { code, stdout, stderr } = await cri.exec(
      this.#containers.get(from) ?? '', ['/bin/sh', '-c', ASK, 'ask', ...words]);
    if (code !== 0) throw new Error(`ask from ${from.name}: ${stderr}`);
    return new Map(stdout.trim().split('\n').map((line) => {
      const [address = '', port = '', ...answer] = line.split(' ');
      return [`${address} ${port}`, answer.join(' ')];
    }));
  }

  /** Ends a pod as a kubelet does. */
  async end(pod: ClusterPod): Promise<void> {
    const { cri } = this.nodeOf(pod).containerd;
    const sandbox = this.#sandboxes.get(pod) ?? '';
    await cri.stop(sandbox);
    await cri.remove(sandbox);
    await this.eager.leave(pod.name);
  }

  async close(): Promise<void> {
    this.#isHeralding = false;
    await this.eager.close();
  }
}

/** Runs all of it in turn; what each part took is told, for who looks for time. */
class Clock {
  #lastMs = performance.now();

  tell(what: string): void {
    const nowMs = performance.now();
    console.log(`  ${((nowMs - this.#lastMs) / 1000).toFixed(1)} s: ${what}`);
    this.#lastMs = nowMs;
  }
}

/** Runs all of it, with so many pods on each node. What is not as it must be is thrown. */
export async function runCluster(podsEach: number): Promise<void> {
  // Nodes end their pods as this process exits; the next bed removes this one's files then.
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(1));
  const bed = await Bed.create();
  const nodes: PodNode[] = [];
  let cluster: Cluster | null = null;
  try {
    const source = join(bed.folder, 'objects.json');
    writeCluster(source, NODES, []);
    nodes.push(...await Promise.all(NODES.map((n) => PodNode.start(bed, n, source))));
    cluster = new Cluster(nodes, source, podsEach);
    await drive(cluster, nodes);
  } catch (error) {
    for (const node of nodes) console.log(node.log());
    console.log(error);
    throw error;
  } finally {
    await cluster?.close();
    for (const node of nodes) await node.close();
    await bed.close();
  }
}

async function drive(cluster: Cluster, nodes: PodNode[]): Promise<void> {
  const clock = new Clock();
  const before = await Promise.all(nodes.map((node) => node.footprint()));
  const verdicts = new Verdicts(cluster.pods);
  const ends = nodes.map((node) => node.observe(
    (verdict) => verdicts.take(verdict), (count) => verdicts.miss(count)));
  const herald = cluster.herald();
  try {
    await Promise.race([startAll(cluster, clock), herald]);
    await reachAll(cluster, clock);
    await judge(cluster, verdicts, clock);
    await Promise.all(cluster.pods.map((pod) => cluster.end(pod)));
    clock.tell('all pods are gone');
    assert.equal(forbidden(cluster.pods, (await cluster.eager.report()).arrivals), []);
    for (const end of ends) end();
    await checkNothingLeft(cluster, nodes, before);
    clock.tell('nothing is left of them');
  } finally {
    for (const end of ends) end();
    await cluster.close();
    await herald.catch(() => {});
  }
}

/** Starts all pods at once, two of them without the objects that tell their policy. */
async function startAll(cluster: Cluster, clock: Clock): Promise<void> {
  const { pods, late, eager } = cluster;
  const known = pods.filter((pod) => !late.includes(pod));
  cluster.write(known);
  const starts = new Map(pods.map((pod) => [pod, cluster.start(pod)]));
  const startsOf = (some: ClusterPod[]): Promise<unknown> =>
    Promise.all(some.map((pod) => starts.get(pod)));
  startsOf(late).catch(() => {});
  await startsOf(known);
  clock.tell(`${known.length} pods and their containers run`);
  await until('the late pods to have interfaces', async () => {
    const states = await Promise.all(late.map(async (pod) => {
      const all = await cluster.nodeOf(pod).endpoints();
      const found = all.find(({ name }) => name === pod.name);
      pod.addresses = found?.addresses ?? [];
      return found?.state;
    }));
    return states.every((state) => state === 'closed');
  });
  await new Promise((resolve) => setTimeout(resolve, LATE_MS));
  const { sent, arrivals } = await eager.report();
  for (const { name, addresses } of late) {
    const count = sent.find(({ pod }) => pod === name)?.sent ?? 0;
    assert.ok(count > 0, `${name} has sent`);
    const passed = arrivals.filter(({ to, from }) => to === name || addresses.includes(from));
    assert.equal(passed, [], `nothing passes ${name} while its policy is not known`);
  }
  cluster.write(pods.map((pod) => (late.includes(pod) ? { ...pod, addresses: [] } : pod)));
  await startsOf(late);
  cluster.write(pods);
  clock.tell('the late pods run too');
}

/** Every pod asks every other one, on both ports, by both families. */
async function reachAll(cluster: Cluster, clock: Clock): Promise<void> {
  const { pods } = cluster;
  const wrong: string[] = [];
  let answers = 0;
  const left = [...pods];
  const runner = async (): Promise<void> => {
    for (let from = left.pop(); from !== undefined; from = left.pop()) {
      const expected = expectedOf(pods, from);
      const seen = await cluster.ask(from, expected);
      for (const { address, port, answer } of expected) {
        const got = seen.get(`${address} ${port}`);
        if (got !== answer) wrong.push(`${from.name} at ${address} ${port}: "${got}"`);
        if (got !== '') answers += 1;
      }
    }
  };
  await Promise.all(Array.from({ length: EXECS }, runner));
  assert.equal(wrong, [], 'answers that are not as policy says');
  const pairs = pods.length * (pods.length - 1);
  clock.tell(`${pairs} pairs have been tried at two ports by two families: ${answers} answers`);
}

/** What a pod's requests are to bring: the name of the other one, and the address it sees. */
function expectedOf(pods: readonly ClusterPod[], from: ClusterPod): Expected[] {
  const own = (family: Family): string =>
    from.addresses.find((address) => addressFamily(address) === family) ?? '';
  return pods.filter((to) => to !== from).flatMap((to) => to.addresses.flatMap((address) =>
    [OPEN_PORT, ADMIN_PORT].map((port) => {
      const isAllowed = allows(from, to, 'TCP', port);
      return {
        address, port, seconds: isAllowed ? REACH_SECONDS : BLOCKED_SECONDS,
        answer: isAllowed ? `${to.name} ${seenAs(own(addressFamily(address)))}` : '',
      };
    })));
}

/** How busybox's httpd writes a client's address: its socket is of IPv6. */
function seenAs(address: string): string {
  return addressFamily(address) === 'IPv4' ? `[::ffff:${address}]` : `[${address}]`;
}

/** What `culvert observe` has told of flows between pods, by what they are. */
class Verdicts {
  readonly #pods: readonly ClusterPod[];
  readonly #seen = new Map<string, VerdictReport>();
  #count = 0;
  #missed = 0;

  constructor(pods: readonly ClusterPod[]) {
    this.#pods = pods;
  }

  take(verdict: VerdictReport): void {
    const { direction, allowed, source, destination, protocol, destinationPort } = verdict;
    this.#count += 1;
    const key = [direction, allowed, source, destination, protocol, destinationPort].join();
    if (!this.#seen.has(key)) this.#seen.set(key, verdict);
  }

  /** Told of verdicts that came faster than they are read. */
  miss(count: number): void {
    this.#missed += count;
  }

  /** Those that policy does not give; a pod's first packets may be denied while its peer has no
   * object that tells its labels, never the other way round. */
  wrong(): VerdictReport[] {
    return [...this.#seen.values()].filter((verdict) => {
      const { direction, allowed, protocol, destinationPort } = verdict;
      if (!allowed) return false;
      const from = this.#podOf(verdict.source);
      const to = this.#podOf(verdict.destination);
      const name = PROTOCOLS.get(protocol) ?? '';
      if (from === to && from !== undefined) return false;
      return from === undefined || to === undefined
        || !allowsAt(direction, from, to, name, destinationPort);
    });
  }

  summary(): string {
    const denied = [...this.#seen.values()].filter(({ allowed }) => !allowed).length;
    return `${this.#count} verdicts, ${this.#seen.size} of them different, ${denied} of these `
      + `deny; ${this.#missed} missed`;
  }

  #podOf(address: string): ClusterPod | undefined {
    return this.#pods.find(({ addresses }) => addresses.includes(address));
  }
}

/** What came to the pods, and what the nodes say that they let through, against policy. */
async function judge(cluster: Cluster, verdicts: Verdicts, clock: Clock): Promise<void> {
  const { pods, eager } = cluster;
  const pairs = pods.flatMap((from) => pods.filter((to) => allows(from, to, 'UDP', METRICS_PORT))
    .flatMap((to) => from.addresses.map((address) => `${address} ${to.name}`)));
  await until('datagrams of every pair that may', async () => {
    const { arrivals } = await eager.report();
    const came = new Set(arrivals.filter(({ protocol, port, isReply }) =>
      protocol === 'UDP' && port === METRICS_PORT && !isReply)
      .map(({ from, to }) => `${from} ${to}`));
    return pairs.every((pair) => came.has(pair));
  });
  const { sent, arrivals } = await eager.report();
  assert.equal(sent.filter(({ unseen }) => unseen > 0), [], 'every packet has been seen');
  assert.equal(forbidden(pods, arrivals), [], 'packets that policy denies have come');
  assert.equal(verdicts.wrong(), [], 'verdicts that policy does not give');
  const total = sent.reduce((sum, pod) => sum + pod.sent, 0);
  const came = arrivals.reduce((sum, { count }) => sum + count, 0);
  console.log(`  ${total} packets sent from the first moment on, ${came} came, requests by HTTP `
    + `and their answers too; ${verdicts.summary()}`);
  clock.tell(`all ${pairs.length} pairs that may have got datagrams, no others`);
}

async function checkNothingLeft(
  cluster: Cluster, nodes: PodNode[], before: Record<string, string>[],
): Promise<void> {
  for (const [at, node] of nodes.entries()) {
    assert.equal(await node.endpoints(), []);
    assert.is(await node.containerd.cri.sandboxCount(), 0);
    await becomes(`left on ${node.name}`, () => Promise.resolve(node.leftOvers()), []);
    await becomes(`descriptors and links of ${node.name}`, () => node.footprint(), before[at]);
  }
  assert.is(cluster.inodes.size, cluster.pods.length);
  assert.equal(
    holdersOf(cluster.inodes, cluster.folder), [], 'nobody holds a namespace of theirs');
}

/** Waits until something is as it must be; what it is instead is in the error. */
async function becomes<T>(what: string, look: () => Promise<T>, wanted: unknown): Promise<void> {
  const deadline = performance.now() + PATIENCE_MS;
  for (;;) {
    const seen = await look();
    if (isDeepStrictEqual(seen, wanted)) return;
    if (performance.now() > deadline) assert.equal(seen, wanted, what);
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}
