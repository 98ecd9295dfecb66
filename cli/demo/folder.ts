// The folder of a bed, under the system's folder for temporary files. A process that is killed
// leaves its own behind; whoever makes the next bed removes it. The lock tells: it is held as long
// as the owner lives, however that ends.

import { existsSync, lstatSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { closeFd, lockFile } from '../../ffi/file.ts';

const PREFIX = 'culvert-lab-';
const LOCK = 'lock';

/** Makes a folder. `lock` is the descriptor to close when it is removed. */
export function makeFolder(): { path: string; lock: number } {
  for (;;) {
    const path = mkdtempSync(join(tmpdir(), `${PREFIX}${process.pid}-`));
    const file = join(path, LOCK);
    const lock = lockFile(file);
    if (lock !== null && existsSync(file)) return { path, lock };
    // Somebody took it for a left-over, in the moment before it was locked.
    if (lock !== null) closeFd(lock);
  }
}

/** Removes what killed processes of this user left. What cannot be removed is left alone. */
export function removeLeftovers(): void {
  for (const name of readdirSync(tmpdir()).filter((entry) => entry.startsWith(PREFIX))) {
    try {
      removeUnowned(join(tmpdir(), name));
    } catch {
      // Gone in the meantime, or not ours to look into.
    }
  }
}

function removeUnowned(path: string): void {
  const stats = lstatSync(path);
  const isOurs = stats.isDirectory() && stats.uid === process.getuid?.();
  if (!isOurs || !existsSync(join(path, LOCK))) return;
  const lock = lockFile(join(path, LOCK));
  if (lock === null) return;
  rmSync(path, { recursive: true, force: true });
  closeFd(lock);
}
