// The first program of the single executable, which has Node.js and the package's tree in it. It
// unpacks the tree once, beside others' caches, and runs the command from there: threads, native
// parts and the holder are files to Node.js.
//
// Whoever starts another program of ours names Node.js and a file, and Node.js is this executable:
// such a file is run as it is.

import { createHash } from 'node:crypto';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from
  'node:fs';
import { createRequire } from 'node:module';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { getRawAsset } from 'node:sea';
import { gunzipSync } from 'node:zlib';

/** The asset: the length of an index as JSON, the index, then the files, all packed by gzip. */
const ASSET = 'tree';
const LENGTH_BYTES = 4;
const ROOT_CACHE = '/var/cache';
const DIGEST_LENGTH = 16;

interface Entry {
  path: string;
  size: number;
  mode: number;
}

/** Where programs keep what they can make again; XDG Base Directory Specification. */
function cacheFolder(): string {
  const usual = process.getuid?.() === 0 ? ROOT_CACHE : join(homedir(), '.cache');
  return join(process.env['XDG_CACHE_HOME'] ?? usual, 'culvert');
}

/** The unpacked tree's folder. It gets its name when it is whole. */
function unpacked(): string {
  const packed = Buffer.from(getRawAsset(ASSET) as ArrayBuffer);
  const digest = createHash('sha256').update(packed).digest('hex').slice(0, DIGEST_LENGTH);
  const cache = cacheFolder();
  const folder = join(cache, digest);
  if (existsSync(folder)) return folder;
  mkdirSync(cache, { recursive: true, mode: 0o755 });
  const part = mkdtempSync(join(cache, 'part-'));
  chmodSync(part, 0o755);
  unpack(gunzipSync(packed), part);
  try {
    renameSync(part, folder);
  } catch (error) {
    rmSync(part, { recursive: true, force: true });
    // Another one was quicker.
    if (!existsSync(folder)) throw error;
  }
  return folder;
}

function unpack(bytes: Buffer, folder: string): void {
  const indexSize = bytes.readUInt32LE(0);
  let at = LENGTH_BYTES + indexSize;
  const index = JSON.parse(bytes.toString('utf8', LENGTH_BYTES, at)) as Entry[];
  for (const { path, size, mode } of index) {
    const place = join(folder, path);
    mkdirSync(dirname(place), { recursive: true });
    writeFileSync(place, bytes.subarray(at, at + size), { mode });
    at += size;
  }
}

/** Runs a file in the place of this one, with the arguments from the place `rest` on. */
function runFile(file: string, rest: number): void {
  process.argv = [process.execPath, file, ...process.argv.slice(rest)];
  createRequire(file)(file);
}

// Options of Node.js itself may come before a file; they do not reach this Node.js.
let place = 2;
while (process.argv[place]?.startsWith('-') === true) place += 1;
const given = process.argv[place];
if (given?.startsWith('/') === true) runFile(given, place + 1);
else runFile(join(unpacked(), 'dist', 'bundle', 'main.js'), 2);
