// A note for the daemon that a pod has ended while it was not there to be told.

import {
  closeSync, existsSync, fsyncSync, mkdirSync, openSync, renameSync, rmSync, writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { encodeFrame } from '../engine/frame.ts';
import { ENDED_FOLDER, endedFileName, type AttachmentKey } from '../engine/model.ts';

/** Leaves a note; it lasts when this returns. The daemon reads it at its start. Where there is no
 * runtime directory, no daemon has been here since the boot, and nothing is to be given back. */
export function leaveNote(runtimeDirectory: string, key: AttachmentKey): void {
  if (!existsSync(runtimeDirectory)) return;
  const path = notePath(runtimeDirectory, key);
  mkdirSync(join(runtimeDirectory, ENDED_FOLDER), { recursive: true, mode: 0o700 });
  const fd = openSync(`${path}.new`, 'w', 0o600);
  try {
    writeSync(fd, encodeFrame(key));
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
  renameSync(`${path}.new`, path);
}

export function removeNote(runtimeDirectory: string, key: AttachmentKey): void {
  rmSync(notePath(runtimeDirectory, key), { force: true });
}

function notePath(runtimeDirectory: string, key: AttachmentKey): string {
  return join(runtimeDirectory, ENDED_FOLDER, endedFileName(key));
}
