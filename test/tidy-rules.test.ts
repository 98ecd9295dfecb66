// Each rule of tidy.test.ts sees what it should, and lets pass what it should.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { compareAbi, formatAbi, parseAbi } from '../scripts/abi.ts';
import { type SourceFile, tokenize } from './support/source.ts';
import { CORE_SIZE_LIMIT, checkCoreBinary } from './support/tidy/binary.ts';
import { checkCoreSource, checkOperators } from './support/tidy/core.ts';
import { checkEnvironment, checkImports, checkPackages,
  checkPurity } from './support/tidy/imports.ts';
import { checkReadmes } from './support/tidy/readme.ts';
import { checkFileLength, checkFunctionLength, checkLineLength,
  checkTotal } from './support/tidy/size.ts';
import { BUNDLE, checkThreads } from './support/tidy/threads.ts';
import { checkIdentifiers, checkPhrases, checkStrangers } from './support/tidy/words.ts';

type Checker = (files: SourceFile[]) => string[];

/** Number of faults that a checker finds in one file. */
function faults(check: Checker, path: string, text: string): number {
  return check([{ path, text }]).length;
}

/** The checker refuses each text, with one fault. */
function refuses(check: Checker, path: string, ...texts: string[]): void {
  for (const text of texts) assert.is(faults(check, path, text), 1, `refuses ${path}: ${text}`);
}

/** The checker lets each text pass. */
function accepts(check: Checker, path: string, ...texts: string[]): void {
  for (const text of texts) assert.equal(check([{ path, text }]), [], `accepts ${path}: ${text}`);
}

const lines = (count: number): string => 'a();\n'.repeat(count);
const importing = (target: string): string => `import { a } from '${target}';\n`;

test('the lexer tells code from comments, strings and patterns', () => {
  const words = (text: string): string => tokenize(text).map((token) => token.text).join(' ');
  assert.is(words('a // b\nc /* d\n */ e'), 'a c e');
  assert.is(words("'a // b' + `c ${d ? `e` : '}'} f`"), "'a // b' + `c ${d ? `e` : '}'} f`");
  assert.is(words('x = /[/"]+/g.test(y) / 2'), 'x = /[/"]+/g . test ( y ) / 2');
  assert.is(words('a>>>=b>>c<=d'), 'a >>>= b >> c <= d');
  assert.is(tokenize('a\n/* \n */ b').at(-1)?.line, 3);
});

test('imports against the arrows are refused', () => {
  refuses(checkImports, 'engine/a.ts', importing('../host/b.ts'), importing('node:fs'),
    importing('fs'), importing('../ffi/b.ts'), "const a = await import('../sync/b.ts');");
  refuses(checkImports, 'wasm/abi/a.ts', importing('./b.ts'), importing('valibot'));
  refuses(checkImports, 'wasm/a.ts', importing('../engine/b'), importing('valibot'));
  refuses(checkImports, 'ffi/a.ts', importing('../engine/b.ts'), importing('fs'));
  refuses(checkImports, 'host/a.ts', importing('../sync/b.ts'), importing('koffi'),
    importing('@kubernetes/client-node'), "export * from '../cli/a.ts';");
  refuses(checkImports, 'sync/a.ts', importing('../engine/core.ts'), importing('../host/b.ts'));
  refuses(checkImports, 'cni/a.ts', importing('../engine/core.ts'), importing('../host/b.ts'));
  refuses(checkImports, 'cli/a.ts', importing('../test/b.ts'), importing('../bench/b.ts'));
  refuses(checkImports, 'bench/a.ts', importing('../test/b.ts'), importing('../cli/b.ts'));
  refuses(checkImports, 'new-part/a.ts', importing('../engine/b.ts'));
});

