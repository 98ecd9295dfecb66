// Two nodes with everything that a pod of Kubernetes meets but the kubelet and the API server, in
// whose places the test is: Culvert's daemon and sidecar, the plugin, containerd. Between
// containerd and the plugin stands a herald: a plugin that makes nothing, tells of each namespace
// before it has a network, and lets the call go on when somebody is there.

import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, readdirSync, readlinkSync, renameSync, rmdirSync,
  writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { installPlugin } from '../../../cni/install.ts';
import { askAll } from '../../../cli/client.ts';
import type { Bed, LabNode } from '../../../cli/demo/bed.ts';
import { CulvertNode } from '../../../cli/demo/culvert-node.ts';
import { FrameReader } from '../../../engine/frame.ts';
import {
  AddressFileSchema, EndpointReportSchema, VerdictReportSchema, type VerdictReport,
} from '../../../engine/model.ts';
import { parseShape } from '../../../engine/shape.ts';
import { POD_NETWORKS, nodeAddress } from '../../netns/support/forge-cluster.ts';
import { CLI } from '../../support/command.ts';
import { until } from '../../support/until.ts';
import { ROOT } from '../../support/source.ts';
import { Containerd } from './containerd.ts';
import { WEB } from './image.ts';

export const NAMESPACE = 'shop';
/** The network has a name of its own, so that files under fixed paths can be told apart. */
const NETWORK = `culvert-${process.pid}`;
const HERALD = 'herald';
/** A pod that waits for its policy waits longer than the test lets it. */
const FLAGS = ['--handover-enabled', 'true', '--handover-away-seconds', '10',
  '--cni-policy-wait-seconds', '60'];
const CGROUPS = '/sys/fs/cgroup';
const LOG_LINES = 15;
const POLL_MS = 10;
const EXIT_TRIES = 300;

/** A namespace that has no network yet. */
export interface Heralded {
  pod: string;
  /** As this process can open it. */
  path: string;
}

export class PodNode {
  readonly n: number;
  readonly name: string;
  readonly node: LabNode;
  readonly culvert: CulvertNode;
  readonly binDirectory: string;
  /** The cgroup of this node's pods. */
  readonly cgroup: string;
  readonly #folder: string;
  #containerd: Containerd | null = null;

