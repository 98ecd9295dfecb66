// Builds what is installed from: a Debian package and a tarball for each architecture.
//
//   node dist/scripts/package.js [--arch amd64,arm64,armhf] [--version 1.2.3] [--out FOLDER]
//
// Both hold the same tree, all but Node.js: bin/culvert, lib/culvert with the npm package and
// the packages it needs, native parts for that architecture, units of systemd. It takes npm, which
// fetches the packages that the lock file names, and dpkg-deb and tar.

import { chmodSync, copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { layOut, MANIFEST, PROCESSORS, RECIPE, ROOT, run } from './package-tree.ts';

const SCRIPTS = ['postinst', 'prerm', 'postrm'] as const;

/** What one build is of. */
interface Build {
  architecture: string;
  processor: string;
  version: string;
  out: string;
}

const { values } = parseArgs({
  options: {
    arch: { type: 'string', default: Object.keys(PROCESSORS).join(',') },
    version: { type: 'string' },
    out: { type: 'string', default: join(ROOT, 'dist', 'packages') },
  },
});
mkdirSync(values.out, { recursive: true });
for (const architecture of values.arch.split(',')) {
  const processor = PROCESSORS[architecture];
  if (processor === undefined) throw new Error(`--arch ${architecture}: not one of them`);
  const version = values.version ?? MANIFEST.version;
  build({ architecture, processor, version, out: values.out });
}

function build(what: Build): void {
  const { architecture, processor, version, out } = what;
  const work = mkdtempSync(join(tmpdir(), 'culvert-package-'));
  try {
    const usr = join(work, 'tree', 'usr');
    layOut(usr, work, processor, version);
    const tarball = join(out, `culvert-${version}-linux-${architecture}.tar.gz`);
    run('tar', ['-C', usr, '--owner=0', '--group=0', '--transform', `s,^\\.,culvert-${version},`,
      '-czf', tarball, '.']);
    writeControl(join(work, 'tree', 'DEBIAN'), usr, what);
    const debian = join(out, `culvert_${version}_${architecture}.deb`);
    run('dpkg-deb', ['--root-owner-group', '-Zgzip', '--build', join(work, 'tree'), debian]);
    console.log(`${debian}\n${tarball}`);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

function writeControl(folder: string, usr: string, { architecture, version }: Build): void {
  mkdirSync(folder, { recursive: true });
  const [kib = '0'] = run('du', ['-sk', usr]).split('\t');
  writeFileSync(join(folder, 'control'), [
    'Package: culvert', `Version: ${version}`, `Architecture: ${architecture}`,
    `Installed-Size: ${kib}`, 'Section: net', 'Priority: optional',
    'Maintainer: Culvert <culvert@localhost>',
    'Depends: libc6 (>= 2.28), libstdc++6, libatomic1, systemd (>= 252)',
    // Debian 12 has an older one; Node.js may also come from elsewhere, so that it is no must.
    'Recommends: nodejs (>= 20)',
    `Description: ${MANIFEST.description}`, '',
  ].join('\n'));
  for (const name of SCRIPTS) {
    copyFileSync(join(RECIPE, name), join(folder, name));
    chmodSync(join(folder, name), 0o755);
  }
}
