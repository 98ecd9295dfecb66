// time limit: 400 s
// What is installed from: packages for each architecture, with the native parts of that one, and
// what runs of it here. npm fetches the packages that the lock file names.

import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { findTool } from '../../scripts/tools.ts';
import { printSkip } from '../support/needs.ts';
import { ROOT } from '../support/source.ts';

const test = suite('deploy/package');
/** For each of Debian's architectures: npm's word, and e_machine of ELF's header (elf.h). */
const ARCHITECTURES: Readonly<Record<string, { processor: string; machine: number }>> = {
  amd64: { processor: 'x64', machine: 62 },
  arm64: { processor: 'arm64', machine: 183 },
  armhf: { processor: 'arm', machine: 40 },
};
const ELF_MACHINE = 18;
const folder = mkdtempSync(join(tmpdir(), 'culvert-packages-'));
const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as {
  version: string;
};
const here = Object.entries(ARCHITECTURES)
  .find(([, { processor }]) => processor === process.arch)?.[0] ?? '';

test.after(() => rmSync(folder, { recursive: true, force: true }));

function machineOf(path: string): number {
  return readFileSync(path).readUInt16LE(ELF_MACHINE);
}

function build(script: string, ...args: string[]): string[] {
  return execFileSync(process.execPath, [
    join(ROOT, 'dist', 'scripts', `${script}.js`), '--out', folder, ...args,
  ], { encoding: 'utf8' }).trim().split('\n');
}

/** What a command prints when it is asked for its version. */
function versionOf(program: string, env: Record<string, string> = {}): string {
  const { stdout, stderr, status } = spawnSync(
    program, ['--version'], { encoding: 'utf8', env: { ...process.env, ...env } });
  assert.is(status, 0, stderr);
  return stdout.trim();
}

/** Adds a test, or skips it for want of a program. */
function testWith(program: string, name: string, body: () => void): void {
  if (findTool(program) !== null) test(name, body);
  else printSkip(name, `${program} is not on PATH`);
}

for (const [architecture, { processor, machine }] of Object.entries(ARCHITECTURES)) {
  testWith('dpkg-deb', `the package for ${architecture} has native parts for it`, () => {
    const [debian = ''] = build('package', '--arch', architecture);
    const tree = join(folder, architecture);
    execFileSync('dpkg-deb', ['-x', debian, tree]);
    const native = join(tree, 'usr', 'lib', 'culvert', 'node_modules', '@koromix');
    assert.equal(readdirSync(native), [`koffi-linux-${processor}`]);
    const parts = join(native, `koffi-linux-${processor}`);
    const kind = readdirSync(parts).find((name) => name.startsWith('linux_')) ?? '';
    assert.is(machineOf(join(parts, kind, 'koffi.node')), machine);
    const fields = execFileSync('dpkg-deb', ['-f', debian], { encoding: 'utf8' });
    assert.match(fields, new RegExp(`^Architecture: ${architecture}$`, 'm'));
  });
}

testWith('dpkg-deb', 'the tarball runs from where it is unpacked', () => {
  const tarball = join(folder, `culvert-${version}-linux-${here}.tar.gz`);
  execFileSync('tar', ['-C', folder, '-xzf', tarball]);
  assert.is(versionOf(join(folder, `culvert-${version}`, 'bin', 'culvert')), version);
});

test('npm installs it for all users', () => {
  execFileSync('npm', ['pack', '--silent', '--ignore-scripts', '--pack-destination', folder],
    { cwd: ROOT });
  const prefix = join(folder, 'prefix');
  mkdirSync(prefix);
  execFileSync('npm', ['install', '--silent', '--global', '--prefix', prefix,
    join(folder, `culvert-net-${version}.tgz`)]);
  assert.is(versionOf(join(prefix, 'bin', 'culvert')), version);
});

test('the single executable needs no Node.js', () => {
  const [program = ''] = build('single-executable', '--arch', here);
  const env = { PATH: '/nowhere', XDG_CACHE_HOME: join(folder, 'cache') };
  assert.is(versionOf(program, env), version);
  assert.is(versionOf(program, env), version);
  assert.is(readdirSync(join(folder, 'cache', 'culvert')).length, 1);
});

test.run();
