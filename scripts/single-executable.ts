// Builds single executables: Node.js and the package's tree in one file, for x64 and arm64.
//
//   node dist/scripts/single-executable.js [--arch amd64,arm64] [--out FOLDER]
//
// Node.js looks for a program in a section of its own executable ("Single executable applications"
// of its documentation); postject puts it there. Another architecture's Node.js is the npm package
// node-linux-*, of the version that makes the section. Symbols must not be stripped afterwards.

import { chmodSync, copyFileSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync,
  statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { parseArgs } from 'node:util';
import { gzipSync } from 'node:zlib';
import { buildSync } from 'esbuild';
import { layOut, MANIFEST, PROCESSORS, ROOT, run } from './package-tree.ts';

const POSTJECT = 'postject@1.0.0-alpha.6';
/** What Node.js looks for, as its documentation has it. */
const SECTION = 'NODE_SEA_BLOB';
const FUSE = 'NODE_SEA_FUSE_fce680ab2cc467b6e072b8b5df1996b2';
const ARCHITECTURES = ['amd64', 'arm64'];

const { values } = parseArgs({
  options: {
    arch: { type: 'string', default: ARCHITECTURES.join(',') },
    out: { type: 'string', default: join(ROOT, 'dist', 'packages') },
  },
});
mkdirSync(values.out, { recursive: true });
for (const architecture of values.arch.split(',')) {
  const processor = PROCESSORS[architecture];
  if (processor === undefined || !ARCHITECTURES.includes(architecture)) {
    throw new Error(`--arch ${architecture}: not one of them`);
  }
  const work = mkdtempSync(join(tmpdir(), 'culvert-single-'));
  try {
    console.log(build(architecture, processor, work, values.out));
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

function build(architecture: string, processor: string, work: string, out: string): string {
  layOut(join(work, 'usr'), work, processor);
  const asset = join(work, 'tree.gz');
  writeFileSync(asset, packTree(join(work, 'usr', 'lib', 'culvert')));
  const main = join(work, 'main.cjs');
  buildSync({
    absWorkingDir: ROOT, entryPoints: ['cli/single/main.ts'], outfile: main, bundle: true,
    platform: 'node', target: 'node20', format: 'cjs', logLevel: 'warning',
  });
  const blob = join(work, 'program.blob');
  const config = join(work, 'config.json');
  writeFileSync(config, JSON.stringify({
    main, output: blob, disableExperimentalSEAWarning: true, assets: { tree: asset },
  }));
  run(process.execPath, ['--experimental-sea-config', config]);
  const executable = join(out, `culvert-${MANIFEST.version}-linux-${architecture}`);
  copyFileSync(nodeOf(processor, work), executable);
  chmodSync(executable, 0o755);
  run('npm', ['exec', '--yes', '--package', POSTJECT, '--', 'postject', executable, SECTION, blob,
    '--sentinel-fuse', FUSE], work);
  return executable;
}

/** Node.js for a processor. */
function nodeOf(processor: string, work: string): string {
  if (processor === process.arch) return process.execPath;
  const { node: version } = process.versions;
  const name = `node-linux-${processor}`;
  run('npm', ['pack', '--silent', '--pack-destination', work, `${name}@${version}`], work);
  run('tar', ['-C', work, '-xzf', join(work, `${name}-${version}.tgz`)]);
  return join(work, 'package', 'bin', 'node');
}

/** A tree as the executable unpacks it (cli/single/main.ts). */
function packTree(folder: string): Buffer {
  const files = readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
  const index = Buffer.from(JSON.stringify(files.map((path) => {
    const { size, mode } = statSync(path);
    return { path: relative(folder, path), size, mode: mode & 0o777 };
  })));
  const length = Buffer.alloc(4);
  length.writeUInt32LE(index.length);
  return gzipSync(Buffer.concat([length, index, ...files.map((path) => readFileSync(path))]));
}
