// The set-up script, on a tree with a compiler that only notes that it was called.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, utimesSync,
  writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { ROOT } from '../support/source.ts';

const trees: string[] = [];

/** A compiler that takes a while, writes `output`, and fails on a source that says so. */
function compiler(name: string, output: string): string {
  return `const fs = require('node:fs');
    fs.appendFileSync('calls', '${name} ');
    if (fs.readFileSync('wasm/index.ts', 'utf8').includes('broken')) {
      console.log('${name}: it is broken');
      process.exit(2);
    }
    setTimeout(() => {
      fs.mkdirSync('${dirname(output)}', { recursive: true });
      fs.writeFileSync('${output}', '');
    }, 100);`;
}

function write(tree: string, path: string, text: string): void {
  mkdirSync(dirname(join(tree, path)), { recursive: true });
  writeFileSync(join(tree, path), text);
}

function makeTree(): string {
  const tree = mkdtempSync(join(tmpdir(), `culvert-setup-${process.pid}-`));
  trees.push(tree);
  const lock = { packages: { '': {}, 'node_modules/a': { version: '1.0.0', integrity: 'x' } } };
  write(tree, 'package-lock.json', JSON.stringify(lock));
  write(tree, 'node_modules/.package-lock.json', JSON.stringify(lock));
  write(tree, 'node_modules/assemblyscript/bin/asc.js', compiler('asc', 'dist/wasm/core.wasm'));
  write(tree, 'node_modules/typescript/bin/tsc', compiler('tsc', 'dist/scripts/test.js'));
  write(tree, 'wasm/index.ts', '');
  write(tree, 'scripts/test.ts', '');
  write(tree, 'scripts/bundle.ts', '');
  write(tree, 'dist/scripts/bundle.js', compiler('bundle', 'dist/cni/culvert.cjs'));
  write(tree, 'scripts/bundle-command.ts', '');
  write(tree, 'dist/scripts/bundle-command.js', compiler('command', 'dist/bundle/main.js'));
  cpSync(join(ROOT, 'scripts/setup.mjs'), join(tree, 'scripts/setup.mjs'));
  return tree;
}

interface Ended {
  code: number;
  stdout: string;
  stderr: string;
}

async function setUp(tree: string, path = process.env.PATH): Promise<Ended> {
  const environment: NodeJS.ProcessEnv = { ...process.env, npm_execpath: '' };
  if (path !== undefined) environment.PATH = path;
  const child = spawn(process.execPath, [join(tree, 'scripts/setup.mjs')], { env: environment });
  let [stdout, stderr] = ['', ''];
  child.stdout.on('data', (chunk: Buffer) => { stdout += chunk.toString(); });
  child.stderr.on('data', (chunk: Buffer) => { stderr += chunk.toString(); });
  const [code] = await once(child, 'close') as [number];
  return { code, stdout, stderr };
}

/** What the compilers noted since the last time. */
function takeCalls(tree: string): string {
  const path = join(tree, 'calls');
  const calls = existsSync(path) ? readFileSync(path, 'utf8').trim() : '';
  rmSync(path, { force: true });
  return calls;
}

test.after(() => {
  for (const tree of trees) rmSync(tree, { recursive: true, force: true });
});

test('builds once, then is silent', async () => {
  const tree = makeTree();
  const first = await setUp(tree);
  assert.equal([first.code, first.stdout, takeCalls(tree)], [0, '', 'asc tsc bundle command']);
  assert.match(first.stderr, /building the core.*\n.*compiling/);
  assert.equal(await setUp(tree), { code: 0, stdout: '', stderr: '' });
  assert.is(takeCalls(tree), '');
});

test('builds what a change touches', async () => {
  const tree = makeTree();
  await setUp(tree);
  takeCalls(tree);
  for (const [path, calls] of [
    ['wasm/index.ts', 'asc'], ['wasm/abi/layout.ts', 'asc tsc command'],
    ['engine/a.ts', 'tsc bundle command'],
    ['asconfig.json', 'asc'], ['engine/tsconfig.json', 'tsc command'], ['README.md', ''],
  ] as const) {
    write(tree, path, '// changed');
    await setUp(tree);
    assert.is(takeCalls(tree), calls, path);
  }
  rmSync(join(tree, 'dist/wasm/core.wasm'));
  await setUp(tree);
  assert.is(takeCalls(tree), 'asc');
});

test('a failed build is told on standard error and tried again', async () => {
  const tree = makeTree();
  write(tree, 'wasm/index.ts', 'broken');
  const failed = await setUp(tree);
  assert.equal([failed.code, failed.stdout], [1, '']);
  assert.match(failed.stderr, /asc: it is broken/);
  assert.is((await setUp(tree)).code, 1);
  write(tree, 'wasm/index.ts', '');
  assert.is((await setUp(tree)).code, 0);
});

test('set-ups at the same time build once', async () => {
  const tree = makeTree();
  const all = await Promise.all([setUp(tree), setUp(tree), setUp(tree)]);
  assert.equal(all.map(({ code }) => code), [0, 0, 0]);
  assert.is(takeCalls(tree), 'asc tsc bundle command');
  assert.not.ok(existsSync(join(tree, '.tools/setup.lock')));
});

test('a lock that a dead set-up left is taken over', async () => {
  const tree = makeTree();
  write(tree, '.tools/setup.lock/owner', '0 elsewhere');
  const old = new Date(Date.now() - 60_000);
  utimesSync(join(tree, '.tools/setup.lock'), old, old);
  const ended = await setUp(tree);
  assert.equal([ended.code, takeCalls(tree)], [0, 'asc tsc bundle command']);
});

test('compiled files without a source are removed', async () => {
  const tree = makeTree();
  write(tree, 'test/a.test.ts', '');
  write(tree, 'dist/test/a.test.js', '');
  write(tree, 'dist/test/gone.test.js', '');
  write(tree, 'dist/test/gone.test.d.ts.map', '');
  await setUp(tree);
  assert.ok(existsSync(join(tree, 'dist/test/a.test.js')));
  assert.not.ok(existsSync(join(tree, 'dist/test/gone.test.js')));
  assert.not.ok(existsSync(join(tree, 'dist/test/gone.test.d.ts.map')));
});

test('packages are installed when one differs from the lock file', async () => {
  const tree = makeTree();
  const current = readFileSync(join(tree, 'package-lock.json'), 'utf8');
  write(tree, 'node_modules/.package-lock.json', current.replace('1.0.0', '0.9.0'));
  write(tree, 'bin/npm', '#!/bin/sh\necho "$1" >> calls\n'
    + 'cp package-lock.json node_modules/.package-lock.json\n');
  await once(spawn('chmod', ['+x', join(tree, 'bin/npm')]), 'close');
  const ended = await setUp(tree, `${join(tree, 'bin')}:${process.env.PATH}`);
  assert.equal([ended.code, takeCalls(tree)], [0, 'ci\nasc tsc bundle command']);
  assert.match(ended.stderr, /installing packages/);
});

test.run();