test('imports along the arrows pass', () => {
  accepts(checkImports, 'engine/tables/a.ts', importing('../core.ts'), importing('valibot'),
    importing('../../wasm/abi/layout.ts'));
  accepts(checkImports, 'wasm/tunnel/a.ts', importing('../abi/layout'), importing('../packet'));
  accepts(checkImports, 'host/a.ts', importing('../engine/b.ts'), importing('../ffi/b.ts'),
    importing('../modules/runtime.ts'), importing('node:fs'));
  accepts(checkImports, 'sync/a.ts', importing('../engine/model.ts'),
    importing('@kubernetes/client-node'));
  accepts(checkImports, 'ffi/a.ts', importing('koffi'), importing('node:fs'));
  accepts(checkImports, 'cli/a.ts', importing('../host/b.ts'), importing('../sync/b.ts'));
  accepts(checkImports, 'test/a.ts', importing('../cli/b.ts'), importing('../scripts/b.ts'));
});

test('packages that are not declared are refused', () => {
  const declared = { dependencies: ['valibot'], devDependencies: ['uvu'] };
  const check: Checker = (files) => checkPackages(files, declared);
  refuses(check, 'engine/a.ts', importing('uvu/assert'), importing('left-pad'));
  accepts(check, 'engine/a.ts', importing('valibot'), importing('./b.ts'), importing('node:fs'));
  accepts(check, 'test/a.ts', importing('uvu/assert'));
});

test('names of Node.js in engine are refused', () => {
  refuses(checkPurity, 'engine/a.ts', 'Buffer.alloc(1);', 'const a = process.pid;');
  accepts(checkPurity, 'engine/a.ts', 'a.process();', 'b({ process: 1 });', '// Buffer');
  accepts(checkPurity, 'host/a.ts', 'Buffer.alloc(1);');
});

test('reads of the environment are refused', () => {
  refuses(checkEnvironment, 'host/a.ts', 'process.env.HOME;', importing('node:process'));
  accepts(checkEnvironment, 'host/main.ts', 'process.env.HOME;');
  accepts(checkEnvironment, 'cni/a.ts', 'process.env.CNI_COMMAND;');
});

test('anything but numbers in abi is refused', () => {
  const errors = (text: string): number => parseAbi([{ path: 'a.ts', text }]).errors.length;
  for (const bad of [
    "import { A } from './b';", 'export const A = 1 + 2;', 'export const A = -1;',
    'export const A = 2147483648;', 'export const a = 1;', 'export let A = 1;', 'const A = 1;',
    'export const A: i32 = 1;', 'export const A = 01;', 'export const A = 1.5;',
    'export const A = 1;\nexport const A = 2;', 'export const A = 1; let b = 2;',
  ]) assert.is(errors(bad), 1, bad);
  assert.is(errors('// Words.\n\nexport const A = 0x7fffffff;  // u32\nexport const B = 0;\n'), 0);
});

test('a changed number is told, with what to do', () => {
  const { constants } = parseAbi([
    { path: 'a.ts', text: 'export const ABI_VERSION = 1;\nexport const A = 2;\n' },
  ]);
  assert.equal(compareAbi(formatAbi(constants), constants), []);
  const changed = compareAbi('ABI_VERSION = 1\nA = 1\n', constants);
  assert.equal(changed.slice(0, 2), ['- A = 1', '+ A = 2']);
  assert.match(changed[2] ?? '', /new number.*--write/);
  assert.match(compareAbi('ABI_VERSION = 0\nA = 1\n', constants).at(-1) ?? '', /^write the list/);
  assert.is(compareAbi('A = 2\nABI_VERSION = 1\n', constants).length, 2);
});

test('static data, heap, exceptions and changing globals are refused', () => {
  refuses(checkCoreSource, 'wasm/a.ts', 'let a = 1;', 'export let a: i32 = 1;', 'const a = "b";',
    'const a = `b`;', 'const a = [1];', 'f([1]);', 'const a = new B();', 'throw a;',
    'function f(): void { g(1, "b"); }', 'assert(a, "b");', 'memory.grow(1);', 'memory.data(8);',
    'class A { b: u8; }', 'function f(a: u8[]): void {}', 'return [1];',
    'const a: StaticArray<u8> = b;');
  accepts(checkCoreSource, 'wasm/a.ts', 'import { a } from "./b";', 'f(a[1]);',
    'function f(): void { let a = 1; }', 'if (offsetof<A>("b") != B) ERROR("A.b is elsewhere");',
    '@unmanaged export class A { b: u8; }', 'ERROR((a), "b");', '@external("env", "f")');
});

