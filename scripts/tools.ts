// Programs that some tests and benches use as the other side, from Debian. One that is on PATH is
// used as it is. One that is missing is unpacked from its Debian package into .tools/debian/, with
// the libraries it lacks; nothing is installed on the machine, so no privilege is needed. A tool
// that cannot be had is no error: tests that need it are skipped with the reason.

import { spawn } from 'node:child_process';
import { accessSync, chmodSync, constants, existsSync, mkdirSync, mkdtempSync, readFileSync,
  readdirSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** A program, the Debian package that has it, where in the package it is, and the arguments that
 * it needs when it was not installed. */
export interface Tool {
  name: string;
  package: string;
  program: string;
  always: string;
  /** What it ends well on when it works, where that is not `--version`. */
  probe?: string;
  /** Packages that the program needs, though its own does not say so. */
  more?: readonly string[];
  /** The package is taken from Debian's backports, where it is newer. */
  backports?: boolean;
  /** Further programs of the package, by the names that findTool() has for them. */
  also?: Readonly<Record<string, string>>;
}

/** A Debian package that is unpacked for the files in it, and one of those. */
export interface FilePackage {
  name: string;
  file: string;
}

export const TOOLS: readonly Tool[] = [
  { name: 'traceroute', package: 'traceroute', program: 'usr/bin/traceroute.db', always: '' },
  { name: 'iperf3', package: 'iperf3', program: 'usr/bin/iperf3', always: '' },
  // As root, tcpdump becomes the user that its package would have made, unless told another.
  { name: 'tcpdump', package: 'tcpdump', program: 'usr/bin/tcpdump', always: '-Z root' },
  { name: 'dnsmasq', package: 'dnsmasq-base', program: 'usr/sbin/dnsmasq', always: '' },
  { name: 'nft', package: 'nftables', program: 'usr/sbin/nft', always: '' },
  // The CNI project's own plugins, named after one of them, and a runtime that calls plugins.
  { name: 'cni-bridge', package: 'containernetworking-plugins', program: 'usr/lib/cni/bridge',
    always: '' },
  { name: 'containerd', package: 'containerd', program: 'usr/bin/containerd', always: '' },
  { name: 'catatonit', package: 'catatonit', program: 'usr/bin/catatonit', always: '' },
  // Needs no libraries, and so no more than itself in a container's image.
  { name: 'busybox-static', package: 'busybox-static', program: 'bin/busybox', always: '',
    probe: '--help' },
  // What clusters put in front of Services.
  { name: 'nginx', package: 'nginx', program: 'usr/sbin/nginx', always: '', probe: '-v' },
  { name: 'haproxy', package: 'haproxy', program: 'usr/sbin/haproxy', always: '', probe: '-v' },
  // Runs a kernel that has the tunnels which this machine's may lack; what that kernel is set up
  // with; and a switch that has tunnels of its own, without any kernel's.
  {
    name: 'qemu-system-x86_64', package: 'qemu-system-x86', program: 'usr/bin/qemu-system-x86_64',
    always: '-L $here/usr/share/qemu -L $here/usr/share/seabios',
  },
  // What says whether metrics, and captures, are what others read.
  { name: 'promtool', package: 'prometheus', program: 'usr/bin/promtool', always: '' },
  { name: 'tshark', package: 'tshark', program: 'usr/bin/tshark', always: '' },
  // Boots a tree of Debian with its systemd; and what makes such a tree.
  { name: 'systemd-nspawn', package: 'systemd-container', program: 'usr/bin/systemd-nspawn',
    always: '' },
  { name: 'mmdebstrap', package: 'mmdebstrap', program: 'usr/bin/mmdebstrap', always: '' },
  { name: 'ip', package: 'iproute2', program: 'bin/ip', always: '', probe: '-V' },
  {
    name: 'ovs-vswitchd', package: 'openvswitch-switch', always: '',
    program: 'usr/lib/openvswitch-switch/ovs-vswitchd',
    also: {
      'ovsdb-server': 'usr/sbin/ovsdb-server', 'ovsdb-tool': 'usr/bin/ovsdb-tool',
      'ovs-vsctl': 'usr/bin/ovs-vsctl', 'ovs-ofctl': 'usr/bin/ovs-ofctl',
    },
  },
];

/** The kernel of Debian for machines in a cloud: small, and with every kind of tunnel. */
export const GUEST_KERNEL: FilePackage = { name: 'linux-image-cloud-amd64', file: 'lib/modules' };
export const FILE_PACKAGES: readonly FilePackage[] = [GUEST_KERNEL];
/** Compilers for policy modules in C and Rust; large, so only slow tests bring them. Debian's rustc
 * is the one that Debian has a standard library for WebAssembly for, and lld 14 the linker that
 * takes the files it makes. */
export const COMPILERS: readonly Tool[] = [
  { name: 'clang-19', package: 'clang-19', program: 'usr/bin/clang-19', always: '' },
  { name: 'wasm-ld-19', package: 'lld-19', program: 'usr/bin/wasm-ld-19', always: '' },
  { name: 'wasm-ld-14', package: 'lld-14', program: 'usr/bin/wasm-ld-14', always: '' },
  { name: 'rustc-wasm', package: 'rustc', program: 'usr/bin/rustc', always: '',
    more: ['libstd-rust-dev-wasm32'] },
];

/** Runs programs of other processors: large, so only slow tests bring it. */
export const EMULATOR: Tool = {
  name: 'qemu-aarch64-static', package: 'qemu-user-static', always: '',
  program: 'usr/bin/qemu-aarch64-static', also: { 'qemu-arm-static': 'usr/bin/qemu-arm-static' },
};

/** The rival of `bench path`. The package of Debian 12 itself is older than the offloads that made
 * wireguard-go fast. */
export const WIREGUARD_GO: Tool = {
  name: 'wireguard-go', package: 'wireguard-go', program: 'usr/bin/wireguard-go', always: '',
  backports: true,
};

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const FOLDER = join(ROOT, '.tools', 'debian');
const FAILURES = join(FOLDER, 'failures.json');
const DEBIAN_KEYS = '/usr/share/keyrings/debian-archive-keyring.gpg';
/** All downloads together take no longer. */
const FETCH_LIMIT_MS = 300_000;
/** A tool that could not be had is not tried again for this long. */
const RETRY_AFTER_MS = 10 * 60_000;
/** Where administrators' programs are, on machines that leave these out of a user's PATH. */
const MORE_FOLDERS = ['/usr/local/sbin', '/usr/sbin', '/sbin'];

interface Failure {
  reason: string;
  atMs: number;
}

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

/** The path of a program on this machine, or null. */
function findOnPath(name: string): string | null {
  const folders = [...(process.env.PATH ?? '').split(':'), ...MORE_FOLDERS];
  for (const folder of folders) {
    if (folder.startsWith('/') && isProgram(join(folder, name))) return join(folder, name);
  }
  return null;
}

/** The path of a tool that runs as it is: the machine's own, or the one in .tools. Null if neither
 * is there; toolReason() says why. */
export function findTool(name: string): string | null {
  const ours = join(ownFolder(name), name);
  return findOnPath(name) ?? (isProgram(ours) ? ours : null);
}

/** All programs of a tool are there. */
function isThere({ name, also }: Tool): boolean {
  return [name, ...Object.keys(also ?? {})].every((program) => findTool(program) !== null);
}

/** The folder that a tool's package was unpacked to; null where the machine has its own or none. */
export function toolFolder(name: string): string | null {
  const folder = ownFolder(name);
  return findTool(name) === join(folder, name) ? folder : null;
}

/** Where a tool's package would be unpacked to: that of the tool it comes with. */
function ownFolder(name: string): string {
  const owner = [...TOOLS, EMULATOR].find(({ also }) => also?.[name] !== undefined);
  return join(FOLDER, owner?.name ?? name);
}

/** The folder that a package's files were unpacked to. Null if it is not there; toolReason() says
 * why. */
export function findFiles({ name, file }: FilePackage): string | null {
  const folder = join(FOLDER, name);
  return existsSync(join(folder, file)) ? folder : null;
}

/** Why findTool() answered null. */
export function toolReason(name: string): string {
  return readFailures()[name]?.reason ?? `${name} is not on PATH; \`npm test\` fetches it`;
}

function readFailures(): Record<string, Failure> {
  try {
    return JSON.parse(readFileSync(FAILURES, 'utf8')) as Record<string, Failure>;
  } catch {
    return {};
  }
}

/** Runs a command and gives what it printed. Rejects with the last line of that when it fails or
 * takes too long. */
function run(program: string, args: string[], untilMs: number): Promise<string> {
  return new Promise((done, fail) => {
    const child = spawn(program, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: Math.max(1, untilMs - Date.now()),
      env: { ...process.env, LC_ALL: 'C', DEBIAN_FRONTEND: 'noninteractive' },
    });
    let output = '';
    child.stdout.on('data', (chunk: Buffer) => { output += chunk.toString(); });
    child.stderr.on('data', (chunk: Buffer) => { output += chunk.toString(); });
    child.on('error', fail);
    child.on('close', (code, signal) => {
      if (code === 0) return done(output);
      const last = output.trim().split('\n').at(-1);
      fail(new Error(signal === null ? `${program}: ${last}` : `${program} took too long`));
    });
  });
}

