// docs/MODULES.md from an empty folder to a denied connection: every command of the page is run, in
// a new folder, and prints what the page says.

import { chmodSync, lstatSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync }
  from 'node:fs';
import { spawnSync } from 'node:child_process';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { CLI, Command } from '../support/command.ts';
import { testNeeding } from '../support/needs.ts';
import { ROOT } from '../support/source.ts';
import { blocksOf, comparable, stepsOf, type Step } from '../support/tutorial.ts';

const test = suite('cli/module-tutorial');
const PAGE = readFileSync(join(ROOT, 'docs', 'MODULES.md'), 'utf8');
const HEADING = 'From an empty folder to a denied connection';
const KEPT = 'interrupt to end it';
const LIMIT_MS = 180_000;
const END = '--- end of a step ---';
const hasNsenter = spawnSync('nsenter', ['--version']).status === 0;

/** A folder to work in, in which `culvert` is a command. */
function makeFolder(): { folder: string; env: Record<string, string> } {
  const folder = mkdtempSync(join(tmpdir(), `culvert-tutorial-${process.pid}-`));
  const programs = join(folder, 'bin');
  mkdirSync(programs);
  const program = join(programs, 'culvert');
  writeFileSync(program, `#!/bin/sh\nexec '${process.execPath}' '${CLI}' "$@"\n`);
  chmodSync(program, 0o755);
  return { folder, env: { PATH: `${programs}:${process.env['PATH'] ?? ''}`, TMPDIR: folder } };
}

/** Runs steps in one shell. Returns what each printed. */
async function runSteps(
  steps: readonly Step[], folder: string, env: Record<string, string>,
): Promise<string[]> {
  const script = ['set -eu', ...steps.map(({ commands }) => `${commands}echo '${END}'`)].join('\n');
  const shell = new Command(['bash', '-c', script], { cwd: folder, env }, LIMIT_MS);
  shell.child.stdin?.end();
  try {
    const { code, stdout, stderr } = await shell.ended;
    assert.is(code, 0, `${stdout}\n${stderr}`);
    return stdout.split(`${END}\n`).slice(0, -1);
  } finally {
    await shell.end();
  }
}

testNeeding('tun', test, "the page's commands print what it says", async () => {
  const [first, ...steps] = stepsOf(blocksOf(PAGE, HEADING));
  assert.match(first?.commands ?? '', /^culvert demo --keep --folder lab\n$/);
  assert.ok(steps.length >= 4);
  const { folder, env } = makeFolder();
  const demo = new Command(['bash', '-c', `exec ${first?.commands}`], { cwd: folder, env },
    LIMIT_MS);
  try {
    await demo.untilSaid(KEPT);
    const printed = await runSteps(steps, folder, env);
    for (const [at, { commands, shown }] of steps.entries()) {
      if (shown !== null) assert.equal(comparable(printed[at] ?? ''), shown, commands);
    }
    demo.child.kill('SIGTERM');
    assert.is((await demo.ended).code, 0);
    assert.is(lstatSync(join(folder, 'lab'), { throwIfNoEntry: false }), undefined);
  } finally {
    await demo.end();
    rmSync(folder, { recursive: true, force: true });
  }
}, hasNsenter ? null : 'the program nsenter is needed');

test.run();
