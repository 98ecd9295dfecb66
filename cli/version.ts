// The program's version and where its files are, from the package that holds it.

import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The package's folder: this file is dist/cli/version.js in it. */
export const PACKAGE_FOLDER = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

/** The core's WebAssembly module. */
export const CORE_PATH = join(PACKAGE_FOLDER, 'dist', 'wasm', 'core.wasm');

const manifest: unknown = JSON.parse(readFileSync(join(PACKAGE_FOLDER, 'package.json'), 'utf8'));

export const VERSION = String((manifest as { version?: unknown }).version);
