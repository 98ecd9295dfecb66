// `culvert bench`: hands everything after the verb to the benches' own program, which nothing here
// imports, so that no other verb loads it.

import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { EXIT_FAILED } from './exit.ts';
import { PACKAGE_FOLDER } from './version.ts';

const PROGRAM = join(PACKAGE_FOLDER, 'dist', 'bench', 'main.js');

/** Runs the benches on our own input and output. Returns their exit code. */
export function runBench(args: string[], stop: AbortSignal): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [PROGRAM, ...args], { stdio: 'inherit' });
    const end = (): void => { child.kill(); };
    stop.addEventListener('abort', end, { once: true });
    child.once('error', reject);
    child.once('exit', (code) => {
      stop.removeEventListener('abort', end);
      resolve(code ?? EXIT_FAILED);
    });
  });
}
