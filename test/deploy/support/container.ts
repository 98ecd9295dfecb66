// A machine with Debian's systemd, in a container of systemd-nspawn: its own processes, files and
// units, the network of a test host. It does not need a systemd outside.

import { execFileSync, spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { mkdirSync, readFileSync, readdirSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Host } from '../../../cli/demo/bed.ts';
import { debianTree } from '../../../scripts/debian-tree.ts';
import { findTool, toolReason } from '../../../scripts/tools.ts';
import { until } from '../../support/until.ts';

/** What systemd's process 1 takes for: halt. systemd(1), SIGNALS. */
const HALT = 'RTMIN+4';
const COMMAND_LIMIT_MS = 60_000;
const CGROUPS = '/sys/fs/cgroup';
/** The groups that nspawn makes where no systemd outside does. */
const GROUPS = ['payload', 'supervisor'];

/** What a command in the container came to. */
export interface Outcome {
  status: number | null;
  output: string;
}

export class Container {
  /** Its disk, from outside. */
  readonly root: string;
  readonly #child: ChildProcess;
  readonly #leader: number;

  private constructor(root: string, child: ChildProcess, leader: number) {
    this.root = root;
    this.#child = child;
    this.#leader = leader;
  }

  /** Boots one in a host's network. `folder` is for its disk. */
  static async boot(host: Host, folder: string): Promise<Container> {
    const nspawn = findTool('systemd-nspawn');
    if (nspawn === null) throw new Error(toolReason('systemd-nspawn'));
    const root = join(folder, 'root');
    mkdirSync(root);
    execFileSync('tar', ['-C', root, '-xf', debianTree()]);
    const child = spawn(nspawn, [
      '--directory', root, '--boot', '--register=no', '--keep-unit', '--link-journal=no',
      '--console=pipe', '--machine', `culvert-${process.pid}`,
      `--network-namespace-path=${host.namespace.path}`, '--capability=CAP_NET_ADMIN',
      '--bind=/dev/net/tun', `--bind-ro=${process.execPath}:/usr/local/bin/node`,
    ], { stdio: ['ignore', 'ignore', 'ignore'] });
    // The container does not end with nspawn, but with its first process.
    let leader = 0;
    const end = (): void => {
      child.kill('SIGKILL');
      if (isLeader(leader)) process.kill(leader, 'SIGKILL');
    };
    process.once('exit', end);
    try {
      await until('the container\'s first process', () => {
        leader = leaderOf(child.pid ?? 0);
        return leader > 0;
      });
      const container = new Container(root, child, leader);
      await until('systemd to be up', () =>
        /running|degraded/.test(container.run('systemctl', 'is-system-running').output));
      return container;
    } catch (error) {
      end();
      throw error;
    }
  }

  /** Where a file of the container is, seen from outside; also one on a file system of its own. */
  path(inside: string): string {
    return `/proc/${this.#leader}/root${inside}`;
  }

  run(...command: string[]): Outcome {
    const { status, stdout, stderr } = spawnSync(
      'nsenter', ['--target', `${this.#leader}`, '--all', ...command],
      { encoding: 'utf8', timeout: COMMAND_LIMIT_MS });
    return { status, output: `${stdout}${stderr}`.trim() };
  }

  /** Likewise, without keeping this thread waiting. */
  runBeside(...command: string[]): Promise<Outcome> {
    const child = spawn('nsenter', ['--target', `${this.#leader}`, '--all', ...command],
      { stdio: ['ignore', 'pipe', 'pipe'], timeout: COMMAND_LIMIT_MS });
    let output = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (chunk: Buffer) => { output += chunk.toString(); });
    }
    return new Promise((resolve, reject) => {
      child.on('error', reject);
      child.on('close', (status) => resolve({ status, output: output.trim() }));
    });
  }

  /** A property of a unit. */
  property(unit: string, name: string): string {
    return this.run('systemctl', 'show', '--property', name, '--value', unit).output;
  }

  /** Halts it. */
  async close(): Promise<void> {
    const { exitCode, signalCode } = this.#child;
    if (exitCode === null && signalCode === null) {
      const ended = new Promise((resolve) => this.#child.once('exit', resolve));
      spawnSync('kill', ['-s', HALT, `${this.#leader}`]);
      const timer = setTimeout(() => this.#child.kill('SIGKILL'), COMMAND_LIMIT_MS);
      await ended;
      clearTimeout(timer);
    }
    for (const hierarchy of readdirSync(CGROUPS)) {
      for (const group of GROUPS) removeGroups(join(CGROUPS, hierarchy, group));
    }
  }
}

/** The child of a process that is a container's first one, 0 for none. Others come before it, and
 * go. */
function leaderOf(pid: number): number {
  try {
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'latin1').trim().split(' ');
    return children.map(Number).find(isLeader) ?? 0;
  } catch {
    return 0;
  }
}

/** True where a process is the first one of its own process namespace and has become systemd. */
function isLeader(pid: number): boolean {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'latin1');
    return /^Name:\tsystemd$/m.test(status) && /^NSpid:.*\d\t1$/m.test(status);
  } catch {
    return false;
  }
}

/** Removes a group and those in it, where they are there and empty. */
function removeGroups(folder: string): void {
  try {
    for (const entry of readdirSync(folder, { withFileTypes: true })) {
      if (entry.isDirectory()) removeGroups(join(folder, entry.name));
    }
    rmdirSync(folder);
  } catch {
    // It is not there, or another container's.
  }
}