test('operators whose order few know are refused', () => {
  const check: Checker = checkOperators;
  refuses(check, 'wasm/a.ts', 'a = b & c + d;', 'a = b + c << 2;', 'a = b << 2 - c;',
    'if (a & b == c) d();', 'f(a, b | c * d);', 'a = load<u32>(b) + c >>> 2;', 'a[b - c & d];',
    'return a ^ b % c;', 'a = a == b & c;', '{ b(); } a = b & c + d;');
  accepts(check, 'wasm/a.ts', 'a = b & (c + d);', 'a += b & c;', 'f(a + b, c & d);', 'a = -b & c;',
    'a = load<u32>(b) & c;', 'a = <u32>b & c;', 'a = b + c == d + e;', 'a = b ? c + d : e & f;',
    'a = (b << 8) | c;', 'a = b + 1; c = d & 1;', 'if (a + b) { c = d & e; } f = g + h;',
    'a = b << 8 | c;', 'for (i = a & b; i < c + d; i++) e();');
});

test('data, changing globals and size of a built core are refused', () => {
  const start = [0, 0x61, 0x73, 0x6d, 1, 0, 0, 0];
  const module = (...sections: number[]): number =>
    checkCoreBinary(Uint8Array.from(start.concat(sections))).length;
  assert.is(module(), 0);
  assert.is(module(6, 6, 1, 0x7f, 0, 0x41, 5, 0x0b), 0);
  assert.is(module(6, 6, 1, 0x7f, 1, 0x41, 5, 0x0b), 1);
  assert.is(module(6, 11, 2, 0x7f, 0, 0x41, 5, 0x0b, 0x7f, 1, 0x41, 5, 0x0b), 1);
  assert.is(module(11, 7, 1, 0, 0x41, 8, 0x0b, 1, 0xff), 1);
  assert.is(module(11, 4, 1, 1, 1, 0xff), 1);
  assert.is(module(11, 1, 0), 0);
  assert.is(module(2, 8, 1, 1, 0x65, 1, 0x67, 3, 0x7f, 0), 1);
  assert.is(module(2, 10, 1, 1, 0x65, 1, 0x6d, 2, 3, 1, 0x80, 1), 0);
  assert.is(checkCoreBinary(new Uint8Array(8)).length, 1);
  const large = new Uint8Array(CORE_SIZE_LIMIT + 12);
  large.set([...start, 0, 0x80, 0x80, 0x04]);
  assert.is(checkCoreBinary(large).length, 1);
});

test('long lines are refused, long addresses are not', () => {
  refuses(checkLineLength, 'engine/a.ts', `a(${'b, '.repeat(40)});`);
  accepts(checkLineLength, 'engine/a.ts', 'a'.repeat(100), `// ${'a'.repeat(120)}`);
  accepts(checkLineLength, 'engine/a.ts', `// Generated by a program.\na(${'b, '.repeat(40)});`);
});

test('long functions are refused in every spelling', () => {
  for (const head of [
    'function f(): void {', 'function f(a: A): Promise<Map<B, C>> {', 'f = () => {',
    'class A {}\nexport async function f(a: { b: C }): { d: E } {', 'const a = { f() {',
    'function f(): a is B {', 'class A { f(a: () => void): void {', 'f(() => {',
    'function f<A>(\n  a: A,\n) {', 'class A { #f(): A | null {',
  ]) {
    const end = '}'.repeat(head.split('{').length - head.split('}').length);
    const spare = head.split('\n').length - head.split('\n').findIndex((l) => /f/.test(l));
    assert.is(faults(checkFunctionLength, 'engine/a.ts', `${head}\n${lines(70)}${end}`), 1, head);
    const short = `${head}\n${lines(69 - spare)}${end}`;
    assert.is(faults(checkFunctionLength, 'engine/a.ts', short), 0, head);
  }
});

test('long blocks that are no functions pass', () => {
  accepts(checkFunctionLength, 'engine/a.ts', `const a = {\n${'b: 1,\n'.repeat(90)}};`,
    `class A {\n${'b(): void {\n}\n'.repeat(90)}}`, `if (f(a)) {\n${lines(90)}}`,
    `const a = f(b) ? c : {\n${'d: 1,\n'.repeat(90)}};`);
  accepts(checkFunctionLength, 'test/a.ts', `function f(): void {\n${lines(90)}}`);
});

