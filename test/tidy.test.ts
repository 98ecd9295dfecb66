// Holds the tree to its style guide. Each rule is a test of its own; tidy-rules.test.ts proves that
// each rule sees what it should.

import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { GOLDEN, compareAbi, parseAbi, readAbiFiles, readGolden } from '../scripts/abi.ts';
import { ROOT, readTree } from './support/source.ts';
import { checkCoreBinary } from './support/tidy/binary.ts';
import { checkCoreSource, checkOperators } from './support/tidy/core.ts';
import { checkEnvironment, checkImports, checkPackages,
  checkPurity } from './support/tidy/imports.ts';
import { checkReadmes } from './support/tidy/readme.ts';
import { CODE_LINES_LIMIT, CORE_LINES_LIMIT, checkFileLength, checkFunctionLength,
  checkLineLength, checkTotal } from './support/tidy/size.ts';
import { checkThreads } from './support/tidy/threads.ts';
import { checkIdentifiers, checkPhrases, checkStrangers } from './support/tidy/words.ts';

const CORE = 'dist/wasm/core.wasm';
const NOT_PRODUCT = /^(test|bench)\//;

const tree = readTree();
const programs = tree.filter(({ path }) => /\/[^/]+\.ts$/.test(path));
const core = programs.filter(({ path }) => path.startsWith('wasm/'));
const code = tree.filter(({ path }) => /\.(ts|mjs|c|h)$/.test(path));
const manifest = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as {
  dependencies: Record<string, string>;
  devDependencies: Record<string, string>;
};

/** Fails after it has printed every fault on a line of its own. */
function expectNone(faults: string[]): void {
  if (faults.length > 0) console.log(`\n${faults.join('\n')}`);
  assert.is(faults.length, 0, `${faults.length} faults, listed above`);
}

test('the tree is there', () => {
  assert.ok(core.length > 0);
  assert.ok(programs.length > core.length);
});

test('parts import only the parts they may', () => expectNone(checkImports(programs)));

test('imported packages are declared', () => {
  expectNone(checkPackages(programs, {
    dependencies: Object.keys(manifest.dependencies),
    devDependencies: Object.keys(manifest.devDependencies),
  }));
});

test('engine is pure', () => expectNone(checkPurity(programs)));

test('only main.ts files read the environment', () => expectNone(checkEnvironment(programs)));

test('wasm/abi holds numbers only, each once', () => {
  expectNone(parseAbi(readAbiFiles()).errors);
});

test('every shared number is in the list of its ABI version', () => {
  const { constants } = parseAbi(readAbiFiles());
  assert.ok(constants.length > 0);
  expectNone(compareAbi(readGolden(), constants).map((line) => `${GOLDEN}: ${line}`));
});

test('the core has no heap, exceptions, static data or changing globals', () => {
  expectNone(checkCoreSource(core));
});

test('the built core keeps these promises and its size', () => {
  assert.ok(existsSync(join(ROOT, CORE)), `${CORE} is not built`);
  expectNone(checkCoreBinary(readFileSync(join(ROOT, CORE))));
});

test('the core does not mix operators whose order few know', () => {
  expectNone(checkOperators(core));
});

test('lines are at most 100 columns', () => expectNone(checkLineLength(code)));

test('functions are at most 70 lines', () => expectNone(checkFunctionLength(code)));

test('files are short', () => expectNone(checkFileLength(code)));

test('the core is at most 9,500 lines', () => {
  expectNone(checkTotal('wasm', core, CORE_LINES_LIMIT));
});

test('the code is at most 56,000 lines without tests and benches', () => {
  const product = code.filter(({ path }) => !NOT_PRODUCT.test(path));
  expectNone(checkTotal('all code', product, CODE_LINES_LIMIT));
});

test('each word has one meaning', () => expectNone(checkIdentifiers(code)));

test('banned phrases are replaced', () => expectNone(checkPhrases(tree)));

test('nothing tells of the machines or the talk behind the code', () => {
  expectNone(checkStrangers(tree));
});

test('what the command starts is in its bundle', () => expectNone(checkThreads(programs)));

test('every part has a README', () => expectNone(checkReadmes(tree)));

test.run();