  private constructor(bed: Bed, n: number, node: LabNode, source: string) {
    this.n = n;
    this.name = `node-${n}`;
    this.node = node;
    this.binDirectory = join(bed.folder, `bin-${n}`);
    this.cgroup = `/culvert-${process.pid}-${n}`;
    this.#folder = join(bed.folder, `herald-${n}`);
    process.once('exit', () => this.#endPodsNow());
    this.culvert = new CulvertNode(bed, node, {
      name: this.name, source, podNetworks: POD_NETWORKS, extra: FLAGS,
    });
  }

  /** Adds node `n`; all of it runs. `source` has the objects that its sidecar reads. */
  static async start(bed: Bed, n: number, source: string): Promise<PodNode> {
    const addresses = { ipv4: nodeAddress(n, 'IPv4'), ipv6: nodeAddress(n, 'IPv6') };
    const node = await bed.addNode(`node-${n}`, addresses);
    const started = new PodNode(bed, n, node, source);
    await started.culvert.start();
    started.#install(Containerd.configDirectory(bed, `containerd-${n}`));
    started.#containerd = await Containerd.start(bed, started, [WEB], `containerd-${n}`);
    return started;
  }

  get containerd(): Containerd {
    if (this.#containerd === null) throw new Error('containerd has not been started');
    return this.#containerd;
  }

  async endpoints(): Promise<{ name: string; state: string; addresses: string[] }[]> {
    return askAll(this.culvert.runtimeDirectory, 'endpoint.list', EndpointReportSchema);
  }

  /** Has `culvert observe -f` tell of each verdict from now on, and how many it has missed, until
   * the daemon ends or the returned function is called. */
  observe(tell: (verdict: VerdictReport) => void, miss: (count: number) => void): () => void {
    const { runtimeDirectory } = this.culvert;
    const words = ['observe', '-f', '-o', 'json', '--runtime-directory', runtimeDirectory];
    const child = spawn(process.execPath, [CLI, ...words], { stdio: ['ignore', 'pipe', 'pipe'] });
    createInterface(child.stdout).on('line', (line) =>
      tell(parseShape(VerdictReportSchema, JSON.parse(line), 'verdict')));
    createInterface(child.stderr).on('line', (line) =>
      miss(Number(/(\d+) verdicts came too fast/.exec(line)?.[1] ?? 0)));
    return () => child.kill('SIGTERM');
  }

  /** What must be as before once all pods are gone: links, and descriptors of who holds any. */
  async footprint(): Promise<Record<string, string>> {
    const { daemon, sidecar, runtimeDirectory } = this.culvert;
    const holder = readdirSync('/proc').filter((name) => /^\d+$/.test(name)).find((pid) => {
      const words = readWords(pid);
      return words.includes('holder-process') && words.includes(`${runtimeDirectory}/`);
    });
    // The daemon opens it with the first change that it notes.
    const journal = join(runtimeDirectory, 'kept/cluster');
    return {
      links: (await this.node.host.links.list()).map(({ name }) => name).sort().join(' '),
      daemon: descriptorsOf(daemon?.process.pid, journal),
      sidecar: descriptorsOf(sidecar?.process.pid, ''), holder: descriptorsOf(holder, ''),
    };
  }

  /** The last words of its programs. */
  log(): string {
    const { daemon, sidecar } = this.culvert;
    return [daemon?.log(), sidecar?.log(), this.#containerd?.log()].map((log) =>
      (log ?? '').split('\n').slice(-LOG_LINES).join('\n')).join('\n');
  }

  /** The namespaces that were told of since the last time. Each waits for welcome(). */
  heralded(): Heralded[] {
    return readdirSync(this.#folder).filter((name) => name.endsWith('.new')).map((name) => {
      const path = join(this.#folder, name);
      const [netns = '', args = ''] = readFileSync(path, 'utf8').split('\n');
      renameSync(path, path.replace(/new$/, 'told'));
      const pod = /(?:^|;)K8S_POD_NAME=([^;]*)/.exec(args)?.[1] ?? '';
      return { pod, path: this.containerd.path(netns) };
    });
  }

  /** Lets the calls of those who were told of go on. */
  welcome(): void {
    for (const name of readdirSync(this.#folder).filter((each) => each.endsWith('.told'))) {
      const path = join(this.#folder, name);
      renameSync(path, path.replace(/told$/, 'go'));
    }
  }

  /** What pods that were have left of Culvert's: addresses, records, notes. Empty for nothing. */
  leftOvers(): string[] {
    const { runtimeDirectory } = this.culvert;
    const inside = (folder: string): string[] => {
      const path = join(runtimeDirectory, folder);
      return existsSync(path) ? readdirSync(path) : [];
    };
    const held = inside('addresses').filter((name) => {
      const file = readFileSync(join(runtimeDirectory, 'addresses', name));
      const [value] = new FrameReader().push(file);
      return parseShape(AddressFileSchema, value, name).attachment !== null;
    });
    return [
      ...held.map((name) => `address ${name}`),
      ...inside('kept').filter((name) => name.startsWith('pod.')).map((name) => `record ${name}`),
      ...inside('ended').map((name) => `note ${name}`),
      ...this.#cgroups().flatMap((folder) => readdirSync(folder, { withFileTypes: true })
        .filter((entry) => entry.isDirectory()).map(({ name }) => `cgroup ${folder}/${name}`)),
      ...this.containerd.leftOvers(),
    ];
  }

  /** Ends containerd and, after a failure, the pods; the bed ends the rest. */
  async close(): Promise<void> {
    this.#endPods();
    await this.#containerd?.close();
    await until('the pods to end', () => this.#endPods());
  }

  /** Ends what is in the pods' cgroup, and removes that, as a kubelet does. False where something
   * is still ending. */
  #endPods(): boolean {
    try {
      for (const pid of this.#cgroups().flatMap(processesOf)) process.kill(pid, 'SIGKILL');
      this.#cgroups().forEach(removeCgroup);
      return true;
    } catch {
      return false;
    }
  }

  /** Before the process ends in whatever way it can still notice. */
  #endPodsNow(): void {
    this.#containerd?.kill();
    const pause = new Int32Array(new SharedArrayBuffer(4));
    for (let left = EXIT_TRIES; left > 0 && !this.#endPods(); left -= 1) {
      Atomics.wait(pause, 0, 0, POLL_MS);
    }
  }

  /** Those of this node's pods: one in each hierarchy of version 1, or one in all. */
  #cgroups(): string[] {
    return [CGROUPS, ...readdirSync(CGROUPS).map((name) => join(CGROUPS, name))]
      .map((folder) => join(folder, this.cgroup)).filter((folder) => existsSync(folder));
  }

  #install(configDirectory: string): void {
    mkdirSync(this.#folder, { recursive: true });
    installPlugin({
      binDirectory: this.binDirectory, configDirectory, networkName: NETWORK,
      runtimeDirectory: this.culvert.runtimeDirectory, portmap: false,
    }, { bundle: join(ROOT, 'dist/cni/culvert.cjs'), packageFolder: ROOT, node: process.execPath });
    writeFileSync(join(this.binDirectory, HERALD), heraldText(this.#folder), { mode: 0o755 });
    const file = join(configDirectory, '10-culvert.conflist');
    const config = JSON.parse(readFileSync(file, 'utf8')) as { plugins: object[] };
    const plugins = [{ type: HERALD }, ...config.plugins];
    writeFileSync(file, JSON.stringify({ ...config, plugins }));
  }
}

/** The herald, in the shell's words: it starts for every call. */
function heraldText(folder: string): string {
  return `#!/bin/sh
cat > /dev/null
[ "$CNI_COMMAND" = ADD ] || exit 0
file="${folder}/$CNI_CONTAINERID"
printf '%s\\n%s\\n' "$CNI_NETNS" "$CNI_ARGS" > "$file.part"
mv "$file.part" "$file.new"
until [ -e "$file.go" ]; do [ -d "${folder}" ] || exit 1; sleep 0.01; done
echo '{"cniVersion":"1.0.0"}'
`;
}

/** What a process has open beside one path, by kinds: files by their names, sockets and the like by
 * their number. */
function descriptorsOf(pid: number | string | undefined, except: string): string {
  const folder = `/proc/${pid}/fd`;
  const counts = new Map<string, number>();
  for (const fd of readdirSync(folder)) {
    const kind = readlinkSync(join(folder, fd)).replace(/:\[\d+\]$/, '');
    if (kind !== except) counts.set(kind, (counts.get(kind) ?? 0) + 1);
  }
  return [...counts].map(([kind, count]) => `${count} ${kind}`).sort().join(', ');
}

function readWords(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8');
  } catch {
    return '';
  }
}

/** Ids of a cgroup's processes and of those below it. */
function processesOf(folder: string): number[] {
  const below = readdirSync(folder, { withFileTypes: true })
    .filter((entry) => entry.isDirectory()).map(({ name }) => join(folder, name));
  const own = readFileSync(join(folder, 'cgroup.procs'), 'utf8').split('\n')
    .filter((line) => line !== '').map(Number);
  return [...own, ...below.flatMap(processesOf)];
}

function removeCgroup(folder: string): void {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    if (entry.isDirectory()) removeCgroup(join(folder, entry.name));
  }
  rmdirSync(folder);
}

/** What keeps network namespaces alive, by the namespaces' inodes: this process, or one whose words
 * have the folder in them. Others do not count, since the kernel gives the numbers anew. */
export function holdersOf(inodes: ReadonlySet<number>, folder: string): string[] {
  const isOne = (path: string): boolean => {
    try {
      return inodes.has(Number(/^net:\[(\d+)\]$/.exec(readlinkSync(path))?.[1]));
    } catch {
      return false;
    }
  };
  const ours = readdirSync('/proc').filter((name) => /^\d+$/.test(name)).filter((pid) =>
    Number(pid) === process.pid || readWords(pid).includes(`${folder}/`));
  return ours.flatMap((pid) => {
    const descriptors = `/proc/${pid}/fd`;
    const paths = readdirSync(descriptors).map((fd) => join(descriptors, fd));
    return [`/proc/${pid}/ns/net`, ...paths].filter(isOne);
  });
}
