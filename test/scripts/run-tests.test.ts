// The test runner at work, on a tree of small test files made for it.

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync,
  writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { ROOT } from '../support/source.ts';

const PASSES = "console.log('\\n  Total:     2\\n  Passed:    2\\n  Skipped:   0\\n');";
const FAILS = "console.log('\\n  Total:     2\\n  Passed:    1\\n  Skipped:   0\\n');"
  + 'process.exitCode = 1;';
const HANGS = 'setInterval(() => {}, 1000);';

const trees: string[] = [];

/** A tree with the runner and the given test files. */
function makeTree(files: Record<string, string>): string {
  const tree = mkdtempSync(join(tmpdir(), `culvert-run-tests-${process.pid}-`));
  trees.push(tree);
  cpSync(join(ROOT, 'dist/scripts'), join(tree, 'dist/scripts'), { recursive: true });
  writeFileSync(join(tree, 'package.json'), '{"type":"module"}');
  for (const [path, text] of Object.entries(files)) {
    for (const place of [join(tree, path), join(tree, 'dist', path.replace(/\.ts$/, '.js'))]) {
      mkdirSync(dirname(place), { recursive: true });
      writeFileSync(place, text);
    }
  }
  return tree;
}

function start(tree: string, ...args: string[]): ChildProcess {
  return spawn(process.execPath, [join(tree, 'dist/scripts/test.js'), ...args], {
    cwd: tree, stdio: ['ignore', 'pipe', 'inherit'],
  });
}

/** Runs the runner to its end. */
async function finish(child: ChildProcess): Promise<{ code: number; lines: string[] }> {
  let output = '';
  child.stdout?.on('data', (chunk: Buffer) => { output += chunk.toString(); });
  const [code] = await once(child, 'close') as [number];
  return { code, lines: output.trimEnd().split('\n') };
}

/** True if a process that was told to end still runs after a while. */
async function stillRuns(pid: string): Promise<boolean> {
  for (let tries = 0; tries < 100; tries += 1) {
    const stat = join('/proc', pid, 'stat');
    if (!existsSync(stat) || / Z /.test(readFileSync(stat, 'utf8'))) return false;
    await sleep(20);
  }
  return true;
}

test.after(() => {
  for (const tree of trees) rmSync(tree, { recursive: true, force: true });
});

test('passing files end well, the sum last', async () => {
  const tree = makeTree({ 'test/a.test.ts': PASSES, 'test/deep/b.test.ts': PASSES });
  const { code, lines } = await finish(start(tree));
  assert.is(code, 0);
  assert.is(lines.at(-1), '4 passed, 0 failed, 0 skipped');
  // Two files run at a time, and either may be the first to end.
  const [first = ''] = lines.filter((line) => line.includes('test/a.test.ts'));
  assert.match(first, /^ok {3}test\/a\.test\.ts {2}2 passed {2}\d+\.\d s$/);
});

test('one failing test fails the run', async () => {
  const { code, lines } = await finish(start(makeTree({
    'test/a.test.ts': PASSES, 'test/b.test.ts': FAILS, 'test/c.test.ts': 'throw new Error("x");',
  })));
  assert.is(code, 1);
  assert.is(lines.at(-1), '3 passed, 2 failed, 0 skipped');
  assert.ok(lines.includes('failed: test/b.test.ts'));
});

test('an argument chooses files, --slow the slow ones', async () => {
  const tree = makeTree({
    'test/route.test.ts': PASSES, 'test/flow.test.ts': FAILS, 'test/soak.slow.test.ts': PASSES,
  });
  assert.is((await finish(start(tree, 'route'))).lines.at(-1), '2 passed, 0 failed, 0 skipped');
  const slow = await finish(start(tree, '--slow'));
  assert.match(slow.lines[0] ?? '', /soak\.slow/);
  assert.is(slow.lines.at(-1), '2 passed, 0 failed, 0 skipped');
  const none = await finish(start(tree, 'nothing'));
  assert.equal([none.code, none.lines[0]], [1, 'no test file matches']);
});

test('a file that is silent for its time limit fails, and what it started ends', async () => {
  const tree = makeTree({
    'test/a.test.ts': `// time limit: 1 s
      import { spawn } from 'node:child_process';
      import { writeFileSync } from 'node:fs';
      const child = spawn('sleep', ['600'], { stdio: 'inherit' });
      writeFileSync('started', String(child.pid));
      ${HANGS}`,
  });
  const { code, lines } = await finish(start(tree));
  assert.is(code, 1);
  assert.ok(lines.some((line) => line.includes('silent for 1 s')));
  assert.not.ok(await stillRuns(readFileSync(join(tree, 'started'), 'utf8')));
  assert.is(lines.at(-1), '0 passed, 1 failed, 0 skipped');
});

test('an interrupt lets the running test clean up', async () => {
  const tree = makeTree({
    'test/a.test.ts': `import { writeFileSync } from 'node:fs';
      process.on('SIGTERM', () => { writeFileSync('cleaned', ''); process.exit(1); });
      writeFileSync('started', '');
      ${HANGS}`,
    'test/b.test.ts': HANGS,
    'test/c.test.ts': PASSES,
  });
  const child = start(tree);
  const ended = finish(child);
  while (!existsSync(join(tree, 'started'))) await sleep(20);
  child.kill('SIGINT');
  const { code, lines } = await ended;
  assert.ok(existsSync(join(tree, 'cleaned')));
  assert.is(code, 1);
  assert.match(lines.at(-1) ?? '', /^\d+ passed, \d+ failed, 0 skipped$/);
  assert.not.ok(lines.some((line) => line.includes('c.test')));
});

test.run();
