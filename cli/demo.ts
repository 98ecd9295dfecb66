// `culvert demo`: the objects of a cluster brought to life in namespaces of this machine, and every
// pair of pods and nodes tried with real TCP, UDP and ICMP.

import { accessSync, constants, lstatSync, mkdirSync, rmSync, symlinkSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { addressFamily, prefixKey, prefixText, type Family } from '../engine/address.ts';
import { SystemError } from '../ffi/errno.ts';
import { createNamespace } from '../ffi/netns.ts';
import { AGENT_PORT, type AgentAnswer } from './demo/agent.ts';
import { Bed, type LabNode } from './demo/bed.ts';
import { readCluster, type DemoCluster } from './demo/cluster.ts';
import { CulvertNode } from './demo/culvert-node.ts';
import { expectedOf } from './demo/expect.ts';
import { keepNodes } from './demo/fewer.ts';
import { addKernelPod, setUpKernelNode } from './demo/kernel-node.ts';
import { findDns, findDnsServer, startDns, tryNames, type NameTrial } from './demo/names.ts';
import { patienceFor, type Patience } from './demo/patience.ts';
import { tryServices, type Client, type ServiceTrial } from './demo/services.ts';
import { CommandError, EXIT_FAILED, EXIT_NO_PERMISSION, EXIT_OK } from './exit.ts';
import { servicesFor } from './policy/services.ts';
import { aborted } from './run.ts';
import { print, table, type OutputFormat } from './table.ts';
import { PACKAGE_FOLDER } from './version.ts';

const CLUSTER_FILE = join(PACKAGE_FOLDER, 'deploy', 'demo', 'cluster.yaml');
const PROTOCOLS = ['TCP', 'UDP', 'ICMP'] as const;
const UDP_SIZE = 512;
const PING_SIZE = 56;
/** Throughput is measured with what a first, small transfer lets expect to take this long. */
const THROUGHPUT_PROBE_BYTES = 512 * 1024;
const THROUGHPUT_MS = 2000;
const THROUGHPUT_BYTES_MAX = 64 * 1024 * 1024;
const THROUGHPUT_TIMEOUT_MS = 30_000;
const PARALLEL = 8;

export interface DemoOptions {
  output: OutputFormat;
  keep: boolean;
  cluster?: string;
  /** How many of the cluster's nodes; all where it is not given. */
  nodes?: number;
  /** The DNS server to run; otherwise the machine's. */
  dns?: string;
  /** Where to leave a link to runtime directories and namespaces while it is kept running. */
  folder?: string;
  /** Stands in for the kernel's vxlan. */
  setUpKernelNode?: typeof setUpKernelNode;
}

/** One attempt. Ends are `namespace/pod` or `node/name`. */
export interface Pair {
  from: string;
  to: string;
  protocol: typeof PROTOCOLS[number];
  family: Family;
  expected: 'reach' | 'blocked';
  seen: 'reach' | 'blocked';
}

/** A pair that this machine cannot have. */
export interface SkippedPair extends Pick<Pair, 'from' | 'to' | 'protocol' | 'family'> {
  reason: string;
}

export interface DemoReport {
  ok: boolean;
  nodes: { name: string; kind: 'culvert' | 'kernel-vxlan'; podCidrs: string[] }[];
  pairs: Pair[];
  skipped: SkippedPair[];
  services: ServiceTrial[];
  names: NameTrial[];
  /** Why no names were tried; empty where they were. */
  namesSkipped: string;
  throughputMbps: number;
}

/** An end of a pair: a pod, or a node with the addresses it is known by. `missing` says why this
 * machine cannot have it; empty where it is there. */
interface End extends Client {
  missing: string;
}

/** A pair to be tried. */
interface Attempt {
  from: End;
  to: End;
  protocol: Pair['protocol'];
  address: string;
  expected: Pair['expected'];
}

/** Runs the demo. Returns the exit code: 0 only if all is as expected. */
export async function demo(options: DemoOptions, stop: AbortSignal): Promise<number> {
  checkMachine();
  if (options.dns !== undefined) checkProgram(options.dns);
  const { cluster: file = CLUSTER_FILE } = options;
  readCluster(file);
  const bed = await Bed.create();
  const work = runDemo(bed, options, stop);
  try {
    const interrupted = aborted(stop).then(() => null);
    const report = await Promise.race([work, interrupted]);
    if (report === null) return EXIT_FAILED;
    if (options.keep) await keepRunning(bed, options, stop);
    return report.ok ? EXIT_OK : EXIT_FAILED;
  } finally {
    say('cleaning up');
    await bed.stop();
    await work.catch(() => {});
    await bed.close();
  }
}

async function runDemo(bed: Bed, options: DemoOptions, stop: AbortSignal): Promise<DemoReport> {
  const source = chooseNodes(bed, options);
  const cluster = readCluster(source);
  const startedMs = performance.now();
  const ends = await build(bed, cluster, source, options);
  const patience = patienceFor(performance.now() - startedMs);
  stop.throwIfAborted();
  const { possible, skipped } = listPairs(ends);
  const present = ends.filter(({ missing }) => missing === '');
  say(`trying every pair of ${present.length} pods and nodes`);
  await Promise.all(present.map(({ host, addresses }) =>
    host.agent.ask({ verb: 'serve', addresses })));
  ask(cluster, possible);
  const pairs = await tryPairs(possible, patience, stop);
  stop.throwIfAborted();
  const clients = present.filter(({ node }) => !cluster.kernelNodes.has(node));
  const services = await trySomeServices(clients, present, cluster, patience, stop);
  const { names, namesSkipped } = await trySomeNames(
    bed, clients, cluster, options.dns, patience, stop);
  stop.throwIfAborted();
  say('measuring throughput');
  const throughputMbps = await measure(ends, cluster);
  stop.throwIfAborted();
  const report: DemoReport = {
    ok: pairs.every(({ expected, seen }) => expected === seen)
      && [...services, ...names].every(({ ok }) => ok) && throughputMbps > 0,
    nodes: cluster.nodes.map(({ name, podCidrs }) => ({
      name, kind: cluster.kernelNodes.has(name) ? 'kernel-vxlan' : 'culvert', podCidrs,
    })),
    pairs,
    skipped,
    services,
    names,
    namesSkipped,
    throughputMbps,
  };
  show(report, options.output);
  return report;
}

/** Says plainly what is missing. */
function checkMachine(): void {
  const advice = 'run as root, or in a user namespace: '
    + 'unshare --user --map-root-user --net --mount culvert demo';
  try {
    accessSync('/dev/net/tun', constants.R_OK | constants.W_OK);
  } catch {
    throw new CommandError(EXIT_NO_PERMISSION,
      `demo: /dev/net/tun is missing or not ours to open; modprobe tun, or ${advice}`);
  }
  try {
    createNamespace().close();
  } catch (error) {
    throw new CommandError(EXIT_NO_PERMISSION, `demo: ${(error as Error).message}; ${advice}`);
  }
}

function checkProgram(path: string): void {
  try {
    accessSync(path, constants.X_OK);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new CommandError(EXIT_FAILED, `demo --dns ${path}: ${code ?? String(error)}`);
  }
}

/** The file of the cluster's objects; in the bed, where it is not all of them. */
function chooseNodes(bed: Bed, { cluster = CLUSTER_FILE, nodes }: DemoOptions): string {
  const inBed = join(bed.folder, 'cluster.yaml');
  if (nodes === undefined) {
    symlinkSync(resolve(cluster), inBed);
    return cluster;
  }
  const left = keepNodes(cluster, nodes, inBed);
  if (left.length > 0) say(`left out: ${left.join(', ')}, with what runs there`);
  return inBed;
}

/** Makes nodes and pods and starts what runs on them. */
async function build(
  bed: Bed, cluster: DemoCluster, source: string, options: DemoOptions,
): Promise<End[]> {
  const setUp = options.setUpKernelNode ?? setUpKernelNode;
  const ends: End[] = [];
  const missing = new Map<string, string>();
  const labNodes = new Map<string, LabNode>();
  for (const { name, tunnels } of cluster.nodes) {
    const of = (family: Family): string =>
      tunnels.find((tunnel) => tunnel.family === family)?.remote ?? '';
    const addresses = { ipv4: of('IPv4'), ipv6: of('IPv6') };
    const txChecksum = cluster.kernelNodes.size === 0;
    labNodes.set(name, await bed.addNode(name, addresses, { txChecksum }));
  }
  const culvertNodes = new Map<string, CulvertNode>();
  for (const [name, node] of labNodes) {
    const self = cluster.nodes.find((candidate) => candidate.name === name);
    if (self === undefined) continue;
    if (!cluster.kernelNodes.has(name)) {
      culvertNodes.set(name, new CulvertNode(bed, node, {
        name, source, podNetworks: podNetworks(cluster), serviceNetworks: serviceNetworks(cluster),
      }));
    } else {
      const others = cluster.nodes.filter((other) => other !== self);
      missing.set(name, await reasonWithout(name, () => setUp(node, self, others)));
    }
    const { addresses } = self;
    const host = { host: node.host, missing: missing.get(name) ?? '' };
    ends.push({ name: `node/${name}`, node: name, addresses, ...host });
  }
  say(`starting culvert on ${[...culvertNodes.keys()].join(', ')}`);
  await Promise.all([...culvertNodes.values()].map((node) => node.start()));
  for (const pod of cluster.pods) {
    const { namespace, name, uid, addresses, device } = pod;
    const culvert = culvertNodes.get(pod.node);
    const node = labNodes.get(pod.node);
    if (node === undefined) continue;
    const host = culvert !== undefined
      ? await culvert.addPod({ namespace, name, uid, addresses, device })
      : await addKernelPod(bed, node, name, addresses);
    const end = { name: `${namespace}/${name}`, node: pod.node, host, addresses };
    ends.push({ ...end, missing: missing.get(pod.node) ?? '' });
  }
  return ends;
}

/** Sets a kernel node up. Returns why this kernel cannot have one; empty where it can. */
async function reasonWithout(name: string, setUp: () => Promise<void>): Promise<string> {
  try {
    await setUp();
    return '';
  } catch (error) {
    if (!(error instanceof SystemError) || error.code !== 'EOPNOTSUPP') throw error;
    say(`skipping node ${name}: ${error.message}`);
    return `node ${name}: ${error.message}`;
  }
}

/** Networks that hold the nodes' podCIDRs: /16 for IPv4, /48 for IPv6, as clusters have them. */
function podNetworks(cluster: DemoCluster): string[] {
  return around(cluster.nodes.flatMap(({ podCidrs }) => podCidrs), { IPv4: 16, IPv6: 48 });
}

/** Networks that hold the addresses of Services. */
function serviceNetworks({ entries }: DemoCluster): string[] {
  return around(servicesFor('', entries).flatMap(({ addresses }) => addresses),
    { IPv4: 16, IPv6: 112 });
}

function around(places: string[], lengths: Record<Family, number>): string[] {
  return [...new Set(places.map((place) => {
    const [address = ''] = place.split('/');
    return prefixText(prefixKey(`${address}/${lengths[addressFamily(address)]}`));
  }))];
}

/** Nodes with the kernel's vxlan know no Services: there it is others who would serve them. */
function trySomeServices(
  clients: End[], present: End[], { entries }: DemoCluster, patience: Patience, stop: AbortSignal,
): Promise<ServiceTrial[]> {
  if (servicesFor('', entries).length > 0) say('trying Services');
  return tryServices(entries, clients, present, patience, stop);
}

/** Where the cluster has a DNS Service, has its names resolved through it. */
async function trySomeNames(
  bed: Bed, clients: End[], { entries }: DemoCluster, asked: string | undefined,
  patience: Patience, stop: AbortSignal,
): Promise<Pick<DemoReport, 'names' | 'namesSkipped'>> {
  const dns = findDns(entries, clients);
  if (dns === null) return { names: [], namesSkipped: 'the cluster has no DNS Service' };
  const program = asked ?? findDnsServer();
  if (program === null) {
    return { names: [], namesSkipped: 'dnsmasq is not on this machine: apt install dnsmasq-base' };
  }
  say('trying names');
  stop.throwIfAborted();
  await startDns(bed, program, dns, entries);
  return { names: await tryNames(entries, clients, dns, patience, stop), namesSkipped: '' };
}

/** Every pod with every other pod and node, each way; nodes among themselves are the underlay's. */
function listPairs(ends: End[]): { possible: Attempt[]; skipped: SkippedPair[] } {
  const possible: Attempt[] = [];
  const skipped: SkippedPair[] = [];
  for (const from of ends) {
    for (const to of ends) {
      const areNodes = from.name.startsWith('node/') && to.name.startsWith('node/');
      if (from === to || areNodes) continue;
      const reason = from.missing || to.missing;
      for (const address of to.addresses) {
        for (const protocol of PROTOCOLS) {
          const family = addressFamily(address);
          if (reason === '') possible.push({ from, to, protocol, address, expected: 'reach' });
          else skipped.push({ from: from.name, to: to.name, protocol, family, reason });
        }
      }
    }
  }
  return { possible, skipped };
}

/** Has the objects' policy say what to expect of each attempt. */
function ask({ entries }: DemoCluster, attempts: Attempt[]): void {
  const questions = attempts.map(({ from, to, protocol, address }) =>
    ({ from: from.name, to: to.name, protocol, family: addressFamily(address) }));
  for (const [at, expected] of expectedOf(entries, questions, AGENT_PORT).entries()) {
    const attempt = attempts[at];
    if (attempt !== undefined) attempt.expected = expected;
  }
}

async function tryPairs(
  attempts: Attempt[], patience: Patience, stop: AbortSignal,
): Promise<Pair[]> {
  const pairs: Pair[] = [];
  let next = 0;
  const runner = async (): Promise<void> => {
    while (next < attempts.length && !stop.aborted) {
      const at = next;
      next += 1;
      const attempt = attempts[at];
      if (attempt === undefined) return;
      const { from, to, protocol, address, expected } = attempt;
      const seen = await reaches(attempt, patience) ? 'reach' : 'blocked';
      const family = addressFamily(address);
      pairs[at] = { from: from.name, to: to.name, protocol, family, expected, seen };
      if (at % 50 === 49) say(`${at + 1} of ${attempts.length} tried`);
    }
  };
  await Promise.all(Array.from({ length: PARALLEL }, runner));
  return pairs;
}

async function reaches(
  { from, protocol, address, expected }: Attempt, { openMs, blockedMs }: Patience,
): Promise<boolean> {
  const timeoutMs = expected === 'reach' ? openMs : blockedMs;
  const { agent } = from.host;
  const answer = protocol === 'TCP'
    ? await agent.ask({ verb: 'tcp', address, timeoutMs })
    : protocol === 'UDP'
      ? await agent.ask({ verb: 'udp', address, size: UDP_SIZE, timeoutMs })
      : await agent.ask({ verb: 'ping', address, size: PING_SIZE, timeoutMs });
  return answer.ok;
}

/** TCP, one stream, between pods of two Culvert nodes. Mbit/s of payload; 0 if it failed. */
async function measure(ends: End[], cluster: DemoCluster): Promise<number> {
  const places = cluster.pods.filter(({ node }) => !cluster.kernelNodes.has(node));
  const [first] = places;
  const second = places.find(({ node }) => node !== first?.node);
  const from = ends.find(({ name }) => name === `${first?.namespace ?? ''}/${first?.name ?? ''}`);
  const [address] = second?.addresses ?? [];
  if (from === undefined || address === undefined) return 0;
  const { agent } = from.host;
  const upload = (bytes: number): Promise<AgentAnswer> =>
    agent.ask({ verb: 'upload', address, bytes, timeoutMs: THROUGHPUT_TIMEOUT_MS });
  const probe = await upload(THROUGHPUT_PROBE_BYTES);
  const bytes = Math.min(THROUGHPUT_BYTES_MAX,
    Math.ceil(THROUGHPUT_PROBE_BYTES * THROUGHPUT_MS / probe.elapsedMs));
  const answer = probe.ok ? await upload(bytes) : probe;
  if (!answer.ok) say(`throughput: ${answer.detail}`);
  return answer.ok ? Math.round((bytes * 8) / answer.elapsedMs / 100) / 10 : 0;
}

function show(report: DemoReport, output: OutputFormat): void {
  const headers = ['FROM', 'TO', 'FAMILY', ...PROTOCOLS, 'EXPECTED'];
  print(output, report, headers, () => {
    const rows = new Map<string, { ends: string[]; seen: string[]; expected: string[] }>();
    const enter = (pair: Omit<SkippedPair, 'reason'>, expected: string, seen: string): void => {
      const ends = [pair.from, pair.to, pair.family];
      const row = rows.get(ends.join()) ?? { ends, seen: [], expected: [] };
      row.seen[PROTOCOLS.indexOf(pair.protocol)] = seen;
      row.expected[PROTOCOLS.indexOf(pair.protocol)] = expected;
      rows.set(ends.join(), row);
    };
    for (const pair of report.pairs) {
      const { expected, seen } = pair;
      enter(pair, expected, seen === expected ? seen : seen.toUpperCase());
    }
    for (const pair of report.skipped) enter(pair, '-', 'skipped');
    return [...rows.values()].map(({ ends, seen, expected }) =>
      [...ends, ...seen, new Set(expected).size === 1 ? expected[0] ?? '' : expected.join('/')]);
  });
  if (output === 'json') return;
  showServices(report.services);
  showNames(report.names);
  const wrong = report.pairs.filter(({ expected, seen }) => expected !== seen).length;
  process.stdout.write(`\n${report.pairs.length} pairs, ${wrong} not as expected, `
    + `${report.skipped.length} skipped; `
    + `TCP between two Culvert nodes ${report.throughputMbps} Mbit/s\n`);
  for (const reason of new Set(report.skipped.map((pair) => pair.reason))) {
    process.stdout.write(`skipped: ${reason}\n`);
  }
  if (report.namesSkipped !== '') process.stdout.write(`skipped: names: ${report.namesSkipped}\n`);
}

function showServices(services: ServiceTrial[]): void {
  if (services.length === 0) return;
  const headers = ['FROM', 'SERVICE', 'ADDRESS', 'ADMITTED TO', 'ANSWERED', 'SEES CLIENT', ''];
  process.stdout.write(`\n${table(headers, services.map((one) => [
    one.from, one.service, `${one.address} port ${one.port}`, one.admitted.join(',') || '-',
    one.answered.join(',') || '-', one.seesClient ? 'yes' : 'no', one.ok ? '' : 'NOT AS EXPECTED',
  ]))}`);
}

function showNames(names: NameTrial[]): void {
  if (names.length === 0) return;
  const headers = ['FROM', 'NAME', 'ASKED AT', 'ANSWER', 'EXPECTED', ''];
  process.stdout.write(`\n${table(headers, names.map((one) => [
    one.from, one.name, one.server, one.answer || '-', one.expected,
    one.ok ? '' : 'NOT AS EXPECTED',
  ]))}`);
}

async function keepRunning(
  bed: Bed, { folder }: DemoOptions, stop: AbortSignal,
): Promise<void> {
  const namespaces = join(bed.folder, 'netns');
  mkdirSync(namespaces);
  const paths = new Map(bed.hosts.map(({ name, namespace }) => [name, namespace.path]));
  for (const [name, path] of paths) symlinkSync(path, join(namespaces, name));
  if (folder !== undefined) linkFolder(bed.folder, folder);
  say(`kept running; every pod and node serves TCP and UDP on port ${AGENT_PORT}`);
  for (const { name, namespace } of bed.hosts) {
    say(`  ${name}: nsenter --net=${namespace.path}`);
  }
  say(`  runtime directories, the objects, and links to these namespaces are in ${folder
    ?? bed.folder}; interrupt to end it`);
  try {
    await aborted(stop);
  } finally {
    if (folder !== undefined) rmSync(folder, { force: true });
  }
}

/** Makes a link, in the place of one that a killed demo has left. */
function linkFolder(target: string, path: string): void {
  try {
    if (lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink()) rmSync(path);
    symlinkSync(target, path);
  } catch (error) {
    throw new CommandError(EXIT_FAILED, `demo --folder ${path}: ${(error as Error).message}`);
  }
}

/** Progress is for people, on standard error. */
function say(text: string): void {
  process.stderr.write(`demo: ${text}\n`);
}