/** Options that keep apt-get away from the machine's own state, and from waiting for long. */
function aptOptions(folder: string, ownLists: boolean): string[] {
  const options = [
    `Dir::Cache::archives=${folder}/archives`, 'Dir::Cache::pkgcache=', 'Dir::Cache::srcpkgcache=',
    'Debug::NoLocking=1', 'APT::Sandbox::User=root', 'Acquire::Retries=1',
    'Acquire::http::Timeout=15', 'Acquire::https::Timeout=15', 'Acquire::Languages=none',
  ];
  if (ownLists) options.push(`Dir::State::lists=${folder}/lists`);
  return options.flatMap((option) => ['-o', option]);
}

/** Downloads packages and what they need that this machine lacks, with the machine's package lists
 * or, if these are empty or old, with lists of our own. */
async function download(names: readonly string[], folder: string, untilMs: number)
  : Promise<void> {
  const install = ['install', '--download-only', '-y', '--no-install-recommends', ...names];
  if (!existsSync(join(folder, 'lists'))) {
    try {
      await run('apt-get', [...aptOptions(folder, false), ...install], untilMs);
      return;
    } catch {
      mkdirSync(join(folder, 'lists', 'partial'), { recursive: true });
      await run('apt-get', [...aptOptions(folder, true), 'update'], untilMs);
    }
  }
  await run('apt-get', [...aptOptions(folder, true), ...install], untilMs);
}

