// A node whose daemon is the installed service, beside one as tests have it.
//
//   namespace node-3                       hub            namespace node-2
//   a container with Debian's systemd:   (router)         culvert run, culvert sync
//   the package, culvert.service
//   culvert sync, outside of it
//   eth0 192.0.2.3 -----------------------------------------  eth0 192.0.2.2
//     |                                                          |
//     +-- pod-3-10  <---- datagrams both ways, iperf3 ----->  pod-2-10
//
// The service may not enter namespaces: pods come by the CNI plugin, as with any runtime.

import { execFileSync, spawn } from 'node:child_process';
import { copyFileSync, mkdirSync, rmdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import type { Bed, Host } from '../../../cli/demo/bed.ts';
import { installPlugin } from '../../../cni/install.ts';
import {
  POD_NETWORKS, podAddress, podAddresses, podName,
} from '../../netns/support/forge-cluster.ts';
import { Place, mustReach, type Pod } from '../../netns/support/forge-scene.ts';
import { until } from '../../support/until.ts';
import { Paced, type PacedReport } from '../../netns/support/paced.ts';
import { ROOT } from '../../support/source.ts';
import { Container } from './container.ts';

export const SERVICE = 'culvert.service';
/** The packages' versions: what is installed, and what it is upgraded to. */
export const VERSION = '0.1.0';
export const NEXT_VERSION = '0.1.0+next';
const NODES = [2, 3];
/** The watchdog's patience, seconds: less than the unit's, so that a test need not have that. */
export const WATCHDOG_SECONDS = 5;
const DROP_IN = `/run/systemd/system/${SERVICE}.d`;
const NETWORK = 'culvert';
const OUT_PORT = 7101;
const IN_PORT = 7102;
const SETTLE_MS = 1000;
const CONFIG = [
  'nodeName: node-3', `podNetworks: [${POD_NETWORKS.map((prefix) => `"${prefix}"`).join(', ')}]`,
  'memory: small', 'underlay:', '  interface: eth0', '',
].join('\n');

/** What became of datagrams while something was done to the service. */
export interface Account {
  outbound: PacedReport;
  inbound: PacedReport;
}

export class ServiceScene {
  readonly container: Container;
  readonly place: Place;
  readonly own: Pod;
  readonly remote: Pod;

  private constructor(container: Container, place: Place, own: Pod, remote: Pod) {
    this.container = container;
    this.place = place;
    this.own = own;
    this.remote = remote;
  }

  /** Builds both packages, boots the container, installs the first, and attaches a pod. */
  static async make(bed: Bed): Promise<ServiceScene> {
    const other = await Place.add(bed, 2, NODES);
    const place = await Place.add(bed, 3, NODES);
    await other.culvert.start();
    const container = await Container.boot(place.host, bed.folder);
    try {
      const own = await install(bed, place, container);
      const remote = await other.addPod(10);
      await mustReach(own.host, remote.addresses);
      return new ServiceScene(container, place, own, remote);
    } catch (error) {
      await container.close();
      throw error;
    }
  }

  /** The daemon's process, as the container numbers it. */
  get daemon(): string {
    return this.container.property(SERVICE, 'MainPID');
  }

  /** Sends the daemon a signal. The tree has no program for it but the shell's own. */
  signal(name: string): void {
    const words = `kill -s ${name} ${this.daemon}`;
    const { status, output: said } = this.container.run('sh', '-c', words);
    assert.is(status, 0, said);
  }

  /** Does something while datagrams flow both ways, and says what became of these. */
  async under(perSecond: number, work: () => Promise<unknown>): Promise<Account> {
    const there = podAddress(2, 10, 'IPv4');
    const here = podAddress(3, 10, 'IPv6');
    const ends = {
      outListener: await Paced.listener(this.remote.host, there, OUT_PORT),
      inListener: await Paced.listener(this.own.host, here, IN_PORT),
      outSender: await Paced.sender(this.own.host, there, OUT_PORT, perSecond),
      inSender: await Paced.sender(this.remote.host, here, IN_PORT, perSecond),
    };
    const listeners = [ends.outListener, ends.inListener];
    try {
      await keepsComing(listeners, perSecond);
      await work();
      await keepsComing(listeners, perSecond);
      const { sent: outSent } = await ends.outSender.stop();
      const { sent: inSent } = await ends.inSender.stop();
      return {
        outbound: { ...await ends.outListener.settled(outSent), sent: outSent },
        inbound: { ...await ends.inListener.settled(inSent), sent: inSent },
      };
    } finally {
      for (const end of Object.values(ends)) await end.close();
    }
  }

  /** Runs iperf3 for so long from the service's pod to the other one. Gives what arrived, bits a
   * second and second by second. Rejects where the connection did not last. */
  async iperf3(program: string, seconds: number): Promise<number[]> {
    const server = this.remote.host.namespace.run(() =>
      spawn(program, ['--server', '--one-off'], { stdio: 'ignore' }));
    const ended = new Promise((resolve) => server.once('exit', resolve));
    await pause(SETTLE_MS / 2);
    const address = podAddress(2, 10, 'IPv4');
    const text = await output(this.own.host, program,
      ['--client', address, '--time', `${seconds}`, '--json']);
    server.kill();
    await ended;
    const report = JSON.parse(text) as {
      error?: string; intervals: { sum: { bits_per_second: number } }[];
    };
    if (report.error !== undefined) throw new Error(`iperf3: ${report.error}`);
    return report.intervals.map(({ sum }) => sum.bits_per_second);
  }
}

/** Waits until each listener has heard as much again as comes in a second. */
async function keepsComing(listeners: readonly Paced[], perSecond: number): Promise<void> {
  for (const listener of listeners) {
    const { arrived } = await listener.report();
    await until('datagrams', async () => (await listener.report()).arrived >= arrived + perSecond);
  }
}

/** Installs the first package and waits for its service; attaches a pod to that. */
async function install(bed: Bed, place: Place, container: Container): Promise<Pod> {
  for (const version of [VERSION, NEXT_VERSION]) {
    copyFileSync(buildPackage(version, bed.folder), join(container.root, packagePath(version)));
  }
  mkdirSync(join(container.root, 'etc', 'culvert'));
  writeFileSync(join(container.root, 'etc', 'culvert', 'config.yaml'), CONFIG);
  container.run('sh', '-c', `mkdir -p ${DROP_IN}; printf '[Service]\\nWatchdogSec='`
    + `${WATCHDOG_SECONDS} > ${DROP_IN}/patience.conf`);
  const installed = container.run('dpkg', '--install', packagePath(VERSION));
  assert.is(installed.status, 0, installed.output);
  await until('the service', () => container.property(SERVICE, 'ActiveState') === 'active');
  // Sockets are where tests look for them, by way of the container's own file system.
  const { culvert } = place;
  rmdirSync(culvert.runtimeDirectory);
  symlinkSync(container.path('/run/culvert'), culvert.runtimeDirectory);
  await culvert.startSidecar();
  await culvert.waitFor(({ sync, nodes }) => sync.revision !== null && nodes > 1);
  return attach(bed, place, 10);
}

/** Where a package is in the container. */
export function packagePath(version: string): string {
  return `/srv/culvert_${version}.deb`;
}

function buildPackage(version: string, folder: string): string {
  const out = join(folder, 'packages');
  const architecture = execFileSync('dpkg', ['--print-architecture'], { encoding: 'utf8' }).trim();
  execFileSync(process.execPath, [
    join(ROOT, 'dist', 'scripts', 'package.js'), '--arch', architecture, '--version', version,
    '--out', out,
  ], { stdio: ['ignore', 'ignore', 'inherit'] });
  return join(out, `culvert_${version}_${architecture}.deb`);
}

/** Attaches a pod as a runtime does. */
async function attach(bed: Bed, place: Place, pod: number): Promise<Pod> {
  const name = podName(place.n, pod);
  const host = bed.addHost(name);
  const { runtimeDirectory } = place.culvert;
  const binDirectory = join(bed.folder, 'bin');
  installPlugin({
    binDirectory, configDirectory: join(bed.folder, 'net.d'), networkName: NETWORK,
    runtimeDirectory, portmap: false,
  }, { bundle: join(ROOT, 'dist/cni/culvert.cjs'), packageFolder: ROOT, node: process.execPath });
  const answer = await output(place.host, join(binDirectory, 'culvert'), [], JSON.stringify({
    cniVersion: '1.1.0', name: NETWORK, type: 'culvert', runtimeDirectory,
  }), {
    CNI_COMMAND: 'ADD', CNI_PATH: binDirectory, CNI_CONTAINERID: `id-${name}`, CNI_IFNAME: 'eth0',
    CNI_NETNS: host.namespace.path,
    CNI_ARGS: `K8S_POD_UID=uid-${name};K8S_POD_NAME=${name};K8S_POD_NAMESPACE=test`,
  });
  const { ips } = JSON.parse(answer) as { ips: { address: string }[] };
  const addresses = podAddresses(place.n, pod);
  assert.equal(ips.map(({ address }) => address.split('/')[0]).sort(), [...addresses].sort());
  return { host, name, addresses };
}

/** What a program in a host prints. Rejects with that where it fails. */
function output(
  host: Host, program: string, args: string[], input = '', env: Record<string, string> = {},
): Promise<string> {
  const child = host.namespace.run(() => spawn(program, args, {
    stdio: 'pipe', env: { PATH: process.env['PATH'] ?? '', ...env },
  }));
  let [text, faults] = ['', ''];
  child.stdout.on('data', (chunk: Buffer) => { text += chunk.toString(); });
  child.stderr.on('data', (chunk: Buffer) => { faults += chunk.toString(); });
  child.stdin.on('error', () => {});
  child.stdin.end(input);
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (status) =>
      (status === 0 ? resolve(text) : reject(new Error(`${program}: ${text}${faults}`))));
  });
}

export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
