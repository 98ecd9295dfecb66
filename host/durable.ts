// Small files that are always whole: after a crash at any point a file has its old content or its
// new one, or is there or not there, and never half of it.
//
// New content goes to a file beside the old one, is forced to the disk, and is renamed over it; the
// folder is forced to the disk too, since a rename lives there (fsync(2), rename(2)). What a crash
// leaves beside ends in `.new` and is removed at the next start.

import {
  closeSync, existsSync, fsyncSync, mkdirSync, openSync, readFileSync, readdirSync, renameSync,
  rmSync, writeSync,
} from 'node:fs';
import { join } from 'node:path';

const UNFINISHED = '.new';
const FILE_MODE = 0o600;
const FOLDER_MODE = 0o700;

/** The operations on a folder's files that a crash may come between. Each throws what the file
 * system refuses. */
export interface Files {
  list(): string[];
  read(name: string): Uint8Array;
  /** Makes or empties a file and writes it; it lasts once sync() has been called. */
  write(name: string, bytes: Uint8Array): void;
  sync(name: string): void;
  /** These two last once syncFolder() has been called. */
  rename(from: string, to: string): void;
  remove(name: string): void;
  syncFolder(): void;
}

/** The files of a real folder, which is made when the first is written. */
export function diskFiles(folder: string): Files {
  const path = (name: string): string => join(folder, name);
  return {
    list: () => (existsSync(folder) ? readdirSync(folder, { withFileTypes: true }) : [])
      .filter((entry) => entry.isFile()).map(({ name }) => name).sort(),
    read: (name) => readFileSync(path(name)),
    write: (name, bytes) => {
      mkdirSync(folder, { recursive: true, mode: FOLDER_MODE });
      const fd = openSync(path(name), 'w', FILE_MODE);
      try {
        for (let at = 0; at < bytes.length;) at += writeSync(fd, bytes, at);
      } finally {
        closeSync(fd);
      }
    },
    sync: (name) => forceToDisk(path(name)),
    rename: (from, to) => renameSync(path(from), path(to)),
    remove: (name) => rmSync(path(name), { force: true }),
    syncFolder: () => { if (existsSync(folder)) forceToDisk(folder); },
  };
}

function forceToDisk(path: string): void {
  const fd = openSync(path, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** Gives a file new content. When it returns, the content lasts. */
export function replaceFile(files: Files, name: string, bytes: Uint8Array): void {
  files.write(name + UNFINISHED, bytes);
  files.sync(name + UNFINISHED);
  files.rename(name + UNFINISHED, name);
  files.syncFolder();
}

/** Removes a file for good; it may be missing. */
export function removeFile(files: Files, name: string): void {
  files.remove(name);
  files.syncFolder();
}

/** Whether a file of this name is still being written, or was when its writer died. */
export function isUnfinished(name: string): boolean {
  return name.endsWith(UNFINISHED);
}

/** Removes what a crash has left half-written. */
export function removeUnfinished(files: Files): void {
  for (const name of files.list()) if (isUnfinished(name)) files.remove(name);
}