/** The server that this machine takes its packages from, and the release of Debian it runs. */
export async function packageServer(untilMs: number): Promise<{ uri: string; release: string }> {
  const targets = await run('apt-get', ['indextargets', '--format',
    '$(CREATED_BY) $(REPO_URI) $(RELEASE) $(COMPONENT)'], untilMs);
  const [, uri, release] = targets.split('\n').map((line) => line.split(' '))
    .find(([kind, , suite, part]) =>
      kind === 'Packages' && part === 'main' && suite?.includes('-') === false) ?? [];
  if (uri === undefined || release === undefined) throw new Error('no package server is known');
  return { uri, release };
}

/** Downloads a package from the backports of the release this machine runs, with a list of sources
 * and package lists of our own. */
async function downloadBackport(names: readonly string[], folder: string, untilMs: number)
  : Promise<void> {
  const { uri, release } = await packageServer(untilMs);
  const lists = join(folder, 'backports');
  const sources = join(folder, 'backports.list');
  mkdirSync(join(lists, 'partial'), { recursive: true });
  const key = existsSync(DEBIAN_KEYS) ? `[signed-by=${DEBIAN_KEYS}] ` : '';
  writeFileSync(sources, `deb ${key}${uri} ${release}-backports main\n`);
  const options = [...aptOptions(folder, false), '-o', `Dir::State::lists=${lists}`,
    '-o', `Dir::Etc::SourceList=${sources}`, '-o', 'Dir::Etc::SourceParts=/dev/null'];
  await run('apt-get', [...options, 'update'], untilMs);
  await run('apt-get', [...options, 'install', '--download-only', '-y', '--no-install-recommends',
    ...names], untilMs);
}

/** Folders below `folder`/usr/lib and /lib that hold shared libraries, relative to it. */
function libraryFolders(folder: string): string[] {
  const found: string[] = [];
  for (const base of ['usr/lib', 'lib']) {
    if (!existsSync(join(folder, base))) continue;
    const inside = readdirSync(join(folder, base), { withFileTypes: true });
    const below = inside.filter((entry) => entry.isDirectory()).map((entry) => entry.name);
    for (const path of [base, ...below.map((name) => `${base}/${name}`)]) {
      if (readdirSync(join(folder, path)).some((name) => name.includes('.so'))) found.push(path);
    }
  }
  return found;
}

