// `culvert bench cni`: how long a pod waits for its network. ADD by our plugin beside ADD by the
// CNI project's bridge and host-local, each called as a container runtime calls it, in interleaved
// rounds; and what ours is made of.
//
// The parts are seen from outside, by ADDs of their own whose words to the daemon pass a tap. Two
// more subjects are what no plugin of this kind can go below: a Node.js that does nothing, and the
// kernel's time for moving a TUN to another namespace.

import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { installPlugin } from '../cni/install.ts';
import { closeFd } from '../ffi/file.ts';
import { openTun } from '../ffi/tun.ts';
import { bringTools, findTool, toolFolder, toolReason, TOOLS } from '../scripts/tools.ts';
import { callPlugin, INTERFACE, POD_NAMESPACE, run, type Plugin } from './cni/plugin.ts';
import { Tap, type Marks } from './cni/tap.ts';
import { checkMachine } from './path.ts';
import { Bed, type Place } from './path/bed.ts';
import { nodeObject, startNode } from './path/culvert.ts';
import { sleep } from './path/program.ts';
import { Hash } from './random.ts';
import { describeMachine, median, round, summarise, type Measurement, type Ratio,
  type Report } from './report.ts';

export const CNI_ROUNDS = 21;
const PACKAGE_FOLDER = fileURLToPath(new URL('../..', import.meta.url));
/** A file system in memory, as /run is, where the daemon and host-local keep their files. */
const MEMORY_FOLDER = '/dev/shm';
const BRIDGE = 'cni0';
const STOCK_SUBNET = '10.99.0.0/24';
const MTU = 1450;
const EMPTY_PROGRAM = ['-e', '0'];
const NS_PER_MS = 1e6;
/** Between two turns, for what the kernel frees after the first. */
const SETTLE_MS = 50;
const TUN_NAME = 'bench0';

/** A part of an ADD of ours: from one of the tap's marks to another, or the call's begin or end. */
const PARTS: readonly { name: string; from: string; to: string }[] = [
  { name: 'part/start', from: 'begin', to: 'connect' },
  { name: 'part/greeting', from: 'connect', to: 'cni.add' },
  { name: 'part/daemonAdd', from: 'cni.add', to: 'cni.add answered' },
  { name: 'part/interface', from: 'cni.add answered', to: 'cni.ready' },
  { name: 'part/daemonReady', from: 'cni.ready', to: 'cni.ready answered' },
  { name: 'part/end', from: 'cni.ready answered', to: 'end' },
];

export interface CniOptions {
  rounds: number;
  say: (text: string) => void;
  stop: AbortSignal;
}

export interface CniReport extends Report {
  /** Who was left out, and why. */
  skipped: Record<string, string>;
}

/** Something that takes a turn in every round; gives milliseconds by result. */
interface Subject {
  name: string;
  turn: (round: number) => Promise<Record<string, number>>;
}

/** Runs everything. Without the CNI project's plugins there are no ratios. */
export async function runCni({ rounds, say, stop }: CniOptions): Promise<CniReport> {
  checkMachine();
  await bringTools(TOOLS.filter(({ name }) => name === 'cni-bridge'));
  const bed = await Bed.create({ cores: ['', ''], link: 'plain', txChecksum: true, stop });
  try {
    say('setting up a node');
    const scene = await Scene.create(bed);
    const why = await bridgeReason(bed);
    const skipped: Record<string, string> = why === null ? {} : { bridge: why };
    const subjects = scene.subjects(why !== null);
    const samples = new Map<string, number[]>();
    // A first round fills caches and makes the bridge.
    for (let index = 0; index <= rounds; index += 1) {
      stop.throwIfAborted();
      if (index > 0) say(`round ${index} of ${rounds}`);
      for (let turn = 0; turn < subjects.length; turn += 1) {
        const subject = subjects[(index + turn) % subjects.length];
        await sleep(SETTLE_MS);
        for (const [name, ms] of Object.entries(await subject?.turn(index) ?? {})) {
          if (index > 0) samples.set(name, [...samples.get(name) ?? [], ms]);
        }
      }
    }
    return reportOf(samples, scene.hashes, skipped);
  } catch (error) {
    // Whatever fails because all of it was taken down fails for that reason.
    stop.throwIfAborted();
    throw error;
  } finally {
    await bed.close();
  }
}

