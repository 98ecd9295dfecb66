// The source `file`: a file of Kubernetes objects, or a folder of such files, read again whenever
// it changes.
//
// The kernel's change events only ring a bell. What counts is what is read after it: every file is
// read whole, a text that is known (by its SHA-256) is not parsed again, and a state equal to the
// last is not reported. A slow rescan finds what events do not tell: a folder that was replaced, a
// target behind a symbolic link, a file system without events. A file that is being written is read
// again a little later. If anything is wrong with any file, the whole reading is reported as a
// problem and the last good state stays what it is.

import { createHash } from 'node:crypto';
import { watch } from 'node:fs';
import type { FSWatcher } from 'node:fs';
import { readFile, readdir, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { Bell, pause } from './bell.ts';
import { readObjects } from './read.ts';
import type { FileContent } from './read.ts';
import type { Entry } from './objects.ts';

export const FILE_SIZE_LIMIT = 64 * 1024 * 1024;
export const FILE_COUNT_LIMIT = 10_000;
export const DEBOUNCE_MS = 100;
export const RESCAN_MS = 30_000;

/** Problems told at a time; the first ones are what an operator mends. */
const PROBLEM_LIMIT = 10;
/** Readings in a row that are put off because somebody writes; then what is there counts. */
const UNSETTLED_LIMIT = 20;
const EXTENSION = /\.(ya?ml|json)$/;

/** Where a source delivers. */
export interface Sink {
  /** All objects, as they are now. */
  state(entries: readonly Entry[]): void;
  /** What keeps the source from knowing; the last state still counts. */
  problem(problems: readonly string[]): void;
}

export interface FileSourceOptions {
  path: string;
  debounceMs?: number;
  rescanMs?: number;
}

/** Reads and watches until the signal aborts. */
export async function watchFiles(
  options: FileSourceOptions, sink: Sink, signal: AbortSignal,
): Promise<void> {
  const { path, debounceMs = DEBOUNCE_MS, rescanMs = RESCAN_MS } = options;
  const bell = new Bell();
  const events = new ChangeEvents(path, () => bell.ring());
  const source = new FileReading(path, debounceMs, sink);
  try {
    while (!signal.aborted) {
      // The watch comes before the reading, so that no change falls between the two.
      await events.renew();
      if (!await source.read(signal)) bell.ring();
      if (await bell.wait(signal, rescanMs)) await pause(debounceMs, signal);
    }
  } finally {
    events.close();
  }
}

/** A file as it was read last. */
interface KnownFile {
  hash: string;
  content: FileContent;
  /** Nobody was writing it. */
  isSettled: boolean;
}

/** One reading after the other, each compared with the last. */
class FileReading {
  readonly #path: string;
  readonly #settleMs: number;
  readonly #sink: Sink;
  #unsettled = 0;
  #files = new Map<string, KnownFile>();
  #told = '';

  constructor(path: string, settleMs: number, sink: Sink) {
    this.#path = path;
    this.#settleMs = settleMs;
    this.#sink = sink;
  }

  /** Reads and tells. False where a file is being written, so that it has to be read again. */
  async read(signal: AbortSignal): Promise<boolean> {
    const problems: string[] = [];
    const files = new Map<string, KnownFile>();
    try {
      for (const file of await listFiles(this.#path)) files.set(file, await this.#readOne(file));
    } catch (error) {
      problems.push(error instanceof Error ? error.message : String(error));
    }
    if (signal.aborted) return true;
    this.#files = files;
    const isSettled = [...files.values()].every((file) => file.isSettled);
    this.#unsettled = isSettled ? 0 : (this.#unsettled + 1) % UNSETTLED_LIMIT;
    if (this.#unsettled !== 0) return false;
    this.#tell(problems);
    return true;
  }

  async #readOne(file: string): Promise<KnownFile> {
    const { text, mtimeMs, isStable } = await readText(file);
    const hash = createHash('sha256').update(text).digest('hex');
    const known = this.#files.get(file);
    const content = known?.hash === hash ? known.content : readObjects(file, text);
    const ageMs = Date.now() - mtimeMs;
    return { hash, content, isSettled: isStable && (ageMs < 0 || ageMs >= this.#settleMs) };
  }

  #tell(problems: string[]): void {
    const files = [...this.#files.values()];
    for (const { content } of files) problems.push(...content.problems);
    const hashes = [...this.#files].map(([name, { hash }]) => [name, hash]);
    const digest = JSON.stringify([problems, hashes]);
    if (digest === this.#told) return;
    this.#told = digest;
    if (problems.length > 0) this.#sink.problem(shorten(problems));
    else this.#sink.state(files.flatMap(({ content }) => content.entries));
  }
}

/** Change events of the folder that holds the objects. */
class ChangeEvents {
  readonly #path: string;
  readonly #ring: () => void;
  #watcher: FSWatcher | null = null;
  #watched = '';

  constructor(path: string, ring: () => void) {
    this.#path = path;
    this.#ring = ring;
  }

  /** Watches the folder that has the path now; it may be another one than before. Without events
   * (no folder, no more watches to be had) there is still the rescan. */
  async renew(): Promise<void> {
    try {
      const isFolder = (await stat(this.#path)).isDirectory();
      const folder = isFolder ? this.#path : dirname(this.#path);
      const { dev, ino } = await stat(folder);
      const identity = `${folder} ${dev} ${ino}`;
      if (this.#watcher !== null && identity === this.#watched) return;
      this.close();
      this.#watched = identity;
      this.#watcher = this.#watch(folder, isFolder);
    } catch {
      this.close();
    }
  }

  close(): void {
    this.#watcher?.close();
    this.#watcher = null;
  }

  #watch(folder: string, isFolder: boolean): FSWatcher {
    const name = basename(this.#path);
    const watcher = watch(folder, (_, changed) => {
      // A name with two dots is how Kubernetes swaps the files of a mounted ConfigMap.
      const ours = changed === null || changed === name || changed.startsWith('..');
      if (isFolder || ours) this.#ring();
    });
    watcher.on('error', () => {
      if (this.#watcher === watcher) this.close();
    });
    return watcher;
  }
}

/** The files, sorted; of a folder those named like YAML or JSON that are not hidden. */
export async function listFiles(path: string): Promise<string[]> {
  const stats = await tryTo('read', path, stat(path));
  if (!stats.isDirectory()) return [path];
  const names = await tryTo('read', path, readdir(path));
  const files = names.filter((name) => EXTENSION.test(name) && !name.startsWith('.')).sort();
  if (files.length === 0) throw new Error(`${path}: no .yaml, .yml or .json file in this folder`);
  if (files.length > FILE_COUNT_LIMIT) {
    throw new Error(`${path}: ${files.length} files, the limit is ${FILE_COUNT_LIMIT}`);
  }
  return files.map((name) => join(path, name));
}

/** `isStable`: the file was the same before and after it was read. */
async function readText(
  file: string,
): Promise<{ text: string; mtimeMs: number; isStable: boolean }> {
  const stats = await tryTo('read', file, stat(file));
  if (!stats.isFile()) throw new Error(`read ${file}: not a file`);
  if (stats.size > FILE_SIZE_LIMIT) {
    throw new Error(`read ${file}: ${stats.size} bytes, the limit is ${FILE_SIZE_LIMIT}`);
  }
  const text = await tryTo('read', file, readFile(file, 'utf8'));
  const after = await tryTo('read', file, stat(file));
  const isStable = after.mtimeMs === stats.mtimeMs && after.size === stats.size;
  return { text, mtimeMs: after.mtimeMs, isStable };
}

async function tryTo<T>(operation: string, path: string, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    const code: unknown = error instanceof Error ? Reflect.get(error, 'code') : undefined;
    throw new Error(`${operation} ${path}: ${String(code ?? error)}`, { cause: error });
  }
}

function shorten(problems: readonly string[]): string[] {
  const left = problems.length - PROBLEM_LIMIT;
  if (left <= 0) return [...problems];
  return [...problems.slice(0, PROBLEM_LIMIT), `and ${left} more`];
}