/** Writes the scripts that run the unpacked programs with their libraries. */
function writeStarters(tool: Tool, folder: string): void {
  const libraries = libraryFolders(folder).map((path) => `$here/${path}`).join(':');
  for (const [name, program] of Object.entries({ [tool.name]: tool.program, ...tool.also })) {
    const starter = join(folder, name);
    writeFileSync(starter, [
      '#!/bin/sh', 'here=${0%/*}',
      `LD_LIBRARY_PATH="${libraries}" exec "$here/${program}" ${tool.always} "$@"`, '',
    ].join('\n'));
    chmodSync(starter, 0o755);
  }
}

/** Fetches packages with what they need and unpacks them to a folder in `work`. */
async function unpack(
  [name, ...more]: readonly [string, ...string[]], work: string, untilMs: number,
  bring = download,
): Promise<string> {
  const archives = join(work, 'archives');
  rmSync(archives, { recursive: true, force: true });
  mkdirSync(join(archives, 'partial'), { recursive: true });
  await bring([name, ...more], work, untilMs);
  const unpacked = join(work, name);
  for (const file of readdirSync(archives)) {
    // The C library must be the one that the machine's loader belongs to.
    if (!file.endsWith('.deb') || file.startsWith('libc6_')) continue;
    await run('dpkg-deb', ['-x', join(archives, file), unpacked], untilMs);
  }
  return unpacked;
}

/** Fetches one tool into `work`, tries it, and moves it to its place. */
async function bringTool(tool: Tool, work: string, untilMs: number): Promise<void> {
  const bring = tool.backports === true ? downloadBackport : download;
  const unpacked = await unpack([tool.package, ...tool.more ?? []], work, untilMs, bring);
  writeStarters(tool, unpacked);
  await run(join(unpacked, tool.name), [tool.probe ?? '--version'], untilMs);
  const place = join(FOLDER, tool.name);
  if (!isThere(tool)) rmSync(place, { recursive: true, force: true });
  if (!existsSync(place)) renameSync(unpacked, place);
}

/** Fetches one package of files into `work`, and moves it to its place. */
async function bringFiles(wanted: FilePackage, work: string, untilMs: number): Promise<void> {
  const unpacked = await unpack([wanted.name], work, untilMs);
  if (!existsSync(join(unpacked, wanted.file))) throw new Error(`${wanted.file} is not in it`);
  const place = join(FOLDER, wanted.name);
  rmSync(place, { recursive: true, force: true });
  renameSync(unpacked, place);
}

/** Makes the missing ones of `tools` ready for findTool(), and of `packages` for findFiles(). Never
 * fails: what cannot be had stays missing, and toolReason() tells why. */
export async function bringTools(
  tools: readonly Tool[], packages: readonly FilePackage[] = [],
): Promise<void> {
  const failures = readFailures();
  const recently = ({ name }: { name: string }): boolean =>
    Date.now() - (failures[name]?.atMs ?? 0) < RETRY_AFTER_MS;
  const missing = [
    ...tools.filter((tool) => !isThere(tool)),
    ...packages.filter((wanted) => findFiles(wanted) === null),
  ].filter((wanted) => !recently(wanted));
  if (missing.length === 0) return;
  const names = missing.map((tool) => tool.name).join(', ');
  process.stderr.write(`culvert: fetching ${names} (into .tools/)\n`);
  const untilMs = Date.now() + FETCH_LIMIT_MS;
  let work: string | null = null;
  try {
    mkdirSync(FOLDER, { recursive: true });
    work = mkdtempSync(join(FOLDER, 'fetch-'));
    for (const tool of missing) {
      delete failures[tool.name];
      try {
        if ('program' in tool) await bringTool(tool, work, untilMs);
        else await bringFiles(tool, work, untilMs);
      } catch (error) {
        const reason = `${tool.name} could not be had: ${(error as Error).message}`;
        failures[tool.name] = { reason, atMs: Date.now() };
      }
    }
    writeFileSync(FAILURES, JSON.stringify(failures));
  } catch (error) {
    process.stderr.write(`culvert: no tools: ${(error as Error).message}\n`);
  } finally {
    if (work !== null) rmSync(work, { recursive: true, force: true });
  }
}
