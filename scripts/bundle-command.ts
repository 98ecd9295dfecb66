// Bundles the `culvert` command into files that start fast, dist/bundle: the command itself, and
// what it starts as threads and as the holder. cli/culvert.ts chooses between these files and the
// modules that they are made of. Packages with native parts stay outside, and so does the YAML
// parser, which few verbs load.
//
// The files are CommonJS: Node.js 20 takes some 20 ms to look for names in the first package of
// that kind that a module imports, and nothing to require() it.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build, type Plugin } from 'esbuild';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const FOLDER = join(ROOT, 'dist', 'bundle');

/** Has the netlink package find its native part from where the package is, not the bundle. */
const netlinkPart: Plugin = {
  name: 'netlink-part',
  setup: ({ onLoad }) => {
    onLoad({ filter: /netlink\/dist\/raw\.js$/ }, ({ path }) => {
      const found = 'require(\'node:path\').dirname(require.resolve(\'netlink/package.json\'))';
      const source = readFileSync(path, 'utf8');
      const contents = source.replace('__dirname + \'/..\'', found);
      if (contents === source) throw new Error(`${path}: finds its native part in another way`);
      return { contents };
    });
  },
};

await build({
  absWorkingDir: ROOT,
  entryPoints: {
    main: 'cli/main.ts',
    agent: 'cli/demo/agent.ts',
    'policy-thread': 'cli/policy/policy-thread.ts',
    worker: 'host/worker.ts',
    supervisor: 'host/supervisor.ts',
    'node-ports/worker': 'host/node-ports/worker.ts',
    'warm-up': 'host/warm-up.ts',
    'holder-process': 'host/holder-process.ts',
    'compile-process': 'modules/compile-process.ts',
  },
  outdir: FOLDER,
  bundle: true,
  platform: 'node',
  target: 'node20',
  format: 'cjs',
  minify: true,
  external: ['koffi', 'netlink/package.json', 'node-gyp-build', 'yaml', '@bytecodealliance/*'],
  plugins: [netlinkPart],
  define: { 'import.meta.url': 'moduleUrl' },
  banner: { js: 'const moduleUrl = require(\'node:url\').pathToFileURL(__filename).href;' },
  logLevel: 'warning',
});
writeFileSync(join(FOLDER, 'package.json'), '{ "type": "commonjs" }\n');
