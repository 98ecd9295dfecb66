// The modules of modules/examples and modules/template, built once for all tests: results are kept
// under dist/, by the hash of all they are made from.

import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { buildModule, type Compilers } from '../../modules/build.ts';
import { inspectComponent, instantiateModule, type ModuleHost, type ModuleImage,
  type ModuleInstance, type WasiName } from '../../modules/runtime.ts';
import { ROOT } from './source.ts';

const FOLDER = join(ROOT, 'dist', 'test', 'modules', 'built');
const COMMON = ['modules/sdk', 'modules/wit', 'dist/modules/build.js'];
const CAP = 16 * 1024 * 1024;

function hashInto(hash: ReturnType<typeof createHash>, path: string): void {
  const full = join(ROOT, path);
  if (path.includes('.')) {
    hash.update(`${path}\0`).update(readFileSync(full));
    return;
  }
  for (const name of readdirSync(full).sort()) {
    if (!name.endsWith('.wasm')) hashInto(hash, `${path}/${name}`);
  }
}

/** The component of an example, or of `template`. */
export async function buildExample(name: string, compilers: Compilers = {}): Promise<Uint8Array> {
  const folder = name === 'template' ? 'modules/template' : `modules/examples/${name}`;
  const hash = createHash('sha256');
  for (const path of [folder, ...COMMON]) hashInto(hash, path);
  const path = join(FOLDER, `${name}-${hash.digest('hex').slice(0, 16)}.wasm`);
  if (existsSync(path)) return readFileSync(path);
  mkdirSync(FOLDER, { recursive: true });
  // Tests run side by side: each writes a file of its own, and the last to rename it wins.
  const own = `${path}.${process.pid}`;
  const { bytes } = await buildModule(join(ROOT, folder), { out: own, compilers });
  renameSync(own, path);
  return bytes;
}

/** The image of an example. */
export async function exampleImage(
  name: string, allow: WasiName[] = [], compilers: Compilers = {},
): Promise<ModuleImage> {
  const bytes = await buildExample(name, compilers);
  return await inspectComponent(bytes, { allow, memoryCapBytes: CAP });
}

/** An instance with a configuration, whose log lines go nowhere. */
export function configured(image: ModuleImage, config: string, host: Partial<ModuleHost> = {})
  : ModuleInstance {
  const module = instantiateModule(image, { log: () => {}, ...host });
  module.configure(new TextEncoder().encode(config));
  module.endpoints([]);
  return module;
}