test('long files and too much code are refused', () => {
  refuses(checkFileLength, 'wasm/a.ts', lines(401));
  accepts(checkFileLength, 'wasm/a.ts', lines(400));
  refuses(checkFileLength, 'host/a.ts', lines(501));
  accepts(checkFileLength, 'test/a.ts', lines(600));
  accepts(checkFileLength, 'host/a.ts', `// Generated by a program.\n${lines(900)}`);
  const files = [{ path: 'a', text: lines(3) }, { path: 'b', text: lines(2) }];
  assert.is(checkTotal('all', files, 4).length, 1);
  assert.is(checkTotal('all', files, 5).length, 0);
});

test('words that mean something else are refused', () => {
  refuses(checkIdentifiers, 'wasm/a.ts', 'const packetBuffer = 1;', 'originalSource();',
    'const vxlanBackend = 1;', 'anyNode();');
  refuses(checkIdentifiers, 'wasm/wire/a.ts', 'egressPort();');
  refuses(checkIdentifiers, 'host/a.ts', 'const packetStatus = 1;', 'const subnetEntry = 1;');
  accepts(checkIdentifiers, 'host/a.ts', 'new ArrayBuffer(1);', 'error.message;');
  accepts(checkIdentifiers, 'wasm/policy/a.ts', 'ingress();');
  accepts(checkIdentifiers, 'sync/a.ts', 'backendType();');
  accepts(checkIdentifiers, 'wasm/service/a.ts', 'bestBackend();');
});

test('banned phrases are refused', () => {
  const todo = ['TO', 'DO'].join('');
  refuses(checkPhrases, 'host/a.ts', `// ${todo}: later`, ['// a subnet ent', 'ry'].join(''));
  refuses(checkPhrases, 'test/a.test.ts', ['test.on', "ly('a');"].join(''));
  accepts(checkPhrases, 'host/a.ts', `// ${todo}(#12): later`, '// Methods, to do or not');
});

test('talk of how the code was made is refused', () => {
  const join = (...parts: string[]): string => parts.join('');
  refuses(checkStrangers, 'docs/a.md', join('the previous ses', 'sion did'),
    join('a coding ag', 'ent'), join('see iss', 'ue 12'), join('cd /wo', 'rk/main'),
    join('"/ro', 'ot/x"'),
    join('https://regis', 'try.npm', 'js.org/a'), join('https://deb.deb', 'ian.org/debian'),
    join('work', 'place'), join('the C', 'EO'), join('/home/jo', 'e/x'), join('an L', 'LM'));
  accepts(checkStrangers, 'docs/a.md', 'sessionAffinity: None', 'User-Agent: culvert',
    'the agent in the namespace', 'a/work/b', 'the root of the tree', 'RFC 1812 issues an error',
    '/etc/cni/net.d');
});

test('modules that are started and not bundled are refused', () => {
  const start = { path: 'host/deep/a.ts', text: "new URL('./b/c.js', import.meta.url)" };
  const bundle = (entry: string): SourceFile => ({ path: BUNDLE, text: `a({\n  ${entry},\n});` });
  assert.is(checkThreads([start]).length, 1);
  assert.is(checkThreads([start, bundle("'b/c': 'host/b/c.ts'")]).length, 1);
  assert.is(checkThreads([start, bundle("c: 'host/deep/b/c.ts'")]).length, 1);
  assert.is(checkThreads([start, bundle("'b/c': 'host/deep/b/c.ts'")]).length, 0);
  assert.is(checkThreads([{ ...start, path: 'bench/a.ts' }]).length, 0);
});

test('parts without a README are refused', () => {
  const source = { path: 'host/device/a.ts', text: '' };
  assert.is(checkReadmes([source]).length, 1);
  assert.is(checkReadmes([source, { path: 'host/README.md', text: 'a' }]).length, 0);
  assert.is(checkReadmes([source, { path: 'host/README.md', text: lines(99) }]).length, 1);
  assert.is(checkReadmes([{ path: 'docs/a.md', text: '' }]).length, 0);
});

test.run();
