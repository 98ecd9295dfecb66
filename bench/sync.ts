// `bench sync`: what a large cluster costs a node. A test API server with the cluster, a sidecar
// and a daemon, each a process of its own; the informers of @kubernetes/client-node beside them.
//
//   test API server ==TLS== culvert sync ---sync.sock--- culvert run (profile `standard`)
//          |
//          +======TLS====== informers
//
// Memory is what the kernel says is in RAM (VmRSS), and the most that was (VmHWM). A change is
// timed from the patch of a pod's label at the server to the sidecar's log of the daemon's answer
// that it is in force. That comes by itself: who asks the daemon all the time is in the way of what
// it asks for.

import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { spawn } from 'node:child_process';
import { createRequire } from 'node:module';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { connectionOver, type Connection } from '../engine/connection.ts';
import { StatusReportSchema, type StatusReport } from '../engine/model.ts';
import { Links } from '../ffi/netlink.ts';
import { createNamespace, type Namespace } from '../ffi/netns.ts';
import { CONTROL_SOCKET } from '../host/main.ts';
import { describeMachine, type Machine } from './report.ts';
import { tierOf, type ClusterSize } from './sync/cluster.ts';
import { Watched } from './sync/process.ts';

const PACKAGE_FOLDER = fileURLToPath(new URL('../..', import.meta.url));
const CLI = join(PACKAGE_FOLDER, 'dist', 'cli', 'culvert.js');
const SERVER = join(PACKAGE_FOLDER, 'dist', 'test', 'support', 'crowd-server.js');
const INFORMER = join(PACKAGE_FOLDER, 'dist', 'bench', 'sync', 'informer.js');
const RIVAL = '@kubernetes/client-node';
const RIVAL_VERSION = '1.4.0';
/** Our node: its pods are in namespace LOCAL modulo the number of namespaces. */
const LOCAL = 7;
/** The sidecar's environment in deploy/: its threads share one arena of the C library. */
const SIDECAR_ENVIRONMENT = ['env', 'MALLOC_ARENA_MAX=1'];
const START_TIMEOUT_MS = 60_000;
const READ_TIMEOUT_MS = 600_000;
const CHANGE_TIMEOUT_MS = 10_000;
const BETWEEN_MS = 20;

export interface SyncBenchOptions {
  size: ClusterSize;
  /** Changes that are timed. */
  changes: number;
  /** How long after the snapshot they begin, and after them memory is looked at. */
  restMs: number;
  /** Where the informers' module is installed; null where they are not measured. */
  rivalFolder: string | null;
  say(text: string): void;
}

/** What was measured: bytes and milliseconds. Null for what this machine cannot have. */
export interface SyncReport {
  machine: Machine;
  size: ClusterSize;
  sidecar: { readMs: number; peakBytes: number; steadyBytes: number };
  host: { peakBytes: number; steadyBytes: number };
  snapshotMs: number;
  changes: { count: number; p50Ms: number; p99Ms: number; worstMs: number };
  informers: { readMs: number; objects: number; peakBytes: number; steadyBytes: number } | null;
}

/** Measures everything once. Needs root and /dev/net/tun. */
export async function runSyncBench(options: SyncBenchOptions): Promise<SyncReport> {
  if (!existsSync(SERVER)) throw new Error(`${SERVER} is missing: the bench needs a built clone`);
  const folder = mkdtempSync(join(tmpdir(), 'culvert-bench-sync-'));
  const started: { stop(): unknown }[] = [];
  try {
    const server = watch(started, 'server', [SERVER, JSON.stringify(options.size)]);
    const { kubeconfig } = JSON.parse(await server.line(READ_TIMEOUT_MS)) as { kubeconfig: string };
    options.say('the cluster is being served');
    const ours = await measureOurs(options, folder, kubeconfig, server, started);
    const informers = await measureInformers(options, kubeconfig, started);
    return { machine: describeMachine(), size: options.size, ...ours, informers };
  } finally {
    for (const part of started.reverse()) await part.stop();
    rmSync(folder, { recursive: true, force: true });
  }
}

