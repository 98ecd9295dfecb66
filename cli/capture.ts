// `culvert capture`: packets of the running daemon as a pcapng file, or live to another program.

import { closeSync, openSync, writeSync } from 'node:fs';
import {
  CAPTURE_PLACES, CapturedSchema, SNAP_LENGTH_LIMIT, type Captured, type CapturePlace,
} from '../engine/model-capture.ts';
import { withDaemon } from './client.ts';
import { CommandError, EXIT_FAILED, EXIT_USAGE } from './exit.ts';

export interface CaptureOptions {
  runtimeDirectory: string;
  interface?: string[];
  write: string;
  count?: number;
  snapLength: number;
}

/** Captures until told to stop, until there are as many packets as wanted, or until nobody reads
 * them any more. Says on standard error that it has begun, and in the end how many there were. */
export async function capture(options: CaptureOptions, stop: AbortSignal): Promise<void> {
  const places = placesOf(options.interface ?? []);
  const { count = Number.POSITIVE_INFINITY, snapLength } = options;
  if (!(count >= 1)) throw new CommandError(EXIT_USAGE, 'capture: --count is a number from 1 on');
  if (!Number.isInteger(snapLength) || snapLength < 1 || snapLength > SNAP_LENGTH_LIMIT) {
    throw new CommandError(EXIT_USAGE, `capture: --snap-length is 1 to ${SNAP_LENGTH_LIMIT}`);
  }
  await withDaemon(options.runtimeDirectory, async (connection) => {
    const file = openFile(options.write);
    try {
      const ask = (name: string, params: unknown): Promise<Captured> =>
        connection.request(name, params, CapturedSchema);
      let last = await ask('capture.begin', { places, snapLength });
      process.stderr.write(`culvert: capturing at ${places.join(', ')}\n`);
      let isRead = writeAll(file, last.bytes);
      while (isRead && !stop.aborted && last.packets < count) {
        last = await ask('capture.read', null);
        isRead = writeAll(file, last.bytes);
      }
      for (last = { ...last, more: true }; isRead && last.more;) {
        last = await ask('capture.end', null);
        isRead = writeAll(file, last.bytes);
      }
      const lost = last.lost === 0 ? '' : `, ${last.lost} more were lost: too many at once`;
      process.stderr.write(`culvert: ${last.packets} packets captured${lost}\n`);
    } finally {
      if (file !== 1) closeSync(file);
    }
  }, { isLong: true });
}

function placesOf(given: readonly string[]): CapturePlace[] {
  if (given.length === 0) return [...CAPTURE_PLACES];
  return given.flatMap((text) => text.split(',')).map((name) => {
    const place = CAPTURE_PLACES.find((candidate) => candidate === name);
    if (place !== undefined) return place;
    throw new CommandError(EXIT_USAGE,
      `capture: no interface ${name}; there are ${CAPTURE_PLACES.join(', ')}`);
  });
}

function openFile(path: string): number {
  if (path === '-') return 1;
  try {
    return openSync(path, 'w', 0o600);
  } catch (error) {
    throw new CommandError(EXIT_FAILED, `capture: ${(error as Error).message}`);
  }
}

/** Writes at once, so that a reader sees packets as they come. False where nobody reads. */
function writeAll(file: number, bytes: Uint8Array): boolean {
  for (let at = 0; at < bytes.length;) {
    try {
      at += writeSync(file, bytes, at);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === 'EPIPE') return false;
      if (code !== 'EAGAIN') throw new CommandError(EXIT_FAILED, `capture: ${String(code)}`);
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5);
    }
  }
  return true;
}
