// The cluster as it was last known, on a disk, so that a node forwards after a reboot with nobody
// there to ask. The file is as journal.ts describes it: a snapshot, then changes.
//
// Disks wear out, so not every change is written at once: changes are added to the file every ten
// seconds at most, a snapshot takes its place every five minutes at most, and only the first of
// either is written as it comes. Of changes that wait, those go that later ones say again. What is
// more than fits behind a snapshot is not written: another snapshot is asked for, once it may be
// written. So a node whose power fails has lost ten seconds of changes, or, where there were very
// many, or sidecars were started again and again, five minutes. What is added is forced to the
// disk; a snapshot is written beside, forced to the disk and renamed, so that the file is always
// the old one or the new one.
//
// A file that cannot be used is set aside as `cluster.corrupt-N`. Damage behind a whole snapshot,
// as a power failure leaves it, costs the changes from there on.

import { mkdirSync, readFileSync, readdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { open, rename, rm, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import type { Log } from '../engine/log.ts';
import { readRecalled, type ChangeFrame, type Recalled } from './journal.ts';
import { LastWords } from './last-words.ts';
import { JOURNAL_BYTES_LIMIT } from './limits.ts';

const FILE = 'cluster';
const UNFINISHED = 'cluster.new';
const ASIDE = 'cluster.corrupt-';
/** Files set aside that are kept. */
export const ASIDE_LIMIT = 3;
/** Nothing larger is read. */
const FILE_BYTES_LIMIT = 256 * 1024 * 1024;
export const CHANGES_MS = 10_000;
export const SNAPSHOT_MS = 300_000;

export interface LastStateOptions {
  /** Made where it is missing. */
  folder: string;
  /** The node whose state it is. */
  local: string;
  log: Log;
  changesMs?: number;
  snapshotMs?: number;
}

/** What is to be written: a snapshot to begin with, or none, and changes behind it. */
interface Waiting {
  snapshot: Uint8Array | null;
  changes: LastWords<ChangeFrame>;
}

export class LastState {
  readonly #options: LastStateOptions;
  #waiting: Waiting = nothing();
  #timer: NodeJS.Timeout | null = null;
  #writing: Promise<void> | null = null;
  #changesAtMs = -Infinity;
  #snapshotAtMs = -Infinity;
  /** Bytes of the file that are of this run. */
  #length = 0;
  /** A snapshot of this run is written, or on its way. */
  #hasBegun = false;
  /** Bytes behind its snapshot, those on their way there included. */
  #added = 0;
  #isLost = false;
  #isClosed = false;
  #damage: string | null = null;
  #failure: string | null = null;

  constructor(options: LastStateOptions) {
    this.#options = options;
  }

  /** What the operator should know, one line each. */
  problems(): string[] {
    return [this.#damage, this.#failure].filter((problem) => problem !== null);
  }

  /** True once a snapshot should take the place of what was written, and may. */
  get isLong(): boolean {
    const { snapshotMs = SNAPSHOT_MS } = this.#options;
    return this.#isLost && performance.now() >= this.#snapshotAtMs + snapshotMs;
  }

  /** Reads what was known before, and when that was written; null for nothing. */
  recall(): { recalled: Recalled; savedMs: number } | null {
    const path = join(this.#options.folder, FILE);
    rmSync(join(this.#options.folder, UNFINISHED), { force: true });
    try {
      const stats = statSync(path, { throwIfNoEntry: false });
      if (stats === undefined) return null;
      if (stats.size > FILE_BYTES_LIMIT) throw new Error(`it has ${stats.size} bytes`);
      const recalled = readRecalled(readFileSync(path), this.#options.local);
      if (recalled.fault !== null) {
        this.#options.log.warn({ file: path, fault: recalled.fault },
          'the last changes of the state on disk are left out');
      }
      return { recalled, savedMs: stats.mtimeMs };
    } catch (error) {
      this.setAside((error as Error).message);
      return null;
    }
  }

  /** Puts the file out of the way: what it says cannot be used. */
  setAside(reason: string): void {
    const { folder, log } = this.#options;
    const path = join(folder, FILE);
    const aside = join(folder, freeName(folder));
    try {
      renameSync(path, aside);
      this.#damage = `the last known state of the cluster, ${path}, could not be used (${reason}); `
        + `it is set aside as ${aside}`;
    } catch (error) {
      this.#damage = `${path} could not be used (${reason}), nor set aside: `
        + `${(error as Error).message}`;
    }
    log.error({ file: path, aside, error: reason }, 'the last known state is not used');
  }

  /** Makes this snapshot all there is. */
  replace(frames: readonly Uint8Array[]): void {
    const snapshot = Buffer.concat(frames);
    this.#waiting = { snapshot, changes: new LastWords() };
    this.#hasBegun = true;
    this.#isLost = false;
    this.#added = 0;
    this.#schedule();
  }

  /** Adds a change that is in force. */
  append(frame: ChangeFrame): void {
    if (this.#isLost || !this.#hasBegun) return;
    const { changes } = this.#waiting;
    changes.add(frame, frame.bytes.length, frame.subject);
    if (this.#added + changes.bytes > JOURNAL_BYTES_LIMIT) {
      this.#waiting = nothing();
      this.#isLost = true;
    }
    this.#schedule();
  }

  /** Writes what still waits. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await this.settle();
  }

  /** Likewise, and goes on. */
  async settle(): Promise<void> {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    await this.#writing;
    await this.#write();
  }

  #schedule(): void {
    if (this.#timer !== null || this.#writing !== null || this.#isClosed) return;
    if (isNothing(this.#waiting)) return;
    const { changesMs = CHANGES_MS, snapshotMs = SNAPSHOT_MS } = this.#options;
    const dueMs = this.#waiting.snapshot === null
      ? this.#changesAtMs + changesMs : this.#snapshotAtMs + snapshotMs;
    this.#timer = setTimeout(() => {
      this.#timer = null;
      this.#writing = this.#write().finally(() => {
        this.#writing = null;
        this.#schedule();
      });
    }, Math.max(dueMs - performance.now(), 0));
  }

  /** Never rejects: what cannot be written waits for the next time. */
  async #write(): Promise<void> {
    const waiting = this.#waiting;
    if (isNothing(waiting)) return;
    const changes = waiting.changes.values().map(({ bytes }) => bytes);
    const size = waiting.changes.bytes;
    this.#waiting = nothing();
    this.#added += size;
    this.#changesAtMs = performance.now();
    try {
      if (waiting.snapshot === null) await this.#add(Buffer.concat(changes));
      else {
        this.#snapshotAtMs = this.#changesAtMs;
        await this.#begin(Buffer.concat([waiting.snapshot, ...changes]));
      }
      this.#failure = null;
      this.#damage = null;
    } catch (error) {
      this.#fail(error as Error);
      if (this.#waiting.snapshot !== null) return;
      this.#added -= size;
      for (const frame of this.#waiting.changes.values()) {
        waiting.changes.add(frame, frame.bytes.length, frame.subject);
      }
      this.#waiting = waiting;
    }
  }

  /** Says the same once. */
  #fail({ message }: Error): void {
    const failure = `the state of the cluster cannot be written to disk: ${message}`;
    if (failure !== this.#failure) this.#options.log.error({ error: message }, 'cannot keep state');
    this.#failure = failure;
  }

  async #begin(bytes: Uint8Array): Promise<void> {
    const { folder } = this.#options;
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    const beside = join(folder, UNFINISHED);
    try {
      await writeAndForce(beside, 'w', bytes);
    } catch (error) {
      // On a full disk it would be in the way of what is smaller.
      await rm(beside, { force: true });
      throw error;
    }
    await rename(beside, join(folder, FILE));
    this.#length = bytes.length;
    await force(folder);
  }

  /** Adds to the file. What could be added in part only is cut off again. */
  async #add(bytes: Uint8Array): Promise<void> {
    const path = join(this.#options.folder, FILE);
    try {
      await writeAndForce(path, 'a', bytes);
    } catch (error) {
      await truncate(path, this.#length);
      throw error;
    }
    this.#length += bytes.length;
  }
}

function nothing(): Waiting {
  return { snapshot: null, changes: new LastWords() };
}

function isNothing({ snapshot, changes }: Waiting): boolean {
  return snapshot === null && changes.bytes === 0;
}

async function writeAndForce(path: string, flags: string, bytes: Uint8Array): Promise<void> {
  const file = await open(path, flags, 0o600);
  try {
    await file.writeFile(bytes);
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Forces a folder to the disk: a rename lives there. */
async function force(folder: string): Promise<void> {
  const file = await open(folder, 'r');
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}

/** A name for a file to set aside: one that is free, or the oldest one's. */
function freeName(folder: string): string {
  const names = Array.from({ length: ASIDE_LIMIT }, (_, at) => `${ASIDE}${at + 1}`);
  const known = new Set(readdirSync(folder));
  const ageOf = (name: string): number => statSync(join(folder, name)).mtimeMs;
  return names.find((name) => !known.has(name))
    ?? names.sort((a, b) => ageOf(a) - ageOf(b))[0] ?? `${ASIDE}1`;
}
