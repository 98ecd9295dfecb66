// containerd of Debian, as a node has it, in a node's network namespace and a mount namespace of
// its own, so that its mounts go with its processes. What it and its programs leave under fixed
// paths is in that mount namespace too: another containerd beside it never sees them.

import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, symlinkSync,
  writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Bed, Daemon, LabNode } from '../../../cli/demo/bed.ts';
import { findTool, toolFolder, toolReason } from '../../../scripts/tools.ts';
import { until } from '../../support/until.ts';
import { Cri } from './cri.ts';
import { PAUSE, makeImage, type Image } from './image.ts';

/** A runtime handler with networks of its own. */
export const OTHER = 'other';
const TOOLS = ['containerd', 'catatonit', 'cni-bridge'];
/** Folders that containerd, its shims and its CNI library use whatever their configuration is. */
const PRIVATE_FOLDERS = ['/run/containerd', '/run/netns', '/var/lib/cni'];

/** A node that containerd runs on, and the folder of its plugins. */
export interface Place {
  node: LabNode;
  binDirectory: string;
}

/** Why this machine has no containerd for us, or null; `others` are tools that a test needs too. */
export function missingTool(others: readonly string[] = []): string | null {
  const missing = [...TOOLS, ...others].find((name) => findTool(name) === null);
  return missing === undefined ? null : toolReason(missing);
}

/** The folder of the CNI project's plugins. */
export function pluginFolder(): string {
  return join(toolFolder('cni-bridge') ?? '/', 'usr/lib/cni');
}

export class Containerd {
  readonly cri: Cri;
  readonly configDirectory: string;
  /** The networks of the runtime handler `OTHER`. */
  readonly otherDirectory: string;
  readonly #folder: string;
  readonly #daemon: Daemon;

  private constructor(folder: string, configDirectory: string, daemon: Daemon) {
    this.#folder = folder;
    this.configDirectory = configDirectory;
    this.otherDirectory = join(folder, 'other.d');
    this.#daemon = daemon;
    this.cri = new Cri(join(folder, 'containerd.sock'));
    process.once('exit', () => this.kill());
  }

  /** Where a containerd of this name has its networks. */
  static configDirectory(bed: Bed, name: string): string {
    return join(bed.folder, name, 'net.d');
  }

  /** Starts it on a node, with an image for sandboxes and further ones. */
  static async start(
    bed: Bed, { node, binDirectory }: Place, images: Image[] = [], name = 'containerd',
  ): Promise<Containerd> {
    const folder = join(bed.folder, name);
    const configDirectory = Containerd.configDirectory(bed, name);
    for (const path of [configDirectory, join(folder, 'other.d')]) {
      mkdirSync(path, { recursive: true });
    }
    if (!existsSync(join(binDirectory, 'loopback'))) {
      symlinkSync(join(pluginFolder(), 'loopback'), join(binDirectory, 'loopback'));
    }
    writeFileSync(join(folder, 'config.toml'), configText(folder, configDirectory, binDirectory));
    const mounts = PRIVATE_FOLDERS.map((path) => `mkdir -p ${path} && mount -t tmpfs none ${path}`);
    const command = ['unshare', '--mount', 'env', `PATH=${searchPath()}`,
      'sh', '-c', [...mounts, 'exec "$0" "$@"'].join(' && '),
      findTool('containerd') ?? 'containerd', '--config', join(folder, 'config.toml')];
    const daemon = await bed.start(node.host, command, 'containerd successfully booted');
    const containerd = new Containerd(folder, configDirectory, daemon);
    for (const image of [PAUSE, ...images]) await containerd.#importImage(image);
    return containerd;
  }

  log(): string {
    return this.#daemon.log();
  }