function watch(
  started: { stop(): unknown }[], name: string, words: readonly string[],
  { within, before = [] }: { within?: Namespace; before?: readonly string[] } = {},
): Watched {
  const start: typeof spawn = (within === undefined ? spawn
    : (...args: Parameters<typeof spawn>) => within.run(() => spawn(...args))) as typeof spawn;
  const watched = new Watched(name, [...before, process.execPath, ...words], start);
  started.push(watched);
  return watched;
}

async function measureOurs(
  options: SyncBenchOptions, folder: string, kubeconfig: string, server: Watched,
  started: { stop(): unknown }[],
): Promise<Omit<SyncReport, 'machine' | 'size' | 'informers'>> {
  const namespace = await underlay(started);
  const common = ['--node-name', `node-${LOCAL}`, '--runtime-directory', folder];
  const daemon = watch(started, 'culvert run', [
    CLI, 'run', ...common, '--underlay-interface', 'eth0', '--pod-networks', '10.64.0.0/10',
    '--handover-enabled', 'false', '--stop-on-stdin-end',
  ], { within: namespace });
  await daemon.logged('"msg":"ready"', START_TIMEOUT_MS);
  const status = await statusOf(folder, started);
  const startMs = performance.now();
  const sidecar = watch(started, 'culvert sync', [
    CLI, 'sync', ...common, '--source', 'kubernetes', '--kubeconfig', kubeconfig,
    '--stop-on-stdin-end', '--log-level', 'debug',
  ], { before: SIDECAR_ENVIRONMENT });
  const line = await sidecar.logged('host is up to date', READ_TIMEOUT_MS);
  const readMs = performance.now() - startMs;
  const { ms: snapshotMs, revision } = JSON.parse(line) as { ms: number; revision: number };
  const { nodes, pods } = await status();
  options.say(`${nodes} nodes and ${pods} pods of ours are in force`);
  await sleep(options.restMs);
  const changes = await timeChanges(options, server, sidecar, revision);
  await sleep(options.restMs);
  const resident = { sidecar: sidecar.resident(), host: daemon.resident() };
  await sidecar.stop();
  return {
    sidecar: {
      readMs, peakBytes: resident.sidecar.peakBytes, steadyBytes: resident.sidecar.nowBytes,
    },
    host: { peakBytes: resident.host.peakBytes, steadyBytes: resident.host.nowBytes },
    snapshotMs,
    changes,
  };
}

/** A namespace with an underlay that leads nowhere. */
async function underlay(started: { stop(): unknown }[]): Promise<Namespace> {
  const [namespace, other] = [createNamespace(), createNamespace()];
  const links = namespace.run(() => new Links());
  started.push({ stop: () => { links.close(); namespace.close(); other.close(); } });
  await links.addVeth('eth0', 'eth0', other.fd);
  await links.setLink('eth0', { up: true });
  await links.addAddress('eth0', `172.20.0.${LOCAL}/16`);
  return namespace;
}

/** A function that asks the daemon for its status, over one connection. */
async function statusOf(
  folder: string, started: { stop(): unknown }[],
): Promise<() => Promise<StatusReport>> {
  const { version } = JSON.parse(
    readFileSync(join(PACKAGE_FOLDER, 'package.json'), 'utf8')) as { version: string };
  const socket = connect(join(folder, CONTROL_SOCKET));
  const connection: Connection = connectionOver(socket, { version, role: 'cli' });
  started.push({ stop: () => connection.close() });
  await connection.opened;
  return () => connection.request('status', null, StatusReportSchema);
}

