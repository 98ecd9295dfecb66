// Which program `culvert` is: the bundle, unless a part of it was compiled later.

import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { CLI } from '../support/command.ts';

const test = suite('cli/start');
const folder = mkdtempSync(join(tmpdir(), `culvert-start-${process.pid}-`));
const MADE_S = 1_700_000_000;

test.before(() => {
  put('package.json', '{ "type": "module" }');
  put('dist/cli/main.js', 'process.stdout.write(\'modules\');');
  put('dist/cli/tsconfig.tsbuildinfo', '');
  put('dist/engine/tsconfig.tsbuildinfo', '');
  copyFileSync(CLI, join(folder, 'dist/cli/culvert.js'));
});

test.after(() => rmSync(folder, { recursive: true }));

function put(name: string, text: string): void {
  const path = join(folder, name);
  mkdirSync(join(path, '..'), { recursive: true });
  writeFileSync(path, text);
  utimesSync(path, MADE_S, MADE_S);
}

function started(): string {
  const program = join(folder, 'dist/cli/culvert.js');
  return spawnSync(process.execPath, [program], { encoding: 'utf8' }).stdout;
}

test('modules where there is no bundle', () => assert.is(started(), 'modules'));

test('the bundle where there is one, also of a package with one date for all files', () => {
  put('dist/bundle/package.json', '{ "type": "commonjs" }');
  put('dist/bundle/main.js', 'require(\'node:fs\').writeSync(1, \'bundle\');');
  assert.is(started(), 'bundle');
});

test('modules where a part was compiled later than the bundle', () => {
  const later = join(folder, 'dist/engine/tsconfig.tsbuildinfo');
  utimesSync(later, MADE_S + 1, MADE_S + 1);
  assert.is(started(), 'modules');
});

test.run();
