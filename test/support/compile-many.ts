// Compiles damaged components, one after the other, in one process, for test/modules/fuzz.test.ts:
// a process for each would take too long. Arguments: a component's file, the first and the last
// number. Each number is a seed; a line on standard output says what became of it. Ends early, and
// says so, when the tools have trapped: they cannot be entered again.

import { readFileSync } from 'node:fs';
import { compileComponent } from '../../modules/compile.ts';
import { ModuleError } from '../../modules/error.ts';
import { damage } from './damage.ts';

const CAP = 1024 * 1024;

async function outcomeOf(bytes: Uint8Array): Promise<string> {
  try {
    await compileComponent(bytes, { allow: [], memoryCapBytes: CAP }, () => {});
    return 'image';
  } catch (error) {
    if (!(error instanceof ModuleError)) return `BUG ${String((error as Error).stack)}`;
    return `${error.kind} ${error.message}`;
  }
}

async function main(): Promise<void> {
  const [path = '', first, last] = process.argv.slice(2);
  const whole = readFileSync(path);
  for (let seed = Number(first); seed <= Number(last); seed += 1) {
    console.log(`${seed} begins`);
    const outcome = await outcomeOf(damage(whole, seed));
    if (/cannot enter component/.test(outcome)) return;
    console.log(`${seed} ${outcome.replaceAll('\n', ' ')}`);
  }
}

void main();
