// Builds what is installed from: a Debian package and a tarball for each architecture.
//
//   node dist/scripts/package.js [--arch amd64,arm64,armhf] [--version 1.2.3] [--out FOLDER]
//
// Both hold the same tree, all but Node.js: bin/culvert, lib/culvert with the npm package and
// the packages it needs, native parts for that architecture, units of systemd. It takes npm, which
// fetches the packages that the lock file names, and dpkg-deb and tar.

import { execFileSync } from 'node:child_process';
import { chmodSync, copyFileSync, cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync,
  writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const RECIPE = join(ROOT, 'deploy', 'package');
const UNITS = join(ROOT, 'deploy', 'systemd');
const SCRIPTS = ['postinst', 'prerm', 'postrm'] as const;
/** npm's words for Debian's architectures. */
const PROCESSORS: Readonly<Record<string, string>> = { amd64: 'x64', arm64: 'arm64', armhf: 'arm' };
/** Packages that others name and that nothing loads: half of the size. */
const UNUSED = ['binaryen'];
/** Files of the recipe, and where they belong below usr/. */
const PLACES: readonly [string, string][] = [
  ['culvert', 'bin/culvert'],
  ['sysusers.conf', 'lib/sysusers.d/culvert.conf'],
  ['modules-load.conf', 'lib/modules-load.d/culvert.conf'],
  ['config.yaml', 'share/doc/culvert/config.yaml'],
];

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
const manifest = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as {
  version: string; description: string; license: string;
};
mkdirSync(values.out, { recursive: true });
for (const architecture of values.arch.split(',')) {
  const processor = PROCESSORS[architecture];
  if (processor === undefined) throw new Error(`--arch ${architecture}: not one of them`);
  const version = values.version ?? manifest.version;
  build({ architecture, processor, version, out: values.out });
}

function build(what: Build): void {
  const work = mkdtempSync(join(tmpdir(), 'culvert-package-'));
  try {
    const usr = join(work, 'tree', 'usr');
    layOut(usr, work, what);
    const { version, architecture, out } = what;
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

/** Everything below usr/. */
function layOut(usr: string, work: string, { processor, version }: Build): void {
  const library = join(usr, 'lib', 'culvert');
  mkdirSync(library, { recursive: true });
  run('npm', ['pack', '--silent', '--ignore-scripts', '--pack-destination', work], ROOT);
  const packed = join(work, `culvert-net-${manifest.version}.tgz`);
  run('tar', ['-C', library, '--strip-components=1', '-xzf', packed]);
  copyFileSync(join(ROOT, 'package-lock.json'), join(library, 'package-lock.json'));
  run('npm', ['ci', '--silent', '--omit=dev', '--ignore-scripts', '--no-bin-links',
    '--os=linux', `--cpu=${processor}`, '--libc=glibc'], library);
  rmSync(join(library, 'package-lock.json'));
  for (const name of UNUSED) {
    rmSync(join(library, 'node_modules', name), { recursive: true, force: true });
  }
  setVersion(join(library, 'package.json'), version);
  for (const [name, place] of PLACES) put(join(RECIPE, name), join(usr, place));
  chmodSync(join(usr, 'bin', 'culvert'), 0o755);
  for (const name of ['culvert.service', 'culvert-sync.service']) {
    put(join(UNITS, name), join(usr, 'lib', 'systemd', 'system', name));
  }
  cpSync(join(ROOT, 'LICENSE'), join(usr, 'share', 'doc', 'culvert', 'copyright'));
}

function setVersion(path: string, version: string): void {
  const text = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
  writeFileSync(path, `${JSON.stringify({ ...text, version }, null, 2)}\n`);
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
    `Description: ${manifest.description}`, '',
  ].join('\n'));
  for (const name of SCRIPTS) {
    copyFileSync(join(RECIPE, name), join(folder, name));
    chmodSync(join(folder, name), 0o755);
  }
}

function put(from: string, to: string): void {
  mkdirSync(dirname(to), { recursive: true });
  copyFileSync(from, to);
  chmodSync(to, 0o644);
}

/** Runs a program and gives what it printed. Throws with what it said where it fails. */
function run(program: string, args: string[], cwd?: string): string {
  return execFileSync(program, args, {
    ...cwd === undefined ? {} : { cwd }, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'],
  });
}