/** Why this machine has no bridge to compare with, or null. */
async function bridgeReason({ near: { links } }: Bed): Promise<string | null> {
  if (findTool('cni-bridge') === null) return toolReason('cni-bridge');
  try {
    await links.addBridge(BRIDGE);
    await links.removeLink(BRIDGE);
    return null;
  } catch (error) {
    return (error as Error).message;
  }
}

/** A node with our daemon, its sidecar and one pod's namespace. */
class Scene {
  readonly hashes = new Map<string, Hash>();
  readonly #bed: Bed;
  readonly #pod: Place;
  readonly #folder: string;
  readonly #tap: Tap;
  readonly #tapFolder: string;
  readonly #daemonFolder: string;

  private constructor(bed: Bed, folder: string, daemonFolder: string, tap: Tap) {
    this.#bed = bed;
    this.#pod = bed.addPlace('');
    this.#folder = folder;
    this.#daemonFolder = daemonFolder;
    this.#tap = tap;
    this.#tapFolder = join(folder, 'tap');
  }

  static async create(bed: Bed): Promise<Scene> {
    const folder = bed.makeFolder(existsSync(MEMORY_FOLDER) ? MEMORY_FOLDER : undefined);
    const daemonFolder = join(folder, 'culvert');
    for (const path of [daemonFolder, join(folder, 'tap')]) mkdirSync(path, { mode: 0o700 });
    const objects = join(folder, 'cluster.json');
    const items = [
      ...bed.nodes.map(nodeObject),
      ...['culvert', 'tapped'].map(podObject),
    ];
    writeFileSync(objects, JSON.stringify({ apiVersion: 'v1', kind: 'List', items }));
    await startNode(bed, bed.near, 'auto', objects, daemonFolder);
    installPlugin({
      binDirectory: join(folder, 'bin'), configDirectory: join(folder, 'net.d'),
      runtimeDirectory: daemonFolder, networkName: 'bench', portmap: false,
    }, {
      bundle: join(PACKAGE_FOLDER, 'dist/cni/culvert.cjs'), packageFolder: PACKAGE_FOLDER,
      node: process.execPath,
    });
    const tap = await Tap.open(join(folder, 'tap'), daemonFolder);
    bed.onClose(() => tap.close());
    return new Scene(bed, folder, daemonFolder, tap);
  }

