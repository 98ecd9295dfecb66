// Bundles the CNI plugin into one file that starts fast: dist/cni/culvert.cjs. The runtime starts
// it anew for every call. Packages with native parts stay outside; only some verbs load them, from
// the package that `culvert cni install` names in the installed file.

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
  format: 'cjs',
  minify: true,
  external: ['koffi', 'netlink'],
  define: { CULVERT_VERSION: JSON.stringify(version) },
  logLevel: 'warning',
});