/** Changes a label of one pod after the other, each of which a rule set of ours can tell. */
async function timeChanges(
  { size, changes: count }: SyncBenchOptions, server: Watched, sidecar: Watched, revision: number,
): Promise<SyncReport['changes']> {
  const times: number[] = [];
  const mates = Math.floor((size.pods - LOCAL) / size.namespaces);
  for (let change = 0; change < count; change += 1) {
    const index = LOCAL + (size.namespaces * (change % mates));
    const isWeb = (tierOf(size, index) === 'web') !== (Math.floor(change / mates) % 2 === 1);
    server.tell(JSON.stringify({ relabel: index, tier: isWeb ? 'db' : 'web' }));
    const done = `"revision":${revision + change + 1},"msg":"host has the change"`;
    await sidecar.logged(done, CHANGE_TIMEOUT_MS);
    const doneMs = performance.timeOrigin + performance.now();
    const { atMs } = JSON.parse(await server.line(CHANGE_TIMEOUT_MS)) as { atMs: number };
    times.push(doneMs - atMs);
    await sleep(BETWEEN_MS);
  }
  times.sort((a, b) => a - b);
  const at = (share: number): number => times[Math.floor((times.length - 1) * share)] ?? NaN;
  return { count, p50Ms: at(0.5), p99Ms: at(0.99), worstMs: at(1) };
}

async function measureInformers(
  { restMs, rivalFolder, say }: SyncBenchOptions, kubeconfig: string,
  started: { stop(): unknown }[],
): Promise<SyncReport['informers']> {
  if (rivalFolder === null) return null;
  const program = rivalProgram(rivalFolder);
  if (program === null) {
    say(`skipped: ${RIVAL} is not installed in ${rivalFolder}; `
      + `npm install --no-save ${RIVAL}@${RIVAL_VERSION} there`);
    return null;
  }
  const startMs = performance.now();
  const rival = watch(started, RIVAL, [INFORMER, kubeconfig, program]);
  const { objects } = JSON.parse(await rival.line(READ_TIMEOUT_MS)) as { objects: number };
  const readMs = performance.now() - startMs;
  await sleep(restMs);
  const { nowBytes, peakBytes } = rival.resident();
  await rival.stop();
  return { readMs, objects, peakBytes, steadyBytes: nowBytes };
}

/** The file of the rival's module, or null. */
function rivalProgram(folder: string): string | null {
  try {
    return createRequire(join(resolve(folder), 'package.json')).resolve(RIVAL);
  } catch {
    return null;
  }
}

function sleep(milliseconds: number): Promise<void> {
  return new Promise((resolve) => { setTimeout(resolve, milliseconds); });
}

const mebibytes = (bytes: number): string => `${(bytes / (2 ** 20)).toFixed(0)} MiB`;
const seconds = (ms: number): string => `${(ms / 1000).toFixed(2)} s`;

/** The report for people. */
export function syncText(report: SyncReport): string {
  const { size, sidecar, host, snapshotMs, changes, informers } = report;
  const rows = [
    ['cluster', `${size.pods} pods, ${size.nodes} nodes, ${size.policies} policies`],
    ['sidecar', `${mebibytes(sidecar.peakBytes)} peak, ${mebibytes(sidecar.steadyBytes)} steady, `
      + `cluster in force after ${seconds(sidecar.readMs)}`],
    ['informers', informers === null ? 'not measured'
      : `${mebibytes(informers.peakBytes)} peak, ${mebibytes(informers.steadyBytes)} steady, `
        + `${informers.objects} objects read after ${seconds(informers.readMs)} (${RIVAL})`],
    ['host', `${mebibytes(host.peakBytes)} peak, ${mebibytes(host.steadyBytes)} steady`],
    ['snapshot', `${snapshotMs.toFixed(0)} ms from the socket to live in the core`],
    ['change', `median ${changes.p50Ms.toFixed(2)} ms, p99 ${changes.p99Ms.toFixed(2)} ms, worst `
      + `${changes.worstMs.toFixed(2)} ms of ${changes.count}, from the server to live`],
  ];
  return rows.map(([name = '', text = '']) => `${name.padEnd(10)} ${text}\n`).join('');
}
