// The process that compiles one component: bytes on standard input, limits as arguments, the image
// on standard output. A ModuleError goes there too, as JSON, with exit status REFUSED. It has no
// environment; who started it ends it when it takes too long or too much memory.

import { readFileSync, writeSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';
import { compileComponent } from './compile.ts';
import { ModuleError } from './error.ts';
import { encodeImage, GRANTS } from './image.ts';

const STDIN = 0;
const STDERR = 2;
/** Exit status with an error on standard output. */
const REFUSED = 2;

/** Writes to standard output; resolves when all of it is gone. */
function answer(bytes: Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    process.stdout.write(bytes, (error) => (error == null ? resolve() : reject(error)));
  });
}

async function main(): Promise<void> {
  // jco and its tools run once here: V8's quick compiler is done with them in a third of the time,
  // and of the memory, that its good one takes.
  for (const flag of ['--liftoff-only', '--wasm-lazy-compilation']) setFlagsFromString(flag);
  const [cap = '0', ...allow] = process.argv.slice(2);
  try {
    const options = {
      memoryCapBytes: Number(cap), allow: GRANTS.filter((name) => allow.includes(name)),
    };
    const image = await compileComponent(readFileSync(STDIN), options, () => {
      writeSync(STDERR, 'start\n');
    });
    await answer(encodeImage(image));
  } catch (error) {
    if (!(error instanceof ModuleError)) throw error;
    const { kind, message } = error;
    await answer(new TextEncoder().encode(JSON.stringify({ kind, message })));
    process.exitCode = REFUSED;
  }
}

void main();
