// containerd of Debian, as a node has it, in a node's network namespace and a mount namespace of
// its own, so that its mounts go with its processes. Its only image holds a program that waits.

import { createHash } from 'node:crypto';
import { spawn, spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readFileSync, readdirSync, statSync, symlinkSync,
  writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Bed, Daemon } from '../../../cli/demo/bed.ts';
import { findTool, toolFolder, toolReason } from '../../../scripts/tools.ts';
import { until } from '../../support/command.ts';
import { Cri } from './cri.ts';
import type { Runtime } from './runtime.ts';

/** A runtime handler with networks of its own. */
export const OTHER = 'other';
const TOOLS = ['containerd', 'catatonit', 'cni-bridge'];
const IMAGE = 'test.local/pause:1';
const ARCHITECTURES: Record<string, string> = { x64: 'amd64', arm64: 'arm64', arm: 'arm' };

/** Why this machine has no containerd for us, or null. */
export function missingTool(): string | null {
  const missing = TOOLS.find((name) => findTool(name) === null);
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
  }

  /** Starts it on a node. Its folder of networks is empty. */
  static async start(bed: Bed, runtime: Runtime): Promise<Containerd> {
    const folder = join(bed.folder, 'containerd');
    const configDirectory = join(folder, 'net.d');
    for (const path of [configDirectory, join(folder, 'other.d')]) {
      mkdirSync(path, { recursive: true });
    }
    if (!existsSync(join(runtime.binDirectory, 'loopback'))) {
      symlinkSync(join(pluginFolder(), 'loopback'), join(runtime.binDirectory, 'loopback'));
    }
    writeFileSync(join(folder, 'config.toml'),
      configText(folder, configDirectory, runtime.binDirectory));
    const command = ['unshare', '--mount', 'env', `PATH=${searchPath()}`,
      findTool('containerd') ?? 'containerd', '--config', join(folder, 'config.toml')];
    const daemon = await bed.start(runtime.node.host, command, 'containerd successfully booted');
    const containerd = new Containerd(folder, configDirectory, daemon);
    await containerd.#importImage();
    return containerd;
  }

  log(): string {
    return this.#daemon.log();
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
    for (const pid of this.#processes()) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // It has just ended.
      }
    }
    await until('the shims to end', () => this.#processes().length === 0);
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

  async #importImage(): Promise<void> {
    const archive = makeImage(join(this.#folder, 'image'));
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
sandbox_image = "${IMAGE}"
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

/** An image with one program and one layer, as an OCI layout in a tar archive. */
function makeImage(folder: string): string {
  const layerFolder = join(folder, 'layer');
  const layout = join(folder, 'layout');
  mkdirSync(layerFolder, { recursive: true });
  mkdirSync(join(layout, 'blobs/sha256'), { recursive: true });
  const starter = findTool('catatonit') ?? '';
  const unpacked = toolFolder('catatonit');
  copyFileSync(unpacked === null ? starter : join(unpacked, 'usr/bin/catatonit'),
    join(layerFolder, 'catatonit'));
  const layerTar = join(folder, 'layer.tar');
  tar(layerTar, layerFolder);
  const layer = addBlob(layout, readFileSync(layerTar));
  const config = addBlob(layout, JSON.stringify({
    architecture: ARCHITECTURES[process.arch] ?? process.arch, os: 'linux',
    config: { Entrypoint: ['/catatonit', '-P'] },
    rootfs: { type: 'layers', diff_ids: [layer.digest] },
  }));
  const manifest = addBlob(layout, JSON.stringify({
    schemaVersion: 2, mediaType: 'application/vnd.oci.image.manifest.v1+json',
    config: { mediaType: 'application/vnd.oci.image.config.v1+json', ...config },
    layers: [{ mediaType: 'application/vnd.oci.image.layer.v1.tar', ...layer }],
  }));
  writeFileSync(join(layout, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  writeFileSync(join(layout, 'index.json'), JSON.stringify({
    schemaVersion: 2,
    manifests: [{
      mediaType: 'application/vnd.oci.image.manifest.v1+json', ...manifest,
      annotations: { 'io.containerd.image.name': IMAGE },
    }],
  }));
  const archive = join(folder, 'image.tar');
  tar(archive, layout);
  return archive;
}

function addBlob(layout: string, content: string | Buffer): { digest: string; size: number } {
  const hash = createHash('sha256').update(content).digest('hex');
  const path = join(layout, 'blobs/sha256', hash);
  writeFileSync(path, content);
  return { digest: `sha256:${hash}`, size: statSync(path).size };
}

function tar(archive: string, folder: string): void {
  const { status, stderr } = spawnSync('tar', ['-cf', archive, '-C', folder, '.']);
  if (status !== 0) throw new Error(`tar: ${stderr.toString()}`);
}
