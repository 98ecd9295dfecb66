// The documents tell the truth where a program can check it: the packet's walk of
// docs/ARCHITECTURE.md, and links between documents.

import { existsSync } from 'node:fs';
import { join, posix } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { ROOT, type SourceFile, readTree } from './support/source.ts';
import { HEADING, checkWalks } from './support/walk.ts';

const ARCHITECTURE = 'docs/ARCHITECTURE.md';

const tree = readTree();

/** Relative links of documents that lead to no file. `exists` answers for a path of the tree. */
function findDeadLinks(files: SourceFile[], exists: (path: string) => boolean): string[] {
  const dead: string[] = [];
  for (const { path, text } of files.filter((file) => file.path.endsWith('.md'))) {
    for (const [, target = ''] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^([a-z]+:|#)/.test(target)) continue;
      const place = posix.join(posix.dirname(path), target.replace(/#.*$/, ''));
      if (!exists(place)) dead.push(`${path}: ${target} leads nowhere`);
    }
  }
  return dead;
}

test("the packet's walk is true", () => {
  const document = tree.find(({ path }) => path === ARCHITECTURE);
  const faults = checkWalks(document?.text ?? '', tree, 2);
  if (faults.length > 0) console.log(`\n${faults.join('\n')}`);
  assert.is(faults.length, 0, `${ARCHITECTURE}, "${HEADING}": the faults are listed above`);
});

test('links between documents lead somewhere', () => {
  assert.equal(findDeadLinks(tree, (path) => existsSync(join(ROOT, path))), []);
});

const CODE: SourceFile[] = [
  { path: 'host/loop.ts', text: `import { Core } from '../engine/core.ts';
    export class Loop {
      turn(nowMs: number): void {
        this.#read();
        this.core.processBatch(1, 2, nowMs);
        this.#write();
      }
      #read(): void {}
      #write(): void {}
    }` },
  { path: 'engine/core.ts', text: 'interface Exports {\n  processBatch(a: number): void;\n}' },
  { path: 'wasm/index.ts', text: 'export { outbound } from "./outbound";' },
  { path: 'wasm/outbound.ts', text: `import { b } from "./b";
    export function outbound(a: usize): void { forward(checkPacket(a)); route(a); }
    function checkPacket(a: usize): void {}
    function forward(a: usize): void {}
    function route(a: usize): void {}` },
];

/** The faults of a walk with these steps through CODE. */
function walkFaults(...steps: string[]): string[] {
  const list = steps.map((step, index) => `${index + 1}. ${step}`).join('\n');
  return checkWalks(`# A\n\n## ${HEADING}\n\n${list}\n\n## B\n\n1. \`not/checked.ts\`\n`, CODE, 1);
}

const WALK = [
  'The loop, `host/loop.ts` `turn()`, reads with `#read()`.',
  '`engine/core.ts` has `processBatch()`; a `word` is no file.',
  '`wasm/index.ts` leads to `wasm/outbound.ts`\n   `outbound()`: '
    + '`checkPacket()`, `forward()`, `route()`.',
  '`host/loop.ts` writes: `#write()`.',
];

test('a true walk passes', () => assert.equal(walkFaults(...WALK), []));

test('a walk that is not true is refused', () => {
  const change = (from: string, to: string): string[] =>
    walkFaults(...WALK.map((step) => step.replace(from, to)));
  assert.match(change('wasm/outbound.ts', 'wasm/gone.ts')[0] ?? '', /gone\.ts does not exist/);
  assert.match(change('route()', 'flow()')[0] ?? '', /does not define flow/);
  assert.match(change('`engine/core.ts` has `processBatch()`;', '')[0] ?? '', /names nothing/);
  assert.match(change('`checkPacket()`, `forward()`', '`forward()`, `checkPacket()`')[0] ?? '',
    /calls checkPacket\(\) before forward/);
  assert.match(walkFaults('`turn()` begins.')[0] ?? '', /no file stands before/);
  const [first = '', second = '', third = ''] = WALK;
  assert.match(walkFaults(first, third, second)[0] ?? '', /no file named before imports wasm/);
  assert.match(checkWalks('# Nothing', CODE, 1)[0] ?? '', /0 numbered lists/);
});

test('dead links are found', () => {
  const text = '[a](b.md) [c](../d.md#e) [f](https://example.org) [g](#h) [i](gone.md)';
  const exists = (path: string): boolean => ['docs/b.md', 'd.md'].includes(path);
  assert.equal(findDeadLinks([{ path: 'docs/a.md', text }], exists), [
    'docs/a.md: gone.md leads nowhere',
  ]);
});

test.run();