  subjects(isAlone: boolean): Subject[] {
    const stock = toolFolder('cni-bridge') ?? '/';
    return [
      { name: 'culvert', turn: (index) => this.#add('culvert', index, this.#ours(false)) },
      ...(isAlone ? [] : [{
        name: 'bridge',
        turn: (index: number) => this.#add('bridge', index, this.#stock(stock)),
      }]),
      { name: 'tapped', turn: (index) => this.#addTapped(index) },
      { name: 'node', turn: () => this.#runNode() },
      { name: 'move', turn: () => this.#moveTun() },
    ];
  }

  #ours(isTapped: boolean): Plugin {
    const path = join(this.#folder, 'bin');
    const runtimeDirectory = isTapped ? this.#tapFolder : this.#daemonFolder;
    return { program: join(path, 'culvert'), path, config: { type: 'culvert', runtimeDirectory } };
  }

  #stock(folder: string): Plugin {
    const path = join(folder, 'usr/lib/cni');
    return {
      program: join(path, 'bridge'), path,
      config: {
        type: 'bridge', bridge: BRIDGE, isGateway: true, ipMasq: false, mtu: MTU,
        ipam: { type: 'host-local', ranges: [[{ subnet: STOCK_SUBNET }]],
          routes: [{ dst: '0.0.0.0/0' }], dataDir: join(this.#folder, 'host-local') },
      },
    };
  }

  /** One ADD, and the DEL that makes room for the next. Returns the ADD's time, and its parts where
   * they can be seen. */
  async #add(name: string, index: number, plugin: Plugin): Promise<Record<string, number>> {
    const call = { container: `${name}-${index}`, netns: this.#pod.namespace.path, pod: name };
    const { near } = this.#bed;
    const added = await callPlugin(near.namespace, plugin, { verb: 'ADD', ...call });
    this.#note(`add/${name}`, added.result);
    const link = await this.#pod.links.link(INTERFACE);
    if (!link.up) throw new Error(`${name}: ${INTERFACE} is not up after ADD`);
    const times = { [`add/${name}`]: added.endMs - added.beginMs };
    if (name === 'tapped') {
      Object.assign(times, partsOf(this.#tap.take(), added.beginMs, added.endMs));
    }
    await callPlugin(near.namespace, plugin, { verb: 'DEL', ...call });
    this.#tap.take();
    return times;
  }

  #addTapped(index: number): Promise<Record<string, number>> {
    return this.#add('tapped', index, this.#ours(true));
  }

  async #runNode(): Promise<Record<string, number>> {
    const { namespace } = this.#bed.near;
    const { beginMs, endMs } = await run(
      namespace, [process.execPath, ...EMPTY_PROGRAM], {}, '');
    return { 'floor/node': endMs - beginMs };
  }

  /** Moves a TUN into the pod's namespace. */
  async #moveTun(): Promise<Record<string, number>> {
    const { near: { namespace, links } } = this.#bed;
    const { fd, name } = namespace.run(() => openTun({ name: TUN_NAME, kind: 'tun' }));
    try {
      const beginMs = performance.now();
      await links.setLink(name, { namespaceFd: this.#pod.namespace.fd });
      return { 'floor/move': performance.now() - beginMs };
    } finally {
      closeFd(fd);
    }
  }

  /** What is the same in every ADD's result goes into the hash. */
  #note(name: string, { interfaces, ips, routes }: Record<string, unknown>): void {
    const hash = this.hashes.get(name) ?? new Hash();
    this.hashes.set(name, hash);
    const counts = [interfaces, ips, routes].map((list) => (list as unknown[] | undefined)?.length);
    hash.addBytes(new TextEncoder().encode(`${counts.join(' ')};`));
  }
}

/** A pod as an API server has it before its runtime has told an address. */
function podObject(name: string): object {
  return {
    apiVersion: 'v1', kind: 'Pod',
    metadata: { name, namespace: POD_NAMESPACE, uid: `uid-${name}` },
    spec: { nodeName: 'node-1' }, status: { phase: 'Pending' },
  };
}

function partsOf(marks: Marks, beginMs: number, endMs: number): Record<string, number> {
  const at = (name: string): number => {
    if (name === 'begin') return beginMs;
    return name === 'end' ? endMs : marks.get(name) ?? NaN;
  };
  return Object.fromEntries(PARTS.map(({ name, from, to }) => [name, at(to) - at(from)]));
}

function reportOf(
  samples: Map<string, number[]>, hashes: Map<string, Hash>, skipped: Record<string, string>,
): CniReport {
  const results = [...samples].map(([name, times]): Measurement => ({
    name, nsPerOp: round(median(times) * NS_PER_MS, 0), ops: times.length,
    hash: (hashes.get(name) ?? new Hash()).text(),
  }));
  return { machine: describeMachine(), results, ratios: ratiosOf(samples), skipped };
}

/** Times as multiples of the bridge's in the same round. */
function ratiosOf(samples: Map<string, number[]>): Record<string, Ratio> {
  const theirs = samples.get('add/bridge');
  if (theirs === undefined) return {};
  return Object.fromEntries([['add', 'add/culvert'], ['node', 'floor/node'],
    ['move', 'floor/move']].map(([name, result]) => {
    const ours = samples.get(result ?? '') ?? [];
    return [`${name}/bridge`, summarise(ours.map((ms, index) => ms / (theirs[index] ?? NaN)))];
  }));
}
