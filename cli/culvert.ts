#!/usr/bin/env node
// Starts the `culvert` command (main.ts): from one file that has all its modules, or module by
// module. Packets of pods wait for a daemon that starts again, and most of a start is finding,
// reading and compiling a hundred small files. scripts/bundle-command.ts makes the one file.

import { statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const DIST = dirname(dirname(fileURLToPath(import.meta.url)));
const BUNDLE = join(DIST, 'bundle', 'main.js');
/** What the bundle is made of. */
const PARTS = ['cli', 'host', 'engine', 'modules', 'ffi', 'wasm/abi', 'sync', 'cni'];

/** When a file was last written; 0 where there is none. */
function changedMs(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0;
}

/** True unless a part of the bundle was compiled later, as when somebody works on it. */
function isCurrent(): boolean {
  const madeMs = changedMs(BUNDLE);
  return madeMs > 0
    && PARTS.every((part) => changedMs(join(DIST, part, 'tsconfig.tsbuildinfo')) <= madeMs);
}

if (isCurrent()) createRequire(import.meta.url)(BUNDLE);
else void import('./main.ts'); // Without waiting, so that it can also be required.