  /** A path of its mount namespace as this process can open it. The link /var/run would lead to
   * our own /run. */
  path(absolute: string): string {
    const real = absolute.replace(/^\/var\/run\//, '/run/');
    return join(`/proc/${this.#daemon.process.pid}/root`, real);
  }

  /** What pods that were have left of containerd's: mounts, files, processes. Empty for nothing,
   * of which its own mounts are no part. */
  leftOvers(): string[] {
    const own = `/proc/${this.#daemon.process.pid}`;
    const mounts = readFileSync(`${own}/mountinfo`, 'utf8').split('\n')
      .map((line) => line.split(' ')[4] ?? '')
      .filter((point) => point.startsWith(this.#folder) || point.startsWith('/run/netns/'));
    const inside = (path: string): string[] => (existsSync(path)
      ? readdirSync(path, { recursive: true }).map((name) => join(path, String(name))) : []);
    const files = [
      ...inside(this.path('/run/netns')), ...inside(this.path('/run/containerd/s')),
      ...inside(this.path('/var/lib/cni/results')),
      ...inside(join(this.#folder, 'state/io.containerd.runtime.v2.task/k8s.io')),
      ...inside(join(this.#folder, 'root/io.containerd.runtime.v2.task/k8s.io')),
      ...inside(join(this.#folder, 'root/io.containerd.grpc.v1.cri/sandboxes')),
      ...inside(join(this.#folder, 'root/io.containerd.grpc.v1.cri/containers')),
    ];
    const others = this.#processes().filter((pid) => pid !== this.#daemon.process.pid);
    return [...mounts, ...files, ...others.map((pid) => `process ${pid}`)];
  }

  /** Ends it and, after a failure, the shims that outlive it: those with our folder's name. */
  async close(): Promise<void> {
    this.cri.close();
    const child = this.#daemon.process;
    const ended = new Promise((resolve) => child.once('exit', resolve));
    if (child.exitCode === null && child.signalCode === null) {
      child.kill('SIGTERM');
      await ended;
    }
    this.kill();
    await until('the shims to end', () => this.#processes().length === 0);
  }

  /** Ends it and its shims at once, for who cannot wait. */
  kill(): void {
    for (const pid of this.#processes()) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // It has just ended.
      }
    }
  }

  #processes(): number[] {
    return readdirSync('/proc').filter((name) => /^\d+$/.test(name)).map(Number).filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(`${this.#folder}/`);
      } catch {
        return false;
      }
    });
  }

  async #importImage(image: Image): Promise<void> {
    const folder = join(this.#folder, 'image');
    const archive = makeImage(folder, image);
    const ctr = join(dirname(findTool('containerd') ?? ''), 'usr/bin/ctr');
    const words = ['--address', join(this.#folder, 'containerd.sock'), '--namespace', 'k8s.io',
      'images', 'import', archive];
    // The snapshot is mounted, so this has to be in containerd's mount namespace.
    const child = spawn('nsenter', ['--target', `${this.#daemon.process.pid}`, '--mount',
      existsSync(ctr) ? ctr : 'ctr', ...words], { stdio: ['ignore', 'ignore', 'pipe'] });
    let output = '';
    child.stderr.on('data', (chunk: Buffer) => { output += chunk.toString(); });
    const code = await new Promise((resolve) => child.on('close', resolve));
    if (code !== 0) throw new Error(`ctr images import: ${output}`);
    rmSync(folder, { recursive: true });
  }
}

/** With the programs of the package: containerd looks for runc and the shim on PATH. */
function searchPath(): string {
  const folder = toolFolder('containerd');
  const own = folder === null ? [] : [join(folder, 'usr/bin'), join(folder, 'usr/sbin')];
  return [...own, process.env['PATH'] ?? ''].join(':');
}

function configText(folder: string, configDirectory: string, binDirectory: string): string {
  const cri = 'plugins."io.containerd.grpc.v1.cri"';
  return `version = 2
root = "${folder}/root"
state = "${folder}/state"
[grpc]
address = "${folder}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "${folder}/opt"
[${cri}]
sandbox_image = "${PAUSE.name}"
restrict_oom_score_adj = true
stream_server_port = "0"
[${cri}.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[${cri}.containerd.runtimes.${OTHER}]
runtime_type = "io.containerd.runc.v2"
cni_conf_dir = "${folder}/other.d"
[${cri}.cni]
bin_dir = "${binDirectory}"
conf_dir = "${configDirectory}"
`;
}
