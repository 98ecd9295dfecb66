// Bundles the CNI plugin into one file that starts fast: dist/cni/culvert.cjs. The runtime starts
// it anew for every call. Native parts stay outside; only some verbs load them, from where
// `culvert cni install` has found them (cni/program.ts).

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));

const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as {
  version: string;
};
await build({
  absWorkingDir: ROOT,
  entryPoints: ['cni/main.ts'],
  outfile: 'dist/cni/culvert.cjs',
  bundle: true,
  platform: 'node',
  target: 'node20',
  // Run as a script of its own, the bundle has nobody to import for it.
  supported: { 'dynamic-import': false },
  format: 'cjs',
  minify: true,
  external: ['koffi', 'node-gyp-build'],
  define: { CULVERT_VERSION: JSON.stringify(version) },
  logLevel: 'warning',
});
