// The first file system of a guest: what its kernel unpacks into memory and starts /init from. An
// archive of cpio's "newc" form (Documentation/driver-api/early-userspace/buffer-format.rst) with
// busybox, ip(8), their libraries and the modules of the kernel that the guest is to have.

import { execFileSync } from 'node:child_process';
import { readFileSync, readdirSync, realpathSync } from 'node:fs';
import { basename, join } from 'node:path';
import { findFiles, findTool, GUEST_KERNEL, toolFolder, toolReason } from './tools.ts';

const MAGIC = '070701';
const FOLDER_MODE = 0o040755;
const PROGRAM_MODE = 0o100755;
const ALIGNMENT = 4;
const LAST_NAME = 'TRAILER!!!';

/** Kinds of tunnels, and what they are made of is found: each module names what it needs. */
const MODULES = ['virtio_pci', 'virtio_net', 'ipip', 'sit', 'ip6_tunnel', 'vxlan', 'geneve'];

/** What the guest's shell says when it is ready, and after each command, before its status. */
export const GUEST_READY = 'guest-is-ready';
export const GUEST_DONE = 'guest-has-done';

/** A kernel and the archive that goes with it. */
export interface GuestImage {
  kernel: string;
  archive: Buffer;
}

/** Why a guest cannot be had here; null if it can. */
export function guestReason(): string | null {
  if (process.arch !== 'x64') return 'a processor of the kind x86-64 is needed';
  for (const tool of ['qemu-system-x86_64', 'busybox-static', 'ip']) {
    if (findTool(tool) === null) return toolReason(tool);
  }
  return findFiles(GUEST_KERNEL) === null ? toolReason(GUEST_KERNEL.name) : null;
}

/** Puts a guest's files together. Precondition: guestReason() is null. */
export function makeGuestImage(): GuestImage {
  const folder = findFiles(GUEST_KERNEL) ?? '';
  const version = readdirSync(join(folder, 'lib', 'modules'))[0] ?? '';
  const modules = findModules(join(folder, 'lib', 'modules', version), MODULES);
  const archive = new Archive();
  for (const path of ['bin', 'sbin', 'dev', 'proc', 'sys', 'modules', 'run']) {
    archive.addFolder(path);
  }
  archive.addProgram('bin/busybox', programOf('busybox-static', 'bin/busybox'));
  const ip = programOf('ip', 'bin/ip');
  archive.addProgram('sbin/ip', ip);
  for (const library of librariesOf(ip)) archive.addProgram(library.slice(1), library);
  for (const path of modules) archive.addProgram(`modules/${basename(path)}`, path);
  archive.addFile('init', Buffer.from(initScript(modules.map((path) => basename(path)))));
  return { kernel: join(folder, 'boot', `vmlinuz-${version}`), archive: archive.close() };
}

/** The program itself, not the script that starts it with its libraries. */
function programOf(tool: string, program: string): string {
  const folder = toolFolder(tool);
  return realpathSync(folder === null ? findTool(tool) ?? '' : join(folder, program));
}

/** The shared libraries that a program is loaded with, the loader included (ldd(1)). */
function librariesOf(program: string): string[] {
  const folder = toolFolder('ip');
  const own = folder === null ? [] : ['lib', 'usr/lib'].flatMap((base) =>
    [base, join(base, 'x86_64-linux-gnu')].map((path) => join(folder, path)));
  const listed = execFileSync('ldd', [program], {
    encoding: 'utf8', env: { ...process.env, LD_LIBRARY_PATH: own.join(':') },
  });
  return [...listed.matchAll(/(?:=> )?(\/\S+) \(0x/g)].map(([, path = '']) => path);
}

/** The files of modules and of all that they need, those first. */
function findModules(folder: string, wanted: readonly string[]): string[] {
  const files = new Map(readdirSync(join(folder, 'kernel'), { recursive: true, encoding: 'utf8' })
    .filter((path) => path.endsWith('.ko'))
    .map((path) => [moduleName(basename(path, '.ko')), join(folder, 'kernel', path)]));
  const found: string[] = [];
  const add = (name: string): void => {
    const path = files.get(moduleName(name));
    // What is built into the kernel has no file.
    if (path === undefined || found.includes(path)) return;
    for (const needed of neededBy(path)) add(needed);
    found.push(path);
  };
  for (const name of wanted) add(name);
  return found;
}

/** Names are written with either of two characters, which mean the same. */
function moduleName(name: string): string {
  return name.replaceAll('-', '_');
}

/** The modules that one names in its section `.modinfo`, as `depends=a,b`. */
function neededBy(path: string): string[] {
  const [, list = ''] = /\0depends=([^\0]*)\0/.exec(readFileSync(path, 'latin1')) ?? [];
  return list.split(',').filter((name) => name !== '');
}

/** Loads the modules, then runs a line of its serial console after the other. Commands get no input
 * of their own: it would be the lines that follow. */
function initScript(modules: readonly string[]): string {
  return [
    '#!/bin/busybox sh',
    'export PATH=/sbin:/bin',
    'b=/bin/busybox',
    '$b mount -t proc proc /proc',
    '$b mount -t sysfs sysfs /sys',
    '$b mount -t devtmpfs devtmpfs /dev',
    ...modules.map((name) => `$b insmod /modules/${name}`),
    'exec </dev/ttyS0 >/dev/ttyS0 2>&1',
    '$b stty raw -echo',
    `echo ${GUEST_READY}`,
    'while read -r line; do',
    `  eval "$line" </dev/null; echo "${GUEST_DONE} $?"`,
    'done', '',
  ].join('\n');
}

/** A cpio archive while it is written. */
class Archive {
  readonly #parts: Buffer[] = [];
  readonly #folders = new Set<string>();
  #count = 0;

  /** Adds a folder, and those that it is in, once. */
  addFolder(path: string): void {
    if (path === '.' || this.#folders.has(path)) return;
    this.#folders.add(path);
    const parent = path.split('/').slice(0, -1).join('/');
    if (parent !== '') this.addFolder(parent);
    this.#add(path, FOLDER_MODE, Buffer.alloc(0));
  }

  addFile(path: string, content: Buffer): void {
    const parent = path.split('/').slice(0, -1).join('/');
    if (parent !== '') this.addFolder(parent);
    this.#add(path, PROGRAM_MODE, content);
  }

  addProgram(path: string, source: string): void {
    this.addFile(path, readFileSync(source));
  }

  close(): Buffer {
    this.#add(LAST_NAME, 0, Buffer.alloc(0));
    return Buffer.concat(this.#parts);
  }

  /** An entry: thirteen numbers, its name with a zero behind it, its content; all aligned. */
  #add(name: string, mode: number, content: Buffer): void {
    this.#count += 1;
    const links = mode === FOLDER_MODE ? 2 : 1;
    const numbers = [this.#count, mode, 0, 0, links, 0, content.length, 0, 0, 0, 0,
      Buffer.byteLength(name) + 1, 0];
    const fields = numbers.map((field) => field.toString(16).padStart(8, '0')).join('');
    this.#push(Buffer.from(`${MAGIC}${fields}${name}\0`));
    this.#push(content);
  }

  #push(bytes: Buffer): void {
    const rest = bytes.length % ALIGNMENT;
    this.#parts.push(bytes, Buffer.alloc(rest === 0 ? 0 : ALIGNMENT - rest));
  }
}
